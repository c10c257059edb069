//! What the daemon does without being asked: apply queued DELs, settle commits, look after new pods, sweep, look for faults, keep the
//! configuration list.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use datapath::Ifindex;
use datapath::fast_path::{NotedFlows, Timeouts};
use node_api::queue::EntryError;
use node_api::{BootMillis, queue};

use crate::attachments::Attachments;
use crate::conditions::{Finding, Kind, NodeConditions};
use crate::config::Config;
use crate::conflist::publisher::Publisher;
use crate::driver::Driver;
use crate::kernel::{Kernel, Linux};
use crate::readiness;
use crate::record::Record;
use crate::store::Change;

const TICK: Duration = Duration::from_secs(1);
const SWEEP_EVERY_TICKS: u64 = 60;
/// Well within the time that an address rests between two pods.
const NOTES_EVERY_TICKS: u64 = 10;
/// Between pods nobody commits anything: this often it is tried whether one could. While one cannot, each tick.
const PROBE_EVERY_TICKS: u64 = 10;

/// A thread that does something each second; it ends when this is dropped.
pub(crate) struct Clockwork {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Clockwork {
    /// Calls `work` with the number of the tick, from 0, at once and then each second.
    fn start(name: &str, mut work: impl FnMut(u64) + Send + 'static) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let run = move || {
            for tick in 0_u64.. {
                work(tick);
                if let Err(RecvTimeoutError::Disconnected) = stopped.recv_timeout(TICK) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Clockwork {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Keeps house.
pub(crate) fn start(
    config: &Config,
    boot_id: String,
    attachments: Arc<Attachments<Linux>>,
    conditions: Arc<NodeConditions>,
    driver: Option<Arc<Driver<Linux>>>,
) -> std::io::Result<Clockwork> {
    let queue = queue_directory(config);
    Clockwork::start("housekeeping", move |tick| {
        apply_queue(&queue, &boot_id, &attachments);
        attachments.settle();
        keep_accounts(&attachments);
        attachments.look_after_fresh(BootMillis::now().unwrap_or_default());
        if tick.is_multiple_of(PROBE_EVERY_TICKS) || attachments.store_fails() {
            attachments.probe_store();
        }
        report_faults(&attachments, &conditions);
        if let Some(driver) = &driver {
            conditions.report(Kind::CloudTrouble, driver.finding());
        }
        if tick > 0 && tick.is_multiple_of(SWEEP_EVERY_TICKS) {
            attachments.sweep(BootMillis::now().unwrap_or_default());
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
        tracing::warn!("links of pods that have ended are not gone yet; their last traffic is in no sum");
    }
    keep_accounts(attachments);
}

fn report_faults(attachments: &Attachments<Linux>, conditions: &NodeConditions) {
    let faults = attachments.faults(BootMillis::now().unwrap_or_default());
    for kind in readiness::KINDS {
        let found = faults.iter().filter_map(readiness::Fault::condition).find(|(of, _)| *of == kind);
        conditions.report(kind, found.map(|(_, finding)| finding));
    }
}

/// Publishes the configuration list and keeps it, in a thread of its own: a plugin that hangs holds up no DEL. The service manager is
/// told once it stands.
pub(crate) fn keep_list(mut publisher: Publisher, attachments: Arc<Attachments<Linux>>) -> std::io::Result<Clockwork> {
    let mut is_told = false;
    Clockwork::start("network-list", move |_| {
        let faults = attachments.faults(BootMillis::now().unwrap_or_default());
        let not_ready = faults.first().map(|fault| fault.condition().map_or_else(|| fault.to_error().msg, |(_, finding)| finding.message));
        if publisher.look(not_ready.as_deref()) && !is_told {
            is_told = true;
            tracing::info!("ready");
            if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
                tracing::warn!(%error, "cannot tell the service manager");
            }
        }
    })
}

/// Ends the notes of flows that the stack has forgotten, and names pods that have too many of them.
fn sweep_notes(attachments: &Attachments<Linux>, conditions: &NodeConditions) {
    let Some(fast_path) = attachments.kernel().fast_path() else { return };
    match fast_path.sweep_notes(&Timeouts::of_conntrack()) {
        Ok(found) => {
            tracing::debug!(noted = found.total, "flows through the stack");
            conditions.report(Kind::FlowTableFull, too_many_notes(&found, &attachments.records()));
        }
        Err(error) => tracing::warn!(%error, "notes of flows cannot be swept"),
    }
    heed_others(attachments, conditions);
    let unknown = fast_path.heal().err().map(|error| {
        Finding::new(
            "ConntrackUnreadable",
            format!("pods that ran before keep to the host's stack: {error}"),
            "they are well, and slower; a new pod is not concerned",
        )
    });
    conditions.report(Kind::FlowsUnknown, unknown);
}

/// Leaves to the stack what another tool wants to see whole.
fn heed_others(attachments: &Attachments<Linux>, conditions: &NodeConditions) {
    let records = attachments.records();
    let links: Vec<_> = records.iter().map(|record| Ifindex(record.host_ifindex)).collect();
    let found = match attachments.kernel().heed_others(&links) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "pods' links cannot be looked at for others' filters");
            return;
        }
    };
    let told: Vec<_> = found.iter().map(|(link, filter)| format!("{}: {filter}", name_of(*link, &records))).collect();
    let remedy = "nothing, if the filter is wanted: the tool sees all of the pod's packets, which take the host's stack";
    let message = format!("pods take the slow path for another tool's filter on their link: {}", told.join("; "));
    conditions.report(Kind::FilterOnPodLink, (!told.is_empty()).then(|| Finding::new("SlowPath", message, remedy)));
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
    let remedy = "see what opens so many; barewire_flows_noted tells how many each pod has, and docs/fast-path.md what counts";
    (!names.is_empty()).then(|| Finding::new("ShareUsedUp", message, remedy))
}

pub(crate) fn queue_directory(config: &Config) -> PathBuf {
    queue::directory_beside(&config.run_dir.join("cni.sock"))
}

/// Applies every DEL in the queue. A file goes only after its DEL was applied.
pub(crate) fn apply_queue<K: Kernel>(directory: &Path, boot_id: &str, attachments: &Attachments<K>) {
    if let Err(error) = queue::remove_abandoned_drafts(directory) {
        tracing::warn!(queue = %directory.display(), %error, "cannot remove what a killed plugin left");
    }
    let entries = match queue::read(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::error!(queue = %directory.display(), %error, "cannot read the queue of DELs");
            return;
        }
    };
    for entry in entries {
        let outcome = match entry.content {
            Ok(queued) if queued.boot_id == boot_id => {
                let now = BootMillis::now().unwrap_or_default();
                if let Err(error) = attachments.del_queued(&queued.del, queued.queued_at, now) {
                    tracing::warn!(container = %queued.del.container_id, %error, "a queued DEL waits for the next round");
                    continue;
                }
                tracing::info!(container = %queued.del.container_id, "applied a queued DEL");
                std::fs::remove_file(&entry.path)
            }
            // The attachment ended with its boot.
            Ok(_) => std::fs::remove_file(&entry.path),
            Err(error @ EntryError::Unreadable(_)) => {
                tracing::warn!(file = %entry.path.display(), %error, "a queued DEL waits for the next round");
                continue;
            }
            Err(error @ EntryError::NotUnderstood(_)) => {
                tracing::error!(file = %entry.path.display(), %error, "a queued DEL is set aside");
                std::fs::rename(&entry.path, entry.path.with_extension("bad"))
            }
        };
        if let Err(error) = outcome {
            tracing::error!(file = %entry.path.display(), %error, "cannot clear a queued DEL");
        }
    }
}
