//! The node runs out of addresses, says so, and recovers.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Error;
use lab::command::wait_until;
use lab::cri::pod::Pod;
use lab::worker::Worker;

use crate::lifecycle::Footprint;
use crate::suite::{Case, Cluster};

/// More pods than a /28 has addresses.
const MORE_THAN_THERE_IS: usize = 17;

/// Longer than the cooldown of the lab's configuration.
const COOLED: Duration = Duration::from_secs(10);

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::any("an_exhausted_node_says_so_leaks_nothing_and_recovers", exhaustion)]
}

fn exhaustion(cluster: &mut Cluster) -> Result<()> {
    let before = Footprint::settled(&cluster.b)?;
    let mut pods = Vec::new();
    let outcome = fill(&cluster.b, &cluster.b1, &mut pods);
    for pod in &pods {
        cluster.b.remove_pod(pod)?;
    }
    outcome?;
    before.wait_for_return(&cluster.b)?;
    // A kubelet tries again until an address has cooled down; so does this.
    let pod = wait_until("an address for a new pod", COOLED, || cluster.b.run_pod("afterwards").map_err(|error| error.to_string()))?;
    cluster.b.remove_pod(&pod)?;
    before.wait_for_return(&cluster.b)
}

fn fill(worker: &Worker, first: &Pod, pods: &mut Vec<Pod>) -> Result<()> {
    let refused = loop {
        let full = Footprint::settled(worker)?;
        match worker.run_pod(&format!("fill{}", pods.len())) {
            Ok(pod) => pods.push(pod),
            Err(error) => {
                full.wait_for_return(worker).context("what the refused pod left")?;
                break error;
            }
        }
        ensure!(pods.len() < MORE_THAN_THERE_IS, "{} pods in a /28", pods.len() + 1);
    };
    // Fourteen at least: what is left of a /28 without its first and its last address.
    ensure!(pods.len() >= 12, "only {} pods beside the first: {refused}", pods.len());
    let all: Vec<IpAddr> = pods.iter().chain([first]).flat_map(|pod| pod.addresses.clone()).collect();
    ensure!(all.iter().collect::<HashSet<_>>().len() == all.len(), "an address was given out twice: {all:?}");
    ensure!(all.iter().all(|address| worker.plan.owns(*address)), "an address of another node: {all:?}");
    let Error::Cri(refused) = &refused else {
        anyhow::bail!("not the runtime refused: {refused}");
    };
    let message = refused.refusal().with_context(|| format!("not a refusal: {refused}"))?;
    ensure!(message.contains("address"), "the runtime's caller is not told what is missing: {message}");
    Ok(())
}
