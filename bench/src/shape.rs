//! `barewire-bench shape`: how near to its limit a pod's traffic comes, and what limits cost whom they do not hold.
//!
//! - A limit of what a pod sends to the internet, at three rates, is reached by TCP and by UDP, by one stream and by many ([`cells`]). What
//!   is compared is goodput, with the payload of as many frames as the limit lets pass.
//! - The limited pod's stream within the cluster stands beside that of a pod without limits on the same node, in pairs.
//! - Ping-pong of a pod without limits on a node where others have some (off) stands beside that of a node without any; ping-pong of a pod
//!   that has every limit (on) beside that of a pod without on the same node, to the cluster and to the internet, in pairs.
//! - A rate that a pod without limits does not clearly exceed here is not measured, and told.

pub mod cells;
mod findings;
pub mod traffic;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::contender::Pods;
use crate::daemon::Daemon;
use crate::datapath::cluster::{Cluster, Contender, Ends, Site};
use crate::datapath::load::{self, Load, Pinning};
use crate::node::{Node, ip};
use crate::noise;
use cells::{CELLS, Protocol, RATES, STREAMS};
pub use findings::Findings;
use traffic::{Sent, WARM_UP, Way, goodput};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Rounds; a figure is the median over them.
    pub rounds: usize,
    /// How long one figure is measured in one round.
    pub slot: Duration,
}

/// All that is measured, warm-ups included.
const LIMIT: Duration = Duration::from_secs(5 * 60);
/// Pairs of ping-pongs, and of streams, in a round: their ratios are nearer to 1 than one slot is to the next.
const PAIRS: usize = 4;
/// Of a ping-pong, and of a stream within the cluster.
const SHORT: Duration = Duration::from_millis(400);
/// TEST-NET-2 (RFC 5737): the internet, as far as pods can tell.
const INTERNET: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Above all that ping-pong sends.
const FAR_AWAY: u64 = 20_000_000_000;

/// Places of pods on the first node of [`Bench::shaped`]: behind the two that every node has come those with limits, by [`RATES`], and one
/// that has every limit.
const UNLIMITED: usize = 0;
const FIRST_LIMITED: usize = 2;
const WITH_ALL: usize = FIRST_LIMITED + RATES.len();

/// Measures.
///
/// # Errors
/// When anything that is measured fails, or the kernel takes no programs.
pub fn run(binaries: &Path, options: Options, only: &[String]) -> Result<Findings> {
    let Options { rounds, slot } = options;
    let unknown = only.iter().find(|key| !CELLS.iter().any(|cell| cell.key == **key));
    if let Some(unknown) = unknown {
        bail!("--only {unknown}: there is no such figure; there are {}", CELLS.map(|cell| cell.key).join(", "));
    }
    let cells: Vec<_> = CELLS.into_iter().filter(|cell| only.is_empty() || only.iter().any(|key| key == cell.key)).collect();
    let pairs = if only.is_empty() { &Pair::ALL[..] } else { &[] };
    ensure!(rounds > 0 && slot >= SHORT, "measure at least one round of at least {SHORT:?} a slot");
    let short = SHORT * u32::try_from(PAIRS * 2 * pairs.len())?;
    let of_a_round = cells.iter().map(|cell| WARM_UP + cell.slot(slot)).sum::<Duration>() + short;
    let all = of_a_round * u32::try_from(rounds)? + (WARM_UP + slot) * u32::try_from(2 * STREAMS.len())?;
    ensure!(all <= LIMIT, "{rounds} rounds of {slot:?} a slot take {all:?}, more than {LIMIT:?}: measure fewer or shorter");

    let noise_percent = noise::percent()?;
    let node = Node::become_one()?;
    let bench = Bench::set_up(binaries, &node)?;
    let mut findings = Findings::new(options, noise_percent);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for streams in STREAMS {
            findings.unlimited.push((protocol, streams, bench.goodput(UNLIMITED, Sent { protocol, streams, datagram_bits: None }, slot)?));
        }
    }
    for round in 0..rounds {
        for cell in &cells {
            if findings.is_measured(cell) {
                let sent = Sent { protocol: cell.protocol, streams: cell.streams, datagram_bits: Some(cell.datagram_bits()) };
                let bits = bench.goodput(FIRST_LIMITED + cell.rate, sent, cell.slot(slot))?;
                findings.push_error(cell, cell.error_percent(bits));
            }
        }
        for pair in pairs {
            for turn in 0..PAIRS {
                findings.push_ratio(*pair, bench.ratio(*pair, turn % 2 == 1)?);
            }
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    Ok(findings)
}

/// Two that are measured in turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pair {
    /// A stream within the cluster, of a pod whose internet egress is limited and of one without.
    Cluster,
    /// Ping-pong of a pod without limits beside others that have some, and on a node without any.
    Off,
    /// Ping-pong within the cluster of a pod that has every limit, and of one without.
    OnCluster,
    /// The same to the internet.
    OnInternet,
}

impl Pair {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Off, Self::OnCluster, Self::OnInternet];
}

struct Bench {
    /// Its first node's pods have limits, all but two.
    shaped: Cluster,
    /// Nobody has one.
    plain: Cluster,
}

impl Bench {
    fn set_up(binaries: &Path, node: &Node) -> Result<Self> {
        let refusal = Daemon::refusal_of_fast_path(binaries, &node.folder("check")?)?;
        if let Some(told) = refusal {
            bail!("this barewired does not know network.fast_path, and without it there are no limits: {told}");
        }
        let mut names = Pods::default();
        let mut build = |folders| {
            let site = Site { binaries, node, fast_path_is_known: true, folders };
            Cluster::build(Contender::FastPath, &site, &mut names)
        };
        let (mut shaped, plain) = (build("shaped-")?, build("plain-")?);
        for (_, rate) in RATES {
            shaped.add_with(0, &mut names, &internet_egress(rate))?;
        }
        let mut all = internet_egress(&FAR_AWAY.to_string());
        all["bandwidth"] = json!({"ingressRate": FAR_AWAY, "egressRate": FAR_AWAY});
        shaped.add_with(0, &mut names, &all)?;
        {
            let _home = shaped.fabric().enter()?;
            ip(&format!("address add {INTERNET}/32 dev lo\n"))?;
        }
        Ok(Self { shaped, plain })
    }

    /// Of a pod of the first node, to the internet.
    fn goodput(&self, pod: usize, sent: Sent, slot: Duration) -> Result<f64> {
        let way = Way { from: self.shaped.pods(0)[pod].namespace(), to: self.shaped.fabric(), address: INTERNET.into() };
        goodput(way, sent, slot).with_context(|| format!("{sent:?} from pod {pod}")).with_context(|| self.shaped.end_of_logs())
    }

    /// The first of a pair by the second; `reversed` has the second go first.
    fn ratio(&self, pair: Pair, reversed: bool) -> Result<f64> {
        let (load, pinning) = match pair {
            Pair::Cluster => (Load::Stream, Pinning::Apart),
            Pair::Off | Pair::OnCluster | Pair::OnInternet => (Load::PingPong, Pinning::Together),
        };
        let (held, free) = match pair {
            // Of the least rate.
            Pair::Cluster => (across(&self.shaped, FIRST_LIMITED)?, across(&self.shaped, UNLIMITED)?),
            Pair::Off => (across(&self.shaped, UNLIMITED)?, across(&self.plain, UNLIMITED)?),
            Pair::OnCluster => (across(&self.shaped, WITH_ALL)?, across(&self.shaped, UNLIMITED)?),
            Pair::OnInternet => (self.outside(WITH_ALL), self.outside(UNLIMITED)),
        };
        let measure = |ends| load::run(load, ends, 1, pinning, SHORT).with_context(|| format!("{pair:?}")).map(|outcome| outcome.value);
        Ok(if reversed {
            let free = measure(free)?;
            measure(held)? / free
        } else {
            measure(held)? / measure(free)?
        })
    }

    fn outside(&self, pod: usize) -> Ends<'_> {
        Ends {
            client: self.shaped.pods(0)[pod].namespace(),
            server: self.shaped.fabric(),
            address: IpAddr::from(INTERNET),
            service: None,
            port: 0,
        }
    }
}

fn across(cluster: &Cluster, pod: usize) -> Result<Ends<'_>> {
    let server = &cluster.pods(1)[0];
    Ok(Ends { client: cluster.pods(0)[pod].namespace(), server: server.namespace(), address: server.address()?, service: None, port: 0 })
}

/// As a runtime passes the pod's annotation.
fn internet_egress(rate: &str) -> Value {
    json!({"io.kubernetes.cri.pod-annotations": {"barewire.io/internet-egress": rate}})
}
