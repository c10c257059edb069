//! barewire-cni: the binary that a container runtime executes.
//!
//! It validates what it was given, asks the node daemon, and prints one JSON result. Everything that takes privilege,
//! memory or time is the daemon's; this process is executed twice in the life of every pod and should hardly be noticed.
//!
//! Half of what an ADD takes is the start of this program, so it starts by itself: [`main`] is what the C library calls, without the
//! standard library's preparations in between (docs/adr/0016).
#![cfg_attr(not(test), no_main)]

mod memory;
mod streams;

use std::ffi::{OsStr, c_int};
use std::panic::PanicHookInfo;

use barewire_cni::{Stdin, execute};
use cni_spec::{Code, Error};

use crate::streams::{Streams, end_with, say};

#[cfg_attr(not(test), global_allocator)]
#[cfg_attr(test, expect(dead_code, reason = "the tests allocate as others do"))]
static MEMORY: memory::Memory = memory::Memory::new(out_of_memory);

/// What the C library starts.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main() -> c_int {
    std::panic::set_hook(Box::new(|panic| end_with(&fault(panic))));
    let mut streams = Streams::take();
    let stdin = Stdin::read(&mut streams);
    let adds = std::env::var_os(COMMAND).is_some_and(|command| command == "ADD");
    let outcome = if adds && !streams.has_output() {
        Err(Error::new(Code::IoFailure, "standard output is closed, so that the result could not be told; nothing was attached"))
    } else {
        execute(environment(None), &stdin)
    };
    let (text, code) = match &outcome {
        Ok(outcome) => (outcome.text.clone(), 0),
        Err(error) => (error.to_json(cni_spec::version_asked(stdin.as_it_came()).as_deref()), 1),
    };
    match streams.answer(&text) {
        Ok(()) => {
            if let Ok(outcome) = outcome {
                outcome.is_told();
            }
            code
        }
        Err(why) => {
            say(format_args!("cannot write to standard output: {why}: {text}"));
            if adds && outcome.is_ok() {
                // Nobody knows of the attachment, so nobody may have it. A daemon that gets no receipt undoes it; one of before receipts
                // is told. What cannot be undone here, the runtime's DEL undoes.
                drop(outcome);
                let _undone = execute(environment(Some("DEL")), &stdin);
            }
            1
        }
    }
}

const COMMAND: &str = "CNI_COMMAND";

/// The variables that the runtime has set, with another command where one is given.
fn environment(command: Option<&'static str>) -> impl Iterator<Item = (String, String)> {
    // Not `vars()`: a variable of somebody else's that is not UTF-8 is none of our business.
    let text = |value: &OsStr| value.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(key, value)| match command {
        Some(command) if key == COMMAND => (text(&key), command.to_owned()),
        _ => (text(&key), text(&value)),
    })
}

/// The error result of a fault of ours.
fn fault(panic: &PanicHookInfo<'_>) -> String {
    Error::new(Code::TryAgainLater, format!("barewire-cni {} has a fault, report it: {panic}", env!("CARGO_PKG_VERSION"))).to_json(None)
}

fn out_of_memory() -> ! {
    // Code 11, "try again later". To make the text would take memory.
    end_with(
        r#"{"cniVersion":"1.1.0","code":11,"msg":"barewire-cni has no memory left; free memory, or raise the limit that the runtime has set"}"#,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_an_error_result() {
        const IN_THE_CHILD: &str = "BAREWIRE_TEST_FAULT";
        if std::env::var_os(IN_THE_CHILD).is_some() {
            std::panic::set_hook(Box::new(|panic| end_with(&fault(panic))));
            panic!("as it was asked");
        }
        let mut itself = std::process::Command::new(std::env::current_exe().unwrap());
        itself.args(["--exact", "tests::a_fault_is_an_error_result", "--nocapture"]).env(IN_THE_CHILD, "");
        let output = itself.output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stdout}");
        assert!(stdout.contains(r#""code":11"#) && stdout.contains("as it was asked"), "{stdout}");
    }

    #[test]
    fn the_words_for_want_of_memory_are_an_error_result() {
        // What is written there by hand is what `Error` writes.
        let error = Error::new(Code::TryAgainLater, "m");
        assert_eq!(error.to_json(None), r#"{"cniVersion":"1.1.0","code":11,"msg":"m"}"#);
    }
}
