//! What a pod may claim on its link: its own addresses with its own MAC address, and nothing about routers.

use super::{Tables, Verdict, is_own};
use crate::account::Reason;
use crate::layout::Endpoint;
use crate::packet::{self, Bytes, Header, Ipv4, Ipv6};
use crate::verdict::family::Address as _;

const CLAIM: Verdict = Verdict::Drop(Reason::SpoofedNeighbour);
const TO_HOST: Verdict = Verdict::Stack(Reason::LinkLocal);

/// ARP, with its own addresses as sender, or a probe with none. It reaches the host and no further.
#[inline(always)]
pub(super) fn arp(bytes: &impl Bytes, tables: &impl Tables, slot: u32, endpoint: &Endpoint) -> Verdict {
    let Some(arp) = packet::arp(bytes) else { return Verdict::Drop(Reason::Malformed) };
    let probe = arp.sender == [0; 4];
    if arp.sender_mac == endpoint.mac && (probe || is_own::<Ipv4>(tables, slot, endpoint, arp.sender)) { TO_HOST } else { CLAIM }
}

/// Neighbour discovery. A pod asks for neighbours and answers for itself; its router is its host, and it is nobody's.
#[inline(always)]
pub(super) fn discovery(bytes: &impl Bytes, header: &Header, tables: &impl Tables, slot: u32, endpoint: &Endpoint) -> Verdict {
    if packet::is_router_solicitation(bytes, header) {
        // Nobody would answer; every interface sends some when it comes up, and each would be a neighbour to the host.
        return Verdict::Drop(Reason::LinkLocal);
    }
    let Some(found) = packet::discovery(bytes, header) else { return CLAIM };
    let honest_mac = !found.more && found.link_layer.is_none_or(|mac| mac == endpoint.mac);
    let own_target = is_own::<Ipv6>(tables, slot, endpoint, found.target) || found.target.may_be_link_local();
    if honest_mac && (own_target || !found.advertises) { TO_HOST } else { CLAIM }
}
