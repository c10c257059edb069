//! What the daemon does without being asked: apply queued DELs, settle commits, look after new pods, sweep, publish the configuration list.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use datapath::fast_path::IdleSeconds;
use node_api::queue::EntryError;
use node_api::{BootMillis, queue};

use crate::attachments::Attachments;
use crate::config::Config;
use crate::conflist;
use crate::kernel::{Kernel, Linux};

const TICK: Duration = Duration::from_secs(1);
const SWEEP_EVERY_TICKS: u64 = 60;

/// The thread that keeps house; it ends when this is dropped.
pub(crate) struct Housekeeping {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Housekeeping {
    pub(crate) fn start(config: Config, boot_id: String, attachments: Arc<Attachments<Linux>>, published: bool) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let work = move || keep_house(&config, &boot_id, &attachments, &stopped, published);
        let thread = std::thread::Builder::new().name("housekeeping".into()).spawn(work)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Housekeeping {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn keep_house(config: &Config, boot_id: &str, attachments: &Attachments<Linux>, stopped: &Receiver<()>, mut published: bool) {
    let queue = queue_directory(config);
    for tick in 1_u64.. {
        if let Err(RecvTimeoutError::Disconnected) = stopped.recv_timeout(TICK) {
            return;
        }
        apply_queue(&queue, boot_id, attachments);
        attachments.settle();
        attachments.look_after_fresh(BootMillis::now().unwrap_or_default());
        if !published {
            published = publish_when_ready(config, attachments);
        }
        if tick.is_multiple_of(SWEEP_EVERY_TICKS) {
            attachments.sweep(BootMillis::now().unwrap_or_default());
            forget_idle_flows(attachments.kernel());
        }
    }
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

/// Writes the configuration list if an ADD would succeed. Tells whether it stands.
pub(crate) fn publish_when_ready(config: &Config, attachments: &Attachments<Linux>) -> bool {
    match attachments.status(BootMillis::now().unwrap_or_default()) {
        Ok(()) => {}
        Err(error) => {
            tracing::info!(%error, "not ready");
            return false;
        }
    }
    match conflist::publish(config) {
        Ok(()) => {
            tracing::info!(file = %config.cni_conf_file.display(), "ready");
            true
        }
        Err(error) => {
            tracing::error!(file = %config.cni_conf_file.display(), %error, "cannot write the network configuration list");
            false
        }
    }
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
