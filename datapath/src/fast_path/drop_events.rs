//! Packets that the programs drop, one by one, for whoever watches ([`ebpf::drop_event`]).
//!
//! The programs tell of them for a while after they were asked, and no longer: whoever watches asks again and again, and nothing has to be
//! taken back where he is gone. What was told lies in a ring until it is taken out.

use std::sync::Mutex;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, MapData, MapError, RingBuf};
use ebpf::account::Reason;
use ebpf::drop_event::{DropEvent, HEADERS, Hook, Told};
use nix::time::{ClockId, clock_gettime};

use super::packet_summary::PacketSummary;
use super::tables::{Plain, lock, map};
use super::{FastPath, FastPathError};
use crate::Ifindex;

/// A packet that was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedPacket {
    /// How long ago.
    pub age: Duration,
    /// The interface that it was seen at: a pod's host end, or an uplink.
    pub link: Ifindex,
    /// The program that dropped it.
    pub hook: Hook,
    /// Why.
    pub reason: Reason,
    /// How long the frame was, in bytes.
    pub length: u32,
    /// What it was.
    pub packet: PacketSummary,
}

pub(super) struct DropEvents {
    ring: Mutex<RingBuf<MapData>>,
    watched: Mutex<Array<MapData, u64>>,
    told: Mutex<Array<MapData, Plain<Told>>>,
}

impl DropEvents {
    pub(super) fn take(loaded: &mut Ebpf) -> Result<Self, FastPathError> {
        macro_rules! typed {
            ($name:literal) => {{
                let found = loaded.take_map($name).ok_or_else(|| MapError::InvalidName { name: $name.to_owned() });
                Mutex::new(found.and_then(TryInto::try_into).map_err(map($name))?)
            }};
        }
        Ok(Self { ring: typed!("DROP_EVENTS"), watched: typed!("DROPS_WATCHED"), told: typed!("DROPS_TOLD") })
    }
}

impl FastPath {
    /// Has the programs tell of packets that they drop, for so long from now, and takes out what they have told so far, the oldest first.
    ///
    /// # Errors
    /// Where the kernel refuses a map or its clock.
    pub fn watch_drops(&self, further: Duration) -> Result<Vec<DroppedPacket>, FastPathError> {
        let now = monotonic().map_err(map("DROPS_WATCHED"))?;
        let until = now.saturating_add(nanos(further));
        lock(&self.drop_events.watched).set(0, until, 0).map_err(map("DROPS_WATCHED"))?;
        let mut ring = lock(&self.drop_events.ring);
        let mut dropped = Vec::new();
        while let Some(told) = ring.next() {
            dropped.extend(event(&told).and_then(|event| packet(&event, now)));
        }
        Ok(dropped)
    }

    /// Packets by reason that were dropped while somebody watched, and that the programs did not tell of, for there were too many.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn untold_drops(&self) -> Result<Vec<(Reason, u64)>, FastPathError> {
        let told = lock(&self.drop_events.told);
        let of = |(reason, _)| told.get(&(reason as u32), 0).map(|found| (reason, found.0.untold)).map_err(map("DROPS_TOLD"));
        Reason::ALL.into_iter().map(of).collect()
    }
}

/// By the clock that the programs go by.
fn monotonic() -> Result<u64, MapError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| MapError::IoError(errno.into()))?;
    Ok(nanos(now.into()))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// As it lies in the ring; `None` where it is of another length.
fn event(bytes: &[u8]) -> Option<DropEvent> {
    let bytes: &[u8; size_of::<DropEvent>()] = bytes.try_into().ok()?;
    let word = |at: usize| bytes[at..].first_chunk().copied().map(u32::from_ne_bytes);
    let headers: [u8; HEADERS] = *bytes.last_chunk()?;
    Some(DropEvent {
        at: u64::from_ne_bytes(*bytes.first_chunk()?),
        ifindex: word(8)?,
        hook: word(12)?,
        reason: word(16)?,
        length: word(20)?,
        copied: word(24)?,
        padding: word(28)?,
        headers,
    })
}

/// `None` for a number that means nothing.
fn packet(event: &DropEvent, now: u64) -> Option<DroppedPacket> {
    let DropEvent { at, ifindex, hook, reason, length, copied, padding: _, headers } = event;
    let (reason, _) = Reason::ALL.get(*reason as usize)?;
    let copied = headers.get(..*copied as usize).unwrap_or(headers);
    Some(DroppedPacket {
        age: Duration::from_nanos(now.saturating_sub(*at)),
        link: Ifindex(*ifindex),
        hook: Hook::from_number(*hook)?,
        reason: *reason,
        length: *length,
        packet: PacketSummary::of(copied),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let written = DropEvent {
            at: 5_000_000,
            ifindex: 1 << 20,
            hook: Hook::ToPod as u32,
            reason: Reason::IngressLimit as u32,
            length: 1_514,
            copied: 14,
            padding: 0,
            headers: [0x88; HEADERS],
        };
        let words = [written.ifindex, written.hook, written.reason, written.length, written.copied, written.padding];
        let bytes = [&written.at.to_ne_bytes()[..], words.map(u32::to_ne_bytes).as_flattened(), &written.headers].concat();
        assert_eq!(event(&bytes), Some(written));
        assert_eq!(event(&bytes[1..]), None);
        let told = packet(&written, 12_000_000).unwrap();
        assert_eq!(
            (told.age, told.link, told.hook, told.reason),
            (Duration::from_millis(7), Ifindex(1 << 20), Hook::ToPod, Reason::IngressLimit)
        );
        assert_eq!((told.length, told.packet.protocol.as_str()), (1_514, "ethertype 0x8888"));
        // A number of another version's, or a length that cannot be.
        assert_eq!(packet(&DropEvent { reason: 99, ..written }, 0), None);
        assert!(packet(&DropEvent { copied: 9_000, ..written }, 0).is_some());
    }
}
