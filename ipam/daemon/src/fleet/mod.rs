//! The fleet, heard: what it tells of Services and endpoints, kept on the disk and served from there where no replica answers (ADR 28).
//!
//! Nothing of a pod's life waits for it. What it tells is there for who acts on it as [`Hearing::tables`].

mod report;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fleet_api::NodeState;
use fleet_api::message::Report;
use fleet_client::backoff::Backoff;
use fleet_client::client::{Client, Config, Identity};
use tokio::sync::watch;

use crate::conditions::NodeConditions;
use crate::config::FleetConfig;
pub(crate) use report::FleetReport;

/// Between a change and the file: what is lost with the power is told again.
const SAVE_AFTER: Duration = Duration::from_secs(10);
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Between two looks at what is wrong.
const LOOK: Duration = Duration::from_secs(1);

/// A thread that hears the fleet; it ends, and saves what it knows, when this is dropped.
pub(crate) struct Hearing {
    client: Client,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Hearing {
    /// Reads the file and begins to listen. Who asks for [`Self::tables`] has what was in the file at once. The fleet is told `reports`.
    pub(crate) fn start(config: &FleetConfig, conditions: Arc<NodeConditions>, reports: watch::Receiver<Report>) -> std::io::Result<Self> {
        let FleetConfig { replicas, files, state_file } = config.clone();
        // Where it cannot be made, the file says so.
        let _ = state_file.parent().map(std::fs::create_dir_all);
        let client = Client::new(Config {
            identity: Identity::Files(files),
            replicas,
            file: Some(state_file),
            save_after: SAVE_AFTER,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            reports: Some(reports),
        });
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let running = client.clone();
        let run = move || {
            runtime.block_on(async {
                tokio::join!(running.run(stopped.clone()), look(&running, &conditions, stopped.clone()));
            });
        };
        let thread = std::thread::Builder::new().name("fleet".into()).spawn(run)?;
        Ok(Self { client, stop, thread: Some(thread) })
    }

    /// What is known now, and whatever is known next. States share what has not changed, and `Table::difference` of two of them looks at the
    /// rest alone. A table without a `resource_version` (see `NodeState::position`) was never told: nothing is to be taken away by it.
    #[must_use]
    pub(crate) fn tables(&self) -> watch::Receiver<Arc<NodeState>> {
        self.client.changes()
    }

    /// For status and metrics.
    pub(crate) fn report(&self) -> FleetReport {
        FleetReport::of(&self.client.status(), &self.tables().borrow())
    }
}

/// Until the end.
async fn look(client: &Client, conditions: &NodeConditions, mut stopped: watch::Receiver<bool>) {
    let mut silence = report::Silence::default();
    loop {
        report::report(&client.status(), &mut silence, conditions, Instant::now());
        if tokio::time::timeout(LOOK, stopped.wait_for(|stopped| *stopped)).await.is_ok() {
            return;
        }
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("fleet client panicked");
        }
    }
}
