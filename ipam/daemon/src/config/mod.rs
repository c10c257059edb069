//! The configuration: a file and its drop-ins. It is judged as a whole: every fault is told at once, each with its key.
//!
//! Every key with its default is in `keys`, which docs/configuration.md is written from; `deploy/barewired.toml` is an example.

mod bit_rate;
mod cloud;
mod cni;
mod fixed;
mod fleet;
mod health;
mod health_plugins;
pub(crate) mod keys;
mod layers;
mod namespaces;
mod reader;
mod services;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use cni_spec::NetworkName;
use datapath::{Marks, UplinkChoice};
use ipnetwork::IpNetwork;

use crate::logs::{Levels, LogFormat};
use crate::scheduling::Scheduling;
pub use bit_rate::BitRate;
pub use cloud::{AwsApi, Cloud, CloudSource};
pub use cni::CniConfig;
pub(crate) use cni::{BANDWIDTH, BANDWIDTH_WHY, OWN_PLUGIN};
pub use fixed::UplinkRange;
pub use fleet::FleetConfig;
pub use health::{Expected, HealthConfig};
pub use health_plugins::{PluginConfig, PluginKind};
use ipam_pool::range::AddressRange;
use layers::Layers;
use namespaces::Namespaces;
use reader::Reader;
pub use services::ServicesConfig;

/// A valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `node.name`: this node, in logs and metrics.
    pub node_name: String,
    /// `node.scheduling`: whether the daemon's threads go before others.
    pub scheduling: Scheduling,
    /// `paths.run_dir`: socket, store and queue. Its lifetime should be the boot's.
    pub run_dir: PathBuf,
    /// `paths.cni_conf_file`: the network configuration list for the runtime.
    pub cni_conf_file: PathBuf,
    /// `uplink` and `uplink.secondary`: the interfaces to the cloud network, the node's own first. None where a cloud tells them.
    pub uplinks: Vec<UplinkChoice>,
    /// `network.name`: the CNI network's name.
    pub network: NetworkName,
    /// `network.native_cidrs`: destinations that see pod addresses as they are.
    pub native_cidrs: Vec<IpNetwork>,
    /// `network.masquerade`: other destinations see the node's address.
    pub masquerade: bool,
    /// `network.service_cidrs`: addresses of services, to be translated by the host's stack.
    pub service_cidrs: Vec<IpNetwork>,
    /// `network.internal_cidrs`: networks that are not native and not the internet either, for accounting.
    pub internal_cidrs: Vec<IpNetwork>,
    /// `network.packet_mark_mask`: the bits of a packet's mark that are ours.
    pub marks: Marks,
    /// `network.forward_accept`: rules of ours let pods' packets pass where the host's rules drop all that is forwarded.
    pub forward_accept: bool,
    /// `uplink.on_link = "gateway"`, and every cloud: destinations on an uplink's own link are reached by its gateway.
    pub on_link_by_gateway: bool,
    /// `network.fast_path`: whether the kernel programs carry packets where they can (`auto`).
    pub fast_path: bool,
    /// `network.pod_internet_egress`: what each pod may send to the internet; `None` for no limit.
    pub pod_internet_egress: Option<BitRate>,
    /// `network.node_internet_egress`: what all pods together may send to the internet; `None` for no limit.
    pub node_internet_egress: Option<BitRate>,
    /// `network.namespaces`: the same for pods of a namespace, in place of that.
    pub namespaces: BTreeMap<String, BitRate>,
    /// `network.namespaces`: addresses that pods of a namespace may ask to use beside their own.
    pub allowed_addresses: BTreeMap<String, Vec<IpNetwork>>,
    /// `paths.kernel_programs`: the object file; found beside the daemon or in `/usr/lib/barewire` where it is not set.
    pub kernel_programs: Option<PathBuf>,
    /// `source`: where addresses come from.
    pub source: Source,
    /// `pool.cooldown_seconds`, in milliseconds.
    pub cooldown_millis: u64,
    /// `cni`: what the runtime is told.
    pub cni: CniConfig,
    /// `fleet`: who watches the API server for this node; `None` where it hears nobody.
    pub fleet: Option<FleetConfig>,
    /// `log.level`: what is logged.
    pub log_levels: Levels,
    /// `log.format`: how.
    pub log_format: LogFormat,
    /// `services`: how Services are served; `None` where barewired does not serve them.
    pub services: Option<ServicesConfig>,
    /// `health`: what the node looks at to find out that it is sick; `None` where it does not.
    pub health: Option<HealthConfig>,
    /// `telemetry.listen`; `None` for `""`.
    pub telemetry: Option<SocketAddr>,
    /// What the file says in a way that the next version accepts no more.
    pub warnings: Vec<String>,
}

/// Where addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `kind = "fixed"`: these ranges and no others, exclusions taken out. They do not overlap.
    Fixed(Vec<UplinkRange>),
    /// `kind = "aws"`, `"azure"` or `"gcp"`: what the cloud assigns to the node.
    Cloud(Box<CloudSource>),
}

impl Source {
    /// The ranges that pods get their addresses from, each with its uplink, as far as the file tells them.
    #[must_use]
    pub fn uplink_ranges(&self) -> &[UplinkRange] {
        match self {
            Self::Fixed(ranges) => ranges,
            Self::Cloud(_) => &[],
        }
    }

    /// The ranges that pods get their addresses from, as far as the file tells them.
    #[must_use]
    pub fn ranges(&self) -> Vec<AddressRange> {
        self.uplink_ranges().iter().map(|owned| owned.range).collect()
    }

    /// The cloud, where addresses come from one.
    #[must_use]
    pub fn cloud(&self) -> Option<&CloudSource> {
        match self {
            Self::Fixed(_) => None,
            Self::Cloud(cloud) => Some(cloud),
        }
    }
}

/// Where a configuration is read, and read again.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// The file.
    pub path: PathBuf,
    /// The default of `node.name`.
    pub hostname: String,
}

/// Why a configuration cannot be used. The text says all, so there is no source that would say it again.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file system refused.
    #[error("cannot read {path}: {why}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// Its content is at fault.
    #[error("{path} is not valid:\n{faults}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All faults.
        faults: ConfigErrors,
    },
}

impl ConfigFile {
    /// What the file and its drop-ins say, not judged yet; to be shown.
    ///
    /// # Errors
    /// Where one of them cannot be read, or is no TOML.
    pub fn layers(&self) -> Result<Layers, ConfigFileError> {
        Layers::read(&self.path)
    }

    /// Reads and judges the file with its drop-ins.
    ///
    /// # Errors
    /// See [`ConfigFileError`].
    pub fn read(&self) -> Result<Config, ConfigFileError> {
        Config::judge(self.layers()?, &self.hostname).map_err(|faults| ConfigFileError::Invalid { path: self.path.clone(), faults })
    }

    /// Logs what the next version will not accept.
    pub fn warn(&self, config: &Config) {
        for warning in &config.warnings {
            tracing::warn!(file = %self.path.display(), "configuration: {warning}");
        }
    }
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

/// Keys of the last version, and their names now. The next version has none of these.
const RENAMED: [(&str, &str); 1] = [("uplink.further", "uplink.secondary")];

const DEFAULT_COOLDOWN_SECONDS: u64 = 30;
/// A day: beyond that somebody mixed up the unit.
const COOLDOWN_SECONDS_MAX: u64 = 86_400;
const DEFAULT_TELEMETRY: &str = "127.0.0.1:9807";

impl Config {
    /// Reads a configuration from TOML. `hostname` is the default of `node.name`.
    ///
    /// # Errors
    /// All faults at once.
    pub fn from_toml(text: &str, hostname: &str) -> Result<Self, ConfigErrors> {
        Self::judge(Layers::of(text)?, hostname)
    }

    fn judge(layers: Layers, hostname: &str) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(layers);
        RENAMED.iter().for_each(|(old, new)| reader.renamed(old, new));
        let config = read(&mut reader, hostname);
        match (config, reader.finish()) {
            (Some(config), faults) if faults.is_empty() => Ok(config),
            (_, faults) => Err(ConfigErrors(faults)),
        }
    }
}

fn read(reader: &mut Reader, hostname: &str) -> Option<Config> {
    let node_name = reader.string("node.name").unwrap_or_else(|| hostname.to_owned());
    let scheduling = scheduling(reader);
    let run_dir = reader.absolute_path("paths.run_dir", "/run/barewire");
    let cni_conf_file = reader.absolute_path("paths.cni_conf_file", "/etc/cni/net.d/00-barewire.conflist");
    let network = reader.parsed::<NetworkName>("network.name").or_else(|| "barewire".parse().ok());
    let native_cidrs = cidrs(reader, "network.native_cidrs");
    let service_cidrs = cidrs(reader, "network.service_cidrs");
    let internal_cidrs = cidrs(reader, "network.internal_cidrs");
    let fast_path = match reader.string("network.fast_path").as_deref() {
        None | Some("auto") => true,
        Some("off") => false,
        Some(other) => {
            reader.fault("network.fast_path", &format!("{other:?} is unknown; use \"auto\" or \"off\""));
            true
        }
    };
    let [pod_internet_egress, node_internet_egress] = ["network.pod_internet_egress", "network.node_internet_egress"].map(|key| {
        let rate = reader.parsed::<BitRate>(key);
        if rate.is_some() && !fast_path {
            let why =
                "needs the kernel programs, which network.fast_path = \"off\" keeps away; set that to \"auto\", or leave this key out";
            reader.fault(key, why);
        }
        rate
    });
    let Namespaces { internet_egress: namespaces, allowed_addresses } = namespaces::read(reader, fast_path);
    let kernel_programs = reader.string("paths.kernel_programs").map(PathBuf::from);
    let masquerade = reader.boolean("network.masquerade").unwrap_or(true);
    let forward_accept = reader.boolean("network.forward_accept").unwrap_or(true);
    let marks = match reader.integer("network.packet_mark_mask", 1..=u32::MAX.into()).map(|mask| (mask, Marks::of_mask(mask as u32))) {
        None => Marks::default(),
        Some((_, Ok(marks))) => marks,
        Some((mask, Err(why))) => {
            reader.fault("network.packet_mark_mask", &format!("{mask:#x} {why}"));
            Marks::default()
        }
    };
    let (uplinks, source, on_link_by_gateway) = source(reader);
    let pods = source.as_ref().map_or_else(Vec::new, Source::ranges);
    namespaces::refuse_what_is_taken(reader, &allowed_addresses, &pods, &service_cidrs);
    let cooldown = reader.integer("pool.cooldown_seconds", 0..=COOLDOWN_SECONDS_MAX).unwrap_or(DEFAULT_COOLDOWN_SECONDS);
    let cni = cni::read(reader);
    let fleet = fleet::read(reader);
    let log_levels = reader.parsed::<Levels>("log.level").unwrap_or_default();
    let log_format = reader.parsed::<LogFormat>("log.format").unwrap_or_default();
    let services = services::read(reader, fleet.is_some());
    let health = health::read(reader);
    let telemetry = match reader.string("telemetry.listen").as_deref() {
        Some("") => None,
        Some(text) => text
            .parse()
            .map_err(|_| reader.fault("telemetry.listen", &format!("{text:?} is not an address and port like {DEFAULT_TELEMETRY}")))
            .ok(),
        None => DEFAULT_TELEMETRY.parse().ok(),
    };
    match &source {
        Some(Source::Fixed(ranges)) if masquerade => fixed::require_native(reader, ranges, &native_cidrs),
        Some(Source::Cloud(source)) if masquerade => cloud::require_native(reader, source, &native_cidrs),
        _ => {}
    }
    Some(Config {
        node_name,
        scheduling,
        run_dir: run_dir?,
        cni_conf_file: cni_conf_file?,
        uplinks,
        network: network?,
        native_cidrs,
        masquerade,
        service_cidrs,
        internal_cidrs,
        marks,
        forward_accept,
        on_link_by_gateway,
        fast_path,
        pod_internet_egress,
        node_internet_egress,
        namespaces,
        allowed_addresses,
        kernel_programs,
        source: source?,
        cooldown_millis: cooldown * 1000,
        cni,
        fleet,
        log_levels,
        log_format,
        services,
        health,
        telemetry,
        warnings: reader.warnings(),
    })
}

fn scheduling(reader: &mut Reader) -> Scheduling {
    match reader.string("node.scheduling").as_deref() {
        None | Some("realtime") => Scheduling::RealTime,
        Some("nice") => Scheduling::Nice,
        Some("inherit") => Scheduling::Inherit,
        Some(other) => {
            reader.fault("node.scheduling", &format!("{other:?} is unknown; use \"realtime\", \"nice\" or \"inherit\""));
            Scheduling::default()
        }
    }
}

/// Whether neighbours on the uplink's link are reached by the gateway.
fn on_link_by_gateway(reader: &mut Reader) -> bool {
    match reader.string("uplink.on_link").as_deref() {
        None | Some("direct") => false,
        Some("gateway") => true,
        Some(other) => {
            reader.fault("uplink.on_link", &format!("{other:?} is unknown; use \"direct\" or \"gateway\""));
            false
        }
    }
}

/// The uplinks, where addresses come from, and whether neighbours on a link are reached by the gateway.
fn source(reader: &mut Reader) -> (Vec<UplinkChoice>, Option<Source>, bool) {
    let kind = reader.string("source.kind");
    cloud::refuse_foreign_keys(reader, kind.as_deref());
    match kind.as_deref() {
        Some("fixed") => {
            let (uplinks, ranges) = fixed::read(reader);
            (uplinks, ranges.map(Source::Fixed), on_link_by_gateway(reader))
        }
        Some("aws") => (Vec::new(), Some(Source::Cloud(Box::new(cloud::aws(reader)))), true),
        Some("azure") => (Vec::new(), Some(Source::Cloud(Box::new(cloud::azure(reader)))), true),
        Some("gcp") => (Vec::new(), Some(Source::Cloud(Box::new(cloud::gcp(reader)))), true),
        other => {
            let fault = other.map_or_else(|| "is missing".to_owned(), |other| format!("{other:?} is unknown"));
            reader.fault("source.kind", &format!("{fault}; use \"aws\", \"azure\", \"gcp\" or \"fixed\""));
            // Its keys are right for some kind.
            reader.forget(&["source", "uplink"]);
            (Vec::new(), None, false)
        }
    }
}

fn cidrs(reader: &mut Reader, key: &str) -> Vec<IpNetwork> {
    let texts = reader.strings(key).unwrap_or_default();
    let mut cidrs = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        // The same rules as for a range: CIDR form, no host bits.
        match text.parse::<AddressRange>().and_then(|_| text.parse::<IpNetwork>().map_err(|why| why.to_string())) {
            Ok(cidr) => cidrs.push(cidr),
            Err(why) => reader.fault(&format!("{key}[{index}]"), &why),
        }
    }
    cidrs
}

#[cfg(test)]
mod tests;
