//! Rules of a pod with several interfaces: what has an interface's address as its source leaves by that interface (`ip rule`).
//!
//! Without them the answer to a packet that came by a further interface would leave by the first one, where its source is nobody's: the
//! host drops it, and a strict `rp_filter` in the pod would have dropped the question.

use std::net::IpAddr;

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::ROUTE_PROTOCOL;
use super::messages::family;
use crate::inventory;
use crate::netlink::{NetlinkError, Request, Socket};

/// Just before the main table's (32766): whatever others ask for goes first (a service mesh's marks, the plugin `sbr`).
const PRIORITY: u32 = 32765;

pub(super) fn request(source: IpAddr, table: u32) -> Request {
    let mut message = RuleMessage::default();
    (message.header.family, message.header.src_len) = family(source);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Source(source),
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Table(table),
        RuleAttribute::Protocol(ROUTE_PROTOCOL),
    ];
    Request { step: "give the pod a rule by source", message: RouteNetlinkMessage::NewRule(message), flags: NLM_F_CREATE }
}

/// Removes ours whose address the pod has no more: an interface's routes go with it, rules stay, and lead nowhere.
pub(super) fn forget_stale(pod: &mut Socket) -> Result<(), NetlinkError> {
    let addresses = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let addresses = pod.dump("read the pod's addresses", &addresses, inventory::address)?;
    let mut requests = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut all = RuleMessage::default();
        all.header.family = family;
        let stale = |rule: &RuleMessage| source_of_ours(rule).is_some_and(|source| !addresses.iter().any(|(_, known)| *known == source));
        let rules = pod.dump("read the pod's rules", &RouteNetlinkMessage::GetRule(all), |row| match row {
            RouteNetlinkMessage::NewRule(rule) if stale(&rule) => Some(rule),
            _ => None,
        })?;
        requests.extend(rules.into_iter().map(|rule| {
            let message = RouteNetlinkMessage::DelRule(rule);
            Request { step: "remove the rule of an interface that is gone", message, flags: 0 }
        }));
    }
    let refused = pod.execute_each(requests)?;
    refused.into_iter().find(|error| !error.is(Errno::ENOENT)).map_or(Ok(()), Err)
}

fn source_of_ours(rule: &RuleMessage) -> Option<IpAddr> {
    let ours = rule.attributes.contains(&RuleAttribute::Protocol(ROUTE_PROTOCOL));
    let source =
        rule.attributes.iter().find_map(|attribute| if let RuleAttribute::Source(source) = attribute { Some(*source) } else { None });
    source.filter(|_| ours)
}
