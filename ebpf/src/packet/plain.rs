//! Network headers of plain packets: whole, and TCP or UDP right behind a header without options.

use super::ip::{Fragment, Header, IPV4_MIN, IPV6, Ipv4, Ipv6};
use super::transport::{TCP, UDP};
use super::{Bytes, ETHERNET};
use crate::scope::halves;

/// Reads an IPv4 header without options, of a whole packet of TCP or UDP. `None` for any other.
#[must_use]
#[inline(always)]
pub fn plain4(bytes: &impl Bytes) -> Option<Ipv4> {
    let header: [u8; IPV4_MIN] = bytes.read(ETHERNET)?;
    let piece = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    let protocol = header[9];
    if header[0] != 0x45 || piece != 0 || !matches!(protocol, TCP | UDP) {
        return None;
    }
    Some(Ipv4 {
        source: [header[12], header[13], header[14], header[15]],
        destination: [header[16], header[17], header[18], header[19]],
        header: plain(protocol, header[8], ETHERNET + IPV4_MIN),
    })
}

/// Reads an IPv6 header with TCP or UDP behind it. `None` for any other.
#[must_use]
#[inline(always)]
pub fn plain6(bytes: &impl Bytes) -> Option<Ipv6> {
    let [version, _, _, _, _, _, protocol, hop_limit]: [u8; 8] = bytes.read(ETHERNET)?;
    if version >> 4 != 6 || !matches!(protocol, TCP | UDP) {
        return None;
    }
    let (source, destination) = (halves(bytes.read(ETHERNET + 8)?), halves(bytes.read(ETHERNET + 24)?));
    Some(Ipv6 { source, destination, header: plain(protocol, hop_limit, ETHERNET + IPV6) })
}

#[inline(always)]
const fn plain(protocol: u8, hop_limit: u8, transport: usize) -> Header {
    Header { protocol, hop_limit, options: false, fragment: Fragment::No, id: 0, transport }
}
