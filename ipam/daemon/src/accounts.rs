//! Whose traffic is whose: that of pods by pod, and by namespace that of pods that have ended.
//!
//! The kernel counts by link. When a link is gone its last figures go to the sum of the pod's namespace, so that a job that was
//! shorter than the time between two scrapes is in that sum, and the sum never falls. One lock holds while figures are read: a link
//! is in the sum or still on its own, never both.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use datapath::Ifindex;
use datapath::fast_path::{Counter, Traffic};

use ipam_state::contents::{EndedTraffic, TrafficRow};
use ipam_state::record::Record;

/// Traffic of pods that have ended, by namespace.
type Ended = BTreeMap<String, Traffic>;

/// Every account of pods.
#[derive(Debug, Default)]
pub struct Accounts {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<Ifindex, Holder>,
    ended: Ended,
    is_unsaved: bool,
}

/// Who is behind a link.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// `K8S_POD_NAMESPACE`; empty where the runtime did not tell.
    pub namespace: String,
    /// `K8S_POD_NAME`, likewise.
    pub pod: String,
    /// `CNI_CONTAINERID`
    pub container_id: String,
}

/// What was counted, as of one moment.
#[derive(Debug, Default)]
pub struct Statement {
    /// Of each link that is there; a pod with several interfaces is in it several times.
    pub pods: Vec<(Holder, Traffic)>,
    /// Of each namespace: its pods and those that have ended.
    pub namespaces: BTreeMap<String, Traffic>,
}

impl Accounts {
    /// Goes on from what an earlier daemon has kept.
    #[must_use]
    pub fn continuing(ended: &EndedTraffic) -> Self {
        let ended = ended.iter().map(|(namespace, row)| (namespace.clone(), traffic_of_row(row))).collect();
        Self { state: Mutex::new(State { ended, ..State::default() }) }
    }

    /// A pod's link is counted from now on, or was by an earlier daemon.
    pub fn open(&self, record: &Record) {
        let holder = Holder {
            namespace: record.pod.namespace.clone(),
            pod: record.pod.name.clone(),
            container_id: record.key.container_id.to_string(),
        };
        self.lock().open.insert(Ifindex(record.host_ifindex), holder);
    }

    /// Links are gone; `counted` is what they were counted with in the end. Before their numbers are used again.
    pub fn close(&self, counted: impl IntoIterator<Item = (Ifindex, Traffic)>) {
        let mut state = self.lock();
        for (link, traffic) in counted {
            // One that was never open was an ADD that failed.
            if let Some(holder) = state.open.remove(&link) {
                let sum = state.ended.entry(holder.namespace).or_default();
                *sum = sum.plus(&traffic);
                state.is_unsaved = true;
            }
        }
    }

    /// Sums that have changed since they were asked for last.
    pub fn unsaved(&self) -> Option<EndedTraffic> {
        let mut state = self.lock();
        let rows = |ended: &Ended| ended.iter().map(|(namespace, traffic)| (namespace.clone(), row_of_traffic(traffic))).collect();
        std::mem::take(&mut state.is_unsaved).then(|| rows(&state.ended))
    }

    /// They could not be kept; they are given out again.
    pub fn still_unsaved(&self) {
        self.lock().is_unsaved = true;
    }

    /// Reads all accounts. `counted` tells what these links are counted with now; one that it leaves out has sent nothing.
    ///
    /// # Errors
    /// Those of `counted`.
    pub fn state<E>(&self, counted: impl FnOnce(&[Ifindex]) -> Result<HashMap<Ifindex, Traffic>, E>) -> Result<Statement, E> {
        let state = self.lock();
        // Under the lock: a number that is given to another link meanwhile would bring the figures of both.
        let counted = counted(&state.open.keys().copied().collect::<Vec<_>>())?;
        let mut statement = Statement { pods: Vec::with_capacity(state.open.len()), namespaces: state.ended.clone() };
        for (link, holder) in &state.open {
            let traffic = counted.get(link).copied().unwrap_or_default();
            let sum = statement.namespaces.entry(holder.namespace.clone()).or_default();
            *sum = sum.plus(&traffic);
            statement.pods.push((holder.clone(), traffic));
        }
        Ok(statement)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn row_of_traffic(traffic: &Traffic) -> TrafficRow {
    let mut row = TrafficRow::default();
    for (place, counter) in row.chunks_exact_mut(2).zip(traffic.sent.iter().chain(&traffic.received)) {
        place.copy_from_slice(&[counter.packets, counter.bytes]);
    }
    row
}

fn traffic_of_row(row: &TrafficRow) -> Traffic {
    let counter = |at: usize| Counter { packets: row[at * 2], bytes: row[at * 2 + 1] };
    Traffic { sent: std::array::from_fn(counter), received: std::array::from_fn(|scope| counter(scope + 5)) }
}

#[cfg(test)]
mod tests {
    use cni_spec::PodIdentity;
    use node_api::BootMillis;

    use ipam_state::record::{AttachmentKey, RECORD_FORMAT};

    use super::*;

    fn record(container: &str, link: u32) -> Record {
        Record {
            format: RECORD_FORMAT,
            key: AttachmentKey { container_id: container.parse().unwrap(), ifname: "eth0".parse().unwrap() },
            network: "barewire".parse().unwrap(),
            pod: PodIdentity { namespace: "jobs".into(), name: container.into(), ..PodIdentity::default() },
            netns: None,
            host_ifname: format!("bw{link}"),
            host_ifindex: link,
            mtu: 1500,
            mac: None,
            addresses: Vec::new(),
            attached_at: BootMillis(0),
            bandwidth: None,
            internet_egress: None,
            allowed: Vec::new(),
        }
    }

    fn sent(bytes: u64) -> Traffic {
        let mut traffic = Traffic::default();
        traffic.sent[4] = Counter { packets: 1, bytes };
        traffic
    }

    /// Every link is counted with `each`.
    fn read(accounts: &Accounts, each: u64) -> Statement {
        let counted = |links: &[Ifindex]| Ok::<_, ()>(links.iter().map(|link| (*link, sent(each))).collect());
        accounts.state(counted).unwrap()
    }

    fn sum_of(accounts: &Accounts, each: u64) -> u64 {
        read(accounts, each).namespaces.get("jobs").map_or(0, |traffic| traffic.sent[4].bytes)
    }

    #[test]
    fn a_namespaces_sum_never_falls() {
        let accounts = Accounts::default();
        accounts.open(&record("a", 1));
        accounts.open(&record("b", 2));
        assert_eq!(sum_of(&accounts, 100), 200);
        accounts.close([(Ifindex(1), sent(150)), (Ifindex(9), sent(1_000_000))]);
        assert_eq!(sum_of(&accounts, 200), 350);
        assert_eq!(read(&accounts, 200).pods.len(), 1);
        accounts.close([(Ifindex(2), sent(200)), (Ifindex(2), sent(200))]);
        assert_eq!(sum_of(&accounts, 1_000), 350);
    }

    #[test]
    fn sums_are_given_out_once_to_be_kept() {
        let accounts = Accounts::continuing(&EndedTraffic::from([("jobs".to_owned(), row_of_traffic(&sent(7)))]));
        assert!(accounts.unsaved().is_none());
        accounts.open(&record("a", 1));
        accounts.close([(Ifindex(1), sent(1))]);
        assert_eq!(traffic_of_row(&accounts.unsaved().unwrap()["jobs"]).sent[4].bytes, 8);
        assert!(accounts.unsaved().is_none());
        accounts.still_unsaved();
        assert!(accounts.unsaved().is_some());
    }
}
