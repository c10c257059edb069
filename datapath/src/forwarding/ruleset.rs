//! What the judge knows of other people's rules, from whichever kind of tables: chains, matches and verdicts, as plain data. What it does not
//! know is said to be unknown, never left out.

use std::collections::HashMap;

use ipnetwork::IpNetwork;

/// Which program's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Backend {
    /// nftables, and with it iptables-nft.
    Nft,
    /// The kernel's older tables: iptables-legacy.
    Legacy,
}

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Family {
    Ip,
    Ip6,
    Inet,
    Netdev,
}

impl Family {
    pub(super) const fn sees(self, ipv4: bool) -> bool {
        !matches!((self, ipv4), (Self::Ip, false) | (Self::Ip6, true))
    }

    pub(super) const fn keyword(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Netdev => "netdev",
        }
    }
}

/// A table's name and place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Table {
    pub(super) backend: Backend,
    pub(super) family: Family,
    pub(super) name: String,
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.backend, self.family) {
            (Backend::Legacy, Family::Ip6) => write!(f, "ip6tables-legacy {}", self.name),
            (Backend::Legacy, _) => write!(f, "iptables-legacy {}", self.name),
            (Backend::Nft, family) => write!(f, "{} {}", family.keyword(), self.name),
        }
    }
}

/// Where a forwarded packet meets a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// Before anything else, of one device.
    Ingress,
    Prerouting,
    Forward,
    Postrouting,
    /// Of one device.
    Egress,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) hook: Hook,
    pub(super) drops: bool,
    /// Of hooks that belong to devices.
    pub(super) devices: Vec<String>,
}

/// A chain with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// All of them have to hold.
    pub(super) matches: Vec<Match>,
    pub(super) verdict: Verdict,
    pub(super) sets_mark: bool,
    /// We have put it there.
    pub(super) is_ours: bool,
}

/// A condition, or its opposite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) test: Test,
    pub(super) is_negated: bool,
}

/// What a match looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    Source(IpNetwork),
    Destination(IpNetwork),
    In(Name),
    Out(Name),
    /// The connection's state is one of these bits (`NF_CT_STATE_BIT`, linux/netfilter/nf_conntrack_common.h).
    State(u32),
    /// A mark, under a mask.
    Mark(u32, u32),
    Protocol(u8),
    /// IPv4?
    Family(bool),
    /// Source or destination is the host's own, or no address of one receiver.
    Local,
    /// The way back to the source is by another interface.
    ReversePathFails,
    Any(Vec<Test>),
    Always,
    /// Whatever else.
    Unknown,
}

/// An interface's name, or how it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) is_prefix: bool,
}

/// What becomes of a packet that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    /// Dropped or refused, or given to a program.
    Drop,
    Queue,
    /// It gets another address, or another receiver.
    Translate,
    Return,
    Jump(String),
    Goto(String),
    /// The next rule.
    Continue,
}

/// Connection states of [`Test::State`].
pub(super) const ESTABLISHED: u32 = 2;
pub(super) const RELATED: u32 = 4;
pub(super) const NEW: u32 = 8;

/// What begins the comment of each rule that we put into other people's chains.
pub(super) const OUR_COMMENT: &str = "barewire:";

impl Match {
    pub(super) const fn of(test: Test) -> Self {
        Self { test, is_negated: false }
    }
}

impl Rule {
    pub(super) const fn new(matches: Vec<Match>, verdict: Verdict) -> Self {
        Self { matches, verdict, sets_mark: false, is_ours: false }
    }
}

/// All chains that a forwarded packet may come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    pub(super) chains: HashMap<(Table, String), Chain>,
    /// Addresses of services, as kube-proxy's nftables rules have them.
    pub(super) services: Vec<IpNetwork>,
    /// Chains and tables by which a NetworkPolicy engine is known.
    pub(super) engines: Vec<(Family, String)>,
    /// What could not be read.
    pub(super) unread: Vec<(Family, String)>,
}

impl Ruleset {
    /// Whether firewalld has put rules in the place of its own until it has made them anew. (Its panic mode has another chain there.)
    pub(super) fn is_being_reloaded(&self) -> bool {
        let table = Table { backend: Backend::Nft, family: Family::Inet, name: "firewalld_policy_drop".to_owned() };
        self.chains.contains_key(&(table, "filter_forward".to_owned()))
    }
}

/// kube-proxy's chains for one service or endpoint: whoever comes there is translated, so there is nothing in them to read, and there may be
/// tens of thousands.
pub(super) fn is_of_one_service(chain: &str) -> bool {
    ["KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-", "KUBE-SVL-"].iter().any(|prefix| chain.starts_with(prefix))
}

/// The NetworkPolicy engine that makes chains or tables of this name.
pub(super) fn engine_of(name: &str) -> Option<&'static str> {
    const ENGINES: [(&str, &str); 8] = [
        ("KUBE-ROUTER-FORWARD", "kube-router"),
        ("KUBE-NWPLCY-", "kube-router"),
        ("KUBE-POD-FW-", "kube-router"),
        ("cali-", "Calico"),
        ("WEAVE-NPC", "Weave Net"),
        ("kube-network-policies", "kube-network-policies"),
        ("ANTREA-POL", "Antrea"),
        ("AWS-NP-", "the AWS network policy agent"),
    ];
    ENGINES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, engine)| *engine)
}
