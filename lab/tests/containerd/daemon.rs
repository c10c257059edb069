//! `barewired` ends, is killed, is away, and comes back, under running pods and running traffic.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::cni::{Daemon, Stopped};
use lab::command::wait_until;
use lab::worker::Worker;

use crate::lifecycle::Footprint;
use crate::suite::{COMMAND, Case, Cluster, INTERNET};

/// How long the daemon may take to carry out what was queued while it was away.
const REPLAY: Duration = Duration::from_secs(10);

/// Longer than it takes to fill a /28, and than the cooldown of the lab's configuration.
const COOLED: Duration = Duration::from_secs(20);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::barewire("programs_are_attached_where_they_are_to_be", |cluster| cluster.is_carried_as_configured()),
        Case::barewire("restart_of_barewired_loses_no_packet", |cluster| undisturbed(cluster, Daemon::terminate)),
        Case::barewire("kill_of_barewired_loses_no_packet", |cluster| undisturbed(cluster, Daemon::kill)),
        Case::barewire("a_pod_stopped_while_barewired_is_away_is_released_later", stopped_while_away),
        Case::barewire("a_pod_started_while_barewired_is_away_is_told_to_try_again", started_while_away),
    ]
}

fn take_daemon(worker: &mut Worker) -> Result<Daemon> {
    worker.daemon.take().with_context(|| format!("{} has no daemon", worker.node.name()))
}

type End = fn(Daemon) -> lab::Result<Stopped>;

/// Restarts the daemons of both nodes under streams of a hundred pings a second: to the same node, the other node and the internet.
fn undisturbed(cluster: &mut Cluster, end: End) -> Result<()> {
    const PINGS: &str = "400";
    let mut streams = Vec::new();
    let pods = cluster.a2.addresses.iter().chain(&cluster.b1.addresses).map(ToString::to_string);
    for address in pods.chain(INTERNET.map(str::to_owned)) {
        let argv = ["ping", "-i", "0.01", "-c", PINGS, "-W", "2", "-q", &address];
        let mut command = cluster.a.in_pod(&cluster.a1, &argv)?;
        streams.push(lab::command::Running::start(&mut command, std::process::Stdio::null())?);
    }
    std::thread::sleep(Duration::from_millis(500));
    for worker in [&mut cluster.a, &mut cluster.b] {
        let stopped = end(take_daemon(worker)?)?;
        std::thread::sleep(Duration::from_millis(200));
        worker.daemon = Some(stopped.start()?);
    }
    cluster.is_carried_as_configured()?;
    for stream in streams {
        let said = stream.wait(COMMAND)?;
        ensure!(said.stdout.contains(&format!("{PINGS} received")), "{}: {}", said.command, said.stdout);
    }
    // And it found its pods again: a new one gets another address than they have, and they can be removed.
    let pod = cluster.a.run_pod("after-daemon")?;
    let known = [&cluster.a1, &cluster.a2];
    let unique = known.iter().all(|old| old.addresses.iter().all(|address| !pod.addresses.contains(address)));
    cluster.a.remove_pod(&pod)?;
    ensure!(unique, "{:?} was given out twice", pod.addresses);
    Ok(())
}

fn stopped_while_away(cluster: &mut Cluster) -> Result<()> {
    let before = Footprint::settled(&cluster.a)?;
    let pod = cluster.a.run_pod("stopped-while-away")?;
    let address = pod.v4().context("an IPv4 address")?;
    let stopped = take_daemon(&mut cluster.a)?.terminate()?;
    let removed = cluster.a.remove_pod(&pod);
    let queued = cluster.a.node.run(&["ls", "/run/barewire/queue"]);
    cluster.a.daemon = Some(stopped.start()?);
    removed.context("remove a pod while barewired is away")?;
    ensure!(!queued?.trim().is_empty(), "nothing was queued");
    wait_until("an empty queue", REPLAY, || {
        let left = cluster.a.node.run(&["ls", "/run/barewire/queue"]).map_err(|error| error.to_string())?;
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    })?;
    before.wait_for_return(&cluster.a)?;
    // Released means: it is given out again once it has cooled down, before the node has run out of others.
    let mut pods = Vec::new();
    let again = wait_until(&format!("{address} on another pod"), COOLED, || {
        let pod = cluster.a.run_pod(&format!("again{}", pods.len())).map_err(|error| error.to_string())?;
        let found = pod.v4() == Some(address);
        pods.push(pod);
        if found { Ok(()) } else { Err(format!("{} other addresses", pods.len())) }
    });
    for pod in &pods {
        cluster.a.remove_pod(pod)?;
    }
    again.map_err(Into::into)
}

fn started_while_away(cluster: &mut Cluster) -> Result<()> {
    let before = Footprint::settled(&cluster.a)?;
    let stopped = take_daemon(&mut cluster.a)?.terminate()?;
    let refused = cluster.a.run_pod("started-while-away");
    cluster.a.daemon = Some(stopped.start()?);
    let message = match refused {
        Ok(pod) => {
            cluster.a.remove_pod(&pod)?;
            anyhow::bail!("a pod was started without barewired")
        }
        Err(error) => error.to_string(),
    };
    ensure!(message.contains("barewire"), "the error does not say who is away: {message}");
    cluster.a.wait_until_network_ready()?;
    let pod = cluster.a.run_pod("started-while-away").context("the second try")?;
    cluster.a.remove_pod(&pod)?;
    before.wait_for_return(&cluster.a)
}
