//! What one service adds to the ruleset.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use fleet_api::message::{Endpoint, Protocol, Service, SliceHead};

use crate::endpoints::{Candidate, Chosen, Uses, choose};
use crate::port::Port;
use crate::ranges::{self, Sources};
use crate::ruleset::{ChainKey, Container, ElementKey};
use crate::udp::Frontend;
use crate::{Family, Node};

/// Cluster addresses whose flows may be translated packet by packet, by others than the rules: address, protocol and port, and the endpoints, each
/// to be chosen as often as the others. Of services that keep no clients, and with the endpoints that the rules have.
pub type Fronts = BTreeMap<(IpAddr, u8, u16), Vec<SocketAddr>>;

/// The bit of a packet's mark that asks for the node's own address; kube-proxy's, and reserved for it among ours.
pub(crate) const MASQUERADE: u32 = 0x4000;

/// Up to so many endpoints a service has no chain of its own: for each number of them there is one that all such services share. Chains and
/// sets are what the kernel is slow with: it looks for each new set among all others.
pub(crate) const SHARED_MAX: usize = 32;

/// The chain that chooses one of so many [`Container::Backends`].
pub(crate) fn shared_chain(protocol: u8, endpoints: usize) -> String {
    format!("pick-{protocol}-{endpoints}")
}

/// What one service adds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) chains: BTreeMap<ChainKey, Vec<String>>,
    pub(crate) affinity: BTreeSet<ChainKey>,
    pub(crate) elements: BTreeMap<ElementKey, Option<String>>,
    /// What is contradictory about it.
    pub(crate) problems: Vec<String>,
    /// Endpoints that are used, those of several ports several times.
    pub(crate) endpoints: usize,
    pub(crate) udp: Vec<Frontend>,
    /// See [`Fronts`].
    pub(crate) fronts: Fronts,
    /// Its port for load balancers' health checks and how many local endpoints are ready.
    pub(crate) health: Option<(u16, usize)>,
}

/// One slice of a service's endpoints.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slice {
    pub(crate) head: Option<SliceHead>,
    pub(crate) endpoints: BTreeMap<IpAddr, Endpoint>,
}

/// Where all this is rendered.
pub(crate) struct Place<'a> {
    pub(crate) node: &'a Node,
    pub(crate) zone: Option<&'a str>,
}

impl Place<'_> {
    /// Renders one service.
    pub(crate) fn render(&self, name: &str, service: &Service, slices: &[&Slice]) -> Fragment {
        let mut fragment = Fragment::default();
        for family in Family::ALL {
            let Some(cluster_ip) = addresses(&service.cluster_ips, &mut fragment).find(|address| family.has(*address)) else { continue };
            let of_family = |list: &[Vec<u8>], fragment: &mut Fragment| -> BTreeSet<IpAddr> {
                addresses(list, fragment).filter(|address| family.has(*address)).collect()
            };
            let external = if self.node.external_ips { of_family(&service.external_ips, &mut fragment) } else { BTreeSet::new() };
            let balancer = of_family(&service.load_balancer_ips, &mut fragment);
            let mut told = Vec::new();
            let sources = ranges::sources(family, &service.source_ranges, |bad| told.push(bad));
            fragment.problems.extend(told);
            let ports: Vec<_> = service.ports.iter().map(|port| Port::of(name, port)).collect();
            for port in ports {
                match port {
                    Ok(port) => {
                        let candidates = self.candidates(family, &port, slices);
                        let view = View { place: self, family, service, port, cluster_ip, external: &external, balancer: &balancer };
                        view.render(&sources, &candidates, &mut fragment);
                    }
                    Err(why) => fragment.problems.push(why),
                }
            }
        }
        if let Some(port) = u16::try_from(service.health_check_node_port).ok().filter(|port| *port != 0) {
            let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
            let ready = endpoints.filter(|(_, endpoint)| endpoint.ready && endpoint.node == self.node.name);
            let addresses: BTreeSet<_> = ready.map(|(address, _)| address).collect();
            // A pod has an address of each family and is one endpoint: kube-proxy counts, and answers, for each family apart.
            let of_v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
            fragment.health = Some((port, of_v4.max(addresses.len() - of_v4)));
        }
        fragment.problems.sort_unstable();
        fragment.problems.dedup();
        fragment
    }

    /// The endpoints of one port. The same one in two slices is the one that is not on its way out.
    fn candidates<'a>(&self, family: Family, port: &Port<'_>, slices: &[&'a Slice]) -> Vec<Candidate<'a>> {
        let mut found: BTreeMap<(IpAddr, u16), Candidate<'a>> = BTreeMap::new();
        for slice in slices {
            let ports = slice.head.iter().flat_map(|head| &head.ports);
            for target in ports.filter(|target| target.name == port.name && target.protocol == i32::from(port.protocol)) {
                let Some(target) = u16::try_from(target.port).ok().filter(|target| *target != 0) else { continue };
                for (address, of) in slice.endpoints.iter().filter(|(address, _)| family.has(**address)) {
                    let is_local = !self.node.name.is_empty() && of.node == self.node.name;
                    let candidate = Candidate { address: *address, port: target, of, is_local };
                    if !of.terminating || !found.contains_key(&(*address, target)) {
                        found.insert((*address, target), candidate);
                    }
                }
            }
        }
        found.into_values().collect()
    }
}

/// The addresses of a message; others are told once.
fn addresses<'a>(list: &'a [Vec<u8>], fragment: &mut Fragment) -> impl Iterator<Item = IpAddr> + use<'a> {
    let read = |bytes: &Vec<u8>| -> Option<IpAddr> {
        match bytes.len() {
            4 => <[u8; 4]>::try_from(&bytes[..]).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(&bytes[..]).ok().map(IpAddr::from),
            _ => None,
        }
    };
    let bad = list.iter().filter(|bytes| read(bytes).is_none());
    fragment.problems.extend(bad.map(|bytes| format!("an address of {} bytes is none", bytes.len())));
    list.iter().filter_map(read)
}

/// One port of one service in one family.
struct View<'a> {
    place: &'a Place<'a>,
    family: Family,
    service: &'a Service,
    port: Port<'a>,
    cluster_ip: IpAddr,
    external: &'a BTreeSet<IpAddr>,
    balancer: &'a BTreeSet<IpAddr>,
}

impl View<'_> {
    fn render(&self, sources: &Sources, candidates: &[Candidate<'_>], fragment: &mut Fragment) {
        let is_external = self.port.node_port != 0 || !self.external.is_empty() || !self.balancer.is_empty();
        let (internal_local, external_local) = (self.service.internal_local, self.service.external_local && is_external);
        // Even with a local policy, what pods and the node send to a balancer's address may go anywhere.
        let uses = Uses { cluster: !internal_local || is_external, local: internal_local || external_local };
        let chosen = choose(candidates, uses, &self.place.node.name, self.place.zone);
        fragment.endpoints += chosen.all().len();
        let internal = if internal_local { &chosen.local } else { &chosen.cluster };
        let shares = self.service.affinity_seconds == 0 && !is_external && (1..=SHARED_MAX).contains(&internal.len());
        let internal_chain = if shares {
            self.number(internal, fragment);
            shared_chain(self.port.protocol_number(), internal.len())
        } else {
            self.policies(&chosen, uses, fragment);
            self.chain(if internal_local { "local" } else { "cluster" })
        };
        self.hairpins(&chosen, fragment);

        let none_at_all = "goto refuse";
        let verdict_of_none = if chosen.any { "drop" } else { none_at_all };
        self.element(fragment, Container::ClusterIps, self.cluster_ip.to_string(), None);
        let has_internal = chosen.any && (!internal_local || !chosen.local.is_empty());
        let (map, verdict) =
            if has_internal { (Container::Services, goto(&internal_chain)) } else { (Container::NoEndpoints, verdict_of_none.to_owned()) };
        self.element(fragment, map, self.port.at(self.cluster_ip), Some(verdict));

        if has_internal && self.service.affinity_seconds == 0 && self.port.protocol != Protocol::Sctp {
            let key = (self.cluster_ip, self.port.protocol_number(), self.port.number);
            let endpoints = || internal.iter().map(|endpoint| SocketAddr::new(endpoint.address, endpoint.port)).collect();
            fragment.fronts.entry(key).or_insert_with(endpoints);
        }

        let has_external = chosen.any && (!external_local || !chosen.local.is_empty());
        let outside = self.chain("external");
        let addresses =
            self.external.union(self.balancer).map(|address| (Container::Services, Container::NoEndpoints, self.port.at(*address)));
        let node_port = (self.port.node_port != 0).then(|| (Container::NodePorts, Container::NoEndpointsNodePorts, self.port.at_node()));
        for (served, unserved, key) in addresses.chain(node_port) {
            if chosen.any {
                self.element(fragment, served, key.clone(), Some(goto(&outside)));
            }
            if !has_external {
                self.element(fragment, unserved, key, Some(verdict_of_none.to_owned()));
            }
        }
        if chosen.any && is_external {
            let rules = self.external_rules(external_local, has_external, !chosen.cluster.is_empty());
            fragment.chains.insert((self.family, outside), rules);
        }
        if let Sources::Of(ranges) = sources
            && !self.balancer.is_empty()
        {
            self.firewall(ranges, fragment);
        }
        if self.port.protocol == Protocol::Udp {
            let serving = candidates.iter().filter(|candidate| candidate.of.serving);
            fragment.udp.push(Frontend {
                addresses: [self.cluster_ip]
                    .iter()
                    .chain(self.external)
                    .chain(self.balancer)
                    .map(|address| (*address, self.port.number))
                    .collect(),
                node_port: self.port.node_port,
                family: self.family,
                backends: serving.map(|candidate| (candidate.address, candidate.port)).collect(),
            });
        }
    }

    /// Chains of what may go anywhere and of what stays here; sets and chains of endpoints that clients stay with.
    fn policies(&self, chosen: &Chosen<'_>, uses: Uses, fragment: &mut Fragment) {
        for (wanted, word, endpoints) in [(uses.cluster, "cluster", &chosen.cluster), (uses.local, "local", &chosen.local)] {
            if wanted && !endpoints.is_empty() {
                let rules = if self.service.affinity_seconds == 0 { vec![self.translate(endpoints)] } else { self.stay(endpoints) };
                fragment.chains.insert((self.family, self.chain(word)), rules);
            }
        }
        let ip = self.family.keyword();
        for endpoint in chosen.all() {
            if self.service.affinity_seconds != 0 {
                let set = self.endpoint("affinity", &endpoint);
                let remember = format!("update @{set} {{ {ip} saddr timeout {}s }}", self.service.affinity_seconds);
                fragment.chains.insert((self.family, self.endpoint("endpoint", &endpoint)), vec![remember, self.translate(&[endpoint])]);
                fragment.affinity.insert((self.family, set));
            }
        }
    }

    /// Numbers the endpoints for the chain that is shared. Of a port that a service has twice the first holds, as of its address.
    fn number(&self, endpoints: &[Candidate<'_>], fragment: &mut Fragment) {
        for (number, to) in endpoints.iter().enumerate() {
            let key = (self.family, Container::Backends, format!("{} . {number}", self.port.at(self.cluster_ip)));
            fragment.elements.entry(key).or_insert_with(|| Some(format!("{} . {}", to.address, to.port)));
        }
    }

    fn hairpins(&self, chosen: &Chosen<'_>, fragment: &mut Fragment) {
        for endpoint in chosen.all().into_iter().filter(|endpoint| endpoint.is_local) {
            let key = format!("{0} . {0} . {1} . {2}", endpoint.address, self.port.protocol_number(), endpoint.port);
            self.element(fragment, Container::Hairpin, key, None);
        }
    }

    /// To one of these, by chance.
    fn translate(&self, endpoints: &[Candidate<'_>]) -> String {
        let (ip, protocol) = (self.family.keyword(), self.port.protocol_number());
        if let [only] = endpoints {
            return match only.address {
                IpAddr::V4(address) => format!("meta l4proto {protocol} dnat to {address}:{}", only.port),
                IpAddr::V6(address) => format!("meta l4proto {protocol} dnat to [{address}]:{}", only.port),
            };
        }
        let elements = endpoints.iter().enumerate().map(|(number, to)| format!("{number} : {} . {}", to.address, to.port));
        let elements = elements.collect::<Vec<_>>().join(", ");
        format!("meta l4proto {protocol} dnat {ip} addr . port to numgen random mod {} map {{ {elements} }}", endpoints.len())
    }

    /// To the one that the client was sent to before, else to one by chance.
    fn stay(&self, endpoints: &[Candidate<'_>]) -> Vec<String> {
        let ip = self.family.keyword();
        let again = |to| format!("{ip} saddr @{} goto {}", self.endpoint("affinity", to), self.endpoint("endpoint", to));
        let mut rules: Vec<_> = endpoints.iter().map(again).collect();
        rules.push(if let [only] = endpoints {
            goto(&self.endpoint("endpoint", only))
        } else {
            let elements = endpoints.iter().enumerate().map(|(number, to)| format!("{number} : goto {}", self.endpoint("endpoint", to)));
            format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), elements.collect::<Vec<_>>().join(", "))
        });
        rules
    }

    fn external_rules(&self, is_local: bool, has_external: bool, has_cluster: bool) -> Vec<String> {
        let cluster = goto(&self.chain("cluster"));
        let masquerade = format!("meta mark set meta mark | {MASQUERADE:#x}");
        if !is_local {
            // The backend may be on another node, and must answer by this one.
            return vec![masquerade, cluster];
        }
        let mut rules = Vec::new();
        if has_cluster {
            // As if it had gone to the balancer and come back: neither policy is about it.
            rules.push(format!("iifname \"{}*\" {cluster}", self.place.node.pod_interfaces));
            // The node itself may have the balancer's address, and speaks with it then.
            rules.push(format!("fib saddr type local {masquerade}"));
            rules.push(format!("fib saddr type local {cluster}"));
        }
        if has_external {
            rules.push(goto(&self.chain("local")));
        }
        rules
    }

    fn firewall(&self, ranges: &[ipnetwork::IpNetwork], fragment: &mut Fragment) {
        let chain = self.chain("sources");
        let node = self.place.node.addresses.iter().find(|address| self.family.has(**address));
        // Where a node has the balancer's address, it speaks from it.
        let is_of_node = node.is_some_and(|node| ranges.iter().any(|range| range.contains(*node)));
        let own = self.balancer.iter().filter(|_| is_of_node).map(|address| ranges::only(*address));
        let rule = if ranges.is_empty() {
            "drop".to_owned()
        } else {
            format!("{} saddr != {} drop", self.family.keyword(), ranges::as_set(ranges.iter().copied().chain(own)))
        };
        for address in self.balancer {
            self.element(fragment, Container::Firewall, self.port.at(*address), Some(goto(&chain)));
        }
        fragment.chains.insert((self.family, chain), vec![rule]);
    }

    /// The first that a service says of a key holds.
    fn element(&self, fragment: &mut Fragment, container: Container, key: String, verdict: Option<String>) {
        let twice = match fragment.elements.get(&(self.family, container, key.clone())) {
            None => {
                fragment.elements.insert((self.family, container, key), verdict);
                return;
            }
            Some(was) => *was != verdict,
        };
        if twice {
            fragment.problems.push(format!("{key} is in it twice; the first holds"));
        }
    }

    fn chain(&self, what: &str) -> String {
        format!("{what}-{}", self.port.path)
    }

    fn endpoint(&self, what: &str, endpoint: &Candidate<'_>) -> String {
        format!("{what}-{}__{}/{}", self.port.path, endpoint.address.to_string().replace(':', "."), endpoint.port)
    }
}

fn goto(chain: &str) -> String {
    format!("goto {chain}")
}
