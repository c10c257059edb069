//! Which addresses of a subnet are taken, by whom does not matter here.
//!
//! IPv4 in blocks of sixteen (a /28, which is EC2's prefix), one bit an address: a prefix is a block without a bit. Single addresses are
//! drawn at random all over the subnet, as EC2 does, which is what fragments a subnet that has many of them. The first four addresses and
//! the last are reserved. IPv6 is a /64: single addresses come from its first /80, prefixes are the other /80s.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};

/// Addresses of a block.
const BLOCK: u32 = 16;
/// EC2's IPv4 prefix.
pub(crate) const IPV4_PREFIX: u8 = 28;
/// EC2's IPv6 prefix.
pub(crate) const IPV6_PREFIX: u8 = 80;

/// Why one certain address cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is not of this subnet.
    Outside,
    /// It is AWS's own.
    Reserved,
    /// Somebody has it.
    InUse,
}

/// The IPv4 addresses of a subnet.
#[derive(Debug, Clone)]
pub(crate) struct Ipv4Space {
    cidr: Ipv4Network,
    /// A bit for each address of a block; set where it is taken or reserved.
    blocks: Vec<u16>,
    free: u32,
    /// Taken by nobody we model: what makes a subnet fragmented or full on request.
    foreign: u32,
}

impl Ipv4Space {
    /// All but the reserved ones free. `cidr` is a /16 to /28.
    pub(crate) fn new(cidr: Ipv4Network) -> Self {
        let size = cidr.size();
        let mut space = Self { cidr, blocks: vec![0; (size / BLOCK) as usize], free: size, foreign: 0 };
        for offset in [0, 1, 2, 3, size - 1] {
            space.mark(offset, 1);
        }
        space
    }

    pub(crate) const fn cidr(&self) -> Ipv4Network {
        self.cidr
    }

    pub(crate) const fn free(&self) -> u32 {
        self.free
    }

    pub(crate) const fn foreign(&self) -> u32 {
        self.foreign
    }

    /// All addresses but the reserved ones.
    pub(crate) fn usable(&self) -> u32 {
        self.cidr.size() - 5
    }

    pub(crate) fn take_any(&mut self, random: &mut fastrand::Rng) -> Option<Ipv4Addr> {
        let count = self.blocks.len();
        let start = random.usize(..count);
        let block = (0..count).map(|step| (start + step) % count).find(|&block| self.blocks[block] != u16::MAX)?;
        let first = random.u32(..BLOCK);
        let bit = (0..BLOCK).map(|step| (first + step) % BLOCK).find(|bit| self.blocks[block] & (1 << bit) == 0)?;
        let offset = block as u32 * BLOCK + bit;
        self.mark(offset, 1);
        Some(self.address(offset))
    }

    pub(crate) fn take(&mut self, address: Ipv4Addr) -> Result<(), Refused> {
        let offset = self.offset(address).ok_or(Refused::Outside)?;
        if offset < 4 || offset == self.cidr.size() - 1 {
            return Err(Refused::Reserved);
        }
        if self.is_taken(offset, 1) {
            return Err(Refused::InUse);
        }
        self.mark(offset, 1);
        Ok(())
    }

    /// Any free network of this prefix length, which is at most 28.
    pub(crate) fn take_any_network(&mut self, length: u8, random: &mut fastrand::Rng) -> Option<Ipv4Network> {
        let size = 1_u32.checked_shl(u32::from(32 - length))?;
        let count = self.cidr.size() / size;
        let start = if count == 0 { return None } else { random.u32(..count) };
        let offset = (0..count).map(|step| (start + step) % count * size).find(|&offset| !self.is_taken(offset, size))?;
        self.mark(offset, size);
        Ipv4Network::new(self.address(offset), length).ok()
    }

    pub(crate) fn take_network(&mut self, network: Ipv4Network) -> Result<(), Refused> {
        let offset = self.offset(network.network()).filter(|_| network.prefix() >= self.cidr.prefix()).ok_or(Refused::Outside)?;
        if self.is_taken(offset, network.size()) {
            return Err(Refused::InUse);
        }
        self.mark(offset, network.size());
        Ok(())
    }

    /// Gives back what was taken, an address as a /32.
    pub(crate) fn release(&mut self, network: Ipv4Network) {
        let Some(offset) = self.offset(network.network()) else { return };
        for offset in offset..offset + network.size() {
            let (block, bit) = (offset / BLOCK, 1 << (offset % BLOCK));
            debug_assert!(self.blocks[block as usize] & bit != 0, "{network} was not taken");
            self.blocks[block as usize] &= !bit;
        }
        self.free += network.size();
    }

    /// Takes one address out of every free block but `blocks_left` of them, for nobody.
    pub(crate) fn fragment(&mut self, blocks_left: usize, random: &mut fastrand::Rng) {
        let mut whole: Vec<_> = (0..self.blocks.len()).filter(|&block| self.blocks[block] == 0).collect();
        random.shuffle(&mut whole);
        for block in whole.into_iter().skip(blocks_left) {
            self.mark(block as u32 * BLOCK + random.u32(..BLOCK), 1);
            self.foreign += 1;
        }
    }

    /// Takes addresses for nobody until `left` are free.
    pub(crate) fn fill(&mut self, left: u32, random: &mut fastrand::Rng) {
        while self.free > left && self.take_any(random).is_some() {
            self.foreign += 1;
        }
    }

    /// Whether any of `size` addresses is taken; `size` is 1, or divides into whole blocks.
    fn is_taken(&self, offset: u32, size: u32) -> bool {
        let block = (offset / BLOCK) as usize;
        if size < BLOCK {
            return (offset..offset + size).any(|offset| self.blocks[block] & (1 << (offset % BLOCK)) != 0);
        }
        self.blocks[block..block + (size / BLOCK) as usize].iter().any(|&bits| bits != 0)
    }

    fn mark(&mut self, offset: u32, size: u32) {
        for offset in offset..offset + size {
            self.blocks[(offset / BLOCK) as usize] |= 1 << (offset % BLOCK);
        }
        self.free -= size;
    }

    fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        self.cidr.contains(address).then(|| u32::from(address) - u32::from(self.cidr.network()))
    }

    fn address(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.network()) + offset)
    }

    /// What the bits say, counted anew: the test of the counter.
    pub(crate) fn counted_free(&self) -> u32 {
        self.blocks.iter().map(|bits| bits.count_zeros()).sum()
    }
}

/// The IPv6 addresses of a subnet.
#[derive(Debug, Clone)]
pub(crate) struct Ipv6Space {
    cidr: Ipv6Network,
    addresses: BTreeSet<Ipv6Addr>,
    /// Numbers of the /80s that are taken, from 1.
    prefixes: BTreeSet<u16>,
}

impl Ipv6Space {
    /// Nothing taken. `cidr` is a /64.
    pub(crate) const fn new(cidr: Ipv6Network) -> Self {
        Self { cidr, addresses: BTreeSet::new(), prefixes: BTreeSet::new() }
    }

    pub(crate) const fn cidr(&self) -> Ipv6Network {
        self.cidr
    }

    pub(crate) fn take_any(&mut self, random: &mut fastrand::Rng) -> Ipv6Addr {
        loop {
            // 48 bits of the first /80, beyond the reserved first four.
            let address = Ipv6Addr::from(u128::from(self.cidr.network()) | u128::from(random.u64(4..1 << 48)));
            if self.addresses.insert(address) {
                return address;
            }
        }
    }

    pub(crate) fn take(&mut self, address: Ipv6Addr) -> Result<(), Refused> {
        match self.prefix_number(address).ok_or(Refused::Outside)? {
            0 if self.addresses.insert(address) => Ok(()),
            0 => Err(Refused::InUse),
            _ => Err(Refused::Outside),
        }
    }

    pub(crate) fn take_any_prefix(&mut self, random: &mut fastrand::Rng) -> Option<Ipv6Network> {
        let start = random.u16(1..);
        let number = (start..=u16::MAX).chain(1..start).find(|number| !self.prefixes.contains(number))?;
        self.prefixes.insert(number);
        Some(self.prefix(number))
    }

    pub(crate) fn take_prefix(&mut self, network: Ipv6Network) -> Result<(), Refused> {
        match self.prefix_number(network.network()).filter(|_| network.prefix() == IPV6_PREFIX).ok_or(Refused::Outside)? {
            0 => Err(Refused::Reserved),
            number if self.prefixes.insert(number) => Ok(()),
            _ => Err(Refused::InUse),
        }
    }

    pub(crate) fn release(&mut self, address: Ipv6Addr) {
        self.addresses.remove(&address);
    }

    pub(crate) fn release_prefix(&mut self, network: Ipv6Network) {
        if let Some(number) = self.prefix_number(network.network()) {
            self.prefixes.remove(&number);
        }
    }

    /// How many addresses and how many prefixes are taken.
    pub(crate) fn taken(&self) -> (usize, usize) {
        (self.addresses.len(), self.prefixes.len())
    }

    fn prefix_number(&self, address: Ipv6Addr) -> Option<u16> {
        self.cidr.contains(address).then(|| address.segments()[4])
    }

    fn prefix(&self, number: u16) -> Ipv6Network {
        let address = u128::from(self.cidr.network()) | u128::from(number) << 48;
        Ipv6Network::new(Ipv6Addr::from(address), IPV6_PREFIX).unwrap_or(self.cidr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random() -> fastrand::Rng {
        fastrand::Rng::with_seed(7)
    }

    fn space(cidr: &str) -> Ipv4Space {
        Ipv4Space::new(cidr.parse().unwrap())
    }

    #[test]
    fn five_addresses_are_reserved() {
        let mut small = space("10.0.0.0/28");
        assert_eq!(small.free(), 11);
        for reserved in [0, 1, 2, 3, 15] {
            assert_eq!(small.take(Ipv4Addr::new(10, 0, 0, reserved)), Err(Refused::Reserved));
        }
        assert_eq!(small.take(Ipv4Addr::new(10, 0, 0, 16)), Err(Refused::Outside));
        let mut random = random();
        let all: BTreeSet<_> = std::iter::from_fn(|| small.take_any(&mut random)).collect();
        assert_eq!(all.len(), 11);
        assert_eq!(small.take(Ipv4Addr::new(10, 0, 0, 4)), Err(Refused::InUse));
        assert_eq!(small.take_any_network(28, &mut random), None, "a /28 has no prefix to give");
    }

    #[test]
    fn prefixes_never_overlap_addresses() {
        let (mut space, mut random) = (space("10.0.0.0/24"), random());
        let prefixes: BTreeSet<_> = std::iter::from_fn(|| space.take_any_network(28, &mut random)).collect();
        assert_eq!(prefixes.len(), 14, "all blocks but the first and the last, which hold reserved addresses");
        assert_eq!(space.free(), 27);
        space.release("10.0.0.32/28".parse().unwrap());
        space.take(Ipv4Addr::new(10, 0, 0, 40)).unwrap();
        assert_eq!(space.take_any_network(28, &mut random), None);
        assert_eq!(space.take_network("10.0.0.32/28".parse().unwrap()), Err(Refused::InUse));
        space.release("10.0.0.40/32".parse().unwrap());
        space.take_network("10.0.0.32/28".parse().unwrap()).unwrap();
        assert_eq!(space.counted_free(), space.free());
    }

    #[test]
    fn a_fragmented_subnet_has_addresses_but_no_prefix() {
        let (mut space, mut random) = (space("10.1.0.0/20"), random());
        space.fragment(1, &mut random);
        assert_eq!((space.foreign(), space.free()), (253, 4091 - 253));
        assert!(space.take_any_network(28, &mut random).is_some());
        assert_eq!(space.take_any_network(28, &mut random), None);
        assert!(space.take_any(&mut random).is_some());
        space.fill(2, &mut random);
        assert_eq!((space.free(), space.counted_free()), (2, 2));
    }

    #[test]
    fn longer_ranges_are_whole_blocks() {
        let (mut space, mut random) = (space("10.2.0.0/22"), random());
        let range = space.take_any_network(24, &mut random).unwrap();
        assert_eq!(range.prefix(), 24);
        assert_eq!(space.take(range.nth(9).unwrap()), Err(Refused::InUse));
        assert!(space.take_any_network(16, &mut random).is_none());
        assert_eq!(space.counted_free(), space.free());
    }

    #[test]
    fn ipv6_prefixes_and_addresses_keep_apart() {
        let (mut space, mut random) = (Ipv6Space::new("fd00:10::/64".parse().unwrap()), random());
        let address = space.take_any(&mut random);
        let prefix = space.take_any_prefix(&mut random).unwrap();
        assert_eq!(prefix.prefix(), 80);
        assert!(!prefix.contains(address));
        assert_eq!(space.take(address), Err(Refused::InUse));
        assert_eq!(space.take(prefix.nth(5).unwrap()), Err(Refused::Outside));
        assert_eq!(space.take_prefix(prefix), Err(Refused::InUse));
        space.release_prefix(prefix);
        space.take_prefix(prefix).unwrap();
        assert_eq!(space.taken(), (1, 1));
    }
}
