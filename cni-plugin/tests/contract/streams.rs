//! A caller that has closed, filled or left a stream: an error result where there is somebody to read it, and never a crash.

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cni_spec::Code;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use node_api::queue;
use serde_json::json;

use crate::scripted::{Act, daemon};
use crate::shipped::{Call, Ended, ended, program};

/// The plugin's patience with a stream, and a little.
const PATIENCE: Duration = Duration::from_secs(30);
const MORE: Duration = Duration::from_secs(20);

/// `sh` closes what `redirections` say, then becomes the plugin.
fn call_with(verb: &str, redirections: &str) -> Call {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("exec \"$0\" {redirections}")]).arg(program());
    Call::by(shell, verb)
}

fn add_config(socket: &Path) -> String {
    json!({ "cniVersion": "1.0.0", "name": "pods", "type": "barewire-cni", "socket": socket }).to_string()
}

#[test]
fn a_closed_standard_input_is_an_error_result() {
    for (verb, version) in [("ADD", "1.1.0"), ("CHECK", "1.1.0"), ("GC", "1.1.0")] {
        let ended = call_with(verb, "<&-").variables(&[("CNI_NETNS", "/proc/1/ns/net")]).run(b"");
        assert!(ended.stdout.contains(version), "{ended:?}");
        let error = ended.outcome().unwrap_err();
        assert!(error.code == Code::IoFailure && error.msg.contains("standard input"), "{verb}: {error}");
    }
    assert!(call_with("VERSION", "<&-").run(b"").outcome().unwrap().contains("supportedVersions"));
}

#[test]
fn a_del_needs_no_stream() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("s");
    for redirections in [">&-", ">&- 2>&-", "2>&-"] {
        let ended = call_with("DEL", redirections).run(add_config(&socket).as_bytes());
        assert!(ended.status.success(), "{redirections}: {ended:?}");
        let queued = queue::read(&queue::directory_beside(&socket)).unwrap();
        assert_eq!(queued.len(), 1, "{redirections}");
        std::fs::remove_file(&queued[0].path).unwrap();
    }
}

#[test]
fn what_is_opened_next_is_not_taken_for_standard_output() {
    let ended = call_with("VERSION", "<&- >&- 2>&-").run(b"");
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""));
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("s");
    let peer = daemon(&socket, vec![Act::refuse(50)]);
    let ended = call_with("STATUS", ">&-").run(add_config(&socket).as_bytes());
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""));
    assert!(ended.stderr.contains("standard output") && ended.stderr.contains("\"code\":50"), "{ended:?}");
    assert_eq!(peer.join().unwrap().len(), 1, "the daemon was told more than the question");
}

#[test]
fn an_add_without_standard_output_is_not_begun() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("s");
    let ended = call_with("ADD", ">&-").variables(&[("CNI_NETNS", "/proc/1/ns/net")]).run(add_config(&socket).as_bytes());
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("nothing was attached"), "{ended:?}");
}

/// A pipe with no more room, and its reader.
fn full_pipe(nonblocking: bool) -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    let set = |fd: &PipeWriter, flags| fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags)).unwrap();
    set(&writer, OFlag::O_NONBLOCK);
    while writer.write(&[b' '; 4096]).is_ok() {}
    if !nonblocking {
        set(&writer, OFlag::empty());
    }
    (reader, writer)
}

fn version_into(stdout: impl Into<Stdio>) -> std::process::Child {
    let mut call = Call::new("VERSION");
    let mut child = call.0.stdout(stdout).spawn().unwrap();
    drop(child.stdin.take());
    child
}

#[test]
fn a_full_pipe_is_waited_for() {
    for nonblocking in [false, true] {
        let (reader, writer) = full_pipe(nonblocking);
        let child = version_into(writer);
        thread::sleep(Duration::from_millis(50));
        let text = std::io::read_to_string(reader).unwrap();
        assert!(text.trim_start().starts_with('{') && text.ends_with('}'), "{text:?}");
        assert!(ended(child).status.success());
    }
}

#[test]
fn a_reader_that_has_gone_is_a_failure_and_not_a_death() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let Ended { status, stderr, .. } = ended(version_into(writer));
    assert_eq!(status.code(), Some(1), "{status} {stderr}");
    assert!(stderr.contains("Broken pipe"), "{stderr}");
}

#[test]
fn an_add_whose_result_nobody_takes_is_undone() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("s");
    let attached = json!({ "ok": { "attached": { "interfaces": [], "ips": [], "routes": [] } } });
    let peer = daemon(&socket, vec![Act::Answer(attached), Act::done()]);
    // Elsewhere, so that this process's namespace is a container's to it.
    let mut unshare = Command::new("/usr/bin/unshare");
    unshare.args(["--net", "--"]).arg(program());
    let mut call = Call::by(unshare, "ADD").variables(&[("CNI_NETNS", &format!("/proc/{}/ns/net", std::process::id()))]);
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut child = call.0.stdout(writer).spawn().unwrap();
    child.stdin.take().unwrap().write_all(add_config(&socket).as_bytes()).unwrap();
    let ended = ended(child);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let asked = peer.join().unwrap();
    assert!(asked[0]["request"]["add"].is_object(), "{asked:?}");
    assert_eq!(asked[1]["request"]["del"], json!({ "container_id": "c1", "ifname": "eth0" }));
}

#[test]
fn a_device_that_is_full_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let Ended { status, stderr, .. } = ended(version_into(full));
    assert!(status.code() == Some(1) && stderr.contains("No space left"), "{status} {stderr}");
}

#[test]
fn nobody_is_waited_for_for_ever() {
    let home = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let stalled = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut child = Call::new("ADD").variables(&[("CNI_NETNS", "/proc/1/ns/net")]).0.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(b"{").unwrap();
            let ended = ended(child);
            drop(stdin);
            ended.outcome().unwrap_err()
        });
        let deleting = scope.spawn(|| {
            let socket = home.path().join("s");
            let mut child = Call::new("DEL").0.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(add_config(&socket).as_bytes()).unwrap();
            let ended = ended(child);
            drop(stdin);
            assert_eq!(ended.outcome(), Ok(String::new()));
            assert_eq!(queue::read(&queue::directory_beside(&socket)).unwrap().len(), 1);
        });
        let (_reader, writer) = full_pipe(false);
        assert_eq!(ended(version_into(writer)).status.code(), Some(1));
        deleting.join().unwrap();
        reading.join().unwrap()
    });
    assert!(stalled.code == Code::IoFailure && stalled.msg.contains("timed out"), "{stalled}");
    assert!((PATIENCE..PATIENCE + MORE).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}
