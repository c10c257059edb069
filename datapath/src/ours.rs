//! What the host has of ours: the routes and routing rules that bear our number as their origin, and the proxy's entries. Read anew at each
//! look, and compared with what is wanted by pure functions.
//!
//! A node has a route for each address of a pod, so rows are read as bytes: a thousand pods cost a millisecond.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::netlink::{NetlinkError, Request, Socket};
use crate::pod_link::ROUTE_PROTOCOL;
use crate::prefixes;
use crate::raw_netlink::{Dumps, attributes, number};
use crate::repairs::{self, Kind};

/// Linux' numbers of the families (`AF_INET`, `AF_INET6`).
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
/// A netlink send must fit the socket's buffer.
const BATCH_MAX: usize = 256;

/// Routes and rules of ours, and proxied addresses of whomever.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ours {
    pub(crate) routes: Vec<Route>,
    pub(crate) rules: Vec<RuleMessage>,
    /// What the host answers ARP for on any interface.
    pub(crate) proxied: Vec<IpAddr>,
}

/// A route, as far as ours differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) table: u32,
    pub(crate) to: IpNetwork,
    pub(crate) is_unreachable: bool,
    pub(crate) oif: Option<u32>,
    pub(crate) gateway: Option<IpAddr>,
    /// Its interface is set down. One without a carrier has its routes all the same.
    pub(crate) is_dead: bool,
}

impl Ours {
    pub(crate) fn read(host: &mut Socket) -> Result<Self, NetlinkError> {
        Ok(Self { routes: routes()?, rules: rules(host)?, proxied: proxied()? })
    }
}

/// Every route of ours, in whichever table.
pub(crate) fn routes() -> Result<Vec<Route>, NetlinkError> {
    /// `RTM_GETROUTE`
    const GET_ROUTE: u16 = 26;
    const STEP: &str = "read the routes of ours";
    let mut dumps = Dumps::open_strict(STEP)?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let ours = u8::from(ROUTE_PROTOCOL);
        let outcome =
            dumps.dump(STEP, GET_ROUTE, &[family, 0, 0, 0, 0, ours, 0, 0, 0, 0, 0, 0], |_, row| route(row).filter(|_| row[5] == ours));
        found.extend(unless_absent(outcome)?);
    }
    Ok(found)
}

/// `struct rtmsg` with its attributes (rtnetlink(7)).
fn route(row: &[u8]) -> Option<Route> {
    const HEADER: usize = 12;
    const UNREACHABLE: u8 = 7;
    /// `RTNH_F_DEAD`
    const DEAD: u32 = 1;
    const TO: u16 = 1;
    const OIF: u16 = 4;
    const GATEWAY: u16 = 5;
    const TABLE: u16 = 15;
    let header = row.get(..HEADER)?;
    let ipv4 = header[0] == AF_INET;
    let mut route = Route {
        table: header[4].into(),
        to: prefixes::prefix(ipv4, 0, header[1]),
        is_unreachable: header[7] == UNREACHABLE,
        oif: None,
        gateway: None,
        is_dead: number(&header[8..]) & DEAD != 0,
    };
    for (kind, value) in attributes(&row[HEADER..]) {
        match kind {
            TO => route.to = prefixes::prefix(ipv4, prefixes::number(address(value)?), header[1]),
            OIF => route.oif = Some(number(value)),
            GATEWAY => route.gateway = address(value),
            TABLE => route.table = number(value),
            _ => {}
        }
    }
    Some(route)
}

/// An address as an attribute has it.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn rules(host: &mut Socket) -> Result<Vec<RuleMessage>, NetlinkError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RuleMessage::default();
        request.header.family = family;
        let outcome = host.dump("read the routing rules", &RouteNetlinkMessage::GetRule(request), |row| match row {
            RouteNetlinkMessage::NewRule(rule) if rule.attributes.contains(&RuleAttribute::Protocol(ROUTE_PROTOCOL)) => Some(rule),
            _ => None,
        });
        found.extend(unless_absent(outcome)?);
    }
    Ok(found)
}

fn proxied() -> Result<Vec<IpAddr>, NetlinkError> {
    /// `RTM_GETNEIGH`
    const GET_NEIGHBOUR: u16 = 30;
    const STEP: &str = "read the proxy's entries";
    const PROXY: u8 = 8;
    const HEADER: usize = 12;
    const DESTINATION: u16 = 1;
    let request = [AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, PROXY, 0];
    Dumps::open_strict(STEP)?.dump(STEP, GET_NEIGHBOUR, &request, |_, row| {
        // One that names an interface answers there alone.
        let is_of_all = row.get(10).is_some_and(|flags| flags & PROXY != 0) && number(&row[4..]) == 0;
        let to = attributes(row.get(HEADER..)?).find(|(kind, _)| *kind == DESTINATION)?.1;
        address(to).filter(|_| is_of_all)
    })
}

/// A kernel without IPv6 has none of its tables.
pub(crate) fn unless_absent<T>(outcome: Result<Vec<T>, NetlinkError>) -> Result<Vec<T>, NetlinkError> {
    match outcome {
        Err(error) if [Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP, Errno::ENOENT].iter().any(|errno| error.is(*errno)) => Ok(Vec::new()),
        outcome => outcome,
    }
}

/// Executes a plan; the first refusal that is none of `expected`. What is done is logged: at a node that nobody meddles with, nothing is.
pub(crate) fn carry_out(host: &mut Socket, mut plan: Vec<Request>, expected: &[Errno]) -> Result<(), NetlinkError> {
    let mut first = None;
    while !plan.is_empty() {
        let rest = plan.split_off(plan.len().min(BATCH_MAX));
        let batch = std::mem::replace(&mut plan, rest);
        let steps: Vec<_> = batch.iter().map(|request| request.step).collect();
        let refused = host.execute_each(batch)?;
        if refused.is_empty() {
            steps.into_iter().for_each(|step| repairs::note(Kind::Route, step));
        }
        first = first.or(refused.into_iter().find(|error| !expected.iter().any(|errno| error.is(*errno))));
    }
    first.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_as_the_kernel_tells_it() {
        let mut row = vec![AF_INET, 32, 0, 0, 254, 0xb3, 253, 1, 0, 0, 0, 0];
        row.extend([8, 0, 15, 0, 254, 0, 0, 0, 8, 0, 1, 0, 10, 0, 1, 17, 8, 0, 4, 0, 9, 0, 0, 0]);
        let told = route(&row).unwrap();
        assert_eq!((told.table, told.oif, told.is_unreachable, told.is_dead), (254, Some(9), false, false));
        assert_eq!(told.to, "10.0.1.17/32".parse().unwrap());
        let default = route(&[AF_INET6, 0, 0, 0, 0, 0xb3, 0, 7, 17, 0, 0, 0]).unwrap();
        assert!(default.to.prefix() == 0 && default.to.is_ipv6() && default.is_unreachable && default.is_dead);
        assert!((0..12).all(|length| route(&row[..length]).is_none()));
    }
}
