//! How far it scales: the scenarios of `cargo xtask scale`, each in a file, with the account that EC2 gives everybody: one token bucket
//! for each kind of call, whoever calls.

pub mod churn;
pub mod entry;
pub mod join;
pub mod memory;
pub mod outage;
pub mod peers;
mod pods;
pub mod report;

use std::time::Duration;

use cloudsim::faults::{Faults, Latency};
use cloudsim::time::Millis;
use ipam_pool::Counts;
use ipam_pool::range::Family;

use crate::node::{Node, NodeSettings};
use crate::world::{World, WorldSettings};

/// How large a cluster is simulated, and which of its histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Nodes.
    pub nodes: u64,
    /// Pods.
    pub pods: u64,
    /// The source of all chance.
    pub seed: u64,
}

/// What the account's bucket gives: of calls that assign addresses, so many at once, and so many a second from then on.
const BURST: u64 = 100;
const CALLS_PER_SECOND: u64 = 5;

/// From the launch of an instance to the start of its daemon: quick.
const BOOT: Duration = Duration::from_secs(15);

impl Scale {
    /// Seconds that the account's bucket takes to let every node assign once.
    #[must_use]
    pub fn bucket_limit(&self) -> f64 {
        self.nodes.saturating_sub(BURST) as f64 / CALLS_PER_SECOND as f64
    }

    /// How many /16 subnets it takes. One has 4,096 blocks; a node takes up to five, and its own address spoils another.
    fn subnets(&self) -> u8 {
        u8::try_from(self.nodes.div_ceil(600)).unwrap_or(u8::MAX)
    }

    /// An empty cloud with room for all of it, that answers as clouds do on a good day.
    fn world(&self) -> World {
        let world = World::new(WorldSettings { seed: self.seed, subnets: self.subnets() });
        world.with_cloud(|cloud, _| cloud.set_faults(good_day()));
        world
    }

    fn node(&self, prefixes: u32) -> NodeSettings {
        NodeSettings { prefixes, boot: BOOT, cluster_nodes: self.nodes, ..NodeSettings::default() }
    }
}

/// Replies take a while, and readers are seconds behind.
fn good_day() -> Faults {
    let mut faults = Faults::default();
    faults.api.latency = Latency { min: Millis(50), max: Millis(500) };
    faults.reads.lag = Millis::seconds(5);
    faults.metadata.latency = Latency { min: Millis(1), max: Millis(20) };
    faults.metadata.additions_late = Millis::seconds(5);
    faults.metadata.removals_late = Millis::seconds(10);
    faults
}

/// What a node's pool has, while it has a daemon.
fn counts(node: &Node) -> Option<Counts> {
    Some(node.pool()?.counts(Family::V4, node.now()))
}
