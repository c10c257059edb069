//! The task that acts while this replica leads.

use std::sync::Arc;

use kube::Client;
use tokio::sync::{mpsc, watch};

use super::carry::Shared;
use super::hearing::Heard;
use super::session::Session;
use super::{Counters, Nodes, Settings, TeamsFile};

/// Reports that are heard before anything else is looked at again.
const REPORTS: usize = 1_024;

/// Acts on nodes while this replica leads.
pub struct Executor {
    settings: Settings,
    shared: Arc<Shared>,
    teams: watch::Receiver<TeamsFile>,
    reports: mpsc::Receiver<(String, Heard)>,
    streams: watch::Receiver<usize>,
}

impl Executor {
    /// Over a `client` that tries nothing again by itself. `reports` are of nodes, with the name in the certificate of each; `streams` is how many
    /// nodes are connected.
    #[must_use]
    pub fn new(
        client: Client,
        nodes: Arc<Nodes>,
        counters: Arc<Counters>,
        teams: watch::Receiver<TeamsFile>,
        reports: mpsc::Receiver<(String, Heard)>,
        streams: watch::Receiver<usize>,
        settings: Settings,
    ) -> Self {
        let note = watch::Sender::new(None);
        let shared = Arc::new(Shared { client, nodes, counters, identity: settings.identity.clone(), note });
        Self { settings, shared, teams, reports, streams }
    }

    /// What it says of itself while it leads, for the Lease.
    #[must_use]
    pub fn note(&self) -> watch::Receiver<Option<String>> {
        self.shared.note.subscribe()
    }

    /// Acts whenever `leads` says so, and not a moment longer: what is under way is dropped. Ends when nobody can say so any more.
    pub async fn run(mut self, mut leads: watch::Receiver<bool>) {
        while self.wait(&mut leads).await {
            tracing::info!(teams = ?self.settings.teams, health_dry_run = self.settings.health.dry_run, "leads: acts on nodes");
            let told = tokio::select! {
                biased;
                told = leads.wait_for(|leads| !*leads) => told.is_ok(),
                () = self.lead() => true,
            };
            self.shared.counters.ended();
            self.shared.note.send_replace(None);
            tracing::info!("leads no longer: acts on nothing");
            if !told {
                return;
            }
        }
    }

    /// Until this replica leads. What nodes report meanwhile is another's to hear.
    async fn wait(&mut self, leads: &mut watch::Receiver<bool>) -> bool {
        loop {
            tokio::select! {
                // Once it leads no report is another's.
                biased;
                led = leads.wait_for(|leads| *leads) => return led.is_ok(),
                Some(_) = self.reports.recv() => {}
            }
        }
    }

    /// Never returns.
    async fn lead(&mut self) {
        let Self { settings, shared, teams, reports, streams } = self;
        shared.nodes.synced().await;
        let nodes = Arc::clone(&shared.nodes);
        let mut session = Session::new(Arc::clone(shared), settings, &nodes);
        teams.mark_changed();
        loop {
            let pause = session.pause();
            tokio::select! {
                () = session.follower.changed() => {}
                Some(ended) = session.work.join_next() => session.ended(ended),
                Some((node, report)) = reports.recv() => {
                    session.hear(node, report);
                    for _ in 0..REPORTS {
                        let Ok((node, report)) = reports.try_recv() else { break };
                        session.hear(node, report);
                    }
                }
                Ok(()) = teams.changed() => session.replan(teams.borrow_and_update().teams.clone()),
                () = tokio::time::sleep(pause) => {}
            }
            session.round(*streams.borrow());
        }
    }
}
