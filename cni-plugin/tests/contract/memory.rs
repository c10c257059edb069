//! No memory, too much input, no right to execute.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use cni_spec::Code;

use crate::shipped::{Call, Ended, program};

/// The plugin with so much address space, in KiB.
fn within(kib: usize, verb: &str, stdin: &[u8]) -> Ended {
    let mut prlimit = Command::new("/usr/bin/prlimit");
    prlimit.arg(format!("--as={}", kib << 10)).arg("--").arg(program());
    Call::by(prlimit, verb).variables(&[("CNI_NETNS", "/proc/1/ns/net")]).run(stdin)
}

/// A configuration of just under the megabyte that is allowed, of which much more memory is made.
fn heavy() -> Vec<u8> {
    let lists = vec!["[]"; 340_000].join(",");
    format!(r#"{{"cniVersion":"1.0.0","name":"pods","prevResult":{{"ips":[{lists}]}}}}"#).into_bytes()
}

#[test]
fn without_memory_there_is_an_error_result() {
    let heavy = heavy();
    // Below, the kernel cannot execute anything: what the caller sees then is not ours.
    let least = (64..4096).step_by(32).find(|kib| within(*kib, "VERSION", b"").status.success()).unwrap();
    assert!(least < 2048, "an empty VERSION takes {least} KiB of address space");
    let mut refused = 0;
    for kib in (least..least + 1024).step_by(128).chain((least..least + (96 << 10)).step_by(4 << 10)) {
        let error = within(kib, "ADD", &heavy).outcome().unwrap_err();
        if error.code == Code::TryAgainLater {
            assert!(error.msg.contains("no memory"), "{kib} KiB: {error}");
            refused += 1;
        }
    }
    assert!(refused > 8, "memory was enough nearly everywhere: {refused}");
    // With all that it may want, it is the configuration that is wrong.
    assert_ne!(within(512 << 10, "ADD", &heavy).outcome().unwrap_err().code, Code::TryAgainLater);
}

#[test]
fn a_hundred_megabytes_of_input_are_not_read() {
    let much = vec![b' '; 100 << 20];
    let error = within(64 << 10, "ADD", &much).outcome().unwrap_err();
    assert!(error.code == Code::Undecodable && error.msg.contains("larger than"), "{error}");
}

#[test]
fn a_program_that_may_not_be_executed_is_the_callers_error() {
    // Where mounts may not be made, there is no such place either.
    let script = r#"mount -t tmpfs -o noexec none "$1" && cp "$0" "$1/barewire-cni" && exec "$1/barewire-cni""#;
    let home = tempfile::tempdir().unwrap();
    let mut shell = Command::new("/usr/bin/unshare");
    shell.args(["--mount", "--map-root-user", "--", "/bin/sh", "-c", script]).arg(program()).arg(home.path());
    let ended = Call::by(shell, "VERSION").variables(&[("PATH", "/usr/bin:/bin")]).run(b"");
    // execve(2) says EACCES; nothing of the plugin has run, so that there is nothing on standard output.
    assert_eq!((ended.status.code(), ended.stdout.as_str(), ended.status.signal()), (Some(126), "", None), "{ended:?}");
    assert!(ended.stderr.contains("Permission denied"), "{ended:?}");
}
