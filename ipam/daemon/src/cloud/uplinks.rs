//! Makes uplinks and pod ranges of what a cloud has told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use datapath::{PodRange, Uplink, UplinkChoice, UplinkName};
use ipnetwork::IpNetwork;

use ipam_pool::range::AddressRange;
use ipam_supply::Interface;
use ipam_supply::memory::Known;

/// As many as a packet's mark tells apart.
const UPLINKS_MAX: u16 = 16;

/// Which interface is which uplink. An interface keeps its number for as long as it is known, whatever comes and goes beside it; the
/// node's own has 0.
#[derive(Debug, Default)]
pub(crate) struct UplinkNumbers(pub(crate) BTreeMap<String, u16>);

impl UplinkNumbers {
    /// Gives each interface a number. One beyond [`UPLINKS_MAX`] has none and carries no pods.
    pub(crate) fn assign(&mut self, interfaces: &[Interface]) {
        self.0.retain(|id, number| *number == 0 || interfaces.iter().any(|interface| interface.id == *id));
        for (position, interface) in interfaces.iter().enumerate() {
            if self.0.contains_key(&interface.id) {
                continue;
            }
            let is_free = |number: &u16| !self.0.values().any(|taken| taken == number);
            // Before anything is known, the first is the node's own. Its number stays its own even while it is not there.
            let first = u16::from(position > 0 || !self.0.is_empty());
            if let Some(number) = (first..UPLINKS_MAX).find(is_free) {
                self.0.insert(interface.id.clone(), number);
            }
        }
    }

    /// What to look for in the kernel.
    pub(crate) fn choices(&self, interfaces: &[Interface]) -> Vec<UplinkChoice> {
        let choice = |interface: &Interface| {
            let index = *self.0.get(&interface.id)?;
            Some(UplinkChoice { index, interface: UplinkName::Mac(interface.mac), gateways: interface.gateways.clone() })
        };
        let mut choices: Vec<_> = interfaces.iter().filter_map(choice).collect();
        choices.sort_by_key(|choice| choice.index);
        choices
    }

    /// The interface that is this uplink.
    pub(crate) fn interface<'a>(&self, interfaces: &'a [Interface], uplink: &Uplink) -> Option<&'a Interface> {
        interfaces.iter().find(|interface| self.0.get(&interface.id) == Some(&uplink.index))
    }

    /// Whose addresses are whose. An uplink that is not there keeps its pods: they are not another's.
    pub(crate) fn pods(&self, known: &Known) -> Vec<PodRange> {
        let range = |(block, interface): &(IpNetwork, String)| {
            let (first, last) = AddressRange::from(*block).ends();
            Some(PodRange { first, last, uplink: *self.0.get(interface)? })
        };
        known.blocks.iter().filter_map(range).collect()
    }

    /// The blocks that [`UplinkNumbers::pods`] has.
    pub(crate) fn carried(&self, known: &Known) -> BTreeSet<IpNetwork> {
        known.blocks.iter().filter(|(_, interface)| self.0.contains_key(interface)).map(|(block, _)| *block).collect()
    }

    /// The interfaces that are there and run.
    pub(crate) fn present(&self, uplinks: &[Uplink]) -> BTreeSet<String> {
        let runs = |number: &u16| uplinks.iter().any(|uplink| uplink.running && uplink.index == *number);
        self.0.iter().filter(|(_, number)| runs(number)).map(|(id, _)| id.clone()).collect()
    }
}

/// The ranges that were another uplink's before.
pub(crate) fn moved(before: &[PodRange], now: &[PodRange]) -> Vec<PodRange> {
    let is_moved =
        |range: &&PodRange| before.iter().any(|old| old.first == range.first && old.last == range.last && old.uplink != range.uplink);
    now.iter().filter(is_moved).copied().collect()
}

/// The first block that is in none of these networks: its pods would be masqueraded on their way to others.
pub(crate) fn not_native(known: &Known, native: &[IpNetwork]) -> Option<IpNetwork> {
    let covers = |cidr: &IpNetwork, block: &IpNetwork| cidr.prefix() <= block.prefix() && cidr.contains(block.network());
    known.blocks.iter().map(|(block, _)| *block).find(|block| !native.iter().any(|cidr| covers(cidr, block)))
}

#[cfg(test)]
mod tests {
    use datapath::Ifindex;

    use super::*;

    fn interfaces(ids: &[&str]) -> Vec<Interface> {
        let interface = |id: &&str| Interface {
            id: (*id).to_owned(),
            mac: [2, 0, 0, 0, 0, id.as_bytes()[0]],
            address: None,
            gateways: Vec::new(),
            blocks: BTreeSet::new(),
            free_slots: [0; 2],
            created_here: false,
        };
        ids.iter().map(interface).collect()
    }

    fn numbers_after(readings: &[&[&str]]) -> Vec<(String, u16)> {
        let mut numbers = UplinkNumbers::default();
        readings.iter().for_each(|ids| numbers.assign(&interfaces(ids)));
        numbers.0.into_iter().collect()
    }

    #[test]
    fn an_interface_keeps_its_number() {
        let expected = |pairs: &[(&str, u16)]| pairs.iter().map(|(id, number)| ((*id).to_owned(), *number)).collect::<Vec<_>>();
        assert_eq!(numbers_after(&[&["a", "b", "c"]]), expected(&[("a", 0), ("b", 1), ("c", 2)]));
        assert_eq!(numbers_after(&[&["a", "b", "c"], &["c", "a"]]), expected(&[("a", 0), ("c", 2)]));
        assert_eq!(numbers_after(&[&["a", "b", "c"], &["a", "c"], &["a", "c", "d"]]), expected(&[("a", 0), ("c", 2), ("d", 1)]));
        assert_eq!(numbers_after(&[&["a", "b"], &["b"], &["b", "a"]]), expected(&[("a", 0), ("b", 1)]), "0 stays the node's own");
    }

    #[test]
    fn there_are_sixteen_at_most() {
        let ids: Vec<_> = ('a'..='t').map(String::from).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        let mut numbers = UplinkNumbers::default();
        numbers.assign(&interfaces(&ids));
        assert_eq!(numbers.choices(&interfaces(&ids)).len(), 16);
    }

    #[test]
    fn blocks_belong_to_their_interfaces_which_are_present_while_they_run() {
        let blocks = [("10.0.0.16/28", "a"), ("10.0.9.16/28", "b")].map(|(block, id)| (block.parse().unwrap(), id.to_owned()));
        let known =
            Known { interfaces: interfaces(&["a", "b"]), blocks: blocks.into(), native: Vec::new(), assigned_here: BTreeSet::new() };
        let mut numbers = UplinkNumbers::default();
        numbers.assign(&known.interfaces);
        assert_eq!(numbers.pods(&known).iter().map(|range| range.uplink).collect::<Vec<_>>(), [0, 1]);
        let uplink = |index, running| Uplink {
            index,
            ifindex: Ifindex(2),
            ifname: "eth0".into(),
            mtu: 9001,
            running,
            gateways: Vec::new(),
            addresses: Vec::new(),
        };
        assert_eq!(numbers.carried(&known).len(), 2);
        let present = |uplinks: &[Uplink]| numbers.present(uplinks).len();
        assert_eq!(
            [present(&[uplink(0, true)]), present(&[uplink(0, true), uplink(1, false)]), present(&[uplink(0, true), uplink(1, true)])],
            [1, 1, 2]
        );
        assert_eq!(not_native(&known, &["10.0.0.0/24".parse().unwrap()]), Some("10.0.9.16/28".parse().unwrap()));
        assert_eq!(not_native(&known, &["10.0.0.0/16".parse().unwrap()]), None);
    }
}
