//! `/status`: all that the daemon knows of its node's state, as JSON. The conditions are those of [`crate::conditions`].

use std::collections::BTreeMap;
use std::sync::PoisonError;

use datapath::NodeNetwork;
use node_api::BootMillis;
use serde::Serialize;

use super::Watched;
use crate::conditions::Condition;
use crate::conflist::publisher::ListReport;
use crate::fleet::FleetReport;
use crate::services::ServicesReport;

#[derive(Serialize)]
pub(super) struct Status {
    node: String,
    version: &'static str,
    /// Whether an ADD would succeed, and if not, why not.
    ready: bool,
    reason: Option<String>,
    conditions: Vec<Condition>,
    attachments: usize,
    addresses: BTreeMap<String, Addresses>,
    network_list: ListReport,
    /// What the programs leave to the host's stack because the host would treat it otherwise, a line each.
    slow_path: Vec<String>,
    /// How limits of bandwidth are kept; `null` where no programs are in use.
    limits: Option<Limits>,
    /// `null` where the configuration names no fleet.
    fleet: Option<FleetReport>,
    /// `null` where barewired does not serve them.
    services: Option<ServicesReport>,
}

#[derive(Serialize)]
struct Limits {
    /// `departure_times`, or `token_buckets`.
    by: &'static str,
    /// As the rest of a sentence.
    why: String,
}

#[derive(Serialize)]
struct Addresses {
    size: u64,
    free: u64,
    held: usize,
    cooling: usize,
    quarantined: u64,
}

pub(super) fn of(watched: &Watched) -> Status {
    let summary = watched.attachments.summary(BootMillis::now());
    let addresses = summary.pool.into_iter().map(|(family, counts)| {
        let addresses = Addresses {
            size: counts.size,
            free: counts.free(),
            held: counts.held,
            cooling: counts.cooling,
            quarantined: counts.quarantined,
        };
        (family.to_string().to_lowercase(), addresses)
    });
    let ready = watched.ready();
    let kernel = watched.attachments.kernel();
    let limits = kernel.fast_path().map(|programs| limits(programs.departure_packets(&kernel.network()), &kernel.network()));
    Status {
        node: watched.node.clone(),
        version: env!("CARGO_PKG_VERSION"),
        ready: ready.is_ok(),
        reason: ready.err(),
        conditions: watched.conditions.all(),
        attachments: summary.attachments,
        addresses: addresses.collect(),
        network_list: watched.list.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        slow_path: watched.slow_path.lines(),
        limits,
        fleet: watched.fleet.as_ref().map(|hearing| hearing.report()),
        services: watched.services.as_ref().map(|report| report.lock().unwrap_or_else(PoisonError::into_inner).clone()),
    }
}

fn limits(departures: Result<u32, String>, network: &NodeNetwork) -> Limits {
    match departures {
        Err(why) => Limits { by: "token_buckets", why },
        Ok(_) => {
            let uplinks: Vec<_> = network.queueing.iter().map(|queue| queue.uplink.as_str()).collect();
            Limits { by: "departure_times", why: format!("fq on {}", uplinks.join(", ")) }
        }
    }
}
