//! Reads what connection tracking has, by ctnetlink (linux/netfilter/nfnetlink_conntrack.h): a dump, and of each connection no more
//! than its two directions and how far it has come.

use std::io;
use std::net::IpAddr;

use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// `NETLINK_NETFILTER`
const PROTOCOL: isize = 12;
/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET`
const GET: u16 = 1 << 8 | 1;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Headers of netlink, and of netfilter within it.
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// A dump that something was added to meanwhile is read again.
const TRIES: usize = 3;
/// No answer for longer is none.
const LIMIT_SECONDS: i64 = 5;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    /// Ports, or an echo's identifier twice; network order.
    pub(crate) ports: [[u8; 2]; 2],
}

/// A connection that is tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    /// As its first packet came.
    pub(crate) original: Tuple,
    /// As replies come.
    pub(crate) reply: Tuple,
    /// Packets were seen in both directions.
    pub(crate) answered: bool,
    /// It is TCP, and over.
    pub(crate) is_over: bool,
}

/// Calls `each` with every connection of the caller's network namespace, some perhaps twice.
///
/// # Errors
/// Where the kernel has no ctnetlink, or does not answer.
pub(crate) fn for_each(mut each: impl FnMut(Connection)) -> io::Result<()> {
    for family in [nix::libc::AF_INET, nix::libc::AF_INET6] {
        let mut tries = 1..=TRIES;
        while dump(family.cast_unsigned() as u8, &mut each)? && tries.next().is_some() {}
    }
    Ok(())
}

/// Whether the dump was interrupted by a change.
fn dump(family: u8, each: &mut impl FnMut(Connection)) -> io::Result<bool> {
    let mut socket = Socket::new(PROTOCOL)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(LIMIT_SECONDS))?;
    socket.bind_auto()?;
    let mut request = Vec::with_capacity(HEADER + GENERIC);
    request.extend(((HEADER + GENERIC) as u32).to_ne_bytes());
    request.extend(GET.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family, 0, 0, 0]);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut interrupted = false;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while let Some((kind, flags, body)) = message(&mut rest) {
            interrupted |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                NLMSG_DONE => return Ok(interrupted),
                NLMSG_ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(Errno::from_raw(-code).into());
                }
                _ => {
                    if let Some(found) = body.get(GENERIC..).and_then(connection) {
                        each(found);
                    }
                }
            }
        }
    }
}

/// The next message: its type, its flags, and what it holds.
fn message<'a>(rest: &mut &'a [u8]) -> Option<(u16, u16, &'a [u8])> {
    let header = rest.first_chunk::<HEADER>()?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let body = rest.get(HEADER..length)?;
    let (kind, flags) = (u16::from_ne_bytes([header[4], header[5]]), u16::from_ne_bytes([header[6], header[7]]));
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, flags, body))
}

/// The attributes of a message or of one that nests them; what is behind a malformed one is left out.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let [a, b, c, d] = *rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & KIND, value))
    })
}

fn connection(body: &[u8]) -> Option<Connection> {
    const ORIGINAL: u16 = 1;
    const REPLY: u16 = 2;
    const STATUS: u16 = 3;
    const PROTOCOL_STATE: u16 = 4;
    /// `IPS_SEEN_REPLY`
    const SEEN_REPLY: u32 = 1 << 1;
    let (mut original, mut reply, mut answered, mut is_over) = (None, None, false, false);
    for (kind, value) in attributes(body) {
        match kind {
            ORIGINAL => original = tuple(value),
            REPLY => reply = tuple(value),
            STATUS => answered = value.first_chunk().is_some_and(|status| u32::from_be_bytes(*status) & SEEN_REPLY != 0),
            PROTOCOL_STATE => is_over = tcp_is_over(value),
            _ => {}
        }
    }
    Some(Connection { original: original?, reply: reply?, answered, is_over })
}

/// `TCP_CONNTRACK_TIME_WAIT` and `TCP_CONNTRACK_CLOSE`
fn tcp_is_over(state: &[u8]) -> bool {
    const TCP: u16 = 1;
    const STATE: u16 = 1;
    let mut states = attributes(state).filter(|(kind, _)| *kind == TCP).flat_map(|(_, value)| attributes(value));
    states.any(|(kind, value)| kind == STATE && matches!(value, [7 | 8, ..]))
}

pub(crate) fn tuple(body: &[u8]) -> Option<Tuple> {
    const IP: u16 = 1;
    const PROTO: u16 = 2;
    let (mut source, mut destination, mut protocol, mut ports) = (None, None, None, [[0; 2]; 2]);
    for (kind, value) in attributes(body) {
        for (inner, value) in attributes(value) {
            match (kind, inner) {
                (IP, 1 | 3) => source = address(value),
                (IP, 2 | 4) => destination = address(value),
                (PROTO, 1) => protocol = value.first().copied(),
                (PROTO, 2) => ports[0] = *value.first_chunk()?,
                (PROTO, 3) => ports[1] = *value.first_chunk()?,
                // The identifiers of ICMP and ICMPv6.
                (PROTO, 4 | 7) => ports = [*value.first_chunk()?; 2],
                _ => {}
            }
        }
    }
    Some(Tuple { source: source?, destination: destination?, protocol: protocol?, ports })
}

fn address(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple_of(source: [u8; 4], destination: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
        let ip = attribute(0x8001, &[attribute(1, &source), attribute(2, &destination)].concat());
        let [from, to] = ports.map(u16::to_be_bytes);
        let proto = attribute(0x8002, &[attribute(1, &[6]), attribute(2, &from), attribute(3, &to)].concat());
        [ip, proto].concat()
    }

    #[test]
    fn a_translated_connection_has_two_tuples() {
        let body = [
            attribute(0x8001, &tuple_of([10, 0, 1, 17], [10, 96, 0, 10], [20_000, 80])),
            attribute(0x8002, &tuple_of([10, 0, 1, 18], [10, 0, 1, 17], [8080, 20_000])),
            attribute(3, &0x18e_u32.to_be_bytes()),
            attribute(0x8004, &attribute(0x8001, &attribute(1, &[3]))),
        ]
        .concat();
        let found = connection(&body).unwrap();
        assert_eq!(found.original.destination, IpAddr::from([10, 96, 0, 10]));
        assert_eq!((found.reply.source, found.reply.ports), (IpAddr::from([10, 0, 1, 18]), [8080_u16, 20_000].map(u16::to_be_bytes)));
        assert!(found.answered && !found.is_over);
        assert!(tcp_is_over(&attribute(0x8001, &attribute(1, &[7]))));
    }

    #[test]
    fn what_is_cut_short_is_no_connection() {
        let whole =
            [attribute(0x8001, &tuple_of([10; 4], [11; 4], [1, 2])), attribute(0x8002, &tuple_of([11; 4], [10; 4], [2, 1]))].concat();
        assert!(connection(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(connection(&whole[..length]), None, "{length}");
        }
    }
}
