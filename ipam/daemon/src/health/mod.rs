//! The node looks at itself, and says what it finds: on a page, in metrics, and to the fleet, whose leader decides (ADRs 31 and 33).
//!
//! Each check has a thread of its own that is nicer than most, so that no ADD waits for a disk that hangs. What facts mean is judged by
//! pure functions (`judge`); facts are read in `read`.

mod board;
mod judge;
mod kernel_log;
mod maintenance;
mod measure;
mod name_servers;
mod orders;
mod peers;
mod plugin;
mod preflight;
mod read;
mod standing;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet_api::message::Report;

use crate::clockwork::Clockwork;
use crate::conditions::{Finding, Kind, NodeConditions};
use crate::config::{Cloud, HealthConfig, PluginConfig, PluginKind};
use crate::fleet::Hearing;
use crate::health_check::{Basis, Check, Verdict};
use board::Writer;
pub(crate) use board::{Board, PageLine};
use judge::Answering;
use orders::Orders;
use plugin::Places;
pub(crate) use preflight::Boot;
use preflight::{Plan, Preflight};
pub(crate) use standing::State as PreflightState;

/// A check that fails is run again so soon: the fleet's leader believes what is said several times within a short time.
const AGAIN: Duration = Report::AGAIN;
/// Of an ordinary thread: what is looked at can wait for what pods do.
const NICE: i32 = 5;
/// What is restarted may be away so long.
const RESTART: Duration = Duration::from_secs(30);
/// The kernel asks a neighbour three times, a second each, before it gives up (`mcast_solicit`, `retrans_time_ms`).
const NEIGHBOUR: Duration = Duration::from_secs(3);
/// Without the fleet so long, what is known of Services is too old to be served without a word.
const FLEET_AGE: Duration = Duration::from_secs(900);

/// What the rest of the daemon knows.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) conditions: Arc<NodeConditions>,
    /// What is wrong with the programs on uplinks; nothing where there are none.
    pub(crate) programs: Arc<dyn Fn() -> Option<Result<(), String>> + Send + Sync>,
    /// Whom to ask what is announced for the machine.
    pub(crate) cloud: Option<Cloud>,
    pub(crate) fleet: Option<Arc<Hearing>>,
    /// Whom to look at.
    pub(crate) peers: peers::Told,
    /// When the preflight is to run.
    pub(crate) orders: Orders,
    pub(crate) boot: Boot,
}

/// One look; the time is since the daemon's start.
type Look = Box<dyn FnMut(Duration) -> Verdict + Send>;
/// Likewise, and how soon the next one is.
type PacedLook = Box<dyn FnMut(Duration) -> (Verdict, Duration) + Send>;

/// What is looked at, as long as this lives.
pub(crate) struct Health {
    board: Arc<Board>,
    sources: Sources,
    config: Option<HealthConfig>,
    running: Option<Running>,
}

/// Threads.
struct Running {
    checks: Vec<Clockwork>,
    /// Answers those who look at this node.
    answers: Option<Clockwork>,
    /// Lets others measure with this node.
    measured: Clockwork,
    preflight: Preflight,
    places: Arc<Places>,
}

impl Health {
    /// Starts every check of the configuration; none where there is none.
    ///
    /// # Errors
    /// Where the system has no thread left.
    pub(crate) fn start(config: Option<&HealthConfig>, board: &Arc<Board>, sources: Sources) -> io::Result<Self> {
        let running = config.map(|config| Running::start(config, board, &sources)).transpose()?;
        Ok(Self { board: Arc::clone(board), sources, config: config.cloned(), running })
    }

    /// The configuration was read again. Where nothing is different, only a preflight that has failed is run anew.
    pub(crate) fn reload(&mut self, config: Option<&HealthConfig>) {
        if self.config.as_ref() == config {
            if let Some(running) = &self.running {
                running.preflight.again();
            }
            return;
        }
        self.stop();
        // Checks that hang end when they can; what they say is heard no more.
        self.board.close();
        let is_made = |check: &Check| config.is_some_and(|config| config.checks.contains_key(check));
        let ended = self.config.iter().flat_map(|config| config.checks.keys()).filter(|check| !is_made(check));
        for (kind, ..) in ended.filter_map(|check| condition_of(*check)) {
            self.sources.conditions.report(kind, None);
        }
        self.config = config.cloned();
        match config.map(|config| Running::start(config, &self.board, &self.sources)).transpose() {
            Ok(running) => {
                self.running = running;
                tracing::info!("health checks are as the configuration is now");
            }
            Err(error) => {
                // The next reload tries it again.
                (self.running, self.config) = (None, None);
                self.board.close();
                tracing::error!(%error, "health checks not started; reload barewired when the node has threads again");
            }
        }
    }

    /// Has all end, and does not wait: where one hangs, its wait is not in the way of others'.
    pub(crate) fn stop(&mut self) {
        if let Some(running) = &mut self.running {
            running.places.stop();
            running.checks.iter_mut().chain(&mut running.answers).chain([&mut running.measured]).for_each(Clockwork::stop);
            running.preflight.stop();
        }
    }
}

impl Running {
    fn start(config: &HealthConfig, board: &Arc<Board>, sources: &Sources) -> io::Result<Self> {
        let Sources { conditions, programs, cloud, fleet, peers, orders, boot } = sources;
        let (writer, places) = (board.renew(), Arc::<Places>::default());
        let mut checks = Vec::new();
        for (check, interval) in config.checks.iter().filter(|(check, _)| **check != Check::Peers) {
            let look: Look = match check {
                Check::Programs => look_at_programs(Arc::clone(programs)),
                Check::Network => look_at_network(Arc::clone(conditions)),
                Check::Fleet => look_at_fleet(fleet.clone()),
                Check::Maintenance => maintenance::look(cloud.clone()),
                other => look(*other, config, PathBuf::from("/")),
            };
            let look = telling(*check, look, Arc::clone(conditions), writer.clone());
            let name = Check::ALL.iter().find(|(known, _)| known == check).map_or("", |(_, name)| name);
            writer.add(name, check.basis(), check.limit());
            checks.push((name.to_owned(), paced(look, *interval)));
        }
        let mut answers = None;
        if let Some(interval) = config.checks.get(&Check::Peers) {
            let name = "peers".to_owned();
            writer.add_for_peers(&name, Check::Peers.limit());
            checks.push((name, peers::look(Arc::clone(peers), config.peer_port, *interval, writer.clone())));
            answers = Some(peers::keep_answering(Arc::clone(peers), config.peer_port)?);
        }
        let (passive, before_pods): (Vec<_>, Vec<_>) =
            config.plugins.iter().cloned().partition(|plugin| plugin.kind == PluginKind::Passive);
        for plugin in passive {
            let name = preflight::check_name(&plugin);
            // It may wait for others to end.
            writer.add(&name, Basis::Own, plugin.timeout.saturating_mul(2));
            checks.push((name, look_by_plugin(plugin, Arc::clone(&places))));
        }
        let measured = measure::keep_being_measured(Arc::clone(orders), config.peer_port)?;
        // After all are on the board: it waits for each of them.
        let (boot, orders, port, expected) = (boot.clone(), Arc::clone(orders), config.peer_port, config.expected);
        let plan = Plan { plugins: before_pods, boot, orders, port, expected };
        let preflight = Preflight::start(plan, writer.clone(), Arc::clone(&places))?;
        let checks = checks.into_iter().map(|(name, look)| keep_looking(name, look, writer.clone())).collect::<io::Result<_>>()?;
        Ok(Self { checks, answers, measured, preflight, places })
    }
}

fn keep_looking(name: String, mut look: PacedLook, writer: Writer) -> io::Result<Clockwork> {
    let started = Instant::now();
    Clockwork::start_at_pace(&format!("health-{name}"), move |run| {
        if run == 0 {
            be_nice();
        }
        writer.begin(&name);
        let (verdict, pause) = look(started.elapsed());
        writer.end(&name, verdict);
        pause
    })
}

fn be_nice() {
    if let Err(error) = datapath::scheduling::set_nice(NICE) {
        tracing::debug!(%error, "a health check is scheduled as any other thread");
    }
}

fn paced(mut look: Look, interval: Duration) -> PacedLook {
    Box::new(move |now| {
        let verdict = look(now);
        let pause = if matches!(verdict, Verdict::Failed(_)) { AGAIN.min(interval) } else { interval };
        (verdict, pause)
    })
}

/// Its program runs at its own pace; that it has failed is said again as often as any failure, so that it is believed as one.
fn look_by_plugin(plugin: PluginConfig, places: Arc<Places>) -> PacedLook {
    let mut judge = plugin::Judge::new(plugin.interval, plugin.failures);
    Box::new(move |_| {
        if judge.is_due(Instant::now()) {
            let verdict = plugin::run(&plugin, &places);
            judge.note(Instant::now(), verdict);
        }
        let left = judge.left(Instant::now());
        let pause = if matches!(judge.held(), Verdict::Failed(_)) { AGAIN.min(left) } else { left };
        (judge.held().clone(), pause)
    })
}

fn or_unknown(outcome: io::Result<Verdict>) -> Verdict {
    outcome.unwrap_or_else(|error| Verdict::Unknown(error.to_string()))
}

/// Checks of what the kernel and others tell, below `root`.
fn look(check: Check, config: &HealthConfig, root: PathBuf) -> Look {
    let mut uplinks = read::UplinkReader::default();
    match check {
        Check::Uplink => Box::new(move |_| or_unknown(uplinks.read(&root).map(|links| judge::carrier(&links)))),
        Check::UplinkSpeed => {
            let mut speed = judge::Speed::default();
            Box::new(move |_| or_unknown(uplinks.read(&root).map(|links| speed.judge(&links))))
        }
        Check::UplinkFlaps => {
            let mut flaps = judge::Flaps::default();
            Box::new(move |now| or_unknown(uplinks.read(&root).map(|links| flaps.judge(&links, now))))
        }
        Check::UplinkErrors => {
            let mut errors = judge::Errors::default();
            Box::new(move |now| or_unknown(uplinks.read(&root).map(|links| errors.judge(&links, now))))
        }
        Check::Gateway => {
            let mut answering = Answering::within(NEIGHBOUR);
            Box::new(move |now| match read::gateways(&root).map(|answers| judge::gateway(&answers)) {
                Ok(Some(answer)) => answering.judge(now, answer),
                Ok(None) => Verdict::Unknown("no gateway of IPv4 has a neighbour entry".to_owned()),
                Err(error) => Verdict::Unknown(error.to_string()),
            })
        }
        Check::Conntrack => Box::new(move |_| {
            let table = |(count, most): (u64, u64)| ("tracked connections", count, most);
            or_unknown(read::conntrack(&root).map(|counts| judge::fullness(counts.map(table).as_slice())))
        }),
        Check::Neighbours => Box::new(move |_| or_unknown(read::neighbours(&root).map(|tables| judge::fullness(&tables)))),
        Check::Clock => {
            let mut answering = Answering::within(2 * RESTART);
            Box::new(move |now| or_unknown(datapath::clock::read().map(|clock| answering.judge(now, judge::clock(clock)))))
        }
        Check::ApiServer if config.api_server.is_empty() => Box::new(|_| Verdict::Unknown("health.api_server names no address".to_owned())),
        Check::ApiServer => {
            let (addresses, mut answering) = (config.api_server.clone(), Answering::within(RESTART));
            Box::new(move |now| match read::connections(&root, &addresses) {
                Ok(connections) => answering.judge(now, judge::api_server(&addresses, &connections)),
                Err(error) => Verdict::Unknown(error.to_string()),
            })
        }
        Check::Dns => {
            let mut answering = Answering::within(RESTART);
            Box::new(move |now| match name_servers::of(&root) {
                Ok(servers) if servers.is_empty() => Verdict::Unknown("/etc/resolv.conf names no server".to_owned()),
                Ok(servers) => answering.judge(now, name_servers::ask(&servers)),
                Err(error) => Verdict::Unknown(error.to_string()),
            })
        }
        Check::DiskRoot => look_at_disk("/", judge::Writable::default(), &root),
        Check::DiskVar => look_at_disk("/var", judge::Writable { was_writable: true }, &root),
        Check::Kubelet => {
            let (address, mut answering) = (config.kubelet, Answering::within(RESTART));
            Box::new(move |now| answering.judge(now, read::healthz(address)))
        }
        Check::Runtime => {
            let (sockets, mut answering) = (config.runtime_sockets.clone(), Answering::within(RESTART));
            Box::new(move |now| answering.judge(now, read::accepts(&sockets)))
        }
        Check::KernelLog => {
            let mut log = kernel_log::KernelLog::default();
            Box::new(move |_| or_unknown(read::uptime(&root).map(|now| log.look(&root.join("dev/kmsg"), now))))
        }
        Check::Programs | Check::Network | Check::Fleet | Check::Maintenance | Check::Peers => {
            Box::new(|_| Verdict::Unknown("the daemon does not say".to_owned()))
        }
    }
}

fn look_at_disk(path: &'static str, mut writable: judge::Writable, root: &Path) -> Look {
    let below = root.join(path.trim_start_matches('/'));
    Box::new(move |_| or_unknown(read::disk(&below).map(|disk| writable.judge(path, disk))))
}

fn look_at_programs(programs: Arc<dyn Fn() -> Option<Result<(), String>> + Send + Sync>) -> Look {
    let mut answering = Answering::within(RESTART);
    Box::new(move |now| match programs() {
        Some(answer) => answering.judge(now, answer),
        None => Verdict::Unknown("no kernel programs are used".to_owned()),
    })
}

/// A full node is not sick: pods go elsewhere by the number that it has.
fn look_at_network(conditions: Arc<NodeConditions>) -> Look {
    let mut answering = Answering::within(RESTART);
    Box::new(move |now| {
        let broken = conditions.failing_adds_beside(&[Kind::AddressesExhausted]);
        answering.judge(now, broken.map_or(Ok(()), |condition| Err(format!("{}: {}", condition.kind.as_str(), condition.message))))
    })
}

/// Bad news of it reaches nobody while it is bad: it is there for whoever asks the node.
fn look_at_fleet(fleet: Option<Arc<Hearing>>) -> Look {
    Box::new(move |_| match fleet.as_ref().map(|hearing| hearing.report()) {
        None => Verdict::Unknown("no fleet is configured".to_owned()),
        Some(report) if report.connected => Verdict::Ok,
        Some(report) => match report.age_seconds {
            Some(age) if age >= FLEET_AGE.as_secs_f64() => Verdict::Failed(format!("what is known of the fleet is {age:.0} s old")),
            _ => Verdict::Unknown("no replica of the fleet is heard".to_owned()),
        },
    })
}

/// What is wrong with the node's network is a condition as well.
fn telling(check: Check, mut look: Look, conditions: Arc<NodeConditions>, writer: Writer) -> Look {
    let Some((kind, reason, remedy)) = condition_of(check) else { return look };
    Box::new(move |now| {
        let verdict = look(now);
        match &verdict {
            // The configuration is another since the look began.
            _ if !writer.is_current() => {}
            Verdict::Failed(seen) => conditions.report(kind, Some(Finding::new(reason, seen.clone(), remedy))),
            Verdict::Ok => conditions.report(kind, None),
            // Neither is it over.
            Verdict::Unknown(_) => {}
        }
        verdict
    })
}

const fn condition_of(check: Check) -> Option<(Kind, &'static str, &'static str)> {
    match check {
        Check::UplinkSpeed => Some((
            Kind::UplinkSlow,
            "LowerSpeed",
            "look at the cable, the transceiver and the switch's port; where it is meant, restart barewired",
        )),
        Check::UplinkFlaps => Some((Kind::UplinkFlapping, "CarrierLost", "look at the cable, the transceiver and the switch's port")),
        Check::UplinkErrors => Some((Kind::UplinkErrors, "PacketErrors", "see `ethtool -S` of it for what kind of errors these are")),
        Check::Gateway => {
            Some((Kind::GatewaySilent, "NoAnswer", "see `ip neighbour`; the gateway is down, or the way to it: the switch, the VLAN"))
        }
        Check::Conntrack => {
            Some((Kind::ConntrackFull, "NearlyFull", "raise net.netfilter.nf_conntrack_max; see `conntrack -L` for whose they are"))
        }
        Check::Neighbours => Some((Kind::NeighboursFull, "NearlyFull", "raise net.ipv4.neigh.default.gc_thresh3, or that of ipv6")),
        // An uplink without a carrier is a condition already, by the reconciler; the others are not about the network, or come from there.
        Check::Uplink
        | Check::Programs
        | Check::Network
        | Check::Fleet
        | Check::Clock
        | Check::ApiServer
        | Check::Dns
        | Check::Maintenance
        | Check::DiskRoot
        | Check::DiskVar
        | Check::Kubelet
        | Check::Runtime
        | Check::KernelLog
        | Check::Peers => None,
    }
}

#[cfg(test)]
mod tests;
