//! The tables of nftables that serve Services: scripts run, what the kernel has of them, and whether kube-proxy has tables of its own.
//!
//! What is in them is decided above; here it is read as the kernel has it, so that whoever decides can compare. Keys and rules are the
//! kernel's bytes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::forwarding;
use crate::netlink::NetlinkError;
use crate::nft::{self, RulesError};
use crate::nft_kept::{self, unless_absent, without_counts};
use crate::raw_netlink::{Dumps, attribute, attributes, network_number};

const STEP: &str = "read the tables of services";
const WHAT: &str = "the rules of services";
/// `NFNL_SUBSYS_NFTABLES`, and `NFT_MSG_*` in it.
const SUBSYSTEM: u16 = 10 << 8;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_SET: u16 = SUBSYSTEM | 10;
const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
/// `struct nfgenmsg`
const GENERIC: usize = 4;
/// Where a message of nftables' names its table; so do sets, chains and rules.
const TABLE: u16 = 1;
/// Ten thousand services are some seconds' work for `nft`.
const LIMIT: Duration = Duration::from_secs(60);
/// kube-proxy's table in nftables mode, and its chain in the others.
const KUBE_PROXY: (&str, &str) = ("kube-proxy", "KUBE-SERVICES");

/// A family of nftables that has a table of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `ip`
    V4,
    /// `ip6`
    V6,
}

impl Family {
    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`
    const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// A table as the kernel has it. Sets without a name of their own are left out: they are a rule's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form {
    /// Flags; one of them has the table sleep.
    pub flags: u32,
    /// By name.
    pub chains: BTreeMap<String, Chain>,
    /// By name.
    pub sets: BTreeMap<String, Vec<Element>>,
}

/// A chain as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// How many rules it has.
    pub rules: usize,
    /// Of its hook, its policy and its rules in order, without what they count. Equal where nobody has changed them.
    pub hash: u64,
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Fields one after the other, each padded to four bytes.
    pub key: Vec<u8>,
    /// Of maps of verdicts: its code and its chain.
    pub verdict: Option<(i32, String)>,
    /// Of other maps: fields like those of the key.
    pub value: Option<Vec<u8>>,
    /// For how long it is there, and for how much longer, where it is for a time: milliseconds.
    pub lasts: Option<(u64, u64)>,
}

/// Runs a script as one transaction; ten thousand services at once take seconds.
///
/// # Errors
/// See [`RulesError`].
pub fn run(script: &str) -> Result<(), RulesError> {
    nft::run_within(WHAT, script, LIMIT)
}

/// The number of the ruleset, which every change makes another; `None` where the kernel has no nftables.
///
/// # Errors
/// Where the kernel does not tell.
pub fn generation() -> Result<Option<u32>, NetlinkError> {
    nft_kept::generation()
}

/// Whether there is a table of that name in either family.
///
/// # Errors
/// Where the kernel does not tell.
pub fn exists(name: &str) -> Result<bool, NetlinkError> {
    Ok(tables()?.iter().any(|(_, table, _)| table == name))
}

/// Family, name and flags of every table.
fn tables() -> Result<Vec<(u8, String, u32)>, NetlinkError> {
    const FLAGS: u16 = 2;
    let Some(mut socket) = Dumps::open(STEP, NETLINK_NETFILTER)? else { return Ok(Vec::new()) };
    unless_absent(socket.dump(STEP, GET_TABLE, &[0; GENERIC], |_, row| {
        let name = text(find(row.get(GENERIC..)?, TABLE)?);
        Some((*row.first()?, name, find(&row[GENERIC..], FLAGS).map_or(0, network_number)))
    }))
}

/// The kernel's form of a table; nothing where there is none. Elements are read of the sets that `wanted` names.
///
/// # Errors
/// Where the kernel does not tell.
pub fn read(family: Family, name: &str, wanted: impl Fn(&str) -> bool) -> Result<Option<Form>, NetlinkError> {
    const CHAIN_NAME: u16 = 3;
    const RULE_CHAIN: u16 = 2;
    const RULE_EXPRESSIONS: u16 = 4;
    const SET_NAME: u16 = 2;
    const SET_FLAGS: u16 = 3;
    const ANONYMOUS: u32 = 1;
    let Some((.., flags)) = tables()?.into_iter().find(|(of, table, _)| (*of, table.as_str()) == (family.number(), name)) else {
        return Ok(None);
    };
    let Some(mut socket) = Dumps::open(STEP, NETLINK_NETFILTER)? else { return Ok(None) };
    let terminated = |text: &str| [text.as_bytes(), &[0]].concat();
    let table = terminated(name);
    let of_table = [&[family.number(), 0, 0, 0][..], &attribute(TABLE, &table)].concat();
    // Older kernels tell of all tables.
    let is_of_it =
        |row: &[u8]| row.first() == Some(&family.number()) && find(row.get(GENERIC..).unwrap_or_default(), TABLE) == Some(&table);

    let mut chains: BTreeMap<String, (usize, DefaultHasher)> = BTreeMap::new();
    let found = unless_absent(socket.dump(STEP, GET_CHAIN, &of_table, |_, row| {
        is_of_it(row).then(|| Some((text(find(&row[GENERIC..], CHAIN_NAME)?), base_of(&row[GENERIC..]))))?
    }))?;
    for (name, base) in found {
        let mut hasher = DefaultHasher::new();
        base.hash(&mut hasher);
        chains.insert(name, (0, hasher));
    }
    let rules = unless_absent(socket.dump(STEP, GET_RULE, &of_table, |_, row| {
        let of_rule = |kind| find(&row[GENERIC..], kind);
        is_of_it(row).then(|| Some((text(of_rule(RULE_CHAIN)?), without_counts(of_rule(RULE_EXPRESSIONS).unwrap_or_default()))))?
    }))?;
    for (chain, expressions) in rules {
        let (count, hasher) = chains.entry(chain).or_default();
        *count += 1;
        expressions.hash(hasher);
    }
    let sets = unless_absent(socket.dump(STEP, GET_SET, &of_table, |_, row| {
        let is_named = find(row.get(GENERIC..)?, SET_FLAGS).map_or(0, network_number) & ANONYMOUS == 0;
        (is_of_it(row) && is_named).then(|| find(&row[GENERIC..], SET_NAME).map(text))?
    }))?;
    let mut form = Form { flags, ..Form::default() };
    form.chains = chains.into_iter().map(|(name, (rules, hasher))| (name, Chain { rules, hash: hasher.finish() })).collect();
    for set in sets {
        let elements = if wanted(&set) { elements(&mut socket, &of_table, &terminated(&set))? } else { Vec::new() };
        form.sets.insert(set, elements);
    }
    Ok(Some(form))
}

fn elements(socket: &mut Dumps, of_table: &[u8], set: &[u8]) -> Result<Vec<Element>, NetlinkError> {
    const SET: u16 = 2;
    const ELEMENTS: u16 = 3;
    let request = [of_table, &attribute(SET, set)].concat();
    let found = unless_absent(socket.dump(STEP, GET_ELEMENTS, &request, |_, row| {
        let list = find(row.get(GENERIC..)?, ELEMENTS)?;
        Some(attributes(list).filter_map(|(_, element)| self::element(element)).collect::<Vec<_>>())
    }))?;
    Ok(found.concat())
}

fn element(nested: &[u8]) -> Option<Element> {
    const KEY: u16 = 1;
    const DATA: u16 = 2;
    const TIMEOUT: u16 = 4;
    const EXPIRATION: u16 = 5;
    const VALUE: u16 = 1;
    const VERDICT: u16 = 2;
    const VERDICT_CODE: u16 = 1;
    const VERDICT_CHAIN: u16 = 2;
    let millis = |kind| find(nested, kind)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    let verdict = find(nested, DATA).and_then(|data| find(data, VERDICT)).map(|verdict| {
        let code = find(verdict, VERDICT_CODE).map_or(0, network_number).cast_signed();
        (code, find(verdict, VERDICT_CHAIN).map(text).unwrap_or_default())
    });
    let lasts = millis(TIMEOUT).map(|timeout| (timeout, millis(EXPIRATION).unwrap_or(timeout)));
    let value = find(nested, DATA).and_then(|data| find(data, VALUE)).map(<[u8]>::to_vec);
    Some(Element { key: find(find(nested, KEY)?, VALUE)?.to_vec(), verdict, value, lasts })
}

/// Hook and policy of a base chain.
fn base_of(row: &[u8]) -> Vec<u8> {
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const TYPE: u16 = 7;
    attributes(row).filter(|(kind, _)| [HOOK, POLICY, TYPE].contains(kind)).flat_map(|(kind, value)| attribute(kind, value)).collect()
}

fn find(row: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(row).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A name, which ends with a zero.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// What of kube-proxy's rules is there, in words; empty where there are none. The rules, not the process: they serve without it.
///
/// # Errors
/// Where the kernel does not tell.
pub fn kube_proxy() -> Result<Vec<String>, NetlinkError> {
    const CHAIN_NAME: u16 = 3;
    let word = |family: u8| if family == Family::V6.number() { "ip6" } else { "ip" };
    let (table, chain) = KUBE_PROXY;
    let mut found: Vec<_> =
        tables()?.iter().filter(|(_, name, _)| name == table).map(|(family, ..)| format!("table {} {table}", word(*family))).collect();
    if let Some(mut socket) = Dumps::open(STEP, NETLINK_NETFILTER)? {
        found.extend(unless_absent(socket.dump(STEP, GET_CHAIN, &[0; GENERIC], |_, row| {
            let of = |kind| find(row.get(GENERIC..)?, kind).map(text);
            let is_it = of(TABLE)? == "nat" && of(CHAIN_NAME)? == chain;
            is_it.then(|| format!("chain {chain} of table {} nat", word(row[0])))
        }))?);
    }
    found.extend(forwarding::legacy_tables_with(chain));
    Ok(found)
}

/// An address of a set's key, where the key begins with one.
#[must_use]
pub fn address(key: &[u8], family: Family) -> Option<IpAddr> {
    Some(match family {
        Family::V4 => IpAddr::from(*key.first_chunk::<4>()?),
        Family::V6 => IpAddr::from(*key.first_chunk::<16>()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_has_a_key_a_verdict_and_a_time() {
        let verdict = [attribute(1, &(-4_i32).to_be_bytes()), attribute(2, b"cluster-a/b/tcp/\0")].concat();
        let nested = [
            attribute(0x8001, &attribute(1, &[10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0])),
            attribute(0x8002, &attribute(0x8002, &verdict)),
            attribute(4, &10_000_u64.to_be_bytes()),
            attribute(5, &400_u64.to_be_bytes()),
        ]
        .concat();
        let found = element(&nested).unwrap();
        assert_eq!(address(&found.key, Family::V4), Some([10, 96, 0, 1].into()));
        assert_eq!(found.verdict, Some((-4, "cluster-a/b/tcp/".to_owned())));
        assert_eq!(found.lasts, Some((10_000, 400)));
        for length in 0..nested.len() {
            element(&nested[..length]);
        }
    }
}
