//! Who leads: a Lease of our own (`coordination.k8s.io/v1`), for what only one replica may do at a time.
//!
//! A replica leads while it has renewed the Lease within the last [`Timing::renew_within`] by its own clock, counted from before the request
//! was sent; others take the Lease when they have seen no change of it for [`Timing::lease`], by theirs. Clocks are compared with
//! nobody's. Between the two a paused process may believe for a moment that it still leads: what the leader writes has to be idempotent.

use std::time::Duration;

use fleet_plans::health::NOTE;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::forwarding::address_of;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Without a change for so long, the Lease is anybody's.
    pub lease: Duration,
    /// The leader steps down that has not renewed for so long; well below `lease`.
    pub renew_within: Duration,
    /// Between two looks, give or take a fifth.
    pub every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), renew_within: Duration::from_secs(10), every: Duration::from_secs(2) }
    }
}

/// What to do about a Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Take,
    Renew,
    Wait,
}

/// The Lease as it was last seen to change. Pure: times are arguments.
#[derive(Debug, Default)]
struct Seen {
    version: Option<String>,
    since: Option<Instant>,
}

impl Seen {
    fn step(&mut self, lease: Option<&Lease>, identity: &str, timing: Timing, now: Instant) -> Step {
        let Some(lease) = lease else { return Step::Create };
        if self.version != lease.metadata.resource_version || self.since.is_none() {
            (self.version, self.since) = (lease.metadata.resource_version.clone(), Some(now));
        }
        match lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) {
            Some(holder) if holder == identity => Step::Renew,
            // Given up, or never had.
            None | Some("") => Step::Take,
            Some(_) if self.since.is_some_and(|since| now.duration_since(since) >= timing.lease) => Step::Take,
            Some(_) => Step::Wait,
        }
    }
}

/// Takes part in the election, for ever.
#[derive(Debug)]
pub struct Elector {
    leases: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    seen: Seen,
    renewed: Option<Instant>,
    leads: watch::Sender<bool>,
    /// Who has the Lease, where it is another.
    holder: Option<String>,
    leader: watch::Sender<Option<String>>,
    /// What the leader says of itself, as an annotation.
    note: Option<watch::Receiver<Option<String>>>,
}

impl Elector {
    /// For the Lease `namespace/name`. Identities differ between processes, those of one replica that is started anew included.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            timing,
            seen: Seen::default(),
            renewed: None,
            leads: watch::Sender::new(false),
            holder: None,
            leader: watch::Sender::new(None),
            note: None,
        }
    }

    /// Has the Lease say what the leader says of itself, with its next renewal.
    #[must_use]
    pub fn noting(self, note: watch::Receiver<Option<String>>) -> Self {
        Self { note: Some(note), ..self }
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Where the replica that leads is reached, where it is another; what it was last, where the API server does not say.
    #[must_use]
    pub fn leader(&self) -> watch::Receiver<Option<String>> {
        self.leader.subscribe()
    }

    /// Until `stop` says so; then the Lease is given up, so that nobody has to wait for its end.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let stopped = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => true,
                () = self.round() => false,
            };
            if stopped {
                self.give_up().await;
                return;
            }
        }
    }

    /// One look, what follows from it, and the wait for the next.
    async fn round(&mut self) {
        let began = Instant::now();
        // A request may take as long as we may still lead by the last one.
        let limit = self.deadline().map_or(self.timing.renew_within, |deadline| deadline.saturating_duration_since(began));
        match timeout(limit, self.look()).await {
            Ok(Ok(true)) => (self.renewed, self.holder) = (Some(began), None),
            Ok(Ok(false)) => self.renewed = None,
            Ok(Err(error)) => {
                tracing::warn!(lease = self.name, %error, "lease not renewed");
                // Somebody else has written it: no longer ours, for all we know.
                if matches!(&error, kube::Error::Api(status) if status.code == 409) {
                    self.renewed = None;
                }
            }
            Err(_) => tracing::warn!(lease = self.name, limit_ms = limit.as_millis(), "lease not renewed: no answer"),
        }
        self.tell();
        let pause = self.timing.every.mul_f64(0.8 + 0.4 * fastrand::f64());
        if let Some(left) = self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            sleep(pause.min(left)).await;
            self.tell();
        } else {
            sleep(pause).await;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + self.timing.renew_within)
    }

    fn tell(&mut self) {
        if self.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
            self.renewed = None;
        }
        let leads = self.renewed.is_some();
        if self.leads.send_if_modified(|told| std::mem::replace(told, leads) != leads) {
            tracing::info!(identity = self.identity, leader = leads, "leadership changed");
        }
        // A process before this one at the same place is nobody to be reached.
        let own = address_of(&self.identity);
        let leader = self.holder.as_deref().and_then(address_of).filter(|address| Some(*address) != own).map(str::to_owned);
        self.leader.send_if_modified(|told| {
            let is_new = *told != leader;
            *told = leader;
            is_new
        });
    }

    /// Whether the Lease is ours now.
    async fn look(&mut self) -> Result<bool, kube::Error> {
        let lease = self.leases.get_opt(&self.name).await?;
        let step = self.seen.step(lease.as_ref(), &self.identity, self.timing, Instant::now());
        let mut lease = lease.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        let spec = lease.spec.get_or_insert_default();
        let post = PostParams::default();
        match step {
            Step::Wait => {
                self.holder = spec.holder_identity.clone();
                return Ok(false);
            }
            Step::Create | Step::Take => {
                self.renew(spec);
                spec.acquire_time = spec.renew_time.clone();
                spec.holder_identity = Some(self.identity.clone());
                spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
                if step == Step::Create {
                    self.leases.create(&post, &lease).await?;
                    return Ok(true);
                }
            }
            Step::Renew => self.renew(spec),
        }
        let note = self.note.as_ref().and_then(|note| note.borrow().clone());
        let annotations = lease.metadata.annotations.get_or_insert_default();
        match note {
            Some(note) => drop(annotations.insert(NOTE.to_owned(), note)),
            None => drop(annotations.remove(NOTE)),
        }
        // Only over the version that was read: of two that take it one is refused.
        self.leases.replace(&self.name, &post, &lease).await?;
        Ok(true)
    }

    fn renew(&self, spec: &mut LeaseSpec) {
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        spec.lease_duration_seconds = i32::try_from(self.timing.lease.as_secs()).ok();
    }

    /// Leads no longer, then says so: never the other way round.
    async fn give_up(&mut self) {
        let had = self.renewed.take().is_some();
        self.tell();
        if !had {
            return;
        }
        let given_up = timeout(self.timing.every, async {
            let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity)) else {
                return Ok(());
            };
            spec.holder_identity = Some(String::new());
            self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
        });
        if let Ok(Err(error)) = given_up.await {
            tracing::warn!(lease = self.name, %error, "lease not released");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>, version: &str) -> Lease {
        let spec = LeaseSpec { holder_identity: holder.map(str::to_owned), ..LeaseSpec::default() };
        Lease { metadata: ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() }, spec: Some(spec) }
    }

    #[test]
    fn a_lease_is_taken_when_nobody_has_it_or_its_holder_is_silent_by_our_clock() {
        let (timing, start) = (Timing::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen::default();
        let mut step = |lease: Option<&Lease>, seconds| seen.step(lease, "a", timing, at(seconds));
        assert_eq!(step(None, 0), Step::Create);
        assert_eq!(step(Some(&lease(None, "1")), 0), Step::Take);
        assert_eq!(step(Some(&lease(Some(""), "2")), 0), Step::Take);
        assert_eq!(step(Some(&lease(Some("a"), "3")), 100), Step::Renew);
        assert_eq!(step(Some(&lease(Some("b"), "4")), 200), Step::Wait);
        assert_eq!(step(Some(&lease(Some("b"), "4")), 214), Step::Wait);
        assert_eq!(step(Some(&lease(Some("b"), "5")), 215), Step::Wait, "it has been renewed");
        assert_eq!(step(Some(&lease(Some("b"), "5")), 230), Step::Take);
    }
}
