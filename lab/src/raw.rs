//! Datagrams and frames as a program with `CAP_NET_RAW` makes them: any source, any port, with IPv4 options if need be.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};

use super::network::Network;
use anyhow::{Context, Result, bail};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket};

const UDP: u8 = 17;
const ICMP6: u8 = 58;
const UDP_HEADER: u16 = 8;
const HOPS: u8 = 64;

/// What all packets of this module carry.
pub const PAYLOAD: &[u8; 4] = b"raw!";

/// A socket that sends whole IP packets.
#[derive(Debug)]
pub struct Raw {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl Raw {
    /// Sockets of both families in a network.
    ///
    /// # Errors
    /// When the caller may not have them.
    pub fn open(network: &Network) -> Result<Self> {
        let open = |family| Ok::<_, anyhow::Error>(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?);
        network
            .run(|| -> Result<_> { Ok(Self { v4: open(AddressFamily::Inet)?, v6: open(AddressFamily::Inet6)? }) })
            .context("a raw socket")
    }

    /// Sends a datagram with the source that it names.
    ///
    /// # Errors
    /// When the two are of different families, or it cannot be sent.
    pub fn send(&self, source: SocketAddr, destination: SocketAddr) -> Result<()> {
        self.send_packet(&packet(source, destination, false)?, destination)
    }

    /// Sends a datagram from each of `ports`, with options in its IPv4 header where `options` says so.
    ///
    /// # Errors
    /// As [`Raw::send`].
    pub fn flood(&self, source: IpAddr, ports: RangeInclusive<u16>, destination: SocketAddr, options: bool) -> Result<()> {
        ports.into_iter().try_for_each(|port| self.send_packet(&packet(SocketAddr::new(source, port), destination, options)?, destination))
    }

    fn send_packet(&self, packet: &[u8], destination: SocketAddr) -> Result<()> {
        match destination.ip() {
            IpAddr::V4(address) => {
                let to = SockaddrIn::from(SocketAddrV4::new(address, 0));
                sendto(self.v4.as_raw_fd(), packet, &to, MsgFlags::empty())?;
            }
            IpAddr::V6(address) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(address, 0, 0, 0));
                sendto(self.v6.as_raw_fd(), packet, &to, MsgFlags::empty())?;
            }
        }
        Ok(())
    }
}

/// A socket that sends whole frames on one interface.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    interface: LinkAddr,
}

impl Link {
    /// A socket on an interface of a network.
    ///
    /// # Errors
    /// When there is no such interface, or the caller may not have the socket.
    pub fn open(network: &Network, interface: &str) -> Result<Self> {
        network.run(|| -> Result<_> {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).context("a packet socket")?;
            let found = getifaddrs()?.filter(|entry| entry.interface_name == interface);
            let mut addresses = found.filter_map(|entry| entry.address?.as_link_addr().copied());
            let interface = addresses.next().with_context(|| format!("no interface {interface}"))?;
            Ok(Self { socket, interface })
        })
    }

    /// Sends a frame, Ethernet header included.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        sendto(self.socket.as_raw_fd(), frame, &self.interface, MsgFlags::empty()).context("a frame")?;
        Ok(())
    }

    /// Sends an ICMPv6 message, whose checksum is filled in, to a MAC address of the link (RFC 4861 asks for a hop limit of 255).
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send_icmp6(&self, own: [u8; 6], to: [u8; 6], source: Ipv6Addr, destination: Ipv6Addr, message: &mut [u8]) -> Result<()> {
        let length = u16::try_from(message.len())?.to_be_bytes();
        let pseudo = [&source.octets()[..], &destination.octets(), &[0, 0], &length, &[0, 0, 0, ICMP6], message].concat();
        message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        let header = [&[0x60, 0, 0, 0][..], &length, &[ICMP6, 255], &source.octets(), &destination.octets()].concat();
        self.send(&[&to[..], &own, &[0x86, 0xdd], &header, message].concat())
    }
}

/// An IP packet with a datagram of [`PAYLOAD`], complete as it is on a wire.
///
/// # Errors
/// When the two addresses are of different families.
pub fn udp_packet(source: SocketAddr, destination: SocketAddr) -> Result<Vec<u8>> {
    let mut packet = packet(source, destination, false)?;
    if source.is_ipv4() {
        let length = u16::try_from(packet.len())?.to_be_bytes();
        packet[2..4].copy_from_slice(&length);
        let sum = checksum(&packet[..20]).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
    }
    Ok(packet)
}

/// An IP packet with a UDP datagram in it (RFC 791, RFC 8200, RFC 768).
fn packet(source: SocketAddr, destination: SocketAddr, options: bool) -> Result<Vec<u8>> {
    let length = UDP_HEADER + PAYLOAD.len() as u16;
    let mut packet = Vec::new();
    let mut pseudo = Vec::new();
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // Two words more for four times "no operation"; the kernel fills in length and checksum (raw(7)).
            let words = if options { 6 } else { 5 };
            packet.extend([0x40 | words, 0, 0, 0, 0, 0, 0, 0, HOPS, UDP, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(std::iter::repeat_n(1, usize::from(words - 5) * 4));
            pseudo.extend(source.octets().into_iter().chain(destination.octets()));
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([UDP, HOPS]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            pseudo.extend(source.octets().into_iter().chain(destination.octets()));
        }
        _ => bail!("{source} and {destination} are of two families"),
    }
    let mut datagram = [source.port().to_be_bytes(), destination.port().to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    datagram.extend(PAYLOAD);
    pseudo.extend([0, UDP]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend(&datagram);
    datagram[6..8].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    packet.extend(datagram);
    Ok(packet)
}

/// RFC 1071; zero means none, so it is sent as its other form (RFC 768).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    match !(((folded & 0xffff) + (folded >> 16)) as u16) {
        0 => 0xffff,
        sum => sum,
    }
}
