//! Services, packet by packet: there and back again, in both families and with every shape of packet. What the endpoint sees and what the
//! client sees are whole packets with right checksums, and the way back undoes the way there.

#![expect(clippy::unwrap_used, reason = "a packet that cannot be written down is a fault of the test")]

mod tables;

use std::cell::RefCell;
use std::net::IpAddr;

use ebpf::flow::{Flow4, Noted};
use ebpf::layout::{Endpoint, Interval4, Interval6, Network, Uplink};
use ebpf::packet::{self, Frame, Protocol};
use ebpf::scope::{Meaning, Scope, halves};
use ebpf::service::{End, ServicePort, apart};
use ebpf::verdict::{Outcome, SumChange, Verdict, Writer, choose, from_pod, from_uplink, to_backend, to_client, to_pod};
use tables::{Flow, World};

const CLIENT: u32 = 0;
const LOCAL: u32 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const PORT: u16 = 40_000;

/// One family: the client, a service, its endpoints (a pod of this node, two others), a router, another service.
struct Family {
    client: IpAddr,
    service: IpAddr,
    local: IpAddr,
    remote: [IpAddr; 2],
    router: IpAddr,
    other: IpAddr,
}

fn families() -> [Family; 2] {
    let of = |texts: [&str; 7]| {
        let [client, service, local, first, second, router, other] = texts.map(|text| text.parse().unwrap());
        Family { client, service, local, remote: [first, second], router, other }
    };
    [
        of(["10.0.1.17", "10.96.0.10", "10.0.1.18", "10.0.2.40", "10.0.3.41", "10.0.0.1", "10.96.0.11"]),
        of(["fd00:10:0:1::11", "fd00:96::10", "fd00:10:0:1::12", "fd00:10:0:2::28", "fd00:10:0:3::29", "fd00:10::1", "fd00:96::11"]),
    ]
}

fn mac(slot: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, u8::try_from(slot).unwrap()]
}

fn wide(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [u64::from(u32::from(address)), 0],
        IpAddr::V6(address) => halves(address.octets()),
    }
}

fn world(family: &Family, endpoints: &[(IpAddr, u16)]) -> World {
    let mut network = Network { carry_v4: 1, carry_v6: 1, untracked_mark: 16, ..Network::default() };
    let service = Meaning::of(Scope::Service);
    let native = Meaning::native(Scope::Vpc);
    let four = [
        (0, Meaning::NOWHERE),
        (0x0a00_0000, native),
        (0x0a01_0000, Meaning::NOWHERE),
        (0x0a60_0000, service),
        (0x0a61_0000, Meaning::NOWHERE),
    ];
    for (row, (first, meaning)) in four.into_iter().enumerate() {
        network.intervals4[row] = Interval4 { first, meaning: meaning.0 };
    }
    let six = [(0, Meaning::NOWHERE), (0xfd00_0010 << 32, native), (0xfd00_0011 << 32, Meaning::NOWHERE), (0xfd00_0096 << 32, service)];
    for (row, (first, meaning)) in six.into_iter().enumerate() {
        network.intervals6[row] = Interval6 { first: [first, 0], meaning: meaning.0, padding: 0 };
    }
    (network.intervals4_len, network.intervals6_len) = (5, 4);
    let mut world = World { network: Box::new(network), ..World::default() };
    for (slot, address) in [(CLIENT, family.client), (LOCAL, family.local)] {
        let mut endpoint = Endpoint { ifindex: 100 + slot, mac: mac(slot), mtu: 1500, ..Endpoint::default() };
        match address {
            IpAddr::V4(address) => {
                endpoint.ipv4 = address.octets();
                world.slots4.push((address.octets(), slot));
            }
            IpAddr::V6(address) => {
                endpoint.ipv6 = address.octets();
                world.slots6.push((address.octets(), slot));
            }
        }
        world.endpoints.push((slot, endpoint));
    }
    world.uplinks.push((0, Uplink { ifindex: 2, mtu: 1500, gateway_v4: [10, 0, 0, 1], gateway_v6: [1; 16] }));
    for protocol in [TCP, UDP] {
        for address in [family.service, family.other] {
            let port = ServicePort { address: wide(address), port: 80, protocol: protocol.into(), number: 0 };
            let ends = endpoints.iter().map(|(address, port)| End { address: wide(*address), port: *port, ..End::default() }).collect();
            world.services.push((port, ends));
        }
    }
    world
}

/// Addresses and ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    from: (IpAddr, u16),
    to: (IpAddr, u16),
}

impl Way {
    const fn new(from: (IpAddr, u16), to: (IpAddr, u16)) -> Self {
        Self { from, to }
    }

    const fn turned(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

/// An Internet checksum over these bytes (RFC 1071).
fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut total: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).unwrap()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An IP packet with right checksums.
fn ip(from: IpAddr, to: IpAddr, protocol: u8, checksum_at: usize, mut transport: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(transport.len()).unwrap().to_be_bytes();
    let pseudo = [octets(from), octets(to), vec![0, protocol], length.to_vec()].concat();
    let pseudo = if protocol == 1 { Vec::new() } else { pseudo };
    transport[checksum_at..checksum_at + 2].fill(0);
    let checksum = sum(&[&pseudo, &transport]).to_be_bytes();
    transport[checksum_at..checksum_at + 2].copy_from_slice(&checksum);
    let mut header = if from.is_ipv4() {
        let total = u16::try_from(20 + transport.len()).unwrap().to_be_bytes();
        let mut header = vec![0x45, 0, total[0], total[1], 0, 7, 0x40, 0, 64, protocol, 0, 0];
        header.extend(octets(from));
        header.extend(octets(to));
        let checksum = sum(&[&header]).to_be_bytes();
        header[10..12].copy_from_slice(&checksum);
        header
    } else {
        let mut header = vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64];
        header.extend(octets(from));
        header.extend(octets(to));
        header
    };
    header.extend(transport);
    header
}

fn framed(sender: u32, packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&[2, 0, 0, 0, 0, 9], &mac(sender)[..], &kind, packet].concat()
}

fn transport(way: Way, protocol: u8, flags: u8) -> Vec<u8> {
    let ports = [way.from.1.to_be_bytes(), way.to.1.to_be_bytes()].concat();
    if protocol == TCP {
        [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0], b"odd"].concat()
    } else {
        [&ports[..], &[0, 11, 0, 0], b"odd"].concat()
    }
}

fn packet(way: Way, protocol: u8, flags: u8) -> Vec<u8> {
    ip(way.from.0, way.to.0, protocol, if protocol == TCP { 16 } else { 6 }, transport(way, protocol, flags))
}

/// An error of a router about a packet: too big, with eight bytes of its transport header and more.
fn error(router: IpAddr, about: Way, protocol: u8) -> Vec<u8> {
    let quoted = packet(about, protocol, ACK);
    let (number, kind) = if router.is_ipv4() { (1, [3, 4, 0, 0, 0, 0, 5, 0]) } else { (58, [2, 0, 0, 0, 0, 0, 5, 0]) };
    ip(router, about.from.0, number, 2, [&kind[..], &quoted].concat())
}

/// A packet in memory that is written to.
struct Buffer(RefCell<Vec<u8>>);

impl Writer for Buffer {
    fn store<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        self.0.borrow_mut().get_mut(offset..offset + N)?.copy_from_slice(bytes);
        Some(())
    }

    fn checksum(&self, offset: usize, change: SumChange) -> Option<()> {
        let mut bytes = self.0.borrow_mut();
        let place: &mut [u8; 2] = bytes.get_mut(offset..offset + 2)?.try_into().unwrap();
        if change.is_optional && *place == [0; 2] {
            return Some(());
        }
        *place = ebpf::packet::checksum::updated(u16::from_ne_bytes(*place), change.difference).to_ne_bytes();
        Some(())
    }
}

fn version(frame: &[u8]) -> Protocol {
    packet::protocol(&Frame::new(frame)).unwrap()
}

fn forth(world: &World, frame: &[u8]) -> Option<Vec<u8>> {
    let buffer = Buffer(RefCell::new(frame.to_vec()));
    let mut outcome = to_backend(version(frame), &Frame::new(frame), &buffer, world);
    if outcome == Outcome::Begins && choose(version(frame), &Frame::new(frame), world, CLIENT) {
        outcome = to_backend(version(frame), &Frame::new(frame), &buffer, world);
        assert_eq!(outcome, Outcome::Translated, "what was chosen is found");
    }
    assert_ne!(outcome, Outcome::Broken);
    (outcome == Outcome::Translated).then(|| buffer.0.into_inner())
}

fn back(world: &World, frame: &[u8]) -> Option<Vec<u8>> {
    let buffer = Buffer(RefCell::new(frame.to_vec()));
    let outcome = to_client(version(frame), &Frame::new(frame), &buffer, world);
    assert_ne!(outcome, Outcome::Broken);
    (outcome == Outcome::Translated).then(|| buffer.0.into_inner())
}

/// The endpoint that a new flow got.
fn begin(world: &World, from: (IpAddr, u16), to: (IpAddr, u16), protocol: u8) -> Option<(IpAddr, u16)> {
    let frame = framed(CLIENT, &packet(Way::new(from, to), protocol, SYN));
    let sent = from_pod(&Frame::new(&frame), world, CLIENT);
    assert_eq!(sent.sent, Some(Scope::Service), "that is where it is asked");
    let translated = forth(world, &frame)?;
    Some(ends(&translated).to)
}

fn ends(frame: &[u8]) -> Way {
    let is_v4 = frame[14] >> 4 == 4;
    let (at, size) = if is_v4 { (26, 4) } else { (22, 16) };
    let address = |at: usize| -> IpAddr {
        if is_v4 {
            IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap())
        } else {
            IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap())
        }
    };
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let ports = at + 2 * size;
    Way::new((address(at), port(ports)), (address(at + size), port(ports + 2)))
}

#[test]
fn what_goes_there_comes_back_whole() {
    for family in families() {
        for (endpoint, sender) in [(family.local, LOCAL), (family.remote[0], 9)] {
            let world = world(&family, &[(endpoint, 8080)]);
            for protocol in [TCP, UDP] {
                let asked = Way::new((family.client, PORT), (family.service, 80));
                let to_it = Way::new((family.client, apart(PORT)), (endpoint, 8080));
                for flags in [SYN, ACK] {
                    let there = forth(&world, &framed(CLIENT, &packet(asked, protocol, flags))).unwrap();
                    assert_eq!(there, framed(CLIENT, &packet(to_it, protocol, flags)), "{asked:?}");
                    let judged = from_pod(&Frame::new(&there), &world, CLIENT);
                    assert!(
                        matches!(judged.verdict, Verdict::ToPod { .. } | Verdict::ToUplink4 { .. } | Verdict::ToUplink6 { .. }),
                        "{judged:?}"
                    );
                    assert_ne!(judged.sent, Some(Scope::Service), "it is counted by where it goes");

                    let answer = framed(sender, &packet(to_it.turned(), protocol, ACK));
                    let verdict = if sender == LOCAL {
                        from_pod(&Frame::new(&answer), &world, LOCAL).verdict
                    } else {
                        from_uplink(&Frame::new(&answer), &world).verdict
                    };
                    assert_eq!(verdict, Verdict::ToClient { slot: CLIENT });
                    let here = back(&world, &answer).unwrap();
                    assert_eq!(here, framed(sender, &packet(asked.turned(), protocol, ACK)));
                    assert!(to_pod(&Frame::new(&answer), &world, CLIENT, false).may_be_answer, "by the stack likewise");
                    assert!(to_pod(&Frame::new(&answer), &world, CLIENT, true).may_be_answer, "past conntrack likewise");
                }
            }
            assert_eq!(world.flows.borrow().len(), 2, "a note for each flow");
        }
    }
}

#[test]
fn no_checksum_stays_none() {
    let [four, _] = families();
    let world = world(&four, &[(four.remote[0], 8080)]);
    let mut frame = framed(CLIENT, &packet(Way::new((four.client, PORT), (four.service, 80)), UDP, 0));
    frame[40..42].fill(0);
    assert_eq!(forth(&world, &frame).unwrap()[40..42], [0; 2]);
}

#[test]
fn errors_speak_of_what_the_client_knows() {
    for family in families() {
        let world = world(&family, &[(family.remote[0], 8080)]);
        for protocol in [TCP, UDP] {
            let asked = Way::new((family.client, PORT), (family.service, 80));
            let to_it = Way::new((family.client, apart(PORT)), (family.remote[0], 8080));
            assert!(forth(&world, &framed(CLIENT, &packet(asked, protocol, SYN))).is_some());

            let told = framed(9, &error(family.router, to_it, protocol));
            assert_eq!(from_uplink(&Frame::new(&told), &world).verdict, Verdict::ToClient { slot: CLIENT });
            let here = back(&world, &told).unwrap();
            // The checksum within what is quoted is nobody's to look at.
            let expected = framed(9, &error(family.service, asked, protocol));
            assert_eq!(quoting(&here, protocol), quoting(&expected, protocol), "{:02x?} {:02x?}", here, expected);
            assert_eq!(ip_payload_sum(&here), 0, "the checksum is right");
            assert!(to_pod(&Frame::new(&told), &world, CLIENT, false).may_be_answer, "one of the stack's is asked for");

            // And the client's own, about an answer.
            let complained = framed(CLIENT, &error(family.client, asked.turned(), protocol));
            let complained = readdressed(&complained, family.client, family.service);
            let there = forth(&world, &complained).unwrap();
            assert_eq!(ip_payload_sum(&there), 0, "the checksum is right");
            assert_eq!(ends_quoted(&there), to_it.turned());
        }
    }
}

/// An error goes to whom the quoted packet is from; here it does not stand so.
fn readdressed(frame: &[u8], from: IpAddr, to: IpAddr) -> Vec<u8> {
    let header = if from.is_ipv4() { 20 } else { 40 };
    let (number, payload) = (if from.is_ipv4() { 1 } else { 58 }, frame[14 + header..].to_vec());
    framed(CLIENT, &ip(from, to, number, 2, payload))
}

fn ends_quoted(frame: &[u8]) -> Way {
    let header = if frame[14] >> 4 == 4 { 20 } else { 40 };
    ends(&[&[0; 14], &frame[14 + header + 8..]].concat())
}

/// Without the checksums that cannot both be right: of the error, and of what it quotes.
fn quoting(frame: &[u8], protocol: u8) -> Vec<u8> {
    let header = if frame[14] >> 4 == 4 { 20 } else { 40 };
    let mut rest = frame.to_vec();
    rest[14 + header + 2..14 + header + 4].fill(0);
    let inner = 14 + header + 8 + header + if protocol == TCP { 16 } else { 6 };
    rest[inner..inner + 2].fill(0);
    rest
}

/// 0 where the checksum of what is in an IP packet is right.
fn ip_payload_sum(frame: &[u8]) -> u16 {
    if frame[14] >> 4 == 4 {
        assert_eq!(sum(&[&frame[14..34]]), 0, "of the header");
        return sum(&[&frame[34..]]);
    }
    let length = [frame[18], frame[19]];
    sum(&[&frame[22..54], &[0, frame[20]], &length, &frame[54..]])
}

#[test]
fn a_datagram_in_pieces_has_one_endpoint() {
    let [four, _] = families();
    let world = world(&four, &[(four.remote[0], 8080), (four.remote[1], 8080)]);
    let asked = Way::new((four.client, PORT), (four.service, 80));
    let piece = |way: Way, flags: [u8; 2]| {
        let mut frame = framed(CLIENT, &packet(way, UDP, 0));
        frame[20..22].copy_from_slice(&flags);
        frame
    };
    let first = ends(&forth(&world, &piece(asked, [0x20, 0])).unwrap());
    let later = ends(&forth(&world, &piece(asked, [0, 2])).unwrap());
    assert_eq!((first.from.0, first.to.0), (later.from.0, later.to.0));
    let answered = ends(&back(&world, &piece(first.turned(), [0x20, 0])).unwrap());
    assert_eq!(answered, asked.turned());
    assert_eq!(ends(&back(&world, &piece(first.turned(), [0, 2])).unwrap()).from.0, four.service);
    assert!(to_pod(&Frame::new(&piece(first.turned(), [0, 2])), &world, CLIENT, true).may_be_answer);
}

#[test]
fn each_endpoint_gets_its_part() {
    const FLOWS: u16 = 20_000;
    let [four, _] = families();
    let endpoints: Vec<_> = (1..=4).map(|last: u8| (IpAddr::from([10, 0, 2, last]), 8080)).collect();
    let world = world(&four, &endpoints);
    let mut counts = [0_u16; 4];
    for flow in 0..FLOWS {
        let (address, _) = begin(&world, (four.client, 10_000 + flow), (four.service, 80), TCP).unwrap();
        world.flows.borrow_mut().clear();
        world.translations.borrow_mut().clear();
        counts[endpoints.iter().position(|(found, _)| *found == address).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| count.abs_diff(FLOWS / 4) < FLOWS / 40), "{counts:?}");
}

#[test]
fn what_is_under_way_without_a_translation_is_the_stacks() {
    let [four, _] = families();
    let world = world(&four, &[(four.remote[0], 8080)]);
    let asked = Way::new((four.client, PORT), (four.service, 80));
    assert!(forth(&world, &framed(CLIENT, &packet(asked, TCP, ACK))).is_none());
    assert!(forth(&world, &framed(CLIENT, &packet(Way::new(asked.from, (four.service, 81)), TCP, SYN))).is_none(), "no such port");
    assert!(world.flows.borrow().is_empty() && world.translations.borrow().is_empty());
}

/// The stack has translated it (a note of `to_pod` or the daemon under the tuple that the client knows).
#[test]
fn a_flow_of_udp_that_the_stack_has_stays_there() {
    let [four, _] = families();
    let world = world(&four, &[(four.remote[0], 8080)]);
    let transport = ebpf::packet::Transport { protocol: UDP, source: PORT.to_be_bytes(), destination: 80_u16.to_be_bytes() };
    let (IpAddr::V4(client), IpAddr::V4(service)) = (four.client, four.service) else { unreachable!("the first is IPv4") };
    let (flow, _) = Flow4::of(client.octets(), service.octets(), transport);
    world.flows.borrow_mut().push((Flow::V4(flow), Noted { from_low: Noted::SEEN, ..Noted::default() }));
    assert_eq!(begin(&world, (four.client, PORT), (four.service, 80), UDP), None);
}

#[test]
fn who_would_reach_itself_and_whose_flows_are_not_known_take_the_stack_and_stay_there() {
    let [four, _] = families();
    let mut world = world(&four, &[(four.client, 8080)]);
    let asked = ((four.client, PORT), (four.service, 80));
    assert_eq!(begin(&world, asked.0, asked.1, TCP), None);
    assert_eq!(world.flows.borrow().len(), 1, "noted as the stack's");
    // Another endpoint now: the SYN that is sent again goes where the first went.
    for (_, ends) in &mut world.services {
        ends[0].address = wide(four.remote[0]);
    }
    assert_eq!(begin(&world, asked.0, asked.1, TCP), None);
    assert!(begin(&world, (four.client, PORT + 1), asked.1, TCP).is_some());
    world.endpoints[0].1.stack_only = 1;
    assert_eq!(begin(&world, (four.client, PORT + 2), asked.1, TCP), None);
}

/// Two services, or a service by the stack, lead to one port of one pod, and a client uses one port for both.
#[test]
fn no_two_flows_have_the_same_ends() {
    let [four, _] = families();
    let world = world(&four, &[(four.remote[0], 8080), (four.remote[1], 8080)]);
    let first = begin(&world, (four.client, PORT), (four.service, 80), TCP).unwrap();
    let second = begin(&world, (four.client, PORT), (four.other, 80), TCP);
    // A choice of four that falls on the one that is taken each time is the stack's.
    assert!(second.is_none_or(|second| second != first));
    let only = World { services: world.services.iter().map(|(port, ends)| (*port, vec![ends[0]])).collect(), ..world.clone() };
    only.flows.borrow_mut().clear();
    only.translations.borrow_mut().clear();
    assert!(begin(&only, (four.client, PORT), (four.service, 80), TCP).is_some());
    assert_eq!(begin(&only, (four.client, PORT), (four.other, 80), TCP), None);
    assert_eq!(begin(&only, (four.client, PORT), (four.service, 80), TCP).map(|found| found.0), Some(four.remote[0]), "the first lives on");
}

/// A connection in the place of one that is over is a new one; UDP leaves an endpoint that the daemon has taken out; TCP does not.
#[test]
fn a_flow_keeps_its_endpoint_for_its_life() {
    let [four, _] = families();
    let mut world = world(&four, &[(four.remote[0], 8080)]);
    let asked = Way::new((four.client, PORT), (four.service, 80));
    let to_it = Way::new((four.client, apart(PORT)), (four.remote[0], 8080));
    for protocol in [TCP, UDP] {
        assert!(begin(&world, asked.from, asked.to, protocol).is_some());
    }
    for (_, ends) in &mut world.services {
        ends[0].address = wide(four.remote[1]);
    }
    let endpoint = |world: &World, protocol, flags| ends(&forth(world, &framed(CLIENT, &packet(asked, protocol, flags))).unwrap()).to.0;
    assert_eq!([endpoint(&world, TCP, ACK), endpoint(&world, UDP, 0)], [four.remote[0]; 2]);
    // What the daemon does for UDP.
    world.translations.borrow_mut().retain(|(tuple, end)| tuple.protocol == u16::from(TCP) || end.is_answer != 0);
    assert_eq!([endpoint(&world, TCP, ACK), endpoint(&world, UDP, 0)], [four.remote[0], four.remote[1]]);
    // Both ends have finished.
    let there = forth(&world, &framed(CLIENT, &packet(asked, TCP, FIN | ACK))).unwrap();
    let _ = from_pod(&Frame::new(&there), &world, CLIENT);
    let _ = from_uplink(&Frame::new(&framed(9, &packet(to_it.turned(), TCP, FIN | ACK))), &world);
    assert_eq!(endpoint(&world, TCP, ACK), four.remote[0], "the last acknowledgement");
    assert_eq!(endpoint(&world, TCP, SYN), four.remote[1]);
}

/// A translation whose note is gone is none.
#[test]
fn without_its_note_a_flow_begins_anew() {
    let [four, _] = families();
    let mut world = world(&four, &[(four.remote[0], 8080)]);
    let asked = Way::new((four.client, PORT), (four.service, 80));
    assert!(begin(&world, asked.from, asked.to, UDP).is_some());
    for (_, ends) in &mut world.services {
        ends[0].address = wide(four.remote[1]);
    }
    world.flows.borrow_mut().clear();
    assert!(forth(&world, &framed(CLIENT, &packet(asked, TCP, ACK))).is_none());
    assert_eq!(begin(&world, asked.from, asked.to, UDP), Some((four.remote[1], 8080)));
}

/// A pod that has all the notes that it may have leaves further flows to the stack, which has limits of its own.
#[test]
fn without_room_the_stack_has_it() {
    let [four, _] = families();
    let world = World { room: Some(1), ..world(&four, &[(four.remote[0], 8080)]) };
    assert!(begin(&world, (four.client, PORT), (four.service, 80), TCP).is_some());
    assert_eq!(begin(&world, (four.client, PORT + 1), (four.service, 80), TCP), None);
}
