//! Frames that only a link can deliver: `BPF_PROG_TEST_RUN` refuses those that end before their network header does, and
//! cannot tell of a VLAN tag, which the kernel takes out of a frame before any program sees it.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, socket};

use crate::carried::{FAMILIES, LIMIT, Node};
use crate::packet::{Packet, Payload};
use crate::{object, private};

#[test]
fn what_a_pod_must_not_send_is_counted_by_its_reason() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        for [a, b, remote, ..] in FAMILIES {
            let (a, b, remote): (IpAddr, IpAddr, IpAddr) = (a.parse()?, b.parse()?, remote.parse()?);
            let headers = if a.is_ipv4() { 14 + 20 } else { 14 + 40 };
            let to = |destination| Packet::new(a, destination, Payload::Udp(4660, 53)).sent_by([2, 0, 0, 0, 0, 0]);
            let rows = [
                ("cut short in the network header", to(b).truncated(headers - 1), "malformed"),
                ("cut short behind the first byte", to(b).truncated(15), "malformed"),
                ("with a VLAN tag to a pod", to(b).vlan(7), "vlan_tag"),
                ("with a VLAN tag to another node", to(remote).vlan(7), "vlan_tag"),
            ];
            for (name, packet, reason) in rows {
                let before = counted(&node, reason)?;
                node.pods[0].run(|| put_on_the_wire(&packet.bytes()))??;
                let deadline = Instant::now() + LIMIT;
                while counted(&node, reason)? == before {
                    ensure!(Instant::now() < deadline, "{a} sent a frame {name}, and it was not counted as {reason}");
                    thread::sleep(Duration::from_millis(5));
                }
            }
        }
        Ok(())
    })
}

pub(crate) fn counted(node: &Node, wanted: &str) -> Result<u64> {
    let reasons = node.fast_path.reasons()?;
    match reasons.into_iter().find(|(reason, _)| reason.name() == wanted) {
        Some((_, packets)) => Ok(packets),
        None => bail!("no reason is named {wanted}"),
    }
}

/// Sends a frame, as it is, by the calling thread's `eth0` (packet(7)).
pub(crate) fn put_on_the_wire(frame: &[u8]) -> Result<()> {
    /// The number that the wiring gives a pod's first interface.
    const ETH0: i32 = 2;
    let socket: OwnedFd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll)?;
    // SAFETY: all zeroes are a value of this structure of integers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL)?.to_be();
    address.sll_ifindex = ETH0;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?;
    // SAFETY: the address lives for the length of the call and is as long as is said.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    ensure!(bound == 0, "bind a packet socket: {}", std::io::Error::last_os_error());
    send(socket.as_raw_fd(), frame, MsgFlags::empty())?;
    Ok(())
}
