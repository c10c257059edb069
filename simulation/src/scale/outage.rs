//! The API is away for half an hour, while the cluster grows to its peak: by the end almost every node wants a prefix.

use std::time::Duration;

use cloudsim::cloud::Tally;
use cloudsim::faults::Interval;
use ipam_supply::sizing::Sizing;
use ipam_supply::{ApiMode, Report};

use super::churn::{FILLING, PODS_PERCENT, QUIET};
use super::pods::Pods;
use super::{Scale, counts, good_day};
use crate::node::Node;

const BEFORE: Duration = Duration::from_secs(300);
const AWAY: Duration = Duration::from_secs(1800);
/// Given up after as long.
const RECOVERY_AT_MOST: Duration = Duration::from_secs(2 * 3600);
const LOOK: Duration = Duration::from_secs(10);
/// Of the peak's pods, those that run when the API goes away.
const PERCENT_BEFORE: u64 = 80;
/// Prefixes of a node at its launch: enough for the pods before, too few for the peak.
const PREFIXES: u32 = 2;

/// How the cluster came through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outage {
    /// Running pods whose address did not stay theirs, or was doubted.
    pub affected: u64,
    /// Calls that met nobody.
    pub unheard: u64,
    /// Nodes that wanted addresses when the API came back.
    pub short: u64,
    /// Pods that waited for an address then.
    pub waiting: u64,
    /// Seconds until each of those nodes had what it wanted.
    pub recovery: f64,
    /// Those of them that had not when this was given up.
    pub unrecovered: u64,
    /// What nobody will give back, when all is quiet.
    pub leaks: u64,
    /// Calls from the API's return to the recovery.
    pub calls: Tally,
    /// The most calls in ten seconds, a second.
    pub peak_calls_per_second: f64,
}

/// Whether the node wants more addresses than it has, or has not found out yet that it may call.
fn is_short(node: &Node) -> bool {
    let sizing = Sizing::of_blocks(16);
    let wants = counts(node).is_none_or(|counts| {
        let used = (counts.held + counts.cooling + node.waiting()) as u64;
        counts.size - counts.quarantined < sizing.at_least(used) * sizing.block
    });
    wants || node.supply().is_none_or(|supply| supply.api_mode() != ApiMode::Normal)
}

/// The outage, and the recovery.
#[must_use]
pub fn outage(scale: Scale) -> Outage {
    crate::run(async || {
        let world = scale.world();
        (0..scale.nodes).for_each(|_| _ = world.launch(scale.node(PREFIXES)));
        world.pass(FILLING).await;
        let mut pods = Pods::new(&world, scale.seed);
        let before = scale.pods * PERCENT_BEFORE / 100;
        pods.pass(FILLING, before, 0).await;
        pods.pass(BEFORE, before, PODS_PERCENT).await;
        world.with_cloud(|cloud, now| {
            let mut faults = good_day();
            faults.api.away = vec![Interval { from: now, until: now + cloudsim::time::Millis(AWAY.as_millis() as u64) }];
            cloud.set_faults(faults);
            cloud.clear_calls();
        });
        pods.pass(AWAY, scale.pods, PODS_PERCENT).await;
        let unheard = world.with_cloud(|cloud, _| {
            let calls = cloud.calls().total();
            cloud.clear_calls();
            calls.unheard
        });
        let back = world.clock().node();
        let mut short: Vec<_> = world.nodes().into_iter().filter(|node| is_short(&node.borrow())).collect();
        let waiting = short.iter().map(|node| node.borrow().waiting() as u64).sum();
        let (at_first, mut recovery, mut peak, mut calls) = (short.len() as u64, 0, 0, Tally::default());
        while !short.is_empty() && world.clock().node().since(back) < RECOVERY_AT_MOST.as_millis() as u64 {
            pods.pass(LOOK, scale.pods, PODS_PERCENT).await;
            short.retain(|node| is_short(&node.borrow()));
            recovery = world.clock().node().since(back);
            let now = world.with_cloud(|cloud, _| cloud.calls().total());
            peak = peak.max(now.calls - calls.calls);
            calls = now;
        }
        let lost = |node: &Node| {
            let held =
                node.reports().iter().filter_map(|(_, report)| if let Report::Lost { held, .. } = report { Some(*held) } else { None });
            held.sum::<usize>() as u64
        };
        world.pass(QUIET).await;
        Outage {
            leaks: world.leaks().len() as u64,
            affected: world.violations().len() as u64 + world.nodes().iter().map(|node| lost(&node.borrow())).sum::<u64>(),
            unheard,
            short: at_first,
            waiting,
            recovery: recovery as f64 / 1000.0,
            unrecovered: short.len() as u64,
            calls,
            peak_calls_per_second: peak as f64 / LOOK.as_secs_f64(),
        }
    })
}
