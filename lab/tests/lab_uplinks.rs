//! A node with two interfaces to the VPC, each with pod addresses of its own, on a fabric that drops what leaves by the wrong one:
//! with the fast path on and off. And the networks of a configuration, changed under running pods.
//!
//! Pods here are network namespaces that `barewire-cni` is executed for by hand. Needs root; where it cannot run it says `SKIP`
//! and why; with `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

use std::path::Path;
use std::time::Duration;

use lab::cni::{self, DAEMON_CONFIG, Daemon, NodeCni};
use lab::node::Node;
use lab::state::BASE;
use lab::topology::Topology;
use lab::vpc::{self, Refused};
use lab::{Lab, Options};

const PROGRAM: &str = env!("CARGO_BIN_EXE_barewire-lab");
const LIMIT: Duration = Duration::from_secs(20);

fn can_run(test: &str) -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        "it needs root".to_owned()
    } else if let Err(error) = cni::barewire_binaries() {
        error.to_string()
    } else {
        return true;
    };
    assert!(std::env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "{test}: {missing}");
    println!("SKIP {test}: {missing}");
    false
}

fn bring_up(name: &str) -> Lab {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/two-uplinks.clab.yml");
    let options = Options { program: PROGRAM.into(), base: BASE.into(), name: Some(name.to_owned()) };
    Lab::up(Topology::read(&file).unwrap(), &options).unwrap()
}

/// Makes a pod: a namespace of the node, attached with these addresses.
fn add_pod(node: &Node, name: &str, addresses: [&str; 2]) {
    node.run(&["ip", "netns", "add", name]).unwrap();
    let [v4, v6] = addresses;
    let config = format!(
        r#"{{"cniVersion":"1.1.0","name":"barewire","type":"barewire-cni","capabilities":{{"ips":true}},"runtimeConfig":{{"ips":["{v4}","{v6}"]}}}}"#
    );
    let command = format!(
        "echo '{config}' | CNI_COMMAND=ADD CNI_CONTAINERID={name} CNI_NETNS=/run/netns/{name} CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \
         /opt/cni/bin/barewire-cni"
    );
    node.run(&["sh", "-c", &command]).unwrap();
}

/// Whether a ping is answered; `pod` none is the node itself. An answer may be late on a busy machine.
fn pings(node: &Node, pod: Option<&str>, arguments: &[&str]) -> bool {
    is_answered_within(node, "5", pod, arguments)
}

/// Whether nobody answers: that is not waited for so long.
fn is_silent(node: &Node, pod: Option<&str>, arguments: &[&str]) -> bool {
    !is_answered_within(node, "1", pod, arguments)
}

fn is_answered_within(node: &Node, seconds: &str, pod: Option<&str>, arguments: &[&str]) -> bool {
    let inside: &[&str] = pod.as_ref().map_or(&[], |_| &["ip", "netns", "exec"]);
    let argv = [inside, pod.as_slice(), &["ping", "-c", "1", "-W", seconds], arguments].concat();
    node.try_run(&argv, LIMIT).unwrap().status.success()
}

/// A configuration like the node's own, with changes, beside it.
fn variant(node: &Node, name: &str, changes: &[(&str, &str)]) -> String {
    let mut text = std::fs::read_to_string(node.host_path(DAEMON_CONFIG)).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from:?} is not in {text}");
        text = text.replace(from, to);
    }
    let path = format!("/run/{name}.toml");
    node.write(&path, text).unwrap();
    path
}

const OF_ETH1: [&str; 2] = ["10.0.1.16", "fd00:10:0:1::16"];
const OF_ETH2: [&str; 2] = ["10.0.1.48", "fd00:10:0:3::48"];
const REMOTE: [&str; 2] = ["10.0.1.32", "fd00:10:0:2::32"];
/// Translated by the stack to [`REMOTE`], as a service is.
const SERVICE: [&str; 2] = ["10.96.0.10", "fd00:96::10"];

/// Services and node ports, for echo requests: as kube-proxy has them for TCP and UDP.
const TRANSLATIONS: &str = "table inet services {
  chain prerouting { type nat hook prerouting priority dstnat;
    ip daddr 10.96.0.10 dnat ip to 10.0.1.32
    ip6 daddr fd00:96::10 dnat ip6 to fd00:10:0:2::32
    ip saddr 10.0.0.12 ip daddr { 10.0.0.11, 10.0.0.21 } icmp type echo-request dnat ip to 10.0.1.48
    ip6 saddr fd00:10::12 ip6 daddr { fd00:10::11, fd00:10::21 } icmpv6 type echo-request dnat ip6 to fd00:10:0:3::48
  }
}";

fn every_way(node1: &Node, node2: &Node, what: &str) {
    for (pod, own) in [("first", OF_ETH1), ("second", OF_ETH2)] {
        for family in 0..2 {
            let reaches = |to: &[&str]| assert!(pings(node1, Some(pod), to), "{what}: {pod} does not reach {to:?}");
            reaches(&[REMOTE[family]]);
            // Fragments take the stack.
            reaches(&["-s", "20000", REMOTE[family]]);
            reaches(&[SERVICE[family]]);
            reaches(&[["203.0.113.10", "2001:db8:113::10"][family]]);
            reaches(&[if pod == "first" { OF_ETH2[family] } else { OF_ETH1[family] }]);
            reaches(&[["10.0.0.11", "fd00:10::11"][family]]);
            reaches(&[["10.0.0.12", "fd00:10::12"][family]]);
            assert!(pings(node2, Some("remote"), &[own[family]]), "{what}: nobody reaches {}", own[family]);
            assert!(pings(node1, None, &[own[family]]), "{what}: the node does not reach {}", own[family]);
        }
    }
    // Translated to the second pod: the answer has to come from the address that was asked, by its interface.
    for address in ["10.0.0.11", "10.0.0.21", "fd00:10::11", "fd00:10::21"] {
        assert!(pings(node2, None, &[address]), "{what}: node port on {address}");
    }
}

#[test]
fn the_endpoints_uplink_decides_the_way_out() {
    if !can_run("the_endpoints_uplink_decides_the_way_out") {
        return;
    }
    let lab = bring_up("uplinks");
    let (node1, node2, fabric) = (lab.node("node1").unwrap(), lab.node("node2").unwrap(), lab.node("vpc").unwrap());
    let daemon = cni::install(node1, NodeCni::Barewire, DAEMON_CONFIG).unwrap().unwrap();
    let _remote = cni::install(node2, NodeCni::Barewire, DAEMON_CONFIG).unwrap().unwrap();
    node1.write("/run/services.nft", TRANSLATIONS).unwrap();
    node1.run(&["nft", "-f", "/run/services.nft"]).unwrap();
    add_pod(node2, "remote", REMOTE);
    add_pod(node1, "first", OF_ETH1);
    add_pod(node1, "second", OF_ETH2);
    let carried = node1.run(&["wget", "-q", "-O", "-", "http://127.0.0.1:9807/debug/fast_path"]).unwrap();
    assert!(["eth1", "eth2"].iter().all(|uplink| carried.contains(uplink)), "{carried}");
    println!("uplinks carry the programs by {carried}");
    every_way(node1, node2, "fast path");
    assert_eq!(vpc::refused(fabric).unwrap(), Refused::default());
    let by_eth2 = |what: &str| {
        let counters = node1.run(&["cat", &format!("/sys/class/net/eth2/statistics/{what}")]).unwrap();
        counters.trim().parse::<u64>().unwrap()
    };
    assert!(by_eth2("tx_packets") > 10 && by_eth2("rx_packets") > 10);

    let off = variant(node1, "off", &[("[network]", "[network]\nfast_path = \"off\"")]);
    daemon.terminate().unwrap();
    let daemon = Daemon::start(node1, &off).unwrap();
    every_way(node1, node2, "stack");
    assert_eq!(vpc::refused(fabric).unwrap(), Refused::default());

    // Without its rule, the stack takes the wrong way, and the fabric refuses.
    node1.run(&["ip", "rule", "del", "fwmark", "1/0xf"]).unwrap();
    assert!(is_silent(node1, Some("second"), &[REMOTE[0]]));
    assert_eq!(vpc::refused(fabric).unwrap().spoofed_source, 1);
    daemon.terminate().unwrap();
    let daemon = Daemon::start(node1, &off).unwrap();
    assert!(pings(node1, Some("second"), &[REMOTE[0]]));

    // An uplink that is none any more leaves nothing behind.
    daemon.terminate().unwrap();
    let daemon = Daemon::start(node1, DAEMON_CONFIG).unwrap();
    daemon.terminate().unwrap();
    let text = std::fs::read_to_string(node1.host_path(DAEMON_CONFIG)).unwrap();
    let (head, rest) = text.split_once("[[uplink.secondary]]").unwrap();
    let (_, tail) = rest.split_once("[network]").unwrap();
    node1.write("/run/one.toml", format!("{head}[network]{tail}")).unwrap();
    let daemon = Daemon::start(node1, "/run/one.toml").unwrap();
    assert_eq!(node1.run(&["ip", "rule", "show", "fwmark", "1/0xf"]).unwrap(), "");
    let ifindex = node1.run(&["cat", "/sys/class/net/eth2/ifindex"]).unwrap();
    let found = node1.run(&["find", "/sys/fs/bpf/barewire", "-path", &format!("*/uplinks/{}*", ifindex.trim())]).unwrap();
    assert_eq!(found, "");
    daemon.terminate().unwrap();
    lab.down().unwrap();
}

#[test]
fn networks_are_changed_under_running_pods() {
    if !can_run("networks_are_changed_under_running_pods") {
        return;
    }
    let lab = bring_up("reload");
    let (node1, fabric) = (lab.node("node1").unwrap(), lab.node("vpc").unwrap());
    let daemon = cni::install(node1, NodeCni::Barewire, DAEMON_CONFIG).unwrap().unwrap();
    daemon.terminate().unwrap();
    let path = variant(node1, "changing", &[]);
    let original = std::fs::read_to_string(node1.host_path(&path)).unwrap();
    let daemon = Daemon::start(node1, &path).unwrap();
    add_pod(node1, "first", OF_ETH1);
    let internet = "203.0.113.10";
    let scopes = || {
        let metrics = node1.run(&["wget", "-q", "-O", "-", "http://127.0.0.1:9807/metrics"]).unwrap();
        let line = |scope: &str| {
            metrics.lines().any(|line| line.starts_with("barewire_packets_total{") && line.contains("pod=\"\"") && line.contains(scope))
        };
        (line("scope=\"vpc\""), line("scope=\"service\""), line("scope=\"internet\""))
    };
    let reload = |text: &str, heard: &str| {
        node1.write(&path, text).unwrap();
        daemon.reload(heard).unwrap();
    };

    assert!(pings(node1, Some("first"), &[internet]));
    // As native, the internet sees the pod's own address, which the fabric does not let out.
    reload(&original.replace("[\"10.0.0.0/16\"", "[\"203.0.113.0/24\", \"10.0.0.0/16\""), "configuration reloaded");
    assert!(is_silent(node1, Some("first"), &[internet]));
    assert!(vpc::refused(fabric).unwrap().not_translated > 0);
    // What cannot be used changes nothing.
    reload("nonsense", "the old one stays");
    assert!(is_silent(node1, Some("first"), &[internet]));
    let services = "[network]\nservice_cidrs = [\"203.0.113.0/24\"]";
    reload(&original.replace("[network]", services), "configuration reloaded");
    assert!(pings(node1, Some("first"), &[internet]));
    assert!(scopes().1, "{:?}", scopes());
    // The rest has to wait, and the log says so.
    reload(&original.replace("cooldown_seconds = 2", "cooldown_seconds = 3"), "when barewired restarts");
    assert!(pings(node1, Some("first"), &[internet]));
    lab.down().unwrap();
}
