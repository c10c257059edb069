//! Reads nftables' chains and rules that a forwarded packet may come to, by netlink (linux/netfilter/nf_tables.h): no program to run, and
//! no text to understand. Rules are read chain by chain, so that kube-proxy's tens of thousands are left where nothing can come of them.

use std::collections::{BTreeSet, HashMap};

use ipnetwork::IpNetwork;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::decode::{self, Elements, text};
use super::ruleset::{Backend, Base, Chain, Family, Hook, Ruleset, Table, Verdict, engine_of, is_of_one_service};
use crate::netlink::NetlinkError;
use crate::prefixes;
use crate::raw_netlink::{Dumps, attribute, attributes, network_number};

const STEP: &str = "read the nftables rules";
/// `NFNL_SUBSYS_NFTABLES`, and `NFT_MSG_*` in it.
const SUBSYSTEM: u16 = 10 << 8;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
/// `struct nfgenmsg`
const GENERIC: usize = 4;
/// Tables of services, kube-proxy's and ours, whose rules are known: what they drop they drop by state or destination, all of it services'.
const OF_SERVICES: [&str; 2] = ["kube-proxy", "barewire-services"];
/// Their map of all addresses and ports of services.
const SERVICES: &str = "service-ips";
/// A set of more elements is taken as unknown.
const ELEMENTS_MAX: usize = 4096;
/// Tables of ours.
const OURS: [&str; 2] = ["barewire", "barewire_stack"];

/// What the kernel says where nftables is a module that is not there.
fn unless_absent<T>(outcome: Result<T, NetlinkError>) -> Result<Option<T>, NetlinkError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is(Errno::EINVAL) || error.is(Errno::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds everything to a ruleset.
pub(super) fn read(into: &mut Ruleset) -> Result<(), NetlinkError> {
    let Some(mut socket) = Dumps::open(STEP, NETLINK_NETFILTER)? else { return Ok(()) };
    let found = unless_absent(socket.dump(STEP, GET_CHAIN, &[0; GENERIC], |_, payload| chain(payload)))?.unwrap_or_default();
    let mut bases: HashMap<(Table, String), Option<Base>> = HashMap::new();
    for (table, name, base) in found {
        if OURS.contains(&table.name.as_str()) {
            continue;
        }
        if OF_SERVICES.contains(&table.name.as_str()) {
            continue;
        }
        let engine = engine_of(&name).or(engine_of(&table.name));
        if let Some(engine) = engine
            && !into.engines.iter().any(|(family, _)| *family == table.family)
        {
            into.engines.push((table.family, format!("chain {name} of {table} belongs to a NetworkPolicy engine ({engine})")));
        }
        bases.insert((table, name), base);
    }
    let mut next: Vec<_> = bases.iter().filter(|(_, base)| base.is_some()).map(|(key, _)| key.clone()).collect();
    let mut elements = HashMap::new();
    while let Some(key) = next.pop() {
        if into.chains.contains_key(&key) {
            continue;
        }
        let (table, name) = &key;
        let Some(base) = bases.get(&key).cloned() else {
            into.unread.push((table.family, format!("chain {name} of {table} is not there")));
            continue;
        };
        let rules = read_rules(&mut socket, table, name, &mut elements)?;
        for rule in &rules {
            if let Verdict::Jump(to) | Verdict::Goto(to) = &rule.verdict
                && !is_of_one_service(to)
            {
                next.push((table.clone(), to.clone()));
            }
        }
        into.chains.insert(key, Chain { base, rules });
    }
    for (family, name) in [Family::Ip, Family::Ip6].into_iter().flat_map(|family| OF_SERVICES.map(|name| (family, name))) {
        let table = Table { backend: Backend::Nft, family, name: name.to_owned() };
        into.services.extend(services(&mut socket, &table)?);
    }
    Ok(())
}

fn number_of(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ip => 2,
        Family::Netdev => 5,
        Family::Ip6 => 10,
    }
}

fn chain(payload: &[u8]) -> Option<(Table, String, Option<Base>)> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const DROPS: u32 = 0;
    let family = match payload.first()? {
        1 => Family::Inet,
        2 => Family::Ip,
        5 => Family::Netdev,
        10 => Family::Ip6,
        // ARP and bridges: none that a routed packet comes to.
        _ => return None,
    };
    let (mut table, mut name, mut hook, mut drops) = (String::new(), String::new(), None, false);
    for (kind, value) in attributes(payload.get(GENERIC..)?) {
        match kind {
            TABLE => table = text(value),
            NAME => name = text(value),
            HOOK => hook = Some(value),
            POLICY => drops = network_number(value) == DROPS,
            _ => {}
        }
    }
    let table = Table { backend: Backend::Nft, family, name: table };
    Some((table, name, hook.and_then(|hook| base(family, hook, drops))))
}

fn base(family: Family, nested: &[u8], drops: bool) -> Option<Base> {
    const NUMBER: u16 = 1;
    const DEVICE: u16 = 3;
    const DEVICES: u16 = 4;
    let (mut hook, mut devices) = (u32::MAX, Vec::new());
    for (kind, value) in attributes(nested) {
        match kind {
            NUMBER => hook = network_number(value),
            DEVICE => devices.push(text(value)),
            DEVICES => devices.extend(attributes(value).map(|(_, name)| text(name))),
            _ => {}
        }
    }
    let hook = match (family, hook) {
        (Family::Netdev, 0) | (Family::Inet, 5) => Hook::Ingress,
        (Family::Netdev, 1) => Hook::Egress,
        (Family::Netdev, _) => return None,
        (_, 0) => Hook::Prerouting,
        (_, 2) => Hook::Forward,
        (_, 4) => Hook::Postrouting,
        _ => return None,
    };
    Some(Base { hook, drops, devices })
}

fn read_rules(
    socket: &mut Dumps,
    table: &Table,
    name: &str,
    elements: &mut HashMap<(Table, String), Elements>,
) -> Result<Vec<super::ruleset::Rule>, NetlinkError> {
    const TABLE: u16 = 1;
    const CHAIN: u16 = 2;
    let terminated = |text: &str| [text.as_bytes(), &[0]].concat();
    let request =
        [vec![number_of(table.family), 0, 0, 0], attribute(TABLE, &terminated(&table.name)), attribute(CHAIN, &terminated(name))].concat();
    let found = socket.dump(STEP, GET_RULE, &request, |_, payload| payload.get(GENERIC..).map(<[u8]>::to_vec));
    let found = match found {
        // It went since the chains were read; the change is news.
        Err(error) if error.is_absence() => return Ok(Vec::new()),
        found => found?,
    };
    let sets: BTreeSet<_> = found.iter().flat_map(|rule| decode::sets(rule)).collect();
    let mut known = HashMap::new();
    for set in sets {
        let key = (table.clone(), set.clone());
        if !elements.contains_key(&key) {
            elements.insert(key.clone(), read_elements(socket, table, &set)?);
        }
        if let Some(of_set) = elements.get(&key).filter(|of_set| of_set.len() <= ELEMENTS_MAX) {
            known.insert(set, of_set.clone());
        }
    }
    Ok(found.iter().flat_map(|rule| decode::rules(table.family, rule, &known)).collect())
}

/// The elements of a set. Of one whose elements are intervals each has an end: the first address behind it.
fn read_elements(socket: &mut Dumps, table: &Table, set: &str) -> Result<Elements, NetlinkError> {
    const TABLE: u16 = 1;
    const SET: u16 = 2;
    const ELEMENTS: u16 = 3;
    let terminated = |text: &str| [text.as_bytes(), &[0]].concat();
    let request =
        [vec![number_of(table.family), 0, 0, 0], attribute(TABLE, &terminated(&table.name)), attribute(SET, &terminated(set))].concat();
    let found = socket.dump(STEP, GET_ELEMENTS, &request, |_, payload| {
        let list = attributes(payload.get(GENERIC..)?).find(|(kind, _)| *kind == ELEMENTS)?.1;
        Some(attributes(list).filter_map(|(_, element)| self::element(element)).collect::<Vec<_>>())
    });
    let mut found: Vec<Element> = match found {
        Err(error) if error.is_absence() => return Ok(Vec::new()),
        found => found?.into_iter().flatten().collect(),
    };
    if !found.iter().any(|element| element.ends) {
        return Ok(found.into_iter().map(|element| (element.key.clone(), element.last.unwrap_or(element.key), element.verdict)).collect());
    }
    // An end sorts before a beginning at the same key.
    found.sort_by(|one, other| (&one.key, !one.ends).cmp(&(&other.key, !other.ends)));
    let mut intervals = Elements::new();
    let mut begun: Option<(Vec<u8>, Option<Verdict>)> = None;
    for Element { key, ends, verdict, .. } in found {
        if let Some((first, of_first)) = begun.take() {
            intervals.push((first, before(&key), of_first));
        }
        if !ends {
            begun = Some((key, verdict));
        }
    }
    if let Some((first, of_first)) = begun {
        let last = vec![0xff; first.len()];
        intervals.push((first, last, of_first));
    }
    Ok(intervals)
}

struct Element {
    key: Vec<u8>,
    last: Option<Vec<u8>>,
    ends: bool,
    verdict: Option<Verdict>,
}

fn element(nested: &[u8]) -> Option<Element> {
    const KEY: u16 = 1;
    const DATA: u16 = 2;
    const FLAGS: u16 = 3;
    const KEY_END: u16 = 10;
    const VALUE: u16 = 1;
    const VERDICT: u16 = 2;
    const ENDS: u32 = 1;
    let value = |nested| attributes(nested).find(|(kind, _)| *kind == VALUE).map(|(_, value)| value.to_vec());
    let mut element = Element { key: Vec::new(), last: None, ends: false, verdict: None };
    for (kind, nested) in attributes(nested) {
        match kind {
            KEY => element.key = value(nested)?,
            KEY_END => element.last = value(nested),
            FLAGS => element.ends = network_number(nested) & ENDS != 0,
            DATA => element.verdict = attributes(nested).find(|(kind, _)| *kind == VERDICT).map(|(_, told)| decode::verdict(told)),
            _ => {}
        }
    }
    Some(element)
}

/// The key before this one.
fn before(key: &[u8]) -> Vec<u8> {
    let mut before = key.to_vec();
    for byte in before.iter_mut().rev() {
        let (less, borrows) = byte.overflowing_sub(1);
        *byte = less;
        if !borrows {
            break;
        }
    }
    before
}

/// The addresses in a map of services: each key begins with one.
fn services(socket: &mut Dumps, table: &Table) -> Result<BTreeSet<IpNetwork>, NetlinkError> {
    let ipv4 = table.family == Family::Ip;
    let elements = read_elements(socket, table, SERVICES)?;
    let address = |(key, ..): (Vec<u8>, Vec<u8>, Option<Verdict>)| {
        let bits = match ipv4 {
            true => u32::from_be_bytes(*key.first_chunk()?).into(),
            false => u128::from_be_bytes(*key.first_chunk()?),
        };
        Some(prefixes::prefix(ipv4, bits, prefixes::width(ipv4)))
    };
    Ok(elements.into_iter().filter_map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_ends_before_its_end() {
        assert_eq!(before(&[10, 1, 0, 0]), [10, 0, 255, 255]);
        assert_eq!(before(&[0, 0]), [255, 255]);
    }
}
