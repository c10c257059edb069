//! Arbitrary values out of arbitrary bytes: few of each kind, so that packets and tables meet.

use ebpf::flow::{Flow4, Flow6, Noted};
use ebpf::layout::{Endpoint, Interval4, Interval6, Network, Uplink};
use ebpf::packet::Transport;
use ebpf::scope::halves;

use super::tables::{Flow, World};

/// Slots and uplinks.
pub(super) const FEW: u32 = 4;

/// Takes bytes from the front; behind their end there are zeroes.
pub(super) struct Source<'a>(pub(super) &'a [u8]);

impl Source<'_> {
    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let length = N.min(self.0.len());
        let (front, rest) = self.0.split_at(length);
        taken[..length].copy_from_slice(front);
        self.0 = rest;
        taken
    }

    pub(super) fn byte(&mut self) -> u8 {
        let [byte] = self.bytes();
        byte
    }

    pub(super) fn below(&mut self, limit: u8) -> u8 {
        self.byte() % limit
    }

    /// Once in so many times.
    pub(super) fn rarely(&mut self, times: u8) -> bool {
        self.byte() % times == times - 1
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// One of few, or now and then anything.
    pub(super) fn small(&mut self) -> u32 {
        let byte = self.byte();
        if byte == u8::MAX { self.number() } else { u32::from(byte) % FEW }
    }

    /// Confined ones among them.
    pub(super) fn ipv4(&mut self) -> [u8; 4] {
        match self.byte() {
            byte @ 0..=239 => [10, 0, byte / 4 % 2, byte % 4],
            240 => [0; 4],
            241 => [169, 254, 169, 254],
            242 => [224, 0, 0, 1],
            _ => self.bytes(),
        }
    }

    pub(super) fn ipv6(&mut self) -> [u8; 16] {
        let mut address = [0; 16];
        match self.byte() {
            byte @ 0..=239 => (address[0], address[7], address[15]) = (0xfd, byte / 4 % 2, byte % 4),
            240 => {}
            241 => (address[0], address[1]) = (0xfe, 0x80),
            242 => address[0] = 0xff,
            _ => return self.bytes(),
        }
        address
    }

    /// Mostly some networks; now and then a table that is none.
    fn network(&mut self) -> Box<Network> {
        let mut network = Box::new(Network { untracked_mark: 16, ..Network::default() });
        network.carry_v4 = u32::from(!self.rarely(8));
        network.carry_v6 = u32::from(!self.rarely(8));
        let mut begins4: Vec<u32> = (0..self.below(6)).map(|_| u32::from_be_bytes(self.ipv4())).collect();
        let mut begins6: Vec<[u64; 2]> = (0..self.below(6)).map(|_| halves(self.ipv6())).collect();
        if !self.rarely(32) {
            begins4.push(0);
            begins6.push([0; 2]);
            begins4.sort_unstable();
            begins6.sort_unstable();
        }
        for (row, first) in begins4.iter().enumerate() {
            network.intervals4[row] = Interval4 { first: *first, meaning: self.meaning() };
        }
        for (row, first) in begins6.iter().enumerate() {
            network.intervals6[row] = Interval6 { first: *first, meaning: self.meaning(), padding: 0 };
        }
        network.intervals4_len = u32::try_from(begins4.len()).unwrap();
        network.intervals6_len = u32::try_from(begins6.len()).unwrap();
        if self.rarely(64) {
            (network.intervals4_len, network.intervals6_len) = (self.number(), self.number());
        }
        network
    }

    /// Mostly native and carried.
    fn meaning(&mut self) -> u32 {
        match self.below(8) {
            0 => 3,
            1 => 1 | 8,
            2 => 1 | 16,
            3 => u32::from(self.byte()),
            _ => 1 | 16 | 32,
        }
    }

    fn endpoint(&mut self, slot: u32) -> Endpoint {
        Endpoint {
            ifindex: if self.rarely(16) { 0 } else { 100 + slot },
            uplink_v4: u16::from(self.below(4)),
            uplink_v6: u16::from(self.below(4)),
            ipv4: self.ipv4(),
            ipv6: self.ipv6(),
            mac: [2, 0, 0, 0, 0, self.byte() % 2],
            stack_only: u8::from(self.rarely(16)),
            limits: 0,
            mtu: self.mtu(),
        }
    }

    fn mtu(&mut self) -> u32 {
        [1500, 9001, 60, 0][usize::from(self.below(16)).saturating_sub(12)]
    }

    /// Tables as the daemon writes them: an address leads to the endpoint that has it, and to no other.
    pub(super) fn world(&mut self) -> World {
        let mut world = World { network: self.network(), ..World::default() };
        for slot in 0..FEW {
            let mut endpoint = self.endpoint(slot);
            let taken4 = world.slots4.iter().any(|(address, _)| *address == endpoint.ipv4);
            let taken6 = world.slots6.iter().any(|(address, _)| *address == endpoint.ipv6);
            if taken4 || is_confined4(endpoint.ipv4) {
                endpoint.ipv4 = [0; 4];
            } else {
                world.slots4.push((endpoint.ipv4, slot));
            }
            if taken6 || is_confined6(endpoint.ipv6) {
                endpoint.ipv6 = [0; 16];
            } else {
                world.slots6.push((endpoint.ipv6, slot));
            }
            world.endpoints.push((slot, endpoint));
            let closed = self.rarely(8);
            let uplink = Uplink {
                ifindex: if closed { 0 } else { 2 + slot },
                mtu: self.mtu(),
                gateway_v4: if self.rarely(8) { [0; 4] } else { [10, 0, 0, 1] },
                gateway_v6: if self.rarely(8) { [0; 16] } else { [0xfe; 16] },
            };
            world.uplinks.push((slot, uplink));
        }
        // Addresses that pods may use beside their own.
        for _ in 0..self.below(3) {
            let (slot, four, six) = (u32::from(self.below(4)), self.ipv4(), self.ipv6());
            if !is_confined4(four) && world.slots4.iter().all(|(address, _)| *address != four) {
                world.slots4.push((four, slot));
            }
            if !is_confined6(six) && world.slots6.iter().all(|(address, _)| *address != six) {
                world.slots6.push((six, slot));
            }
        }
        for _ in 0..self.below(6) {
            let note = (self.flow(), self.noted());
            world.flows.get_mut().push(note);
        }
        world.room = self.rarely(8).then(|| usize::from(self.below(6)));
        world
    }

    fn flow(&mut self) -> Flow {
        let transport = self.transport();
        if self.byte().is_multiple_of(2) {
            Flow::V4(Flow4::of(self.ipv4(), self.ipv4(), transport).0)
        } else {
            Flow::V6(Flow6::of(halves(self.ipv6()), halves(self.ipv6()), transport).0)
        }
    }

    fn noted(&mut self) -> Noted {
        Noted { seen_seconds: 0, slot: u16::from(self.below(4)), from_low: self.below(16), from_high: self.below(16) }
    }

    /// Few ports, over what is a flow; ICMP of either family stands for an echo.
    pub(super) fn transport(&mut self) -> Transport {
        let protocol = [6, 17, 1, 58][usize::from(self.below(4))];
        let [source, destination] = [(); 2].map(|()| [0, self.byte() % 2]);
        let destination = if matches!(protocol, 1 | 58) { source } else { destination };
        Transport { protocol, source, destination }
    }
}

/// What no pod has.
fn is_confined4([first, second, ..]: [u8; 4]) -> bool {
    matches!(first, 0 | 127 | 224..) || (first, second) == (169, 254)
}

fn is_confined6(address: [u8; 16]) -> bool {
    address[0] == 0xff || (address[0], address[1] & 0xc0) == (0xfe, 0x80) || address[..15] == [0; 15]
}
