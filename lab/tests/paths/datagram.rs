//! Datagrams and echo requests that hear every error that is told about them (`IP_RECVERR`, ip(7)).

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::network::Network;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use rustix::net::sockopt::{self as options, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, SocketType, bind, ipproto, socket};

use crate::probe::Answer;

/// How long an answer may take; whoever asks waits no longer.
const ANSWER: Duration = Duration::from_secs(1);
/// A router that says "too big" is believed, and the datagram, if it may be cut, is sent once more.
const TRIES: usize = 2;
const ECHO_HEADER: usize = 8;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To a server of [`lab::echo`].
    Udp,
    /// Echo requests.
    Echo,
}

/// A connected socket.
pub(crate) struct Datagram {
    socket: UdpSocket,
    kind: Kind,
    to: IpAddr,
    whole: bool,
    said: u16,
}

impl Datagram {
    /// A socket in a network, from a port of its own. With `whole`, routers may not cut what it sends; `hops` is how often it may be
    /// forwarded and once more.
    pub(crate) fn open(from: &Network, kind: Kind, to: SocketAddr, whole: bool, hops: Option<u8>) -> Result<Self> {
        let socket = from.run(|| -> Result<_> {
            let (family, echo) = if to.is_ipv4() { (AddressFamily::INET, ipproto::ICMP) } else { (AddressFamily::INET6, ipproto::ICMPV6) };
            let socket = UdpSocket::from(socket(family, SocketType::DGRAM, (kind == Kind::Echo).then_some(echo))?);
            prepare(&socket, to.is_ipv4(), whole, hops)?;
            if kind == Kind::Udp {
                let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                bind(&socket, &SocketAddr::new(any, from.next_port()))?;
            }
            Ok(socket)
        })?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(Self { socket, kind, to: to.ip(), whole, said: 0 })
    }

    /// One message of `length` bytes and its answer.
    pub(crate) fn ask(&mut self, length: usize) -> Result<Answer> {
        for last in (0..TRIES).map(|number| number + 1 == TRIES) {
            match self.ask_once(length) {
                Err(error) if !last && !self.whole && error.downcast_ref::<Told>().is_some_and(Told::is_too_big) => {}
                outcome => return outcome,
            }
        }
        unreachable!("the last try returns")
    }

    fn ask_once(&mut self, length: usize) -> Result<Answer> {
        self.said = self.said.wrapping_add(1);
        let payload: Vec<u8> = (0..length).map(|at| (at as u16).wrapping_mul(31).wrapping_add(self.said) as u8).collect();
        let message = match self.kind {
            Kind::Udp => payload.clone(),
            Kind::Echo => {
                let request = if self.to.is_ipv4() { 8 } else { 128 };
                [&[request, 0, 0, 0, 0, 0][..], &self.said.to_be_bytes(), &payload].concat()
            }
        };
        self.socket.send(&message).map_err(|error| self.told(error))?;
        let mut answer = vec![0; 65_536];
        let received = self.socket.recv(&mut answer).map_err(|error| self.told(error))?;
        answer.truncate(received);
        match self.kind {
            Kind::Udp => {
                let end = answer.iter().position(|byte| *byte == b'\n').context("an answer without a greeting")?;
                ensure!(answer[end + 1..] == payload, "an answer to something else");
                let greeting = std::str::from_utf8(&answer[..end])?;
                let (server, seen) = greeting.split_once(' ').context("no greeting")?;
                Ok(Answer { server: server.to_owned(), seen: Some(seen.parse()?) })
            }
            Kind::Echo => {
                ensure!(answer.get(ECHO_HEADER..).is_some_and(|echoed| echoed == payload), "an echo of something else");
                Ok(Answer { server: self.to.to_string(), seen: None })
            }
        }
    }

    /// An error with what the network said of it. Silence is no error that anybody tells.
    fn told(&self, error: io::Error) -> anyhow::Error {
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            return error.into();
        }
        let message = self.message();
        // Who finds out first that a way is narrow is a race of everybody who uses it: afterwards the socket knows by itself.
        let too_big = error.raw_os_error() == Some(nix::errno::Errno::EMSGSIZE as i32);
        let mtu = too_big.then(|| if self.to.is_ipv4() { options::ip_mtu(&self.socket) } else { options::ipv6_mtu(&self.socket) });
        let mtu = mtu.and_then(Result::ok);
        Told { error: error.kind().to_string(), message: message.filter(|_| mtu.is_none()), mtu }.into()
    }

    /// The error message behind an error: type, code, and who sent it.
    fn message(&self) -> Option<(u8, u8, Option<IpAddr>)> {
        let mut space = nix::cmsg_space!([u8; 256]);
        let mut bytes = [0; 128];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let found = recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags).ok()?;
        let message = found.cmsgs().ok()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                Some((error, from.map(|from| IpAddr::from(from.sin_addr.s_addr.to_ne_bytes()))))
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => Some((error, from.map(|from| IpAddr::from(from.sin6_addr.s6_addr)))),
            _ => None,
        });
        message.map(|(error, from)| (error.ee_type, error.ee_code, from))
    }
}

fn prepare(socket: &UdpSocket, v4: bool, whole: bool, hops: Option<u8>) -> Result<()> {
    if v4 {
        setsockopt(&socket.as_fd(), sockopt::Ipv4RecvErr, &true)?;
        options::set_ip_mtu_discover(socket, if whole { Ipv4PathMtuDiscovery::DO } else { Ipv4PathMtuDiscovery::DONT })?;
        hops.map_or(Ok(()), |hops| options::set_ip_ttl(socket, hops.into()))?;
    } else {
        setsockopt(&socket.as_fd(), sockopt::Ipv6RecvErr, &true)?;
        options::set_ipv6_mtu_discover(socket, if whole { Ipv6PathMtuDiscovery::DO } else { Ipv6PathMtuDiscovery::DONT })?;
        hops.map_or(Ok(()), |hops| options::set_ipv6_unicast_hops(socket, Some(hops)))?;
    }
    Ok(())
}

/// An error that a socket was told.
#[derive(Debug)]
pub(crate) struct Told {
    error: String,
    message: Option<(u8, u8, Option<IpAddr>)>,
    /// What the way carries, where that is what was wrong.
    mtu: Option<u32>,
}

impl Told {
    const fn is_too_big(&self) -> bool {
        self.mtu.is_some()
    }
}

impl std::error::Error for Told {}

impl fmt::Display for Told {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.mtu, self.message) {
            (Some(mtu), _) => write!(out, "too big, the way carries {mtu}"),
            (None, Some((kind, code, Some(from)))) => write!(out, "{} (ICMP {kind}/{code} of {from})", self.error),
            (None, Some((kind, code, None))) => write!(out, "{} (ICMP {kind}/{code})", self.error),
            (None, None) => write!(out, "{}", self.error),
        }
    }
}
