//! What the benchmarks are built of, where it really happens: needs root.

#![expect(clippy::print_stdout, reason = "a test that cannot run says why")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Result, ensure};
use bench::netns::Namespace;
use bench::wiring::Wiring;
use nix::unistd::geteuid;
use serde_json::Value;

/// Says why these tests cannot run here, if so. Where all tiers are promised, that is a failure.
fn cannot_run() -> bool {
    let reason = if !geteuid().is_root() {
        "network namespaces need root"
    } else if !Path::new("/usr/lib/cni/ptp").exists() {
        "the reference plugins are missing: install containernetworking-plugins"
    } else {
        return false;
    };
    assert!(env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "required, but {reason}");
    println!("SKIP {reason}");
    true
}

fn ip(arguments: &str) -> Result<String> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn links() -> Result<BTreeSet<OsString>> {
    fs::read_dir("/sys/class/net")?.map(|entry| Ok(entry?.file_name())).collect()
}

#[test]
fn a_visit_to_a_namespace_ends_with_its_guard() {
    if cannot_run() {
        return;
    }
    let here = || fs::read_link("/proc/thread-self/ns/net").unwrap();
    let home = here();
    let pod = Namespace::create().unwrap();
    assert_eq!(here(), home, "creating one does not leave the thread in it");
    {
        let _home = pod.enter().unwrap();
        assert_ne!(here(), home);
        assert_eq!(ip("-oneline link").unwrap().lines().count(), 1, "only lo, in a child of the thread too");
    }
    assert_eq!(here(), home);
}

#[test]
fn the_floor_is_a_pod_that_answers() {
    if cannot_run() {
        return;
    }
    let (host, pod) = (Namespace::create().unwrap(), Namespace::create().unwrap());
    let _home = host.enter().unwrap();
    ip("link set lo up").unwrap();
    ip("address add 10.99.0.1/32 dev lo").unwrap();
    let mut wiring = Wiring::open().unwrap();
    let steps = wiring.wire(&pod).unwrap();
    assert!(steps.veth < steps.total);

    // The pod has a route back only through its link-local gateway, whose neighbour entry is part of the floor.
    let ping = Command::new("ping").args(["-c", "1", "-W", "2", "-I", "10.99.0.1", "10.79.0.1"]).output().unwrap();
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));

    wiring.delete_all().unwrap();
    assert_eq!(ip("-oneline link").unwrap().lines().count(), 1, "only lo is left");
}

#[test]
fn a_refused_request_is_an_error_that_says_which() {
    if cannot_run() {
        return;
    }
    let (host, pod) = (Namespace::create().unwrap(), Namespace::create().unwrap());
    let _home = host.enter().unwrap();
    Wiring::open().unwrap().wire(&pod).unwrap();
    let error = Wiring::open().unwrap().wire(&pod).unwrap_err().to_string();
    assert!(error.contains("request 0") && error.contains("File exists"), "{error}");
}

#[test]
fn a_measurement_gives_figures_and_touches_nothing() {
    if cannot_run() {
        return;
    }
    let before = links().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_barewire-bench"))
        .args(["machine", "--json", "--pods", "3", "--rounds", "2"])
        .env("BAREWIRE_BIN_DIR", Path::new(env!("CARGO_BIN_EXE_exec-floor")).parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    let figures: Value = serde_json::from_str(&stdout).unwrap();
    for key in
        ["netns_p50_ms", "exec_p50_ms", "veth_p50_ms", "wiring_p50_ms", "floor_p50_ms", "reference_add_p50_ms", "reference_del_p50_ms"]
    {
        assert!(figures[key].as_f64().is_some_and(|figure| figure > 0.0), "{key} in {stdout}");
    }
    assert!(links().unwrap().is_subset(&before));
}
