//! Reads the kernel's older tables, as `iptables-legacy-save` prints them. Only where they are in use: the program would make them.

use std::collections::HashMap;
use std::process::Command;

use ipnetwork::IpNetwork;

use super::decode::{address_type, sets_mark, target};
use super::ruleset::{
    Backend, Base, Chain, ESTABLISHED, Family, Hook, Match, NEW, Name, OUR_COMMENT, RELATED, Rule, Ruleset, Table, Test, Verdict,
    engine_of, is_of_one_service,
};
use crate::nft::output_of;

/// The programs, the first that is there: a distribution without nftables calls them by their old names.
const PROGRAMS: [(Family, &str, [&str; 2]); 2] = [
    (Family::Ip, "/proc/thread-self/net/ip_tables_names", ["iptables-legacy-save", "iptables-save"]),
    (Family::Ip6, "/proc/thread-self/net/ip6_tables_names", ["ip6tables-legacy-save", "ip6tables-save"]),
];

/// What the programs say, by family; empty where there is nothing. To tell whether anything has changed.
pub(super) fn print() -> Vec<(Family, Result<String, String>)> {
    let mut printed = Vec::new();
    for (family, names, programs) in PROGRAMS {
        let in_use = std::fs::read_to_string(names).unwrap_or_default();
        if in_use.trim().is_empty() {
            continue;
        }
        let tried = programs.iter().find_map(|program| output_of(Command::new(program)).transpose());
        let text = match tried {
            Some(Ok(text)) => Ok(without_counters(&text)),
            Some(Err(why)) => Err(format!("{}: {why}", programs[0])),
            None => Err(format!(
                "there is no {} to read the tables {} with",
                programs[0],
                in_use.split_whitespace().collect::<Vec<_>>().join(", ")
            )),
        };
        printed.push((family, text));
    }
    printed
}

/// Counters of chains and the time of the day change by themselves.
fn without_counters(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| if line.starts_with(':') { line.split(" [").next().unwrap_or(line) } else { line }.to_owned() + "\n").collect()
}

/// Adds what was printed to a ruleset. Pure.
pub(super) fn read(family: Family, text: &str, into: &mut Ruleset) {
    let mut table = Table { backend: Backend::Legacy, family, name: String::new() };
    let mut chains: HashMap<(Table, String), Chain> = HashMap::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table.name);
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_whitespace();
            let (name, policy) = (words.next().unwrap_or_default(), words.next().unwrap_or("-"));
            if let Some(engine) = engine_of(name)
                && !into.engines.iter().any(|(known, _)| *known == family)
            {
                into.engines.push((family, format!("chain {name} of {table} belongs to a NetworkPolicy engine ({engine})")));
            }
            let hook = match name {
                "PREROUTING" => Some(Hook::Prerouting),
                "FORWARD" => Some(Hook::Forward),
                "POSTROUTING" => Some(Hook::Postrouting),
                _ => None,
            };
            let base = hook.map(|hook| Base { hook, drops: policy == "DROP", devices: Vec::new() });
            chains.insert((table.clone(), name.to_owned()), Chain { base, rules: Vec::new() });
        } else if let Some((name, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' '))
            && !is_of_one_service(name)
            && let Some(chain) = chains.get_mut(&(table.clone(), name.to_owned()))
        {
            chain.rules.push(self::rule(rule));
        }
    }
    into.chains.extend(chains);
}

/// Matches that hold for some packets, whatever their options say.
const BY_BEING_THERE: [&str; 7] = ["limit", "statistic", "hashlimit", "connlimit", "quota", "recent", "time"];

/// One rule; an option that is not known may mean anything.
fn rule(text: &str) -> Rule {
    let words = words(text);
    let mut words = words.iter().map(String::as_str).peekable();
    let mut rule = Rule::new(Vec::new(), Verdict::Continue);
    let mut is_negated = false;
    while let Some(word) = words.next() {
        let mut push = |test| rule.matches.push(Match { test, is_negated });
        match word {
            "!" => {
                is_negated = true;
                continue;
            }
            "-s" => push(words.next().and_then(cidr).map_or(Test::Unknown, Test::Source)),
            "-d" => push(words.next().and_then(cidr).map_or(Test::Unknown, Test::Destination)),
            "-i" => push(Test::In(name(words.next().unwrap_or_default()))),
            "-o" => push(Test::Out(name(words.next().unwrap_or_default()))),
            "-p" => push(protocol(words.next().unwrap_or_default())),
            // What a match says comes as options of its own, but for those that say all by being there.
            "-m" => {
                if !BY_BEING_THERE.contains(&words.next().unwrap_or_default()) {
                    continue;
                }
                push(Test::Unknown);
            }
            "--comment" => rule.is_ours |= words.next().is_some_and(|comment| comment.starts_with(OUR_COMMENT)),
            "--ctstate" | "--state" => push(states(words.next().unwrap_or_default())),
            "--mark" => push(words.next().and_then(mark).unwrap_or(Test::Unknown)),
            "--dst-type" => rule.matches.push(address_type(0, kind(words.next()), false, is_negated)),
            "--src-type" => rule.matches.push(address_type(kind(words.next()), 0, is_negated, false)),
            "--invert" => rule.matches.push(Match::of(Test::ReversePathFails)),
            "-j" | "-g" => {
                let to = words.next().unwrap_or_default();
                rule.verdict = match (target(to), is_target(to)) {
                    (Verdict::Continue, false) if word == "-j" => Verdict::Jump(to.to_owned()),
                    (Verdict::Continue, false) => Verdict::Goto(to.to_owned()),
                    (verdict, _) => verdict,
                };
                rule.sets_mark = sets_mark(to);
                // Its options say how, which does not matter.
                return rule;
            }
            option if option.starts_with('-') => push(Test::Unknown),
            // A word of an option that is not known.
            _ => {}
        }
        is_negated = false;
    }
    rule
}

/// Names of targets are capitals, and so are many chains': these are the targets that pass a packet on.
fn is_target(name: &str) -> bool {
    const PASSING: [&str; 22] = [
        "LOG",
        "NFLOG",
        "ULOG",
        "TRACE",
        "MARK",
        "CONNMARK",
        "CT",
        "NOTRACK",
        "CHECKSUM",
        "TCPMSS",
        "TCPOPTSTRIP",
        "DSCP",
        "TOS",
        "TTL",
        "HL",
        "CLASSIFY",
        "SET",
        "AUDIT",
        "IDLETIMER",
        "SECMARK",
        "CONNSECMARK",
        "TEE",
    ];
    PASSING.contains(&name)
}

fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut escaped, mut begun) = (Vec::new(), String::new(), false, false, false);
    for letter in text.chars() {
        match letter {
            _ if escaped => {
                word.push(letter);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            ' ' if !quoted => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            _ => word.push(letter),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

fn cidr(text: &str) -> Option<IpNetwork> {
    text.parse().ok()
}

fn name(text: &str) -> Name {
    text.strip_suffix('+')
        .map_or_else(|| Name { text: text.to_owned(), is_prefix: false }, |begin| Name { text: begin.to_owned(), is_prefix: true })
}

fn protocol(text: &str) -> Test {
    match text {
        "all" => Test::Always,
        "icmp" => Test::Protocol(1),
        "tcp" => Test::Protocol(6),
        "udp" => Test::Protocol(17),
        "ipv6-icmp" | "icmpv6" => Test::Protocol(58),
        other => other.parse().map_or(Test::Protocol(255), Test::Protocol),
    }
}

fn states(text: &str) -> Test {
    const INVALID: u32 = 1;
    const UNTRACKED: u32 = 64;
    let mut bits = 0;
    for state in text.split(',') {
        bits |= match state {
            "INVALID" => INVALID,
            "ESTABLISHED" => ESTABLISHED,
            "RELATED" => RELATED,
            "NEW" => NEW,
            "UNTRACKED" => UNTRACKED,
            // That a connection is translated.
            _ => return Test::Unknown,
        };
    }
    Test::State(bits)
}

fn mark(text: &str) -> Option<Test> {
    let number = |text: &str| text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    Some(Test::Mark(number(mask)?, number(value)?))
}

fn kind(name: Option<&str>) -> u16 {
    let bit = |name: &str| match name {
        "LOCAL" => 1 << 2,
        "BROADCAST" => 1 << 3,
        "ANYCAST" => 1 << 4,
        "MULTICAST" => 1 << 5,
        _ => 1,
    };
    name.unwrap_or_default().split(',').fold(0, |bits, name| bits | bit(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_it_is_printed() {
        let rule = rule(
            r#"! -s 10.0.0.0/8 -i bw+ -p tcp -m conntrack --ctstate NEW,INVALID -m comment --comment "a \"b\" -j c" -j REJECT --reject-with x"#,
        );
        let negated = Match { test: Test::Source("10.0.0.0/8".parse().unwrap()), is_negated: true };
        let in_pods = Match::of(Test::In(Name { text: "bw".to_owned(), is_prefix: true }));
        assert_eq!(rule.matches, [negated, in_pods, Match::of(Test::Protocol(6)), Match::of(Test::State(NEW | 1))]);
        assert_eq!(rule.verdict, Verdict::Drop);
    }

    #[test]
    fn what_is_not_known_may_mean_anything() {
        assert_eq!(rule("-m set --match-set blocked dst -j DROP").matches, [Match::of(Test::Unknown)]);
        assert_eq!(rule("-m limit --limit 1/sec -j DROP").matches[0], Match::of(Test::Unknown));
        assert_eq!(rule("-j KUBE-FORWARD").verdict, Verdict::Jump("KUBE-FORWARD".to_owned()));
        assert_eq!(rule("-j LOG --log-prefix \"x \"").verdict, Verdict::Continue);
        assert_eq!(rule("-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS").matches, [Match::of(Test::Local)]);
        assert_eq!(rule("-m mark --mark 0x4000/0x4000 -j ACCEPT").matches, [Match::of(Test::Mark(0x4000, 0x4000))]);
        assert!(rule("-s 10.0.1.16/28 -m comment --comment \"barewire: x\" -j ACCEPT").is_ours);
    }

    #[test]
    fn tables_have_chains_and_policies() {
        let mut ruleset = Ruleset::default();
        read(Family::Ip, "# x\n*filter\n:FORWARD DROP\n:KUBE-ROUTER-FORWARD -\n-A FORWARD -j KUBE-ROUTER-FORWARD\nCOMMIT\n", &mut ruleset);
        let table = Table { backend: Backend::Legacy, family: Family::Ip, name: "filter".to_owned() };
        let chain = &ruleset.chains[&(table, "FORWARD".to_owned())];
        assert!(chain.base.as_ref().unwrap().drops && chain.rules.len() == 1);
        assert!(ruleset.engines[0].1.contains("kube-router"));
    }
}
