//! `barewire-bench pods`: how long a real cluster takes to have 200 pods Ready, and to be rid of them, with Barewire and with the reference
//! plugin `ptp` in turns.
//!
//! A cluster has one CNI for its life, so each turn is a cluster of its own: the current runtime and plugins on both nodes, kube-proxy in
//! nftables mode. What is measured is what kubectl is told by its watches: from the change of a deployment until all its pods are Ready, and
//! from its deletion until the last pod's object is gone. Pods have a grace period, which they do not use: an object whose grace period is
//! zero goes at once, whatever the node is still doing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Options as LabOptions;
use lab::cni::{NodeCni, ReferencePlugin};
use lab::image;
use lab::kubernetes::{Cluster, NodePlan, Plan, ProxyMode};
use lab::network::Network;
use lab::runtime::Release;
use lab::telemetry;
use serde_json::{Value, json};

use crate::noise;
use crate::report::{Figure, Must, Report, Verdict, title};

/// Pods that run before anything counts: images are unpacked, programs in the page cache.
const BEFORE: u32 = 20;
/// Pods in all.
const ALL: u32 = 200;
/// Several times what it takes.
const LIMIT: Duration = Duration::from_secs(300);
const NAMESPACE: &str = "default";

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Clusters of each CNI.
    pub rounds: usize,
}

/// What one cluster took, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Taken {
    ready: f64,
    gone: f64,
    /// ADD inside the daemon, 99th percentile, of the slower node.
    add_p99: Option<f64>,
}

/// Measures.
///
/// # Errors
/// When a cluster does not come up, or a pod fails.
pub fn run(options: Options) -> Result<Report> {
    let noise = noise::percent()?;
    let (mut ours, mut reference) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds.max(1) {
        eprintln!("round {round} of {}", options.rounds.max(1));
        reference.push(turn(NodeCni::Reference(ReferencePlugin::Ptp)).context("ptp")?);
        ours.push(turn(NodeCni::Barewire).context("Barewire")?);
    }
    Ok(report(options, noise, &ours, &reference))
}

fn turn(cni: NodeCni) -> Result<Taken> {
    let node = |name| NodePlan { name, runtime: Release::Current, plugins: Release::Current };
    let plan = Plan { proxy: ProxyMode::Nftables, cni, nodes: vec![node("node1"), node("node2")], image_names: Vec::new(), acts: false };
    let options = LabOptions { name: Some("bench".to_owned()), ..LabOptions::of_this_program()? };
    let mut cluster = Cluster::up(&plan, &options, &mut |line| eprintln!("  {line}"))?;
    let taken = measure(&mut cluster)?;
    eprintln!("  ready after {:.1} s, gone after {:.1} s", taken.ready / 1e3, taken.gone / 1e3);
    cluster.down()?;
    Ok(taken)
}

fn measure(cluster: &mut Cluster) -> Result<Taken> {
    cluster.kubectl.apply(&pods("before", BEFORE))?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/before", LIMIT)?;
    // A daemon's account of its ADDs begins with it.
    for member in cluster.members.values_mut() {
        member.restart_daemon()?;
    }
    let begun = Instant::now();
    cluster.kubectl.apply(&pods("more", ALL - BEFORE))?;
    cluster.wait_for_rollout(NAMESPACE, "deployment/more", LIMIT)?;
    let ready = millis(begun);
    let add_p99 = slowest_add(cluster)?;

    let begun = Instant::now();
    cluster.kubectl.run(&["delete", "deployment", "more", "--cascade=background", "--wait=false"])?;
    let timeout = format!("--timeout={}s", LIMIT.as_secs());
    let gone = cluster.kubectl.try_run(&["wait", "pods", "--selector=app=more", "--for=delete", &timeout], LIMIT + LIMIT)?;
    gone.success()?;
    Ok(Taken { ready, gone: millis(begun), add_p99 })
}

fn pods(name: &str, replicas: u32) -> Value {
    let labels = json!({ "app": name });
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "replicas": replicas, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": {
            "containers": [{ "name": "pause", "image": image::AGNHOST, "imagePullPolicy": "Never", "args": ["pause"] }] } } } })
}

/// `None` where no daemon wires the pods.
fn slowest_add(cluster: &Cluster) -> Result<Option<f64>> {
    let mut slowest = None;
    for member in cluster.members.values().filter(|member| member.daemon.is_some()) {
        let page = telemetry::get(&Network::of(&member.node)?, "/debug/latency")?;
        let told: Value = serde_json::from_str(&page).with_context(|| format!("/debug/latency is not JSON: {page}"))?;
        ensure!(told["add_us"]["failed"] == 0, "ADDs of {} failed: {page}", member.name());
        let p99 = told["add_us"]["p99"].as_f64().with_context(|| format!("/debug/latency has no add_us.p99: {page}"))? / 1e3;
        slowest = Some(slowest.map_or(p99, |slowest: f64| slowest.max(p99)));
    }
    Ok(slowest)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(options: Options, noise: f64, ours: &[Taken], reference: &[Taken]) -> Report {
    let of = |taken: &[Taken], what: fn(&Taken) -> f64| median(taken.iter().map(what));
    let (ready, gone) = (of(ours, |taken| taken.ready), of(ours, |taken| taken.gone));
    let (reference_ready, reference_gone) = (of(reference, |taken| taken.ready), of(reference, |taken| taken.gone));
    let figure = |key, value, meaning| Figure { key, value, meaning };
    let verdict = |key, promise, value, must| Verdict { key, promise, value, must, aim: None };
    Report {
        title: title(&format!("{} clusters of each CNI, {BEFORE} → {ALL} pods on two nodes", options.rounds.max(1))),
        figures: vec![
            figure("ready_200_ms", ready, "from 20 pods until 200 are Ready"),
            figure("reference_ready_200_ms", reference_ready, "the same with ptp and host-local"),
            figure("gone_200_ms", gone, "until 180 of them are gone"),
            figure("reference_gone_200_ms", reference_gone, "the same with ptp and host-local"),
            figure("add_p99_ms", median(ours.iter().filter_map(|taken| taken.add_p99)), "ADD in the daemon during the burst"),
            figure("noise_percent", noise, "CPU time that others used just before: trust ratios at most where it is high"),
        ],
        verdicts: vec![
            verdict("ready_vs_reference", "200 pods Ready against the reference", ready / reference_ready, Must::AtMost(0.9)),
            verdict("gone_vs_reference", "180 pods gone against the reference", gone / reference_gone, Must::AtMost(0.9)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert!(median([].into_iter()).is_nan());
    }
}
