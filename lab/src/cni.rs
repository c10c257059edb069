//! What wires the pods of a node: Barewire, or a reference plugin to measure and test beside it.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::json;

use super::command::{CONFIGURE, wait_until};
use super::error::{Context, Error, Result};
use super::node::{Node, Service};
use super::runtime::Release;
use crate::world;

/// Where Debian's `containernetworking-plugins` puts the reference plugins.
const DEBIAN_PLUGINS: &str = "/usr/lib/cni";

/// Where the runtime looks for plugins.
const BIN_DIR: &str = "/opt/cni/bin";

/// The daemon in a node.
pub const DAEMON: &str = "/usr/local/bin/barewired";
/// The kernel programs, which the daemon looks for beside itself.
const PROGRAMS: &str = "barewire-ebpf.o";

/// The daemon's configuration, bound in by the topology.
pub const DAEMON_CONFIG: &str = "/etc/barewire/barewired.toml";

/// The config list that the daemon writes when it is ready.
pub const DAEMON_CONFLIST: &str = "/etc/cni/net.d/00-barewire.conflist";

/// Asks the plugin in a node for its status.
const STATUS: &str = r#"echo '{"cniVersion":"1.1.0","name":"barewire","type":"barewire-cni"}' | CNI_COMMAND=STATUS CNI_PATH=/opt/cni/bin /opt/cni/bin/barewire-cni"#;

/// How long the daemon may take to be ready.
const READY: Duration = Duration::from_secs(20);

/// MTU of reference pods, that of the fabric.
const MTU: u32 = 9001;

/// What wires the pods of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeCni {
    /// `barewired` and `barewire-cni`.
    Barewire,
    /// A plugin of the CNI project with host-local, in the same ranges, with a masquerade rule of the lab's own.
    Reference(ReferencePlugin),
}

/// A plugin of the CNI project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferencePlugin {
    /// A veth pair and routes.
    Ptp,
    /// A veth pair on a Linux bridge.
    Bridge,
}

/// Where `barewired` and `barewire-cni` are: `BAREWIRE_BIN_DIR`, else the directory of this program, else its parent.
///
/// # Errors
/// When they are in none of them.
pub fn barewire_binaries() -> Result<PathBuf> {
    let here = env::current_exe().context(|| "find this program's file".to_owned())?;
    let candidates: Vec<PathBuf> = match env::var_os("BAREWIRE_BIN_DIR") {
        Some(directory) => vec![directory.into()],
        None => here.ancestors().skip(1).take(2).map(Path::to_path_buf).collect(),
    };
    let complete = |directory: &&PathBuf| ["barewired", "barewire-cni"].iter().all(|name| directory.join(name).is_file());
    candidates.iter().find(complete).cloned().ok_or_else(|| Error::Io {
        what: format!("find barewired and barewire-cni in {candidates:?}: build them, or set BAREWIRE_BIN_DIR to their directory"),
        cause: std::io::ErrorKind::NotFound.into(),
    })
}

/// What a daemon's configuration says of its fast path (`network.fast_path`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FastPath {
    /// It is used where the kernel can.
    Auto,
    /// Packets take the host's stack.
    Off,
}

impl FastPath {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Auto, Self::Off];

    /// The value of the key.
    #[must_use]
    pub const fn value(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

/// Writes a configuration for a node's daemon: the topology's, with keys of `[network]` (name and TOML value) in place of those that
/// it has, and beside the others. Answers its path in the node.
///
/// # Errors
/// When the topology binds no `barewired.toml` into the node.
pub fn configure(node: &Node, network: &[(&str, String)]) -> Result<&'static str> {
    const PATH: &str = "/run/barewired.toml";
    let given = node.host_path(DAEMON_CONFIG);
    let text = std::fs::read_to_string(&given).context(|| format!("read {DAEMON_CONFIG} of {}", node.name()))?;
    node.write(PATH, with_network_keys(&text, network))?;
    Ok(PATH)
}

fn with_network_keys(text: &str, keys: &[(&str, String)]) -> String {
    let lines: String = keys.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    let is_given = |line: &str| keys.iter().any(|(name, _)| line.split('=').next().is_some_and(|key| key.trim() == *name));
    let text: String = text.lines().filter(|line| !is_given(line)).map(|line| format!("{line}\n")).collect();
    text.replacen("[network]\n", &format!("[network]\n{lines}"), 1)
}

/// Installs the plugins in `node`. With [`NodeCni::Barewire`] the answer is the daemon, running and ready with `config`.
///
/// # Errors
/// When a plugin or its configuration is missing, or the daemon is not ready in time.
pub fn install(node: &Node, cni: NodeCni, config: &str) -> Result<Option<Daemon>> {
    install_beside(node, Release::Debian, cni, config)
}

/// As [`install`], beside the reference plugins of `plugins`.
///
/// # Errors
/// As [`install`].
pub fn install_beside(node: &Node, plugins: Release, cni: NodeCni, config: &str) -> Result<Option<Daemon>> {
    let directory = match plugins {
        Release::Debian => DEBIAN_PLUGINS.to_owned(),
        Release::Current => world::directory("cni-plugins")?.to_string_lossy().into_owned(),
    };
    node.run(&["sh", "-c", &format!("ln -sf {directory}/* {BIN_DIR}/")])?;
    match cni {
        NodeCni::Barewire => {
            let binaries = barewire_binaries()?;
            node.install(&binaries.join("barewire-cni"), &format!("{BIN_DIR}/barewire-cni"))?;
            node.install(&binaries.join("barewired"), DAEMON)?;
            // For whoever looks into the node; nothing of the lab needs it.
            let command = binaries.join("barewire");
            if command.is_file() {
                node.install(&command, "/usr/local/bin/barewire")?;
            }
            // Without them packets take the host's stack, as they do on a kernel that refuses them.
            let programs = binaries.join(PROGRAMS);
            if programs.is_file() {
                node.install(&programs, &format!("/usr/local/bin/{PROGRAMS}"))?;
            }
            Daemon::start(node, config).map(Some)
        }
        NodeCni::Reference(plugin) => {
            let plan = Plan::of(node)?;
            node.write("/etc/cni/net.d/10-reference.conflist", reference_conflist(plugin, &plan))?;
            node.write("/run/masquerade.nft", reference_masquerade(&plan))?;
            node.run(&["nft", "-f", "/run/masquerade.nft"])?;
            Ok(None)
        }
    }
}

/// `barewired` in a node.
#[derive(Debug)]
pub struct Daemon {
    node: Node,
    config: String,
    service: Service,
}

impl Daemon {
    /// Starts the daemon with the configuration at `config`, a path of the node, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time; it is ended then, and the end of its log is in the message.
    pub fn start(node: &Node, config: &str) -> Result<Self> {
        let service = node.start_service("barewired", &[DAEMON, "--config", config])?;
        let daemon = Self { node: node.clone(), config: config.to_owned(), service };
        match daemon.wait_until_ready() {
            Ok(()) => Ok(daemon),
            Err(error) => daemon.service.kill().and(Err(error)),
        }
    }

    /// Ready is what the plugin says it is (CNI 1.1, STATUS): files of an earlier daemon prove nothing.
    fn wait_until_ready(&self) -> Result<()> {
        let ready = wait_until(&format!("barewired of {}", self.node.name()), READY, || {
            if !self.service.is_running() {
                return Err("it has ended".to_owned());
            }
            let said = self.node.try_run(&["sh", "-c", STATUS], CONFIGURE).map_err(|error| error.to_string())?;
            if !said.status.success() {
                return Err(format!("STATUS: {}", said.stdout.trim()));
            }
            let written = self.node.host_path(DAEMON_CONFLIST).exists();
            if written { Ok(()) } else { Err(format!("{DAEMON_CONFLIST} is not there")) }
        });
        ready.map_err(|error| Error::Node { node: self.node.name().to_owned(), message: format!("{error}\n{}", self.service.log_tail(15)) })
    }

    /// Ends it as a service manager does (SIGTERM).
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn terminate(self) -> Result<Stopped> {
        let stopped = Stopped { node: self.node, config: self.config };
        self.service.terminate().map(|()| stopped)
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// When the kernel does not let it go.
    pub fn kill(self) -> Result<Stopped> {
        let stopped = Stopped { node: self.node, config: self.config };
        self.service.kill().map(|()| stopped)
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.service.is_running()
    }

    /// Has it read its configuration again, and waits until its log says `outcome` once more than before.
    ///
    /// # Errors
    /// When it does not say so in time.
    pub fn reload(&self, outcome: &str) -> Result<()> {
        let said = || self.service.log().matches(outcome).count();
        let before = said();
        self.service.process().hang_up()?;
        wait_until(&format!("{outcome:?} from barewired of {}", self.node.name()), READY, || {
            if said() > before { Ok(()) } else { Err(self.service.log_tail(5)) }
        })
    }
}

/// A daemon that was ended and can be started again.
#[derive(Debug)]
pub struct Stopped {
    node: Node,
    config: String,
}

impl Stopped {
    /// Starts it again with the same configuration.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start(self) -> Result<Daemon> {
        Daemon::start(&self.node, &self.config)
    }

    /// Has it take away what it left in place for the pods (`barewired --uninstall`).
    ///
    /// # Errors
    /// When it fails.
    pub fn uninstall(self) -> Result<()> {
        self.node.run(&[DAEMON, "--config", &self.config, "--uninstall"]).map(drop)
    }
}

/// What a node's `barewired.toml` says of addresses: the one place where the lab keeps it. Empty where a cloud says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Ranges of the node's pods.
    pub pods: Vec<IpNetwork>,
    /// Destinations that see pod addresses as they are.
    pub native: Vec<IpNetwork>,
}

impl Plan {
    /// Reads the plan of a node.
    ///
    /// # Errors
    /// When the topology binds no `barewired.toml` into it, or a range is not a prefix.
    pub fn of(node: &Node) -> Result<Self> {
        let path = node.host_path(DAEMON_CONFIG);
        let text = std::fs::read_to_string(&path).context(|| format!("read {DAEMON_CONFIG} of {}", node.name()))?;
        Self::parse(&text).map_err(|message| Error::Node { node: node.name().to_owned(), message: format!("{DAEMON_CONFIG}: {message}") })
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        #[derive(Deserialize)]
        struct Config {
            #[serde(default)]
            network: Network,
            source: Source,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Network {
            native_cidrs: Vec<IpNetwork>,
        }
        #[derive(Deserialize)]
        struct Source {
            #[serde(default)]
            ranges: Vec<IpNetwork>,
        }
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        Ok(Self { pods: config.source.ranges, native: config.network.native_cidrs })
    }

    /// Whether an address is one of the node's pods'.
    #[must_use]
    pub fn owns(&self, address: std::net::IpAddr) -> bool {
        self.pods.iter().any(|range| range.contains(address))
    }
}

fn reference_conflist(plugin: ReferencePlugin, plan: &Plan) -> String {
    let ranges: Vec<_> = plan.pods.iter().map(|range| json!([{ "subnet": range.to_string() }])).collect();
    let ipam = json!({
        "type": "host-local",
        "ranges": ranges,
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
    });
    let first = match plugin {
        ReferencePlugin::Ptp => json!({ "type": "ptp", "mtu": MTU, "ipam": ipam }),
        ReferencePlugin::Bridge => {
            json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "mtu": MTU, "ipam": ipam })
        }
    };
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    json!({ "cniVersion": "1.0.0", "name": "reference", "plugins": [first, portmap] }).to_string()
}

fn reference_masquerade(plan: &Plan) -> String {
    let joined = |networks: &[IpNetwork], v6: bool| {
        let family = networks.iter().filter(|network| network.is_ipv6() == v6);
        family.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let rule = |word: &str, v6: bool| {
        let (pods, native) = (joined(&plan.pods, v6), joined(&plan.native, v6));
        format!("{word} saddr {{ {pods} }} {word} daddr != {{ {native} }} masquerade")
    };
    format!(
        "table inet reference {{\nchain postrouting {{\ntype nat hook postrouting priority srcnat;\n{}\n{}\n}}\n}}\n",
        rule("ip", false),
        rule("ip6", true)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_what_the_daemon_is_told() {
        let plan = Plan::parse(include_str!("../labs/config/node1.toml")).unwrap();
        assert!(plan.owns("10.0.1.17".parse().unwrap()) && plan.owns("fd00:10:0:1::7".parse().unwrap()));
        assert!(!plan.owns("10.0.1.33".parse().unwrap()) && !plan.owns("fd00:10:0:2::7".parse().unwrap()));
        assert_eq!(plan.native.len(), 2);
        let message = Plan::parse("[network]\nnative_cidrs = [\"10.0.0.0/40\"]\n[source]\nranges = []").unwrap_err();
        assert!(message.contains("10.0.0.0/40") || message.contains("prefix"), "{message}");
    }

    #[test]
    fn keys_of_the_network_are_added_to_those_that_are_there() {
        let text = with_network_keys(include_str!("../labs/config/node1.toml"), &[("fast_path", "\"off\"".to_owned())]);
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["network"]["fast_path"].as_str(), Some("off"));
        assert_eq!(Plan::parse(&text), Plan::parse(include_str!("../labs/config/node1.toml")));
        let native = [("native_cidrs", "[\"10.0.0.0/8\"]".to_owned())];
        let text = with_network_keys(include_str!("../labs/config/node1.toml"), &native);
        assert_eq!(Plan::parse(&text).unwrap().native, ["10.0.0.0/8".parse().unwrap()]);
    }

    #[test]
    fn the_reference_is_told_the_same_ranges() {
        let plan = Plan::parse(include_str!("../labs/config/node2.toml")).unwrap();
        for plugin in [ReferencePlugin::Ptp, ReferencePlugin::Bridge] {
            let conflist = reference_conflist(plugin, &plan);
            assert!(conflist.contains(r#""subnet":"10.0.1.32/28""#), "{conflist}");
            assert!(conflist.contains(r#""subnet":"fd00:10:0:2::/80""#), "{conflist}");
        }
        let rules = reference_masquerade(&plan);
        assert!(rules.contains("ip saddr { 10.0.1.32/28 } ip daddr != { 10.0.0.0/16 } masquerade"), "{rules}");
        assert!(rules.contains("ip6 saddr { fd00:10:0:2::/80 } ip6 daddr != { fd00:10::/32 } masquerade"), "{rules}");
    }
}
