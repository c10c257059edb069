//! The program that `cargo xtask build` ships, called as a runtime calls it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cni_spec::Error;

/// More than the plugin's own bounds.
const LIMIT: Duration = Duration::from_secs(60);

/// The shipped program, `$BAREWIRE_BIN_DIR/barewire-cni`. Without that variable the one that cargo has built of the same sources for
/// this machine; where the tests of what is shipped are promised, that is a failure.
pub(crate) fn program() -> PathBuf {
    match std::env::var_os("BAREWIRE_BIN_DIR") {
        Some(folder) => PathBuf::from(folder).join("barewire-cni"),
        None => {
            assert!(std::env::var_os("BAREWIRE_REQUIRE_ALL").is_none(), "BAREWIRE_BIN_DIR is not set: run `cargo xtask test`");
            eprintln!("SKIP: not the shipped program, which `cargo xtask test` builds, but cargo's own build of the same sources");
            PathBuf::from(env!("CARGO_BIN_EXE_barewire-cni"))
        }
    }
}

/// A call that has not begun.
pub(crate) struct Call(pub(crate) Command);

impl Call {
    /// A verb on `c1`/`eth0`.
    pub(crate) fn new(verb: &str) -> Self {
        Self::by(Command::new(program()), verb)
    }

    /// The same by a program that executes it, whose arguments end with it.
    pub(crate) fn by(mut command: Command, verb: &str) -> Self {
        command.env_clear().env("CNI_COMMAND", verb).env("CNI_CONTAINERID", "c1").env("CNI_IFNAME", "eth0");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command)
    }

    pub(crate) fn variables(mut self, more: &[(impl AsRef<OsStr>, impl AsRef<OsStr>)]) -> Self {
        self.0.envs(more.iter().map(|(key, value)| (key, value)));
        self
    }

    /// Runs it to its end.
    pub(crate) fn run(mut self, stdin: &[u8]) -> Ended {
        let mut child = self.0.spawn().unwrap();
        thread::scope(|scope| {
            let mut pipe = child.stdin.take();
            scope.spawn(move || {
                // A program that has read enough closes its end.
                let _ = pipe.as_mut().map(|pipe| pipe.write_all(stdin));
            });
            ended(child)
        })
    }
}

/// A call that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Waits for the end of a child.
pub(crate) fn ended(mut child: Child) -> Ended {
    let begun = Instant::now();
    let text = |pipe: Option<&mut dyn Read>| {
        let mut bytes = Vec::new();
        pipe.map(|pipe| pipe.read_to_end(&mut bytes).unwrap());
        String::from_utf8(bytes).unwrap()
    };
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) =
        (text(stdout.as_mut().map(|pipe| pipe as &mut dyn Read)), text(stderr.as_mut().map(|pipe| pipe as &mut dyn Read)));
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if begun.elapsed() > LIMIT => {
                child.kill().unwrap();
                panic!("the plugin has not ended after {LIMIT:?}");
            }
            None => thread::sleep(Duration::from_millis(1)),
        }
    };
    Ended { status, stdout, stderr }
}

impl Ended {
    /// What a runtime makes of it: a program that succeeds, or one that fails with an error result (section 5). Nothing else may be.
    pub(crate) fn outcome(self) -> Result<String, Error> {
        match self.status.code() {
            Some(0) => Ok(self.stdout),
            Some(1) => {
                let result: serde_json::Value = serde_json::from_str(&self.stdout).unwrap_or_else(|why| panic!("{why}: {self:?}"));
                assert!(result["cniVersion"].is_string(), "{result}");
                Err(serde_json::from_value(result).unwrap())
            }
            _ => panic!("the plugin has crashed: {self:?}"),
        }
    }
}
