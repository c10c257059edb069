//! `barewire-bench clusterip`: what a service's address costs a pod beside its endpoint's own, by the kernel programs and by kube-proxy's rules.
//!
//! Two clusters of Barewire with its fast path, each with a pod on either node and a service whose endpoint is the second: in one barewired
//! serves it, told by the file of what the fleet has told; in the other the rules of kube-proxy's nftables mode do. Either has 300 ports of other
//! services. A round measures both ways of both clusters, whoever went first goes second in the next; ratios are taken round by round.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::kube_proxy::{self, KubeProxy};

use crate::contender::Pods;
use crate::daemon::Daemon;
use crate::datapath::cluster::{Cluster, Contender, Ends, SERVICES, Site, address_of_node};
use crate::datapath::findings::median;
use crate::datapath::load::{self, Load, Pinning};
use crate::datapath::rules;
use crate::datapath::served::{PORT, SERVICE, endpoint_of};
use crate::node::{Node, feed};
use crate::noise;
use crate::report::{Figure, Must, Report, Verdict, title};

/// Until the programs have been told.
const LIMIT: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_millis(200);

/// Measures.
///
/// # Errors
/// When a cluster does not come up, a load fails, or the programs do not translate to the service.
pub fn run(binaries: &Path, rounds: usize, slot: Duration) -> Result<Report> {
    ensure!(rounds > 0 && slot >= WARM_UP, "measure at least one round of at least {WARM_UP:?} a slot");
    let noise_percent = noise::percent()?;
    let node = Node::become_one()?;
    if let Some(told) = Daemon::refusal_of_fast_path(binaries, &node.folder("check")?)? {
        bail!("this barewired does not know network.fast_path: {told}");
    }
    let site = Site { binaries, node: &node, fast_path_is_known: true, folders: "clusterip-" };
    let mut names = Pods::default();
    let mut build = |contender| Cluster::build(contender, &site, &mut names).with_context(|| format!("cannot set up {contender:?}"));
    let (served, proxied) = (build(Contender::Served)?, build(Contender::Proxied)?);
    have_proxy(&proxied)?;
    wait_for_translation(&served)?;
    let mut figures: [Vec<[f64; 4]>; 2] = Default::default();
    for round in 0..rounds {
        for (cluster, figures) in [&served, &proxied].into_iter().zip(&mut figures) {
            let [direct, through] = ways(cluster)?;
            let measure = |load, ends| -> Result<f64> {
                let outcome = load::run(load, ends, 1, Pinning::Together, slot).with_context(|| cluster.end_of_logs());
                Ok(outcome.with_context(|| format!("{load:?} of {}", cluster.contender().key()))?.value)
            };
            let pair = |load| -> Result<[f64; 2]> {
                Ok(if round % 2 == 0 {
                    let direct = measure(load, direct)?;
                    [direct, measure(load, through)?]
                } else {
                    let through = measure(load, through)?;
                    [measure(load, direct)?, through]
                })
            };
            let ([direct_us, through_us], [direct_per_s, through_per_s]) = (pair(Load::PingPong)?, pair(Load::Connect)?);
            figures.push([direct_us, through_us, direct_per_s, through_per_s]);
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    let of = |cluster: usize, value: fn(&[f64; 4]) -> f64| median(figures[cluster].iter().map(value).collect()).unwrap_or(f64::NAN);
    let ratio = |round: &[f64; 4]| round[1] / round[0];
    let connects = |round: &[f64; 4]| round[2] / round[3];
    let figure = |key, value, meaning| Figure { key, value, meaning };
    Ok(Report {
        title: title(&format!("services, medians of {rounds} rounds of {} s a slot, {noise_percent:.0} % noise", slot.as_secs_f64())),
        figures: vec![
            figure("pod_rr_us", of(0, |round| round[0]), "TCP ping-pong across nodes, pod to pod, half a round trip"),
            figure("clusterip_rr_us", of(0, |round| round[1]), "the same to the service's address, by the kernel programs"),
            figure("clusterip_rr_ratio_kube_proxy", of(1, ratio), "of kube-proxy's nftables mode: to the service by to the pod"),
            figure("clusterip_crr_ratio", of(0, connects), "connections a second, pod to pod by pod to service"),
            figure("clusterip_crr_ratio_kube_proxy", of(1, connects), "the same of kube-proxy's nftables mode"),
        ],
        verdicts: vec![Verdict {
            key: "clusterip_rr_ratio",
            promise: "a service's address costs a pod what a pod's does",
            value: of(0, ratio),
            must: Must::AtMost(1.05),
            aim: None,
        }],
    })
}

/// To the pod of the second node, and to the service.
fn ways(cluster: &Cluster) -> Result<[Ends<'_>; 2]> {
    let direct = Ends { port: PORT, ..cluster.across()?.context("these pods have no such way")? };
    Ok([direct, Ends { service: Some(SERVICE.into()), ..direct }])
}

/// kube-proxy's rules on the client's node.
fn have_proxy(cluster: &Cluster) -> Result<()> {
    let endpoint = cluster.pods(1).first().context("the second node has no pod")?.address()?;
    let mut services = rules::services(SERVICES)?;
    services.push(kube_proxy::Service {
        name: "measured".to_owned(),
        addresses: vec![SERVICE.into()],
        port: PORT,
        node_port: None,
        local_only: false,
        backends: vec![kube_proxy::Backend { target: SocketAddr::new(endpoint, PORT), here: false }],
    });
    let (node, pods) = ([IpAddr::from(address_of_node(0))], ["10.10.16.0/20".parse()?]);
    let _home = cluster.node(0).enter()?;
    feed("nft", &["-f", "-"], "nftables", &KubeProxy { node: &node, pods: &pods, services: &services }.nftables())
}

/// The service leads to the pod, and the programs say so.
fn wait_for_translation(cluster: &Cluster) -> Result<()> {
    let endpoint = cluster.pods(1).first().context("the second node has no pod")?.address()?;
    ensure!(
        endpoint == endpoint_of(endpoint_range(cluster)?),
        "the second node's first pod has {endpoint}: the service does not lead there"
    );
    let daemon = cluster.daemons().first().context("the node has no daemon")?;
    let begun = Instant::now();
    loop {
        let translated = {
            let _home = cluster.node(0).enter()?;
            daemon.status()?["services"]["translated_ports"].as_u64().unwrap_or_default()
        };
        if translated > 0 {
            return Ok(());
        }
        ensure!(begun.elapsed() < LIMIT, "the programs translate to no service after {LIMIT:?}\n{}", daemon.end_of_log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn endpoint_range(cluster: &Cluster) -> Result<Ipv4Addr> {
    match cluster.pods(1).first().context("the second node has no pod")?.address()? {
        IpAddr::V4(address) => Ok(Ipv4Addr::from(u32::from(address) & 0xffff_f000)),
        IpAddr::V6(address) => bail!("the pod has {address}"),
    }
}
