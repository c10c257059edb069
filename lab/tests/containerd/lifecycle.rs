//! Pods come and go, the runtime comes back, and nothing of them stays.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use lab::worker::Worker;

use crate::suite::{Case, Cluster};

/// How long links may take to vanish: they are deleted in batches, off the path of the answer.
const VANISH: Duration = Duration::from_secs(10);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::any("a_removed_pod_leaves_nothing_on_the_node", nothing_left),
        Case::any("stopping_and_removing_twice_succeeds", twice),
        Case::any("a_replaced_container_keeps_its_pods_network", replaced_container),
        Case::any("restart_of_containerd_keeps_pods_running_and_reachable", restart_of_containerd),
    ]
}

/// What a node has of its pods: devices, routes, namespaces and sandboxes, one line each.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Footprint(BTreeSet<String>);

impl Footprint {
    /// What a node has once links of earlier pods are gone: one device for each pod beside the uplink.
    pub(crate) fn settled(worker: &Worker) -> Result<Self> {
        let settled = wait_until(&format!("{} with a device a pod", worker.node.name()), VANISH, || {
            let now = Self::of(worker).map_err(|error| format!("{error:#}"))?;
            let (devices, sandboxes) = (now.count("device "), now.count("sandbox "));
            if devices == sandboxes + 1 { Ok(now) } else { Err(format!("{devices} devices, {sandboxes} sandboxes")) }
        });
        Ok(settled?)
    }

    fn of(worker: &Worker) -> Result<Self> {
        let mut all = BTreeSet::new();
        let mut add = |what: &str, argv: &[&str]| -> Result<()> {
            let lines = worker.node.run(argv)?;
            // A device is printed with its peer, `name@if2`, and its state: only its name is its own.
            let names = lines.lines().filter_map(|line| line.split('@').next());
            all.extend(names.map(|name| format!("{what} {}", name.trim())));
            Ok(())
        };
        add("device", &["ip", "-brief", "link", "show", "type", "veth"])?;
        add("route", &["ip", "-4", "route"])?;
        add("route", &["ip", "-6", "route"])?;
        add("namespace", &["ls", "/run/netns"])?;
        let sandboxes = worker.cri.list_pod_sandbox()?;
        all.extend(sandboxes.into_iter().map(|sandbox| format!("sandbox {}", sandbox.id)));
        Ok(Self(all))
    }

    fn count(&self, prefix: &str) -> usize {
        self.0.iter().filter(|line| line.starts_with(prefix)).count()
    }

    /// Waits until the node looks like this again.
    pub(crate) fn wait_for_return(&self, worker: &Worker) -> Result<()> {
        let back = wait_until(&format!("{} without the pods' remains", worker.node.name()), VANISH, || {
            let now = Self::of(worker).map_err(|error| format!("{error:#}"))?;
            let differing: Vec<_> = now.0.symmetric_difference(&self.0).collect();
            if differing.is_empty() { Ok(()) } else { Err(format!("left or missing: {differing:?}")) }
        });
        Ok(back?)
    }
}

fn nothing_left(cluster: &mut Cluster) -> Result<()> {
    let before = Footprint::settled(&cluster.a)?;
    let pods = [cluster.a.run_pod("short1")?, cluster.a.run_pod("short2")?];
    let during = Footprint::of(&cluster.a)?;
    ensure!(during.count("device ") == before.count("device ") + 2, "two pods, but {during:?}");
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

fn replaced_container(cluster: &mut Cluster) -> Result<()> {
    let mut pod = cluster.a.run_pod("replaced")?;
    let reached = pod.replace_container(&cluster.a.cri).map_err(Into::into).and_then(|()| {
        ensure!(pod.is_running(&cluster.a.cri)?, "the new container does not run");
        cluster.all_reached(&cluster.a, &pod, &cluster.b1.addresses)?;
        cluster.all_reached(&cluster.b, &cluster.b1, &pod.addresses)
    });
    cluster.a.remove_pod(&pod)?;
    reached
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
