//! Tells when uplinks, or what the host does to forwarded packets, may have changed: soon after links, addresses, routes, routing rules or
//! nftables' rules did. Off the pods' path, so on tokio and `rtnetlink`.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use socket2::{SockFilter, SockRef};

use crate::conditions::{Finding, Kind, NodeConditions};
use crate::kernel::link_numbers::FIRST;
use crate::reconcile::EVERY;

/// One cause makes several events; one look after them will do.
const SETTLE: Duration = Duration::from_millis(200);
/// A look reads every link under the lock that wiring a pod needs (RTNL), so that on a full node under steady news looks would
/// slow ADDs down: they take one part in this many of the time.
const SHARE: u32 = 20;
/// A look that had something to do takes longer and must not delay the next for long.
const REST: Duration = Duration::from_secs(2);
/// News can be lost when the socket's buffer overflows, of some changes there are none, and what failed is tried again.
const LOOK_ANYWAY: Duration = EVERY;

/// Calls `look` after each change, and now and then without one, until the task is dropped. Without news from the kernel it goes on
/// without, and asks for them again.
pub(crate) async fn follow(look: impl AsyncFn(), conditions: &NodeConditions) {
    loop {
        let error = match follow_news(&look, conditions).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        let message = format!("changes of links, addresses, routes and rules are not told: {error}");
        let remedy = format!("they are looked for every {} seconds meanwhile; see the limits of the process", LOOK_ANYWAY.as_secs());
        let finding = Finding::new("NoSubscription", message, remedy);
        conditions.report(Kind::UplinkNewsLost, Some(finding));
        tokio::time::sleep(LOOK_ANYWAY).await;
        look().await;
    }
}

/// Ends with the reason when the kernel tells nothing, or no more.
async fn follow_news(look: &impl AsyncFn(), conditions: &NodeConditions) -> std::io::Result<Infallible> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ];
    let (mut connection, handle, mut events) = new_multicast_connection(&groups)?;
    SockRef::from(connection.socket_mut().socket_ref()).attach_filter(&assembled(&without_pods()))?;
    conditions.report(Kind::UplinkNewsLost, None);
    // The connection ends with its last handle.
    let _kept = handle;
    let mut connection = std::pin::pin!(connection);
    let mut rules = rules_socket();
    loop {
        tokio::select! {
            () = &mut connection => return Err(std::io::Error::other("the netlink connection ended")),
            _ = events.next() => {}
            () = rule_news(&mut rules) => {}
            () = tokio::time::sleep(LOOK_ANYWAY) => {}
        }
        tokio::time::sleep(SETTLE).await;
        while events.try_recv().is_ok() {}
        drain(&mut rules).await;
        let begun = Instant::now();
        look().await;
        tokio::time::sleep((begun.elapsed() * SHARE).min(REST)).await;
    }
}

/// A socket that is told of each new generation of nftables' rules; none where the kernel has no nftables.
fn rules_socket() -> Option<TokioSocket> {
    /// `NFNLGRP_NFTABLES`, linux/netfilter/nfnetlink.h
    const GROUP: u32 = 7;
    let mut socket = TokioSocket::new(NETLINK_NETFILTER).ok()?;
    let raw = socket.socket_mut();
    raw.bind_auto().ok()?;
    raw.add_membership(GROUP).ok()?;
    SockRef::from(socket.socket_ref()).attach_filter(&assembled(&generations())).ok()?;
    Some(socket)
}

/// Ends with news; never without a socket. That some were lost is news as well.
async fn rule_news(socket: &mut Option<TokioSocket>) {
    match socket {
        Some(socket) => drop(socket.recv_from_full().await),
        None => std::future::pending().await,
    }
}

async fn drain(socket: &mut Option<TokioSocket>) {
    /// A socket that fails fails at once.
    const MOST: usize = 64;
    for _ in 0..MOST {
        if tokio::time::timeout(Duration::ZERO, rule_news(socket)).await.is_err() {
            return;
        }
    }
}

/// Passes the message that ends each transaction (`NFT_MSG_NEWGEN`), and none of the thousands that can be in one.
fn generations() -> [Instruction; 4] {
    const MESSAGE_TYPE: u32 = 4;
    const NEW_GENERATION: u32 = 15;
    [(LOAD_BYTE, 0, 0, MESSAGE_TYPE), (JUMP_IF_EQUAL, 0, 1, NEW_GENERATION), (RETURN, 0, 0, u32::MAX), (RETURN, 0, 0, 0)]
}

/// Of a socket filter (classic BPF, Documentation/networking/filter.rst): the operation, how far to jump if it holds and if not, its number.
pub(super) type Instruction = (u16, u8, u8, u32);

pub(super) fn assembled(program: &[Instruction]) -> Vec<SockFilter> {
    program.iter().map(|(operation, holds, fails, number)| SockFilter::new(*operation, *holds, *fails, *number)).collect()
}

/// Operations.
pub(super) const LOAD_WORD: u16 = 0x20;
pub(super) const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
pub(super) const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// A socket filter that passes everything but news of pods: links with one of our numbers and their addresses, routes of ours, and what the
/// kernel makes of a pod's link by itself: local routes, and those to `fe80::/64`. Each ADD makes ten such messages, and each would
/// wake this thread beside the one that wires the pod.
///
/// Offsets are those of `struct nlmsghdr` (16 bytes), `struct ifinfomsg`, `struct ifaddrmsg` and `struct rtmsg` (rtnetlink(7));
/// numbers of more than a byte are in the host's order, little-endian on every machine that we build for.
fn without_pods() -> [Instruction; 24] {
    const MESSAGE_TYPE: u32 = 4;
    const IFINDEX_BYTE_2: u32 = 16 + 4 + 2;
    const IFINDEX_BYTE_3: u32 = 16 + 4 + 3;
    const DESTINATION_LENGTH: u32 = 16 + 1;
    const PROTOCOL: u32 = 16 + 5;
    const TYPE: u32 = 16 + 7;
    /// Behind the header stand the table (8 bytes) and the destination's own head (4).
    const DESTINATION: u32 = 16 + 12 + 8 + 4;
    const NEW_LINK: u32 = 16;
    const DEL_LINK: u32 = 17;
    const NEW_ADDRESS: u32 = 20;
    const DEL_ADDRESS: u32 = 21;
    const NEW_ROUTE: u32 = 24;
    const DEL_ROUTE: u32 = 25;
    const NEW_RULE: u32 = 32;
    const DEL_RULE: u32 = 33;
    const OURS: u32 = 0xb3;
    const LOCAL: u32 = 2;
    const MULTICAST: u32 = 5;
    // Jumps count from the next instruction.
    [
        (LOAD_BYTE, 0, 0, MESSAGE_TYPE),
        (JUMP_IF_EQUAL, 7, 0, NEW_LINK),
        (JUMP_IF_EQUAL, 6, 0, DEL_LINK),
        (JUMP_IF_EQUAL, 5, 0, NEW_ADDRESS),
        (JUMP_IF_EQUAL, 4, 0, DEL_ADDRESS),
        (JUMP_IF_EQUAL, 7, 0, NEW_ROUTE),
        (JUMP_IF_EQUAL, 6, 0, DEL_ROUTE),
        (JUMP_IF_EQUAL, 14, 0, NEW_RULE),
        (JUMP_IF_EQUAL, 13, 14, DEL_RULE),
        // 9: a link, or an address of one
        (LOAD_BYTE, 0, 0, IFINDEX_BYTE_2),
        (JUMP_IF_AT_LEAST, 12, 0, FIRST >> 16),
        (LOAD_BYTE, 0, 0, IFINDEX_BYTE_3),
        (JUMP_IF_EQUAL, 9, 10, 0),
        // 13: a route
        (LOAD_BYTE, 0, 0, PROTOCOL),
        (JUMP_IF_EQUAL, 8, 0, OURS),
        (LOAD_BYTE, 0, 0, TYPE),
        (JUMP_IF_AT_LEAST, 0, 1, LOCAL),
        (JUMP_IF_AT_LEAST, 0, 5, MULTICAST + 1),
        (LOAD_BYTE, 0, 0, DESTINATION_LENGTH),
        (JUMP_IF_EQUAL, 0, 2, 64),
        (LOAD_HALF, 0, 0, DESTINATION),
        (JUMP_IF_EQUAL, 1, 0, 0xfe80),
        // 22: pass; 23: drop
        (RETURN, 0, 0, u32::MAX),
        (RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Whether a filter passes a message.
    pub(crate) fn passes(filter: &[Instruction], message: &[u8]) -> bool {
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let (code, yes, no, k) = filter[at];
            at += 1;
            match code {
                LOAD_BYTE => value = u32::from(message.get(k as usize).copied().unwrap_or_default()),
                LOAD_WORD => {
                    let byte = |at: usize| u32::from(message.get(at).copied().unwrap_or_default());
                    value = (0..4).fold(0, |value, more| value << 8 | byte(k as usize + more));
                }
                LOAD_HALF => {
                    let byte = |at: usize| u32::from(message.get(at).copied().unwrap_or_default());
                    value = byte(k as usize) << 8 | byte(k as usize + 1);
                }
                JUMP_IF_EQUAL => at += usize::from(if value == k { yes } else { no }),
                JUMP_IF_AT_LEAST => at += usize::from(if value >= k { yes } else { no }),
                _ => return k != 0,
            }
        }
    }

    fn message(kind: u8, family: u8, length: u8, protocol: u8, of_kind: u8, destination: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes[4] = kind;
        bytes.extend([family, length, 0, 0, 254, protocol, 0, of_kind, 0, 0, 0, 0]);
        bytes.extend([8, 0, 15, 0, 254, 0, 0, 0, 20, 0, 1, 0]);
        bytes.extend(destination);
        bytes
    }

    #[test]
    fn routes_of_pods_wake_nobody_and_those_of_others_do() {
        let filter = without_pods();
        let route =
            |length, protocol, of_kind, destination: &[u8]| passes(&filter, &message(24, 10, length, protocol, of_kind, destination));
        assert!(route(24, 3, 1, &[10, 0, 50, 0]) && route(0, 16, 1, &[]) && route(32, 3, 6, &[10, 0, 50, 1]));
        assert!(route(64, 2, 1, &[0xfd, 0]), "another interface's subnet");
        assert!(!route(32, 0xb3, 1, &[10, 0, 1, 17]), "ours");
        assert!(!route(128, 2, 2, &[0xfe, 0x80]) && !route(8, 2, 5, &[0xff, 0]) && !route(64, 2, 1, &[0xfe, 0x80]), "the kernel's own");
        assert!(passes(&filter, &message(32, 2, 0, 0, 1, &[])) && passes(&filter, &message(33, 2, 0, 0, 1, &[])), "rules");
        assert!(!passes(&filter, &message(28, 2, 0, 0, 1, &[])), "neighbours");
        let link = |number: u32| {
            let mut bytes = message(16, 0, 0, 0, 0, &[]);
            bytes[20..24].copy_from_slice(&number.to_ne_bytes());
            passes(&filter, &bytes)
        };
        assert!(link(2) && !link(FIRST) && !link(FIRST + 70_000));
    }

    #[test]
    fn only_the_end_of_a_transaction_is_news() {
        assert!(passes(&generations(), &message(15, 0, 0, 0, 0, &[])));
        assert!(!passes(&generations(), &message(6, 0, 0, 0, 0, &[])));
    }
}
