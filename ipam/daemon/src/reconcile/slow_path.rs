//! What the host would treat otherwise than the programs do, and so takes the slow path: looked at with every look at the interfaces, told
//! in one line each, and in conditions where somebody should do something about it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use datapath::elsewhere::{self, Elsewhere, Terms, Ways};
use datapath::forwarding::{self, Judgement};
use datapath::netlink::{NetlinkError, Socket};
use datapath::{Families, NodeNetwork};
use ipnetwork::IpNetwork;

use crate::conditions::{Finding, Kind, NodeConditions};
use crate::config::Config;
use crate::reconcile::tried_again;

/// The lines, for whoever asks.
#[derive(Debug, Default)]
pub(crate) struct SlowPath(Mutex<Vec<String>>);

impl SlowPath {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, lines: Vec<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines.iter().filter(|line| !known.contains(line)) {
            tracing::info!("{line}");
        }
        for line in known.iter().filter(|line| !lines.contains(line)) {
            tracing::info!("no more: {line}");
        }
        *known = lines;
    }
}

/// The host as it was seen last.
pub(crate) struct HostView {
    rules: forwarding::Observer,
    conditions: Arc<NodeConditions>,
    slow_path: Arc<SlowPath>,
    seen: Option<Seen>,
}

/// What was found.
#[derive(Debug, Clone, Default)]
struct Seen {
    judgement: Judgement,
    ways: elsewhere::Found,
    accept_refused: Option<String>,
}

impl HostView {
    pub(crate) fn new(conditions: Arc<NodeConditions>, slow_path: Arc<SlowPath>) -> Self {
        Self { rules: forwarding::Observer::default(), conditions, slow_path, seen: None }
    }

    /// Looks at the host, lets pods' packets pass where its rules drop all that is forwarded, and completes the description by what the programs
    /// must not carry. `services` are addresses of services that interfaces of the node hold.
    pub(crate) fn look(&mut self, network: &mut NodeNetwork, services: &[IpAddr], config: &Config, has_programs: bool) {
        let seen = self.observe(network, config, has_programs);
        let unread = seen.as_ref().err().map(|error| {
            let message = format!("what the host does to forwarded packets cannot be read: {error}");
            let known = if self.seen.is_some() { "what was read before holds" } else { "nothing is carried meanwhile" };
            Finding::new("ReadFailed", message, format!("{known}; {}", tried_again()))
        });
        self.conditions.report(Kind::HostRulesUnread, unread);
        if let Ok(seen) = seen {
            self.seen = Some(seen);
        }
        let Some(seen) = &self.seen else {
            network.carried = Families { v4: false, v6: false };
            return;
        };
        let services = services_within(seen, services, network);
        report(&self.conditions, seen, &services, has_programs, config.forward_accept);
        if has_programs {
            complete(network, seen, &services);
            self.slow_path.set(lines(seen, &services));
        }
    }

    fn observe(&mut self, network: &NodeNetwork, config: &Config, has_programs: bool) -> Result<Seen, NetlinkError> {
        let mut judgement = forwarding::judge(self.rules.look()?, network, config.forward_accept);
        let accept_refused = match judgement.accept() {
            Ok(true) => {
                judgement = forwarding::judge(self.rules.look()?, network, config.forward_accept);
                None
            }
            Ok(false) => None,
            Err(why) => Some(why),
        };
        let terms = Terms { neighbours_by_gateway: config.on_link_by_gateway, marks_are_set: judgement.marks_are_set };
        let ways =
            if has_programs { Ways::observe(&mut Socket::open()?, network)?.judge(network, terms) } else { elsewhere::Found::default() };
        Ok(Seen { judgement, ways, accept_refused })
    }
}

/// Addresses of services within native networks: those that rules translate, and those that interfaces hold.
fn services_within(seen: &Seen, held: &[IpAddr], network: &NodeNetwork) -> Vec<IpNetwork> {
    let is_in = |cidrs: &[IpNetwork], address: &IpAddr| cidrs.iter().any(|cidr| cidr.contains(*address));
    let held = held.iter().filter(|address| is_in(&network.native, address) && !is_in(&network.service, address));
    let all: BTreeSet<_> = held.map(|address| IpNetwork::from(*address)).chain(seen.judgement.services.iter().copied()).collect();
    all.into_iter().collect()
}

/// Families of which nothing may be carried, with why.
fn not_carried(seen: &Seen) -> Vec<(bool, &str)> {
    let all = seen.judgement.families.iter().chain(&seen.ways.families);
    let mut families: Vec<(bool, &str)> = Vec::new();
    for (ipv4, why) in all {
        if !families.iter().any(|(known, _)| known == ipv4) {
            families.push((*ipv4, why));
        }
    }
    families
}

/// Puts into a description what the programs must not carry. Pure.
fn complete(network: &mut NodeNetwork, seen: &Seen, services: &[IpNetwork]) {
    let of_services = services.iter().map(|cidr| Elsewhere { cidr: *cidr, why: String::new() });
    let elsewhere = seen.ways.elsewhere.iter().chain(&seen.judgement.elsewhere).cloned().chain(of_services).collect();
    network.elsewhere = elsewhere::Found { elsewhere, families: Vec::new() }.cidrs();
    let not_carried = not_carried(seen);
    let may = |family: bool| !not_carried.iter().any(|(ipv4, _)| *ipv4 == family);
    network.carried = Families { v4: may(true), v6: may(false) };
}

/// One line for each thing that takes the slow path. Pure.
fn lines(seen: &Seen, services: &[IpNetwork]) -> Vec<String> {
    let families = not_carried(seen).into_iter().map(|(ipv4, why)| format!("{} takes the slow path: {why}", family(ipv4)));
    let destinations = seen.ways.elsewhere.iter().chain(&seen.judgement.elsewhere);
    let known: BTreeSet<_> = destinations.clone().map(|elsewhere| elsewhere.cidr).collect();
    let services = services.iter().filter(|cidr| !known.contains(cidr));
    let services = services.map(|cidr| format!("{cidr} takes the slow path: it is the address of a service"));
    families.chain(destinations.map(ToString::to_string)).chain(services).collect()
}

const fn family(ipv4: bool) -> &'static str {
    if ipv4 { "IPv4" } else { "IPv6" }
}

fn report(conditions: &NodeConditions, seen: &Seen, services: &[IpNetwork], has_programs: bool, forward_accept: bool) {
    let joined = |of: Vec<(bool, &str)>| of.iter().map(|(ipv4, why)| format!("{}: {why}", family(*ipv4))).collect::<Vec<_>>().join("; ");
    let dropped = joined(seen.judgement.dropped.iter().map(|(ipv4, why)| (*ipv4, why.as_str())).collect());
    let remedy = drop_remedy(&dropped, forward_accept);
    let finding = (!dropped.is_empty()).then(|| Finding::new("ForwardDrop", format!("packets of pods are dropped: {dropped}"), remedy));
    conditions.report(Kind::PodsNotForwarded, finding);

    let finding = seen
        .accept_refused
        .as_ref()
        .map(|why| Finding::new("RulesRefused", why.clone(), format!("packets of pods stay dropped there; {}", tried_again())));
    conditions.report(Kind::ForwardAcceptRefused, finding);

    let families = joined(if has_programs { not_carried(seen) } else { Vec::new() });
    let remedy = "pods are served by the host's stack; see docs/fast-path.md for what keeps the fast path off";
    let finding = (!families.is_empty()).then(|| Finding::new("ForwardRules", format!("nothing is carried: {families}"), remedy));
    conditions.report(Kind::FamilyNotCarried, finding);
    conditions.report(Kind::ServicesNative, services_finding(services));
}

/// What to do where packets of pods are dropped. Pure.
fn drop_remedy(dropped: &str, forward_accept: bool) -> &'static str {
    match forward_accept {
        // No rule of anybody else can let pass what firewalld's table refuses.
        _ if dropped.contains("of inet firewalld") => {
            "have firewalld accept what comes from and goes to interfaces bw*: docs/kept.md#firewalld has the commands"
        }
        true => "accept the pods' ranges there, as source and as destination",
        false => "accept the pods' ranges there, as source and as destination, or set network.forward_accept = true",
    }
}

/// That services lie in native networks. Few are named, as there may be thousands.
fn services_finding(services: &[IpNetwork]) -> Option<Finding> {
    const NAMED: usize = 3;
    let first = services.iter().take(NAMED).map(|cidr| cidr.ip().to_string()).collect::<Vec<_>>().join(", ");
    let more = if services.len() > NAMED { " and others" } else { "" };
    let message = format!("network.native_cidrs contain addresses of services ({first}{more}) that network.service_cidrs do not");
    let remedy = "add the cluster's service network (kube-apiserver's --service-cluster-ip-range) to network.service_cidrs: until then only \
                  services that the node's rules know are left to the stack, one by one";
    (!services.is_empty()).then(|| Finding::new("ServicesNotListed", message, remedy))
}

/// What `--check` says of services and native networks, a line each. It reads the node's rules, where it may.
pub(crate) fn check(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for (native, service) in config.native_cidrs.iter().flat_map(|native| config.service_cidrs.iter().map(move |service| (native, service)))
    {
        if native.contains(service.network()) || service.contains(native.network()) {
            lines.push(format!(
                "network.native_cidrs {native} and network.service_cidrs {service} overlap: what is a service's is left to the stack, as it must be"
            ));
        }
    }
    let network = crate::reconcile::node::describe(config);
    let judgement = forwarding::Observer::default().look().map(|ruleset| forwarding::judge(ruleset, &network, false)).unwrap_or_default();
    lines.extend(services_finding(&judgement.services).map(|finding| format!("{}; {}", finding.message, finding.remedy)));
    let is_wide = |cidr: &&IpNetwork| cidr.is_ipv4() && cidr.prefix() <= 12;
    if config.service_cidrs.is_empty()
        && judgement.services.is_empty()
        && let Some(wide) = config.native_cidrs.iter().find(is_wide)
    {
        lines.push(format!(
            "network.service_cidrs is empty, and network.native_cidrs {wide} is wide: if the cluster's services are in it, add their network to \
             network.service_cidrs"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn seen() -> Seen {
        let mut seen = Seen::default();
        seen.ways.elsewhere = vec![Elsewhere { cidr: cidr("10.0.50.0/24"), why: "route via eth9".to_owned() }];
        seen.judgement.families = vec![(true, "chain X belongs to an engine".to_owned())];
        seen.ways.families = vec![(true, "IPsec".to_owned())];
        seen
    }

    #[test]
    fn each_thing_is_told_in_one_line() {
        let told = lines(&seen(), &[cidr("10.0.99.1/32")]);
        assert_eq!(
            told,
            [
                "IPv4 takes the slow path: chain X belongs to an engine",
                "10.0.50.0/24 takes the slow path: route via eth9",
                "10.0.99.1/32 takes the slow path: it is the address of a service",
            ]
        );
    }

    #[test]
    fn what_our_rules_cannot_let_pass_is_not_said_to_be_let_pass_by_them() {
        let of_firewalld = "IPv4: rule 8 of chain filter_FWD_public of inet firewalld may drop it";
        assert!([true, false].iter().all(|accept| drop_remedy(of_firewalld, *accept).contains("docs/kept.md")));
        let of_iptables = "IPv4: chain FORWARD of ip filter drops by its policy";
        assert!(drop_remedy(of_iptables, false).contains("network.forward_accept = true"));
        assert!(!drop_remedy(of_iptables, true).contains("network.forward_accept"));
    }

    #[test]
    fn the_programs_are_told_all_of_it() {
        let mut network = NodeNetwork::default();
        complete(&mut network, &seen(), &[cidr("10.0.99.1/32")]);
        assert_eq!(network.elsewhere, [cidr("10.0.50.0/24"), cidr("10.0.99.1/32")]);
        assert_eq!(network.carried, Families { v4: false, v6: true });
        complete(&mut network, &Seen::default(), &[]);
        assert_eq!((network.elsewhere.len(), network.carried), (0, Families::default()));
    }

    #[test]
    fn a_service_that_an_interface_holds_counts_where_it_would_be_native() {
        let network = NodeNetwork { native: vec![cidr("10.0.0.0/8")], service: vec![cidr("10.96.0.0/16")], ..NodeNetwork::default() };
        let held: Vec<IpAddr> = ["10.96.0.1", "10.100.0.1", "192.0.2.1"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(services_within(&Seen::default(), &held, &network), [cidr("10.100.0.1/32")]);
    }
}
