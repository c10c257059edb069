//! Edits as scripts for `nft -f -`, each one transaction.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::Node;
use crate::edit::Edit;
use crate::family::Family;
use crate::fragment::{MASQUERADE, SHARED_MAX, shared_chain};
use crate::port;
use crate::ranges;
use crate::ruleset::{ChainKey, Container, ElementKey, Ruleset};

/// The name of our tables, one of each family.
pub const TABLE: &str = "barewire-services";

/// Kernels before 6.2 notice a moment later only that an element that leads to a chain is gone, and refuse to delete the chain until then.
/// And a packet that has chosen an endpoint's number finds the endpoint, although the service has fewer by then.
const RESTS_MS: u64 = 1_000;
/// Elements in one line.
const AT_ONCE: usize = 500;

/// Writes scripts, and remembers what nothing leads to any more and is to be deleted: chains, which are empty, and endpoints by number.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Since when, in milliseconds.
    chains: BTreeMap<ChainKey, u64>,
    /// Likewise.
    backends: BTreeMap<ElementKey, u64>,
}

impl Script {
    /// A script that replaces whatever our tables have.
    pub fn install(&mut self, node: &Node, ruleset: &Ruleset) -> String {
        (self.chains, self.backends) = Default::default();
        let mut text = remove();
        for family in Family::ALL {
            text += &base(family, node);
        }
        text + &self.edit(&Edit::between(&Ruleset::default(), ruleset), 0)
    }

    /// A script that makes an edit; empty where there is nothing to do.
    pub fn edit(&mut self, edit: &Edit, now_ms: u64) -> String {
        let mut text = String::new();
        let mut line = |verb: &str, family: Family, rest: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{verb} {} {TABLE} {rest}", family.keyword());
        };
        for ((family, set), _) in edit.affinity.iter().filter(|(_, turn)| turn.is.is_some()) {
            line("add set", *family, &format!("{set} {{ type {}; flags dynamic, timeout; }}", family.address_type()));
        }
        for (key, turn) in &edit.chains {
            if turn.is.is_some() && turn.was.is_none() {
                self.chains.remove(key);
                line("add chain", key.0, &key.1);
            }
            if turn.was.is_some() {
                line("flush chain", key.0, &key.1);
            }
        }
        for (key, turn) in &edit.chains {
            for rule in turn.is.iter().flatten() {
                line("add rule", key.0, &format!("{} {rule}", key.1));
            }
        }
        // What a key leads to is replaced within the transaction.
        let mut removed = Vec::new();
        for (key, turn) in &edit.elements {
            let rests = self.backends.remove(key).is_some();
            if turn.is.is_none() && key.1 == Container::Backends {
                self.backends.insert(key.clone(), now_ms);
            } else if turn.was.is_some() || rests {
                removed.push((key, None));
            }
        }
        elements("delete element", removed.into_iter(), &mut line);
        let added = edit.elements.iter().filter_map(|(key, turn)| turn.is.as_ref().map(|verdict| (key, verdict.as_deref())));
        elements("add element", added, &mut line);
        for ((family, set), _) in edit.affinity.iter().filter(|(_, turn)| turn.is.is_none()) {
            line("delete set", *family, set);
        }
        for (key, _) in edit.chains.iter().filter(|(_, turn)| turn.is.is_none()) {
            self.chains.insert(key.clone(), now_ms);
        }
        text
    }

    /// A script that deletes what nothing leads to any more; empty where there is nothing.
    pub fn sweep(&mut self, now_ms: u64) -> String {
        let mut text = String::new();
        let is_due = |since: u64| now_ms >= since + RESTS_MS;
        let due: Vec<_> = self.backends.extract_if(.., |_, since| is_due(*since)).map(|(key, _)| key).collect();
        elements("delete element", due.iter().map(|key| (key, None)), &mut |verb, family, rest| {
            let _ = writeln!(text, "{verb} {} {TABLE} {rest}", family.keyword());
        });
        self.chains.retain(|(family, chain), since| {
            if is_due(*since) {
                let _ = writeln!(text, "delete chain {} {TABLE} {chain}", family.keyword());
            }
            !is_due(*since)
        });
        text
    }

    /// Whether anything waits for its deletion.
    #[must_use]
    pub fn rests(&self) -> bool {
        !self.chains.is_empty() || !self.backends.is_empty()
    }

    /// Whether a chain is empty and waits for its deletion.
    #[must_use]
    pub fn rests_chain(&self, key: &ChainKey) -> bool {
        self.chains.contains_key(key)
    }

    /// Whether nothing leads to an element, which waits for its deletion.
    #[must_use]
    pub fn rests_element(&self, key: &ElementKey) -> bool {
        self.backends.contains_key(key)
    }

    /// A script that removes our tables, whether or not they are there.
    #[must_use]
    pub fn remove() -> String {
        remove()
    }
}

fn remove() -> String {
    // Declared before it is deleted, a table may or may not have been there.
    let of = |family: Family| format!("add table {0} {TABLE}\ndelete table {0} {TABLE}\n", family.keyword());
    Family::ALL.into_iter().map(of).collect()
}

fn elements<'a>(verb: &str, all: impl Iterator<Item = (&'a ElementKey, Option<&'a str>)>, line: &mut impl FnMut(&str, Family, &str)) {
    let mut rest = all.peekable();
    while let Some((first, _)) = rest.peek() {
        let (family, container) = (first.0, first.1);
        let mut texts = Vec::new();
        while texts.len() < AT_ONCE {
            let Some((key, verdict)) = rest.next_if(|(key, _)| (key.0, key.1) == (family, container)) else { break };
            texts.push(verdict.map_or_else(|| key.2.clone(), |verdict| format!("{} : {verdict}", key.2)));
        }
        line(verb, family, &format!("{} {{ {} }}", container.name(), texts.join(", ")));
    }
}

/// What every ruleset has. Priorities and hooks are kube-proxy's: other programs go by them.
fn base(family: Family, node: &Node) -> String {
    let (ip, pods) = (family.keyword(), &node.pod_interfaces);
    let mut text = format!("table {ip} {TABLE} {{\n");
    for container in Container::ALL {
        let _ = writeln!(text, "  {}", container.declaration(family));
    }
    let backends = Container::Backends.name();
    for protocol in port::PROTOCOLS {
        for count in 1..=SHARED_MAX {
            let to = format!("{ip} daddr . meta l4proto . th dport . numgen random mod {count} map @{backends}");
            let rule = format!("meta l4proto {protocol} dnat {ip} addr . port to {to}");
            let _ = writeln!(text, "  chain {} {{\n    {rule}\n  }}", shared_chain(protocol, count));
        }
    }
    let [services, node_ports, none, none_at_node, firewall, hairpin, own, cluster_ips] = [
        Container::Services,
        Container::NodePorts,
        Container::NoEndpoints,
        Container::NoEndpointsNodePorts,
        Container::Firewall,
        Container::Hairpin,
        Container::NodeAddresses,
        Container::ClusterIps,
    ]
    .map(Container::name);
    let at = format!("{ip} daddr . meta l4proto . th dport vmap");
    let at_node = format!("{ip} daddr @{own} meta l4proto . th dport vmap");
    let unallocated = ranges_of(family, node).map_or_else(String::new, |ranges| format!("    {ip} daddr {ranges} drop\n"));
    let _ = write!(
        text,
        "  chain refuse {{\n    reject\n  }}
  chain firewall-check {{\n    {at} @{firewall}\n  }}
  chain services {{
    {ip} daddr @{cluster_ips} iifname != \"{pods}*\" meta mark set meta mark | {MASQUERADE:#x}
    {at} @{services}\n    {at_node} @{node_ports}\n  }}
  chain endpoints-check {{\n    {at} @{none}\n  }}
  chain node-ports-check {{\n    {at_node} @{none_at_node}\n  }}
  chain cluster-ips-check {{\n    {ip} daddr @{cluster_ips} reject\n{unallocated}  }}
  chain before-dnat-prerouting {{\n    type filter hook prerouting priority -110; policy accept;\n    ct state new jump firewall-check\n  }}
  chain before-dnat-output {{\n    type filter hook output priority -110; policy accept;\n    ct state new jump firewall-check\n  }}
  chain input {{\n    type filter hook input priority 0; policy accept;
    ct state new jump node-ports-check\n    ct state new jump endpoints-check\n  }}
  chain forward {{\n    type filter hook forward priority 0; policy accept;
    ct state new jump endpoints-check\n    ct state new jump cluster-ips-check\n  }}
  chain output {{\n    type filter hook output priority 0; policy accept;
    ct state new jump endpoints-check\n    ct state new jump cluster-ips-check\n  }}
  chain dnat-prerouting {{\n    type nat hook prerouting priority -100; policy accept;\n    jump services\n  }}
  chain dnat-output {{\n    type nat hook output priority -100; policy accept;\n    jump services\n  }}
  chain snat-postrouting {{\n    type nat hook postrouting priority 100; policy accept;
    meta mark & {MASQUERADE:#x} != 0 meta mark set meta mark ^ {MASQUERADE:#x} masquerade fully-random
    ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @{hairpin} masquerade fully-random\n  }}
}}
"
    );
    text
}

fn ranges_of(family: Family, node: &Node) -> Option<String> {
    let mut ranges = node.service_cidrs.iter().copied().filter(|range| family.has(range.ip())).peekable();
    ranges.peek()?;
    Some(ranges::as_set(ranges))
}
