//! Whether the state keeps its own promises; for tests and simulations.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::Cloud;
use super::id::{InterfaceId, SubnetId};

/// A promise that is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Broken {
    #[error("{network} of {interface} overlaps what {other} has")]
    Conflict { network: IpNetwork, interface: InterfaceId, other: InterfaceId },
    #[error("{subnet} counts {counted} free IPv4 addresses, its bits say {bits}, its interfaces leave {left}")]
    FreeCount { subnet: SubnetId, counted: u32, bits: u32, left: i64 },
    #[error("{subnet} has {taken:?} IPv6 addresses and prefixes taken, its interfaces hold {held:?}")]
    Ipv6Count { subnet: SubnetId, taken: (usize, usize), held: (usize, usize) },
    #[error("{interface} of {address_count} IPv4 addresses and prefixes may have {limit}")]
    OverLimit { interface: InterfaceId, address_count: u32, limit: u32 },
    #[error("{0} is attached to an instance that does not list it")]
    Unlisted(InterfaceId),
}

impl Cloud {
    /// Counts everything anew: no address on two interfaces, counters equal what is counted, no limit exceeded.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn audit(&self) -> Result<(), Broken> {
        self.conflicts()?;
        for (&id, subnet) in &self.subnets {
            let mut left = i64::from(subnet.ipv4.usable()) - i64::from(subnet.ipv4.foreign());
            let mut held = (0, 0);
            for interface in self.interfaces().filter(|interface| interface.subnet == id) {
                left -= 1 + interface.secondary.len() as i64;
                left -= interface.ipv4_prefixes.iter().map(|prefix| i64::from(prefix.size())).sum::<i64>();
                held = (held.0 + interface.ipv6.len(), held.1 + interface.ipv6_prefixes.len());
            }
            let (counted, bits) = (subnet.ipv4.free(), subnet.ipv4.counted_free());
            if counted != bits || i64::from(counted) != left {
                return Err(Broken::FreeCount { subnet: id, counted, bits, left });
            }
            let taken = subnet.ipv6.as_ref().map_or((0, 0), super::Ipv6Space::taken);
            if taken != held {
                return Err(Broken::Ipv6Count { subnet: id, taken, held });
            }
        }
        for interface in self.interfaces() {
            let Some(attachment) = &interface.attachment else { continue };
            let Some(instance) = self.instance(attachment.instance).filter(|instance| instance.interfaces.contains(&interface.id)) else {
                return Err(Broken::Unlisted(interface.id));
            };
            let (address_count, limit) = (interface.ipv4_count(), instance.limits().ipv4_per_interface);
            if address_count > limit {
                return Err(Broken::OverLimit { interface: interface.id, address_count, limit });
            }
        }
        Ok(())
    }

    fn conflicts(&self) -> Result<(), Broken> {
        // By first address: what overlaps is neighbouring.
        let mut claims: BTreeMap<IpAddr, (IpNetwork, InterfaceId)> = BTreeMap::new();
        for interface in self.interfaces() {
            for network in interface.networks() {
                let last = match network {
                    IpNetwork::V4(network) => IpAddr::V4(network.broadcast()),
                    IpNetwork::V6(network) => IpAddr::V6(network.broadcast()),
                };
                let before = claims.range(..=last).next_back().filter(|(_, (claimed, _))| claimed.contains(network.network()));
                let inside = claims.range(network.network()..=last).next();
                if let Some((_, (_, other))) = before.or(inside) {
                    return Err(Broken::Conflict { network, interface: interface.id, other: *other });
                }
                claims.insert(network.network(), (network, interface.id));
            }
        }
        Ok(())
    }
}
