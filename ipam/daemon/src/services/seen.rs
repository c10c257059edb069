//! What the kernel has of our tables, in the terms of what should be there, and what of it differs.
//!
//! Elements are compared as they are. Rules are `nft`'s form of ours, so each chain's is learned when it is first seen after it was set, and
//! compared from then on; until then their number is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ::services::{ChainKey, Container, ElementKey, Family, LeadsTo, Ruleset, Script};
use datapath::service_tables::{self, Chain, Form};

/// An address that stays with an endpoint: for how long from its last packet, and for how much longer, in milliseconds.
pub(crate) type Client = (IpAddr, u64, u64);

/// What the kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Whether one of the tables sleeps.
    pub(crate) sleeps: bool,
    pub(crate) chains: BTreeMap<ChainKey, Chain>,
    pub(crate) sets: BTreeSet<(Family, String)>,
    pub(crate) elements: BTreeMap<ElementKey, Option<String>>,
    /// Clients that stay with an endpoint, by its set.
    pub(crate) clients: BTreeMap<ChainKey, Vec<Client>>,
}

/// The kernel's names of our families.
pub(crate) const FAMILIES: [(Family, service_tables::Family); 2] =
    [(Family::V4, service_tables::Family::V4), (Family::V6, service_tables::Family::V6)];

impl Seen {
    /// Adds one family's table.
    pub(crate) fn add(&mut self, family: Family, form: Form) {
        let Form { flags, chains, sets } = form;
        self.sleeps |= flags != 0;
        self.chains.extend(chains.into_iter().map(|(name, chain)| ((family, name), chain)));
        let of_kernel = if family == Family::V4 { service_tables::Family::V4 } else { service_tables::Family::V6 };
        for (name, elements) in sets {
            if let Some(container) = Container::ALL.into_iter().find(|container| container.name() == name) {
                let read = elements.into_iter().map(|element| {
                    let leads_to = match container.leads_to() {
                        LeadsTo::Nothing => None,
                        LeadsTo::Verdict => Some(verdict(element.verdict.as_ref())),
                        LeadsTo::Endpoint => Some(endpoint(family, &element.value.unwrap_or_default())),
                    };
                    ((family, container, key(container, family, &element.key)), leads_to)
                });
                self.elements.extend(read);
            } else if !elements.is_empty() {
                let client = |element: service_tables::Element| {
                    let (timeout, left) = element.lasts?;
                    Some((service_tables::address(&element.key, of_kernel)?, timeout, left))
                };
                self.clients.insert((family, name.clone()), elements.into_iter().filter_map(client).collect());
            }
            self.sets.insert((family, name));
        }
    }
}

/// What a field of a key or a value is.
#[derive(Debug, Clone, Copy)]
enum Field {
    Address,
    Protocol,
    Port,
    /// Made on this machine, and in its order of bytes.
    Number,
}

/// A key as nftables writes it.
fn key(container: Container, family: Family, bytes: &[u8]) -> String {
    use Field::{Address, Number, Port, Protocol};
    let fields: &[Field] = match container {
        Container::ClusterIps | Container::NodeAddresses => &[Address],
        Container::Hairpin => &[Address, Address, Protocol, Port],
        Container::Services | Container::NoEndpoints | Container::Firewall => &[Address, Protocol, Port],
        Container::Backends => &[Address, Protocol, Port, Number],
        Container::NodePorts | Container::NoEndpointsNodePorts => &[Protocol, Port],
    };
    written(fields, family, bytes)
}

/// An address and a port as nftables writes them.
fn endpoint(family: Family, bytes: &[u8]) -> String {
    written(&[Field::Address, Field::Port], family, bytes)
}

/// What is not of these fields is written as it is, and differs from all.
fn written(fields: &[Field], family: Family, bytes: &[u8]) -> String {
    const WORD: usize = 4;
    let mut rest = bytes;
    let mut take = |length: usize| {
        let (field, behind) = rest.split_at_checked(length)?;
        rest = behind;
        Some(field)
    };
    let (of_kernel, length) = match family {
        Family::V4 => (service_tables::Family::V4, 4),
        Family::V6 => (service_tables::Family::V6, 16),
    };
    let mut text = |field: &Field| {
        Some(match field {
            Field::Address => service_tables::address(take(length)?, of_kernel)?.to_string(),
            Field::Protocol => take(WORD)?[0].to_string(),
            Field::Port => u16::from_be_bytes(*take(WORD)?.first_chunk()?).to_string(),
            Field::Number => u32::from_ne_bytes(*take(WORD)?.first_chunk()?).to_string(),
        })
    };
    let fields: Option<Vec<String>> = fields.iter().map(&mut text).collect();
    fields.filter(|_| rest.is_empty()).map_or_else(|| format!("{bytes:?}"), |fields| fields.join(" . "))
}

/// A verdict as nftables writes it (`enum nft_verdicts`).
fn verdict(told: Option<&(i32, String)>) -> String {
    match told {
        Some((-4, chain)) => format!("goto {chain}"),
        Some((-3, chain)) => format!("jump {chain}"),
        Some((0, _)) => "drop".to_owned(),
        other => format!("{other:?}"),
    }
}

/// What was learned of the kernel's form of ours.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// Chains that every ruleset has; none before they were seen.
    base: BTreeMap<ChainKey, Chain>,
    /// Of services' chains, by their rules.
    hashes: HashMap<ChainKey, u64>,
}

impl Known {
    /// These chains were set anew: what the kernel makes of them is not known.
    pub(crate) fn forget<'a>(&mut self, chains: impl Iterator<Item = &'a ChainKey>) {
        for chain in chains {
            self.hashes.remove(chain);
        }
    }

    /// What differs from what should be, in words; where nothing does, what is seen is learned.
    /// What rests may still be there.
    pub(crate) fn compare(&mut self, seen: &Seen, wanted: &Ruleset, script: &Script) -> Result<(), String> {
        if seen.sleeps {
            return Err("the table sleeps".to_owned());
        }
        for (key, rules) in &wanted.chains {
            let chain = seen.chains.get(key).ok_or_else(|| format!("chain {} is gone", key.1))?;
            if chain.rules != rules.len() || self.hashes.get(key).is_some_and(|hash| *hash != chain.hash) {
                return Err(format!("chain {} has other rules", key.1));
            }
        }
        let others = seen.chains.iter().filter(|(key, _)| !wanted.chains.contains_key(*key));
        let others: BTreeMap<_, _> = others.filter(|(key, chain)| !(script.rests_chain(key) && chain.rules == 0)).collect();
        if self.base.is_empty() {
            self.base = others.into_iter().map(|(key, chain)| (key.clone(), chain.clone())).collect();
        } else if !self.base.iter().eq(others) {
            return Err("the chains that all services share are others".to_owned());
        }
        let own = FAMILIES.into_iter().flat_map(|(family, _)| Container::ALL.map(|container| (family, container.name().to_owned())));
        if seen.sets != own.chain(wanted.affinity.iter().cloned()).collect() {
            return Err("its sets are others".to_owned());
        }
        if !seen.elements.iter().filter(|(key, _)| !script.rests_element(key)).eq(&wanted.elements) {
            return Err("its elements are others".to_owned());
        }
        self.hashes = wanted.chains.keys().filter_map(|key| Some((key.clone(), seen.chains.get(key)?.hash))).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_they_were_written() {
        let v4 = |container, bytes: &[u8]| key(container, Family::V4, bytes);
        assert_eq!(v4(Container::ClusterIps, &[10, 96, 0, 1]), "10.96.0.1");
        assert_eq!(v4(Container::Services, &[10, 96, 0, 1, 17, 0, 0, 0, 0x1f, 0x90, 0, 0]), "10.96.0.1 . 17 . 8080");
        assert_eq!(v4(Container::NodePorts, &[6, 0, 0, 0, 0x75, 0x30, 0, 0]), "6 . 30000");
        assert_eq!(v4(Container::Backends, &[10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0, 3, 0, 0, 0]), "10.96.0.1 . 6 . 80 . 3");
        assert_eq!(endpoint(Family::V4, &[10, 1, 0, 9, 0x1f, 0x90, 0, 0]), "10.1.0.9 . 8080");
        let hairpin = [10, 1, 0, 9, 10, 1, 0, 9, 132, 0, 0, 0, 0, 80, 0, 0];
        assert_eq!(v4(Container::Hairpin, &hairpin), "10.1.0.9 . 10.1.0.9 . 132 . 80");
        let v6: Vec<u8> = "fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets().into_iter().chain([6, 0, 0, 0, 0, 80, 0, 0]).collect();
        assert_eq!(key(Container::NoEndpoints, Family::V6, &v6), "fd00::1 . 6 . 80");
        for length in 0..hairpin.len() {
            assert!(v4(Container::Hairpin, &hairpin[..length]).starts_with('['), "{length}");
        }
        assert_eq!(verdict(Some(&(-4, "refuse".to_owned()))), "goto refuse");
        assert_eq!(verdict(Some(&(0, String::new()))), "drop");
    }
}
