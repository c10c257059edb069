//! The VPC's routers for IPv6: whoever solicits a router hears of the gateway on its own link (RFC 4861, sections 6.1 and 6.2).

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, recvfrom, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::error::{Context, Result};
use crate::network::Network;

/// Types of ICMPv6 messages.
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// How long the gateway is to be used, in seconds.
const LIFETIME: u16 = 1800;
/// What proves that a message comes from the same link.
const HOP_LIMIT: i32 = 255;
/// How soon the thread sees that it is to end, in microseconds.
const LOOK_UP: i64 = 100_000;

/// Answers until it is dropped.
#[derive(Debug)]
pub(super) struct Advertiser {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Advertiser {
    /// Answers on all links of a network. Its source is the link's only link-local address.
    pub(super) fn start(network: &Network) -> Result<Self> {
        let socket = network.run(|| opened().context(|| "open a socket for router advertisements".to_owned()))?;
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                answer(&socket);
            }
        });
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Advertiser {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // A thread that panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn opened() -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)?;
    setsockopt(&socket, sockopt::Ipv6Ttl, &HOP_LIMIT)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, LOOK_UP))?;
    Ok(socket)
}

fn answer(socket: &OwnedFd) {
    let mut message = [0; 1500];
    let soliciting = match recvfrom::<SockaddrIn6>(socket.as_raw_fd(), &mut message) {
        Ok((length, Some(from))) if length > 0 && message[0] == SOLICITATION => from,
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => return,
        Err(_) => return thread::sleep(std::time::Duration::from_micros(LOOK_UP.unsigned_abs())),
    };
    let [high, low] = LIFETIME.to_be_bytes();
    // The kernel fills in the checksum; times that are zero are not specified.
    let advertisement = [ADVERTISEMENT, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
    // Lost, as any packet may be: the node asks again.
    let _ = sendto(socket.as_raw_fd(), &advertisement, &soliciting, MsgFlags::empty());
}
