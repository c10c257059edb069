//! How long a packet to a peer may be, as far as the kernel knows: by the route, and by what routers have said since.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

/// No IP packet is longer, whatever an interface says.
const LONGEST: u32 = 65_535;

/// Has nobody make fragments of what is sent to `to` (`DF`); what the kernel knows to be too long, it refuses (`EMSGSIZE`).
///
/// # Errors
/// Where the socket is of the other family.
pub(super) fn forbid_fragments(socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    match to {
        SocketAddr::V4(_) => sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO)?,
    }
    Ok(())
}

/// Bytes of the longest packet to the peer, with all headers.
///
/// # Errors
/// `ENOTCONN` where the socket has no peer.
pub(super) fn of(socket: &UdpSocket, to: SocketAddr) -> io::Result<usize> {
    let mtu = match to {
        SocketAddr::V4(_) => sockopt::ip_mtu(socket)?,
        SocketAddr::V6(_) => sockopt::ipv6_mtu(socket)?,
    };
    Ok(mtu.min(LONGEST) as usize)
}

/// Bytes of the headers of IP and UDP.
pub(super) const fn headers(to: SocketAddr) -> usize {
    const UDP: usize = 8;
    UDP + if to.is_ipv4() { 20 } else { 40 }
}
