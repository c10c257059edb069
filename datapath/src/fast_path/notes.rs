//! The notes of flows that the stack has, as the daemon keeps them: each ends soon after its flow, none outlives its pod, and no pod
//! has so many that another finds no room.

mod timeouts;

use std::collections::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use aya::Pod;
use aya::maps::{Array, HashMap, MapData, MapError};
use ebpf::filter;
use ebpf::flow::{Flow4, Flow6, Noted};
use ebpf::layout::{ENDPOINTS_MAX, FIRST_IFINDEX, FLOWS_MAX};
use ebpf::packet::Transport;
use ebpf::scope::{halves, whole};

use super::FastPathError;
use super::batch;
use super::note_filter::{Begun, NoteFilter};
use super::tables::{Plain, lock, map};
use crate::Ifindex;
pub use timeouts::Timeouts;

/// A hash of notes, with a descriptor of its own for what is read at once.
pub(super) struct Table<K> {
    pub(super) notes: Mutex<HashMap<MapData, Plain<K>, Plain<Noted>>>,
    pub(super) fd: OwnedFd,
}

/// Flows of both families that the programs translate.
pub(super) type Served = (HashSet<Flow4>, HashSet<Flow6>);

pub(super) struct Notes {
    pub(super) four: Table<Flow4>,
    pub(super) six: Table<Flow6>,
    pub(super) filter: NoteFilter,
    pub(super) by_slot: Mutex<Array<MapData, u32>>,
    pub(super) share: Mutex<Array<MapData, u32>>,
    /// Addresses of pods that were deleted since the last sweep.
    pub(super) gone: Mutex<HashSet<IpAddr>>,
    pub(super) last: Mutex<NotedFlows>,
}

/// What the last sweep found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotedFlows {
    /// Notes of both families.
    pub total: usize,
    /// How many one pod may have.
    pub share: u32,
    /// How many each pod has, by its host end; the most first.
    pub pods: Vec<(Ifindex, u32)>,
}

impl NotedFlows {
    /// Pods that have all they may have: their further flows through the stack are dropped.
    pub fn at_their_share(&self) -> impl Iterator<Item = Ifindex> {
        self.pods.iter().take_while(|(_, notes)| *notes >= self.share).map(|(link, _)| *link)
    }
}

/// How many notes one pod may have when `noted` of a family's table are taken: a quarter of the table; beyond half of it, a quarter of
/// what is left, so that whoever has few can have more.
#[must_use]
fn share(noted: u32) -> u32 {
    const QUARTER: u32 = FLOWS_MAX / 4;
    if noted <= FLOWS_MAX / 2 { QUARTER } else { (FLOWS_MAX.saturating_sub(noted) / 4).max(FLOWS_MAX / 64) }
}

/// What the sweep looks at, of either family.
trait Flow: Copy + Eq + Hash {
    fn protocol(&self) -> u8;
    fn ends(&self) -> [IpAddr; 2];
    /// Its place in the filter.
    fn place(&self) -> usize;
}

impl Flow for Flow4 {
    fn protocol(&self) -> u8 {
        u8::try_from(self.protocol).unwrap_or_default()
    }
    fn ends(&self) -> [IpAddr; 2] {
        [Ipv4Addr::from(self.low).into(), Ipv4Addr::from(self.high).into()]
    }
    fn place(&self) -> usize {
        filter::place4(self)
    }
}

impl Flow for Flow6 {
    fn protocol(&self) -> u8 {
        u8::try_from(self.protocol).unwrap_or_default()
    }
    fn ends(&self) -> [IpAddr; 2] {
        [whole(self.low).into(), whole(self.high).into()]
    }
    fn place(&self) -> usize {
        filter::place6(self)
    }
}

impl Notes {
    /// Before the first packet: without a share nobody could have a note, and a filter that is new knows no notes that are old.
    pub(super) fn prepare(&self) -> Result<(), FastPathError> {
        let begun = self.filter.begin().map_err(map("NOTE_GENERATIONS"))?;
        read(&self.four, |flow, _| self.filter.keep(begun, flow.place())).map_err(map("FLOWS4"))?;
        read(&self.six, |flow, _| self.filter.keep(begun, flow.place())).map_err(map("FLOWS6"))?;
        let unset = lock(&self.share).get(&0, 0).map_err(map("NOTES_SHARE"))? == 0;
        if unset { self.set_share(share(0)) } else { Ok(()) }
    }

    fn set_share(&self, share: u32) -> Result<(), FastPathError> {
        lock(&self.share).set(0, share, 0).map_err(map("NOTES_SHARE"))
    }

    /// Notes of these addresses end with the next sweep.
    pub(super) fn purge(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        lock(&self.gone).extend(addresses);
    }

    /// Removes what has ended, counts what stays, and sets the share anew. What stays and is translated goes into `served`.
    pub(super) fn sweep(&self, timeouts: &Timeouts, served: &mut Served) -> Result<NotedFlows, FastPathError> {
        let now = seconds()?;
        let gone = std::mem::take(&mut *lock(&self.gone));
        let swept = self.filter.begin().map_err(map("NOTE_GENERATIONS")).and_then(|begun| {
            let mut sweep = Sweep { now, timeouts, gone: &gone, filter: &self.filter, begun, counts: vec![0; ENDPOINTS_MAX as usize] };
            let four = sweep.of(&self.four, &mut served.0).map_err(map("FLOWS4"))?;
            let six = sweep.of(&self.six, &mut served.1).map_err(map("FLOWS6"))?;
            self.filter.end(begun).map_err(map("NOTE_GENERATIONS"))?;
            Ok((four, six, sweep.counts))
        });
        let (four, six, counts) = match swept {
            Ok(swept) => swept,
            Err(error) => {
                self.purge(gone);
                return Err(error);
            }
        };
        let share = share(u32::try_from(four.max(six)).unwrap_or(u32::MAX));
        self.set_share(share)?;
        self.correct(&counts)?;
        let mut pods: Vec<_> = (FIRST_IFINDEX..).map(Ifindex).zip(counts).filter(|(_, notes)| *notes > 0).collect();
        pods.sort_unstable_by_key(|(link, notes)| (std::cmp::Reverse(*notes), link.0));
        let found = NotedFlows { total: four + six, share, pods };
        found.clone_into(&mut lock(&self.last));
        Ok(found)
    }

    /// What the programs have counted meanwhile was of notes that may have gone since.
    fn correct(&self, counts: &[u32]) -> Result<(), FastPathError> {
        let mut by_slot = lock(&self.by_slot);
        for (slot, counted) in (0..).zip(counts.iter().copied()) {
            if by_slot.get(&slot, 0).map_err(map("NOTES"))? != counted {
                by_slot.set(slot, counted, 0).map_err(map("NOTES"))?;
            }
        }
        Ok(())
    }

    /// Notes a flow that the stack has, as of now, for a slot. One that is noted stays as it is.
    pub(super) fn note(
        &self,
        slot: u16,
        from: IpAddr,
        to: IpAddr,
        transport: Transport,
        (from_low, from_high): (u8, u8),
    ) -> Result<(), FastPathError> {
        let noted = Noted { seen_seconds: seconds()?, slot, from_low, from_high };
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let (flow, _) = Flow4::of(from.octets(), to.octets(), transport);
                self.filter.mark_and(flow.place(), || insert(&self.four, flow, noted)).map_err(map("FLOWS4"))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let (flow, _) = Flow6::of(halves(from.octets()), halves(to.octets()), transport);
                self.filter.mark_and(flow.place(), || insert(&self.six, flow, noted)).map_err(map("FLOWS6"))
            }
            _ => Ok(()),
        }
    }
}

fn insert<K: Copy>(table: &Table<K>, flow: K, noted: Noted) -> Result<(), MapError>
where
    Plain<K>: Pod,
{
    /// Only where there is none (linux/bpf.h).
    const BPF_NOEXIST: u64 = 1;
    match lock(&table.notes).insert(Plain(flow), Plain(noted), BPF_NOEXIST) {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

/// One sweep over both tables.
struct Sweep<'a> {
    now: u32,
    timeouts: &'a Timeouts,
    /// Addresses of pods that are gone.
    gone: &'a HashSet<IpAddr>,
    filter: &'a NoteFilter,
    /// The generation of what stays.
    begun: Begun,
    /// How many stay, by slot.
    counts: Vec<u32>,
}

impl Sweep<'_> {
    /// Removes what has ended from a table; how many stay. A flow that is noted anew meanwhile is noted again by its next packet.
    fn of<K: Flow>(&mut self, table: &Table<K>, served: &mut HashSet<K>) -> Result<usize, MapError>
    where
        Plain<K>: Pod,
    {
        let (mut stay, mut ended) = (0, Vec::new());
        read(table, |flow: K, noted: Noted| {
            let idle = self.now.saturating_sub(noted.seen_seconds);
            let orphaned = !self.gone.is_empty() && flow.ends().iter().any(|end| self.gone.contains(end));
            if orphaned || idle > self.timeouts.of(flow.protocol(), noted.stage()) {
                ended.push(flow);
                return;
            }
            stay += 1;
            if noted.is_served() {
                served.insert(flow);
            }
            self.filter.keep(self.begun, flow.place());
            if let Some(count) = self.counts.get_mut(usize::from(noted.slot)) {
                *count += 1;
            }
        })?;
        let mut notes = lock(&table.notes);
        for flow in ended {
            match notes.remove(&Plain(flow)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(stay)
    }
}

/// Every note of a table.
fn read<K: Flow>(table: &Table<K>, mut each: impl FnMut(K, Noted)) -> Result<(), MapError>
where
    Plain<K>: Pod,
{
    // SAFETY: the map's keys and values are these types, as `Table` was made; both are plain integers.
    if unsafe { batch::for_each(table.fd.as_fd(), &mut each) }.map_err(MapError::IoError)? {
        return Ok(());
    }
    for entry in lock(&table.notes).iter() {
        let (flow, noted) = entry?;
        each(flow.0, noted.0);
    }
    Ok(())
}

/// As the programs count: since boot, suspended time not counted.
fn seconds() -> Result<u32, FastPathError> {
    let now =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_err(|errno| map("FLOWS4")(MapError::IoError(errno.into())))?;
    Ok(u32::try_from(now.tv_sec()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_leaves_room_for_others() {
        assert_eq!(share(0), FLOWS_MAX / 4);
        assert_eq!(share(FLOWS_MAX / 2), FLOWS_MAX / 4);
        let mut noted = FLOWS_MAX / 2 + 1;
        while noted < FLOWS_MAX {
            assert!(share(noted) <= FLOWS_MAX / 8 && share(noted) >= FLOWS_MAX / 64, "{noted}");
            noted += FLOWS_MAX / 100;
        }
    }

    #[test]
    fn those_at_their_share_are_told() {
        let found = NotedFlows { total: 90, share: 40, pods: vec![(Ifindex(3), 50), (Ifindex(1), 40), (Ifindex(2), 0)] };
        assert_eq!(found.at_their_share().collect::<Vec<_>>(), [Ifindex(3), Ifindex(1)]);
    }
}
