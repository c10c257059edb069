//! A moto server of a test's own. The tests of `ipam-clouds` have it too, by its path.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Python has a megabyte of moto to read, on a machine that may have other things to do.
const START: Duration = Duration::from_secs(90);

/// A server that listens. It ends when it is dropped, and when the test ends without doing so.
pub(crate) struct MotoServer {
    process: Child,
    /// Where, with a slash at its end.
    pub(crate) url: String,
}

impl MotoServer {
    /// Starts one with the Python of moto's environment.
    pub(crate) fn start(python: &Path) -> Self {
        let mut command = Command::new(python);
        command.args(["-c", include_str!("server.py")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stdout = process.stdout.take().unwrap();
        // From here on dropping it ends the process, and with it the thread below.
        let mut server = Self { process, url: String::new() };
        let (said, hears) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            // Where nobody waits any more, the line is of no use.
            let _ = BufReader::new(stdout).read_line(&mut line).and_then(|_| said.send(line).map_err(std::io::Error::other));
        });
        let line = hears.recv_timeout(START).expect("moto's server does not say its port");
        let port: u16 = line.trim().parse().unwrap_or_else(|_| panic!("moto's server ended; it said why above ({line:?})"));
        server.url = format!("http://127.0.0.1:{port}/");
        server
    }
}

impl Drop for MotoServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
