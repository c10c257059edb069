//! What versions before have said, as bytes (`said.txt`), is understood and said alike; what a version after this one may say is passed over.
//!
//! Lines of `said.txt` are never changed: nodes and replicas of two versions speak with each other during each upgrade. What is new gets a line.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod samples;
mod widen;

use std::collections::BTreeMap;

use fleet_api::message::{Checkpoint, Delta, Entry, FromFleet, FromNode, Hello, Piece, Position, ToFleet, ToNode, Versions};
use fleet_api::{Heard, Kind, Limits, NodeState, Replica, Session, Table, decode};
use prost::Message;
use samples::{Sample, Value, samples};
use widen::widen;

const SAID: &str = include_str!("said.txt");

/// By name; a name that is there twice is a fault.
fn said() -> BTreeMap<&'static str, Vec<u8>> {
    let mut said = BTreeMap::new();
    for line in SAID.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, hex) = line.split_once(' ').unwrap();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        assert!(said.insert(name, hex.as_bytes().chunks(2).map(byte).collect()).is_none(), "{name} twice");
    }
    said
}

#[test]
fn what_was_said_is_understood_and_said_alike() {
    let (said, samples) = (said(), samples());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lacks: Vec<_> = samples.iter().filter(|sample| !said.contains_key(sample.name)).collect();
    let lines: String = lacks.iter().map(|sample| format!("{} {}\n", sample.name, hex(&sample.value.encode()))).collect();
    assert!(lines.is_empty(), "said.txt lacks:\n{lines}");
    for Sample { name, value, .. } in &samples {
        let bytes = &said[name];
        assert_eq!(value.decode(bytes), *value, "{name} is understood as something else");
        assert_eq!(hex(&value.encode()), hex(bytes), "{name} is said in another way");
    }
    // The whole table of the sample's service, packed: the bytes of the packing are nobody's to promise.
    assert_eq!(said.len(), samples.len() + 1, "each line of said.txt is a sample, but for one");
    let mut node = NodeState::default();
    let message = |name: &str| decode::<FromFleet>(&said[name]).unwrap().message;
    node.hear(message("welcome")).unwrap();
    assert_eq!(node.hear(message("snapshot")).unwrap(), Heard::Replaced(Kind::Services));
    let known = node.table(Kind::Services).get(b"default/web").unwrap();
    assert_eq!(known, samples::service().encode_to_vec());
    assert!(matches!(node.hear(message("checkpoint")).unwrap(), Heard::Checkpoint(_)), "it sums up to what was said");
    // The same by a change, at a node that knows nothing.
    let mut node = NodeState::default();
    node.hear(message("welcome")).unwrap();
    assert!(matches!(node.hear(message("delta")).unwrap(), Heard::Changed(Kind::Services, keys) if keys == [b"default/web"]));
}

#[test]
fn fields_of_the_future_are_passed_over_in_every_message() {
    for Sample { name, value, messages } in samples() {
        let bytes = value.encode();
        let wide = widen(&bytes, messages);
        assert!(wide.len() > bytes.len() + messages.len() * 10, "{name}");
        assert_eq!(value.decode(&wide), value, "{name}");
    }
}

/// A kind of table that this version does not have.
const LATER: u32 = 99;

fn position(kind: u32) -> Position {
    Position { kind, resource_version: 1_000, checksum: 5 }
}

#[test]
fn a_node_passes_over_tables_and_messages_of_the_future() {
    let mut node = NodeState::default();
    let entry = Entry { key: b"x".to_vec(), value: b"y".to_vec() };
    let delta = Delta { after: Some(position(LATER)), puts: vec![entry], deletes: vec![] };
    let piece = Piece { at: Some(position(LATER)), packed: 3, unpacked: 9, data: vec![1, 2, 3], ..Piece::default() };
    for message in [Some(ToNode::Delta(delta)), Some(ToNode::Piece(piece)), None] {
        assert_eq!(node.hear(message).unwrap(), Heard::Nothing);
    }
    let sums = |kind: Kind| Position { kind: kind.number(), resource_version: 9, checksum: 0 };
    let positions = Kind::ALL.into_iter().map(sums).chain([position(LATER)]).collect();
    let Heard::Checkpoint(FromNode::Seen(seen)) = node.hear(Some(ToNode::Checkpoint(Checkpoint { positions }))).unwrap() else {
        panic!("no answer")
    };
    assert_eq!(seen.positions.len(), Kind::ALL.len(), "it says nothing of what it does not have");
    assert!(Kind::ALL.into_iter().all(|kind| node.position(kind).resource_version == 9));
}

#[test]
fn a_replica_serves_a_node_of_the_future() {
    let mut replica = Replica::new("cluster", Vec::new(), Limits::default());
    for kind in Kind::ALL {
        replica.log_mut(kind).replace(1, Table::default());
    }
    let hello = Hello {
        versions: Some(Versions { oldest: 1, newest: 9 }),
        node: "n1".to_owned(),
        positions: vec![position(LATER)],
        cluster: "cluster".to_owned(),
        ..Hello::default()
    };
    let (mut session, welcome) = Session::open(Some(FromNode::Hello(hello)), "n1", &replica).unwrap();
    let Some(ToNode::Welcome(welcome)) = decode::<FromFleet>(&welcome[4..]).unwrap().message else { panic!("no welcome") };
    assert_eq!(welcome.version, 1, "the newest that both speak");
    // Field 99, a message, and a resync of a kind that there is not.
    let later = decode::<ToFleet>(&[0x9a, 0x06, 0x00]).unwrap();
    assert_eq!(later.message, None);
    session.hear(later.message, 0).unwrap();
    session.hear(Some(FromNode::Resync(fleet_api::message::Resync { kind: LATER })), 0).unwrap();
    let frames = session.next(&mut replica, usize::MAX);
    assert_eq!(frames.len(), Kind::ALL.len(), "a snapshot of each kind, and none of another");
}

#[test]
fn enumerations_of_the_future_read_as_what_is_harmless() {
    use fleet_api::message::{About, Finding, Outcome, Preflight, PreflightState, ServicePort};
    let finding = Finding { about: 77, outcome: 77, ..Finding::default() };
    assert_eq!((finding.about(), finding.outcome()), (About::Own, Outcome::Unknown));
    assert_eq!(Preflight { state: 77, ..Preflight::default() }.state(), PreflightState::Unknown);
    // As bytes, too: an unknown number is kept, not refused.
    let port = ServicePort { protocol: 77, ..ServicePort::default() };
    assert_eq!(Value::Service(fleet_api::message::Service { ports: vec![port.clone()], ..Default::default() }), {
        let bytes = fleet_api::message::Service { ports: vec![port], ..Default::default() }.encode_to_vec();
        Value::Service(Message::decode(&*bytes).unwrap())
    });
}
