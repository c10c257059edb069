//! `barewire config check` and `show`: the daemon's own program judges a configuration, or says what its files say together.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::exit::Exit;

/// The program that knows every key: beside this one, as both are installed, or where the shell finds it.
const JUDGE: &str = "barewired";

/// What is found of `file`: words, JSON, and whether it can be used.
pub(crate) fn check(file: &Path) -> (String, Value, Exit) {
    check_by(&judge(), file)
}

/// What `file` and its drop-ins say together, as TOML with the file that each key is from.
pub(crate) fn show(file: &Path) -> (String, Value, Exit) {
    let (text, exit) = match together(file) {
        Ok(text) => (text, Exit::Fine),
        Err(why) => (why + "\n", Exit::Degraded),
    };
    let json = json!({ "file": file, "toml": text });
    (text, json, exit)
}

/// The same, or why not.
pub(crate) fn together(file: &Path) -> Result<String, String> {
    let judge = judge();
    let mut command = Command::new(&judge);
    command.args(["--show-config", "--config"]).arg(file).env("RUST_BACKTRACE", "0");
    let output = command.output().map_err(|error| not_executed(&judge, &error))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(faults(&String::from_utf8_lossy(&output.stderr)).join("\n"))
    }
}

/// The folder of a file's drop-ins, which need not be there.
pub(crate) fn drop_ins(file: &Path) -> PathBuf {
    let mut folder = file.as_os_str().to_owned();
    folder.push(".d");
    folder.into()
}

fn judge() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(JUDGE))).filter(|path| path.is_file());
    beside.unwrap_or_else(|| PathBuf::from(JUDGE))
}

fn not_executed(judge: &Path, error: &std::io::Error) -> String {
    format!("cannot execute {}: {error}; install barewired, which knows every key", judge.display())
}

/// The same by this barewired.
pub(crate) fn check_by(judge: &Path, file: &Path) -> (String, Value, Exit) {
    let mut command = Command::new(judge);
    command.args(["--check", "--config"]).arg(file).env("BAREWIRE_LOG", "off").env("RUST_BACKTRACE", "0");
    let (valid, lines) = match command.output() {
        Ok(output) if output.status.success() => (true, findings(&String::from_utf8_lossy(&output.stdout))),
        Ok(output) => (false, faults(&String::from_utf8_lossy(&output.stderr))),
        Err(error) => (false, vec![not_executed(judge, &error)]),
    };
    let exit = if valid { Exit::Fine } else { Exit::Degraded };
    let first = if valid { format!("{} is valid\n", file.display()) } else { String::new() };
    let text = lines.iter().fold(first, |text, line| text + line + "\n");
    (text, json!({ "file": file, "valid": valid, "findings": lines }), exit)
}

fn findings(stdout: &str) -> Vec<String> {
    stdout.lines().map(str::to_owned).collect()
}

/// Each fault once: what follows `Caused by` says it again. Pure.
fn faults(stderr: &str) -> Vec<String> {
    let said = stderr.split("\n\nCaused by:").next().unwrap_or_default();
    said.strip_prefix("Error: ").unwrap_or(said).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_told_once() {
        let stderr = "Error: /x is not valid:\na: is no key\nb: is no number\n\nCaused by:\n    a: is no key\n    b: is no number\n";
        assert_eq!(faults(stderr), ["/x is not valid:", "a: is no key", "b: is no number"]);
        assert_eq!(faults(""), [] as [&str; 0]);
    }
}
