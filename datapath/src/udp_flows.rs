//! Forgets flows of UDP that conntrack has: each packet of one goes where its first went, and renews it, whoever is there no longer.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_sys::Socket;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::conntrack::{self, Tuple};
use crate::raw_netlink::{attribute, number};

/// `NETLINK_NETFILTER`
const PROTOCOL: isize = 12;
/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_DELETE`
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST` and `NLM_F_ACK`
const FLAGS: u16 = 1 | 4;
const UDP: u8 = 17;
const HEADER: usize = 16;
const LIMIT_SECONDS: i64 = 5;

/// Forgets flows, at most `most` of them, for which `is_stale` says so by where their first packet was sent to and who answers. How many
/// it was; where it is `most` there may be more.
///
/// # Errors
/// Where the kernel has no ctnetlink, or does not answer.
pub fn forget(most: usize, is_stale: impl Fn(SocketAddr, SocketAddr) -> bool) -> io::Result<usize> {
    let mut stale = Vec::new();
    conntrack::for_each(|connection| {
        let (original, reply) = (connection.original, connection.reply);
        let port = |port| u16::from_be_bytes(port);
        let to = SocketAddr::new(original.destination, port(original.ports[1]));
        let from = SocketAddr::new(reply.source, port(reply.ports[0]));
        if original.protocol == UDP && stale.len() < most && is_stale(to, from) {
            stale.push(original);
        }
    })?;
    if stale.is_empty() {
        return Ok(0);
    }
    let mut socket = Socket::new(PROTOCOL)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(LIMIT_SECONDS))?;
    socket.bind_auto()?;
    for tuple in &stale {
        match delete(&socket, tuple) {
            // It has ended by itself, or was told twice.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            outcome => outcome?,
        }
    }
    Ok(stale.len())
}

fn delete(socket: &Socket, tuple: &Tuple) -> io::Result<()> {
    socket.send(&request(tuple), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match answer.get(HEADER..).map_or(0, number).cast_signed() {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

fn request(tuple: &Tuple) -> Vec<u8> {
    const ORIGINAL: u16 = 1;
    const IP: u16 = 1;
    const PROTO: u16 = 2;
    const NESTED: u16 = 0x8000;
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (family, source, destination) = if tuple.source.is_ipv4() { (nix::libc::AF_INET, 1, 2) } else { (nix::libc::AF_INET6, 3, 4) };
    let ip = [attribute(source, &bytes(tuple.source)), attribute(destination, &bytes(tuple.destination))].concat();
    let proto = [attribute(1, &[tuple.protocol]), attribute(2, &tuple.ports[0]), attribute(3, &tuple.ports[1])].concat();
    let original = attribute(ORIGINAL | NESTED, &[attribute(IP | NESTED, &ip), attribute(PROTO | NESTED, &proto)].concat());
    let body = [&[family.cast_unsigned() as u8, 0, 0, 0][..], &original].concat();
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let header = length.to_ne_bytes().into_iter().chain(DELETE.to_ne_bytes()).chain(FLAGS.to_ne_bytes()).chain([0; 8]);
    header.chain(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_first_packet() {
        let tuple = Tuple {
            source: [10, 0, 1, 17].into(),
            destination: [10, 96, 0, 10].into(),
            protocol: UDP,
            ports: [20_000_u16, 53].map(u16::to_be_bytes),
        };
        let request = request(&tuple);
        assert_eq!(number(&request), u32::try_from(request.len()).unwrap());
        // The reader of conntrack reads it.
        let original = &request[HEADER + 4 + 4..];
        assert_eq!(conntrack::tuple(original), Some(tuple));
    }
}
