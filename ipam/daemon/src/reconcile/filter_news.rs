//! News of filters and qdiscs on pods' links, gathered by the kernel from one look to the next: who asks wakes nobody.

use std::collections::HashSet;

use datapath::Ifindex;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use socket2::SockRef;

use super::watch::{Instruction, JUMP_IF_EQUAL, LOAD_BYTE, LOAD_WORD, RETURN, assembled};

/// The news.
pub(crate) struct FilterNews {
    /// None where the kernel has given none so far.
    socket: Option<Socket>,
    /// Some were lost, or could not be acted upon.
    are_lost: bool,
}

/// Whose links have news.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// These.
    Of(HashSet<u32>),
    /// Perhaps any.
    All,
}

impl Told {
    pub(crate) fn concerns(&self, link: Ifindex) -> bool {
        match self {
            Self::Of(links) => links.contains(&link.0),
            Self::All => true,
        }
    }
}

impl FilterNews {
    /// Listens from now on. What was before is not told, so the first answer is that all may have changed.
    pub(crate) fn listen() -> Self {
        Self { socket: open().map_err(|error| tracing::debug!(%error, "subscription to tc filter changes failed")).ok(), are_lost: true }
    }

    /// What there was since it was asked last.
    pub(crate) fn take(&mut self) -> Told {
        let mut links = HashSet::new();
        if self.socket.is_none() {
            *self = Self::listen();
        }
        if let Some(socket) = &self.socket {
            loop {
                match socket.recv_from_full() {
                    Ok((message, _)) => match link_of(&message) {
                        Some(link) => drop(links.insert(link)),
                        None => self.are_lost = true,
                    },
                    Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) => break,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    // The kernel had more than there was room for.
                    Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => self.are_lost = true,
                    Err(_) => {
                        self.are_lost = true;
                        break;
                    }
                }
            }
        }
        if std::mem::take(&mut self.are_lost) { Told::All } else { Told::Of(links) }
    }

    /// What was told last could not be acted upon.
    pub(crate) fn forget(&mut self) {
        self.are_lost = true;
    }
}

fn open() -> std::io::Result<Socket> {
    /// `RTNLGRP_TC`, linux/rtnetlink.h
    const GROUP: u32 = 4;
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    SockRef::from(&socket).attach_filter(&assembled(&of_others()))?;
    socket.set_non_blocking(true)?;
    socket.bind_auto()?;
    socket.add_membership(GROUP)?;
    Ok(socket)
}

/// The interface of a message's first row; none where it is a block that many share.
fn link_of(message: &[u8]) -> Option<u32> {
    /// Behind `struct nlmsghdr` and the family of `struct tcmsg`.
    const IFINDEX: usize = 16 + 4;
    let number = u32::from_ne_bytes(*message.get(IFINDEX..)?.first_chunk()?);
    (number != u32::MAX).then_some(number)
}

/// Passes what somebody removes, and filters that somebody else adds: each ADD makes a qdisc and two filters of ours.
///
/// Offsets are those of `struct nlmsghdr` and `struct tcmsg` (linux/rtnetlink.h).
fn of_others() -> [Instruction; 9] {
    const MESSAGE_TYPE: u32 = 4;
    const FILTER_HANDLE: u32 = 16 + 8;
    const DEL_QDISC: u32 = 37;
    const NEW_FILTER: u32 = 44;
    const DEL_FILTER: u32 = 45;
    /// Of ours, as a filter loads a number: in the network's order.
    const OURS: u32 = 0xb300_0000;
    /// Likewise, on blocks that pods share.
    const OURS_SHARED: u32 = 0x0100_0000;
    [
        (LOAD_BYTE, 0, 0, MESSAGE_TYPE),
        (JUMP_IF_EQUAL, 5, 0, DEL_QDISC),
        (JUMP_IF_EQUAL, 4, 0, DEL_FILTER),
        (JUMP_IF_EQUAL, 0, 4, NEW_FILTER),
        (LOAD_WORD, 0, 0, FILTER_HANDLE),
        (JUMP_IF_EQUAL, 2, 0, OURS),
        (JUMP_IF_EQUAL, 1, 0, OURS_SHARED),
        (RETURN, 0, 0, u32::MAX),
        (RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::watch::tests::passes;
    use super::*;

    /// `struct nlmsghdr` and `struct tcmsg`.
    fn message(kind: u8, ifindex: u32, handle: u32) -> Vec<u8> {
        let mut bytes = vec![0; 16 + 20];
        bytes[4] = kind;
        bytes[20..24].copy_from_slice(&ifindex.to_ne_bytes());
        bytes[24..28].copy_from_slice(&handle.to_ne_bytes());
        bytes
    }

    #[test]
    fn an_add_is_no_news_and_what_others_do_is() {
        let told = |kind, handle| passes(&of_others(), &message(kind, 7, handle));
        assert!(!told(36, 0xffff_0000) && !told(44, 0xb3) && !told(44, 1), "a qdisc and filters of ours");
        assert!(told(44, 7) && told(45, 0xb3) && told(45, 7) && told(37, 0xffff_0000));
        assert!(!told(16, 7), "a link");
        assert_eq!(link_of(&message(45, 7, 0xb3)), Some(7));
        assert_eq!(link_of(&message(45, u32::MAX, 1)), None, "a block that many share");
        assert_eq!(link_of(&[0; 22]), None);
    }

    #[test]
    fn at_first_and_after_a_failure_all_are_looked_at() {
        let mut news = FilterNews::listen();
        assert_eq!(news.take(), Told::All);
        assert_ne!(news.take(), Told::All);
        news.forget();
        assert!(news.take().concerns(Ifindex(7)) && !news.take().concerns(Ifindex(7)));
    }
}
