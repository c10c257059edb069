//! What happens beside a connection: rules come, the daemon goes, the fast path is switched, everything is taken away.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::cni::{DAEMON_CONFLIST, Daemon, FastPath};
use lab::command::CONFIGURE;
use lab::echo::{Conversation, Protocol};
use lab::kube_proxy::Family;
use lab::node::{Node, tail};
use lab::telemetry::{self, Count, Traffic};

use crate::cluster::{Cluster, End, SERVED};
use crate::notes::PINS;
use crate::paths;

/// Packets that a node's stack has forwarded, of both families (RFC 4293: ipIfStatsOutForwDatagrams).
fn forwarded(node: &Node) -> Result<u64> {
    let of_process = |file: &str| fs::read_to_string(format!("/proc/{}/net/{file}", node.init().pid));
    let v4 = of_process("snmp")?;
    let mut lines = v4.lines().filter(|line| line.starts_with("Ip: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let v4 = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "ForwDatagrams").context("no ForwDatagrams")?.1;
    let v6 = of_process("snmp6")?;
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams")).context("no Ip6OutForwDatagrams")?;
    Ok(v4.parse::<u64>()? + v6.trim().parse::<u64>()?)
}

/// The daemon says whether its programs are attached; the stack's own counters say whether that is so.
pub(crate) fn who_carries(cluster: &mut Cluster) -> Result<()> {
    carried(cluster, cluster.fast_path)
}

fn carried(cluster: &Cluster, fast_path: FastPath) -> Result<()> {
    /// A transfer over TCP is more than a megabyte each way, in packets of 64 kB at most.
    const TRANSFER: u64 = 30;
    for end in [End::Node1, End::Node2] {
        let attached = telemetry::fast_path_is_attached(cluster.network(end))?;
        ensure!(attached == (fast_path == FastPath::Auto), "{}: attached is {attached} with {fast_path:?}", end.name());
    }
    for server in [End::A2, End::B1] {
        for family in Family::ALL {
            let count = || -> Result<u64> { Ok(forwarded(&cluster.sides[0].node)? + forwarded(&cluster.sides[1].node)?) };
            let before = count()?;
            let to = std::net::SocketAddr::new(cluster.address(server, family)?, SERVED);
            Conversation::open(cluster.network(End::A1), Protocol::Tcp, to)?.transfer()?;
            let by_stack = count()? - before;
            let as_it_should_be = match fast_path {
                FastPath::Auto => by_stack == 0,
                FastPath::Off => by_stack >= TRANSFER,
            };
            ensure!(as_it_should_be, "{fast_path:?}: the stacks forwarded {by_stack} packets between a1 and {}, {family:?}", server.name());
        }
    }
    Ok(())
}

pub(crate) fn rules_appear(cluster: &mut Cluster) -> Result<()> {
    paths::without_services(cluster, "before_rules")?;
    cluster.apply_rules()?;
    cluster.all_go_on()
}

pub(crate) fn rules_replaced(cluster: &mut Cluster) -> Result<()> {
    cluster.apply_rules()?;
    cluster.all_go_on()
}

/// Not a packet is lost while a daemon ends and starts again: a conversation over UDP would notice. And none is forgotten that was
/// counted.
pub(crate) fn restarts(cluster: &mut Cluster) -> Result<()> {
    let fast_path = cluster.fast_path;
    for end in [Daemon::terminate, Daemon::kill] {
        let before = counted(cluster)?;
        undisturbed(cluster, |cluster| cluster.restart(fast_path, end, Cluster::all_go_on))?;
        cluster.all_go_on()?;
        let after = counted(cluster)?;
        for (traffic, earlier) in before {
            let now = after.get(&traffic).copied().unwrap_or_default();
            ensure!(now.packets >= earlier.packets && now.bytes >= earlier.bytes, "{traffic:?}: {earlier:?}, then {now:?}");
        }
    }
    Ok(())
}

fn counted(cluster: &Cluster) -> Result<BTreeMap<(usize, Traffic), Count>> {
    let mut all = BTreeMap::new();
    for (number, end) in [End::Node1, End::Node2].into_iter().enumerate() {
        all.extend(telemetry::traffic(cluster.network(end))?.into_iter().map(|(traffic, count)| ((number, traffic), count)));
    }
    ensure!(!all.is_empty(), "nothing was counted");
    Ok(all)
}

/// What an upgrade meets that has changed the maps: it says so, and connections go on.
pub(crate) fn another_layout(cluster: &mut Cluster) -> Result<()> {
    cluster.restart(FastPath::Auto, Daemon::terminate, |cluster| {
        for side in &cluster.sides {
            side.node.run(&["sh", "-c", &format!("mv {PINS}/v* {PINS}/v0")])?;
        }
        Ok(())
    })?;
    for side in &cluster.sides {
        let log = tail(&side.node.logs().join("barewired.log"), 20);
        ensure!(log.contains("the layout of the maps has changed"), "{}: {log}", side.node.name());
        ensure!(!side.node.host_path(format!("{PINS}/v0")).exists(), "{}: the old maps are left", side.node.name());
    }
    cluster.all_go_on()?;
    paths::without_services(cluster, "another_layout")
}

/// Has conversations over UDP, one of each way, go on without a pause meanwhile.
fn undisturbed(cluster: &mut Cluster, happening: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    /// Long enough for everybody to speak once more.
    const AFTERWARDS: Duration = Duration::from_millis(200);
    let kept = std::mem::take(&mut cluster.kept);
    let (mut busy, others): (Vec<_>, Vec<_>) =
        kept.into_iter().partition(|(name, _)| name.starts_with("first_packet") && name.ends_with("Udp"));
    cluster.kept = others;
    let done = AtomicBool::new(false);
    let (outcome, talked) = thread::scope(|scope| {
        let talk = scope.spawn(|| -> Result<usize> {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                for (name, conversation) in &mut busy {
                    conversation.exchange().with_context(|| name.clone())?;
                }
                rounds += 1;
                thread::sleep(Duration::from_millis(1));
            }
            Ok(rounds)
        });
        let outcome = happening(cluster);
        thread::sleep(AFTERWARDS);
        done.store(true, Ordering::Relaxed);
        (outcome, talk.join())
    });
    cluster.kept.extend(busy);
    outcome?;
    match talked {
        Ok(rounds) => ensure!(rounds? > 1, "nothing was said meanwhile"),
        Err(_) => bail!("the talking thread panicked"),
    }
    Ok(())
}

/// The other setting, and back: connections that one carried, the other goes on carrying.
pub(crate) fn switched(cluster: &mut Cluster) -> Result<()> {
    let (own, other) = match cluster.fast_path {
        FastPath::Auto => (FastPath::Auto, FastPath::Off),
        FastPath::Off => (FastPath::Off, FastPath::Auto),
    };
    for fast_path in [other, own] {
        cluster.restart(fast_path, Daemon::terminate, |_| Ok(()))?;
        cluster.all_go_on().with_context(|| format!("with {fast_path:?}"))?;
        for end in [End::Node1, End::Node2] {
            ensure!(telemetry::fast_path_is_attached(cluster.network(end))? == (fast_path == FastPath::Auto), "{fast_path:?}");
        }
        paths::without_services(cluster, fast_path.value())?;
    }
    Ok(())
}

pub(crate) fn uninstall(cluster: &mut Cluster) -> Result<()> {
    for side in &mut cluster.sides {
        side.daemon.take().context("a daemon that runs")?.terminate()?.uninstall()?;
        let node = &side.node;
        let devices = node.run(&["ip", "-brief", "link", "show"])?;
        for device in devices.lines().filter_map(|line| line.split(['@', ' ']).next()) {
            for hook in ["ingress", "egress"] {
                let filters = node.run(&["tc", "filter", "show", "dev", device, hook])?;
                ensure!(filters.trim().is_empty(), "{} {device} {hook}: {filters}", node.name());
            }
        }
        // Links of the kind that `tc` does not show (tcx) are seen by bpftool, where the machine has it.
        let links = node.try_run(&["sh", "-c", "command -v bpftool >/dev/null && bpftool net show || true"], CONFIGURE)?.success()?;
        let ours = ["from_pod", "to_pod", "from_uplink", "to_uplink"].iter().any(|program| links.contains(program));
        ensure!(!ours, "{}: {links}", node.name());
        let pins = node.host_path(PINS);
        ensure!(!pins.exists(), "{} is left", pins.display());
        let tables = node.run(&["nft", "list", "tables"])?;
        ensure!(!tables.contains("barewire"), "{}: {tables}", node.name());
        ensure!(!node.host_path(DAEMON_CONFLIST).exists(), "{}: {DAEMON_CONFLIST} is left", node.name());
    }
    cluster.all_go_on()
}
