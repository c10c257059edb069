//! The VPC fabric: a router that behaves as a cloud network does.
//!
//! - It carries a packet only if the source address is assigned to the interface that the packet came from
//!   (nftables' `fib saddr . iif`: the route back must lead to that interface).
//! - It delivers only to the interface that owns the destination; packets to nobody are dropped in silence.
//! - It answers ARP and neighbour solicitations for the gateway only: a node has a /32, a /128 and a default route.
//! - The internet is reached from, and reaches, primary addresses only: anything else must be masqueraded first.
//!
//! So an assignment is one route of the fabric's network namespace, `PREFIX via PRIMARY dev INTERFACE`. It names the primary address,
//! since a route without one would make the fabric ask for the pod's address on the wire, and a cloud network never does.
//! What this differs in from a cloud: a packet's TTL is one less behind the fabric.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::error::{Context, Error, Result};
use super::node::Node;

/// Address that every node's IPv4 default route goes to.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Address that every node's IPv6 default route goes to.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Name of the fabric's table in its own network namespace.
const TABLE: &str = "fabric";

/// A network interface as the fabric knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The fabric's end of the wire.
    pub interface: String,
    /// The node's primary IPv4 address.
    pub primary_v4: Ipv4Addr,
    /// The node's primary IPv6 address.
    pub primary_v6: Ipv6Addr,
}

impl Attachment {
    fn primary(&self, family: &IpNetwork) -> IpAddr {
        match family {
            IpNetwork::V4(_) => self.primary_v4.into(),
            IpNetwork::V6(_) => self.primary_v6.into(),
        }
    }

    /// Commands that plug the interface into the fabric: the gateway on the fabric's end, and the way to the primary addresses.
    #[must_use]
    pub fn plug(&self) -> Vec<Vec<String>> {
        let Self { interface, primary_v4, primary_v6 } = self;
        vec![
            words(&format!("ip address add {GATEWAY_V4}/32 dev {interface}")),
            words(&format!("ip address add {GATEWAY_V6}/64 dev {interface} nodad")),
            words(&format!("ip route replace {primary_v4}/32 dev {interface}")),
            words(&format!("ip -6 route replace {primary_v6}/128 dev {interface}")),
            words(&format!("nft add element inet {TABLE} primaries4 {{ {primary_v4} }}")),
            words(&format!("nft add element inet {TABLE} primaries6 {{ {primary_v6} }}")),
        ]
    }

    /// Commands that take the interface from the fabric. Its routes go with it.
    #[must_use]
    pub fn unplug(&self) -> Vec<Vec<String>> {
        let Self { interface, primary_v4, primary_v6 } = self;
        vec![
            words(&format!("nft delete element inet {TABLE} primaries4 {{ {primary_v4} }}")),
            words(&format!("nft delete element inet {TABLE} primaries6 {{ {primary_v6} }}")),
            words(&format!("ip link delete {interface}")),
        ]
    }

    /// The command that assigns `prefix` to the interface.
    #[must_use]
    pub fn assign(&self, prefix: &IpNetwork) -> Vec<String> {
        self.route("replace", prefix)
    }

    /// The command that takes `prefix` from the interface. It fails when another interface has it.
    #[must_use]
    pub fn unassign(&self, prefix: &IpNetwork) -> Vec<String> {
        self.route("del", prefix)
    }

    fn route(&self, verb: &str, prefix: &IpNetwork) -> Vec<String> {
        let family = if prefix.is_ipv6() { "-6" } else { "-4" };
        let (network, length, primary) = (prefix.network(), prefix.prefix(), self.primary(prefix));
        let interface = &self.interface;
        words(&format!("ip {family} route {verb} {network}/{length} via {primary} dev {interface} onlink"))
    }
}

/// Gives `prefix` to `attachment`, taking it from whatever interface has it.
///
/// # Errors
/// When the fabric refuses.
pub fn assign(fabric: &Node, attachment: &Attachment, prefix: &IpNetwork) -> Result<()> {
    execute(fabric, &attachment.assign(prefix))
}

/// Takes `prefix` from `attachment`.
///
/// # Errors
/// When `attachment` does not have it.
pub fn unassign(fabric: &Node, attachment: &Attachment, prefix: &IpNetwork) -> Result<()> {
    execute(fabric, &attachment.unassign(prefix))
}

fn execute(fabric: &Node, command: &[String]) -> Result<()> {
    fabric.run_in_network(command).map(drop)
}

/// Packets that the fabric refused since it is up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refused {
    /// The source was not assigned to the interface.
    pub spoofed_source: u64,
    /// Nobody owns the destination.
    pub unknown_destination: u64,
    /// To or from the internet with an address that is not primary.
    pub not_translated: u64,
}

/// Reads the fabric's counters.
///
/// # Errors
/// When the fabric has no such table.
pub fn refused(fabric: &Node) -> Result<Refused> {
    let json = fabric.run(&["nft", "--json", "list", "counters", "table", "inet", TABLE])?;
    parse_counters(&json)
}

fn parse_counters(json: &str) -> Result<Refused> {
    #[derive(Deserialize)]
    struct Listing {
        nftables: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        counter: Option<Counter>,
    }
    #[derive(Deserialize)]
    struct Counter {
        name: String,
        packets: u64,
    }
    let listing: Listing = serde_json::from_str(json).context(|| "read nft's counters".to_owned())?;
    let counters: Vec<Counter> = listing.nftables.into_iter().filter_map(|entry| entry.counter).collect();
    let packets = |name: &str| {
        let counter = counters.iter().find(|counter| counter.name == name);
        counter.map(|counter| counter.packets).ok_or_else(|| Error::Io {
            what: format!("read nft's counters: there is no {name:?} in table {TABLE}"),
            cause: std::io::ErrorKind::NotFound.into(),
        })
    };
    Ok(Refused {
        spoofed_source: packets("spoofed_source")?,
        unknown_destination: packets("unknown_destination")?,
        not_translated: packets("not_translated")?,
    })
}

/// Splits a command line of which no word holds a blank; an nft set's elements stay one word.
fn words(line: &str) -> Vec<String> {
    match line.split_once(" {") {
        Some((head, elements)) => {
            let mut words: Vec<String> = head.split(' ').map(str::to_owned).collect();
            words.push(format!("{{{elements}"));
            words
        }
        None => line.split(' ').map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::topology::Topology;
    use super::*;

    fn node(number: u16) -> Attachment {
        Attachment {
            interface: format!("eth{number}"),
            primary_v4: Ipv4Addr::new(10, 0, 0, 10 + number as u8),
            primary_v6: Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0x10 + number),
        }
    }

    #[test]
    fn an_assignment_goes_via_the_primary_address() {
        let attachment = node(1);
        assert_eq!(
            attachment.assign(&"10.0.1.16/28".parse().unwrap()).join(" "),
            "ip -4 route replace 10.0.1.16/28 via 10.0.0.11 dev eth1 onlink"
        );
        assert_eq!(
            attachment.assign(&"fd00:10:0:1::/80".parse().unwrap()).join(" "),
            "ip -6 route replace fd00:10:0:1::/80 via fd00:10::11 dev eth1 onlink"
        );
        assert_eq!(
            attachment.unassign(&"10.0.1.20/28".parse().unwrap()).join(" "),
            "ip -4 route del 10.0.1.16/28 via 10.0.0.11 dev eth1 onlink"
        );
    }

    #[test]
    fn the_topology_file_says_what_this_module_says() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/two-nodes.clab.yml");
        let topology = Topology::read(&file).unwrap();
        let written = &topology.nodes["vpc"].exec;
        for (number, prefixes) in [(1, ["10.0.1.16/28", "fd00:10:0:1::/80"]), (2, ["10.0.1.32/28", "fd00:10:0:2::/80"])] {
            let attachment = node(number);
            let mut meant = attachment.plug();
            meant.extend(prefixes.map(|prefix| attachment.assign(&prefix.parse().unwrap())));
            for command in meant {
                assert!(written.contains(&command), "{} is not in {}", command.join(" "), file.display());
            }
        }
    }

    #[test]
    fn counters_are_found_by_name() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1"}},
            {"counter": {"family": "inet", "name": "spoofed_source", "table": "fabric", "handle": 1, "packets": 3, "bytes": 9}},
            {"counter": {"family": "inet", "name": "unknown_destination", "table": "fabric", "handle": 2, "packets": 2, "bytes": 9}},
            {"counter": {"family": "inet", "name": "not_translated", "table": "fabric", "handle": 3, "packets": 1, "bytes": 9}}]}"#;
        let refused = parse_counters(json).unwrap();
        assert_eq!((refused.spoofed_source, refused.unknown_destination, refused.not_translated), (3, 2, 1));
        let message = parse_counters(r#"{"nftables": []}"#).unwrap_err().to_string();
        assert!(message.contains("spoofed_source"), "{message}");
    }
}
