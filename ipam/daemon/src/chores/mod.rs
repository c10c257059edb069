//! What the daemon does without being asked: apply queued DELs, settle commits, look after new pods, sweep, look for faults, keep pods' links
//! and the configuration list, and threads that are held up in the kernel.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datapath::Ifindex;
use datapath::fast_path::{NotedFlows, Timeouts};
use ipam_state::record::Record;
use ipam_state::store::Change;
use node_api::queue::EntryError;
use node_api::{BootMillis, queue};
use sd_notify::NotifyState;

use crate::attachments::Attachments;
use crate::clockwork::{Clockwork, TICK};
use crate::cloud::Driver;
use crate::cni_errors;
use crate::conditions::{Finding, Kind, NodeConditions};
use crate::config::Config;
use crate::conflist::publisher::Publisher;
use crate::health::Board;
use crate::kernel::{Kernel, Linux};
use crate::readiness;
use crate::reconcile::EVERY;
use crate::reconcile::files::Files;
use crate::reconcile::pods::PodLinks;
use crate::serve::ServedRequests;

/// While threads are held up in the kernel.
const HASTE: Duration = Duration::from_millis(100);
const SWEEP_EVERY_TICKS: u64 = 60;
const PODS_EVERY_TICKS: u64 = EVERY.as_secs() / TICK.as_secs();
/// Well within the time that an address rests between two pods.
const NOTES_EVERY_TICKS: u64 = 10;
/// Between pods nobody commits anything: this often it is tried whether one could. While one cannot, each tick.
const PROBE_EVERY_TICKS: u64 = 10;

/// Keeps house.
pub(crate) fn start(
    config: &Config,
    boot_id: String,
    attachments: Arc<Attachments<Linux>>,
    conditions: Arc<NodeConditions>,
    driver: Option<Arc<Driver<Linux>>>,
    files: Files,
    board: Arc<Board>,
) -> std::io::Result<Clockwork> {
    let queue = queue_directory(config);
    let is_watched = sd_notify::watchdog_enabled().is_some();
    Clockwork::start("housekeeping", move |tick| {
        // By the thread that takes every lock that an ADD takes: were it to hang, so would they.
        if is_watched {
            tell_service_manager(&[NotifyState::Watchdog]);
        }
        apply_queue(&queue, &boot_id, &attachments);
        attachments.settle();
        files.look();
        board.has_pods(u32::try_from(attachments.summary(BootMillis::now()).attachments).unwrap_or(u32::MAX));
        keep_accounts(&attachments);
        attachments.look_after_fresh(BootMillis::now());
        if tick.is_multiple_of(PROBE_EVERY_TICKS) || attachments.store_fails() {
            attachments.probe_store();
        }
        report_faults(&attachments, &conditions);
        if let Some(driver) = &driver {
            conditions.report(Kind::CloudDegraded, driver.finding());
        }
        if tick > 0 && tick.is_multiple_of(SWEEP_EVERY_TICKS) {
            attachments.sweep(BootMillis::now());
        }
        if tick.is_multiple_of(NOTES_EVERY_TICKS) {
            sweep_notes(&attachments, &conditions);
        }
    })
}

/// Makes durable what pods have used that have ended since the last tick.
fn keep_accounts(attachments: &Attachments<Linux>) {
    let accounts = attachments.kernel().accounts();
    if let Some(ended) = accounts.unsaved()
        && attachments.commit(&Change::Ended(&ended)).is_err()
    {
        accounts.still_unsaved();
    }
}

/// At the daemon's end: waits for links that are about to go, and keeps what they were counted with.
pub(crate) fn close_accounts(attachments: &Attachments<Linux>) {
    /// Removals take some 30 ms; the end of a daemon must not hang on one that does not end.
    const LIMIT: Duration = Duration::from_secs(2);
    if !attachments.kernel().flush_removals(LIMIT) {
        tracing::warn!("links of ended pods still there at exit; their last traffic is not counted");
    }
    keep_accounts(attachments);
}

fn report_faults(attachments: &Attachments<Linux>, conditions: &NodeConditions) {
    let faults = attachments.faults(BootMillis::now());
    for kind in readiness::KINDS {
        let found = faults.iter().filter_map(readiness::Fault::condition).find(|(of, _)| *of == kind);
        conditions.report(kind, found.map(|(_, finding)| finding));
    }
}

/// Publishes the configuration list and keeps it, in a thread of its own: a plugin that hangs holds up no DEL. The service manager is
/// told once it stands.
pub(crate) fn keep_list(mut publisher: Publisher, attachments: Arc<Attachments<Linux>>) -> std::io::Result<Clockwork> {
    let mut is_told = false;
    let mut told = String::new();
    Clockwork::start("network-list", move |_| {
        let faults = attachments.faults(BootMillis::now());
        let not_ready = faults.first().map(|fault| fault.condition().map_or_else(|| fault.to_error().msg, |(_, finding)| finding.message));
        let stands = publisher.look(not_ready.as_deref());
        if stands && !is_told {
            is_told = true;
            tracing::info!("node ready");
            tell_service_manager(&[NotifyState::Ready]);
        }
        let status = match not_ready {
            Some(why) => format!("no new pods: {why}"),
            None if stands => "pods are served".to_owned(),
            None => "the network configuration list does not stand: see `barewire status`".to_owned(),
        };
        if status != told {
            // A line of its own: the protocol has one assignment a line.
            tell_service_manager(&[NotifyState::Status(&status.replace('\n', " "))]);
            told = status;
        }
    })
}

/// `sd_notify(3)`; where no service manager listens, nothing.
fn tell_service_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// Keeps pods' links on the host as they were made, in a thread of its own: on a full node a look takes a while.
pub(crate) fn keep_pod_links(attachments: Arc<Attachments<Linux>>, conditions: Arc<NodeConditions>) -> std::io::Result<Clockwork> {
    let mut links = PodLinks::new(conditions);
    Clockwork::start("pod-links", move |tick| {
        if tick.is_multiple_of(PODS_EVERY_TICKS) {
            links.look(&attachments);
        }
    })
}

/// Looks after threads that are held up in the kernel, from one that never goes there.
pub(crate) fn watch_kernel(
    served: ServedRequests,
    attachments: Arc<Attachments<Linux>>,
    conditions: Arc<NodeConditions>,
) -> std::io::Result<Clockwork> {
    Clockwork::start_at_pace("kernel-watch", move |_| {
        let pace = if served.relieve(&attachments) { HASTE } else { TICK };
        let remedy = "see what holds it (`grep -l rtnl /proc/*/task/*/stack`): a driver that resets its card, say; running pods are well";
        let finding = attachments.is_held_up().then(|| Finding::new("LockNotReleased", cni_errors::held_up(), remedy));
        conditions.report(Kind::KernelHeldUp, finding);
        pace
    })
}

/// Ends the notes of flows that the stack has forgotten, and names pods that have too many of them.
fn sweep_notes(attachments: &Attachments<Linux>, conditions: &NodeConditions) {
    let Some(fast_path) = attachments.kernel().fast_path() else { return };
    match fast_path.sweep_notes(&Timeouts::of_conntrack()) {
        Ok(found) => {
            tracing::debug!(noted = found.total, "slow-path flows counted");
            conditions.report(Kind::FlowTableFull, too_many_notes(&found, &attachments.records()));
        }
        Err(error) => tracing::warn!(%error, "slow-path flows not swept"),
    }
    let unknown = fast_path.heal().err().map(|error| {
        Finding::new(
            "ConntrackUnreadable",
            format!("pods that ran before keep to the host's stack: {error}"),
            "they are well, and slower; a new pod is not concerned",
        )
    });
    conditions.report(Kind::FlowsUnknown, unknown);
}

/// Namespace and name of the pod behind a link.
fn name_of(link: Ifindex, records: &[Record]) -> String {
    let of = records.iter().find(|record| record.host_ifindex == link.0);
    of.map_or_else(|| format!("the pod behind link {link}"), |record| format!("{}/{}", record.pod.namespace, record.pod.name))
}

/// What is said of pods that have all the notes that one may have.
fn too_many_notes(found: &NotedFlows, records: &[Record]) -> Option<Finding> {
    let names: Vec<_> = found.at_their_share().map(|link| name_of(link, records)).collect();
    let message = format!("{} has as many connections by the host's stack as one pod may: new ones are dropped", names.join(", "));
    let remedy = "see what opens so many; barewire_slow_path_flows tells how many each pod has, and docs/fast-path.md what counts";
    (!names.is_empty()).then(|| Finding::new("ShareUsedUp", message, remedy))
}

pub(crate) fn queue_directory(config: &Config) -> PathBuf {
    queue::directory_beside(&config.run_dir.join("cni.sock"))
}

/// Applies every DEL in the queue. A file goes only after its DEL was applied.
pub(crate) fn apply_queue<K: Kernel>(directory: &Path, boot_id: &str, attachments: &Attachments<K>) {
    if let Err(error) = queue::remove_abandoned_drafts(directory) {
        tracing::warn!(queue = %directory.display(), %error, "DEL queue: leftover of a killed plugin not removed");
    }
    let entries = match queue::read(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::error!(queue = %directory.display(), %error, "DEL queue not read");
            return;
        }
    };
    for entry in entries {
        let outcome = match entry.content {
            Ok(queued) if queued.boot_id == boot_id => {
                let now = BootMillis::now();
                if let Err(error) = attachments.del_queued(&queued.del, queued.queued_at, now) {
                    tracing::warn!(container = %queued.del.container_id, %error, "DEL queue: entry deferred");
                    continue;
                }
                tracing::info!(container = %queued.del.container_id, "DEL queue: entry applied");
                std::fs::remove_file(&entry.path)
            }
            // The attachment ended with its boot.
            Ok(_) => std::fs::remove_file(&entry.path),
            Err(error @ EntryError::Unreadable(_)) => {
                tracing::warn!(file = %entry.path.display(), %error, "DEL queue: entry deferred");
                continue;
            }
            Err(error @ EntryError::NotUnderstood(_)) => {
                tracing::error!(file = %entry.path.display(), %error, "DEL queue: entry set aside");
                std::fs::rename(&entry.path, entry.path.with_extension("bad"))
            }
        };
        if let Err(error) = outcome {
            tracing::error!(file = %entry.path.display(), %error, "DEL queue: entry not cleared");
        }
    }
}
