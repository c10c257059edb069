//! The configuration file. It is judged as a whole: every fault is told at once, each with its key.
//!
//! The schema with its defaults is documented in docs/configuration.md; `deploy/barewired.toml` is an example.

mod reader;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use cni_spec::{IfName, NetworkName};
use datapath::UplinkChoice;
use ipnetwork::IpNetwork;
use toml::{Table, Value};

use crate::range::AddressRange;
use reader::Reader;

/// A valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `node.name`: this node, in logs and metrics.
    pub node_name: String,
    /// `paths.run_dir`: socket, store and queue. Its lifetime should be the boot's.
    pub run_dir: PathBuf,
    /// `paths.cni_conf_file`: the network configuration list for the runtime.
    pub cni_conf_file: PathBuf,
    /// `uplink` and `uplink.further`: the interfaces to the cloud network, the node's own first.
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
    /// `network.fast_path`: whether the kernel programs carry packets where they can (`auto`).
    pub fast_path: bool,
    /// `paths.kernel_programs`: the object file; found beside the daemon or in `/usr/lib/barewire` where it is not set.
    pub kernel_programs: Option<PathBuf>,
    /// `source`: where addresses come from.
    pub source: Source,
    /// `pool.cooldown_seconds`, in milliseconds.
    pub cooldown_millis: u64,
    /// `cni.chained_plugins`: plugins behind ours in the list.
    pub chained_plugins: Vec<serde_json::Value>,
    /// `telemetry.listen`; `None` for `""`.
    pub telemetry: Option<SocketAddr>,
}

/// Where addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `kind = "fixed"`: these ranges and no others, exclusions taken out. They do not overlap.
    Fixed(Vec<UplinkRange>),
}

/// Addresses that belong to one uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkRange {
    /// The addresses.
    pub range: AddressRange,
    /// Index of the uplink.
    pub uplink: u16,
}

impl Source {
    /// The ranges that pods get their addresses from, each with its uplink.
    #[must_use]
    pub fn uplink_ranges(&self) -> &[UplinkRange] {
        match self {
            Self::Fixed(ranges) => ranges,
        }
    }

    /// The ranges that pods get their addresses from.
    #[must_use]
    pub fn ranges(&self) -> Vec<AddressRange> {
        self.uplink_ranges().iter().map(|owned| owned.range).collect()
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

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file system refused.
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Its content is at fault.
    #[error("{path} is not valid:\n{source}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All faults.
        source: ConfigErrors,
    },
}

impl ConfigFile {
    /// Reads and judges the file.
    ///
    /// # Errors
    /// See [`ConfigFileError`].
    pub fn read(&self) -> Result<Config, ConfigFileError> {
        let text = std::fs::read_to_string(&self.path).map_err(|source| ConfigFileError::Unreadable { path: self.path.clone(), source })?;
        Config::from_toml(&text, &self.hostname).map_err(|source| ConfigFileError::Invalid { path: self.path.clone(), source })
    }
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

/// As many as a packet's mark tells apart.
const UPLINKS_MAX: usize = 16;
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
        let table: Table = text.parse().map_err(|why: toml::de::Error| ConfigErrors(vec![format!("not TOML: {why}")]))?;
        let mut reader = Reader::new(table);
        let config = read(&mut reader, hostname);
        match (config, reader.finish()) {
            (Some(config), faults) if faults.is_empty() => Ok(config),
            (_, faults) => Err(ConfigErrors(faults)),
        }
    }
}

fn read(reader: &mut Reader, hostname: &str) -> Option<Config> {
    let node_name = reader.string("node.name").unwrap_or_else(|| hostname.to_owned());
    let run_dir = reader.absolute_path("paths.run_dir", "/run/barewire");
    let cni_conf_file = reader.absolute_path("paths.cni_conf_file", "/etc/cni/net.d/10-barewire.conflist");
    let (uplinks, further_ranges) = uplinks(reader);
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
    let kernel_programs = reader.string("paths.kernel_programs").map(PathBuf::from);
    let masquerade = reader.boolean("network.masquerade").unwrap_or(true);
    let source = source(reader, further_ranges);
    let cooldown = reader.integer("pool.cooldown_seconds", 0..=COOLDOWN_SECONDS_MAX).unwrap_or(DEFAULT_COOLDOWN_SECONDS);
    let chained_plugins = chained_plugins(reader);
    let telemetry = match reader.string("telemetry.listen").as_deref() {
        Some("") => None,
        Some(text) => text
            .parse()
            .map_err(|_| reader.fault("telemetry.listen", &format!("{text:?} is not an address and port like {DEFAULT_TELEMETRY}")))
            .ok(),
        None => DEFAULT_TELEMETRY.parse().ok(),
    };
    if masquerade && let Some(Source::Fixed(ranges)) = &source {
        require_native(reader, ranges, &native_cidrs);
    }
    Some(Config {
        node_name,
        run_dir: run_dir?,
        cni_conf_file: cni_conf_file?,
        uplinks,
        network: network?,
        native_cidrs,
        masquerade,
        service_cidrs,
        internal_cidrs,
        fast_path,
        kernel_programs,
        source: source?,
        cooldown_millis: cooldown * 1000,
        chained_plugins,
        telemetry,
    })
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

/// A pod whose own range is not native would be masqueraded on its way to the next node: never what is meant.
fn require_native(reader: &mut Reader, ranges: &[UplinkRange], native: &[IpNetwork]) {
    let native: Vec<AddressRange> = native.iter().copied().map(AddressRange::from).collect();
    for owned in ranges {
        let mut rest = vec![owned.range];
        for hole in &native {
            rest = rest.into_iter().flat_map(|part| part.without(hole)).collect();
        }
        if let Some(part) = rest.first() {
            reader.fault(
                "network.native_cidrs",
                &format!("do not cover {part} of source.ranges; add its network, or set network.masquerade = false"),
            );
        }
    }
}

/// The uplinks, and what ranges further ones name as theirs: each with the key it came by.
fn uplinks(reader: &mut Reader) -> (Vec<UplinkChoice>, Vec<(String, UplinkRange)>) {
    let first = UplinkChoice { index: 0, interface: interface(reader, "uplink"), gateways: gateways(reader, "uplink") };
    let (mut uplinks, mut owned) = (vec![first], Vec::new());
    for section in reader.sections("uplink.further") {
        let index = u16::try_from(uplinks.len()).unwrap_or(u16::MAX);
        let choice = UplinkChoice { index, interface: interface(reader, &section), gateways: gateways(reader, &section) };
        if choice.interface.is_none() {
            reader.fault(&format!("{section}.interface"), "is missing or wrong; name the interface");
        } else if uplinks.iter().any(|other| other.interface == choice.interface) {
            reader.fault(&format!("{section}.interface"), "is an uplink already");
        } else if uplinks[0].interface.is_none() {
            reader.fault("uplink.interface", "is missing; with further uplinks, name the node's own");
        }
        for (text, range) in ranges_or_empty(reader, &format!("{section}.ranges")) {
            owned.push((text, UplinkRange { range, uplink: index }));
        }
        uplinks.push(choice);
    }
    if uplinks.len() > UPLINKS_MAX {
        reader.fault("uplink.further", &format!("are {}; {} fit", uplinks.len() - 1, UPLINKS_MAX - 1));
    }
    (uplinks, owned)
}

fn interface(reader: &mut Reader, section: &str) -> Option<String> {
    reader.parsed::<IfName>(&format!("{section}.interface")).map(|name| name.to_string())
}

/// At most one of each family.
fn gateways(reader: &mut Reader, section: &str) -> Vec<IpAddr> {
    let key = format!("{section}.gateways");
    let mut gateways: Vec<IpAddr> = Vec::new();
    for (index, text) in reader.strings(&key).unwrap_or_default().iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) if gateways.iter().any(|other| other.is_ipv4() == address.is_ipv4()) => {
                reader.fault(&format!("{key}[{index}]"), &format!("{text:?} is a second one of its family"));
            }
            Ok(address) => gateways.push(address),
            Err(_) => reader.fault(&format!("{key}[{index}]"), &format!("{text:?} is not an IP address")),
        }
    }
    gateways
}

fn source(reader: &mut Reader, further: Vec<(String, UplinkRange)>) -> Option<Source> {
    match reader.string("source.kind").as_deref() {
        Some("fixed") => {}
        Some(other) => {
            reader.fault("source.kind", &format!("{other:?} is unknown; use \"fixed\""));
            return None;
        }
        None => {
            reader.fault("source.kind", "is missing; use \"fixed\"");
            return None;
        }
    }
    let own = ranges(reader, "source.ranges");
    let holes = ranges_or_empty(reader, "source.exclude");
    let Some(own) = own else {
        reader.fault("source.ranges", "is missing; give at least one range, like [\"10.0.1.16/28\"]");
        return None;
    };
    let own = own.into_iter().map(|(text, range)| (text, UplinkRange { range, uplink: 0 }));
    let ranges: Vec<_> = own.chain(further).collect();
    for (index, (text, owned)) in ranges.iter().enumerate() {
        if let Some((earlier, _)) = ranges[..index].iter().find(|(_, earlier)| earlier.range.overlaps(&owned.range)) {
            reader.fault("source.ranges", &format!("{text:?} overlaps {earlier:?}"));
        }
    }
    for (text, hole) in &holes {
        if !ranges.iter().any(|(_, owned)| owned.range.overlaps(hole)) {
            reader.fault("source.exclude", &format!("{text:?} excludes nothing; it is in none of source.ranges"));
        }
    }
    let mut left: Vec<_> = ranges.into_iter().map(|(_, owned)| owned).collect();
    for (_, hole) in &holes {
        let without = |owned: UplinkRange| owned.range.without(hole).into_iter().map(move |range| UplinkRange { range, ..owned });
        left = left.into_iter().flat_map(without).collect();
    }
    if left.is_empty() {
        reader.fault("source.ranges", "leave no address for pods once source.exclude is taken out");
    }
    Some(Source::Fixed(left))
}

fn ranges(reader: &mut Reader, key: &str) -> Option<Vec<(String, AddressRange)>> {
    let texts = reader.strings(key)?;
    let mut ranges = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        match text.parse::<AddressRange>() {
            Ok(range) => ranges.push((text, range)),
            Err(why) => reader.fault(&format!("{key}[{index}]"), &why),
        }
    }
    Some(ranges)
}

fn ranges_or_empty(reader: &mut Reader, key: &str) -> Vec<(String, AddressRange)> {
    ranges(reader, key).unwrap_or_default()
}

fn chained_plugins(reader: &mut Reader) -> Vec<serde_json::Value> {
    let Some(values) = reader.array("cni.chained_plugins") else { return Vec::new() };
    let mut plugins = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let has_type = matches!(value.get("type"), Some(Value::String(kind)) if !kind.is_empty());
        match serde_json::to_value(&value) {
            Ok(plugin) if has_type => plugins.push(plugin),
            _ => reader.fault(&format!("cni.chained_plugins[{index}]"), "is not a plugin; write { type = \"portmap\", … }"),
        }
    }
    plugins
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "[source]\nkind = \"fixed\"\nranges = [\"10.0.1.16/28\"]\n[network]\nnative_cidrs = [\"10.0.0.0/16\"]\n";

    fn faults(text: &str) -> Vec<String> {
        Config::from_toml(text, "host").unwrap_err().0
    }

    #[test]
    fn defaults() {
        let config = Config::from_toml(LEAST, "host").unwrap();
        assert_eq!(config.node_name, "host");
        assert_eq!(config.run_dir, PathBuf::from("/run/barewire"));
        assert_eq!(config.cooldown_millis, 30_000);
        assert_eq!(config.network.as_str(), "barewire");
        assert!(config.masquerade);
        assert_eq!(config.uplinks, [UplinkChoice::default()]);
    }

    #[test]
    fn all_faults_at_once_each_with_its_key() {
        let text = r#"
            [node]
            name = 7
            [paths]
            run_dir = "relative"
            [uplink]
            interface = "much-too-long-name"
            [network]
            native_cidrs = ["10.0.0.1/16", "x"]
            masquerade = "yes"
            [source]
            kind = "fixed"
            ranges = ["10.0.1.0/24", "10.0.1.128/25", "10.0.0.0/33"]
            exclude = ["192.0.2.1"]
            [pool]
            cooldown_seconds = -1
            [cni]
            chained_plugins = [{ capabilities = {} }]
            [telemetry]
            listen = "nowhere"
            [surprise]
            key = 1
        "#;
        let all = faults(text);
        for part in [
            "node.name",
            "paths.run_dir",
            "uplink.interface",
            "network.native_cidrs[0]",
            "network.native_cidrs[1]",
            "network.masquerade",
            "source.ranges[2]",
            "overlaps \"10.0.1.0/24\"",
            "source.exclude",
            "pool.cooldown_seconds",
            "cni.chained_plugins[0]",
            "telemetry.listen",
            "surprise",
        ] {
            assert!(all.iter().any(|line| line.contains(part)), "{part} missing in {all:#?}");
        }
    }

    #[test]
    fn a_range_that_is_not_native_is_a_fault_where_it_would_be_masqueraded() {
        let text = LEAST.replace("10.0.0.0/16", "10.9.0.0/16");
        assert!(faults(&text)[0].contains("10.0.1.16-10.0.1.31"));
        let without = text.replace("[network]", "[network]\nmasquerade = false");
        assert!(Config::from_toml(&without, "host").is_ok());
    }

    #[test]
    fn exclusions_leave_holes() {
        let text = LEAST.replace("kind = ", "exclude = [\"10.0.1.16\", \"10.0.1.20-10.0.1.21\"]\nkind = ");
        let config = Config::from_toml(&text, "host").unwrap();
        let sizes: Vec<_> = config.source.ranges().iter().map(AddressRange::size).collect();
        assert_eq!(sizes, [3, 10]);
    }

    #[test]
    fn a_further_uplink_owns_its_ranges() {
        let further = "[uplink]\ninterface = \"eth1\"\n[[uplink.further]]\ninterface = \"eth2\"\ngateways = [\"10.0.0.1\", \"fe80::1\"]\nranges = [\"10.0.1.48/28\"]\n";
        let config = Config::from_toml(&format!("{LEAST}{further}"), "host").unwrap();
        assert_eq!(config.uplinks[1].interface.as_deref(), Some("eth2"));
        assert_eq!(config.uplinks[1].gateways.len(), 2);
        assert_eq!(config.source.uplink_ranges().iter().map(|owned| owned.uplink).collect::<Vec<_>>(), [0, 1]);
        assert!(faults(&format!("{LEAST}{}", further.replace("eth2", "eth1")))[0].contains("uplink.further[0].interface"));
        assert!(faults(&format!("{LEAST}{}", further.replace("\"fe80::1\"", "\"10.0.0.2\"")))[0].contains("second one"));
        assert!(faults(&format!("{LEAST}{}", further.replace("10.0.1.48/28", "10.0.1.16/30")))[0].contains("overlaps"));
        assert!(faults(&format!("{LEAST}{further}surprise = 1"))[0].starts_with("uplink.further[0].surprise"));
        assert!(faults(&format!("{LEAST}{}", further.replace("interface = \"eth1\"", "")))[0].starts_with("uplink.interface"));
    }

    #[test]
    fn missing_source_is_told() {
        assert!(faults("")[0].contains("source.kind"));
        assert!(faults("[source]\nkind = \"aws9\"")[0].contains("aws9"));
    }
}
