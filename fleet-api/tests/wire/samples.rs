//! A value of every message with every field set to something of its own, as each version had them. A new field does not compile here until it has
//! been thought of: add it with its default to what is there, and a sample that has it, with its line in `said.txt`.

use fleet_api::EndpointsKey;
use fleet_api::message::*;
use prost::Message;

/// As in `said.txt`.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) value: Value,
    /// Paths of field numbers to the messages in it.
    pub(crate) messages: &'static [&'static [u32]],
}

/// What travels: a frame, an unpacked snapshot, or a value of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    ToFleet(ToFleet),
    FromFleet(FromFleet),
    Entries(Entries),
    Service(Service),
    SliceHead(SliceHead),
    Endpoint(Endpoint),
}

impl Value {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::ToFleet(value) => value.encode_to_vec(),
            Self::FromFleet(value) => value.encode_to_vec(),
            Self::Entries(value) => value.encode_to_vec(),
            Self::Service(value) => value.encode_to_vec(),
            Self::SliceHead(value) => value.encode_to_vec(),
            Self::Endpoint(value) => value.encode_to_vec(),
        }
    }

    /// Of bytes, of the same type as this.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Self {
        match self {
            Self::ToFleet(_) => Self::ToFleet(Message::decode(bytes).unwrap()),
            Self::FromFleet(_) => Self::FromFleet(Message::decode(bytes).unwrap()),
            Self::Entries(_) => Self::Entries(Message::decode(bytes).unwrap()),
            Self::Service(_) => Self::Service(Message::decode(bytes).unwrap()),
            Self::SliceHead(_) => Self::SliceHead(Message::decode(bytes).unwrap()),
            Self::Endpoint(_) => Self::Endpoint(Message::decode(bytes).unwrap()),
        }
    }
}

fn node(message: FromNode) -> Value {
    Value::ToFleet(ToFleet { message: Some(message) })
}

fn fleet(message: ToNode) -> Value {
    Value::FromFleet(FromFleet { message: Some(message) })
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn at(kind: u32, resource_version: u64, checksum: u64) -> Position {
    Position { kind, resource_version, checksum }
}

fn report() -> Report {
    let finding = Finding {
        check: text("gateway"),
        about: About::Peer.into(),
        peer: text("n2"),
        outcome: Outcome::Failed.into(),
        seen: text("no answer"),
        run: 300,
    };
    Report { findings: vec![finding], preflight: Some(preflight()), pods: None }
}

fn preflight() -> Preflight {
    let (state, evidence) = (PreflightState::Passed.into(), vec![text("ok")]);
    Preflight { state, boot: text("b1"), since_seconds: 1_700_000_000, evidence, run: 0, hears: false, measured: vec![] }
}

pub(crate) fn service() -> Service {
    Service {
        cluster_ips: vec![vec![10, 96, 0, 1]],
        ports: vec![ServicePort { name: text("http"), protocol: Protocol::Udp.into(), port: 80, node_port: 30_080 }],
        external_ips: vec![vec![192, 0, 2, 1]],
        load_balancer_ips: vec![vec![192, 0, 2, 2]],
        source_ranges: vec![text("10.0.0.0/8")],
        internal_local: true,
        external_local: true,
        affinity_seconds: 10_800,
        health_check_node_port: 31_000,
    }
}

fn head() -> SliceHead {
    let port = SlicePort { name: text("http"), protocol: Protocol::Sctp.into(), port: 8_080 };
    SliceHead { service: text("default/web"), ports: vec![port] }
}

fn endpoint() -> Endpoint {
    Endpoint {
        ready: true,
        serving: true,
        terminating: true,
        node: text("n1"),
        zone: text("z1"),
        for_zones: vec![text("z1")],
        for_nodes: vec![text("n1")],
    }
}

/// One service as of 7, over and above none.
fn delta() -> Delta {
    let entry = Entry { key: b"default/web".to_vec(), value: service().encode_to_vec() };
    Delta { after: Some(at(1, 7, SUM_OF_WEB)), puts: vec![entry], deletes: vec![b"default/gone".to_vec()] }
}

/// What a table with that service alone sums up to.
pub(crate) const SUM_OF_WEB: u64 = 0xe35f_d263_c325_8425;

/// All, in the order of `said.txt`.
pub(crate) fn samples() -> Vec<Sample> {
    let sample = |name, value, messages| Sample { name, value, messages };
    let key = EndpointsKey::Endpoint([7; 16], [10, 0, 0, 1].into());
    let hello = Hello {
        versions: Some(Versions { oldest: 1, newest: 1 }),
        node: text("n1"),
        positions: vec![at(1, 5, 0x0102_0304_0506_0708), at(2, 6, 9)],
        cluster: text("cluster"),
        directive: 3,
        program: text("barewire 0.1.0"),
        looks: false,
    };
    let piece = Piece { at: Some(at(2, 6, 9)), offset: 65_536, packed: 70_000, unpacked: 200_000, data: vec![1, 2, 3] };
    let directive = Directive { number: 4, cordon: true, checks: vec![text("disk")] };
    let forwarded = Forwarded { nodes: 2, reports: vec![NodeReport { node: text("n1"), report: Some(report()) }] };
    let entries = Entries { entries: vec![Entry { key: key.encode(), value: endpoint().encode_to_vec() }] };
    let welcome = Welcome { version: 1, cluster: text("cluster"), replicas: vec![text("10.0.0.1:7443")], orders: false };
    let orders = Welcome { orders: true, ..Welcome::default() };
    let request = StatusRequest { versions: Some(Versions { oldest: 1, newest: 1 }) };
    let connected =
        ConnectedNode { name: text("n1"), address: text("10.0.0.9:4000"), age_millis: 5, lag: Some(0), confirmed_millis: Some(300) };
    let status = Status {
        replica: text("10.0.0.1:7443"),
        program: text("barewire-fleet 0.1.0"),
        cluster: text("cluster"),
        leads: true,
        leader: text("10.0.0.2:7443"),
        ready: true,
        positions: vec![at(1, 7, SUM_OF_WEB)],
        replicas: vec![text("10.0.0.1:7443")],
        nodes: vec![connected],
        more: true,
    };
    let target = Peer { name: text("n2"), addresses: vec![vec![10, 0, 0, 2]] };
    let peers = Peers { targets: vec![target], witnesses: vec![vec![10, 0, 0, 3]], own: vec![vec![10, 0, 0, 1]] };
    let with = Peer { name: text("n2"), addresses: vec![vec![10, 0, 0, 2]] };
    let order = Order { waits: true, run: 9, with: vec![with], measured_by: vec![vec![10, 0, 0, 3]] };
    let measured = Measured { peer: text("n2"), round_trip_micros: 90, received_mbit: 24_000, sent_mbit: 23_000 };
    let told = Preflight { state: PreflightState::Waiting.into(), run: 9, hears: true, measured: vec![measured], ..preflight() };
    let told = Report { preflight: Some(told), ..Report::default() };
    vec![
        sample("hello", node(FromNode::Hello(hello)), &[&[1], &[1, 1], &[1, 3]]),
        sample("resync", node(FromNode::Resync(Resync { kind: 1 })), &[&[2]]),
        sample("seen", node(FromNode::Seen(Seen { positions: vec![at(1, 7, SUM_OF_WEB)] })), &[&[3], &[3, 1]]),
        sample("report", node(FromNode::Report(report())), &[&[4], &[4, 1], &[4, 2]]),
        sample("forwarded", node(FromNode::Forwarded(forwarded)), &[&[5], &[5, 2], &[5, 2, 2], &[5, 2, 2, 1], &[5, 2, 2, 2]]),
        sample("welcome", fleet(ToNode::Welcome(welcome)), &[&[1]]),
        sample("delta", fleet(ToNode::Delta(delta())), &[&[2], &[2, 1], &[2, 2]]),
        sample("piece", fleet(ToNode::Piece(piece)), &[&[3], &[3, 1]]),
        sample("checkpoint", fleet(ToNode::Checkpoint(Checkpoint { positions: vec![at(1, 7, SUM_OF_WEB)] })), &[&[4], &[4, 1]]),
        sample("directive", fleet(ToNode::Directive(directive)), &[&[5]]),
        sample("moved", fleet(ToNode::Moved(Moved { replica: text("10.0.0.2:7443"), within_millis: 30_000 })), &[&[6]]),
        sample("refused", fleet(ToNode::Refused(Refused { reason: text("full"), retry_after_millis: 10_000 })), &[&[7]]),
        sample("entries", Value::Entries(entries), &[&[1]]),
        sample("service", Value::Service(service()), &[&[2]]),
        sample("slice_head", Value::SliceHead(head()), &[&[2]]),
        sample("endpoint", Value::Endpoint(endpoint()), &[]),
        // Since nodes look at each other, tell how many pods they have, and replicas how they stand.
        sample("hello_that_looks", node(FromNode::Hello(Hello { looks: true, ..Hello::default() })), &[&[1]]),
        sample("report_of_pods", node(FromNode::Report(Report { pods: Some(110), ..Report::default() })), &[&[4]]),
        sample("report_of_no_pods", node(FromNode::Report(Report { pods: Some(0), ..Report::default() })), &[&[4]]),
        sample("status_request", node(FromNode::StatusRequest(request)), &[&[6], &[6, 1]]),
        sample("status", fleet(ToNode::Status(status)), &[&[8], &[8, 7], &[8, 9]]),
        sample("peers", fleet(ToNode::Peers(peers)), &[&[9], &[9, 1]]),
        // Since nodes are told when their preflights are to run.
        sample("welcome_that_orders", fleet(ToNode::Welcome(orders)), &[&[1]]),
        sample("order", fleet(ToNode::Order(order)), &[&[10], &[10, 3]]),
        sample("report_of_a_run", node(FromNode::Report(told)), &[&[4], &[4, 2], &[4, 2, 7]]),
    ]
}
