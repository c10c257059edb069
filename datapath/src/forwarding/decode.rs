//! Rules of nftables as the kernel tells them: a list of expressions that load registers and compare them (linux/netfilter/nf_tables.h).
//! Pure. Of iptables-nft's own matches and targets those are known that decide about forwarded packets.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::ruleset::{Family, Match, Name, OUR_COMMENT, Rule, Test, Verdict};
use crate::prefixes;
use crate::raw_netlink::{attributes, network_number, number};

/// Elements of a set or map: first and last key, and the verdict of a verdict map.
pub(super) type Elements = Vec<(Vec<u8>, Vec<u8>, Option<Verdict>)>;

/// What a register holds.
#[derive(Debug, Clone)]
enum Loaded {
    /// Bytes of the network header.
    Network {
        offset: u32,
        length: u32,
    },
    Meta(u32),
    State,
    /// Result and flags of a `fib` expression.
    Fib(u32, u32),
    Other,
}

#[derive(Debug, Clone)]
struct Register {
    loaded: Loaded,
    mask: Option<Vec<u8>>,
    is_plain: bool,
}

/// `NFT_META_*`
mod meta {
    pub(super) const PROTOCOL: u32 = 1;
    pub(super) const MARK: u32 = 3;
    pub(super) const IIFNAME: u32 = 6;
    pub(super) const OIFNAME: u32 = 7;
    pub(super) const NFPROTO: u32 = 15;
    pub(super) const L4PROTO: u32 = 16;
}

/// Reads a rule's expressions; several rules where a verdict map decides. `elements` are those of the sets that it names.
pub(super) fn rules(family: Family, rule: &[u8], elements: &HashMap<String, Elements>) -> Vec<Rule> {
    const EXPRESSIONS: u16 = 4;
    const USER_DATA: u16 = 7;
    let mut decoder = Decoder { family, elements, registers: HashMap::new(), rule: Rule::new(Vec::new(), Verdict::Continue), map: None };
    for (kind, value) in attributes(rule) {
        match kind {
            EXPRESSIONS => expressions(value).for_each(|(name, data)| decoder.expression(name, data)),
            // A comment there is the first of its own attributes: type, length, text.
            USER_DATA if value.get(2..).is_some_and(|text| text.starts_with(OUR_COMMENT.as_bytes())) => decoder.rule.is_ours = true,
            _ => {}
        }
    }
    let Decoder { rule, map, .. } = decoder;
    match map {
        None => vec![rule],
        Some(map) => map
            .into_iter()
            .map(|(test, verdict)| {
                let mut one = rule.clone();
                one.matches.push(Match::of(test));
                Rule { verdict, ..one }
            })
            .collect(),
    }
}

/// The names of the sets and maps that a rule looks something up in.
pub(super) fn sets(rule: &[u8]) -> Vec<String> {
    const EXPRESSIONS: u16 = 4;
    const SET: u16 = 1;
    let of_rule = attributes(rule).filter(|(kind, _)| *kind == EXPRESSIONS).flat_map(|(_, value)| expressions(value));
    let lookups = of_rule.filter(|(name, _)| *name == "lookup");
    lookups.filter_map(|(_, data)| attributes(data).find(|(kind, _)| *kind == SET)).map(|(_, name)| text(name)).collect()
}

fn expressions(list: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    attributes(list).filter_map(|(_, element)| {
        let name = attributes(element).find(|(kind, _)| *kind == 1)?.1;
        let data = attributes(element).find(|(kind, _)| *kind == 2).map_or(&[][..], |(_, data)| data);
        Some((std::str::from_utf8(name).ok()?.trim_end_matches('\0'), data))
    })
}

pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A verdict (`NFTA_VERDICT_*`).
pub(super) fn verdict(data: &[u8]) -> Verdict {
    const CODE: u16 = 1;
    const CHAIN: u16 = 2;
    let code = attributes(data).find(|(kind, _)| *kind == CODE).map_or(0, |(_, code)| network_number(code).cast_signed());
    let chain = || attributes(data).find(|(kind, _)| *kind == CHAIN).map(|(_, name)| text(name)).unwrap_or_default();
    match code {
        1 => Verdict::Accept,
        -1 | -2 => Verdict::Continue,
        -3 => Verdict::Jump(chain()),
        -4 => Verdict::Goto(chain()),
        -5 => Verdict::Return,
        code if code & 0xff == 3 => Verdict::Queue,
        _ => Verdict::Drop,
    }
}

struct Decoder<'a> {
    family: Family,
    elements: &'a HashMap<String, Elements>,
    registers: HashMap<u32, Register>,
    rule: Rule,
    map: Option<Vec<(Test, Verdict)>>,
}

impl Decoder<'_> {
    fn expression(&mut self, name: &str, data: &[u8]) {
        let attribute = |wanted: u16| attributes(data).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let numeric = |wanted: u16| attribute(wanted).map(network_number);
        let value =
            |wanted: u16| attribute(wanted).and_then(|nested| attributes(nested).find(|(kind, _)| *kind == 1)).map(|(_, value)| value);
        match name {
            "payload" => {
                // One that writes does not read.
                if let Some(into) = numeric(1) {
                    let loaded = match numeric(2) {
                        Some(1) => Loaded::Network { offset: numeric(3).unwrap_or(0), length: numeric(4).unwrap_or(0) },
                        _ => Loaded::Other,
                    };
                    self.load(into, loaded);
                }
            }
            "meta" => match (numeric(1), numeric(2)) {
                (Some(into), Some(key)) => self.load(into, Loaded::Meta(key)),
                (None, Some(meta::MARK)) => self.rule.sets_mark = true,
                _ => {}
            },
            "ct" => {
                if let Some(into) = numeric(1) {
                    self.load(into, if numeric(2) == Some(0) { Loaded::State } else { Loaded::Other });
                }
            }
            "fib" => {
                if let Some(into) = numeric(1) {
                    self.load(into, Loaded::Fib(numeric(2).unwrap_or(0), numeric(3).unwrap_or(0)));
                }
            }
            "bitwise" => self.bitwise(numeric(1), numeric(2), value(4), value(5)),
            "cmp" => {
                let test = self.compared(numeric(1), numeric(2).unwrap_or(u32::MAX), value(3).unwrap_or_default());
                self.rule.matches.push(test);
            }
            "lookup" => self.lookup(attribute(1).map(text).unwrap_or_default(), numeric(2), numeric(3), numeric(5).unwrap_or(0)),
            "immediate" => {
                const VERDICT: u16 = 2;
                let told = attribute(2).and_then(|nested| attributes(nested).find(|(kind, _)| *kind == VERDICT));
                if let Some((_, told)) = told {
                    self.rule.verdict = verdict(told);
                }
            }
            "match" => {
                let (revision, info) = (numeric(2).unwrap_or(0), attribute(3).unwrap_or_default());
                self.extension(&attribute(1).map(text).unwrap_or_default(), revision, info);
            }
            "target" => self.target(&attribute(1).map(text).unwrap_or_default()),
            "reject" | "synproxy" => self.rule.verdict = Verdict::Drop,
            "queue" => self.rule.verdict = Verdict::Queue,
            "nat" | "masq" | "redir" | "tproxy" => self.rule.verdict = Verdict::Translate,
            // These pass every packet on, or do nothing to where it goes.
            "counter" | "log" | "notrack" | "flow_offload" | "dup" | "last" | "dynset" | "objref" => {}
            // Limits and quotas hold for some packets, and others load what is not known here.
            "limit" | "quota" | "connlimit" | "range" => self.rule.matches.push(Match::of(Test::Unknown)),
            _ => {
                if let Some(into) = numeric(1) {
                    self.load(into, Loaded::Other);
                }
                self.rule.matches.push(Match::of(Test::Unknown));
            }
        }
    }

    fn load(&mut self, register: u32, loaded: Loaded) {
        self.registers.insert(whole(register), Register { loaded, mask: None, is_plain: true });
    }

    fn bitwise(&mut self, from: Option<u32>, into: Option<u32>, mask: Option<&[u8]>, xor: Option<&[u8]>) {
        let (Some(from), Some(into)) = (from, into) else { return };
        let Some(mut register) = self.registers.get(&whole(from)).cloned() else { return };
        let is_mask = mask.is_some() && register.mask.is_none() && xor.is_none_or(|xor| xor.iter().all(|byte| *byte == 0));
        register.is_plain &= is_mask;
        register.mask = mask.map(<[u8]>::to_vec);
        self.registers.insert(whole(into), register);
    }

    fn compared(&self, register: Option<u32>, operator: u32, value: &[u8]) -> Match {
        const EQUAL: u32 = 0;
        const NOT_EQUAL: u32 = 1;
        let register = register.and_then(|register| self.registers.get(&whole(register))).filter(|register| register.is_plain);
        let Some(register) = register.filter(|_| operator <= NOT_EQUAL) else { return Match::of(Test::Unknown) };
        // Flags are tested for "any of these", which is "not none".
        if let (Loaded::State, Some(mask)) = (&register.loaded, &register.mask) {
            return match value.iter().all(|byte| *byte == 0) {
                true => Match { test: Test::State(number(mask)), is_negated: operator == EQUAL },
                false => Match::of(Test::Unknown),
            };
        }
        Match { test: self.test(register, value, value), is_negated: operator == NOT_EQUAL }
    }

    /// That what a register holds is from `first` to `last`.
    fn test(&self, register: &Register, first: &[u8], last: &[u8]) -> Test {
        let is_one = first == last;
        match &register.loaded {
            Loaded::Network { offset, length } => self.network_test(*offset, *length, register.mask.as_deref(), first, last),
            Loaded::State if is_one => Test::State(number(first)),
            Loaded::Meta(key) if is_one => match *key {
                meta::IIFNAME => Test::In(name(first)),
                meta::OIFNAME => Test::Out(name(first)),
                meta::MARK => Test::Mark(register.mask.as_deref().map_or(u32::MAX, number), number(first)),
                meta::NFPROTO if first.len() == 1 => Test::Family(first[0] == 2),
                meta::PROTOCOL if first.len() == 2 => Test::Family(first == [8, 0]),
                meta::L4PROTO if first.len() == 1 => Test::Protocol(first[0]),
                _ => Test::Unknown,
            },
            Loaded::Fib(result, flags) if is_one => fib(*result, *flags, number(first)),
            _ => Test::Unknown,
        }
    }

    fn network_test(&self, offset: u32, length: u32, mask: Option<&[u8]>, first: &[u8], last: &[u8]) -> Test {
        let ipv4 = match (self.family, offset) {
            (Family::Ip, _) => true,
            (Family::Ip6, _) => false,
            (_, 12 | 16) if length <= 4 => true,
            (_, 9) if length == 1 => true,
            _ => false,
        };
        let is_source = match (ipv4, offset) {
            (true, 9) | (false, 6) if length == 1 && first == last => {
                return first.first().map_or(Test::Unknown, |number| Test::Protocol(*number));
            }
            (true, 12) | (false, 8) => true,
            (true, 16) | (false, 24) => false,
            _ => return Test::Unknown,
        };
        let cidrs = match mask {
            Some(mask) if first == last => prefix_length(mask).map(|bits| vec![cidr(ipv4, first, bits)]),
            Some(_) => None,
            None if first == last => u8::try_from(length * 8).ok().map(|bits| vec![cidr(ipv4, first, bits)]),
            None => Some(prefixes::of_interval(ipv4, address(ipv4, first), address(ipv4, last))),
        };
        let Some(cidrs) = cidrs.filter(|_| length <= u32::from(prefixes::width(ipv4)) / 8) else { return Test::Unknown };
        let mut tests: Vec<_> =
            cidrs.into_iter().map(|cidr| if is_source { Test::Source(cidr) } else { Test::Destination(cidr) }).collect();
        if tests.len() == 1 { tests.remove(0) } else { Test::Any(tests) }
    }

    fn lookup(&mut self, set: String, register: Option<u32>, verdict: Option<u32>, flags: u32) {
        const INVERTED: u32 = 1;
        let register = register.and_then(|register| self.registers.get(&whole(register))).filter(|register| register.is_plain);
        let known = self.elements.get(&set);
        let tests = |elements: &Elements| -> Vec<(Test, Option<Verdict>)> {
            let of = |(first, last, verdict): &(Vec<u8>, Vec<u8>, Option<Verdict>)| {
                (register.map_or(Test::Unknown, |register| self.test(register, first, last)), verdict.clone())
            };
            elements.iter().map(of).collect()
        };
        match (known, verdict) {
            (Some(elements), Some(_)) => {
                let decided = tests(elements).into_iter().map(|(test, verdict)| (test, verdict.unwrap_or(Verdict::Continue)));
                self.map = Some(decided.collect());
            }
            (Some(elements), None) => {
                let any = tests(elements).into_iter().map(|(test, _)| test).collect();
                self.rule.matches.push(Match { test: Test::Any(any), is_negated: flags & INVERTED != 0 });
            }
            (None, Some(_)) => self.map = Some(vec![(Test::Unknown, Verdict::Drop)]),
            (None, None) => self.rule.matches.push(Match::of(Test::Unknown)),
        }
    }

    /// A match of iptables (`struct xt_*_info`, linux/netfilter/xt_*.h).
    fn extension(&mut self, name: &str, revision: u32, info: &[u8]) {
        let half = |at: usize| info.get(at..at + 2).map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
        let word = |at: usize| info.get(at..).map_or(0, number);
        let test = match (name, revision) {
            ("comment", _) => {
                self.rule.is_ours |= text(info).starts_with(OUR_COMMENT);
                return;
            }
            ("state", 0) => Match::of(Test::State(word(0))),
            ("conntrack", 2 | 3) => {
                const STATE: u16 = 1;
                let (what, inverted) = (half(146), half(148));
                if what & !STATE != 0 {
                    Match::of(Test::Unknown)
                } else {
                    Match { test: Test::State(half(150).into()), is_negated: inverted & STATE != 0 }
                }
            }
            ("mark", 1) => Match { test: Test::Mark(word(4), word(0)), is_negated: info.get(8).is_some_and(|invert| *invert != 0) },
            ("addrtype", 1) => address_type(half(0), half(2), word(4) & 1 != 0, word(4) & 2 != 0),
            ("addrtype", 0) => address_type(half(0), half(2), word(4) != 0, word(8) != 0),
            // Its own inversion makes it the failure that is tested.
            ("rpfilter", _) => Match { test: Test::ReversePathFails, is_negated: info.first().is_none_or(|flags| flags & 8 == 0) },
            _ => Match::of(Test::Unknown),
        };
        self.rule.matches.push(test);
    }

    fn target(&mut self, name: &str) {
        self.rule.verdict = target(name);
        self.rule.sets_mark |= sets_mark(name);
    }
}

/// What a target of iptables does.
pub(super) fn target(name: &str) -> Verdict {
    match name {
        "ACCEPT" => Verdict::Accept,
        "RETURN" => Verdict::Return,
        "DROP" | "REJECT" | "SYNPROXY" | "TARPIT" => Verdict::Drop,
        "NFQUEUE" | "QUEUE" => Verdict::Queue,
        "DNAT" | "SNAT" | "MASQUERADE" | "REDIRECT" | "NETMAP" | "TPROXY" => Verdict::Translate,
        _ => Verdict::Continue,
    }
}

/// Whether a target of iptables may change a packet's mark.
pub(super) fn sets_mark(target: &str) -> bool {
    ["MARK", "CONNMARK", "TPROXY"].contains(&target)
}

/// An address type by its bits (`1 << RTN_*`): local is bit 2, broadcast, anycast and multicast 3 to 5.
pub(super) fn address_type(source: u16, destination: u16, not_source: bool, not_destination: bool) -> Match {
    const LOCAL: u16 = 0b11_1100;
    let (bits, is_negated) = match (source, destination) {
        (0, bits) => (bits, not_destination),
        (bits, 0) => (bits, not_source),
        _ => return Match::of(Test::Unknown),
    };
    if bits != 0 && bits & !LOCAL == 0 { Match { test: Test::Local, is_negated } } else { Match::of(Test::Unknown) }
}

/// `NFT_FIB_RESULT_*`, `NFTA_FIB_F_*`
fn fib(result: u32, flags: u32, value: u32) -> Test {
    const INTERFACES: [u32; 2] = [1, 2];
    const TYPE: u32 = 3;
    const SOURCE: u32 = 1;
    /// `RTN_LOCAL` to `RTN_MULTICAST`, linux/rtnetlink.h
    const LOCAL: std::ops::RangeInclusive<u32> = 2..=5;
    if result == TYPE && LOCAL.contains(&value) {
        Test::Local
    } else if INTERFACES.contains(&result) && flags & SOURCE != 0 && value == 0 {
        Test::ReversePathFails
    } else {
        Test::Unknown
    }
}

/// Registers of 16 bytes by the first of their four-byte parts (`NFT_REG_1`, `NFT_REG32_00`).
const fn whole(register: u32) -> u32 {
    match register {
        1..=4 => 8 + (register - 1) * 4,
        other => other,
    }
}

fn name(bytes: &[u8]) -> Name {
    // A whole name is filled up with zeroes; one that ends without any is how names begin.
    Name { text: text(bytes), is_prefix: !bytes.contains(&0) }
}

/// How many bits a mask begins with; `None` where others follow.
fn prefix_length(mask: &[u8]) -> Option<u8> {
    let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let leading = mask.iter().position(|byte| *byte != 0xff).map_or(mask.len() * 8, |at| at * 8 + mask[at].leading_ones() as usize);
    u8::try_from(ones).ok().filter(|ones| usize::from(*ones) == leading)
}

fn cidr(ipv4: bool, bytes: &[u8], bits: u8) -> IpNetwork {
    prefixes::prefix(ipv4, address(ipv4, bytes), bits.min(prefixes::width(ipv4)))
}

/// The leading bytes of an address.
fn address(ipv4: bool, bytes: &[u8]) -> u128 {
    let mut octets = [0; 16];
    let width = if ipv4 { 4 } else { 16 };
    octets.iter_mut().take(width).zip(bytes).for_each(|(octet, byte)| *octet = *byte);
    let [a, b, c, d, ..] = octets;
    prefixes::number(if ipv4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(octets) })
}
