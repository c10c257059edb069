//! The demo: two nodes on a VPC fabric, four pods through containerd, pings and throughput, in under three minutes.
//!
//! On failure the lab is taken down and the error says which step failed; a lab is left up only when that was asked for.

pub mod kubernetes;
mod throughput;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::cni::NodeCni;
use crate::cri::pod::Pod;
use crate::topology::Topology;
use crate::worker::Worker;
use crate::{Lab, Options};

/// Pods on each node.
const PODS_PER_NODE: usize = 2;

/// Limit of one ping in a pod.
const PING: Duration = Duration::from_secs(10);

/// The last line of `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Nodes that ran pods.
    pub nodes: usize,
    /// Pods started.
    pub pods: usize,
    /// Whether every pod reached every other one over IPv4 and IPv6.
    pub ping_ok: bool,
    /// TCP pod to pod across nodes, median of three runs, Gbit/s.
    pub pod_gbps: f64,
    /// TCP node to node in the same minute, Gbit/s.
    pub node_gbps: f64,
}

/// Shows the demo, one line at a time through `say`; `keep` leaves the lab up.
///
/// # Errors
/// With the step that failed.
pub fn run(topology: Topology, options: &Options, cni: NodeCni, keep: bool, say: &mut dyn FnMut(String)) -> Result<Report> {
    let lab = Lab::up(topology, options).context("bring the lab up")?;
    say(format!("lab {}: {}", lab.name(), lab.nodes().keys().cloned().collect::<Vec<_>>().join(", ")));
    let workers = Worker::start_all(&lab, cni).context("start the nodes' runtimes")?;
    let pods = start_pods(&workers, say)?;

    let pings = ping_all(&pods)?;
    for (path, reached) in &pings {
        say(format!("ping {path}: {} of {}", reached.iter().filter(|ok| **ok).count(), reached.len()));
    }
    let ping_ok = pings.iter().all(|(_, reached)| reached.iter().all(|ok| *ok));
    if !ping_ok {
        bail!("some pods do not reach each other");
    }

    let [(first, from), .., (last, to)] = &pods[..] else {
        bail!("the topology has no two nodes with label barewire.role: node");
    };
    let measured = throughput::measure((first, from), (last, to)).context("measure throughput")?;
    say(format!(
        "throughput: pod to pod {:.2} Gbit/s, node to node {:.2} Gbit/s ({:.0} %)",
        measured.pod_gbps,
        measured.node_gbps,
        100.0 * measured.pod_gbps / measured.node_gbps
    ));
    let report = Report {
        nodes: workers.len(),
        pods: pods.len(),
        ping_ok,
        pod_gbps: hundredths(measured.pod_gbps),
        node_gbps: hundredths(measured.node_gbps),
    };
    if keep {
        lab.keep().context("leave the lab up")?;
    } else {
        for (worker, pod) in &pods {
            worker.remove_pod(pod).with_context(|| format!("remove pod {}", pod.name))?;
        }
        lab.down().context("take the lab down")?;
        say("the lab is down, nothing is left".to_owned());
    }
    Ok(report)
}

/// Digits beyond these are noise.
fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn start_pods<'a>(workers: &'a [Worker], say: &mut dyn FnMut(String)) -> Result<Vec<(&'a Worker, Pod)>> {
    let mut pods = Vec::new();
    for worker in workers {
        for number in 1..=PODS_PER_NODE {
            let name = format!("{}-pod{number}", worker.node.name());
            let pod = worker.run_pod(&name).with_context(|| format!("start pod {name}"))?;
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            say(format!("pod {name}: {}", addresses.join("  ")));
            pods.push((worker, pod));
        }
    }
    Ok(pods)
}

/// Pings from every pod to every other, by kind of path.
fn ping_all(pods: &[(&Worker, Pod)]) -> Result<Vec<(String, Vec<bool>)>> {
    let mut paths: Vec<(String, Vec<bool>)> = Vec::new();
    for (from_worker, from) in pods {
        for (to_worker, to) in pods.iter().filter(|(_, to)| to.sandbox != from.sandbox) {
            let same = from_worker.node.name() == to_worker.node.name();
            for address in &to.addresses {
                let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
                let path = format!("{} {family}", if same { "same node" } else { "across nodes" });
                let reached = reaches(from_worker, from, *address)?;
                match paths.iter_mut().find(|(known, _)| *known == path) {
                    Some((_, all)) => all.push(reached),
                    None => paths.push((path, vec![reached])),
                }
            }
        }
    }
    Ok(paths)
}

/// Pings up to three times: a reference plugin's IPv6 gateway is silent until duplicate address detection ends.
fn reaches(worker: &Worker, from: &Pod, to: IpAddr) -> Result<bool> {
    for _ in 0..3 {
        if worker.ping(from, to, PING)? {
            return Ok(true);
        }
    }
    Ok(false)
}
