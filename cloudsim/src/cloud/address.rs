//! Addresses and prefixes are assigned and unassigned.
//!
//! A call is carried out wholly or not at all. The `take_…` functions put what they took into a list as they go, so that the caller can
//! give it back when a later one fails.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::error::ApiError;
use super::id::{InterfaceId, SubnetId};
use super::instance_type::InstanceType;
use super::interface::Interface;
use super::request::{Ipv4Wanted, Ipv6Wanted};
use super::response::Response;
use super::subnet::{IPV4_PREFIX, Ipv4Space, Ipv6Space, Refused};
use super::{Change, Cloud};
use crate::time::Millis;

impl Cloud {
    pub(super) fn assign_ipv4(&mut self, now: Millis, id: InterfaceId, wanted: &Ipv4Wanted) -> Result<Response, ApiError> {
        let interface = self.found(now, id)?;
        let subnet = interface.subnet;
        let asked = match wanted {
            Ipv4Wanted::SecondaryPrivateIpAddressCount(count) | Ipv4Wanted::Ipv4PrefixCount(count) => *count,
            Ipv4Wanted::PrivateIpAddresses(addresses) => addresses.len() as u32,
            Ipv4Wanted::Ipv4Prefixes(prefixes) => prefixes.len() as u32,
        };
        if asked == 0 {
            return Err(ApiError::missing_parameter("secondaryPrivateIpAddressCount"));
        }
        if let Some(limits) = self.limits_of(interface) {
            if interface.ipv4_count() + asked > limits.ipv4_per_interface {
                return Err(ApiError::interface_full(limits.ipv4_per_interface));
            }
            if matches!(wanted, Ipv4Wanted::Ipv4PrefixCount(_) | Ipv4Wanted::Ipv4Prefixes(_)) && !limits.nitro {
                return Err(no_prefixes_on(limits));
            }
        }
        let (mut addresses, mut prefixes) = (Vec::new(), Vec::new());
        let taken = match wanted {
            Ipv4Wanted::SecondaryPrivateIpAddressCount(count) => self.take_ipv4_count(subnet, *count, &mut addresses),
            Ipv4Wanted::PrivateIpAddresses(named) => self.take_ipv4(subnet, named, &mut addresses),
            Ipv4Wanted::Ipv4PrefixCount(count) => self.take_ipv4_prefix_count(subnet, *count, IPV4_PREFIX, &mut prefixes),
            Ipv4Wanted::Ipv4Prefixes(named) => self.take_ipv4_prefixes(subnet, named, &mut prefixes),
        };
        if let Err(error) = taken {
            let space = self.ipv4_of(subnet)?;
            addresses.iter().for_each(|address| space.release(Ipv4Network::from(*address)));
            prefixes.iter().for_each(|prefix| space.release(*prefix));
            return Err(error);
        }
        if let Some(interface) = self.edit(now, id) {
            interface.secondary.extend(&addresses);
            interface.ipv4_prefixes.extend(&prefixes);
        }
        let singles = addresses.iter().map(|address| single(*address));
        self.assigned(now, id, singles.chain(prefixes.iter().map(|prefix| IpNetwork::V4(*prefix))));
        Ok(Response::AssignPrivateIpAddresses { interface: id, addresses, prefixes })
    }

    pub(super) fn unassign_ipv4(
        &mut self,
        now: Millis,
        id: InterfaceId,
        addresses: &[Ipv4Addr],
        prefixes: &[Ipv4Network],
    ) -> Result<Response, ApiError> {
        let interface = self.found(now, id)?;
        let subnet = interface.subnet;
        if addresses.is_empty() && prefixes.is_empty() {
            return Err(ApiError::missing_parameter("privateIpAddress"));
        }
        if addresses.contains(&interface.primary) {
            return Err(ApiError::invalid_parameter(format!("The primary address {} of {id} cannot be unassigned", interface.primary)));
        }
        all_assigned(id, addresses, &interface.secondary)?;
        all_assigned(id, prefixes, &interface.ipv4_prefixes)?;
        if let Some(interface) = self.edit(now, id) {
            interface.secondary.retain(|address| !addresses.contains(address));
            interface.ipv4_prefixes.retain(|prefix| !prefixes.contains(prefix));
        }
        let space = self.ipv4_of(subnet)?;
        let mut gone: Vec<_> = addresses.iter().map(|address| Ipv4Network::from(*address)).chain(prefixes.iter().copied()).collect();
        gone.sort_unstable();
        gone.dedup();
        gone.iter().for_each(|network| space.release(*network));
        self.unassigned(now, id, gone.into_iter().map(IpNetwork::V4));
        Ok(Response::Done)
    }

    pub(super) fn assign_ipv6(&mut self, now: Millis, id: InterfaceId, wanted: &Ipv6Wanted) -> Result<Response, ApiError> {
        let interface = self.found(now, id)?;
        let subnet = interface.subnet;
        let asked = match wanted {
            Ipv6Wanted::Ipv6AddressCount(count) | Ipv6Wanted::Ipv6PrefixCount(count) => *count,
            Ipv6Wanted::Ipv6Addresses(addresses) => addresses.len() as u32,
            Ipv6Wanted::Ipv6Prefixes(prefixes) => prefixes.len() as u32,
        };
        if asked == 0 {
            return Err(ApiError::missing_parameter("ipv6Addresses"));
        }
        if let Some(limits) = self.limits_of(interface) {
            if interface.ipv6_count() + asked > limits.ipv6_per_interface {
                let limit = limits.ipv6_per_interface;
                return Err(ApiError::client(
                    "Ipv6AddressLimitExceeded",
                    format!("Number of IPv6 addresses will exceed limit of {limit}."),
                ));
            }
            if matches!(wanted, Ipv6Wanted::Ipv6PrefixCount(_) | Ipv6Wanted::Ipv6Prefixes(_)) && !limits.nitro {
                return Err(no_prefixes_on(limits));
            }
        }
        let (mut addresses, mut prefixes) = (Vec::new(), Vec::new());
        let taken = match wanted {
            Ipv6Wanted::Ipv6AddressCount(count) => self.take_ipv6_count(subnet, *count, &mut addresses),
            Ipv6Wanted::Ipv6Addresses(named) => self.take_ipv6(subnet, named, &mut addresses),
            Ipv6Wanted::Ipv6PrefixCount(count) => self.take_ipv6_prefix_count(subnet, *count, &mut prefixes),
            Ipv6Wanted::Ipv6Prefixes(named) => self.take_ipv6_prefixes(subnet, named, &mut prefixes),
        };
        if let Err(error) = taken {
            if let Ok(space) = self.ipv6_of(subnet) {
                addresses.iter().for_each(|address| space.release(*address));
                prefixes.iter().for_each(|prefix| space.release_prefix(*prefix));
            }
            return Err(error);
        }
        if let Some(interface) = self.edit(now, id) {
            interface.ipv6.extend(&addresses);
            interface.ipv6_prefixes.extend(&prefixes);
        }
        let singles = addresses.iter().map(|address| single(*address));
        self.assigned(now, id, singles.chain(prefixes.iter().map(|prefix| IpNetwork::V6(*prefix))));
        Ok(Response::AssignIpv6Addresses { interface: id, addresses, prefixes })
    }

    pub(super) fn unassign_ipv6(
        &mut self,
        now: Millis,
        id: InterfaceId,
        addresses: &[Ipv6Addr],
        prefixes: &[Ipv6Network],
    ) -> Result<Response, ApiError> {
        let interface = self.found(now, id)?;
        let subnet = interface.subnet;
        if addresses.is_empty() && prefixes.is_empty() {
            return Err(ApiError::missing_parameter("ipv6Addresses"));
        }
        all_assigned(id, addresses, &interface.ipv6)?;
        all_assigned(id, prefixes, &interface.ipv6_prefixes)?;
        if let Some(interface) = self.edit(now, id) {
            interface.ipv6.retain(|address| !addresses.contains(address));
            interface.ipv6_prefixes.retain(|prefix| !prefixes.contains(prefix));
        }
        let space = self.ipv6_of(subnet)?;
        addresses.iter().for_each(|address| space.release(*address));
        prefixes.iter().for_each(|prefix| space.release_prefix(*prefix));
        let singles = addresses.iter().map(|address| single(*address));
        self.unassigned(now, id, singles.chain(prefixes.iter().map(|prefix| IpNetwork::V6(*prefix))));
        Ok(Response::UnassignIpv6Addresses { interface: id, addresses: addresses.to_vec(), prefixes: prefixes.to_vec() })
    }

    fn assigned(&mut self, now: Millis, interface: InterfaceId, networks: impl Iterator<Item = IpNetwork>) {
        networks.for_each(|network| self.emit(now, Change::Assigned { interface, network }));
    }

    fn unassigned(&mut self, now: Millis, interface: InterfaceId, networks: impl Iterator<Item = IpNetwork>) {
        networks.for_each(|network| self.emit(now, Change::Unassigned { interface, network }));
    }

    /// The limits of the instance that an interface belongs to; a free interface has none.
    fn limits_of(&self, interface: &Interface) -> Option<&'static InstanceType> {
        let attachment = interface.attachment.as_ref()?;
        self.instances.get(&attachment.instance).map(super::Instance::limits)
    }

    fn ipv4_of(&mut self, subnet: SubnetId) -> Result<&mut Ipv4Space, ApiError> {
        self.subnets.get_mut(&subnet).map(|found| &mut found.ipv4).ok_or_else(|| ApiError::no_subnet(subnet))
    }

    fn ipv6_of(&mut self, subnet: SubnetId) -> Result<&mut Ipv6Space, ApiError> {
        let found = self.subnets.get_mut(&subnet).ok_or_else(|| ApiError::no_subnet(subnet))?;
        found.ipv6.as_mut().ok_or_else(|| ApiError::invalid_parameter(format!("The subnet '{subnet}' does not have an IPv6 CIDR block")))
    }

    pub(super) fn take_ipv4(&mut self, subnet: SubnetId, named: &[Ipv4Addr], taken: &mut Vec<Ipv4Addr>) -> Result<(), ApiError> {
        let space = self.ipv4_of(subnet)?;
        for &address in named {
            space.take(address).map_err(|refused| match refused {
                Refused::InUse => ApiError::invalid_parameter(format!("[{address}] assigned, but move is not allowed.")),
                refused => ApiError::address(address, refused),
            })?;
            taken.push(address);
        }
        Ok(())
    }

    pub(super) fn take_ipv4_count(&mut self, subnet: SubnetId, count: u32, taken: &mut Vec<Ipv4Addr>) -> Result<(), ApiError> {
        let space = &mut self.subnets.get_mut(&subnet).ok_or_else(|| ApiError::no_subnet(subnet))?.ipv4;
        if space.free() < count {
            return Err(ApiError::subnet_full());
        }
        taken.extend((0..count).map_while(|_| space.take_any(&mut self.random)));
        Ok(())
    }

    pub(super) fn take_ipv4_prefixes(
        &mut self,
        subnet: SubnetId,
        named: &[Ipv4Network],
        taken: &mut Vec<Ipv4Network>,
    ) -> Result<(), ApiError> {
        let space = self.ipv4_of(subnet)?;
        for &prefix in named {
            if prefix.network() != prefix.ip() || prefix.prefix() > IPV4_PREFIX {
                return Err(ApiError::invalid_parameter(format!("The prefix {prefix} is not valid: take a /28 from its first address on")));
            }
            space.take_network(prefix).map_err(|refused| ApiError::address(prefix.network(), refused))?;
            taken.push(prefix);
        }
        Ok(())
    }

    pub(super) fn take_ipv4_prefix_count(
        &mut self,
        subnet: SubnetId,
        count: u32,
        length: u8,
        taken: &mut Vec<Ipv4Network>,
    ) -> Result<(), ApiError> {
        if !(1..=IPV4_PREFIX).contains(&length) {
            return Err(ApiError::invalid_parameter(format!("A prefix of length {length} cannot be had: take /1 to /28")));
        }
        let space = &mut self.subnets.get_mut(&subnet).ok_or_else(|| ApiError::no_subnet(subnet))?.ipv4;
        if u64::from(space.free()) < u64::from(count) << (32 - length) {
            return Err(ApiError::subnet_has_no_prefixes());
        }
        for _ in 0..count {
            taken.push(space.take_any_network(length, &mut self.random).ok_or_else(ApiError::subnet_fragmented)?);
        }
        Ok(())
    }

    pub(super) fn take_ipv6(&mut self, subnet: SubnetId, named: &[Ipv6Addr], taken: &mut Vec<Ipv6Addr>) -> Result<(), ApiError> {
        if named.is_empty() {
            return Ok(());
        }
        let space = self.ipv6_of(subnet)?;
        for &address in named {
            space.take(address).map_err(|refused| refused_ipv6(address, refused))?;
            taken.push(address);
        }
        Ok(())
    }

    pub(super) fn take_ipv6_count(&mut self, subnet: SubnetId, count: u32, taken: &mut Vec<Ipv6Addr>) -> Result<(), ApiError> {
        let mut random = self.random.fork();
        if count > 0 {
            let space = self.ipv6_of(subnet)?;
            taken.extend((0..count).map(|_| space.take_any(&mut random)));
        }
        Ok(())
    }

    pub(super) fn take_ipv6_prefixes(
        &mut self,
        subnet: SubnetId,
        named: &[Ipv6Network],
        taken: &mut Vec<Ipv6Network>,
    ) -> Result<(), ApiError> {
        if named.is_empty() {
            return Ok(());
        }
        let space = self.ipv6_of(subnet)?;
        for &prefix in named {
            space.take_prefix(prefix).map_err(|refused| refused_ipv6(prefix.network(), refused))?;
            taken.push(prefix);
        }
        Ok(())
    }

    pub(super) fn take_ipv6_prefix_count(&mut self, subnet: SubnetId, count: u32, taken: &mut Vec<Ipv6Network>) -> Result<(), ApiError> {
        let mut random = self.random.fork();
        if count > 0 {
            let space = self.ipv6_of(subnet)?;
            for _ in 0..count {
                taken.push(space.take_any_prefix(&mut random).ok_or_else(ApiError::subnet_fragmented)?);
            }
        }
        Ok(())
    }
}

fn single(address: impl Into<IpAddr>) -> IpNetwork {
    IpNetwork::from(address.into())
}

fn no_prefixes_on(limits: &InstanceType) -> ApiError {
    ApiError::client("UnsupportedOperation", format!("Prefixes are not supported on {}: it is not built on Nitro", limits.name))
}

fn refused_ipv6(address: Ipv6Addr, refused: Refused) -> ApiError {
    match refused {
        Refused::InUse => ApiError::client("InvalidIPAddress.InUse", format!("Address {address} is in use.")),
        Refused::Outside | Refused::Reserved => {
            ApiError::invalid_parameter(format!("Address {address} does not fall within the subnet's address range"))
        }
    }
}

fn all_assigned<T: PartialEq + std::fmt::Display>(id: InterfaceId, named: &[T], held: &[T]) -> Result<(), ApiError> {
    let foreign: Vec<_> = named.iter().filter(|one| !held.contains(one)).map(T::to_string).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid_parameter(format!("Some of [{}] addresses are not assigned to interface {id}", foreign.join(", "))))
}
