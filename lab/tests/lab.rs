//! The lab itself: the fabric refuses what a cloud refuses, and no end of a runner leaves anything behind.
//!
//! Needs root. Where it cannot run it says `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::command::wait_until;
use lab::node::Node;
use lab::state::{BASE, ProcessIdentity};
use lab::topology::Topology;
use lab::vpc::{self, Attachment};
use lab::{self, Lab, Options};

const PROGRAM: &str = env!("CARGO_BIN_EXE_barewire-lab");

fn topology_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/two-nodes.clab.yml")
}

/// Whether the lab can be brought up here.
fn can_run(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "{test} needs root");
    println!("SKIP {test}: it needs root");
    false
}

fn bring_up(name: &str) -> Lab {
    let options = Options { program: PROGRAM.into(), base: BASE.into(), name: Some(name.to_owned()) };
    Lab::up(Topology::read(&topology_file()).unwrap(), &options).unwrap()
}

/// An answer may be late on a busy machine; where none is expected, it is not waited for so long.
fn answers(node: &Node, arguments: &[&str]) -> bool {
    pings(node, "5", arguments)
}

fn is_silent(node: &Node, arguments: &[&str]) -> bool {
    !pings(node, "1", arguments)
}

fn pings(node: &Node, seconds: &str, arguments: &[&str]) -> bool {
    let argv = [&["ping", "-c", "1", "-W", seconds], arguments].concat();
    node.try_run(&argv, Duration::from_secs(10)).unwrap().status.success()
}

/// Nothing of the lab is left: no directory, no process, no cgroup.
fn assert_gone(name: &str, inits: &[ProcessIdentity]) {
    assert!(!Path::new(BASE).join(name).exists(), "{BASE}/{name} is left");
    assert!(inits.iter().all(|init| !init.is_alive()), "an init is left: {inits:?}");
    let cgroups = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let left: Vec<_> = cgroups.map(|entry| entry.path().join("barewire-lab").join(name)).filter(|path| path.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_fabric_behaves_as_a_cloud_network() {
    if !can_run("the_fabric_behaves_as_a_cloud_network") {
        return;
    }
    let lab = bring_up("fabric-test");
    let node = |name: &str| lab.node(name).unwrap();
    let (node1, node2, fabric, internet) = (node("node1"), node("node2"), node("vpc"), node("internet"));
    let refused = || vpc::refused(fabric).unwrap();

    // Primary addresses reach each other and the internet, and the internet reaches them.
    for to in ["10.0.0.12", "fd00:10::12", "203.0.113.10", "2001:db8:113::10"] {
        assert!(answers(node1, &[to]), "{to}");
    }
    assert!(answers(internet, &["10.0.0.11"]) && answers(internet, &["fd00:10::11"]));
    // 9001 bytes pass unfragmented, and no more.
    assert!(answers(node1, &["-M", "do", "-s", "8973", "10.0.0.12"]));
    assert!(is_silent(node1, &["-M", "do", "-s", "8974", "10.0.0.12"]));
    assert_eq!(refused(), vpc::Refused::default());

    // Only the gateway answers on the wire: the other node's address is no neighbour.
    let neighbours = node1.run(&["ip", "neighbour", "show"]).unwrap();
    let known: BTreeSet<&str> = neighbours.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(known.is_subset(&BTreeSet::from(["10.0.0.1", "fe80::1"])), "{neighbours}");

    // An address of a pod range works where it is assigned, and nowhere else.
    for (assigned, stolen, peer) in [("10.0.1.20", "10.0.1.40", "10.0.0.12"), ("fd00:10:0:1::20", "fd00:10:0:2::20", "fd00:10::12")] {
        for address in [assigned, stolen] {
            let length = if address.contains(':') { 128 } else { 32 };
            node1.run(&["ip", "address", "add", &format!("{address}/{length}"), "dev", "lo"]).unwrap();
        }
        assert!(answers(node2, &[assigned]), "{assigned} is not delivered");
        assert!(answers(node1, &["-I", assigned, peer]), "{assigned} is not carried");
        let before = refused();
        assert!(is_silent(node1, &["-I", stolen, peer]), "{stolen} is carried");
        assert_eq!(refused().spoofed_source, before.spoofed_source + 1);
        // The gateway's own address is nobody's to use.
        assert!(is_silent(node2, &[stolen]), "{stolen} is delivered to the wrong node");
    }

    // To the internet only as a primary address, and from it only to one.
    for (pod, outside) in [("10.0.1.20", "203.0.113.10"), ("fd00:10:0:1::20", "2001:db8:113::10")] {
        let before = refused();
        assert!(is_silent(node1, &["-I", pod, outside]), "{pod} reaches the internet");
        assert!(is_silent(internet, &[pod]), "the internet reaches {pod}");
        assert_eq!(refused().not_translated, before.not_translated + 2);
    }

    // What nobody owns is dropped in silence.
    for nobody in ["10.0.9.9", "fd00:10:9::9"] {
        let before = refused();
        let said = node1.try_run(&["ping", "-c", "1", "-W", "1", nobody], Duration::from_secs(10)).unwrap();
        assert!(!said.status.success() && !said.stdout.contains("nreachable"), "{}", said.stdout);
        assert_eq!(refused().unknown_destination, before.unknown_destination + 1);
    }

    // Assignments move, as a cloud's do.
    let attachment = |number: u8| Attachment {
        interface: format!("eth{number}"),
        primary_v4: [10, 0, 0, 10 + number].into(),
        primary_v6: format!("fd00:10::1{number}").parse().unwrap(),
    };
    for prefix in ["10.0.1.64/28", "fd00:10:0:4::/80"] {
        let prefix = prefix.parse().unwrap();
        vpc::assign(fabric, &attachment(1), &prefix).unwrap();
        let message = vpc::unassign(fabric, &attachment(2), &prefix).unwrap_err().to_string();
        assert!(message.contains("No such process"), "{message}");
        vpc::unassign(fabric, &attachment(1), &prefix).unwrap();
    }
    node1.run(&["ip", "address", "add", "10.0.1.70/32", "dev", "lo"]).unwrap();
    assert!(is_silent(node1, &["-I", "10.0.1.70", "10.0.0.12"]));
    vpc::assign(fabric, &attachment(1), &"10.0.1.64/28".parse().unwrap()).unwrap();
    assert!(answers(node1, &["-I", "10.0.1.70", "10.0.0.12"]));

    let inits: Vec<_> = lab.nodes().values().map(|node| node.init().clone()).collect();
    lab.down().unwrap();
    assert_gone("fabric-test", &inits);
}

#[test]
fn nodes_are_apart_from_each_other_and_from_the_host() {
    if !can_run("nodes_are_apart_from_each_other_and_from_the_host") {
        return;
    }
    let lab = bring_up("apart-test");
    let (node1, node2) = (lab.node("node1").unwrap(), lab.node("node2").unwrap());
    let marks = ["/run/mark", "/opt/cni/bin/mark", "/etc/cni/net.d/mark", "/usr/local/mark-of-lab", "/tmp/mark-of-lab"];
    for mark in marks {
        node1.write(mark, "node1").unwrap();
        assert_eq!(node1.run(&["cat", mark]).unwrap(), "node1");
        assert!(!node2.host_path(mark).exists(), "node2 sees {mark}");
        assert!(!Path::new(mark).exists(), "the host sees {mark}");
    }
    assert_eq!(node1.run(&["hostname"]).unwrap().trim(), "node1");
    let interfaces = node1.run(&["ls", "/sys/class/net"]).unwrap();
    assert_eq!(interfaces.split_whitespace().collect::<Vec<_>>(), ["eth1", "lo"]);
    let processes = node1.run(&["sh", "-c", "ls -d /proc/[0-9]* | wc -l"]).unwrap();
    assert!(processes.trim().parse::<u32>().unwrap() < 6, "{processes} processes in a node that runs nothing");
    // A file of the topology is bound in, and is not the node's to change.
    assert!(node1.run(&["cat", "/etc/barewire/barewired.toml"]).unwrap().contains("10.0.1.16/28"));
    assert!(node1.write("/etc/barewire/barewired.toml", "").is_err());

    // An orphan is reaped.
    node1.run(&["sh", "-c", "(sleep 0.1 &)"]).unwrap();
    wait_until("no zombie", Duration::from_secs(5), || {
        let zombies = node1.run(&["sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status; true"]).unwrap();
        if zombies.is_empty() { Ok(()) } else { Err(zombies) }
    })
    .unwrap();
    lab.down().unwrap();
}

#[test]
fn a_killed_runner_leaves_no_process_and_the_next_up_cleans_the_rest() {
    if !can_run("a_killed_runner_leaves_no_process_and_the_next_up_cleans_the_rest") {
        return;
    }
    let lab_name = "crash-test";
    // A slow `exec` holds the runner in the middle of `up`.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("slow.clab.yml");
    let slow = format!("name: {lab_name}\ntopology:\n  nodes:\n    a: {{kind: linux, cmd: sleep 1000, exec: [sleep 15]}}\n");
    fs::write(&file, slow).unwrap();
    let mut runner = Command::new(PROGRAM).args(["up", "--cni", "none", "--topology"]).arg(&file).stdout(Stdio::null()).spawn().unwrap();
    let node = wait_until("the node", Duration::from_secs(10), || {
        let node = lab::node_of(BASE.as_ref(), lab_name, "a").map_err(|error| error.to_string())?;
        match node.try_run(&["pgrep", "-x", "sleep"], Duration::from_secs(5)) {
            Ok(said) if said.stdout.lines().count() >= 2 => Ok(node),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();

    // Two runners on one lab are refused.
    let second = Command::new(PROGRAM).args(["down", lab_name]).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another runner"), "{second:?}");

    runner.kill().unwrap();
    runner.wait().unwrap();
    wait_until("the end of the node", Duration::from_secs(10), || {
        if node.init().is_alive() { Err("its init is alive".to_owned()) } else { Ok(()) }
    })
    .unwrap();
    assert!(Path::new(BASE).join(lab_name).exists(), "the killed runner cannot have removed it");

    fs::write(&file, format!("name: {lab_name}\ntopology: {{nodes: {{a: {{kind: linux}}}}}}\n")).unwrap();
    let up = || Command::new(PROGRAM).args(["up", "--cni", "none", "--topology"]).arg(&file).output().unwrap();
    let first = up();
    assert!(first.status.success(), "{first:?}");
    let kept = lab::node_of(BASE.as_ref(), lab_name, "a").unwrap();
    assert!(kept.init().is_alive(), "a lab that is up must outlive its runner");
    let exec = |command: &[&str]| {
        let lab = ["exec", "--lab", lab_name, "a", "--"];
        Command::new(PROGRAM).args([&lab, command].concat()).output().unwrap()
    };
    assert_eq!(String::from_utf8_lossy(&exec(&["hostname"]).stdout), "a\n");
    assert_eq!(exec(&["sh", "-c", "exit 7"]).status.code(), Some(7));

    // Up over a lab that is up replaces it.
    let again = up();
    assert!(again.status.success(), "{again:?}");
    assert!(!kept.init().is_alive());
    let replaced = lab::node_of(BASE.as_ref(), lab_name, "a").unwrap();
    for _ in 0..2 {
        let down = Command::new(PROGRAM).args(["down", lab_name]).output().unwrap();
        assert!(down.status.success(), "{down:?}");
    }
    assert_gone(lab_name, &[replaced.init().clone()]);
}

#[test]
fn a_failing_exec_is_reported_and_nothing_is_left() {
    if !can_run("a_failing_exec_is_reported_and_nothing_is_left") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.clab.yml");
    for (body, needle) in [
        ("exec: [ip link set nowhere up]", "Cannot find device"),
        ("cmd: no-such-program", "no-such-program"),
        ("sysctls: {net.ipv4.no_such_key: 1}", "net.ipv4.no_such_key"),
        ("binds: ['no-such-file:/etc/x']", "no-such-file"),
    ] {
        fs::write(&file, format!("{{name: bad-test, topology: {{nodes: {{a: {{kind: linux, {body}}}}}}}}}")).unwrap();
        let output = Command::new(PROGRAM).args(["up", "--cni", "none", "--topology"]).arg(&file).output().unwrap();
        assert!(!output.status.success());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("node a") && message.contains(needle), "{message}");
        assert_gone("bad-test", &[]);
    }
}
