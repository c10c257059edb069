//! Who claims which address on the link: ARP (RFC 826), and neighbour solicitations and advertisements (RFC 4861, 4.3 and 4.4).

use super::{Bytes, ETHERNET, Header};
use crate::scope::halves;

/// An ARP packet over Ethernet about IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Who claims to send it.
    pub sender_mac: [u8; 6],
    /// With which address; all zero for a probe (RFC 5227).
    pub sender: [u8; 4],
}

/// A neighbour solicitation or advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discovery {
    /// It claims an address; else it asks for one.
    pub advertises: bool,
    /// The address.
    pub target: [u64; 2],
    /// The MAC address in its first option, if that is what the option holds.
    pub link_layer: Option<[u8; 6]>,
    /// It has further options, or others than a link-layer address.
    pub more: bool,
}

/// Reads an ARP packet. `None` for another kind of network, and where the frame ends before.
#[must_use]
#[inline(always)]
pub fn arp(bytes: &impl Bytes) -> Option<Arp> {
    // Hardware type 1, protocol type 0x0800, their lengths 6 and 4.
    let [0, 1, 8, 0, 6, 4] = bytes.read(ETHERNET)? else { return None };
    Some(Arp { sender_mac: bytes.read(ETHERNET + 8)?, sender: bytes.read(ETHERNET + 14)? })
}

/// Whether neighbour discovery is the question for a router.
#[must_use]
#[inline(always)]
pub fn is_router_solicitation(bytes: &impl Bytes, header: &Header) -> bool {
    matches!(bytes.read(header.transport), Some([133, _]))
}

/// Reads a solicitation or an advertisement. `None` for other messages of neighbour discovery, and where the frame ends before.
#[must_use]
#[inline(always)]
pub fn discovery(bytes: &impl Bytes, header: &Header) -> Option<Discovery> {
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    const OPTIONS: usize = 24;
    const LINK_LAYER: [u8; 2] = [1, 2];
    let [kind @ (SOLICITATION | ADVERTISEMENT), _] = bytes.read(header.transport)? else { return None };
    let options = header.transport + OPTIONS;
    let mut found =
        Discovery { advertises: kind == ADVERTISEMENT, target: halves(bytes.read(header.transport + 8)?), link_layer: None, more: false };
    if let Some([option, length]) = bytes.read::<2>(options) {
        let [a, b, c, d, e, f] = bytes.read(options + 2)?;
        if LINK_LAYER.contains(&option) && length == 1 {
            found.link_layer = Some([a, b, c, d, e, f]);
            found.more = bytes.read::<2>(options + 8).is_some();
        } else {
            // A nonce (RFC 3971, 5.3.2), which Linux adds to detect duplicates (RFC 7527), says nothing of an address.
            const NONCE: u8 = 14;
            found.more = option != NONCE || length != 1 || bytes.read::<2>(options + 8).is_some();
        }
    }
    Some(found)
}
