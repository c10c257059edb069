//! The daemon from start to stop, in the order that its promises need.
//!
//! Start: lock the state, read store and kernel, settle them, apply queued DELs, open the socket, publish the
//! configuration list where an ADD would succeed. Addresses of a cloud come after that, and the list with them. Stop: say no to new
//! work, finish what was begun, leave the pods alone.
//!
//! A start is not all or nothing: only what no pod can be served without ends it, which is the state's lock, boot ID, store, netlink
//! sockets and the socket for plugins. All else (rules, routes, settings, programs, the list, telemetry, the cloud) is a
//! [condition](crate::conditions), and tried again.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datapath::fast_path::{FastPath, FastPathError};
use datapath::netlink::{NetlinkError, Socket};
use datapath::{ApplyError, NodeNetwork, WiringError};
use ipam_clouds::Source;
use ipam_pool::Pool;
use ipam_state::recovery;
use ipam_state::store::{Found, Store, StoreError};
use ipam_supply::memory::CloudMemory;
use nix::fcntl::{Flock, FlockArg};
use node_api::{BootMillis, boot_id};
use tokio::signal::unix::{SignalKind, signal};

use crate::accounts::Accounts;
use crate::attachments::Attachments;
use crate::attachments::link::for_recovery;
use crate::chores::{self, apply_queue, queue_directory};
use crate::cloud::{self, Driver};
use crate::conditions::{Finding, Kind, NodeConditions};
use crate::config::{CloudSource, Config, ConfigFile};
use crate::conflist::file as list_file;
use crate::conflist::publisher::Publisher;
use crate::fleet::Hearing;
use crate::health::{Board, Boot, Health, Sources};
use crate::http::{self, Watched};
use crate::kernel::link_numbers::LinkNumbers;
use crate::kernel::{Kernel, Linux};
use crate::latencies::Metrics;
use crate::reconcile::files::Files;
use crate::reconcile::node::{Reconciler, describe};
use crate::reconcile::slow_path::SlowPath;
use crate::reconcile::thread::ReconcilerThread;
use crate::reconcile::{leftover, watch};
use crate::scheduling::Scheduling;
use crate::serve::Server;
use crate::services::{self, Serving};

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another daemon has the state.
    #[error("another barewired runs on {}; stop it first", .0.display())]
    AlreadyRunning(PathBuf),
    /// The file system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The store could not be opened.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The kernel could not be connected to.
    #[error("{0}")]
    Kernel(#[from] WiringError),
    /// The kernel's tables could not be read.
    #[error("{0}")]
    Netlink(#[from] NetlinkError),
    /// What all pods share could not be taken away.
    #[error("{0}")]
    Network(#[from] ApplyError),
    /// Rules of services could not be taken away.
    #[error("rules of services not removed: {0}")]
    Services(String),
    /// The programs could not be taken off.
    #[error("{0}")]
    FastPath(#[from] FastPathError),
}

/// How long a call of the cloud that is in flight may hold up the end.
const LAST_CALL: Duration = Duration::from_secs(10);
/// How long requests may that are being served. With all other waits of the end this is less than the service manager gives
/// (`TimeoutStopSec`), so that a thread that the kernel does not let go keeps the rest from nothing.
const LAST_REQUESTS: Duration = Duration::from_secs(8);

fn io<T>(what: impl Into<String>, outcome: std::io::Result<T>) -> Result<T, DaemonError> {
    outcome.map_err(|source| DaemonError::Io { what: what.into(), source })
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// See [`DaemonError`].
pub fn run(file: ConfigFile, config: &Config) -> Result<(), DaemonError> {
    let _lock = lock_state(config)?;
    let scheduling = config.scheduling.settle();
    let boot_id = io("read the boot ID", boot_id())?;
    let metrics = Arc::new(Metrics::default());
    let conditions = Arc::new(NodeConditions::default());
    let (attachments, cloud) = recover(config, &boot_id, &metrics, &conditions, scheduling)?;
    let attachments = Arc::new(attachments);
    attachments.set_status_policy(config.cni.status);
    apply_queue(&queue_directory(config), &boot_id, &attachments);
    let driver = config.source.cloud().map(|source| drive(source, config, &attachments, &cloud));

    let of_cloud = driver.clone().map(|driver| (driver, cloud.network));
    let slow_path = Arc::new(SlowPath::default());
    let mut reconciler =
        Reconciler::new(file.clone(), config.clone(), Arc::clone(&attachments), Arc::clone(&conditions), of_cloud, Arc::clone(&slow_path));
    reconciler.look();

    let socket = config.run_dir.join("cni.sock");
    let server = io(format!("listen on {}", socket.display()), Server::start(&socket, &attachments, &metrics, scheduling))?;
    let has_stood = attachments.summary(BootMillis::now()).attachments > 0;
    let publisher = Publisher::new(config.clone(), Arc::clone(&conditions), has_stood);
    let list = publisher.report();
    let files = Files::new(&config.run_dir, server.socket(), Arc::clone(&conditions));
    let board = Board::new();
    let housekeeping = chores::start(
        config,
        boot_id.clone(),
        Arc::clone(&attachments),
        Arc::clone(&conditions),
        driver.clone(),
        files,
        Arc::clone(&board),
    );
    let mut housekeeping = io("start housekeeping", housekeeping)?;
    let pod_links = chores::keep_pod_links(Arc::clone(&attachments), Arc::clone(&conditions));
    let mut pod_links = io("start to keep pods' links", pod_links)?;
    let kernel_watch = chores::watch_kernel(server.relief(), Arc::clone(&attachments), Arc::clone(&conditions));
    let kernel_watch = io("start to watch the kernel", kernel_watch)?;
    let reconciler = io("start the reconciler", ReconcilerThread::start(reconciler))?;
    let mut publishing = io("start publishing", chores::keep_list(publisher, Arc::clone(&attachments)))?;

    let hearing = config.fleet.as_ref().map(|fleet| Hearing::start(fleet, Arc::clone(&conditions), board.reports())).transpose();
    let fleet = io("start to hear the fleet", hearing)?.map(Arc::new);
    let serving =
        io("start to serve Services", serve_services(config, fleet.as_deref(), &conditions, attachments.kernel().shared_fast_path()))?;
    let programs = programs_on_uplinks(Arc::clone(&attachments));
    let boot = Boot { id: boot_id, run_dir: config.run_dir.clone() };
    let told = fleet.clone();
    let peers = Arc::new(move || told.as_ref().map(|hearing| hearing.tables().borrow().peers().clone()));
    let told = fleet.clone();
    let orders = Arc::new(move || match &told {
        Some(hearing) => hearing.tables().borrow().preflight().clone(),
        None => fleet_api::Preflight::Untold,
    });
    let sources = Sources {
        conditions: Arc::clone(&conditions),
        programs,
        cloud: config.source.cloud().map(|source| source.cloud.clone()),
        fleet: fleet.clone(),
        peers,
        orders,
        boot,
    };
    let health = Health::start(config.health.as_ref(), &board, sources);
    let mut health = io("start the node's health checks", health)?;
    let node = config.node_name.clone();
    let watched = Watched {
        node,
        attachments: Arc::clone(&attachments),
        driver,
        metrics,
        conditions,
        list,
        slow_path,
        services: serving.as_ref().map(Serving::report),
        fleet,
        health: board,
    };
    let served = serve_beside_pods(config, &reconciler, &mut health, &file, watched);
    drop(serving);
    tracing::info!("stopping; running pods keep their network");
    // Whoever comes from now on finds no socket, and waits for the next daemon.
    server.close();
    attachments.drain();
    for clockwork in [&mut publishing, &mut pod_links, &mut housekeeping] {
        clockwork.stop();
    }
    health.stop();
    server.join(LAST_REQUESTS);
    drop((reconciler, publishing, pod_links, housekeeping, kernel_watch, health));
    chores::close_accounts(&attachments);
    served
}

/// Where they are off, what an earlier daemon has set for them goes.
fn serve_services(
    config: &Config,
    fleet: Option<&Hearing>,
    conditions: &Arc<NodeConditions>,
    programs: Option<Arc<FastPath>>,
) -> std::io::Result<Option<Serving>> {
    let Some((services, fleet)) = config.services.as_ref().zip(fleet) else {
        services::end(conditions, programs.as_deref());
        return Ok(None);
    };
    Serving::start(config, services, fleet.tables(), Arc::clone(conditions), programs).map(Some)
}

/// One daemon a state: the lock goes with the process, however it ends.
fn lock_state(config: &Config) -> Result<Flock<File>, DaemonError> {
    let run_dir = &config.run_dir;
    io(format!("make {}", run_dir.display()), DirBuilder::new().recursive(true).mode(0o700).create(run_dir))?;
    let path = run_dir.join("lock");
    let file = io(format!("open {}", path.display()), OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::Error::EWOULDBLOCK => DaemonError::AlreadyRunning(run_dir.clone()),
        other => DaemonError::Io { what: format!("lock {}", path.display()), source: other.into() },
    })
}

fn recover(
    config: &Config,
    boot_id: &str,
    metrics: &Arc<Metrics>,
    conditions: &NodeConditions,
    scheduling: Scheduling,
) -> Result<(Attachments<Linux>, CloudMemory), DaemonError> {
    let (store, found) = Store::open(&config.run_dir, boot_id)?;
    // A list from an earlier boot would call this node ready before it is.
    if !matches!(found, Found::Present(_))
        && let Err(error) = list_file::withdraw_of_earlier_boot(&config.cni_conf_file)
    {
        // The publisher meets the same, and tells it.
        tracing::error!(%error, file = %config.cni_conf_file.display(), "the network configuration list of an earlier boot stays");
    }
    let numbers = Arc::new(LinkNumbers::default());
    let remark = found.remark();
    let contents = found.into_contents();
    let accounts = Arc::new(contents.as_ref().map_or_else(Accounts::default, |contents| Accounts::continuing(&contents.ended)));
    let kernel = Linux::start(Arc::clone(&numbers), accounts, load_programs(config, conditions), describe(config), scheduling)?;
    let now = BootMillis::now();
    let links = kernel.links()?.into_iter().map(|link| {
        let held_to = kernel.limits_known(link.ifindex);
        for_recovery(link, held_to)
    });
    let mut plan = recovery::plan(contents, links.collect(), &config.network, now);
    for remark in remark.iter().chain(&plan.remarks) {
        tracing::warn!("{remark}");
    }
    tracing::info!(attachments = plan.records.len() + plan.adopted.len(), "recovered");
    let mut pool = Pool::new(&config.source.ranges(), config.cooldown_millis);
    let cloud = config.source.cloud();
    cloud.iter().flat_map(|cloud| &cloud.families).for_each(|family| pool.want(*family));
    let memory = std::mem::take(&mut plan.cloud);
    let attachments = Attachments::recover(kernel, store, pool, numbers, Arc::clone(metrics), plan);
    // A cloud has to tell first which uplink is a pod's: see the reconciler.
    if cloud.is_none() {
        attachments.adopt()?;
    }
    Ok((attachments, memory))
}

/// The supply of addresses from a cloud, about to be driven.
fn drive(source: &CloudSource, config: &Config, attachments: &Arc<Attachments<Linux>>, memory: &CloudMemory) -> Arc<Driver<Linux>> {
    attachments.wait_for_addresses(source.wait);
    let clock = BootMillis::now;
    let settings = cloud::settings(source, &config.node_name);
    Arc::new(Driver::new(Arc::clone(attachments), Source::from(&source.cloud), settings, memory, clock))
}

/// The kernel programs, where the configuration wants them and the kernel takes them. Where they are not used, none that an
/// earlier daemon attached stays.
fn load_programs(config: &Config, conditions: &NodeConditions) -> Option<FastPath> {
    let report =
        |reason, message: String, remedy| conditions.report(Kind::FastPathUnavailable, Some(Finding::new(reason, message, remedy)));
    if config.fast_path {
        let limits = [("pod_internet_egress", config.pod_internet_egress), ("node_internet_egress", config.node_internet_egress)];
        let unlimited: String =
            limits.iter().filter(|(_, rate)| rate.is_some()).map(|(key, _)| format!(", and network.{key} is not kept")).collect();
        match FastPath::load(&kernel_programs(config), &config.run_dir) {
            Ok(fast_path) => {
                tracing::info!("the fast path carries packets");
                leftover::end(&config.run_dir);
                return Some(fast_path);
            }
            Err(error) => report(
                "LoadFailed",
                format!("no fast path, packets take the host's stack{unlimited}: {error}"),
                "pods are served all the same; see docs/kernels.md, or set network.fast_path = \"off\"",
            ),
        }
    }
    if FastPath::is_in_place(&config.run_dir).unwrap_or(false) {
        leftover::begin(&config.run_dir);
    }
    if let Err(error) = remove_programs(config) {
        report(
            "NotRemoved",
            format!("programs of an earlier daemon cannot be taken off: {error}"),
            "they may carry packets as they were told last; restart barewired, or the node",
        );
    }
    None
}

/// What is wrong with the programs on the uplinks, as they were found last.
fn programs_on_uplinks(attachments: Arc<Attachments<Linux>>) -> Arc<dyn Fn() -> Option<Result<(), String>> + Send + Sync> {
    Arc::new(move || {
        let uplinks = attachments.kernel().fast_path().map(FastPath::uplink_hooks)?;
        let closed = uplinks.iter().filter(|uplink| !uplink.open);
        let closed: Vec<_> =
            closed.map(|uplink| format!("{}: {}", uplink.uplink, uplink.why.as_deref().unwrap_or("not attached"))).collect();
        Some(if closed.is_empty() { Ok(()) } else { Err(format!("packets are not carried by the programs: {}", closed.join("; "))) })
    })
}

/// Beside the daemon, as a build leaves it, or where a package puts it.
fn kernel_programs(config: &Config) -> PathBuf {
    const NAME: &str = "barewire-ebpf.o";
    let beside = || Some(std::env::current_exe().ok()?.with_file_name(NAME)).filter(|path| path.exists());
    config.kernel_programs.clone().or_else(beside).unwrap_or_else(|| Path::new("/usr/lib/barewire").join(NAME))
}

/// Takes the programs off every interface and forgets their maps.
fn remove_programs(config: &Config) -> Result<(), DaemonError> {
    let mut socket = Socket::open()?;
    match FastPath::remove(&mut socket, &config.run_dir) {
        // Without a place for pins there were never any programs.
        Err(FastPathError::NoBpfFs) => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Takes away all that the daemon leaves in place for pods while it is stopped: programs, rules, the configuration list. Pods that
/// run keep their links and routes.
///
/// # Errors
/// Where a daemon runs, or the kernel refuses.
pub fn uninstall(config: &Config) -> Result<(), DaemonError> {
    let _lock = lock_state(config)?;
    io("remove the network configuration list", list_file::withdraw(&config.cni_conf_file))?;
    remove_programs(config)?;
    services::remove().map_err(DaemonError::Services)?;
    Ok(NodeNetwork::remove(&mut Socket::open()?)?)
}

/// Signals, telemetry, the uplinks and the cloud: everything that waits, on one thread.
fn serve_beside_pods(
    config: &Config,
    reconciler: &ReconcilerThread,
    health: &mut Health,
    file: &ConfigFile,
    watched: Watched,
) -> Result<(), DaemonError> {
    let runtime = io("start the runtime", tokio::runtime::Builder::new_current_thread().enable_all().build())?;
    runtime.block_on(async {
        let mut terminate = io("await SIGTERM", signal(SignalKind::terminate()))?;
        let mut reload = io("await SIGHUP", signal(SignalKind::hangup()))?;
        let uplinks = watch::follow(async || reconciler.look().await, &watched.conditions);
        let reloads = async {
            while reload.recv().await.is_some() {
                reconciler.reload().await;
                // The reconciler tells what is wrong with the file; then all stays as it was.
                if let Ok(new) = file.read() {
                    health.reload(new.health.as_ref());
                }
            }
        };
        let telemetry = async {
            match config.telemetry {
                Some(listen) => http::serve(listen, watched.clone()).await,
                None => std::future::pending().await,
            }
        };
        let drive = async {
            match &watched.driver {
                Some(driver) => driver.run(async || reconciler.look().await).await,
                None => std::future::pending().await,
            }
        };
        let mut drive = std::pin::pin!(drive);
        let served = tokio::select! {
            _ = terminate.recv() => Ok(()),
            outcome = tokio::signal::ctrl_c() => io("await SIGINT", outcome),
            never = telemetry => match never {},
            () = uplinks => Ok(()),
            () = reloads => Ok(()),
            () = &mut drive => Ok(()),
        };
        if let Some(driver) = &watched.driver {
            driver.stop();
            if tokio::time::timeout(LAST_CALL, drive).await.is_err() {
                tracing::warn!("a call of the cloud is cut off; what became of it is found out at the next start");
            }
        }
        served
    })
}
