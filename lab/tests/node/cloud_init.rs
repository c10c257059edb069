//! `deploy/cloud-init`: what nodes of clouds are started with. It is YAML, its scripts are shell, its configurations are taken.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

#[test]
fn what_nodes_are_started_with_is_taken() -> Result<()> {
    let Some(binaries) = crate::binaries() else { return Ok(()) };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cloud-init");
    let mut clouds = Vec::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        let text = fs::read_to_string(&path)?;
        ensure!(text.starts_with("#cloud-config\n"), "{}: cloud-init goes by the first line", path.display());
        let data: Value = serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
        let content = |wanted: &str| {
            let files = data["write_files"].as_array().map_or(&[][..], Vec::as_slice);
            let found = files.iter().find(|file| file["path"] == wanted).with_context(|| format!("no {wanted} in {}", path.display()))?;
            let mut file = tempfile::NamedTempFile::new()?;
            file.write_all(found["content"].as_str().context("content")?.as_bytes())?;
            Ok::<_, anyhow::Error>(file)
        };
        let configuration = content("/etc/barewire/barewired.toml")?;
        let judged = Command::new(binaries.join("barewire")).args(["config", "check"]).arg(configuration.path()).output()?;
        ensure!(judged.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&judged.stdout));
        let script = content("/usr/local/sbin/install-barewire")?;
        let shell = Command::new("sh").arg("-n").arg(script.path()).output()?;
        ensure!(shell.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&shell.stderr));
        let commands = data["runcmd"].as_array().context("runcmd")?;
        ensure!(commands[0][0] == "/usr/local/sbin/install-barewire", "{commands:?}");
        for command in commands.iter().filter(|command| command[0] == "sh") {
            let shell = Command::new("sh").args(["-n", "-c"]).arg(command[2].as_str().context("a line")?).output()?;
            ensure!(shell.status.success(), "{command}: {}", String::from_utf8_lossy(&shell.stderr));
        }
        clouds.push(path.file_stem().context("a name")?.to_string_lossy().into_owned());
    }
    clouds.sort();
    ensure!(clouds == ["aws", "azure", "gcp"], "{clouds:?}");
    Ok(())
}
