//! Services: what a pod sends to a service's address is for one of its endpoints, chosen with the flow's first packet, and what that one
//! answers comes from the service (docs/adr/0040).
//!
//! The daemon writes which services there are and who serves them, and the programs write translations: two for each flow, one for
//! packets there and one for packets back. A flow has its note as well ([`Noted::SERVED`](crate::flow::Noted::SERVED)), under the tuple
//! that it has once it is translated. By the note it is found on its way back, by it is counted how many flows a pod has, and with it
//! translations end: one without its note is none.
//!
//! An IPv4 address stands in the first number of its two, as everywhere.

use crate::packet::Transport;

/// The most ports of services.
pub const SERVICES_MAX: u32 = 1 << 16;
/// The most endpoints, those of several ports several times.
pub const BACKENDS_MAX: u32 = 1 << 18;
/// Programs that another goes on with, by their place in the map of them. Only a place that packets *enter* by may be emptied while packets
/// pass: whoever finds a later one empty has a packet in hand that is half translated, and can but lose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Jump {
    /// `from_pod`, once more, with what is for an endpoint now.
    FromPod = 0,
    /// `to_backend`, as `from_pod` enters it; empty where no services are translated.
    Services = 1,
    /// `to_client`
    ToClient = 2,
    /// `choose`
    Choose = 3,
    /// `to_backend`, as `choose` goes back to it.
    ToBackend = 4,
}
/// How many there are.
pub const JUMPS: u32 = 5;
/// The most translations: two for each of the flows that both families' notes have room for.
pub const TRANSLATIONS_MAX: u32 = 4 * crate::layout::FLOWS_MAX;

/// A port of a service; with a number, one of its endpoints.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServicePort {
    /// The service's address.
    pub address: [u64; 2],
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: u16,
    /// Which endpoint, from 0. Of the service itself, 0.
    pub number: u32,
}

/// The ends of a packet, as it has them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tuple {
    /// Who sends it.
    pub source: [u64; 2],
    /// Whom it is sent to.
    pub destination: [u64; 2],
    /// The port that it is from.
    pub source_port: u16,
    /// The port that it is for.
    pub destination_port: u16,
    /// The protocol.
    pub protocol: u16,
    /// 4 or 6.
    pub version: u16,
}

/// What takes an end's place: an endpoint that of the service, or on the way back the service that of the endpoint.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    /// The address.
    pub address: [u64; 2],
    /// The port.
    pub port: u16,
    /// 1 on the way back: the packet's source changes, not its destination.
    pub is_answer: u16,
    /// Zero.
    pub padding: u32,
}

const _: () = assert!(size_of::<ServicePort>() == 24 && size_of::<Tuple>() == 40 && size_of::<End>() == 24);

impl Tuple {
    /// Of a packet between these two.
    #[must_use]
    #[inline(always)]
    pub const fn of(source: [u64; 2], destination: [u64; 2], transport: Transport, version: u16) -> Self {
        Self {
            source,
            destination,
            source_port: u16::from_be_bytes(transport.source),
            destination_port: u16::from_be_bytes(transport.destination),
            protocol: transport.protocol as u16,
            version,
        }
    }
}

/// The port that a client has towards an endpoint instead of its own, and the other way round.
///
/// What a pod's kernel gives of itself (32768 to 60999) changes places with as many ports below, so that a flow through a service and one
/// straight to the endpoint have not both ends in common: nobody would know of the second what it is. The rules of the stack do the same.
#[must_use]
#[inline(always)]
pub const fn apart(port: u16) -> u16 {
    match port {
        16_384..=49_151 | 50_176..=60_999 | 1_024..=11_847 => port ^ 0xc000,
        49_152..=50_175 | 12_288..=13_311 => port ^ 0xf000,
        _ => port,
    }
}

/// One of so many, by a random number: each as often as the others, but for one part in 2³² / `count`.
#[must_use]
#[inline(always)]
pub const fn pick(random: u32, count: u32) -> u32 {
    ((random as u64 * count as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_change_places() {
        for port in 0..=u16::MAX {
            assert_eq!(apart(apart(port)), port);
            assert!(!(32_768..=60_999).contains(&port) || (1_024..32_768).contains(&apart(port)), "{port}");
        }
    }

    #[test]
    fn each_is_picked_as_often_as_the_others() {
        for count in [1, 2, 3, 7, 100, 5_000] {
            let mut picked = vec![0_u32; count as usize];
            const DRAWS: u32 = 1 << 20;
            for draw in 0..DRAWS {
                picked[pick(draw << 12, count) as usize] += 1;
            }
            let fair = DRAWS / count;
            assert!(picked.iter().all(|times| times.abs_diff(fair) <= 1), "of {count}");
        }
    }
}
