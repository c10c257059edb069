//! Random changes, replicas that lag, re-list and restart, nodes that are slow, cut off, restarted and lie: in the end everybody has what the
//! API server has. No network and no clock but the test's.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::VecDeque;

use fleet_api::message::{Directive, FromFleet, ToFleet, ToNode};
use fleet_api::{Change, Decoder, FRAME_MAX, Heard, Kind, Limits, NodeState, Replica, Saved, Session, Table, decode, encode};
use proptest::prelude::*;

const NODES: usize = 3;
const REPLICAS: usize = 2;
/// So few that nodes fall behind them.
const LIMITS: Limits = Limits { changes: 40, bytes: 8_000 };
/// So long that changes are gathered.
const VALUE: usize = 24;

#[derive(Debug, Clone)]
enum Step {
    /// An object changes in the API server.
    Change { kind: usize, key: u8, value: Option<u8> },
    /// A replica hears some of the events that it lacks.
    Follow { replica: usize, events: usize },
    /// A replica's watch has expired: it lists.
    List { replica: usize },
    /// A replica ends and starts empty.
    Restart { replica: usize },
    /// A node connects to a replica, or to another one.
    Connect { node: usize, replica: usize },
    /// A connection ends in the middle of a frame.
    Cut { node: usize, after: usize },
    /// A replica sends.
    Send { node: usize, budget: usize },
    /// A node reads.
    Read { node: usize, bytes: usize },
    /// A node's table is not what it says.
    Lie { node: usize, kind: usize, key: u8 },
    /// A node ends, and starts with what it has saved.
    Reboot { node: usize },
    /// A checkpoint is due, half a minute later.
    Checkpoint { node: usize },
    /// A node gets an order.
    Direct { node: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let (node, replica, kind) = (0..NODES, 0..REPLICAS, 0..Kind::ALL.len());
    prop_oneof![
        20 => (kind.clone(), 0..24_u8, proptest::option::weighted(0.8, any::<u8>())).prop_map(|(kind, key, value)| Step::Change { kind, key, value }),
        10 => (replica.clone(), 1..30_usize).prop_map(|(replica, events)| Step::Follow { replica, events }),
        1 => replica.clone().prop_map(|replica| Step::List { replica }),
        1 => replica.clone().prop_map(|replica| Step::Restart { replica }),
        3 => (node.clone(), replica).prop_map(|(node, replica)| Step::Connect { node, replica }),
        1 => (node.clone(), 0..400_usize).prop_map(|(node, after)| Step::Cut { node, after }),
        10 => (node.clone(), 1..3_000_usize).prop_map(|(node, budget)| Step::Send { node, budget }),
        10 => (node.clone(), 1..3_000_usize).prop_map(|(node, bytes)| Step::Read { node, bytes }),
        1 => (node.clone(), kind, 0..24_u8).prop_map(|(node, kind, key)| Step::Lie { node, kind, key }),
        1 => node.clone().prop_map(|node| Step::Reboot { node }),
        2 => node.clone().prop_map(|node| Step::Checkpoint { node }),
        1 => node.prop_map(|node| Step::Direct { node }),
    ]
}

/// The API server: every event there was, numbered by one counter.
#[derive(Default)]
struct Truth {
    version: u64,
    events: Vec<(Kind, u64, Change)>,
    tables: [Table; Kind::ALL.len()],
}

impl Truth {
    fn change(&mut self, kind: Kind, change: Change) {
        self.version += 1;
        self.tables[kind.number() as usize - 1].apply(change.clone());
        self.events.push((kind, self.version, change));
    }
}

struct Following {
    replica: Replica,
    /// How many events it has heard.
    heard: usize,
}

impl Following {
    fn list(&mut self, truth: &Truth) {
        for kind in Kind::ALL {
            // 1 in an empty cluster: no list is as of 0.
            self.replica.log_mut(kind).replace(truth.version + 1, truth.tables[kind.number() as usize - 1].clone());
        }
        self.heard = truth.events.len();
    }

    fn follow(&mut self, truth: &Truth, events: usize) {
        for (kind, version, change) in truth.events.iter().skip(self.heard).take(events) {
            self.replica.log_mut(*kind).record(version + 1, vec![change.clone()]);
            self.heard += 1;
        }
    }
}

struct Node {
    name: String,
    state: NodeState,
    saved: Vec<u8>,
    connection: Option<Connection>,
    directed: u64,
}

struct Connection {
    replica: usize,
    session: Session,
    sent: VecDeque<u8>,
    decoder: Decoder,
}

struct World {
    truth: Truth,
    following: Vec<Following>,
    nodes: Vec<Node>,
    now: u64,
}

fn fresh() -> Replica {
    Replica::new("cluster", Vec::new(), LIMITS)
}

impl World {
    fn new() -> Self {
        let node = |number| {
            let state = NodeState::default();
            Node { name: format!("node-{number}"), saved: Saved::encode(&state, 0), state, connection: None, directed: 0 }
        };
        let following = || Following { replica: fresh(), heard: 0 };
        Self {
            truth: Truth::default(),
            following: std::iter::repeat_with(following).take(REPLICAS).collect(),
            nodes: (0..NODES).map(node).collect(),
            now: 0,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Change { kind, key, value } => {
                let value = value.map(|value| vec![value; VALUE]);
                self.truth.change(Kind::ALL[kind], Change { key: vec![key], value });
            }
            Step::Follow { replica, events } => {
                let following = &mut self.following[replica];
                // One that has read nothing yet lists first.
                if following.replica.is_ready() { following.follow(&self.truth, events) } else { following.list(&self.truth) }
            }
            Step::List { replica } => self.following[replica].list(&self.truth),
            Step::Restart { replica } => {
                self.following[replica] = Following { replica: fresh(), heard: 0 };
                for node in &mut self.nodes {
                    node.connection.take_if(|connection| connection.replica == replica);
                }
            }
            Step::Connect { node, replica } => self.connect(node, replica),
            Step::Cut { node, after } => {
                self.read(node, after);
                self.nodes[node].connection = None;
            }
            Step::Send { node, budget } => {
                self.send(node, budget);
            }
            Step::Read { node, bytes } => {
                self.read(node, bytes);
            }
            Step::Lie { node, kind, key } => self.lie(node, Kind::ALL[kind], key),
            Step::Reboot { node } => {
                let node = &mut self.nodes[node];
                node.state = Saved::decode(&node.saved).unwrap().state;
                node.connection = None;
            }
            Step::Checkpoint { node } => self.checkpoint(node),
            Step::Direct { node } => {
                self.nodes[node].directed += 1;
                self.direct();
            }
        }
    }

    /// Whoever decides it tells all replicas, and one that has restarted again.
    fn direct(&mut self) {
        for node in self.nodes.iter().filter(|node| node.directed > 0) {
            let directive = Directive { number: node.directed, cordon: node.directed % 2 == 1, ..Directive::default() };
            self.following.iter_mut().for_each(|following| following.replica.direct(&node.name, directive.clone()));
        }
    }

    fn connect(&mut self, node: usize, replica: usize) {
        let node = &mut self.nodes[node];
        let hello = ToFleet { message: Some(fleet_api::message::FromNode::Hello(node.state.hello(&node.name, "test"))) };
        let (session, welcome) = Session::open(hello.message, &node.name, &self.following[replica].replica).unwrap();
        node.connection = Some(Connection { replica, session, sent: welcome.into_iter().collect(), decoder: Decoder::new(FRAME_MAX) });
    }

    fn send(&mut self, node: usize, budget: usize) -> usize {
        let Some(connection) = &mut self.nodes[node].connection else { return 0 };
        let frames = connection.session.next(&mut self.following[connection.replica].replica, budget);
        let bytes = frames.concat();
        connection.sent.extend(&bytes);
        bytes.len()
    }

    fn read(&mut self, node: usize, bytes: usize) -> usize {
        let node = &mut self.nodes[node];
        let Some(connection) = &mut node.connection else { return 0 };
        let some: Vec<u8> = connection.sent.drain(..bytes.min(connection.sent.len())).collect();
        connection.decoder.push(&some);
        while let Some(frame) = connection.decoder.next_frame().unwrap() {
            let message: FromFleet = decode(&frame).unwrap();
            match node.state.hear(message.message).unwrap() {
                Heard::Diverged(_, answer) | Heard::Checkpoint(answer) => connection.session.hear(Some(answer), self.now).unwrap(),
                Heard::Replaced(_) => node.saved = Saved::encode(&node.state, self.now),
                Heard::Changed(..) | Heard::Directed(_) | Heard::Acquainted | Heard::Nothing => {}
            }
        }
        some.len()
    }

    /// A delta that the replica never sent, with a checksum to its liking.
    fn lie(&mut self, node: usize, kind: Kind, key: u8) {
        let state = &mut self.nodes[node].state;
        let change = Change { key: vec![key], value: Some(vec![99; VALUE]) };
        let mut table = state.table(kind).clone();
        table.apply(change.clone());
        let mut after = state.position(kind);
        after.checksum = table.checksum();
        let entry = fleet_api::message::Entry { key: change.key, value: change.value.unwrap() };
        let delta = fleet_api::message::Delta { after: Some(after), puts: vec![entry], deletes: Vec::new() };
        state.hear(Some(ToNode::Delta(delta))).unwrap();
    }

    fn checkpoint(&mut self, node: usize) {
        self.now += 30_000;
        let Some(connection) = &mut self.nodes[node].connection else { return };
        let replica = &self.following[connection.replica].replica;
        connection.session.stop_waiting(replica);
        connection.sent.extend(connection.session.checkpoint(replica));
    }

    /// Nothing more goes wrong.
    fn settle(&mut self) {
        self.direct();
        for following in &mut self.following {
            if !following.replica.is_ready() {
                following.list(&self.truth);
            }
            following.follow(&self.truth, usize::MAX);
        }
        for node in 0..NODES {
            if self.nodes[node].connection.is_none() {
                self.connect(node, node % REPLICAS);
            }
            // Twice: the second checkpoint finds what the first has mended.
            for _ in 0..2 {
                while self.send(node, 4_000) + self.read(node, usize::MAX) > 0 {}
                self.checkpoint(node);
                while self.send(node, 4_000) + self.read(node, usize::MAX) > 0 {}
            }
        }
    }

    fn divergence(&self) -> usize {
        let wrong = |table: &Table, kind: Kind| *table != self.truth.tables[kind.number() as usize - 1];
        let replicas = self.following.iter().flat_map(|it| Kind::ALL.map(|kind| wrong(it.replica.log(kind).table(), kind)));
        let nodes = self.nodes.iter().flat_map(|it| Kind::ALL.map(|kind| wrong(it.state.table(kind), kind)));
        replicas.chain(nodes).filter(|is_wrong| *is_wrong).count()
    }
}

/// `BAREWIRE_FLEET_STEPS=1000000` for the long run.
fn cases() -> u32 {
    let steps: u32 = std::env::var("BAREWIRE_FLEET_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(120_000);
    (steps / STEPS as u32).max(1)
}

/// In the mean, of one case.
const STEPS: usize = 400;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everybody_has_in_the_end_what_the_api_server_has(steps in proptest::collection::vec(step(), 1..=2 * STEPS)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.settle();
        prop_assert_eq!(world.divergence(), 0);
        for node in &world.nodes {
            prop_assert_eq!(node.state.directive().map_or(0, |directive| directive.number), node.directed);
        }
    }

    #[test]
    fn no_bytes_break_a_node(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::new(FRAME_MAX);
        decoder.push(&bytes);
        drop(decoder.next_frame());
        if let Ok(message) = decode::<FromFleet>(&bytes) {
            drop(NodeState::default().hear(message.message));
        }
        drop(Saved::decode(&bytes));
    }
}

/// A node's connection to one replica, without anything going wrong.
fn connected(world: &mut World) {
    world.take(Step::Follow { replica: 0, events: 1 });
    world.connect(0, 0);
    while world.send(0, 4_000) + world.read(0, usize::MAX) > 0 {}
}

#[test]
fn a_node_goes_on_at_another_replica_without_a_snapshot() {
    let mut world = World::new();
    for key in 0..20 {
        world.take(Step::Change { kind: 0, key, value: Some(1) });
    }
    world.take(Step::Follow { replica: 1, events: 1 });
    connected(&mut world);
    for key in 0..10 {
        world.take(Step::Change { kind: 0, key, value: Some(2) });
        world.take(Step::Follow { replica: 1, events: 1 });
    }
    world.connect(0, 1);
    while world.send(0, 4_000) + world.read(0, usize::MAX) > 0 {}
    assert_eq!(world.nodes[0].connection.as_ref().unwrap().session.snapshots(), 0);
    assert_eq!(world.nodes[0].state.table(Kind::Services), &world.truth.tables[0]);
}

#[test]
fn a_calm_kind_needs_no_snapshot_after_a_restart_of_the_replica() {
    let mut world = World::new();
    world.take(Step::Change { kind: 0, key: 1, value: Some(1) });
    connected(&mut world);
    // The other kind has moved on, and this one's position with it: the node has not heard of that.
    world.take(Step::Change { kind: 1, key: 1, value: Some(1) });
    world.take(Step::Restart { replica: 0 });
    connected(&mut world);
    assert_eq!(world.nodes[0].connection.as_ref().unwrap().session.snapshots(), 1, "of the other kind alone");
    for kind in Kind::ALL {
        assert_eq!(world.nodes[0].state.table(kind), &world.truth.tables[kind.number() as usize - 1]);
    }
}

#[test]
fn a_slow_node_gets_each_key_once() {
    let mut world = World::new();
    world.take(Step::Change { kind: 0, key: 0, value: Some(0) });
    connected(&mut world);
    for value in 0..40 {
        world.take(Step::Change { kind: 0, key: 0, value: Some(value) });
        world.take(Step::Follow { replica: 0, events: 1 });
    }
    let sent = world.send(0, usize::MAX);
    assert!(sent < 100, "{sent} bytes for one key");
    world.read(0, usize::MAX);
    assert_eq!(world.nodes[0].state.table(Kind::Services), &world.truth.tables[0]);
}

#[test]
fn many_cold_nodes_share_one_snapshot() {
    let mut world = World::new();
    for key in 0..100 {
        world.take(Step::Change { kind: 1, key, value: Some(1) });
    }
    world.take(Step::Follow { replica: 0, events: 1 });
    for round in 0..10 {
        world.nodes[0].state = NodeState::default();
        world.take(Step::Change { kind: 1, key: 0, value: Some(round) });
        connected(&mut world);
        assert_eq!(world.nodes[0].state.table(Kind::Endpoints), &world.truth.tables[1]);
    }
    let encodes = world.following[0].replica.log(Kind::Endpoints).snapshot_encodes();
    assert!(encodes <= 10, "{encodes}");
}

#[test]
fn who_looks_at_others_is_told_when_its_peers_change_or_there_are_none_and_nobody_else_is() {
    use fleet_api::message::{FromNode, Hello, Peer, Peers};
    let mut replica = fresh();
    let open = |replica: &Replica, looks| {
        let hello = Hello { looks, ..NodeState::default().hello("a", "test") };
        Session::open(Some(FromNode::Hello(hello)), "a", replica).unwrap().0
    };
    let told = |session: &mut Session, replica: &mut Replica| -> Vec<Peers> {
        let frames = session.next(replica, usize::MAX);
        let messages = frames.iter().map(|frame| decode::<FromFleet>(&frame[4..]).unwrap().message);
        messages.filter_map(|message| if let Some(ToNode::Peers(peers)) = message { Some(peers) } else { None }).collect()
    };
    let peers = |name: &str| Peers { targets: vec![Peer { name: name.to_owned(), ..Peer::default() }], ..Peers::default() };
    let (mut looks, mut does_not) = (open(&replica, true), open(&replica, false));
    assert_eq!(told(&mut looks, &mut replica), [], "it has none and was told of none");
    replica.acquaint("a", Some(peers("b")));
    replica.acquaint("b", Some(peers("a")));
    assert_eq!(told(&mut looks, &mut replica), [peers("b")]);
    assert_eq!(told(&mut looks, &mut replica), [], "once");
    // The last of several, to who comes later as well.
    replica.acquaint("a", Some(peers("c")));
    replica.acquaint("a", Some(peers("d")));
    assert_eq!(told(&mut looks, &mut replica), [peers("d")]);
    assert_eq!(told(&mut open(&replica, true), &mut replica), [peers("d")]);
    replica.acquaint("a", None);
    assert_eq!(told(&mut looks, &mut replica), [Peers::default()]);
    assert_eq!(told(&mut looks, &mut replica), []);
    assert_eq!(told(&mut does_not, &mut replica), []);
    let mut node = NodeState::default();
    assert_eq!(node.hear(Some(ToNode::Peers(peers("b")))).unwrap(), Heard::Acquainted);
    assert_eq!((node.peers(), node.told().peers()), (&peers("b"), &peers("b")));
}

#[test]
fn a_file_that_is_cut_or_damaged_is_seen() {
    let mut world = World::new();
    world.take(Step::Change { kind: 0, key: 1, value: Some(1) });
    connected(&mut world);
    let bytes = Saved::encode(&world.nodes[0].state, 7);
    let saved = Saved::decode(&bytes).unwrap();
    assert_eq!((saved.at, saved.state.table(Kind::Services)), (7, &world.truth.tables[0]));
    for end in 0..bytes.len() {
        assert!(Saved::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        // The length is not summed: zstd knows its own.
        assert!(Saved::decode(&damaged).is_err() || (16..24).contains(&at), "a bit at {at}");
    }
}

#[test]
fn a_replica_may_not_send_half_a_snapshot() {
    let piece = |offset, data: &[u8]| {
        let at = Some(fleet_api::message::Position { kind: 1, resource_version: 5, checksum: 0 });
        ToNode::Piece(fleet_api::message::Piece { at, offset, packed: 10, unpacked: 10, data: data.to_vec() })
    };
    let mut state = NodeState::default();
    assert_eq!(state.hear(Some(piece(0, b"12345"))).unwrap(), Heard::Nothing);
    assert!(state.hear(Some(piece(6, b"7890"))).unwrap_err().to_string().contains("at 6, after 5 bytes of 10"));
    // As a new connection begins, the old half is forgotten.
    assert_eq!(state.hear(Some(piece(0, b"12345"))).unwrap(), Heard::Nothing);
    state.hello("node", "test");
    assert!(state.hear(Some(piece(5, b"67890"))).is_err());
    // The lie of a length bounds what is taken.
    assert!(state.hear(Some(piece(0, b"12345678901"))).is_err());
    let frame = encode(&FromFleet { message: Some(piece(0, b"1")) });
    assert!(frame.len() < 64);
}
