//! Three nodes on one switch, in network namespaces: paths that lose packets, nodes that are cut off, daemons that are away; and what the fleet's
//! leader makes of what the nodes say.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::Command;

use conformance_tests::netns::Netns;
use fleet_api::message::{About, Outcome, Peer, Report};
use fleet_plans::health::{self as plan, Leader, Settings};
use fleet_plans::node::Node as Planned;

use super::datagram::{LENGTH, question};
use super::*;
use crate::health::Board;

const PORT: u16 = 7_445;
const SOON: Duration = Duration::from_secs(20);
const NAMES: [&str; 3] = ["a", "b", "c"];

fn address(node: usize) -> IpAddr {
    IpAddr::from([10, 77, 0, node as u8 + 1])
}

/// Runs a program in a namespace; it has to succeed.
fn run(namespace: &Netns, command: &str) {
    let _inside = namespace.enter().unwrap();
    let words: Vec<_> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Node {
    namespace: Netns,
    told: Told,
    look: PacedLook,
    writer: Writer,
    board: Arc<Board>,
    answers: Option<Clockwork>,
}

impl Node {
    /// Answers from now on.
    fn answer(&mut self) {
        let _inside = self.namespace.enter().unwrap();
        self.answers = Some(keep_answering(Arc::clone(&self.told), PORT).unwrap());
    }

    /// One look, and what is said then.
    fn looks(&mut self) -> Report {
        let _inside = self.namespace.enter().unwrap();
        self.writer.begin("peers");
        let (verdict, _) = (self.look)(Duration::ZERO);
        self.writer.end("peers", verdict);
        self.board.reports().borrow().clone()
    }
}

/// The switch and the nodes on it; nothing, and why is printed, where that cannot be.
fn nodes(folder: &Path) -> Option<(Netns, Vec<Node>)> {
    let switch = match Netns::create(folder.join("switch")) {
        Ok(namespace) => namespace,
        Err(error) => {
            assert!(std::env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "required, but {error}");
            println!("SKIP {error}");
            return None;
        }
    };
    run(&switch, "ip link add br0 type bridge");
    run(&switch, "ip link set br0 up");
    run(&switch, "ip address add 10.77.0.100/24 dev br0");
    let node = |number: usize| {
        let namespace = Netns::create(folder.join(NAMES[number])).unwrap();
        run(&switch, &format!("ip link add port{number} type veth peer name eth0 netns {}", namespace.path().display()));
        run(&switch, &format!("ip link set port{number} master br0 up"));
        run(&namespace, &format!("ip address add {}/24 dev eth0", address(number)));
        run(&namespace, "ip link set eth0 up");
        let others = || (0..NAMES.len()).filter(move |other| *other != number);
        let peers = Peers {
            targets: others().map(|other| Peer { name: NAMES[other].to_owned(), addresses: vec![Peers::bytes(address(other))] }).collect(),
            witnesses: others().map(|other| Peers::bytes(address(other))).collect(),
            own: vec![Peers::bytes(address(number))],
        };
        let told: Told = Arc::new(move || Some(peers.clone()));
        let board = Board::new();
        let writer = board.renew();
        writer.add_for_peers("peers", SOON);
        let look = look(Arc::clone(&told), PORT, Duration::from_secs(1), writer.clone());
        let mut node = Node { namespace, told, look, writer, board, answers: None };
        node.answer();
        node
    };
    let nodes = (0..NAMES.len()).map(node).collect();
    Some((switch, nodes))
}

/// What each says of each other.
fn said(reports: &[Report]) -> BTreeMap<(&'static str, String), Outcome> {
    let of = |(node, report): (usize, &Report)| {
        let findings = report.findings.clone().into_iter().filter(|finding| finding.about() == About::Peer);
        findings.map(move |finding| ((NAMES[node], finding.peer.clone()), finding.outcome())).collect::<Vec<_>>()
    };
    reports.iter().enumerate().flat_map(of).collect()
}

/// Looks until nodes say so of each other, and then as often as the leader needs to believe it: whom it taints.
fn until(what: &str, nodes: &mut [Node], pause: Duration, is: impl Fn(&BTreeMap<(&str, String), Outcome>) -> bool) -> Vec<String> {
    let planned = NAMES.map(|name| (name.to_owned(), Planned { name: name.to_owned(), is_ready: true, ..Planned::default() })).into();
    let settings = Settings { dry_run: false, quiet: 0, breaker_permille: 1_000, ..Settings::default() };
    let mut leader = Leader::new(settings, 0, &planned);
    let (mut tainted, mut seen_for) = (Vec::new(), 0);
    for round in 0..200_u64 {
        std::thread::sleep(pause);
        let reports: Vec<_> = nodes.iter_mut().map(Node::looks).collect();
        let now = round * 500;
        for (node, finding) in reports.iter().enumerate().flat_map(|(node, report)| report.findings.iter().map(move |it| (node, it))) {
            let verdict = match finding.outcome() {
                Outcome::Ok => plan::Verdict::Good,
                Outcome::Failed => plan::Verdict::Bad(finding.seen.clone()),
                Outcome::Unknown => continue,
            };
            let about = plan::About::Peer(finding.peer.clone());
            leader.hear(now, plan::Report { node: NAMES[node].to_owned(), about, check: finding.check.clone(), verdict });
        }
        tainted.extend(leader.acts(now, &planned).into_iter().filter_map(|act| act.node));
        let said = said(&reports);
        seen_for = if is(&said) { seen_for + 1 } else { 0 };
        if seen_for > 8 {
            tainted.dedup();
            return tainted;
        }
    }
    panic!("{what}: {:?}", nodes.iter_mut().map(Node::looks).collect::<Vec<_>>());
}

#[test]
fn a_path_that_loses_packets_is_told_by_one_and_a_node_that_is_cut_off_by_all() {
    let folder = tempfile::tempdir().unwrap();
    let Some((switch, mut nodes)) = nodes(folder.path()) else { return };
    let all = |said: &BTreeMap<(&str, String), Outcome>, bad: &[(&str, &str)]| {
        said.len() == 6
            && said
                .iter()
                .all(|((node, peer), outcome)| (*outcome == Outcome::Failed) == bad.contains(&(node, peer)) && *outcome != Outcome::Unknown)
    };
    assert!(until("all is well", &mut nodes, Duration::ZERO, |said| all(said, &[])).is_empty());

    // Half of what a asks c is lost: c hears and is heard by everybody else.
    run(&nodes[2].namespace, "nft add table ip t");
    run(&nodes[2].namespace, "nft add chain ip t in { type filter hook input priority 0 ; }");
    run(&nodes[2].namespace, "nft add rule ip t in ip saddr 10.77.0.1 udp dport 7445 numgen inc mod 2 == 0 drop");
    let tainted = until("a path loses packets", &mut nodes, Duration::ZERO, |said| all(said, &[("a", "c")]));
    assert!(tainted.is_empty(), "one witness is none: {tainted:?}");
    run(&nodes[2].namespace, "nft delete table ip t");
    until("it is mended", &mut nodes, Duration::ZERO, |said| all(said, &[]));

    // No daemon there: the kernel says so, and the way is good.
    drop(nodes[1].answers.take());
    std::thread::sleep(PATIENCE * 2);
    // A kernel says so once a second.
    assert!(until("a daemon is away", &mut nodes, Duration::from_secs(1), |said| all(said, &[])).is_empty());
    nodes[1].answer();

    // Cut off: all say so of it, it says so of all, and it is the one that is believed to be sick.
    run(&switch, "ip link set port2 down");
    let cut_off = [("a", "c"), ("b", "c"), ("c", "a"), ("c", "b")];
    assert_eq!(until("a node is cut off", &mut nodes, Duration::ZERO, |said| all(said, &cut_off)), ["c"]);
    run(&switch, "ip link set port2 up");
    until("it is back", &mut nodes, Duration::ZERO, |said| all(said, &[]));
}

#[test]
fn a_way_that_swallows_long_packets_is_told_and_one_whose_routers_say_so_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let Some((switch, mut nodes)) = nodes(folder.path()) else { return };
    let bad = |said: &BTreeMap<(&str, String), Outcome>| -> Vec<(String, String)> {
        assert_eq!(said.len(), 6);
        let failed = said.iter().filter(|(_, outcome)| **outcome == Outcome::Failed);
        failed.map(|((node, peer), _)| ((*node).to_owned(), peer.clone())).collect()
    };
    let is_all_well =
        |said: &BTreeMap<(&str, String), Outcome>| bad(said).is_empty() && said.values().all(|outcome| *outcome == Outcome::Ok);
    assert!(until("all is well", &mut nodes, Duration::ZERO, is_all_well).is_empty());

    // A switch's port takes less than the nodes think: no fragments, no word, and short packets pass.
    run(&switch, "ip link set port2 mtu 1400");
    let ways = [("a", "c"), ("b", "c"), ("c", "a"), ("c", "b")].map(|(node, peer)| (node.to_owned(), peer.to_owned()));
    assert_eq!(until("long packets are lost", &mut nodes, Duration::ZERO, |said| bad(said) == ways), ["c"]);
    let report = nodes[0].looks();
    let seen = report.findings.iter().find(|finding| finding.peer == "c").map(|finding| finding.seen.clone()).unwrap();
    assert!(seen.contains("packets of 1500 bytes lost, short ones are not") && seen.ends_with("(10.77.0.3)"), "{seen}");
    // Whoever knows of it sends less.
    for (node, peers) in [(0, &[2][..]), (1, &[2]), (2, &[0, 1])] {
        peers.iter().for_each(|peer| run(&nodes[node].namespace, &format!("ip route add {}/32 dev eth0 mtu 1400", address(*peer))));
    }
    assert!(until("all is well with less", &mut nodes, Duration::ZERO, is_all_well).is_empty());
}

#[test]
fn who_is_no_witness_is_not_answered() {
    let folder = tempfile::tempdir().unwrap();
    let Some((switch, mut nodes)) = nodes(folder.path()) else { return };
    let answer = |namespace: &Netns, from: &str| {
        let _inside = namespace.enter().unwrap();
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        socket.send_to(&question(7), (address(0), PORT)).unwrap();
        let mut bytes = [0; 64];
        socket.recv(&mut bytes).ok()
    };
    // Its thread has begun to listen when a witness is answered.
    let heard = (0..20).find_map(|_| answer(&nodes[1].namespace, "10.77.0.2"));
    assert_eq!(heard, Some(LENGTH), "an answer is as long as what asks");
    assert_eq!(answer(&switch, "10.77.0.100"), None);
    nodes.iter_mut().for_each(|node| drop(node.answers.take()));
}
