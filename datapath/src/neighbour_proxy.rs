//! Entries of the neighbour proxy (`ip neigh show proxy`): for which addresses this node answers on which uplink's link. Ours have our
//! protocol; those of others stay.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use nix::errno::Errno;

use crate::Ifindex;
use crate::netlink::{NetlinkError, Request, Socket};
use crate::ours::{self, AF_INET, AF_INET6, address};
use crate::pod_link::{ROUTE_PROTOCOL, family};
use crate::raw_netlink::{Dumps, attributes, number};

/// The entry is not there, or its interface has gone.
const GONE: [Errno; 2] = [Errno::ENOENT, Errno::ENODEV];

/// Answers for these as well.
pub(crate) fn add(host: &mut Socket, wanted: &[(Ifindex, IpAddr)]) -> Result<(), NetlinkError> {
    execute(host, plan(&[], wanted))
}

/// Answers for these no more.
pub(crate) fn remove(host: &mut Socket, found: &[(Ifindex, IpAddr)]) -> Result<(), NetlinkError> {
    execute(host, plan(found, &[]))
}

/// Answers for these and no others.
pub(crate) fn answer_for(host: &mut Socket, wanted: &[(Ifindex, IpAddr)]) -> Result<(), NetlinkError> {
    ours::carry_out(host, plan(&answered()?, wanted), &GONE)
}

fn execute(host: &mut Socket, plan: Vec<Request>) -> Result<(), NetlinkError> {
    let refused = host.execute_each(plan)?;
    refused.into_iter().find(|error| !GONE.iter().any(|errno| error.is(*errno))).map_or(Ok(()), Err)
}

/// What is to be done. Pure.
fn plan(found: &[(Ifindex, IpAddr)], wanted: &[(Ifindex, IpAddr)]) -> Vec<Request> {
    let surplus = found.iter().filter(|entry| !wanted.contains(entry)).map(|(uplink, address)| Request {
        step: "stop answering neighbours for an address of a pod",
        message: RouteNetlinkMessage::DelNeighbour(proxy(*uplink, *address)),
        flags: 0,
    });
    let missing = wanted.iter().filter(|entry| !found.contains(entry)).map(|(uplink, address)| Request {
        step: "have neighbours answered for an address of a pod",
        message: RouteNetlinkMessage::NewNeighbour(proxy(*uplink, *address)),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    });
    surplus.chain(missing).collect()
}

fn proxy(uplink: Ifindex, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address).0;
    message.header.ifindex = uplink.0;
    message.header.flags = NeighbourFlags::Proxy;
    message.attributes =
        vec![NeighbourAttribute::Destination(NeighbourAddress::from(address)), NeighbourAttribute::Protocol(ROUTE_PROTOCOL)];
    message
}

/// The entries that are ours.
fn answered() -> Result<Vec<(Ifindex, IpAddr)>, NetlinkError> {
    /// `RTM_GETNEIGH`, and `struct ndmsg`.
    const GET_NEIGHBOUR: u16 = 30;
    const HEADER: usize = 12;
    const PROXY: u8 = 8;
    const DESTINATION: u16 = 1;
    const PROTOCOL: u16 = 12;
    const STEP: &str = "read the proxy's entries";
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, PROXY, 0];
        let rows = Dumps::open_strict(STEP)?.dump(STEP, GET_NEIGHBOUR, &request, |_, row| {
            let (header, rest) = row.split_at_checked(HEADER)?;
            let (mut to, mut is_ours) = (None, false);
            for (kind, value) in attributes(rest) {
                match kind {
                    DESTINATION => to = address(value),
                    PROTOCOL => is_ours = value == [u8::from(ROUTE_PROTOCOL)],
                    _ => {}
                }
            }
            to.filter(|_| is_ours && header[10] & PROXY != 0).map(|to| (Ifindex(number(&header[4..])), to))
        });
        found.extend(ours::unless_absent(rows)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_set() {
        let entry = |uplink, address: &str| (Ifindex(uplink), address.parse().unwrap());
        let [here, other, elsewhere] = [entry(2, "10.0.50.7"), entry(2, "fd00:50::7"), entry(3, "10.0.50.7")];
        let steps = |found: &[_], wanted: &[_]| plan(found, wanted).iter().map(|request| request.flags).collect::<Vec<_>>();
        assert!(steps(&[here, other], &[here, other]).is_empty());
        assert_eq!(steps(&[elsewhere], &[here]), [0, NLM_F_CREATE | NLM_F_REPLACE]);
        assert_eq!(steps(&[here, other], &[other]), [0]);
    }
}
