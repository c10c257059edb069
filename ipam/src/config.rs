//! The configuration file. It is judged as a whole: every fault is told at once, each with its key.
//!
//! The schema with its defaults is documented in docs/configuration.md; `deploy/barewired.toml` is an example.

mod reader;

use std::net::SocketAddr;
use std::path::PathBuf;

use cni_spec::{IfName, NetworkName};
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
    /// `uplink.interface`; the default route tells where it is not set.
    pub uplink: Option<IfName>,
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
    Fixed(Vec<AddressRange>),
}

impl Source {
    /// The ranges that pods get their addresses from.
    #[must_use]
    pub fn ranges(&self) -> &[AddressRange] {
        match self {
            Self::Fixed(ranges) => ranges,
        }
    }
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

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
    let uplink = reader.parsed::<IfName>("uplink.interface");
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
    let source = source(reader);
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
        uplink,
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
fn require_native(reader: &mut Reader, ranges: &[AddressRange], native: &[IpNetwork]) {
    let native: Vec<AddressRange> = native.iter().copied().map(AddressRange::from).collect();
    for range in ranges {
        let mut rest = vec![*range];
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

fn source(reader: &mut Reader) -> Option<Source> {
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
    let ranges = ranges(reader, "source.ranges");
    let holes = ranges_or_empty(reader, "source.exclude");
    let Some(ranges) = ranges else {
        reader.fault("source.ranges", "is missing; give at least one range, like [\"10.0.1.16/28\"]");
        return None;
    };
    for (index, (_, range)) in ranges.iter().enumerate() {
        if let Some((earlier, _)) = ranges[..index].iter().find(|(_, earlier)| earlier.overlaps(range)) {
            reader.fault("source.ranges", &format!("{:?} overlaps {earlier:?}", ranges[index].0));
        }
    }
    for (text, hole) in &holes {
        if !ranges.iter().any(|(_, range)| range.overlaps(hole)) {
            reader.fault("source.exclude", &format!("{text:?} excludes nothing; it is in none of source.ranges"));
        }
    }
    let mut left: Vec<AddressRange> = ranges.into_iter().map(|(_, range)| range).collect();
    for (_, hole) in &holes {
        left = left.into_iter().flat_map(|range| range.without(hole)).collect();
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
        assert!(config.masquerade && config.uplink.is_none());
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
    fn missing_source_is_told() {
        assert!(faults("")[0].contains("source.kind"));
        assert!(faults("[source]\nkind = \"aws9\"")[0].contains("aws9"));
    }
}
