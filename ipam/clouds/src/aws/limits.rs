//! How many interfaces and addresses an instance may have ("Maximum IP addresses per network interface" in the Amazon EC2 user guide),
//! as `DescribeInstanceTypes` tells it.

use ipam_pool::range::Family;

use super::reply::InstanceTypeItem;

/// What the instance is limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Interfaces on its first network card, where ours are.
    pub(super) interfaces: u64,
    /// IPv4 addresses and prefixes an interface, its own address included.
    pub(super) ipv4: u64,
    /// IPv6 addresses and prefixes an interface.
    pub(super) ipv6: u64,
    /// Whether there are prefixes: on Nitro and on bare metal.
    pub(super) prefixes: bool,
}

impl Limits {
    /// What almost every type has: it holds from `t3.small` up, so that what is asked for is not refused. One interface only.
    pub(super) const UNKNOWN: Self = Self { interfaces: 1, ipv4: 4, ipv6: 4, prefixes: true };

    pub(super) fn of(item: &InstanceTypeItem) -> Self {
        let info = &item.network_info;
        let first_card = info.network_cards.item.iter().find(|card| card.network_card_index == 0);
        Self {
            interfaces: first_card.map_or(info.maximum_network_interfaces, |card| card.maximum_network_interfaces),
            ipv4: info.ipv4_addresses_per_interface,
            ipv6: info.ipv6_addresses_per_interface,
            prefixes: item.bare_metal || item.hypervisor.as_deref() == Some("nitro"),
        }
    }

    /// How many more blocks an interface may have that has so many addresses and prefixes. Each takes one place, whatever its size.
    pub(super) const fn room(&self, family: Family, taken: usize) -> u64 {
        match family {
            Family::V4 => self.ipv4.saturating_sub(taken as u64),
            // Where there are no prefixes, there is nothing that we would ask for.
            Family::V6 => {
                if self.prefixes {
                    self.ipv6.saturating_sub(taken as u64)
                } else {
                    0
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::xml;
    use super::super::reply::InstanceTypes;
    use super::*;

    fn limits(inside: &str) -> Limits {
        let text = format!(
            "<DescribeInstanceTypesResponse><requestId>r</requestId><instanceTypeSet><item>{inside}</item></instanceTypeSet>\
             </DescribeInstanceTypesResponse>"
        );
        let types: InstanceTypes = xml::parse("DescribeInstanceTypesResponse", &text).unwrap();
        Limits::of(&types.instance_type_set.item[0])
    }

    #[test]
    fn the_first_card_counts() {
        let p5 = limits(
            "<instanceType>p5.48xlarge</instanceType><hypervisor>nitro</hypervisor><networkInfo><ipv4AddressesPerInterface>50\
             </ipv4AddressesPerInterface><ipv6AddressesPerInterface>50</ipv6AddressesPerInterface><maximumNetworkInterfaces>64\
             </maximumNetworkInterfaces><networkCards><item><maximumNetworkInterfaces>2</maximumNetworkInterfaces>\
             <networkCardIndex>0</networkCardIndex></item><item><maximumNetworkInterfaces>1</maximumNetworkInterfaces>\
             <networkCardIndex>1</networkCardIndex></item></networkCards></networkInfo>",
        );
        assert_eq!(p5, Limits { interfaces: 2, ipv4: 50, ipv6: 50, prefixes: true });
        assert_eq!((p5.room(Family::V4, 2), p5.room(Family::V4, 60)), (48, 0));
    }

    #[test]
    fn prefixes_are_nitros_and_bare_metals() {
        let info = "<networkInfo><ipv4AddressesPerInterface>10</ipv4AddressesPerInterface><maximumNetworkInterfaces>2\
                    </maximumNetworkInterfaces></networkInfo>";
        let xen = limits(&format!("<hypervisor>xen</hypervisor>{info}"));
        assert_eq!(xen, Limits { interfaces: 2, ipv4: 10, ipv6: 0, prefixes: false });
        assert_eq!((xen.room(Family::V4, 1), xen.room(Family::V6, 0)), (9, 0));
        assert!(limits(&format!("<bareMetal>true</bareMetal>{info}")).prefixes);
    }
}
