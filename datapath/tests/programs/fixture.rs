//! One fixture: the maps and a packet before, the verdict and every change of the maps after.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use ebpf::account::{Direction, Reason};
use ebpf::flow::{Flow4, Flow6, Noted};
use ebpf::layout::{Endpoint, FIRST_IFINDEX};
use ebpf::packet::{Frame, Transport};
use ebpf::scope::{Scope, halves};
use ebpf::verdict::{self, Verdict};

use crate::loaded::{Loaded, ROOM, SkBuff};
use crate::packet::Packet;
use crate::tables::{Flow, World};

/// `TC_ACT_UNSPEC` (-1: on to the next program, and then to the stack), `TC_ACT_SHOT`, `TC_ACT_REDIRECT`, linux/pkt_cls.h
const PASS: u32 = u32::MAX;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    FromPod,
    ToPod,
    FromUplink,
    ToUplink,
}

impl Program {
    pub(crate) const ALL: [Self; 4] = [Self::FromPod, Self::ToPod, Self::FromUplink, Self::ToUplink];

    /// Its name in the object file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::FromUplink => "from_uplink",
            Self::ToUplink => "to_uplink",
        }
    }
}

/// One packet that was counted: for the endpoint in a slot, or for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) of: Option<u32>,
    pub(crate) direction: Direction,
    pub(crate) scope: Scope,
}

/// What is to come of it. Whatever is not named here must not have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// For the programs at egress, which only look on, [`Verdict::Host`].
    pub(crate) verdict: Verdict,
    pub(crate) counts: Vec<Count>,
    /// A new entry in a table of flows, and the slot that is charged with it.
    pub(crate) noted: Option<(u32, Flow)>,
    /// All flows go from the tables.
    pub(crate) forgotten: bool,
}

impl From<Verdict> for Expected {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, counts: Vec::new(), noted: None, forgotten: false }
    }
}

impl Expected {
    pub(crate) fn sent(self, slot: u32, scope: Scope) -> Self {
        self.counted(Some(slot), Direction::Sent, scope)
    }

    pub(crate) fn received(self, slot: u32, scope: Scope) -> Self {
        self.counted(Some(slot), Direction::Received, scope)
    }

    pub(crate) fn by_host(self, direction: Direction, scope: Scope) -> Self {
        self.counted(None, direction, scope)
    }

    fn counted(mut self, of: Option<u32>, direction: Direction, scope: Scope) -> Self {
        self.counts.push(Count { of, direction, scope });
        self
    }

    /// The flow goes into the table, and this slot is charged.
    pub(crate) fn noted(self, slot: u32, flow: Flow) -> Self {
        Self { noted: Some((slot, flow)), ..self }
    }

    pub(crate) fn forgotten(self) -> Self {
        Self { forgotten: true, ..self }
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        match self.verdict {
            Verdict::Drop(reason) | Verdict::Stack(reason) | Verdict::Untracked(reason) => Some(reason),
            Verdict::Host | Verdict::ToPod { .. } | Verdict::ToClient { .. } | Verdict::ToUplink4 { .. } | Verdict::ToUplink6 { .. } => {
                None
            }
        }
    }

    pub(crate) fn code(&self) -> u32 {
        match self.verdict {
            Verdict::Host | Verdict::Stack(_) | Verdict::Untracked(_) => PASS,
            Verdict::Drop(_) => SHOT,
            Verdict::ToPod { .. } | Verdict::ToClient { .. } | Verdict::ToUplink4 { .. } | Verdict::ToUplink6 { .. } => REDIRECT,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) program: Program,
    /// The maps before.
    pub(crate) world: World,
    /// The interface that the packet passes.
    pub(crate) ifindex: u32,
    pub(crate) packet: Packet,
    pub(crate) expected: Expected,
    /// A slot that has a note at its expense before.
    pub(crate) has_notes: Option<u32>,
    /// The library is not asked.
    pub(crate) only_in_kernel: bool,
}

/// The flow of what goes from `source` to `destination`, and back.
pub(crate) fn flow(source: IpAddr, destination: IpAddr, protocol: u8, source_port: u16, destination_port: u16) -> Flow {
    let transport = Transport { protocol, source: source_port.to_be_bytes(), destination: destination_port.to_be_bytes() };
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Flow::V4(Flow4::of(source.octets(), destination.octets(), transport).0),
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Flow::V6(Flow6::of(halves(source.octets()), halves(destination.octets()), transport).0)
        }
        mixed => panic!("two families in one flow: {mixed:?}"),
    }
}

/// What the library decides of a packet at a hook, on these maps.
pub(crate) fn decide(program: Program, ifindex: u32, world: &World, bytes: &[u8]) -> Expected {
    let (slot, frame) = (ifindex.wrapping_sub(FIRST_IFINDEX), Frame::new(bytes));
    let decided = |decision: verdict::Decision| {
        let mut expected = Expected::from(decision.verdict);
        if let Some(scope) = decision.sent {
            expected = expected.sent(slot, scope);
        }
        match decision.received.counted() {
            Some((of, scope)) => expected.counted(of, Direction::Received, scope),
            None => expected,
        }
    };
    let passes = || Expected::from(Verdict::Host);
    let lost = || Expected::from(Verdict::Drop(Reason::FlowTableFull));
    match program {
        Program::FromPod => decided(verdict::from_pod(&frame, world, slot)),
        Program::FromUplink => decided(verdict::from_uplink(&frame, world)),
        Program::ToPod => match verdict::to_pod(&frame, world, slot, false) {
            emission if emission.without_note => lost(),
            emission => passes().received(slot, emission.scope),
        },
        Program::ToUplink => match verdict::to_uplink(&frame, world) {
            emission if emission.without_note => lost(),
            emission if emission.hosts_own => passes().by_host(Direction::Sent, emission.scope),
            _ => passes(),
        },
    }
}

impl Fixture {
    /// In the kernel: the return code, and all maps before and after.
    pub(crate) fn judge(&self, loaded: &mut Loaded) -> Result<()> {
        let Expected { counts, noted, forgotten, .. } = &self.expected;
        let bytes = self.packet.bytes();
        loaded.set(&self.world, self.has_notes)?;
        let code = loaded.run(self.program, self.ifindex, &bytes)?.code;
        let after = loaded.changes()?;
        ensure!(code == self.expected.code(), "returned {code}, not {}", self.expected.code());

        let frame = u64::try_from(bytes.len())?;
        let bytes_counted: Vec<_> = counts.iter().map(|count| (*count, 1, frame)).collect();
        ensure!(after.counts == bytes_counted, "counted {:?}, not {bytes_counted:?}", after.counts);
        let reasons: Vec<_> = self.expected.reason().into_iter().map(|reason| (reason, 1)).collect();
        ensure!(after.reasons == reasons, "gave reasons {:?}, not {reasons:?}", after.reasons);

        let flows: Vec<_> = self.flows().filter(|_| !forgotten).chain(noted.map(|(_, flow)| flow)).collect();
        let same = flows.len() == after.flows.len() && flows.iter().all(|flow| after.flows.contains(flow));
        ensure!(same, "the tables of flows hold {:?}, not {flows:?}", after.flows);
        let newly = noted.map(|(slot, _)| slot);
        let charged: Vec<_> = newly.into_iter().chain(self.has_notes).map(|slot| (slot, 1)).collect();
        ensure!(after.charged == charged, "charged are {:?}, not {charged:?}", after.charged);
        Ok(())
    }

    /// In the kernel: the packet, followed by a payload, and its context come back as they were, but for the MAC address of the pod that
    /// it is for, and the mark that has it pass conntrack by. `segments` is what the packet
    /// is to be cut into by the interface that it leaves from.
    pub(crate) fn judge_untouched(&self, loaded: &mut Loaded, segments: u32) -> Result<()> {
        let mut bytes = self.packet.bytes();
        bytes.extend((0..=u8::MAX).cycle().take(2000));
        let before = SkBuff::at(self.ifindex).segments(segments, segments * 700).wire_length(bytes.len());
        loaded.set(&self.world, self.has_notes)?;
        let after = loaded.run_as(self.program, before.clone(), &bytes)?;
        let mut expected = before;
        match self.expected.verdict {
            Verdict::ToPod { slot } => bytes[..6].copy_from_slice(&self.endpoint(slot).mac),
            Verdict::Untracked(_) => expected = expected.marked(self.world.network.untracked_mark),
            _ => {}
        }
        ensure!(after.packet == bytes, "bytes changed in a packet of {segments} segments");
        ensure!(after.context == expected, "the context {expected:?} became {:?}", after.context);
        Ok(())
    }

    fn endpoint(&self, slot: u32) -> Endpoint {
        self.world.endpoints.iter().find(|(found, _)| *found == slot).unwrap().1
    }

    fn flows(&self) -> impl Iterator<Item = Flow> {
        self.world.flows.borrow().iter().map(|(flow, _)| *flow).collect::<Vec<_>>().into_iter()
    }

    pub(crate) fn charged_already(self, slot: u32) -> Self {
        Self { has_notes: Some(slot), ..self }
    }

    pub(crate) fn only_in_kernel(self) -> Self {
        Self { only_in_kernel: true, ..self }
    }

    /// On the host: the return code does not tell one redirect from another, the library's verdict does.
    pub(crate) fn judge_decision(&self) -> Result<()> {
        if self.only_in_kernel {
            return Ok(());
        }
        let Expected { verdict, counts, .. } = decide(self.program, self.ifindex, &self.world.clone(), &self.packet.bytes());
        let Expected { verdict: expected, counts: expected_counts, .. } = &self.expected;
        ensure!(verdict == *expected, "decided {verdict:?}, not {expected:?}");
        ensure!(counts == *expected_counts, "counts {counts:?}, not {expected_counts:?}");
        Ok(())
    }

    /// The table of flows is small here, so that it can be full.
    pub(crate) fn with_flows(self, flows: impl IntoIterator<Item = Flow>) -> Self {
        self.with_notes(flows, Noted { from_low: Noted::SEEN, from_high: Noted::SEEN, ..Noted::default() })
    }

    /// Notes that have come so far.
    pub(crate) fn with_notes(mut self, of: impl IntoIterator<Item = Flow>, noted: Noted) -> Self {
        let flows = self.world.flows.get_mut();
        flows.extend(of.into_iter().map(|flow| (flow, noted)));
        assert!(flows.len() <= ROOM as usize, "{}: more flows than there is room for", self.name);
        self
    }
}
