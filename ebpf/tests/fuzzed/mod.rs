//! Arbitrary tables and an arbitrary packet out of arbitrary bytes, and what must hold of every decision on them.
//!
//! Driven twice: by `cargo test` with seeded bytes (`ebpf/tests/invariants.rs`), and by libFuzzer (`fuzz/`).

#[path = "../tables/mod.rs"]
mod tables;

use ebpf::flow::{Flow4, Flow6};
use ebpf::layout::{Cidr4, Cidr6, Endpoint, Network, Range4, Range6, Uplink};
use ebpf::packet::{self, Bytes, Frame, Protocol, Transport};
use ebpf::verdict::{self, Decision, Verdict};
use tables::{Flow, World};

/// Slots, uplinks and rows of each table: few, so that packets and tables meet.
const FEW: u32 = 4;

/// Takes bytes from the front; behind their end there are zeroes.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let length = N.min(self.0.len());
        let (front, rest) = self.0.split_at(length);
        taken[..length].copy_from_slice(front);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.bytes();
        byte
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// One of few, or now and then anything.
    fn small(&mut self) -> u32 {
        let byte = self.byte();
        if byte == u8::MAX { self.number() } else { u32::from(byte) % FEW }
    }

    /// Of few addresses, so that packets and tables meet; confined ones among them.
    fn ipv4(&mut self) -> [u8; 4] {
        match self.byte() {
            byte @ 0..=223 => [10, 0, byte / 4 % 2, byte % 4],
            224 => [0; 4],
            225 => [169, 254, 169, 254],
            226 => [224, 0, 0, 1],
            _ => self.bytes(),
        }
    }

    fn ipv6(&mut self) -> [u8; 16] {
        let mut address = [0; 16];
        match self.byte() {
            byte @ 0..=223 => (address[0], address[7], address[15]) = (0xfd, byte / 4 % 2, byte % 4),
            224 => {}
            225 => (address[0], address[1]) = (0xfe, 0x80),
            226 => address[0] = 0xff,
            _ => return self.bytes(),
        }
        address
    }

    fn network(&mut self) -> Network {
        let mut network = Network::default();
        let [four, six] = [(); 2].map(|()| ebpf::scope::halves([0xfd, 0, 0, 0, 0, 0, 0, self.byte() % 2, 0, 0, 0, 0, 0, 0, 0, 0]));
        network.local4_len = self.small();
        network.local6_len = self.small();
        network.cidrs4_len = self.small();
        network.cidrs6_len = self.small();
        for row in 0..FEW as usize {
            let first = u32::from_be_bytes(self.ipv4());
            network.local4[row] = Range4 { first, last: first.saturating_add(self.small()) };
            network.local6[row] = Range6 { first: four, last: [six[0], u64::from(self.small())] };
            let mask = u32::MAX.checked_shl(self.small().saturating_mul(8)).unwrap_or(0);
            let (scope, native) = (self.small(), self.small() % 2);
            network.cidrs4[row] = Cidr4 { network: u32::from_be_bytes(self.ipv4()) & mask, mask, scope, native };
            network.cidrs6[row] = Cidr6 { network: [six[0], 0], mask: [u64::MAX, 0], scope, native };
        }
        network
    }

    fn endpoint(&mut self) -> Endpoint {
        let flags = self.byte();
        Endpoint {
            ifindex: u32::from(flags & 1) * self.small().saturating_add(100),
            uplink_v4: u16::from(self.byte()),
            uplink_v6: u16::from(self.byte()),
            ipv4: self.ipv4(),
            ipv6: self.ipv6(),
            mac: [2, 0, 0, 0, 0, self.byte() % 2],
            has_flows: flags >> 1 & 1,
            stack_only: u8::from(flags >> 2 == 1),
        }
    }

    fn world(&mut self) -> World {
        let mut world = World { network: self.network(), ..World::default() };
        for slot in 0..FEW {
            let endpoint = self.endpoint();
            world.endpoints.push((slot, endpoint));
            // Mostly right; what a daemon that died half way left may lead to another, or to none.
            world.slots4.push((endpoint.ipv4, if self.byte() < 200 { slot } else { self.small() }));
            world.slots6.push((endpoint.ipv6, if self.byte() < 200 { slot } else { self.small() }));
            let uplink = Uplink { ifindex: self.small(), gateway_v4: self.ipv4(), gateway_v6: self.ipv6() };
            world.uplinks.push((slot, uplink));
        }
        world
    }

    /// A whole header of either family with some bytes changed, or any bytes at all.
    fn packet(&mut self) -> Vec<u8> {
        let kind = self.byte();
        let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, kind >> 4 & 1];
        let protocol = [6, 17, if kind & 1 == 0 { 1 } else { 58 }, 8][usize::from(kind >> 2 & 3)];
        match kind & 3 {
            0 | 2 => {
                frame.extend([0x08, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]);
                frame.extend(self.ipv4());
                frame.extend(self.ipv4());
            }
            1 => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
                frame.extend(self.ipv6());
                frame.extend(self.ipv6());
            }
            _ => {}
        }
        let changes = self.byte();
        for _ in 0..if changes < 128 { 0 } else { changes % 4 } {
            let (at, value) = (self.number() as usize % frame.len(), self.byte());
            frame[at] = value;
        }
        frame.extend(self.0);
        frame
    }
}

/// What a frame says of itself, read a second time and by plainer means than the programs'.
struct Said {
    mac: [u8; 6],
    source: Vec<u8>,
    fragment: bool,
    flow: Option<Flow>,
}

impl Said {
    fn of(frame: &Frame<'_>) -> Option<Self> {
        let mac = frame.read(6)?;
        let flow = |protocol, at| packet::transport(frame, protocol, at);
        match packet::protocol(frame)? {
            Protocol::V4 => {
                let header = packet::ipv4(frame)?;
                let of = |transport: Transport| Flow::V4(Flow4::new(header.source, header.destination, transport));
                let flow = flow(header.protocol, header.transport).map(of);
                let [flags, offset]: [u8; 2] = frame.read(20)?;
                Some(Self { mac, source: header.source.to_vec(), fragment: flags & 0x3f != 0 || offset != 0, flow })
            }
            Protocol::V6 => {
                let header = packet::ipv6(frame)?;
                let of = |transport: Transport| Flow::V6(Flow6::new(header.source, header.destination, transport));
                let [next]: [u8; 1] = frame.read(20)?;
                Some(Self { mac, source: header.source.to_vec(), fragment: next == 44, flow: flow(next, 54).map(of) })
            }
            Protocol::Other => None,
        }
    }
}

const fn is_redirect(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::ToPod { .. } | Verdict::ToUplink4 { .. } | Verdict::ToUplink6 { .. })
}

/// What a redirect needs, whoever decided it.
fn check_redirect(world: &World, frame: &Frame<'_>, decision: Decision) -> Said {
    let said = Said::of(frame).expect("what is redirected is IP");
    assert!(!said.fragment, "a fragment was redirected");
    match decision.verdict {
        Verdict::ToPod { ifindex } => {
            let peer = world.endpoints.iter().find(|(_, endpoint)| endpoint.ifindex == ifindex);
            assert!(ifindex != 0 && peer.is_some(), "redirected to {ifindex}, which is no pod");
            let (slot, _) = decision.received.expect("what a pod is given is counted for it");
            assert!(slot.is_some(), "what a pod is given is counted for it, not for the host");
        }
        Verdict::ToUplink4 { ifindex, gateway } => assert!(ifindex != 0 && gateway != [0; 4], "out by no gateway"),
        Verdict::ToUplink6 { ifindex, gateway } => assert!(ifindex != 0 && gateway != [0; 16], "out by no gateway"),
        Verdict::Drop(_) | Verdict::Stack(_) | Verdict::Host => {}
    }
    said
}

/// How many packets of a kind were seen: a driver that never sees one has tested nothing.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) redirected: u64,
    pub(crate) noted: u64,
    pub(crate) stopped_by_note: u64,
}

/// Makes tables and a packet of `input`, lets all four programs decide, and checks:
///
/// - nothing panics, whatever the bytes;
/// - what a pod sends is redirected only from its own, live endpoint: its MAC address, its IP address;
/// - no fragment and nothing that is no IP is redirected, and only to what exists;
/// - a flow that the stack emitted is not redirected on its way back;
/// - what comes in by the uplink never leaves by it.
pub(crate) fn check(input: &[u8], seen: &mut Seen) {
    let mut source = Source(input);
    let (world, slot) = (source.world(), source.small());
    let bytes = source.packet();
    let frame = Frame(&bytes);

    let sent = verdict::from_pod(&frame, &world, slot);
    if is_redirect(sent.verdict) {
        seen.redirected += 1;
        let said = check_redirect(&world, &frame, sent);
        let (_, endpoint) = world.endpoints[slot as usize];
        assert!(endpoint.ifindex != 0 && endpoint.stack_only == 0, "an endpoint that may not was redirected");
        assert_eq!(said.mac, endpoint.mac, "a spoofed MAC address was redirected");
        assert!(said.source == endpoint.ipv4 || said.source == endpoint.ipv6, "a spoofed address was redirected");
        assert!(sent.sent.is_some(), "what a pod sends is counted");
        stays_with_the_stack(&mut world.clone(), &frame, seen, |world| {
            world.endpoints[slot as usize].1.has_flows = 1;
            verdict::from_pod(&frame, world, slot)
        });
    }

    let arrived = verdict::from_uplink(&frame, &world);
    assert!(!matches!(arrived.verdict, Verdict::ToUplink4 { .. } | Verdict::ToUplink6 { .. }), "in by the uplink and out again");
    assert!(!matches!(arrived.verdict, Verdict::Drop(_)), "what comes from the network is the stack's to drop");
    if is_redirect(arrived.verdict) {
        seen.redirected += 1;
        let _said = check_redirect(&world, &frame, arrived);
        stays_with_the_stack(&mut world.clone(), &frame, seen, |world| {
            world.endpoints.iter_mut().for_each(|(_, endpoint)| endpoint.has_flows = 1);
            verdict::from_uplink(&frame, world)
        });
    }

    // What the stack emits is noted in the direction of its replies, for the endpoint that it is of.
    let _ = verdict::to_pod(&frame, &world, slot);
    let _ = verdict::to_uplink(&frame, &world);
    let noted = world.noted.take();
    seen.noted += noted.len() as u64;
    for (_, flow) in &noted {
        let back = match *flow {
            Flow::V4(Flow4 { source, destination, .. }) => (destination.to_vec(), source.to_vec()),
            Flow::V6(Flow6 { source, destination, .. }) => (destination.to_vec(), source.to_vec()),
        };
        assert_eq!(Some(back.0), Said::of(&frame).map(|said| said.source), "noted in the wrong direction: {flow:?}, {:?}", back.1);
    }
}

/// The same packet, once its flow is noted, is not redirected again.
fn stays_with_the_stack(world: &mut World, frame: &Frame<'_>, seen: &mut Seen, decide: impl FnOnce(&mut World) -> Decision) {
    let Some(flow) = Said::of(frame).and_then(|said| said.flow) else { return };
    world.flows.push(flow);
    let decision = decide(world);
    assert!(!is_redirect(decision.verdict), "a noted flow was redirected");
    seen.stopped_by_note += 1;
}
