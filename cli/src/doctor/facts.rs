//! What was seen of a node: plain data, gathered in [`super::gather`], judged in [`super::checks`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

/// Something that could not be seen, and why.
pub(super) type Seen<T> = Result<T, String>;

/// All of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) kernel: Kernel,
    /// By name, `net/ipv4/ip_forward`; one that the kernel has not is missing.
    pub(super) sysctls: BTreeMap<String, i64>,
    pub(super) configuration: Option<Seen<Configuration>>,
    pub(super) links: Vec<Link>,
    /// Default routes over IPv4: interface, and the MTU where the route has one of its own.
    pub(super) default_routes: Vec<(String, Option<u32>)>,
    pub(super) path_mtus: Vec<PathMtu>,
    pub(super) nft: Option<Seen<String>>,
    pub(super) forward_drops: Option<Seen<Vec<ForwardDrop>>>,
    /// Nothing where it does not run.
    pub(super) networkd: Option<Networkd>,
    /// Whether it leaves the pods' links alone; nothing where it does not run.
    pub(super) network_manager: Option<bool>,
    pub(super) agents: Vec<Agent>,
    pub(super) lists: Option<Seen<Lists>>,
    pub(super) plugins: Vec<Plugin>,
    pub(super) files: Vec<FileFound>,
    pub(super) clock: Clock,
    /// The daemon's `/status`.
    pub(super) daemon: Option<Seen<Value>>,
    /// The command line of a kube-proxy that runs.
    pub(super) kube_proxy: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Kernel {
    /// `uname -r`
    pub(super) release: String,
    /// Whether `/sys/fs/bpf` is a BPF file system.
    pub(super) bpf_fs: bool,
}

/// What counts here of the daemon's file.
#[derive(Debug, Clone)]
pub(super) struct Configuration {
    pub(super) path: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) cni_conf_file: PathBuf,
    pub(super) bin_dirs: Vec<PathBuf>,
    /// Whether pods get IPv6 addresses.
    pub(super) ipv6: bool,
    /// `source.kind`
    pub(super) source: String,
    /// `network.fast_path` is not `off`.
    pub(super) fast_path: bool,
    /// `network.forward_accept`
    pub(super) forward_accept: bool,
    /// `uplink.secondary`
    pub(super) further: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) mtu: u32,
}

impl Link {
    /// The host end of a pod's link: `bw` and ten hexadecimal digits.
    pub(super) fn is_of_pod(&self) -> bool {
        self.name.strip_prefix("bw").is_some_and(|rest| rest.len() == 10 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }
}

/// What an echo request of the uplink's MTU, that must not be cut, met on its way.
#[derive(Debug, Clone)]
pub(super) struct PathMtu {
    pub(super) to: String,
    pub(super) size: u32,
    pub(super) outcome: PathOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathOutcome {
    Answered,
    /// A router said how large a packet may be.
    Narrower(u32),
    /// A small one is answered, this one is not, and nobody says why.
    Swallowed,
    Silent,
    Unseen(String),
}

/// A chain that drops what is forwarded where no rule accepts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ForwardDrop {
    /// `nft ip filter FORWARD`
    pub(super) chain: String,
    /// It has the rules of `network.forward_accept`.
    pub(super) accepts_pods: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Networkd {
    pub(super) keeps_foreign_routes: bool,
    pub(super) keeps_foreign_rules: bool,
    /// The `.network` file that configures pods' links.
    pub(super) claims_pod_links: Option<PathBuf>,
}

/// A program that other interfaces or addresses of this node are made by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agent {
    pub(super) name: &'static str,
    pub(super) does: &'static str,
    pub(super) remedy: &'static str,
    /// Where pods have no network for it.
    pub(super) severe: bool,
}

/// The runtime's directory of network configurations.
#[derive(Debug, Clone)]
pub(super) struct Lists {
    pub(super) directory: PathBuf,
    pub(super) ours: String,
    /// In the runtime's order.
    pub(super) names: Vec<String>,
    /// Of ours.
    pub(super) cni_version: Option<String>,
}

/// A plugin of our list.
#[derive(Debug, Clone)]
pub(super) struct Plugin {
    pub(super) kind: String,
    /// Where it is, and what it answers to VERSION.
    pub(super) found: Option<(PathBuf, Seen<Vec<String>>)>,
    pub(super) searched: Vec<PathBuf>,
}

#[derive(Debug, Clone)]
pub(super) struct FileFound {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) expected: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nobody but its owner writes it.
    OthersDoNotWrite,
    /// Nobody but its owner has anything of it.
    Private,
    /// Likewise, and everybody may execute it.
    Program,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// Since 1970; negative before.
    pub(super) now_seconds: i64,
    /// When this program was made, by its file: no clock that is right says an earlier time.
    pub(super) not_before_seconds: i64,
    /// What keeps it.
    pub(super) kept_by: Option<&'static str>,
    /// What keeps it has said that it is right, where it says so.
    pub(super) synchronized: Option<bool>,
}
