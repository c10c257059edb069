//! Executes another program: bounded in time and in what it may print.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// More than any list of a node's rules has.
const OUTPUT_MAX: u64 = 32 << 20;

/// What it printed.
#[derive(Debug)]
pub(crate) struct Executed {
    pub(crate) succeeded: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Executed {
    /// What it printed, or what it complained of.
    pub(crate) fn stdout_if_well(self, what: &str) -> Result<String, String> {
        if self.succeeded { Ok(self.stdout) } else { Err(format!("{what}: {}", self.stderr.lines().next().unwrap_or("failed").trim())) }
    }
}

/// Executes it without input. It is ended after `limit`.
pub(crate) fn execute(command: &mut Command, limit: Duration) -> Result<Executed, String> {
    execute_with(command, &[], limit)
}

/// Executes it with this input, which should be short.
pub(crate) fn execute_with(command: &mut Command, input: &[u8], limit: Duration) -> Result<Executed, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("there is no {name}"),
        _ => format!("{name} cannot be executed: {error}"),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it is no fault: it says in its own words what it wants.
        let _ = stdin.write_all(input);
    }
    let outcome = read_all(&mut child, &name, limit);
    if outcome.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| format!("{name}: {error}"))?;
    let [stdout, stderr] = outcome?;
    Ok(Executed { succeeded: status.success(), stdout, stderr })
}

fn read_all(child: &mut Child, name: &str, limit: Duration) -> Result<[String; 2], String> {
    let until = Instant::now() + limit;
    let streams: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|stream| Box::new(stream) as _), child.stderr.take().map(|stream| Box::new(stream) as _)];
    let readers = streams.map(|stream| {
        let (done, wait) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(stream) = stream {
                let _ = stream.take(OUTPUT_MAX).read_to_end(&mut bytes);
            }
            // Nobody waits for it any more once the limit is over.
            let _ = done.send(bytes);
        });
        wait
    });
    let mut said = [String::new(), String::new()];
    for (said, reader) in said.iter_mut().zip(readers) {
        let left = until.saturating_duration_since(Instant::now());
        let bytes = reader.recv_timeout(left).map_err(|_| format!("{name} has not ended within {} s", limit.as_secs_f32()))?;
        *said = String::from_utf8_lossy(&bytes).into_owned();
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_is_ended() {
        let begun = Instant::now();
        let error = execute(Command::new("sleep").arg("60"), Duration::from_millis(100)).unwrap_err();
        assert!(error.contains("sleep has not ended") && begun.elapsed() < Duration::from_secs(30), "{error}");
        assert_eq!(execute(&mut Command::new("barewire-no-such"), Duration::from_secs(1)).unwrap_err(), "there is no barewire-no-such");
        let said = execute_with(&mut Command::new("cat"), b"words", Duration::from_secs(30)).unwrap();
        assert!(said.succeeded && said.stdout == "words", "{said:?}");
    }
}
