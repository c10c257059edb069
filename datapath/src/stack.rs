//! What the kernel programs do besides carrying, done by the host's stack where there are none: accounts by pod, direction and
//! scope, and the drop of packets whose source address is not the pod's.
//!
//! One nftables table. Its rules name no pod: an account comes into being with a pod's first packet, as an element of a dynamic
//! set with a counter of its own (nft(8), SETS). Accounts outlive the rules, which are replaced whole, and go with the link.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::Deserialize;

use crate::fast_path::{Counter, Destination, Scope, Traffic};
use crate::nft::{self, RulesError, anonymous_set};
use crate::nft_kept::KeptTable;
use crate::rules::Family;
use crate::{Ifindex, NodeNetwork};

const NAME: &str = "barewire_stack";
const TABLE: &str = "inet barewire_stack";
const WHAT: &str = "the accounts of the stack";
const SPOOFED: &str = "spoofed_address";
/// Behind all translation, as the programs see packets that the stack has emitted.
const AFTER_ALL: i32 = 300;
/// Interface counters count it, and so do the programs; the stack's rules do not see it.
const ETHERNET_HEADER: u64 = 14;
/// In sets' names, by [`Scope`].
const SCOPES: [&str; 5] = ["same_node", "vpc", "service", "node", "internet"];
const DIRECTIONS: [&str; 2] = ["sent", "received"];

/// Every account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// By host end.
    pub pods: HashMap<Ifindex, Traffic>,
    /// The host's own, at its uplinks.
    pub host: Traffic,
    /// Packets that were dropped because their source was not the pod's.
    pub spoofed: u64,
}

/// The table, to be kept.
pub(crate) const fn table() -> KeptTable {
    KeptTable::new(WHAT, NAME)
}

/// Keeps the table as described.
pub(crate) fn keep(table: &mut KeptTable, network: &NodeNetwork) -> Result<(), RulesError> {
    table.keep(&script(network))
}

/// Reads every account.
///
/// # Errors
/// Where there are none.
pub fn accounts() -> Result<Accounts, RulesError> {
    parse(&nft::list_table(WHAT, TABLE)?).map_err(|why| RulesError::Unreadable { what: WHAT, why })
}

/// Closes the accounts of links that are gone, as their numbers will be given to other pods, and tells what was in them.
///
/// # Errors
/// Where nft refuses.
pub fn close_accounts(links: &[Ifindex]) -> Result<HashMap<Ifindex, Traffic>, RulesError> {
    if links.is_empty() {
        return Ok(HashMap::new());
    }
    let mut closed = accounts()?.pods;
    closed.retain(|link, _| links.contains(link));
    let names = anonymous_set(links.iter().map(|link| format!("\"{}\"", crate::host_ifname(*link))));
    let mut script = String::new();
    for set in DIRECTIONS.iter().flat_map(|direction| SCOPES.map(|scope| format!("{direction}_{scope}"))) {
        // An element that is not there cannot be deleted, one that is there can be added.
        let _ = writeln!(script, "add element {TABLE} {set} {names}\ndelete element {TABLE} {set} {names}");
    }
    nft::run(WHAT, &script)?;
    Ok(closed)
}

/// Declarations, which change nothing where the same stand already; then the rules, in place of what rules there were.
fn script(network: &NodeNetwork) -> String {
    let mut text = format!("table {TABLE} {{\n  counter {SPOOFED} {{}}\n");
    for (direction, key) in DIRECTIONS.iter().zip(["iifname", "oifname"]) {
        for scope in SCOPES {
            let _ = writeln!(text, "  set {direction}_{scope} {{ typeof meta {key}; size 4096; flags dynamic; counter; }}");
            let _ = writeln!(text, "  counter host_{direction}_{scope} {{}}");
        }
    }
    let _ = writeln!(text, "  chain prerouting {{ type filter hook prerouting priority raw; policy accept; }}");
    let _ = writeln!(text, "  chain postrouting {{ type filter hook postrouting priority {AFTER_ALL}; policy accept; }}");
    for chain in ["from_pod", "from_uplink", "to_pod", "to_uplink"] {
        let _ = writeln!(text, "  chain {chain} {{ }}");
    }
    let _ = writeln!(text, "}}\nflush table {TABLE}\ntable {TABLE} {{");
    for (hook, key, pod, uplink) in
        [("prerouting", "iifname", "from_pod", "from_uplink"), ("postrouting", "oifname", "to_pod", "to_uplink")]
    {
        let uplinks = network.uplinks.iter().map(|uplink| format!("\"{}\"", uplink.ifname));
        let at_uplink =
            if network.uplinks.is_empty() { String::new() } else { format!("    {key} {} goto {uplink}\n", anonymous_set(uplinks)) };
        let _ = writeln!(text, "  chain {hook} {{\n    {key} \"bw*\" goto {pod}\n{at_uplink}  }}");
    }
    for (name, rules) in [
        ("from_pod", from_pod(network)),
        ("from_uplink", from_uplink(network)),
        ("to_pod", to_pod(network)),
        ("to_uplink", to_uplink(network)),
    ] {
        let _ = writeln!(text, "  chain {name} {{\n{rules}  }}");
    }
    text + "}\n"
}

/// What means nothing beyond its link, or means many, as in `ebpf::verdict`.
const CONFINED: [(Family, &str); 2] =
    [(Family::V4, "{ 0.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }"), (Family::V6, "{ ::/128, fe80::/10, ff00::/8 }")];

fn from_pod(network: &NodeNetwork) -> String {
    let account = |scope: Scope| format!("update @sent_{} {{ iifname }} return", SCOPES[scope as usize]);
    // What pods do not need would teach the host a neighbour for each source that a pod invents.
    let mut text = format!(
        "    icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-redirect }} drop\n    \
         ip6 saddr {{ ::, fe80::/10 }} ip6 daddr {{ fe80::/10, ff00::/8 }} return\n    \
         fib saddr . iif oif missing counter name {SPOOFED} drop\n"
    );
    text += &confined("daddr", &account(Scope::Node));
    // The routes are asked only about addresses that could be a pod's.
    let to_a_pod = format!("fib daddr oifname \"bw*\" {}", account(Scope::SameNode));
    text += &local(network, "daddr", &to_a_pod);
    text += &allowed(network, "daddr", &to_a_pod);
    text += &local(network, "daddr", &account(Scope::Vpc));
    text + &by_scope(network, "daddr", account)
}

fn from_uplink(network: &NodeNetwork) -> String {
    let account = |scope: Scope| format!("counter name host_received_{} return", SCOPES[scope as usize]);
    local(network, "daddr", "return")
        + &allowed(network, "daddr", "fib daddr oifname \"bw*\" return")
        + &confined("saddr", &account(Scope::Vpc))
        + &by_scope(network, "saddr", account)
}

fn to_pod(network: &NodeNetwork) -> String {
    let account = |scope: Scope| format!("update @received_{} {{ oifname }} return", SCOPES[scope as usize]);
    let from_a_pod = format!("iifname \"bw*\" {}", account(Scope::SameNode));
    confined("saddr", &account(Scope::Node))
        + &local(network, "saddr", &from_a_pod)
        + &allowed(network, "saddr", &from_a_pod)
        + &local(network, "saddr", &account(Scope::Vpc))
        + &by_scope(network, "saddr", account)
}

fn to_uplink(network: &NodeNetwork) -> String {
    let account = |scope: Scope| format!("counter name host_sent_{} return", SCOPES[scope as usize]);
    local(network, "saddr", "return")
        + &allowed(network, "saddr", "fib saddr type != local return")
        + &confined("daddr", &account(Scope::Vpc))
        + &by_scope(network, "daddr", account)
}

fn confined(end: &str, then: &str) -> String {
    CONFINED.iter().map(|(family, addresses)| format!("    {} {end} {addresses} {then}\n", family.keyword())).collect()
}

fn local(network: &NodeNetwork, end: &str, then: &str) -> String {
    let mut text = String::new();
    for family in [Family::V4, Family::V6] {
        let ranges: Vec<_> = network.pods_of(family.is_v4()).map(crate::PodRange::interval).collect();
        if !ranges.is_empty() {
            let _ = writeln!(text, "    {} {end} {} {then}", family.keyword(), anonymous_set(ranges));
        }
    }
    text
}

/// The same of addresses that pods may use beside their own: others have addresses of these ranges as well.
fn allowed(network: &NodeNetwork, end: &str, then: &str) -> String {
    let mut text = String::new();
    for family in [Family::V4, Family::V6] {
        let ranges = network.allowed_ranges(family.is_v4());
        if !ranges.is_empty() {
            let _ = writeln!(text, "    {} {end} {} {then}", family.keyword(), anonymous_set(ranges));
        }
    }
    text
}

fn by_scope(network: &NodeNetwork, end: &str, account: impl Fn(Scope) -> String) -> String {
    let mut text = String::new();
    for Destination { cidr, scope, native: _ } in network.destinations() {
        let family = if cidr.is_ipv4() { Family::V4 } else { Family::V6 };
        let _ = writeln!(text, "    {} {end} {cidr} {}", family.keyword(), account(scope));
    }
    let _ = writeln!(text, "    {}", account(Scope::Internet));
    text
}

fn parse(json: &str) -> Result<Accounts, serde_json::Error> {
    #[derive(Deserialize)]
    struct Listing {
        nftables: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        set: Option<Set>,
        counter: Option<Named>,
    }
    #[derive(Deserialize)]
    struct Set {
        name: String,
        #[serde(default)]
        elem: Vec<Element>,
    }
    #[derive(Deserialize)]
    struct Element {
        elem: Account,
    }
    #[derive(Deserialize)]
    struct Account {
        val: String,
        counter: Packets,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
        #[serde(flatten)]
        count: Packets,
    }
    #[derive(Deserialize, Clone, Copy)]
    struct Packets {
        packets: u64,
        bytes: u64,
    }
    let counter = |count: Packets| Counter { packets: count.packets, bytes: count.bytes + ETHERNET_HEADER * count.packets };
    let mut accounts = Accounts::default();
    for entry in serde_json::from_str::<Listing>(json)?.nftables {
        if let Some(Named { name, count }) = entry.counter {
            if name == SPOOFED {
                accounts.spoofed = count.packets;
            } else if let Some(place) = name.strip_prefix("host_").and_then(|name| place(&mut accounts.host, name)) {
                *place = counter(count);
            }
        }
        let Some(Set { name, elem }) = entry.set else { continue };
        for Element { elem: Account { val, counter: count } } in elem {
            let Some(link) = crate::ifindex_of(&val) else { continue };
            if let Some(place) = place(accounts.pods.entry(link).or_default(), &name) {
                *place = counter(count);
            }
        }
    }
    Ok(accounts)
}

/// The counter that a set's or counter's name means.
fn place<'a>(traffic: &'a mut Traffic, name: &str) -> Option<&'a mut Counter> {
    let (direction, scope) = name.split_once('_')?;
    let scope = SCOPES.iter().position(|known| *known == scope)?;
    match direction {
        "sent" => traffic.sent.get_mut(scope),
        "received" => traffic.received.get_mut(scope),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_with_the_frames_own_header() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"counter": {"family": "inet", "name": "host_sent_vpc", "table": "t", "handle": 4, "packets": 2, "bytes": 100}},
            {"counter": {"family": "inet", "name": "spoofed_address", "table": "t", "handle": 4, "packets": 3, "bytes": 9}},
            {"set": {"family": "inet", "name": "sent_same_node", "table": "t", "type": "ifname", "handle": 5, "size": 4096, "elem": [
                {"elem": {"val": "bw0000100001", "counter": {"packets": 1, "bytes": 84}}}], "stmt": [{"counter": null}]}},
            {"set": {"family": "inet", "name": "received_vpc", "table": "t", "type": "ifname", "handle": 6, "size": 4096}}]}"#;
        let accounts = parse(json).unwrap();
        assert_eq!(accounts.spoofed, 3);
        assert_eq!(accounts.host.sent[Scope::Vpc as usize], Counter { packets: 2, bytes: 128 });
        assert_eq!(accounts.pods[&Ifindex(0x10_0001)].sent[Scope::SameNode as usize], Counter { packets: 1, bytes: 98 });
        assert!(parse("{}").is_err());
    }
}
