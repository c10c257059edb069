//! What a node's `barewired` tells over HTTP.

use std::collections::BTreeMap;
use std::io::ErrorKind::ConnectionRefused;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::network::Network;

const LIMIT: Duration = Duration::from_secs(10);
/// How long a daemon that has begun may take until it serves pages, and how often that is tried.
const LISTENS: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// By reason, of which none is in both.
const NOT_CARRIED: [&str; 2] = ["barewire_fast_path_dropped_total", "barewire_fast_path_passed_to_stack_total"];
/// The default; the namespace is the node's own.
const ADDRESS: &str = "http://127.0.0.1:9807";

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

/// Whose traffic, which way, and where the other end is: the labels of `barewire_packets_total`. The host's own has an empty pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Traffic {
    /// `pod`
    pub pod: String,
    /// `direction`
    pub direction: String,
    /// `scope`
    pub scope: String,
}

/// Reads a page of a node's daemon. Pods come first: a daemon that has just begun serves them some milliseconds before it serves pages, and that
/// is waited for.
///
/// # Errors
/// When it is not served in time, or with another status than 200.
pub fn get(node: &Network, page: &str) -> Result<String> {
    node.run(|| {
        let agent = ureq::Agent::config_builder().timeout_global(Some(LIMIT)).build().new_agent();
        let begun = Instant::now();
        let mut response = loop {
            match agent.get(format!("{ADDRESS}{page}")).call() {
                Err(ureq::Error::Io(error)) if error.kind() == ConnectionRefused && begun.elapsed() < LISTENS => thread::sleep(POLL),
                answer => break answer.with_context(|| format!("GET {page} of {}", node.name()))?,
            }
        };
        Ok(response.body_mut().read_to_string()?)
    })
}

/// Whether a node's daemon says that its programs are attached.
///
/// # Errors
/// When it does not say.
pub fn fast_path_is_attached(node: &Network) -> Result<bool> {
    let page = get(node, "/debug/fast_path")?;
    let said: serde_json::Value = serde_json::from_str(&page).with_context(|| format!("not JSON: {page}"))?;
    said["attached"].as_bool().with_context(|| format!("no `attached` in {page}"))
}

/// What a node's daemon has counted.
///
/// # Errors
/// When it does not say.
pub fn traffic(node: &Network) -> Result<BTreeMap<Traffic, Count>> {
    let mut traffic = BTreeMap::<Traffic, Count>::new();
    for (name, labels, value) in samples(&get(node, "/metrics")?)? {
        let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
        let count = || Traffic { pod: label("pod"), direction: label("direction"), scope: label("scope") };
        match name.as_str() {
            "barewire_packets_total" => traffic.entry(count()).or_default().packets = value,
            "barewire_bytes_total" => traffic.entry(count()).or_default().bytes = value,
            _ => {}
        }
    }
    Ok(traffic)
}

/// Packets that a node's programs did not carry, by reason.
///
/// # Errors
/// When the daemon does not say.
pub fn not_carried(node: &Network) -> Result<BTreeMap<String, u64>> {
    let samples = samples(&get(node, "/metrics")?)?.into_iter();
    let reasons = samples.filter(|(name, _, _)| NOT_CARRIED.contains(&name.as_str()));
    Ok(reasons.filter_map(|(_, mut labels, value)| Some((labels.remove("reason")?, value))).collect())
}

type Sample = (String, BTreeMap<String, String>, u64);

/// The whole numbers of an exposition in Prometheus' text format.
fn samples(page: &str) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').with_context(|| format!("not a sample: {line}"))?;
        let Ok(value) = value.parse() else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let mut words = labels.trim_end_matches('}').split('"');
        let mut parsed = BTreeMap::new();
        while let (Some(key), Some(value)) = (words.next(), words.next()) {
            parsed.insert(key.trim_matches([',', '=']).to_owned(), value.to_owned());
        }
        samples.push((name.to_owned(), parsed, value));
    }
    ensure!(!samples.is_empty(), "no samples in {page:?}");
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let page = "# HELP x y\nbarewire_packets_total{namespace=\"lab\",pod=\"a1\",scope=\"vpc\"} 7\nbarewire_seconds{q=\"0.5\"} 0.25\nplain 3\n# EOF\n";
        let found = samples(page).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].1["pod"].as_str(), found[0].1["scope"].as_str(), found[0].2), ("a1", "vpc", 7));
        assert_eq!((found[1].0.as_str(), found[1].2), ("plain", 3));
    }
}
