//! What the daemon does without being asked: apply queued DELs, settle commits, look after new pods, sweep, look for faults, keep the
//! configuration list.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use datapath::fast_path::IdleSeconds;
use node_api::queue::EntryError;
use node_api::{BootMillis, queue};

use crate::attachments::Attachments;
use crate::conditions::{Kind, NodeConditions};
use crate::config::Config;
use crate::conflist::publisher::Publisher;
use crate::driver::Driver;
use crate::kernel::{Kernel, Linux};
use crate::readiness;
use crate::store::Change;

const TICK: Duration = Duration::from_secs(1);
const SWEEP_EVERY_TICKS: u64 = 60;
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
            forget_idle_flows(attachments.kernel());
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

/// The stack's own memory of a flow, as the kernel is set, and some more.
fn forget_idle_flows(kernel: &Linux) {
    /// Longer than the time between two rounds.
    const MARGIN: u32 = 120;
    /// The kernel's defaults (Documentation/networking/nf_conntrack-sysctl.rst), where it has no connection tracking yet.
    const TCP: u32 = 432_000;
    const UDP: u32 = 120;
    let Some(fast_path) = kernel.fast_path() else { return };
    let timeout = |name: &str, default: u32| {
        let text = std::fs::read_to_string(Path::new("/proc/sys/net/netfilter").join(name));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(default).saturating_add(MARGIN)
    };
    let idle =
        IdleSeconds { tcp: timeout("nf_conntrack_tcp_timeout_established", TCP), other: timeout("nf_conntrack_udp_timeout_stream", UDP) };
    match fast_path.forget_idle_flows(idle) {
        Ok(noted) => tracing::debug!(noted, "flows through the stack"),
        Err(error) => tracing::warn!(%error, "idle flows cannot be forgotten"),
    }
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
