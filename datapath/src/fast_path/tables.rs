//! The maps, typed.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, ProgramArray};
use aya::util::nr_cpus;
use aya::{Ebpf, Pod};
use ebpf::account::{Reason, Traffic};
use ebpf::filter::SlotHint;
use ebpf::flow::{Flow4, Flow6, Noted};
use ebpf::layout::{ENDPOINTS_MAX, Endpoint, Limits, Network, NodeShare, Paid, UPLINKS_MAX};
use ebpf::scope::halves;
use ebpf::service::{End, ServicePort, Tuple};

use super::FastPathError;
use super::note_filter::NoteFilter;
use super::notes::{Notes, Table};
use crate::Uplink;

/// A value as it lies in a map.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

macro_rules! plain {
    ($($kind:ty),*) => {
        // SAFETY: each is `repr(C)` of integers and byte arrays without padding, as `ebpf::layout` asserts by size; every bit
        // pattern is a value.
        $(unsafe impl Pod for Plain<$kind> {})*
    };
}
plain!(
    Endpoint,
    ebpf::layout::Uplink,
    Limits,
    Paid,
    NodeShare,
    Network,
    Traffic,
    Flow4,
    Flow6,
    Noted,
    ServicePort,
    Tuple,
    End,
    ebpf::drop_event::Told
);

/// Whose traffic is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficOf {
    /// The pod behind this host end.
    Pod(crate::Ifindex),
    /// The host's own, at the uplink.
    Host,
}

pub(super) struct Tables {
    networks: Mutex<Networks>,
    endpoints: Mutex<Array<MapData, Plain<Endpoint>>>,
    uplinks: Mutex<Array<MapData, Plain<ebpf::layout::Uplink>>>,
    limits: Mutex<Array<MapData, Plain<Limits>>>,
    paid: Mutex<Array<MapData, Plain<Paid>>>,
    node_share: Mutex<Array<MapData, Plain<NodeShare>>>,
    slots4: Mutex<HashMap<MapData, [u8; 4], u32>>,
    slots6: Mutex<HashMap<MapData, [u8; 16], u32>>,
    slot_hints: Mutex<Array<MapData, u64>>,
    pub(super) notes: Notes,
    pub(super) services: ServiceMaps,
    /// Addresses that pods may use beside their own, by slot.
    allowed: Mutex<BTreeMap<u32, Vec<IpAddr>>>,
    traffic: Mutex<PerCpuArray<MapData, Plain<Traffic>>>,
    host_traffic: Mutex<PerCpuArray<MapData, Plain<Traffic>>>,
    reasons: Mutex<PerCpuArray<MapData, u64>>,
}

/// Two copies, of which one is read: a reader never sees one half written.
struct Networks {
    copies: Array<MapData, Plain<Network>>,
    index: Array<MapData, u32>,
}

impl Networks {
    fn set(&mut self, network: &Network) -> Result<(), MapError> {
        let other = 1 - self.index.get(&0, 0)?.min(1);
        self.copies.set(other, Plain(*network), 0)?;
        self.index.set(0, other, 0)
    }
}

pub(super) fn map(name: &'static str) -> impl Fn(MapError) -> FastPathError {
    move |source| FastPathError::Map { name, source: Box::new(source) }
}

pub(super) fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
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
        macro_rules! noted {
            ($name:literal) => {{
                let (name, found) = take($name)?;
                let fd = descriptor(&found).map_err(map(name))?;
                Table { notes: Mutex::new(found.try_into().map_err(map(name))?), fd }
            }};
        }
        let filter = {
            let (name, found) = take("NOTE_MARKS")?;
            let marks = descriptor(&found).map_err(map(name))?;
            let (name, found) = take("NOTE_GENERATIONS")?;
            NoteFilter::new(&marks, found.try_into().map_err(map(name))?).map_err(map("NOTE_MARKS"))?
        };
        let notes = Notes {
            filter,
            four: noted!("FLOWS4"),
            six: noted!("FLOWS6"),
            by_slot: typed!("NOTES"),
            share: typed!("NOTES_SHARE"),
            gone: Mutex::default(),
            last: Mutex::default(),
        };
        notes.prepare()?;
        let services = {
            let (name, translations) = take("TRANSLATIONS")?;
            ServiceMaps {
                services: typed!("SERVICES"),
                backends: typed!("BACKENDS"),
                fd: descriptor(&translations).map_err(map(name))?,
                translations: Mutex::new(translations.try_into().map_err(map(name))?),
                programs: typed!("PROGRAMS"),
                told: Mutex::default(),
            }
        };
        let networks = Networks {
            copies: typed!("NETWORK").into_inner().unwrap_or_else(PoisonError::into_inner),
            index: typed!("NETWORK_INDEX").into_inner().unwrap_or_else(PoisonError::into_inner),
        };
        let tables = Self {
            networks: Mutex::new(networks),
            endpoints: typed!("ENDPOINTS"),
            uplinks: typed!("UPLINKS"),
            limits: typed!("LIMITS"),
            paid: typed!("PAID"),
            node_share: typed!("NODE_SHARE"),
            slots4: typed!("SLOTS4"),
            slots6: typed!("SLOTS6"),
            slot_hints: typed!("SLOT_HINTS"),
            notes,
            services,
            allowed: Mutex::default(),
            traffic: typed!("TRAFFIC"),
            host_traffic: typed!("HOST_TRAFFIC"),
            reasons: typed!("REASONS"),
        };
        let four: Vec<_> = lock(&tables.slots4).iter().collect::<Result<_, _>>().map_err(map("SLOTS4"))?;
        let six: Vec<_> = lock(&tables.slots6).iter().collect::<Result<_, _>>().map_err(map("SLOTS6"))?;
        let four = four.into_iter().map(|(address, slot)| (IpAddr::from(address), slot));
        let six = six.into_iter().map(|(address, slot)| (IpAddr::from(address), slot));
        four.chain(six).try_for_each(|(address, slot)| tables.inherit(address, slot))?;
        Ok(tables)
    }

    /// An address that leads to a slot since the daemon before this one: a filter that is new does not know it, and where it is not the
    /// endpoint's own, it is one that the endpoint was allowed.
    fn inherit(&self, address: IpAddr, slot: u32) -> Result<(), FastPathError> {
        self.hint_at(address, slot)?;
        let is_own = slot < ENDPOINTS_MAX && own_addresses(&self.endpoint(slot)?).any(|own| own == address);
        if !is_own {
            lock(&self.allowed).entry(slot).or_default().push(address);
        }
        Ok(())
    }

    /// Has the programs look for an address among the slots, at this one first.
    fn hint_at(&self, address: IpAddr, slot: u32) -> Result<(), FastPathError> {
        let hint = hint_of(address);
        let mut hints = lock(&self.slot_hints);
        let before = hints.get(&hint.word, 0).map_err(map("SLOT_HINTS"))?;
        let after = hint.write(before, slot);
        if before == after { Ok(()) } else { hints.set(hint.word, after, 0).map_err(map("SLOT_HINTS")) }
    }

    /// Has an address lead to a slot.
    fn lead(&self, address: IpAddr, slot: u32) -> Result<(), FastPathError> {
        self.hint_at(address, slot)?;
        match address {
            IpAddr::V4(address) => lock(&self.slots4).insert(address.octets(), slot, 0).map_err(map("SLOTS4")),
            IpAddr::V6(address) => lock(&self.slots6).insert(address.octets(), slot, 0).map_err(map("SLOTS6")),
        }
    }

    pub(super) fn set_network(&self, network: &Network) -> Result<(), FastPathError> {
        let before = self.network()?;
        lock(&self.networks).set(network).map_err(map("NETWORK"))?;
        let limits = |of: &Network| (of.internet_egress, of.node_internet_egress);
        // What was paid for at a slow rate reaches far ahead: at a faster one, nothing would pass until then.
        if limits(&before) != limits(network) { self.forget_paid_for_internet() } else { Ok(()) }
    }

    fn forget_paid_for_internet(&self) -> Result<(), FastPathError> {
        let mut table = lock(&self.paid);
        for slot in 0..ENDPOINTS_MAX {
            let paid = table.get(&slot, 0).map_err(map("PAID"))?.0;
            if (paid.internet, paid.share) != (0, 0) {
                table.set(slot, Plain(Paid { internet: 0, share: 0, ..paid }), 0).map_err(map("PAID"))?;
            }
        }
        // The clock of shares goes on: what a program pays meanwhile is paid by it.
        let mut table = lock(&self.node_share);
        let share = table.get(&0, 0).map_err(map("NODE_SHARE"))?.0;
        table.set(0, Plain(NodeShare { paid: 0, ..share }), 0).map_err(map("NODE_SHARE"))
    }

    pub(super) fn limits(&self, slot: u32) -> Result<Limits, FastPathError> {
        lock(&self.limits).get(&slot, 0).map(|found| found.0).map_err(map("LIMITS"))
    }

    /// Sets an endpoint's limits, before its flags say that they hold. Where they were others, its buckets are full again.
    pub(super) fn hold_to(&self, slot: u32, limits: &Limits) -> Result<(), FastPathError> {
        if self.limits(slot)? == *limits {
            return Ok(());
        }
        lock(&self.limits).set(slot, Plain(*limits), 0).map_err(map("LIMITS"))?;
        self.forget_paid(slot)
    }

    fn forget_paid(&self, slot: u32) -> Result<(), FastPathError> {
        lock(&self.paid).set(slot, Plain(Paid::default()), 0).map_err(map("PAID"))
    }

    pub(super) fn network(&self) -> Result<Box<Network>, FastPathError> {
        let networks = lock(&self.networks);
        let index = networks.index.get(&0, 0).map_err(map("NETWORK_INDEX"))?;
        networks.copies.get(&index.min(1), 0).map(|found| Box::new(found.0)).map_err(map("NETWORK"))
    }

    /// The slot that an address leads to.
    pub(super) fn slot_of(&self, address: IpAddr) -> Result<Option<u32>, FastPathError> {
        match address {
            IpAddr::V4(address) => slot_of(&lock(&self.slots4), &address.octets()).map_err(map("SLOTS4")),
            IpAddr::V6(address) => slot_of(&lock(&self.slots6), &address.octets()).map_err(map("SLOTS6")),
        }
    }

    /// Slots whose packets all take the stack.
    pub(super) fn for_the_stack_alone(&self) -> Result<Vec<u32>, FastPathError> {
        let table = lock(&self.endpoints);
        let mut found = Vec::new();
        for slot in 0..table.len() {
            let endpoint = table.get(&slot, 0).map_err(map("ENDPOINTS"))?.0;
            if endpoint.ifindex != 0 && endpoint.stack_only != 0 {
                found.push(slot);
            }
        }
        Ok(found)
    }

    /// From now on the programs carry what is not noted. An endpoint that is gone stays so.
    pub(super) fn let_carry(&self, slot: u32) -> Result<(), FastPathError> {
        self.set_stack_only(slot, 0)
    }

    /// From now on the programs carry nothing of an endpoint. One that is gone stays so.
    pub(super) fn keep_to_the_stack(&self, slot: u32) -> Result<(), FastPathError> {
        self.set_stack_only(slot, 1)
    }

    fn set_stack_only(&self, slot: u32, stack_only: u8) -> Result<(), FastPathError> {
        let mut table = lock(&self.endpoints);
        let endpoint = table.get(&slot, 0).map_err(map("ENDPOINTS"))?.0;
        if endpoint.ifindex == 0 || endpoint.stack_only == stack_only {
            return Ok(());
        }
        table.set(slot, Plain(Endpoint { stack_only, ..endpoint }), 0).map_err(map("ENDPOINTS"))
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

    pub(super) fn uplink(&self, index: u32) -> Result<ebpf::layout::Uplink, FastPathError> {
        lock(&self.uplinks).get(&index, 0).map(|found| found.0).map_err(map("UPLINKS"))
    }

    pub(super) fn set_endpoint(&self, slot: u32, endpoint: &Endpoint) -> Result<(), FastPathError> {
        lock(&self.endpoints).set(slot, Plain(*endpoint), 0).map_err(map("ENDPOINTS"))
    }

    /// Whether the addresses of an endpoint lead to its slot, those that it is allowed among them.
    pub(super) fn leads_to(&self, slot: u32, endpoint: &Endpoint) -> Result<bool, FastPathError> {
        for address in own_addresses(endpoint).chain(self.allowed(slot)) {
            let hint = hint_of(address);
            let is_looked_for = hint.read(lock(&self.slot_hints).get(&hint.word, 0).map_err(map("SLOT_HINTS"))?).is_some();
            if !is_looked_for || self.slot_of(address)? != Some(slot) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The endpoint first, then the addresses that lead to it: nobody finds an endpoint half written.
    pub(super) fn add(&self, slot: u32, endpoint: &Endpoint, limits: &Limits) -> Result<(), FastPathError> {
        let nothing = vec![Plain(Traffic::default()); nr_cpus().map_err(|(_, source)| map("TRAFFIC")(MapError::IoError(source)))?];
        let nothing = PerCpuValues::try_from(nothing).map_err(|source| map("TRAFFIC")(MapError::IoError(source)))?;
        lock(&self.traffic).set(slot, nothing, 0).map_err(map("TRAFFIC"))?;
        self.hold_to(slot, limits)?;
        // Those of whoever had the slot before.
        self.forget_paid(slot)?;
        self.tell_of(slot, endpoint)
    }

    /// Likewise, of one that has been counted for.
    pub(super) fn tell_of(&self, slot: u32, endpoint: &Endpoint) -> Result<(), FastPathError> {
        self.set_endpoint(slot, endpoint)?;
        if endpoint.ipv4 != [0; 4] {
            self.lead(endpoint.ipv4.into(), slot)?;
        }
        if endpoint.ipv6 != [0; 16] {
            self.lead(endpoint.ipv6.into(), slot)?;
        }
        Ok(())
    }

    /// Addresses that lead to an endpoint beside its own.
    pub(super) fn allowed(&self, slot: u32) -> Vec<IpAddr> {
        lock(&self.allowed).get(&slot).cloned().unwrap_or_default()
    }

    /// Has these addresses, and no others, lead to an endpoint beside its own.
    pub(super) fn allow(&self, slot: u32, addresses: &[IpAddr]) -> Result<(), FastPathError> {
        for address in self.allowed(slot).into_iter().filter(|address| !addresses.contains(address)) {
            self.leads_nowhere(slot, address)?;
        }
        // Before they lead there: whatever fails then, the endpoint's end takes them with it.
        if addresses.is_empty() {
            lock(&self.allowed).remove(&slot);
        } else {
            lock(&self.allowed).insert(slot, addresses.to_vec());
        }
        addresses.iter().try_for_each(|address| self.lead(*address, slot))
    }

    /// An address that leads to another slot by now is left alone.
    fn leads_nowhere(&self, slot: u32, address: IpAddr) -> Result<(), FastPathError> {
        self.notes.purge([address]);
        match address {
            IpAddr::V4(address) => remove_slot(&self.slots4, &address.octets(), slot).map_err(map("SLOTS4")),
            IpAddr::V6(address) => remove_slot(&self.slots6, &address.octets(), slot).map_err(map("SLOTS6")),
        }
    }

    /// The addresses first, with those that it was allowed. What is noted of them ends with the next sweep.
    pub(super) fn remove(&self, slot: u32) -> Result<(), FastPathError> {
        let endpoint = self.endpoint(slot)?;
        for address in own_addresses(&endpoint).chain(self.allowed(slot)) {
            self.leads_nowhere(slot, address)?;
        }
        lock(&self.allowed).remove(&slot);
        self.set_endpoint(slot, &Endpoint::default())
    }

    /// Removes every address that leads to a slot outside `slots`, and then what is in that slot: a hint may still lead there.
    pub(super) fn retain(&self, slots: &HashSet<u32>) -> Result<(), FastPathError> {
        retain(&self.slots4, slots).map_err(map("SLOTS4"))?;
        retain(&self.slots6, slots).map_err(map("SLOTS6"))?;
        lock(&self.allowed).retain(|slot, _| slots.contains(slot));
        let mut endpoints = lock(&self.endpoints);
        for slot in (0..ENDPOINTS_MAX).filter(|slot| !slots.contains(slot)) {
            if endpoints.get(&slot, 0).map_err(map("ENDPOINTS"))?.0.ifindex != 0 {
                endpoints.set(slot, Plain(Endpoint::default()), 0).map_err(map("ENDPOINTS"))?;
            }
        }
        Ok(())
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

    pub(super) fn reasons(&self) -> Result<Vec<(Reason, u64)>, FastPathError> {
        let table = lock(&self.reasons);
        Reason::ALL
            .into_iter()
            .map(|(reason, _)| Ok((reason, table.get(&(reason as u32), 0).map_err(map("REASONS"))?.iter().sum())))
            .collect()
    }
}

fn own_addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + use<> {
    [IpAddr::from(endpoint.ipv4), endpoint.ipv6.into()].into_iter().filter(|address| !address.is_unspecified())
}

/// Where the filter in front of the slots has an address.
fn hint_of(address: IpAddr) -> SlotHint {
    match address {
        IpAddr::V4(address) => SlotHint::of4(address.octets()),
        IpAddr::V6(address) => SlotHint::of6(halves(address.octets())),
    }
}

fn descriptor(of: &Map) -> Result<OwnedFd, MapError> {
    match of {
        Map::HashMap(data) | Map::Array(data) => Ok(data.fd().as_fd().try_clone_to_owned()?),
        _ => Err(MapError::InvalidMapType { map_type: 0 }),
    }
}

fn value_of(uplink: &Uplink) -> ebpf::layout::Uplink {
    let mut value = ebpf::layout::Uplink { ifindex: uplink.ifindex.0, mtu: uplink.mtu, ..Default::default() };
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

pub(super) struct ServiceMaps {
    pub(super) services: Mutex<HashMap<MapData, Plain<ServicePort>, u32>>,
    pub(super) backends: Mutex<HashMap<MapData, Plain<ServicePort>, Plain<End>>>,
    pub(super) translations: Mutex<HashMap<MapData, Plain<Tuple>, Plain<End>>>,
    /// Of the translations, for what is read at once.
    pub(super) fd: OwnedFd,
    pub(super) programs: Mutex<ProgramArray<MapData>>,
    /// What the maps have; nothing where that is not known.
    pub(super) told: Mutex<Option<BTreeMap<ServicePort, Vec<End>>>>,
}

/// As the programs have addresses of both families.
pub(super) fn wide(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [u64::from(u32::from(address)), 0],
        IpAddr::V6(address) => halves(address.octets()),
    }
}
