//! What the benchmarks are built of, where it really happens: needs root.

#![expect(clippy::print_stdout, reason = "a test that cannot run says why")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, ensure};
use bench::netns::Namespace;
use bench::wiring::Wiring;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
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
    let Some(built) = built().filter(|_| !cannot_run()) else { return };
    let before = links().unwrap();
    let output = bench(&built).args(["machine", "--json", "--pods", "3", "--rounds", "2"]).output().unwrap();
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

/// The folder of built programs, where there is one; `cargo xtask test` names it.
fn built() -> Option<PathBuf> {
    let folder = env::var_os("BAREWIRE_BIN_DIR").map(PathBuf::from).filter(|folder| folder.join("barewired").exists());
    if folder.is_none() {
        assert!(env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "required, but BAREWIRE_BIN_DIR has no barewired");
        println!("SKIP BAREWIRE_BIN_DIR has no barewired");
    }
    folder
}

/// The program under test, with the built programs.
fn bench(built: &Path) -> Command {
    // What a shell has in the background ignores SIGINT, and so would all that it begins.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_barewire-bench")]);
    command.env("BAREWIRE_BIN_DIR", built).env_remove("LD_LIBRARY_PATH");
    command
}

/// What a measurement could leave behind, on the machine and outside its own namespaces: links, pins, folders.
fn traces() -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for folder in ["/sys/class/net", "/sys/fs/bpf", "/run"] {
        for entry in fs::read_dir(folder).with_context(|| folder.to_owned())? {
            found.insert(entry?.path());
        }
    }
    Ok(found)
}

/// The names of all processes with this variable in their environment: of one that was started with it, and its descendants.
fn marked(variable: &str) -> Result<Vec<String>> {
    let processes = fs::read_dir("/proc")?.filter_map(Result::ok).map(|process| process.path());
    let ours = processes.filter(|process| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|one| one == variable.as_bytes())
    });
    Ok(ours.map(|process| fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned()).collect())
}

#[test]
fn adds_are_measured_with_the_real_daemon() {
    let Some(built) = built().filter(|_| !cannot_run()) else { return };
    let output = bench(&built).args(["add", "--json", "--pods", "2", "--rounds", "1", "--crowd", "2"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(figures["add_p50_ms"].as_f64().is_some_and(|figure| figure > 0.0), "{figures}");
}

#[test]
fn bursts_are_measured_on_a_calm_and_on_a_busy_node() {
    let Some(built) = built().filter(|_| !cannot_run()) else { return };
    let output = bench(&built).args(["burst", "--json", "--rounds", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in ["burst100_p99_ms", "reference_burst100_p99_ms", "busy_add_p99_ms", "reference_busy_add_p99_ms"] {
        assert!(figures[key].as_f64().is_some_and(|figure| figure > 0.0), "{key} in {figures}");
    }
    assert_eq!(figures["failures"], 0, "{figures}");
}

/// Namespaces, mounts and daemons end with the process, so there is nothing that a signal could keep it from doing.
#[test]
fn a_measurement_that_is_ended_leaves_nothing_behind() {
    let Some(built) = built().filter(|_| !cannot_run()) else { return };
    let before = traces().unwrap();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mark = format!("{}-{signal}", std::process::id());
        let variable = format!("BENCH_TEST={mark}");
        let mut child = bench(&built).arg("datapath").env("BENCH_TEST", &mark).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while marked(&variable).unwrap().iter().filter(|name| *name == "barewired").count() < 2 {
            assert!(started.elapsed() < Duration::from_secs(30), "no daemons run: {:?}", marked(&variable));
            assert_eq!(child.try_wait().unwrap(), None, "it has ended");
            thread::sleep(Duration::from_millis(20));
        }
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let ended = Instant::now();
        while child.try_wait().unwrap().is_none() || !marked(&variable).unwrap().is_empty() {
            assert!(ended.elapsed() < Duration::from_secs(10), "after {signal}: {:?}", marked(&variable));
            thread::sleep(Duration::from_millis(20));
        }
        let left: Vec<_> = traces().unwrap().difference(&before).cloned().collect();
        assert!(left.is_empty(), "after {signal}: {left:?}");
    }
}
