//! Follows the uplink: soon after links or routes change, it is found anew. Off the pods' path, so on tokio and `rtnetlink`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use datapath::find_uplink;
use datapath::netlink::Socket;
use futures_util::StreamExt;
use rtnetlink::{MulticastGroup, new_multicast_connection};

use crate::attachments::Attachments;
use crate::kernel::Linux;

/// Every new pod is a burst of events. The socket is not read for this long after each look, so that they cost one look.
const SETTLE: Duration = Duration::from_millis(500);
/// An event can be lost when the socket's buffer overflows meanwhile.
const LOOK_ANYWAY: Duration = Duration::from_secs(10);

/// Follows the uplink until the task is dropped.
///
/// # Errors
/// Where the kernel gives no netlink socket.
pub(crate) async fn follow(named: Option<String>, attachments: Arc<Attachments<Linux>>) -> std::io::Result<()> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
    let (connection, _handle, mut events) = new_multicast_connection(&groups)?;
    let mut connection = pin!(connection);
    loop {
        tokio::select! {
            () = &mut connection => return Err(std::io::Error::other("the netlink connection ended")),
            _ = events.next() => {}
            () = tokio::time::sleep(LOOK_ANYWAY) => {}
        }
        look(named.as_deref(), &attachments);
        tokio::time::sleep(SETTLE).await;
        // Events already decoded are older than the next look.
        while events.try_recv().is_ok() {}
    }
}

/// Finds the uplink now.
pub(crate) fn look(named: Option<&str>, attachments: &Attachments<Linux>) {
    let found = Socket::open().map_err(Into::into).and_then(|mut socket| find_uplink(&mut socket, named));
    match found {
        Ok(uplink) => attachments.set_uplink(Some(uplink)),
        Err(error) => {
            tracing::warn!(%error, "no uplink");
            attachments.set_uplink(None);
        }
    }
}
