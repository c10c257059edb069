//! Tells when uplinks may have changed: soon after links, addresses or routes did. Off the pods' path, so on tokio and `rtnetlink`.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use netlink_sys::AsyncSocket;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use socket2::{SockFilter, SockRef};

use crate::conditions::{Finding, Kind, NodeConditions};
use crate::link_numbers::FIRST;

/// One cause makes several events; one look after them will do.
const SETTLE: Duration = Duration::from_millis(200);
/// A look reads every link under the lock that wiring a pod needs (RTNL), so that on a full node under steady news looks would
/// slow ADDs down: they take one part in this many of the time.
const SHARE: u32 = 20;
/// A look that had something to do takes longer and must not delay the next for long.
const REST: Duration = Duration::from_secs(2);
/// An event can be lost when the socket's buffer overflows, and what failed is tried again.
const LOOK_ANYWAY: Duration = Duration::from_secs(10);

/// Calls `look` after each change, and now and then without one, until the task is dropped. Without news from the kernel it goes on
/// without, and asks for them again.
pub(crate) async fn follow(mut look: impl FnMut(), conditions: &NodeConditions) {
    loop {
        let error = match follow_news(&mut look, conditions).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        let message = format!("changes of links, addresses and routes are not told: {error}");
        let finding =
            Finding::new("NoSubscription", message, "they are looked for every ten seconds meanwhile; see the limits of the process");
        conditions.report(Kind::UplinkNewsLost, Some(finding));
        tokio::time::sleep(LOOK_ANYWAY).await;
        look();
    }
}

/// Ends with the reason when the kernel tells nothing, or no more.
async fn follow_news(look: &mut impl FnMut(), conditions: &NodeConditions) -> std::io::Result<Infallible> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (mut connection, handle, mut events) = new_multicast_connection(&groups)?;
    SockRef::from(connection.socket_mut().socket_ref()).attach_filter(&without_pods())?;
    conditions.report(Kind::UplinkNewsLost, None);
    // The connection ends with its last handle.
    let _kept = handle;
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            () = &mut connection => return Err(std::io::Error::other("the netlink connection ended")),
            _ = events.next() => {}
            () = tokio::time::sleep(LOOK_ANYWAY) => {}
        }
        tokio::time::sleep(SETTLE).await;
        while events.try_recv().is_ok() {}
        let begun = Instant::now();
        look();
        tokio::time::sleep((begun.elapsed() * SHARE).min(REST)).await;
    }
}

/// A socket filter (classic BPF, Documentation/networking/filter.rst) that passes everything but news of pods: links with
/// one of our numbers and their addresses, and routes that are not default routes. Each ADD makes ten such messages, and each
/// would wake this thread beside the one that wires the pod.
///
/// Offsets are those of `struct nlmsghdr` (16 bytes), `struct ifinfomsg`, `struct ifaddrmsg` and `struct rtmsg` (rtnetlink(7));
/// numbers of more than a byte are in the host's order, little-endian on every machine that we build for.
fn without_pods() -> [SockFilter; 15] {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const MESSAGE_TYPE: u32 = 4;
    const IFINDEX_BYTE_2: u32 = 16 + 4 + 2;
    const IFINDEX_BYTE_3: u32 = 16 + 4 + 3;
    const DESTINATION_LENGTH: u32 = 16 + 1;
    const NEW_LINK: u32 = 16;
    const DEL_LINK: u32 = 17;
    const NEW_ADDRESS: u32 = 20;
    const DEL_ADDRESS: u32 = 21;
    const NEW_ROUTE: u32 = 24;
    const DEL_ROUTE: u32 = 25;
    // Jumps count from the next instruction.
    [
        SockFilter::new(LOAD_BYTE, 0, 0, MESSAGE_TYPE),
        SockFilter::new(JUMP_IF_EQUAL, 5, 0, NEW_LINK),
        SockFilter::new(JUMP_IF_EQUAL, 4, 0, DEL_LINK),
        SockFilter::new(JUMP_IF_EQUAL, 3, 0, NEW_ADDRESS),
        SockFilter::new(JUMP_IF_EQUAL, 2, 0, DEL_ADDRESS),
        SockFilter::new(JUMP_IF_EQUAL, 5, 0, NEW_ROUTE),
        SockFilter::new(JUMP_IF_EQUAL, 4, 6, DEL_ROUTE),
        // 7: a link, or an address of one
        SockFilter::new(LOAD_BYTE, 0, 0, IFINDEX_BYTE_2),
        SockFilter::new(JUMP_IF_AT_LEAST, 5, 0, FIRST >> 16),
        SockFilter::new(LOAD_BYTE, 0, 0, IFINDEX_BYTE_3),
        SockFilter::new(JUMP_IF_EQUAL, 2, 3, 0),
        // 11: a route
        SockFilter::new(LOAD_BYTE, 0, 0, DESTINATION_LENGTH),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, 0),
        // 13: pass; 14: drop
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
