//! The daemon ends and comes back, and so does the node.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cloudsim::cloud::Action;
use lab::cni::{Daemon, Stopped};

use crate::site::{Kind, SETTLES, Site};

/// How long streams last that a daemon's end and return are in the middle of.
const STREAM_SECONDS: u32 = 4;

pub(crate) fn restart(site: &mut Site) -> Result<()> {
    undisturbed(site, Daemon::terminate)
}

pub(crate) fn kill(site: &mut Site) -> Result<()> {
    undisturbed(site, Daemon::kill)
}

fn undisturbed(site: &mut Site, end: fn(Daemon) -> lab::Result<Stopped>) -> Result<()> {
    let calls = changes(site);
    let streams = site.pods.iter().map(|pod| site.stream(pod, STREAM_SECONDS)).collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_millis(500));
    let stopped = end(site.worker.daemon.take().context("it has no daemon")?)?;
    site.worker.daemon = Some(stopped.start()?);
    for stream in streams {
        stream.ends_unbroken()?;
    }
    // It knows what is whose: nothing is asked for that it has, and a new pod gets an address of its own.
    ensure!(changes(site) == calls, "the new daemon changed what the old one had: {} calls, then {}", calls, changes(site));
    site.start_pod_within(SETTLES)?;
    site.every_pod_pings()?;
    site.remove_pod(site.pods.len() - 1)
}

/// Calls of the API so far, but for reads.
fn changes(site: &Site) -> u64 {
    if site.kind != Kind::Aws {
        return 0;
    }
    site.cloud.server.with(|cloud, _| {
        let changing = Action::ALL.into_iter().filter(|action| !action.is_read());
        changing.map(|action| cloud.calls().of(action).calls).sum()
    })
}

/// What a reboot leaves: the disk and the cloud. No process, no network namespace, no device but the cloud's, and `/run` is empty.
pub(crate) fn reboot(site: &mut Site) -> Result<()> {
    let before = (site.interfaces()?.len(), site.blocks()?);
    let stopped = site.worker.daemon.take().context("it has no daemon")?.kill()?;
    for index in (0..site.pods.len()).rev() {
        site.remove_pod(index)?;
    }
    let node = &site.worker.node;
    for pod in site.crowd.drain(..) {
        node.run(&["ip", "netns", "delete", &pod.name])?;
    }
    node.run(&["sh", "-c", "rm -rf /run/barewire /etc/cni/net.d/* /sys/fs/bpf/barewire; ip link delete group 179; nft flush ruleset; ip rule flush; ip rule add lookup main pref 32766"])?;
    site.worker.daemon = Some(stopped.start()?);
    for _ in 0..2 {
        site.start_pod_within(SETTLES)?;
    }
    let after = (site.interfaces()?.len(), site.blocks()?);
    ensure!(after.0 <= before.0 && after.1 <= before.1, "interfaces and blocks were {before:?} and are {after:?}");
    site.every_pod_pings()
}
