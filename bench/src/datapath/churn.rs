//! Connections through a service that come and go: what they leave behind in the programs' tables, and what others feel of them.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::datapath::cluster::{Cluster, Ends};
use crate::datapath::load::{self, Load, PACE, Pinning};
use crate::datapath::loaded;
use crate::node::feed;

/// Connections that are made and closed before it is looked what is left of them.
const CONNECTIONS: f64 = 100_000.0;
/// One load of them.
const SLOT: Duration = Duration::from_secs(4);
/// However slow the machine is.
const SLOTS_MAX: usize = 20;
/// When it is looked, after the last was closed.
const AFTER: Duration = Duration::from_secs(60);
/// Less is no such churn.
const LEAST_OF_PACE: f64 = 0.9;

/// What is left.
#[derive(Debug, Clone, Copy)]
pub struct Left {
    /// Noted flows.
    pub notes: usize,
    /// Endpoints that the programs leave to the stack.
    pub slow_endpoints: usize,
}

/// Gives the first pod of the second node a service on the first node, and tells who is to connect to it.
///
/// # Errors
/// When nft refuses, or there are no pods.
pub fn serve(cluster: &Cluster) -> Result<IpAddr> {
    let backend = cluster.pods(1).first().context("the second node has no pod")?;
    let service = loaded::service_of(backend)?;
    let _home = cluster.node(0).enter()?;
    feed("nft", &["-f", "-"], "nftables", &loaded::translation(&[service]))?;
    Ok(service.0.into())
}

/// Latency from pod to pod during [`PACE`] connections a second through the service, by that without.
///
/// # Errors
/// When a load fails, or the machine does not keep the pace.
pub fn ratio(cluster: &Cluster, service: IpAddr, slot: Duration) -> Result<f64> {
    let direct = cluster.across()?.context("these pods have no such way")?;
    let idle = load::run(Load::PingPong, direct, 1, Pinning::Together, slot)?.value;
    let through_service = Ends { service: Some(service), ..direct };
    let (busy, pace) = thread::scope(|scope| -> Result<_> {
        // Begins before the other and ends after it.
        let churn = scope.spawn(|| load::run(Load::Paced, through_service, 1, Pinning::Beside, slot * 2));
        thread::sleep(slot / 4);
        let busy = load::run(Load::PingPong, direct, 1, Pinning::Together, slot);
        let churn = churn.join().map_err(|_panic| anyhow!("the churn panicked"))?;
        Ok((busy?.value, churn?.value))
    })?;
    ensure!(pace >= f64::from(PACE) * LEAST_OF_PACE, "{pace:.0} connections a second through a service, not {PACE}");
    Ok(busy / idle)
}

/// Makes and closes 100,000 connections through the service, and looks what is left of them after a minute.
///
/// # Errors
/// When a load fails, or the daemon's maps cannot be read.
pub fn leave_behind(cluster: &Cluster, service: IpAddr) -> Result<Left> {
    let ends = Ends { service: Some(service), ..cluster.across()?.context("these pods have no such way")? };
    let mut made = 0.0;
    for _ in 0..SLOTS_MAX {
        made += load::run(Load::Connect, ends, 1, Pinning::Together, SLOT)?.value * SLOT.as_secs_f64();
        if made >= CONNECTIONS {
            break;
        }
    }
    ensure!(made >= CONNECTIONS, "{made:.0} connections in {SLOTS_MAX} loads of {SLOT:?}, not {CONNECTIONS}");
    thread::sleep(AFTER);
    let held = loaded::held(cluster.daemons().first().context("the node has no daemon")?)?;
    Ok(Left { notes: held.flows, slow_endpoints: held.slow })
}
