//! Notes the flows that connection tracking has already: after a start with maps that do not know them, and of services that the programs are
//! about to translate to.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use ebpf::flow::Noted;
use ebpf::layout::Network;
use ebpf::packet::{Transport, UDP};
use ebpf::scope::{Meaning, Scope, halves};
use ebpf::service::ServicePort;

use super::tables::{Tables, wide};
use super::view::held_back;
use super::{FastPath, FastPathError, slot, tables};
use crate::conntrack::{self, Tuple};

impl FastPath {
    /// Lets the programs carry for pods whose flows were not known when they were taken up: notes what connection tracking has of
    /// theirs. While they were for the stack alone, the programs have noted what it emitted; so now nothing is missing. Tells how many
    /// pods have changed.
    ///
    /// # Errors
    /// Where connection tracking cannot be read: the pods stay with the stack.
    pub fn heal(&self) -> Result<usize, FastPathError> {
        let mut waiting = self.tables.for_the_stack_alone()?;
        let in_company: HashSet<u32> = tables::lock(&self.in_company).keys().filter_map(|link| slot(*link)).collect();
        waiting.retain(|slot| !in_company.contains(slot));
        let network = self.tables.network()?;
        // Before the network is told, nobody knows which flows could be carried: all would be let go unnoted.
        if waiting.is_empty() || (network.carry_v4 == 0 && network.carry_v6 == 0) {
            return Ok(0);
        }
        self.note_tracked(&network)?;
        for slot in &waiting {
            self.tables.let_carry(*slot)?;
        }
        Ok(waiting.len())
    }

    /// Tells the programs of the network. Of destinations that become native, flows may be tracked that nobody had to note: these are
    /// noted first, while the programs note what the stack emits and carry none of it.
    pub(super) fn tell(&self, wanted: &Network) -> Result<(), FastPathError> {
        if let Some(held_back) = held_back(wanted, &*self.tables.network()?) {
            self.tables.set_network(&held_back)?;
            if let Err(error) = self.note_tracked(wanted) {
                tracing::warn!(%error, "connections to newly native networks not pinned; they may break");
            }
        }
        self.tables.set_network(wanted)?;
        if let Err(error) = self.heal() {
            tracing::warn!(%error, "pods kept on the slow path; tried again at the next look");
        }
        Ok(())
    }

    fn note_tracked(&self, network: &Network) -> Result<(), FastPathError> {
        let mut failed = None;
        let read = conntrack::for_each(|connection| {
            if connection.is_over || failed.is_some() {
                return;
            }
            for tuple in [connection.original, connection.reply] {
                failed = failed.take().or(note(&self.tables, network, tuple, connection.answered).err());
            }
            if meaning(network, connection.original.destination).scope() == Scope::Service {
                failed = failed.take().or(note_datagrams_of(&self.tables, connection.original).err());
            }
        });
        read.map_err(FastPathError::Conntrack)?;
        failed.map_or(Ok(()), Err)
    }
}

impl FastPath {
    /// Notes the flows of UDP that pods have to these services by the stack: each of their packets could begin one. Of TCP there is no need, as what
    /// is under way without a translation is the stack's.
    pub(super) fn note_datagrams(&self, to: &BTreeSet<ServicePort>) -> Result<(), FastPathError> {
        let mut failed = None;
        let read = conntrack::for_each(|connection| {
            let Tuple { destination, protocol, ports: [_, port], .. } = connection.original;
            let port = u16::from_be_bytes(port);
            if to.contains(&ServicePort { address: wide(destination), port, protocol: protocol.into(), number: 0 }) {
                failed = failed.take().or(note_datagrams_of(&self.tables, connection.original).err());
            }
        });
        // Where connection tracking cannot be read it may not be there: nothing is known to be lost by going on.
        if let Err(error) = read {
            tracing::warn!(%error, "flows of UDP through services are not known; some may get another endpoint");
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Notes a flow of UDP to a service under the tuple that the client knows, where the client is a pod.
fn note_datagrams_of(tables: &Tables, Tuple { source, destination, protocol, ports: [from, to] }: Tuple) -> Result<(), FastPathError> {
    let Some(slot) = tables.slot_of(source)?.filter(|_| protocol == UDP) else { return Ok(()) };
    let (seen, transport) = (Noted::SEEN | Noted::LATER, Transport { protocol, source: from, destination: to });
    tables.notes.note(u16::try_from(slot).unwrap_or(u16::MAX), source, destination, transport, (seen, seen))
}

/// Notes one direction of a connection, if its two ends could be carried: the question of `ebpf`'s `carries`, asked of the maps.
fn note(tables: &Tables, network: &Network, tuple: Tuple, answered: bool) -> Result<(), FastPathError> {
    let Tuple { source, destination, protocol, ports: [from, to] } = tuple;
    let ends = (tables.slot_of(source)?, tables.slot_of(destination)?);
    let charged = match ends {
        (Some(sender), Some(receiver)) if sender != receiver => sender,
        (Some(slot), None) if is_native(network, destination) => slot,
        (None, Some(slot)) if is_native(network, source) => slot,
        _ => return Ok(()),
    };
    let bits = if answered { (Noted::SEEN | Noted::LATER, Noted::SEEN | Noted::LATER) } else { (Noted::SEEN, 0) };
    let transport = Transport { protocol, source: from, destination: to };
    tables.notes.note(u16::try_from(charged).unwrap_or(u16::MAX), source, destination, transport, bits)
}

fn is_native(network: &Network, address: IpAddr) -> bool {
    meaning(network, address).is_native()
}

/// What an address means.
pub(super) fn meaning(network: &Network, address: IpAddr) -> Meaning {
    match address {
        IpAddr::V4(address) => network.meaning4(address.octets()),
        IpAddr::V6(address) => network.meaning6(halves(address.octets())),
    }
}
