//! A daemon that is being restarted is waited for, by those that may.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use cni_spec::{Code, Error};
use serde_json::{Value, json};

use crate::run;
use crate::scripted::{Act, daemon};

/// A little of the ten seconds that the plugin has.
const RESTART: Duration = Duration::from_millis(300);
/// Less than the plugin's patience.
const AT_ONCE: Duration = Duration::from_secs(5);

fn config(socket: &Path) -> Vec<u8> {
    let valid: [Value; 0] = [];
    json!({ "name": "pods", "socket": socket, "cni.dev/valid-attachments": valid }).to_string().into_bytes()
}

/// Asks for the status while the daemon comes up; what the plugin said, and how often the daemon was asked.
fn status_during_restart(leftover: bool, acts: Vec<Act>) -> (Result<String, Error>, usize) {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("s");
    if leftover {
        // The socket of a daemon that was killed: there, and nobody listens.
        drop(UnixListener::bind(&socket).unwrap());
    }
    std::thread::scope(|scope| {
        let outcome = scope.spawn(|| run("STATUS", &[], &config(&socket)));
        std::thread::sleep(RESTART);
        let _ = std::fs::remove_file(&socket);
        let asked = daemon(&socket, acts).join().unwrap();
        (outcome.join().unwrap(), asked.len())
    })
}

#[test]
fn status_waits_for_a_daemon_that_starts_and_asks_again_where_it_ended() {
    for leftover in [false, true] {
        assert_eq!(status_during_restart(leftover, vec![Act::HangUp, Act::done()]), (Ok(String::new()), 2));
    }
}

#[test]
fn what_the_daemon_says_of_the_node_is_passed_on_at_once() {
    let begun = Instant::now();
    let (outcome, asked) = status_during_restart(false, vec![Act::refuse(51)]);
    assert_eq!((outcome.unwrap_err().code, asked), (Code::LimitedConnectivity, 1));
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

#[test]
fn gc_does_not_wait() {
    let home = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let error = run("GC", &[], &config(&home.path().join("s"))).unwrap_err();
    assert_eq!(error.code, Code::TryAgainLater);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

#[test]
fn a_wrong_path_is_not_waited_for() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("file"), "").unwrap();
    let begun = Instant::now();
    let error = run("STATUS", &[], &config(&home.path().join("file/s"))).unwrap_err();
    assert!(error.code == Code::NotAvailable && error.msg.contains("Not a directory"), "{error}");
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}
