//! Services of Kubernetes, served: what the fleet tells of them is in the kernel as two tables of nftables with kube-proxy's semantics
//! (ADR 29), within a second of a change, and stays there while the daemon is away.
//!
//! What is rendered is decided by the crate of that name. [`keeper`] has the kernel be so, [`seen`] compares, [`edge`] is the kernel,
//! [`surroundings`] the node; [`health`] answers load balancers. Nothing here is on a pod's path.

mod edge;
mod health;
mod keeper;
mod seen;
mod surroundings;

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::services::{Script, TABLE};
use datapath::fast_path::{FastPath, Fronts};
use datapath::service_tables;
use fleet_api::NodeState;
use serde::Serialize;
use tokio::sync::watch;

use crate::conditions::{Finding, Kind, NodeConditions};
use crate::config::{Config, ServicesConfig};
use crate::reconcile::EVERY;
use edge::{Edge, Kernel};
use health::Answers;
use keeper::Keeper;
use surroundings::Surroundings;

/// Between two looks at whether the rules have changed: one question of the kernel's.
const LOOK: Duration = Duration::from_secs(1);
/// After a change: many come together, and each costs a process.
const REST: (u32, Duration) = (2, Duration::from_millis(250));
/// Until it is told that nothing is known: a fleet that is there tells at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end waits for what is under way. A transaction that is cut off by the end is finished by `nft`, or not begun.
const LAST: Duration = Duration::from_secs(1);
/// Of what makes no sense, told in status.
const PROBLEMS_TOLD: usize = 20;

/// A page's part about Services.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct ServicesReport {
    /// Whether all that the fleet has told is in force.
    pub(crate) applied: bool,
    pub(crate) services: usize,
    pub(crate) endpoints: usize,
    /// Ports of services that the kernel programs translate packet by packet, of each family; what is left takes the rules.
    pub(crate) translated_ports: usize,
    /// This node, as endpoints have it.
    node: String,
    node_port_addresses: Vec<IpAddr>,
    /// Ports on which load balancers ask for a service.
    health_checks: usize,
    pub(crate) changes_applied: u64,
    pub(crate) last_apply_seconds: Option<f64>,
    pub(crate) udp_flows_forgotten: u64,
    pub(crate) problem_count: usize,
    /// Some of them.
    problems: Vec<String>,
}

/// What the thread tells of itself.
pub(crate) type SharedReport = Arc<Mutex<ServicesReport>>;

/// Threads that serve Services; they end when this is dropped, and what they have set stays.
pub(crate) struct Serving {
    stop: watch::Sender<bool>,
    /// Disconnected when the first thread has ended.
    ended: Receiver<()>,
    health: Option<JoinHandle<()>>,
    report: SharedReport,
}

impl Serving {
    /// Begins with what is known, and follows.
    ///
    /// # Errors
    /// Where the system has no thread left.
    pub(crate) fn start(
        config: &Config,
        services: &ServicesConfig,
        tables: watch::Receiver<Arc<NodeState>>,
        conditions: Arc<NodeConditions>,
        programs: Option<Arc<FastPath>>,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (answer, answers) = watch::channel(Arc::new(Answers::default()));
        let report = Arc::new(Mutex::new(ServicesReport::default()));
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (waits, serves) = (runtime()?, runtime()?);
        let (ends, ended) = channel::<()>();
        let mut surroundings = Surroundings::new(config.clone(), services.clone());
        let run = {
            let (stopped, conditions, report) = (stopped.clone(), Arc::clone(&conditions), Arc::clone(&report));
            move || {
                let keeper = Keeper::new(Kernel(programs), surroundings.node());
                let mut running = Running { keeper, surroundings, conditions, report, answer, begun: Instant::now(), waits_since: None };
                running.follow(&waits, tables, stopped);
                drop(ends);
            }
        };
        std::thread::Builder::new().name("services".into()).spawn(run)?;
        let health = services.health;
        let answer_all = move || {
            serves.block_on(async {
                let mut stopped = stopped;
                tokio::select! {
                    () = health::serve(answers, health, &conditions) => {}
                    _ = stopped.wait_for(|stopped| *stopped) => {}
                }
            });
        };
        let health = std::thread::Builder::new().name("services-health".into()).spawn(answer_all)?;
        Ok(Self { stop, ended, health: Some(health), report })
    }

    /// For status and metrics.
    pub(crate) fn report(&self) -> SharedReport {
        Arc::clone(&self.report)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let _ = self.ended.recv_timeout(LAST);
        if let Some(health) = self.health.take()
            && health.join().is_err()
        {
            tracing::error!("server of health checks panicked");
        }
    }
}

/// Takes away what an earlier daemon has set, where it is there.
///
/// # Errors
/// Why not, in words.
pub(crate) fn remove() -> Result<bool, String> {
    if !service_tables::exists(TABLE).map_err(|error| error.to_string())? {
        return Ok(false);
    }
    service_tables::run(&Script::remove()).map_err(|error| error.to_string())?;
    Ok(true)
}

/// Services are off: what an earlier daemon has set is no longer kept, so it goes.
pub(crate) fn end(conditions: &NodeConditions, programs: Option<&FastPath>) {
    // What is translated goes on: nobody else knows of it.
    if let Some(Err(error)) = programs.map(|programs| programs.serve(&Fronts::new())) {
        tracing::warn!(%error, "the kernel programs may still translate to services of an earlier daemon");
    }
    match remove() {
        Ok(false) => {}
        Ok(true) => tracing::info!("services.mode is off; the rules of services of an earlier daemon were removed"),
        Err(error) => {
            let message = format!("services.mode is off, and the rules of an earlier daemon cannot be removed: {error}");
            let remedy = format!("they lead to endpoints as they were then; remove them: nft delete table ip {TABLE}, ip6 likewise");
            conditions.report(Kind::ServicesNotApplied, Some(Finding::new("NotRemoved", message, remedy)));
        }
    }
}

/// What the thread has.
struct Running<E> {
    keeper: Keeper<E>,
    surroundings: Surroundings,
    conditions: Arc<NodeConditions>,
    report: SharedReport,
    answer: watch::Sender<Arc<Answers>>,
    begun: Instant,
    /// Since when something was told and is not set.
    waits_since: Option<Instant>,
}

impl<E: Edge> Running<E> {
    fn follow(
        &mut self,
        runtime: &tokio::runtime::Runtime,
        mut tables: watch::Receiver<Arc<NodeState>>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut looked_at: Option<Instant> = None;
        loop {
            let looks = looked_at.is_none_or(|at| at.elapsed() >= EVERY);
            if looks {
                looked_at = Some(Instant::now());
                self.keeper.set_node(self.surroundings.node());
            }
            let began = Instant::now();
            let state = tables.borrow_and_update().clone();
            self.keeper.take(&state);
            self.waits_since = self.waits_since.or(Some(began));
            let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.keeper.apply(now);
            self.keeper.look(now);
            self.keeper.translate(looks);
            if let Err(error) = self.keeper.forget_flows() {
                tracing::warn!(%error, "flows of UDP to endpoints that are gone stay");
            }
            self.tell();
            if looks {
                self.look_beside();
            }
            let rest = (began.elapsed() * REST.0).min(REST.1);
            let goes_on = runtime.block_on(async {
                tokio::select! {
                    _ = stopped.wait_for(|stopped| *stopped) => return false,
                    () = tokio::time::sleep(rest) => {}
                }
                tokio::select! {
                    _ = stopped.wait_for(|stopped| *stopped) => false,
                    changed = tables.changed() => changed.is_ok(),
                    () = tokio::time::sleep(LOOK) => true,
                }
            });
            if !goes_on {
                return;
            }
        }
    }

    /// Status, conditions, and what load balancers are told.
    fn tell(&mut self) {
        let (keeper, services) = (&self.keeper, self.keeper.services());
        let applied = keeper.stands() && keeper.fault().is_none();
        if applied {
            self.waits_since = None;
        }
        self.conditions.report(Kind::ServicesNotApplied, self.finding());
        let (counts, done, (problems, problem_count)) = (services.counts(), keeper.done(), services.problems(PROBLEMS_TOLD));
        let checks = keeper.health_checks();
        let report = ServicesReport {
            applied,
            services: counts.services,
            endpoints: counts.endpoints,
            translated_ports: keeper.translated(),
            node: services.node().name.clone(),
            node_port_addresses: services.node().addresses.clone(),
            health_checks: checks.len(),
            changes_applied: done.applications,
            last_apply_seconds: done.last.map(|last| last.as_secs_f64()),
            udp_flows_forgotten: done.forgotten,
            problem_count,
            problems,
        };
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
        let (addresses, waits_since) = (services.node().addresses.clone(), self.waits_since);
        self.answer.send_if_modified(|answers| {
            let has_stood = answers.has_stood || applied;
            let is_news = answers.addresses != addresses
                || answers.checks != checks
                || answers.has_stood != has_stood
                || answers.waits_since != waits_since;
            if is_news {
                *answers = Arc::new(Answers { addresses, checks, waits_since, has_stood });
            }
            is_news
        });
    }

    fn finding(&self) -> Option<Finding> {
        if let Some((reason, message)) = self.keeper.fault() {
            let remedy = if *reason == "NftMissing" {
                "install the package nftables; it is tried again within a minute"
            } else {
                "what was set before is served on; it is tried again within a minute. See docs/services.md"
            };
            return Some(Finding::new(reason, format!("Services are not served as the fleet tells: {message}"), remedy));
        }
        let is_late = !self.keeper.is_told() && self.begun.elapsed() >= PATIENCE;
        let message = "the fleet has told of no Services yet, so barewired serves none; rules of an earlier daemon stay as they are";
        is_late.then(|| Finding::new("NotTold", message, "see the condition FleetNotHeard, and docs/fleet.md"))
    }

    fn look_beside(&self) {
        let found = match service_tables::kube_proxy() {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "it is not known whether kube-proxy has rules");
                return;
            }
        };
        let serves = self.keeper.stands();
        let finding = (!found.is_empty()).then(|| {
            let who =
                if serves { "both serve; of a new connection the rules decide that were there first" } else { "kube-proxy serves alone" };
            let reason = if serves { "BothServe" } else { "KubeProxyServes" };
            let message = format!("kube-proxy's rules are there ({}): {who}", found.join(", "));
            let remedy = "end kube-proxy and run `kube-proxy --cleanup` on this node, or set services.mode = \"off\"; see docs/services.md";
            Finding::new(reason, message, remedy)
        });
        self.conditions.report(Kind::KubeProxyBeside, finding);
    }
}
