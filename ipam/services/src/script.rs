//! Edits as scripts for `nft -f -`, each one transaction.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::Node;
use crate::edit::Edit;
use crate::family::Family;
use crate::fragment::MASQUERADE;
use crate::ranges;
use crate::ruleset::{ChainKey, Container, ElementKey, Ruleset};

/// The name of our tables, one of each family.
pub const TABLE: &str = "barewire-services";

/// Kernels before 6.2 notice a moment later only that an element that leads to a chain is gone, and refuse to delete the chain until then.
const CHAIN_RESTS_MS: u64 = 1_000;
/// Elements in one line.
const AT_ONCE: usize = 500;

/// Writes scripts, and remembers the chains that are empty and to be deleted.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Since when, in milliseconds.
    resting: BTreeMap<ChainKey, u64>,
}

impl Script {
    /// A script that replaces whatever our tables have.
    pub fn install(&mut self, node: &Node, ruleset: &Ruleset) -> String {
        self.resting.clear();
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
                self.resting.remove(key);
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
        // A verdict is replaced by another within the transaction.
        let removed = edit.elements.iter().filter_map(|(key, turn)| turn.was.as_ref().map(|_| (key, None)));
        elements("delete element", removed, &mut line);
        let added = edit.elements.iter().filter_map(|(key, turn)| turn.is.as_ref().map(|verdict| (key, verdict.as_deref())));
        elements("add element", added, &mut line);
        for ((family, set), _) in edit.affinity.iter().filter(|(_, turn)| turn.is.is_none()) {
            line("delete set", *family, set);
        }
        for (key, _) in edit.chains.iter().filter(|(_, turn)| turn.is.is_none()) {
            self.resting.insert(key.clone(), now_ms);
        }
        text
    }

    /// A script that deletes chains that nothing leads to any more; empty where there are none.
    pub fn sweep(&mut self, now_ms: u64) -> String {
        let mut text = String::new();
        self.resting.retain(|(family, chain), since| {
            let is_due = now_ms >= *since + CHAIN_RESTS_MS;
            if is_due {
                let _ = writeln!(text, "delete chain {} {TABLE} {chain}", family.keyword());
            }
            !is_due
        });
        text
    }

    /// Whether chains wait for their deletion.
    #[must_use]
    pub fn rests(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Chains that are empty and wait for their deletion.
    pub fn resting(&self) -> impl Iterator<Item = &ChainKey> {
        self.resting.keys()
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
        let (word, verdict) = if container.is_map() { ("map", " : verdict") } else { ("set", "") };
        let _ = writeln!(text, "  {word} {} {{ type {}{verdict}; }}", container.name(), container.key_type(family));
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
