//! What is measured: the rows of the table, and the load behind each.

use crate::datapath::cluster::Contender;
use crate::datapath::findings::{Part, Row};
use crate::datapath::load::{Load, Pinning};

/// A load that gives one row, or two: a stream also tells what it took.
#[derive(Debug)]
pub struct Measure {
    /// Its row.
    pub row: Row,
    /// The row of what it took, if it tells.
    pub cpu: Option<Row>,
    /// What the ends do.
    pub load: Load,
    /// Connections at once.
    pub streams: usize,
    /// On which processors.
    pub pinning: Pinning,
    /// Between nodes, or on one.
    pub across: bool,
}

impl Measure {
    /// Whether the contender takes part: between nodes there is no bare veth, and on one node no other node. A full node has
    /// rows of its own ([`IN_PAIRS`]). Of nodes with other rules it is asked what rules cost a packet and a connection.
    #[must_use]
    pub fn is_of(&self, contender: Contender) -> bool {
        match contender {
            Contender::Bare | Contender::Host => self.across,
            Contender::Ruled(_) => self.across && matches!(self.load, Load::PingPong | Load::Connect),
            Contender::Floor => !self.across,
            Contender::Loaded | Contender::Served | Contender::Proxied => false,
            Contender::FastPath | Contender::Stack | Contender::Bridge | Contender::Overlay | Contender::Cilium => true,
        }
    }
}

/// The rows of the table, in order.
pub fn rows() -> impl Iterator<Item = Row> {
    MEASURES.iter().chain(&IN_PAIRS).flat_map(|measure| [Some(measure.row), measure.cpu]).flatten()
}

const fn row(key: &'static str, meaning: &'static str, part: Part, less_is_better: bool) -> Row {
    Row { key, meaning, part, less_is_better }
}

const fn measure(row: Row, load: Load, pinning: Pinning, across: bool) -> Measure {
    Measure { row, cpu: None, load, streams: 1, pinning, across }
}

/// Of all contenders in a round.
pub const MEASURES: [Measure; 9] = [
    measure(
        row("rr_cross_us", "TCP ping-pong across nodes, half a round trip", Part::Across, true),
        Load::PingPong,
        Pinning::Together,
        true,
    ),
    measure(
        row("crr_cross_per_s", "connect, request, response, close, across nodes", Part::Across, false),
        Load::Connect,
        Pinning::Together,
        true,
    ),
    Measure {
        cpu: Some(row("stream_cross_cpu_s_per_gb", "its CPU seconds of the whole machine", Part::Across, true)),
        ..measure(row("stream_cross_gbit", "one TCP stream across nodes", Part::Across, false), Load::Stream, Pinning::Apart, true)
    },
    Measure {
        cpu: Some(row("stream8_cross_cpu_s_per_gb", "their CPU seconds of the whole machine", Part::Across, true)),
        streams: 8,
        ..measure(row("stream8_cross_gbit", "eight TCP streams across nodes", Part::Across, false), Load::Stream, Pinning::Free, true)
    },
    measure(row("udp_cross_pps", "64-byte UDP packets received across nodes", Part::Across, false), Load::Packets, Pinning::Apart, true),
    measure(
        row("rr_same_us", "TCP ping-pong on one node, half a round trip", Part::OnOneNode, true),
        Load::PingPong,
        Pinning::Together,
        false,
    ),
    measure(
        row("crr_same_per_s", "connect, request, response, close, on one node", Part::OnOneNode, false),
        Load::Connect,
        Pinning::Together,
        false,
    ),
    Measure {
        cpu: Some(row("stream_same_cpu_s_per_gb", "its CPU seconds of the whole machine", Part::OnOneNode, true)),
        ..measure(row("stream_same_gbit", "one TCP stream on one node", Part::OnOneNode, false), Load::Stream, Pinning::Apart, false)
    },
    measure(row("udp_same_pps", "64-byte UDP packets received on one node", Part::OnOneNode, false), Load::Packets, Pinning::Apart, false),
];

/// Of a full node and an empty one, in turns.
pub const IN_PAIRS: [Measure; 2] = [
    measure(
        row("rr_cross_full_us", "TCP ping-pong across nodes, empty and full in pairs", Part::FullNode, true),
        Load::PingPong,
        Pinning::Together,
        true,
    ),
    measure(
        row("rr_same_full_us", "TCP ping-pong on one node, empty and full in pairs", Part::FullNode, true),
        Load::PingPong,
        Pinning::Together,
        false,
    ),
];
