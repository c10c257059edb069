//! The host's routes and routing rules, and where they lead pods' packets (ip-route(8), ip-rule(8)).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_indextoname;

use super::{Elsewhere, Share, Terms, native_parts, of_pods};
use crate::inventory::{destination, gateway, oif, routes_of_others};
use crate::netlink::{NetlinkError, Socket};
use crate::pod_link::ROUTE_PROTOCOL;
use crate::{NodeNetwork, Uplink, prefixes};

/// Routes and rules as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Routing {
    routes: Vec<Route>,
    rules: Vec<Rule>,
}

/// A route of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    table: u32,
    to: IpNetwork,
    metric: u32,
    leads: Leads,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Leads {
    By(Vec<Hop>),
    /// To the host itself.
    Here,
    /// To nobody, by the name of its type.
    Nowhere(&'static str),
    /// Back to the rules.
    Back,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hop {
    oif: u32,
    /// The interface's name.
    name: String,
    gateway: Option<IpAddr>,
    /// The stack would wrap the packet up.
    wraps: bool,
    /// What the stack takes for the most that fits.
    mtu: Option<u32>,
}

/// A routing rule of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    ipv4: bool,
    priority: u32,
    to: Option<IpNetwork>,
    from: Option<IpNetwork>,
    iif: Option<String>,
    /// Value of a mark.
    mark: Option<u32>,
    /// What a forwarded packet never matches: an outgoing interface, a VRF.
    never: bool,
    /// By what is not looked at here: protocol, ports, type of service, users.
    by_others: bool,
    is_inverted: bool,
    action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Look up in a table; no route of this prefix length or a shorter one.
    Table(u32, Option<u32>),
    Nowhere(&'static str),
    GoTo(u32),
    Nothing,
}

impl Routing {
    pub(super) fn observe(host: &mut Socket, native: &[IpNetwork]) -> Result<Self, NetlinkError> {
        let routes = routes_of_others(host, |message| {
            route(&message).filter(|route| native.iter().any(|cidr| prefixes::intersect(cidr, &route.to)))
        })?;
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RuleMessage::default();
            request.header.family = family;
            rules.extend(host.dump("read the routing rules", &RouteNetlinkMessage::GetRule(request), |row| match row {
                RouteNetlinkMessage::NewRule(message) => rule(&message),
                _ => None,
            })?);
        }
        rules.sort_by_key(|rule| rule.priority);
        Ok(Self { routes, rules })
    }

    /// What of the native networks they lead elsewhere.
    pub(super) fn elsewhere(&self, network: &NodeNetwork, terms: Terms) -> Vec<Elsewhere> {
        [true, false].into_iter().flat_map(|ipv4| self.of_family(ipv4, network, terms)).collect()
    }

    /// Between two bounds of any prefix all addresses are treated alike, so the first of them speaks for all.
    fn of_family(&self, ipv4: bool, network: &NodeNetwork, terms: Terms) -> Vec<Elsewhere> {
        let tables = self.tables(ipv4, network);
        let rules: Vec<_> = self.rules.iter().filter(|rule| rule.ipv4 == ipv4).map(|rule| (rule, rule.holds(network, terms))).collect();
        let everything = prefixes::prefix(ipv4, 0, 0);
        let native = native_parts(&everything, network);
        let known = self.routes.iter().map(|route| &route.to).chain(self.rules.iter().filter_map(|rule| rule.to.as_ref()));
        let known = known.chain(&network.service).filter(|cidr| cidr.is_ipv4() == ipv4);
        let mut bounds = BTreeSet::new();
        for cidr in known.chain(&native) {
            let (first, last) = prefixes::ends(cidr);
            bounds.insert(first);
            bounds.extend(last.checked_add(1));
        }
        let mut found: Vec<(u128, u128, String)> = Vec::new();
        for cidr in &native {
            let (begin, end) = prefixes::ends(cidr);
            let firsts: Vec<_> = bounds.range(begin..=end).copied().collect();
            for (position, first) in firsts.iter().enumerate() {
                let last = firsts.get(position + 1).map_or(end, |next| next - 1);
                let at = prefixes::prefix(ipv4, *first, prefixes::width(ipv4));
                if network.service.iter().any(|service| prefixes::contains(service, &at)) {
                    continue;
                }
                let Some(why) = elsewhere(&at, &tables, &rules, network, terms) else { continue };
                match found.last_mut() {
                    Some(before) if before.1.checked_add(1) == Some(*first) && before.2 == why => before.1 = last,
                    _ => found.push((*first, last, why)),
                }
            }
        }
        let of_interval = |(first, last, why): (u128, u128, String)| {
            prefixes::of_interval(ipv4, first, last).into_iter().map(move |cidr| Elsewhere { cidr, why: why.clone() })
        };
        found.into_iter().flat_map(of_interval).collect()
    }

    /// By table and prefix; of two the one with the lower metric.
    fn tables<'a>(&'a self, ipv4: bool, network: &NodeNetwork) -> HashMap<u32, HashMap<IpNetwork, &'a Route>> {
        let mut tables: HashMap<u32, HashMap<IpNetwork, &Route>> = HashMap::new();
        // The node's own addresses are known as such. The kernel has a local route to each, and to an IPv6 address without a subnet another.
        let is_known = |route: &Route| network.node_addresses.iter().any(|own| IpNetwork::from(*own) == route.to);
        for route in self.routes.iter().filter(|route| route.to.is_ipv4() == ipv4 && !is_known(route)) {
            let best = tables.entry(route.table).or_default().entry(route.to).or_insert(route);
            if route.metric < best.metric {
                *best = route;
            }
        }
        tables
    }
}

/// Why a packet of a pod to this address would not leave by an uplink's gateway. An address without any route is the gateway's: whoever
/// names a gateway in the configuration may do without the route.
fn elsewhere(
    at: &IpNetwork,
    tables: &HashMap<u32, HashMap<IpNetwork, &Route>>,
    rules: &[(&Rule, Share)],
    network: &NodeNetwork,
    terms: Terms,
) -> Option<String> {
    let mut from = 0;
    for (rule, holds) in rules {
        let is_meant = rule.to.is_none_or(|to| prefixes::contains(&to, at) != (rule.is_inverted && rule.from.is_none()));
        if *holds == Share::None || rule.priority < from || !is_meant {
            continue;
        }
        let outcome = match rule.action {
            Action::Nothing => continue,
            Action::GoTo(priority) if *holds == Share::All => {
                from = priority;
                continue;
            }
            Action::GoTo(_) => continue,
            Action::Nowhere(kind) => Some(format!("{kind} rule")),
            Action::Table(table, shorter) => {
                let length = prefixes::width(at.is_ipv4());
                let least = shorter.map_or(0, |shorter| shorter + 1);
                let lengths = (0..=length).rev().filter(|length| u32::from(*length) >= least);
                let mut candidates = lengths.map(|length| prefixes::prefix(at.is_ipv4(), prefixes::ends(at).0, length));
                let Some(route) = tables.get(&table).and_then(|table| candidates.find_map(|cidr| table.get(&cidr))) else { continue };
                match &route.leads {
                    Leads::Back => continue,
                    Leads::Here => Some("it is the node's own".to_owned()),
                    Leads::Nowhere(kind) => Some(format!("{kind} route")),
                    Leads::By(hops) => hops.iter().find_map(|hop| hop.elsewhere(route, &network.uplinks, terms)),
                }
            }
        };
        if outcome.is_some() || *holds == Share::All {
            return outcome;
        }
    }
    None
}

impl Hop {
    /// Why this is not the way to an uplink's gateway.
    fn elsewhere(&self, route: &Route, uplinks: &[Uplink], terms: Terms) -> Option<String> {
        let Some(uplink) = uplinks.iter().find(|uplink| uplink.ifindex.0 == self.oif) else {
            return Some(format!("route via {}", self.name));
        };
        if self.wraps {
            return Some("route with an encapsulation or a gateway of the other family".to_owned());
        }
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu < uplink.mtu) {
            return Some(format!("route with mtu {mtu}"));
        }
        match self.gateway {
            Some(gateway) if uplink.gateways.contains(&gateway) => None,
            Some(gateway) => Some(format!("route via {gateway} dev {}", uplink.ifname)),
            None if terms.neighbours_by_gateway => None,
            // To the gateway itself both ways are one.
            None if uplink.gateways.iter().any(|gateway| IpNetwork::from(*gateway) == route.to) => None,
            None => Some(format!("it is on the link of {}", uplink.ifname)),
        }
    }
}

impl Rule {
    /// For how many of the packets that pods send it holds, wherever they go.
    fn holds(&self, network: &NodeNetwork, terms: Terms) -> Share {
        let selectors = [
            if self.never { Share::None } else { Share::All },
            if self.by_others { Share::Some } else { Share::All },
            self.from.map_or(Share::All, |from| of_pods(&from, network)),
            match self.iif.as_deref() {
                None => Share::All,
                // A single pod's, perhaps.
                Some(name) if name.starts_with("bw") => Share::Some,
                Some(_) => Share::None,
            },
            match self.mark {
                None | Some(0) => Share::All,
                Some(_) if terms.marks_are_set => Share::Some,
                Some(_) => Share::None,
            },
        ];
        let all = match () {
            () if selectors.contains(&Share::None) => Share::None,
            () if selectors.contains(&Share::Some) => Share::Some,
            () => Share::All,
        };
        match (self.is_inverted, all) {
            // "Not to", alone: the destination decides.
            (true, Share::All) if self.to.is_some() => Share::All,
            (true, Share::All) => Share::None,
            (true, Share::None) => Share::All,
            _ => all,
        }
    }
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.protocol == ROUTE_PROTOCOL || header.flags.intersects(RouteFlags::Cloned | RouteFlags::Dead) {
        return None;
    }
    let ipv4 = header.address_family == AddressFamily::Inet;
    let to = destination(message).map_or(0, prefixes::number);
    let mut route = Route {
        table: header.table.into(),
        to: prefixes::prefix(ipv4, to, header.destination_prefix_length.min(prefixes::width(ipv4))),
        metric: 0,
        leads: Leads::By(Vec::new()),
    };
    let mut several = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::MultiPath(hops) => several = Some(hops),
            _ => {}
        }
    }
    route.leads = match header.kind {
        RouteType::Unicast => {
            let dead = |hop: &&RouteNextHop| hop.flags.intersects(RouteNextHopFlags::Dead);
            Leads::By(match several {
                Some(hops) => hops.iter().filter(|hop| !dead(hop)).map(|of_many| next_hop(of_many, &message.attributes)).collect(),
                None => vec![hop(oif(message).unwrap_or(0), gateway(message), message.attributes.iter())],
            })
        }
        RouteType::Local => Leads::Here,
        RouteType::BlackHole => Leads::Nowhere("blackhole"),
        RouteType::Unreachable => Leads::Nowhere("unreachable"),
        RouteType::Prohibit => Leads::Nowhere("prohibit"),
        RouteType::Throw => Leads::Back,
        // Broadcast, anycast, multicast: a packet to one address of a subnet.
        _ => return None,
    };
    Some(route)
}

fn next_hop(of_many: &RouteNextHop, shared: &[RouteAttribute]) -> Hop {
    let gateway = of_many.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => crate::inventory::ip(gateway),
        _ => None,
    });
    hop(of_many.interface_index, gateway, shared.iter().chain(&of_many.attributes))
}

fn hop<'a>(oif: u32, gateway: Option<IpAddr>, attributes: impl Iterator<Item = &'a RouteAttribute>) -> Hop {
    let name = if_indextoname(oif).map_or_else(|_| format!("interface {oif}"), |name| name.to_string_lossy().into_owned());
    let mut hop = Hop { oif, name, gateway, wraps: false, mtu: None };
    for attribute in attributes {
        match attribute {
            // `Via` is an IPv4 route by an IPv6 neighbour (RFC 8950).
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) | RouteAttribute::Via(_) => hop.wraps = true,
            RouteAttribute::Metrics(metrics) => {
                hop.mtu = metrics.iter().find_map(|metric| if let RouteMetric::Mtu(bytes) = metric { Some(*bytes) } else { None });
            }
            _ => {}
        }
    }
    hop
}

fn rule(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let ipv4 = header.family == AddressFamily::Inet;
    let mut rule = Rule {
        ipv4,
        priority: 0,
        to: None,
        from: None,
        iif: None,
        mark: None,
        never: false,
        by_others: header.tos != 0,
        is_inverted: header.flags.contains(RuleFlags::Invert),
        action: Action::Nothing,
    };
    let (mut table, mut shorter, mut go_to) = (u32::from(header.table), None, None);
    for attribute in &message.attributes {
        match attribute {
            // Ours.
            RuleAttribute::Protocol(ROUTE_PROTOCOL) => return None,
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Destination(to) => rule.to = Some(prefixes::prefix(ipv4, prefixes::number(*to), header.dst_len)),
            RuleAttribute::Source(from) => rule.from = Some(prefixes::prefix(ipv4, prefixes::number(*from), header.src_len)),
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::FwMark(mark) => rule.mark = Some(*mark),
            RuleAttribute::Oifname(_) | RuleAttribute::L3MDev(true) => rule.never = true,
            RuleAttribute::Table(number) => table = *number,
            // -1 says that nothing is suppressed.
            RuleAttribute::SuppressPrefixLen(length) => shorter = (*length != u32::MAX).then_some(*length),
            RuleAttribute::Goto(priority) => go_to = Some(*priority),
            RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_)
            | RuleAttribute::TunId(_) => rule.by_others |= !matches!(attribute, RuleAttribute::TunId(0)),
            _ => {}
        }
    }
    rule.action = match header.action {
        RuleAction::ToTable => Action::Table(table, shorter),
        RuleAction::Blackhole => Action::Nowhere("blackhole"),
        RuleAction::Unreachable => Action::Nowhere("unreachable"),
        RuleAction::Prohibit => Action::Nowhere("prohibit"),
        RuleAction::Goto => Action::GoTo(go_to.unwrap_or(0)),
        _ => Action::Nothing,
    };
    Some(rule)
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
