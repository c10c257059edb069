//! Servers that echo, and say who they are and whom they see.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{ANSWER_BYTES, Greeting};
use crate::network::Network;

/// Bytes that may wait for a server.
const QUEUE: usize = 8 << 20;
/// How soon a server sees that it shall end.
const LOOK: Duration = Duration::from_millis(100);

/// A server on one port, TCP and UDP, IPv4 and IPv6. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server that greets with the network's name.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(network: &Network, port: u16) -> Result<Self> {
        let name = network.name().to_owned();
        let (listener, socket) = network.run(|| -> Result<_> {
            let any = (Ipv6Addr::UNSPECIFIED, port);
            let socket = UdpSocket::bind(any)?;
            // Many clients at once, and each with a datagram in fragments.
            setsockopt(&socket, sockopt::RcvBufForce, &QUEUE)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            Ok((TcpListener::bind(any)?, socket))
        })?;
        listener.set_nonblocking(true)?;
        socket.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new().name(format!("server {name}")).spawn(move || serve(&name, &listener, &socket, &seen))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell: a client that misses it says so.
            let _ = thread.join();
        }
    }
}

fn serve(name: &str, listener: &TcpListener, socket: &UdpSocket, stop: &AtomicBool) {
    let limit = Timespec::try_from(LOOK).unwrap_or_default();
    let mut message = vec![0; ANSWER_BYTES];
    thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
            // Whatever ended the wait, the sockets tell.
            let _ = poll(&mut fds, Some(&limit));
            while let Ok((stream, peer)) = listener.accept() {
                scope.spawn(move || echo(name, stream, peer, stop));
            }
            while answer_one(name, socket, &mut message).is_ok() {}
        }
    });
}

/// Answers one datagram, if there is one, from the address that it was sent to: a host with several may choose another.
fn answer_one(name: &str, socket: &UdpSocket, message: &mut [u8]) -> nix::Result<()> {
    let mut space = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(message)];
    let received = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let (length, Some(peer)) = (received.bytes, received.address) else { return Ok(()) };
    let asked = received.cmsgs()?.find_map(|message| match message {
        // Which interface it goes out of is for the routes to say.
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(nix::libc::in6_pktinfo { ipi6_ifindex: 0, ..info }),
        _ => None,
    });
    let mut answer = Greeting::line(name, peer.ip().into()).into_bytes();
    answer.extend_from_slice(&message[..length]);
    let source: Vec<ControlMessage<'_>> = asked.iter().map(ControlMessage::Ipv6PacketInfo).collect();
    // The client waits for it and will say that it is missing.
    let _ = sendmsg(socket.as_raw_fd(), &[IoSlice::new(&answer)], &source, MsgFlags::empty(), Some(&peer));
    Ok(())
}

/// Says who is here, and sends back whatever comes.
fn echo(name: &str, mut stream: TcpStream, peer: SocketAddr, stop: &AtomicBool) {
    let mut bytes = vec![0; 65536];
    let prepared = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(LOOK)));
    if prepared.and_then(|()| stream.write_all(Greeting::line(name, peer.ip()).as_bytes())).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(length) => {
                if stream.write_all(&bytes[..length]).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}
