//! Services that the programs translate ([`ebpf::service`]), as the daemon keeps them: which there are, by whom they are served, and the end of
//! translations.
//!
//! A service is here only where all of its endpoints are: of a choice among some of them, those that the stack alone can reach would get less
//! than their part.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Mutex;

use aya::Pod;
use aya::maps::{HashMap, MapData, MapError};
use aya::programs::ProgramFd;
use ebpf::flow::{Flow4, Flow6, Noted};
use ebpf::layout::Network;
use ebpf::packet::{Transport, UDP};
use ebpf::scope::whole;
use ebpf::service::{End, Jump, ServicePort, Tuple, apart};

use super::import::meaning;
use super::notes::{Notes, Served};
use super::tables::{Plain, ServiceMaps, lock, map, wide};
use super::{FastPath, FastPathError, batch};

/// Ports of services (address, protocol, port), and who serves each.
pub type Fronts = BTreeMap<(IpAddr, u8, u16), Vec<SocketAddr>>;

impl FastPath {
    /// Has the programs translate to these services, and to no others; of how many they do. What they have translated goes on.
    ///
    /// # Errors
    /// Where a map has no room or the kernel refuses: the stack has what is not told.
    pub fn serve(&self, fronts: &Fronts) -> Result<usize, FastPathError> {
        let network = self.tables.network()?;
        let reached = |endpoints: &&Vec<SocketAddr>| endpoints.iter().all(|endpoint| is_reached(&network, endpoint.ip()));
        let wanted: BTreeMap<_, Vec<End>> = fronts
            .iter()
            .filter(|(_, endpoints)| !endpoints.is_empty() && reached(endpoints))
            .map(|(front, endpoints)| (key(*front), endpoints.iter().map(end_of).collect()))
            .collect();
        let maps = &self.tables.services;
        if self.is_told(&wanted) {
            return Ok(wanted.len());
        }
        let new = maps.new_for_udp(&wanted)?;
        if !new.is_empty() {
            self.note_datagrams(&new)?;
        }
        maps.tell(&wanted)?;
        if wanted.is_empty() && maps.is_idle()? {
            maps.leave_to_stack()?;
        } else {
            maps.set(Jump::Services, &self.to_backend)?;
        }
        Ok(wanted.len())
    }

    fn is_told(&self, wanted: &BTreeMap<ServicePort, Vec<End>>) -> bool {
        lock(&self.tables.services.told).as_ref() == Some(wanted)
    }

    /// Forgets at most so many translations of UDP that lead to an endpoint that is gone; how many it were. The flow's next packet finds another.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub fn forget_translations(&self, most: usize, is_stale: &dyn Fn(SocketAddr, SocketAddr) -> bool) -> Result<usize, FastPathError> {
        let maps = &self.tables.services;
        let mut stale = Vec::new();
        maps.read(|tuple, end| {
            let leads =
                || is_stale(socket(tuple.destination, tuple.destination_port, tuple.version), socket(end.address, end.port, tuple.version));
            if end.is_answer == 0 && tuple.protocol == u16::from(UDP) && stale.len() < most && leads() {
                stale.push(tuple);
            }
        })?;
        maps.remove(&stale)?;
        Ok(stale.len())
    }
}

impl ServiceMaps {
    pub(super) fn set(&self, jump: Jump, program: &ProgramFd) -> Result<(), FastPathError> {
        lock(&self.programs).set(jump as u32, program, 0).map_err(map("PROGRAMS"))
    }

    /// Has no packet enter the programs for services any more. Those that are among them go on.
    fn leave_to_stack(&self) -> Result<(), FastPathError> {
        match lock(&self.programs).clear_index(&(Jump::Services as u32)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(map("PROGRAMS")(error)),
        }
    }

    fn is_idle(&self) -> Result<bool, FastPathError> {
        lock(&self.translations).keys().next().transpose().map(|first| first.is_none()).map_err(map("TRANSLATIONS"))
    }

    /// Those for UDP that the programs do not translate to yet.
    fn new_for_udp(&self, wanted: &BTreeMap<ServicePort, Vec<End>>) -> Result<BTreeSet<ServicePort>, FastPathError> {
        let services = lock(&self.services);
        let mut new = BTreeSet::new();
        for port in wanted.keys().filter(|port| port.protocol == u16::from(UDP)) {
            match services.get(&Plain(*port), 0) {
                Ok(_) => {}
                Err(MapError::KeyNotFound) => {
                    new.insert(*port);
                }
                Err(error) => return Err(map("SERVICES")(error)),
            }
        }
        Ok(new)
    }

    /// A service's endpoints are all there before their number says so, and stay until it does not: a program finds one of before or one of
    /// after.
    fn tell(&self, wanted: &BTreeMap<ServicePort, Vec<End>>) -> Result<(), FastPathError> {
        let mut told = lock(&self.told);
        // What is written in part is read again the next time.
        let had = match told.take() {
            Some(had) => had,
            None => self.had()?,
        };
        let (mut services, mut backends) = (lock(&self.services), lock(&self.backends));
        let nothing = Vec::new();
        let gone = had.keys().filter(|port| !wanted.contains_key(port)).map(|port| (port, &nothing));
        for (port, ends) in gone.chain(wanted) {
            let before = had.get(port).unwrap_or(&nothing);
            if before == ends {
                continue;
            }
            let (was, is) = (count(before), count(ends));
            if is == 0 {
                absent(services.remove(&Plain(*port))).map_err(map("SERVICES"))?;
            } else if is < was {
                services.insert(Plain(*port), is, 0).map_err(map("SERVICES"))?;
            }
            for (number, end) in (0..).zip(ends).filter(|(number, end)| before.get(*number as usize) != Some(*end)) {
                backends.insert(Plain(ServicePort { number, ..*port }), Plain(*end), 0).map_err(map("BACKENDS"))?;
            }
            if is > was {
                services.insert(Plain(*port), is, 0).map_err(map("SERVICES"))?;
            }
            for number in is..was {
                absent(backends.remove(&Plain(ServicePort { number, ..*port }))).map_err(map("BACKENDS"))?;
            }
        }
        *told = Some(wanted.clone());
        Ok(())
    }

    /// What a daemon before this one has told.
    fn had(&self) -> Result<BTreeMap<ServicePort, Vec<End>>, FastPathError> {
        let mut had: BTreeMap<ServicePort, Vec<End>> = BTreeMap::new();
        for port in lock(&self.services).keys() {
            had.insert(port.map_err(map("SERVICES"))?.0, Vec::new());
        }
        for entry in lock(&self.backends).iter() {
            let (Plain(key), Plain(end)) = entry.map_err(map("BACKENDS"))?;
            let ends = had.entry(ServicePort { number: 0, ..key }).or_default();
            let at = key.number as usize;
            if ends.len() <= at {
                ends.resize(at + 1, End::default());
            }
            ends[at] = end;
        }
        Ok(had)
    }

    fn read(&self, mut each: impl FnMut(Tuple, End)) -> Result<(), FastPathError> {
        // SAFETY: the map's keys and values are these types, plain integers both.
        let is_read = unsafe { batch::for_each(self.fd.as_fd(), &mut each) };
        if is_read.map_err(|error| map("TRANSLATIONS")(MapError::IoError(error)))? {
            return Ok(());
        }
        for entry in lock(&self.translations).iter() {
            let (tuple, end) = entry.map_err(map("TRANSLATIONS"))?;
            each(tuple.0, end.0);
        }
        Ok(())
    }

    fn remove(&self, tuples: &[Tuple]) -> Result<(), FastPathError> {
        let mut translations = lock(&self.translations);
        tuples.iter().try_for_each(|tuple| absent(translations.remove(&Plain(*tuple)))).map_err(map("TRANSLATIONS"))
    }

    /// Removes translations whose flows are not noted as served any more. `served` are those that were a moment ago: of others it is asked once
    /// more, as a program notes a flow before it translates it.
    pub(super) fn sweep(&self, notes: &Notes, (four, six): &Served) -> Result<usize, FastPathError> {
        let (mut stay, mut ended) = (0, Vec::new());
        let mut failed = None;
        self.read(|tuple, end| {
            let is_served = match flow_of(&tuple, &end) {
                Flow::V4(flow) => is_still(&notes.four.notes, four, flow),
                Flow::V6(flow) => is_still(&notes.six.notes, six, flow),
            };
            match is_served {
                Ok(true) => stay += 1,
                Ok(false) => ended.push(tuple),
                Err(error) => failed = Some(error),
            }
        })?;
        if let Some(error) = failed {
            return Err(map("FLOWS")(error));
        }
        self.remove(&ended)?;
        Ok(stay)
    }
}

fn is_still<K: Copy + Eq + Hash>(
    notes: &Mutex<HashMap<MapData, Plain<K>, Plain<Noted>>>,
    served: &HashSet<K>,
    flow: K,
) -> Result<bool, MapError>
where
    Plain<K>: Pod,
{
    if served.contains(&flow) {
        return Ok(true);
    }
    match lock(notes).get(&Plain(flow), 0) {
        Ok(noted) => Ok(noted.0.is_served()),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

enum Flow {
    V4(Flow4),
    V6(Flow6),
}

/// The flow that a translation is of, as it is noted: with the endpoint's ends.
fn flow_of(tuple: &Tuple, end: &End) -> Flow {
    let (to, to_port, from_port) = if end.is_answer == 0 {
        (end.address, end.port, apart(tuple.source_port))
    } else {
        (tuple.destination, tuple.destination_port, tuple.source_port)
    };
    let protocol = u8::try_from(tuple.protocol).unwrap_or_default();
    let transport = Transport { protocol, source: from_port.to_be_bytes(), destination: to_port.to_be_bytes() };
    if tuple.version == 4 {
        Flow::V4(Flow4::of(octets(tuple.source), octets(to), transport).0)
    } else {
        Flow::V6(Flow6::of(tuple.source, to, transport).0)
    }
}

fn key((address, protocol, port): (IpAddr, u8, u16)) -> ServicePort {
    ServicePort { address: wide(address), port, protocol: protocol.into(), number: 0 }
}

fn end_of(endpoint: &SocketAddr) -> End {
    End { address: wide(endpoint.ip()), port: endpoint.port(), ..End::default() }
}

fn octets(wide: [u64; 2]) -> [u8; 4] {
    u32::try_from(wide[0]).unwrap_or_default().to_be_bytes()
}

pub(super) fn socket(address: [u64; 2], port: u16, version: u16) -> SocketAddr {
    let address = if version == 4 { octets(address).into() } else { IpAddr::from(whole(address)) };
    SocketAddr::new(address, port)
}

/// Whether packets reach an address as they are, and what answers them comes by the programs: a pod of this node, or what is native.
fn is_reached(network: &Network, address: IpAddr) -> bool {
    let meaning = meaning(network, address);
    meaning.is_local() || meaning.is_native()
}

fn count(ends: &[End]) -> u32 {
    u32::try_from(ends.len()).unwrap_or(u32::MAX)
}

fn absent(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flow's two translations are found to be of one flow, and lead to each other.
    #[test]
    fn both_translations_are_of_one_flow() {
        let [client, service, backend] = ["10.0.1.17", "10.96.0.10", "10.0.2.40"].map(|address| wide(address.parse().unwrap()));
        let transport =
            |source: u16, destination: u16| Transport { protocol: 6, source: source.to_be_bytes(), destination: destination.to_be_bytes() };
        let forth = Tuple::of(client, service, transport(40_000, 80), 4);
        let back = Tuple::of(backend, client, transport(8080, apart(40_000)), 4);
        let (Flow::V4(there), Flow::V4(here)) = (
            flow_of(&forth, &End { address: backend, port: 8080, ..End::default() }),
            flow_of(&back, &End { address: service, port: 80, is_answer: 1, ..End::default() }),
        ) else {
            panic!("of another family");
        };
        assert_eq!(there, here);
    }
}
