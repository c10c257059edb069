//! Pods come and go, the runtime comes back, and nothing of them stays.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use conformance_tests::lab::command::wait_until;
use conformance_tests::lab::worker::Worker;

use crate::suite::{Case, Cluster};

/// How long links may take to vanish: they are deleted in batches, off the path of the answer.
const VANISH: Duration = Duration::from_secs(10);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::any("a_removed_pod_leaves_nothing_on_the_node", nothing_left),
        Case::any("stopping_and_removing_twice_succeeds", twice),
        Case::any("restart_of_containerd_keeps_pods_running_and_reachable", restart_of_containerd),
    ]
}

/// What a node has of its pods: devices, routes, namespaces and sandboxes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    devices: BTreeSet<String>,
    routes: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    sandboxes: BTreeSet<String>,
}

impl Footprint {
    pub(crate) fn of(worker: &Worker) -> Result<Self> {
        let lines =
            |argv: &[&str]| -> Result<BTreeSet<String>> { Ok(worker.node.run(argv)?.lines().map(|line| line.trim().to_owned()).collect()) };
        // Without the state and flags of the devices, which are not what a pod leaves behind.
        let devices = lines(&["ip", "-brief", "link", "show", "type", "veth"])?;
        let mut routes = lines(&["ip", "-4", "route"])?;
        routes.extend(lines(&["ip", "-6", "route"])?);
        let sandboxes = worker.cri.list_pod_sandbox()?.into_iter().map(|sandbox| sandbox.id);
        Ok(Self {
            devices: devices.iter().filter_map(|line| line.split('@').next().map(str::to_owned)).collect(),
            routes,
            namespaces: lines(&["ls", "/run/netns"])?,
            sandboxes: sandboxes.collect(),
        })
    }

    /// Waits until the node looks like this again.
    pub(crate) fn wait_for_return(&self, worker: &Worker) -> Result<()> {
        let back = wait_until(&format!("{} without the pods' remains", worker.node.name()), VANISH, || {
            let now = Self::of(worker).map_err(|error| format!("{error:#}"))?;
            if now == *self { Ok(()) } else { Err(format!("{now:?} instead of {self:?}")) }
        });
        Ok(back?)
    }
}

fn nothing_left(cluster: &mut Cluster) -> Result<()> {
    let before = Footprint::of(&cluster.a)?;
    let pods = [cluster.a.run_pod("short1")?, cluster.a.run_pod("short2")?];
    let during = Footprint::of(&cluster.a)?;
    ensure!(during.devices.len() == before.devices.len() + 2, "two pods, but devices {:?}", during.devices);
    for pod in &pods {
        cluster.a.remove_pod(pod)?;
    }
    before.wait_for_return(&cluster.a)
}

fn twice(cluster: &mut Cluster) -> Result<()> {
    let pod = cluster.a.run_pod("twice")?;
    for _ in 0..2 {
        cluster.a.cri.stop_pod_sandbox(&pod.sandbox).context("stop")?;
    }
    for _ in 0..2 {
        cluster.a.cri.remove_pod_sandbox(&pod.sandbox).context("remove")?;
    }
    Ok(())
}

fn restart_of_containerd(cluster: &mut Cluster) -> Result<()> {
    let before = cluster.a.run_pod("before-restart")?;
    cluster.a.restart_containerd()?;
    for pod in [&cluster.a1, &before] {
        ensure!(pod.is_running(&cluster.a.cri)?, "{} does not run any more", pod.name);
        cluster.all_reached(&cluster.b, &cluster.b1, &pod.addresses)?;
    }
    let after = cluster.a.run_pod("after-restart")?;
    ensure!(after.addresses.iter().all(|address| !before.addresses.contains(address)), "{:?} twice", after.addresses);
    cluster.a.remove_pod(&before)?;
    cluster.a.remove_pod(&after)?;
    Ok(())
}
