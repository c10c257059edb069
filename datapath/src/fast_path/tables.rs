//! The maps, typed.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use aya::{Ebpf, Pod};
use ebpf::account::{Reason, Traffic};
use ebpf::flow::{Flow4, Flow6, Noted};
use ebpf::layout::{Endpoint, Network, UPLINKS_MAX};

use super::FastPathError;
use crate::Uplink;

/// A value as it lies in a map.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

macro_rules! plain {
    ($($kind:ty),*) => {
        // SAFETY: each is `repr(C)` of integers and byte arrays without padding, as `ebpf::layout` asserts by size; every bit
        // pattern is a value.
        $(unsafe impl Pod for Plain<$kind> {})*
    };
}
plain!(Endpoint, ebpf::layout::Uplink, Network, Traffic, Flow4, Flow6, Noted);

/// Whose traffic is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficOf {
    /// The pod behind this host end.
    Pod(crate::Ifindex),
    /// The host's own, at the uplink.
    Host,
}

/// How long a flow may be idle before it is forgotten, in seconds: longer than conntrack keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleSeconds {
    /// TCP.
    pub tcp: u32,
    /// Everything else.
    pub other: u32,
}

pub(super) struct Tables {
    network: Mutex<Array<MapData, Plain<Network>>>,
    endpoints: Mutex<Array<MapData, Plain<Endpoint>>>,
    uplinks: Mutex<Array<MapData, Plain<ebpf::layout::Uplink>>>,
    slots4: Mutex<HashMap<MapData, [u8; 4], u32>>,
    slots6: Mutex<HashMap<MapData, [u8; 16], u32>>,
    flows4: Mutex<HashMap<MapData, Plain<Flow4>, Plain<Noted>>>,
    flows6: Mutex<HashMap<MapData, Plain<Flow6>, Plain<Noted>>>,
    traffic: Mutex<PerCpuArray<MapData, Plain<Traffic>>>,
    host_traffic: Mutex<PerCpuArray<MapData, Plain<Traffic>>>,
    reasons: Mutex<PerCpuArray<MapData, u64>>,
}

fn map(name: &'static str) -> impl Fn(MapError) -> FastPathError {
    move |source| FastPathError::Map { name, source: Box::new(source) }
}

fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tables {
    pub(super) fn take(loaded: &mut Ebpf) -> Result<Self, FastPathError> {
        let mut take = |name: &'static str| {
            loaded.take_map(name).ok_or_else(|| map(name)(MapError::InvalidName { name: name.to_owned() })).map(|found| (name, found))
        };
        macro_rules! typed {
            ($name:literal) => {{
                let (name, found) = take($name)?;
                Mutex::new(found.try_into().map_err(map(name))?)
            }};
        }
        Ok(Self {
            network: typed!("NETWORK"),
            endpoints: typed!("ENDPOINTS"),
            uplinks: typed!("UPLINKS"),
            slots4: typed!("SLOTS4"),
            slots6: typed!("SLOTS6"),
            flows4: typed!("FLOWS4"),
            flows6: typed!("FLOWS6"),
            traffic: typed!("TRAFFIC"),
            host_traffic: typed!("HOST_TRAFFIC"),
            reasons: typed!("REASONS"),
        })
    }

    pub(super) fn set_network(&self, network: &Network) -> Result<(), FastPathError> {
        lock(&self.network).set(0, Plain(*network), 0).map_err(map("NETWORK"))
    }

    /// All of them: those that are no more become none.
    pub(super) fn set_uplinks(&self, uplinks: &[Uplink]) -> Result<(), FastPathError> {
        let mut table = lock(&self.uplinks);
        for index in 0..UPLINKS_MAX {
            let uplink = uplinks.iter().find(|uplink| u32::from(uplink.index) == index);
            let value = uplink.map_or_else(Default::default, value_of);
            table.set(index, Plain(value), 0).map_err(map("UPLINKS"))?;
        }
        Ok(())
    }

    pub(super) fn endpoint(&self, slot: u32) -> Result<Endpoint, FastPathError> {
        lock(&self.endpoints).get(&slot, 0).map(|found| found.0).map_err(map("ENDPOINTS"))
    }

    pub(super) fn set_endpoint(&self, slot: u32, endpoint: &Endpoint) -> Result<(), FastPathError> {
        lock(&self.endpoints).set(slot, Plain(*endpoint), 0).map_err(map("ENDPOINTS"))
    }

    /// Whether the addresses of an endpoint lead to its slot.
    pub(super) fn leads_to(&self, slot: u32, endpoint: &Endpoint) -> Result<bool, FastPathError> {
        let four = endpoint.ipv4 == [0; 4] || slot_of(&lock(&self.slots4), &endpoint.ipv4).map_err(map("SLOTS4"))? == Some(slot);
        let six = endpoint.ipv6 == [0; 16] || slot_of(&lock(&self.slots6), &endpoint.ipv6).map_err(map("SLOTS6"))? == Some(slot);
        Ok(four && six)
    }

    /// The endpoint first, then the addresses that lead to it: nobody finds an endpoint half written.
    pub(super) fn add(&self, slot: u32, endpoint: &Endpoint) -> Result<(), FastPathError> {
        let nothing = vec![Plain(Traffic::default()); nr_cpus().map_err(|(_, source)| map("TRAFFIC")(MapError::IoError(source)))?];
        let nothing = PerCpuValues::try_from(nothing).map_err(|source| map("TRAFFIC")(MapError::IoError(source)))?;
        lock(&self.traffic).set(slot, nothing, 0).map_err(map("TRAFFIC"))?;
        self.set_endpoint(slot, endpoint)?;
        if endpoint.ipv4 != [0; 4] {
            lock(&self.slots4).insert(endpoint.ipv4, slot, 0).map_err(map("SLOTS4"))?;
        }
        if endpoint.ipv6 != [0; 16] {
            lock(&self.slots6).insert(endpoint.ipv6, slot, 0).map_err(map("SLOTS6"))?;
        }
        Ok(())
    }

    /// The addresses first. One that leads to another slot by now is left alone.
    pub(super) fn remove(&self, slot: u32) -> Result<(), FastPathError> {
        let endpoint = self.endpoint(slot)?;
        remove_slot(&self.slots4, &endpoint.ipv4, slot).map_err(map("SLOTS4"))?;
        remove_slot(&self.slots6, &endpoint.ipv6, slot).map_err(map("SLOTS6"))?;
        self.set_endpoint(slot, &Endpoint::default())
    }

    /// Removes every address that leads to a slot outside `slots`.
    pub(super) fn retain(&self, slots: &HashSet<u32>) -> Result<(), FastPathError> {
        retain(&self.slots4, slots).map_err(map("SLOTS4"))?;
        retain(&self.slots6, slots).map_err(map("SLOTS6"))
    }

    pub(super) fn traffic(&self, of: TrafficOf) -> Result<Traffic, FastPathError> {
        let (table, index, name) = match of {
            TrafficOf::Host => (&self.host_traffic, 0, "HOST_TRAFFIC"),
            TrafficOf::Pod(link) => match super::slot(link) {
                Some(slot) => (&self.traffic, slot, "TRAFFIC"),
                None => return Ok(Traffic::default()),
            },
        };
        let by_cpu = lock(table).get(&index, 0).map_err(map(name))?;
        Ok(by_cpu.iter().fold(Traffic::default(), |sum, cpu| sum.plus(&cpu.0)))
    }

    pub(super) fn reasons(&self) -> Result<Vec<(&'static str, u64)>, FastPathError> {
        let table = lock(&self.reasons);
        Reason::ALL
            .into_iter()
            .map(|(reason, name)| Ok((name, table.get(&(reason as u32), 0).map_err(map("REASONS"))?.iter().sum())))
            .collect()
    }

    pub(super) fn forget_idle_flows(&self, idle: IdleSeconds) -> Result<usize, FastPathError> {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_err(|errno| map("FLOWS4")(MapError::IoError(errno.into())))?;
        let now = u32::try_from(now.tv_sec()).unwrap_or(u32::MAX);
        let four = forget(&self.flows4, now, idle, |flow| flow.protocol[0]).map_err(map("FLOWS4"))?;
        let six = forget(&self.flows6, now, idle, |flow| flow.protocol[0]).map_err(map("FLOWS6"))?;
        Ok(four + six)
    }
}

fn value_of(uplink: &Uplink) -> ebpf::layout::Uplink {
    let mut value = ebpf::layout::Uplink { ifindex: uplink.ifindex.0, ..Default::default() };
    for gateway in &uplink.gateways {
        match gateway {
            IpAddr::V4(address) => value.gateway_v4 = address.octets(),
            IpAddr::V6(address) => value.gateway_v6 = address.octets(),
        }
    }
    value
}

fn remove_slot<K: Pod>(slots: &Mutex<HashMap<MapData, K, u32>>, address: &K, slot: u32) -> Result<(), MapError> {
    let mut slots = lock(slots);
    if slot_of(&slots, address)? == Some(slot) { slots.remove(address) } else { Ok(()) }
}

fn slot_of<K: Pod>(slots: &HashMap<MapData, K, u32>, address: &K) -> Result<Option<u32>, MapError> {
    match slots.get(address, 0) {
        Ok(slot) => Ok(Some(slot)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn retain<K: Pod>(table: &Mutex<HashMap<MapData, K, u32>>, slots: &HashSet<u32>) -> Result<(), MapError> {
    let mut table = lock(table);
    let entries: Vec<_> = table.iter().collect::<Result<_, _>>()?;
    entries.into_iter().filter(|(_, slot)| !slots.contains(slot)).try_for_each(|(address, _)| table.remove(&address))
}

/// Walks a table of flows. A flow that is noted anew while it is forgotten here is noted again by its next request.
fn forget<K: Copy>(
    flows: &Mutex<HashMap<MapData, Plain<K>, Plain<Noted>>>,
    now: u32,
    idle: IdleSeconds,
    protocol: impl Fn(&K) -> u8,
) -> Result<usize, MapError>
where
    Plain<K>: Pod,
{
    const TCP: u8 = 6;
    let mut flows = lock(flows);
    let (mut stay, mut go) = (0, Vec::new());
    for entry in flows.iter() {
        let (flow, noted) = entry?;
        let limit = if protocol(&flow.0) == TCP { idle.tcp } else { idle.other };
        if now.saturating_sub(noted.0.seen_seconds) > limit {
            go.push(flow);
        } else {
            stay += 1;
        }
    }
    for flow in go {
        match flows.remove(&flow) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(stay)
}
