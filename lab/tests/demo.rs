//! The demo, as a newcomer runs it: it ends well and in time, or with a message; either way nothing is left.
//!
//! Needs root, containerd, iperf3, and `barewired` and `barewire-cni` in `BAREWIRE_BIN_DIR` or beside the test. Where it cannot run it says
//! `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::cni::barewire_binaries;
use lab::command::{Said, run};
use lab::state::BASE;
use serde_json::Value;

/// What the demo promises to take at most.
const LIMIT: Duration = Duration::from_secs(180);

fn demo(binaries: &Path) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barewire-lab"));
    run(command.args(["demo", "--json"]).env("BAREWIRE_BIN_DIR", binaries), LIMIT).expect("the demo ends in time")
}

fn is_gone() -> bool {
    !Path::new(BASE).join("demo").exists()
}

/// One test, since there is one lab called `demo`.
#[test]
fn the_demo_ends_well_or_with_a_message_and_leaves_nothing() {
    let binaries = match barewire_binaries() {
        Ok(binaries) if nix::unistd::geteuid().is_root() => binaries,
        other => {
            let reason = other.map_or_else(|error| error.to_string(), |_| "it needs root".to_owned());
            assert!(std::env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "the demo cannot run: {reason}");
            println!("SKIP the demo: {reason}");
            return;
        }
    };
    let failed = demo(Path::new("/nowhere"));
    assert_eq!(failed.status.code(), Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("barewire-cni") && failed.stderr.contains("BAREWIRE_BIN_DIR"), "{}", failed.stderr);
    assert!(failed.stdout.is_empty() && is_gone(), "{}", failed.stdout);

    let begun = Instant::now();
    let said = demo(&binaries);
    assert!(said.status.success(), "{}", said.stderr);
    assert!(begun.elapsed() < LIMIT && is_gone());
    let report: Value = serde_json::from_str(said.stdout.trim_end()).expect("one JSON line and nothing else");
    assert_eq!((&report["nodes"], &report["pods"], &report["ping_ok"]), (&2.into(), &4.into(), &true.into()), "{report}");
    for figure in ["pod_gbps", "node_gbps"] {
        assert!(report[figure].as_f64().is_some_and(|gbps| gbps > 0.0), "{report}");
    }
}
