//! Addresses that pods use beside their own, on the link of an uplink: who looks for one is answered by this node, and neighbours are told
//! when it has moved here.
//!
//! An address of a pod is routed to its node, and nobody looks for it. One that is used besides may be of the subnet that the uplink itself is in
//! (a virtual IP), and neighbours ask by ARP (RFC 826) or neighbour discovery (RFC 4861). An entry of a proxy (`ip neigh show proxy`)
//! answers them, on this interface, for this address. What a neighbour remembers from before is put right by an announcement (RFC 5227, 3;
//! RFC 4861, 7.2.6): one frame, which may be lost; a neighbour asks again when its entry is stale.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_route::link::LinkAttribute;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::netlink::{NetlinkError, Socket};
use crate::sysctl::{self, SysctlError};
use crate::{Ifindex, Uplink};
use crate::{inspection, neighbour_proxy};

/// Why neighbours are not answered, or not told.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The kernel's tables refused.
    #[error("{0}")]
    Netlink(#[from] NetlinkError),
    /// The uplink may not answer for others over IPv6.
    #[error("{0}")]
    Sysctl(#[from] SysctlError),
    /// The announcement could not be sent.
    #[error("cannot announce {address} on {ifname}: {source}")]
    Send {
        /// What was to be told.
        address: IpAddr,
        /// The uplink.
        ifname: String,
        /// Why.
        source: io::Error,
    },
}

/// Answers for these addresses from now on, and tells neighbours of them.
///
/// # Errors
/// The first refusal.
pub fn begin(host: &mut Socket, uplink: &Uplink, addresses: &[IpAddr]) -> Result<(), AnnounceError> {
    let wanted: Vec<_> = addresses.iter().map(|address| (uplink.ifindex, *address)).collect();
    let_answer(uplink, addresses)?;
    neighbour_proxy::add(host, &wanted)?;
    tell(host, uplink, addresses)
}

/// Answers for these addresses no more.
///
/// # Errors
/// The first refusal.
pub fn end(host: &mut Socket, uplink: &Uplink, addresses: &[IpAddr]) -> Result<(), AnnounceError> {
    let found: Vec<_> = addresses.iter().map(|address| (uplink.ifindex, *address)).collect();
    Ok(neighbour_proxy::remove(host, &found)?)
}

/// Compares what is answered for with what should be, and sets what differs. Entries of others stay.
///
/// # Errors
/// The first refusal.
pub fn keep(host: &mut Socket, uplink: Option<&Uplink>, addresses: &[IpAddr]) -> Result<(), AnnounceError> {
    let wanted: Vec<_> = uplink.iter().flat_map(|uplink| addresses.iter().map(|address| (uplink.ifindex, *address))).collect();
    if let Some(uplink) = uplink {
        let_answer(uplink, addresses)?;
    }
    Ok(neighbour_proxy::answer_for(host, &wanted)?)
}

/// Over IPv6 an interface answers for nobody else unless it is told to.
fn let_answer(uplink: &Uplink, addresses: &[IpAddr]) -> Result<(), SysctlError> {
    if addresses.iter().any(IpAddr::is_ipv6) { sysctl::answer_for_others(&uplink.ifname) } else { Ok(()) }
}

/// One frame for each address, to all neighbours.
fn tell(host: &mut Socket, uplink: &Uplink, addresses: &[IpAddr]) -> Result<(), AnnounceError> {
    let Some(mac) = mac_of(host, uplink.ifindex)? else { return Ok(()) };
    for &address in addresses {
        let frame = match address {
            IpAddr::V4(address) => arp_announcement(mac, address),
            IpAddr::V6(address) => advertisement(mac, address),
        };
        send(uplink.ifindex, &frame).map_err(|source| AnnounceError::Send { address, ifname: uplink.ifname.clone(), source })?;
    }
    Ok(())
}

/// Nothing where the uplink has gone since.
fn mac_of(host: &mut Socket, uplink: Ifindex) -> Result<Option<[u8; 6]>, NetlinkError> {
    let Some(link) = inspection::link(host, "read the uplink", Vec::new(), uplink.0)? else { return Ok(None) };
    let mac = link.attributes.into_iter().find_map(|attribute| if let LinkAttribute::Address(mac) = attribute { Some(mac) } else { None });
    Ok(mac.and_then(|mac| mac.try_into().ok()))
}

/// A request for its own address, as RFC 5227 has it (3, "ARP Announcement").
fn arp_announcement(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    /// Type ARP; Ethernet, IPv4, their lengths, a request.
    const ARP: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1];
    [&[0xff; 6][..], &mac, &ARP, &mac, &address.octets(), &[0; 6], &address.octets()].concat()
}

/// An advertisement that nobody has asked for, which overrides what is known (RFC 4861, 7.2.6).
fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
    /// Version 6, 32 bytes of ICMPv6, one hop.
    const HEADER: [u8; 8] = [0x60, 0, 0, 0, 0, 32, 58, 255];
    const OVERRIDE: u8 = 0x20;
    /// The target's link-layer address, in eight bytes.
    const OPTION: [u8; 2] = [2, 1];
    let message = |checksum: [u8; 2]| [&[136, 0][..], &checksum, &[OVERRIDE, 0, 0, 0], &address.octets(), &OPTION, &mac].concat();
    let pseudo_header = [&address.octets()[..], &ALL_NODES.octets(), &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
    let checksum = checksum(&[pseudo_header, message([0; 2])].concat()).to_be_bytes();
    [&ALL_NODES_MAC[..], &mac, &[0x86, 0xdd], &HEADER, &address.octets(), &ALL_NODES.octets(), &message(checksum)].concat()
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

/// Sends a frame out of an interface of the calling thread's network namespace.
fn send(by: Ifindex, frame: &[u8]) -> io::Result<()> {
    // Without a protocol it receives nothing.
    let socket: OwnedFd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: by.0.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let (length, of_address) = (frame.len(), size_of::<libc::sockaddr_ll>() as u32);
    // SAFETY: frame and address live for the length of the call, and the lengths are theirs.
    let sent =
        unsafe { libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), length, libc::MSG_DONTWAIT, (&raw const to).cast(), of_address) };
    Ok(Errno::result(sent).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    #[test]
    fn an_announcement_says_whose_the_address_is() {
        let frame = arp_announcement(MAC, Ipv4Addr::new(10, 0, 50, 7));
        assert_eq!(frame.len(), 42);
        assert_eq!((&frame[..6], &frame[6..12], &frame[22..28]), (&[0xff; 6][..], &MAC[..], &MAC[..]));
        assert_eq!((&frame[28..32], &frame[38..]), (&[10, 0, 50, 7][..], &[10, 0, 50, 7][..]));
    }

    #[test]
    fn an_advertisement_is_whole_and_its_checksum_right() {
        let frame = advertisement(MAC, "fd00:50::7".parse().unwrap());
        assert_eq!(frame.len(), 14 + 40 + 32);
        let (ip, icmp) = (&frame[14..54], &frame[54..]);
        // Over what it covers, the checksum included, it is zero.
        let covered = [&ip[8..40], &[0, 0, 0, 32, 0, 0, 0, 58], icmp].concat();
        assert_eq!(checksum(&covered), 0);
        assert_eq!((icmp[0], icmp[4], &icmp[8..24], &icmp[26..]), (136, 0x20, &ip[8..24], &MAC[..]));
    }
}
