//! `barewire-bench datapath`: what a packet costs on its way from pod to pod, beside the nodes themselves, the kernel's
//! stack, a bridge, an overlay, and the bare veth.
//!
//! - Every contender has two nodes of its own ([`cluster`]), all up at once; nodes carry connection tracking and the rules of
//!   as many services as a real node's ([`rules`]); beside them stand nodes without rules, the strongest peer, and nodes with other
//!   rules, which show how much of a ratio is the rules' doing.
//! - A round measures each figure of each contender once, in an order that rotates; the rounds give the medians
//!   ([`findings`]). Ratios are taken round by round.
//! - Client and server are processes of their own in the pods' networks ([`load`]), on one processor where latency is
//!   measured: then latency is what the path costs.
//! - The fast path is measured only if its programs are seen to handle packets ([`programs`]); what they take is told beside
//!   a program that returns at once ([`baseline`]), and on a node that is full ([`loaded`]).

pub mod baseline;
pub mod churn;
pub mod cluster;
pub mod findings;
pub mod load;
pub mod loaded;
pub mod measures;
mod peers;
pub mod programs;
pub mod rules;
pub mod served;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::contender::Pods;
use crate::daemon::Daemon;
use crate::datapath::baseline::Baseline;
use crate::datapath::churn::Left;
use crate::datapath::cluster::{Cluster, Contender, SERVICES, Site};
use crate::datapath::findings::{Findings, OWN, Table};
use crate::datapath::load::{Load, Outcome, Pinning};
use crate::datapath::measures::{IN_PAIRS, MEASURES, Measure};
use crate::datapath::programs::Account;
use crate::node::Node;
use crate::noise;
use crate::report::title;
use crate::samples::Samples;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Rounds; a figure is the median over them.
    pub rounds: usize,
    /// How long one figure of one contender is measured in one round.
    pub slot: Duration,
}

/// All slots together.
const LIMIT: Duration = Duration::from_secs(8 * 60);
/// Of each contender in a round.
const ADDS: usize = 20;
/// One for the fast path, one for the program that returns at once.
const SLOTS_OF_ACCOUNT: usize = 2;
/// Without new connections beside, and with them.
const SLOTS_OF_CHURN: usize = 3;
/// ADDs of one contender before the other's turn.
const BLOCK: usize = 5;
/// Before anything counts: neighbours, connection tracking, page cache.
const WARM_UP: Duration = Duration::from_millis(100);

/// Slots of a full node in a round, and of an empty one: what is promised is within the noise of one.
const PAIRS: usize = 3;

/// Measures.
///
/// # Errors
/// When anything that is measured fails. A fast path that does not come to work is left out, with the reason.
pub fn run(binaries: &Path, options: Options, only: &[String]) -> Result<Findings> {
    let unknown = only.iter().find(|key| !Contender::all().any(|contender| contender.key() == **key));
    if let Some(unknown) = unknown {
        let known = Contender::all().map(Contender::key).collect::<Vec<_>>().join(", ");
        bail!("--only {unknown}: there is no such contender; there are {known}");
    }
    let measured = MEASURES.iter().map(|measure| Contender::all().filter(|contender| measure.is_of(*contender)).count());
    let slots = u32::try_from(options.rounds * (measured.sum::<usize>() + IN_PAIRS.len() * PAIRS * 2 + SLOTS_OF_ACCOUNT + SLOTS_OF_CHURN))?;
    ensure!(options.rounds > 0 && options.slot >= WARM_UP, "measure at least one round of at least {WARM_UP:?} a slot");
    ensure!(options.slot * slots <= LIMIT, "{slots} slots of {:?} take more than {LIMIT:?}: measure fewer or shorter", options.slot);

    let noise_percent = noise::percent()?;
    let node = Node::become_one()?;
    let mut bench = Bench::set_up(binaries, &node, only)?;
    for round in 0..options.rounds {
        bench.round(round, options)?;
        eprintln!("round {} of {}", round + 1, options.rounds);
    }
    bench.churn_on()?;
    Ok(bench.conclude(options, noise_percent))
}

struct Bench {
    clusters: Vec<Cluster>,
    baseline: Option<Baseline>,
    names: Pods,
    table: Table,
    /// Why the fast path is not measured.
    absent: Option<String>,
    bpf_nanos: Vec<f64>,
    at_once_nanos: Vec<f64>,
    attach_millis: Vec<f64>,
    /// The address of a service behind which is a pod of the fast path's second node.
    service: Option<IpAddr>,
    churn_ratios: Vec<f64>,
    left: Option<Left>,
}

impl Bench {
    fn set_up(binaries: &Path, node: &Node, only: &[String]) -> Result<Self> {
        let refusal = Daemon::refusal_of_fast_path(binaries, &node.folder("check")?)?;
        let site = Site { binaries, node, fast_path_is_known: refusal.is_none(), folders: "" };
        let mut absent = refusal.map(|told| format!("this barewired does not know network.fast_path: {told}"));
        if !only.is_empty() {
            absent = Some(format!("only {} were measured", only.join(", ")));
        }
        let is_wanted = |contender: &Contender| only.is_empty() || only.contains(&contender.key());
        let mut names = Pods::default();
        let mut clusters = Vec::new();
        for contender in Contender::all().filter(is_wanted) {
            if matches!(contender, Contender::FastPath | Contender::Loaded) && absent.is_some() && only.is_empty() {
                continue;
            }
            let mut cluster = Cluster::build(contender, &site, &mut names).with_context(|| format!("cannot set up {}", contender.key()))?;
            if contender == Contender::FastPath
                && let Err(error) = prove_fast_path(&cluster)
            {
                absent = Some(format!("{error:#}"));
                continue;
            }
            if contender == Contender::Loaded {
                let started = Instant::now();
                loaded::fill(&mut cluster, &mut names).with_context(|| cluster.end_of_logs()).context("cannot fill a node")?;
                eprintln!("{} pods, {} noted flows in {:.1} s", loaded::ENDPOINTS, loaded::FLOWS, started.elapsed().as_secs_f64());
            }
            for ends in [cluster.across()?, cluster.within()?].into_iter().flatten() {
                load::run(Load::PingPong, ends, 1, Pinning::Together, WARM_UP)
                    .with_context(|| format!("{}: no way from one end to the other", contender.key()))
                    .with_context(|| cluster.end_of_logs())?;
            }
            clusters.push(cluster);
        }
        if let Some(reason) = &absent {
            eprintln!("without the fast path: {reason}");
        }
        let baseline = if absent.is_none() { Some(Baseline::set_up(&site, &mut names)?) } else { None };
        let table = Table::default();
        Ok(Self {
            clusters,
            baseline,
            names,
            table,
            absent,
            bpf_nanos: Vec::new(),
            at_once_nanos: Vec::new(),
            attach_millis: Vec::new(),
            service: None,
            churn_ratios: Vec::new(),
            left: None,
        })
    }

    fn round(&mut self, round: usize, options: Options) -> Result<()> {
        for (index, measure) in MEASURES.iter().enumerate() {
            for turn in 0..self.clusters.len() {
                let cluster = &self.clusters[(round + index + turn) % self.clusters.len()];
                if !measure.is_of(cluster.contender()) {
                    continue;
                }
                let outcome = slot(measure, cluster, options)?;
                self.table.push(measure.row.key, cluster.contender(), outcome.value);
                if let (Some(row), Some(value)) = (measure.cpu, outcome.cpu_seconds_per_gb) {
                    self.table.push(row.key, cluster.contender(), value);
                }
            }
        }
        if self.absent.is_none() {
            self.pairs(options)?;
            self.account(options)?;
            self.attach(round)?;
            self.churn(options)?;
        }
        Ok(())
    }

    fn position(&self, contender: Contender) -> Result<usize> {
        let position = self.clusters.iter().position(|cluster| cluster.contender() == contender);
        position.with_context(|| format!("{} is not set up", contender.key()))
    }

    /// A full node beside an empty one; whoever went first in a pair goes second in the next.
    fn pairs(&mut self, options: Options) -> Result<()> {
        let mut pair = [self.position(Contender::FastPath)?, self.position(Contender::Loaded)?].map(|position| &self.clusters[position]);
        for measure in &IN_PAIRS {
            for _ in 0..PAIRS {
                for cluster in pair {
                    self.table.push(measure.row.key, cluster.contender(), slot(measure, cluster, options)?.value);
                }
                pair.reverse();
            }
        }
        let full = &self.clusters[self.position(Contender::Loaded)?];
        loaded::require(full).with_context(|| full.end_of_logs())
    }

    /// Slots with the kernel's account on, in which nothing else is measured: the account has its price.
    fn account(&mut self, options: Options) -> Result<()> {
        let cluster = &self.clusters[self.position(Contender::FastPath)?];
        let baseline = self.baseline.as_ref().context("the program that returns at once is not set up")?;
        let mut programs = programs::of_daemons(cluster.daemons())?;
        programs.insert(baseline.program());
        let account = Account::open(programs)?;
        for ends in [cluster.across()?.context("the fast path has no pods")?, baseline.ends()?] {
            load::run(Load::PingPong, ends, 1, Pinning::Together, options.slot)?;
        }
        let runs = account.close()?;
        eprintln!("ns a run, the account's own included: {:?}", programs::nanos_by_program(&runs));
        self.bpf_nanos.push(programs::nanos_per_packet(&runs)?);
        self.at_once_nanos.push(programs::nanos_at_once(&runs)?);
        Ok(())
    }

    /// New connections through a service beside a load between pods.
    fn churn(&mut self, options: Options) -> Result<()> {
        let cluster = &self.clusters[self.position(Contender::FastPath)?];
        let service = match self.service {
            Some(service) => service,
            None => *self.service.insert(churn::serve(cluster)?),
        };
        self.churn_ratios.push(churn::ratio(cluster, service, options.slot)?);
        Ok(())
    }

    /// Last of all: it fills the tables.
    fn churn_on(&mut self) -> Result<()> {
        if let Some(service) = self.service {
            let cluster = &self.clusters[self.position(Contender::FastPath)?];
            self.left = Some(churn::leave_behind(cluster, service).with_context(|| cluster.end_of_logs())?);
        }
        Ok(())
    }

    /// ADDs with and without programs to attach, in turns.
    fn attach(&mut self, round: usize) -> Result<()> {
        let lanes = [self.position(Contender::FastPath)?, self.position(Contender::Stack)?];
        let mut adds = [Samples::default(), Samples::default()];
        for block in 0..ADDS / BLOCK {
            for turn in 0..lanes.len() {
                let lane = (round + block + turn) % lanes.len();
                for _ in 0..BLOCK {
                    adds[lane].push(self.clusters[lanes[lane]].add(0, &mut self.names)?);
                }
            }
        }
        for lane in lanes {
            self.clusters[lane].detach_later()?;
        }
        let [with, without] = adds.map(|samples| samples.percentile(50));
        let (with, without) = (with.context("no ADDs")?, without.context("no ADDs")?);
        self.attach_millis.push((with.as_secs_f64() - without.as_secs_f64()) * 1e3);
        Ok(())
    }

    fn conclude(self, options: Options, noise_percent: f64) -> Findings {
        let Self { table, absent, bpf_nanos, at_once_nanos, attach_millis, churn_ratios, left, .. } = self;
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let counted = |count: fn(Left) -> usize| left.map(|left| count(left) as f64).into_iter().collect();
        let own = [bpf_nanos, at_once_nanos, churn_ratios, counted(|left| left.notes), counted(|left| left.slow_endpoints), attach_millis];
        let Options { rounds, slot } = options;
        let mut findings = Findings {
            title: title(&format!(
                "pod traffic, medians of {rounds} rounds of {} s a slot, rules of {SERVICES} ports of services",
                slot.as_secs_f64()
            )),
            processor: noise::processor(),
            services: SERVICES,
            noise_percent,
            rows: measures::rows().collect(),
            table,
            own: OWN.iter().copied().zip(own).collect(),
            verdicts: Vec::new(),
            skipped: Vec::new(),
        };
        findings.judge(absent.as_deref());
        findings
    }
}

fn slot(measure: &Measure, cluster: &Cluster, options: Options) -> Result<Outcome> {
    let ends = if measure.across { cluster.across()? } else { cluster.within()? };
    ends.context("these pods have no such way")
        .and_then(|ends| load::run(measure.load, ends, measure.streams, measure.pinning, options.slot))
        .with_context(|| format!("{} of {}", measure.row.key, cluster.contender().key()))
        .with_context(|| cluster.end_of_logs())
}

/// Sends packets and has the kernel tell whether programs saw them.
fn prove_fast_path(cluster: &Cluster) -> Result<()> {
    let proof = || -> Result<()> {
        let ends = cluster.across()?.context("the fast path has no pods")?;
        let account = Account::open(programs::of_daemons(cluster.daemons())?)?;
        load::run(Load::PingPong, ends, 1, Pinning::Together, WARM_UP)?;
        programs::require_fast_path(&account.close()?)
    };
    proof().map_err(|error| {
        // The reason goes into the findings, and is one line there.
        eprint!("{}", cluster.end_of_logs());
        anyhow!("fast_path = \"auto\" does not carry packets: {error:#}")
    })
}
