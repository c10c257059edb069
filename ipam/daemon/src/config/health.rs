//! `[health]`: what the node looks at to find out that it is sick.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::health_plugins::{self, PluginConfig};
use super::reader::Reader;
use crate::health_check::Check;

/// What is expected of the network; what is not configured is measured and told all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expected {
    /// `health.preflight_least_mbit`
    pub least_mbit: Option<u64>,
    /// `health.preflight_round_trip_micros`
    pub round_trip: Option<Duration>,
}

const KUBELET: &str = "127.0.0.1:10248";
/// Beside those of the fleet (7443, 7444).
const PEER_PORT: u16 = 7445;
/// containerd's, CRI-O's, k3s'.
const RUNTIMES: [&str; 3] = ["/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/k3s/containerd/containerd.sock"];

/// Which checks are made, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthConfig {
    /// All but those of `health.checks_off`, each with its time between two looks (`health.interval_seconds`).
    pub checks: BTreeMap<Check, Duration>,
    /// `health.kubelet`: where kubelet serves `/healthz`.
    pub kubelet: SocketAddr,
    /// `health.api_server`: where kubelet reaches the API server.
    pub api_server: Vec<SocketAddr>,
    /// `health.runtime_sockets`: the first that is there is the runtime's.
    pub runtime_sockets: Vec<PathBuf>,
    /// `health.peer_port`: the port at which nodes look at each other (UDP) and measure with each other (TCP).
    pub peer_port: u16,
    /// What the network to other nodes has to do in a preflight.
    pub expected: Expected,
    /// `health.plugins`
    pub plugins: Vec<PluginConfig>,
}

/// Nothing without `health.enabled = true`.
pub(super) fn read(reader: &mut Reader) -> Option<HealthConfig> {
    let is_enabled = reader.boolean("health.enabled").unwrap_or(false);
    let mut checks: BTreeMap<Check, Duration> = Check::ALL.iter().map(|(check, _)| (*check, check.interval())).collect();
    let named = |name: &str| Check::ALL.iter().find(|(_, known)| *known == name).map(|(check, _)| *check);
    let unknown = |name: &str| {
        let all: Vec<_> = Check::ALL.iter().map(|(_, name)| *name).collect();
        format!("there is no check {name:?}; there are {}", all.join(", "))
    };
    for (name, seconds) in reader.table_of_integers("health.interval_seconds", 1..=3_600).unwrap_or_default() {
        match named(&name) {
            Some(check) => drop(checks.insert(check, Duration::from_secs(seconds))),
            None => reader.fault(&format!("health.interval_seconds.{name}"), &unknown(&name)),
        }
    }
    for (index, name) in reader.strings("health.checks_off").unwrap_or_default().iter().enumerate() {
        match named(name) {
            Some(check) => drop(checks.remove(&check)),
            None => reader.fault(&format!("health.checks_off[{index}]"), &unknown(name)),
        }
    }
    let kubelet = reader.string("health.kubelet").unwrap_or_else(|| KUBELET.to_owned());
    let address =
        kubelet.parse().map_err(|_| reader.fault("health.kubelet", &format!("{kubelet:?} is not an address and port like {KUBELET}")));
    let mut api_server = Vec::new();
    for (index, text) in reader.strings("health.api_server").unwrap_or_default().into_iter().enumerate() {
        match text.parse() {
            Ok(address) => api_server.push(address),
            Err(_) => {
                reader.fault(&format!("health.api_server[{index}]"), &format!("{text:?} is not an address and port like 10.0.0.10:6443"))
            }
        }
    }
    let sockets = reader.strings("health.runtime_sockets").unwrap_or_else(|| RUNTIMES.map(str::to_owned).to_vec());
    let runtime_sockets: Vec<_> = sockets.into_iter().map(PathBuf::from).collect();
    for (index, socket) in runtime_sockets.iter().enumerate().filter(|(_, socket)| !socket.is_absolute()) {
        reader.fault(&format!("health.runtime_sockets[{index}]"), &format!("{:?} is not an absolute path", socket.display()));
    }
    let peer_port = reader.integer("health.peer_port", 1..=65_535).and_then(|port| u16::try_from(port).ok()).unwrap_or(PEER_PORT);
    let least_mbit = reader.integer("health.preflight_least_mbit", 1..=10_000_000);
    let round_trip = reader.integer("health.preflight_round_trip_micros", 1..=10_000_000).map(Duration::from_micros);
    let expected = Expected { least_mbit, round_trip };
    let plugins = health_plugins::read(reader);
    let kubelet = address.ok()?;
    is_enabled.then_some(HealthConfig { checks, kubelet, api_server, runtime_sockets, peer_port, expected, plugins })
}
