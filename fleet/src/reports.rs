//! What nodes say of their health, on its way from their connections to who decides.
//!
//! There is one place for each node, and the newest report is in it: a reader that is slow skips reports, and nobody waits for it. Who begins to
//! read, as a replica does that leads from now on, or one that has found the leader, begins with the last report of every node that is connected.
//! A node's name is that of its certificate.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_api::message::Report;
use tokio::sync::{Notify, watch};

#[derive(Debug, Default)]
struct Waiting {
    /// Of each node that is connected here.
    last: HashMap<String, Arc<Report>>,
    newest: HashMap<String, Arc<Report>>,
    /// Names of `newest`, each once, by when they came.
    order: VecDeque<String>,
}

impl Waiting {
    fn put(&mut self, node: &str, report: Arc<Report>) {
        if self.newest.insert(node.to_owned(), report).is_none() {
            self.order.push_back(node.to_owned());
        }
    }
}

/// The places. As many as there are nodes, each of a frame at most.
#[derive(Debug)]
pub struct Reports {
    waiting: Mutex<Waiting>,
    put: Notify,
    /// How many read.
    readers: watch::Sender<u64>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { waiting: Mutex::default(), put: Notify::new(), readers: watch::Sender::new(0) }
    }
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place of what the node has said before, and its turn.
    pub(crate) fn put(&self, node: &str, report: Report) {
        let report = Arc::new(report);
        let mut waiting = self.lock();
        waiting.last.insert(node.to_owned(), Arc::clone(&report));
        self.offer(&mut waiting, node, report);
    }

    /// Likewise, of a node that is connected to another replica, which keeps it.
    pub(crate) fn put_forwarded(&self, node: &str, report: Report) {
        self.offer(&mut self.lock(), node, Arc::new(report));
    }

    fn offer(&self, waiting: &mut Waiting, node: &str, report: Arc<Report>) {
        if *self.readers.borrow() > 0 {
            waiting.put(node, report);
            self.put.notify_one();
        }
    }

    /// A node is connected no longer: another replica has its reports from now on.
    pub(crate) fn left(&self, node: &str) {
        self.lock().last.remove(node);
    }

    /// How many read; moves on when one begins or ends.
    pub(crate) fn reading(&self) -> watch::Receiver<u64> {
        self.readers.subscribe()
    }

    /// Begins to read. There is one reader at a time: of two that wait, one may not be woken.
    #[must_use]
    pub fn read(self: &Arc<Self>) -> Reader {
        let mut waiting = self.lock();
        self.readers.send_modify(|readers| *readers += 1);
        let Waiting { last, newest, order } = &mut *waiting;
        newest.clone_from(last);
        *order = last.keys().cloned().collect();
        drop(waiting);
        Reader { reports: Arc::clone(self) }
    }
}

/// Who reads them: the leader, or the replica that forwards to it.
#[derive(Debug)]
pub struct Reader {
    reports: Arc<Reports>,
}

impl Reader {
    /// The next node and its newest report, nodes in the order in which they have spoken. Nothing is lost where the wait is given up.
    pub async fn next(&mut self) -> (String, Report) {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            // What has come since the look is remembered.
            self.reports.put.notified().await;
        }
    }

    /// The next, if there is one.
    pub fn try_next(&mut self) -> Option<(String, Report)> {
        let mut waiting = self.reports.lock();
        let node = waiting.order.pop_front()?;
        let report = waiting.newest.remove(&node)?;
        drop(waiting);
        Some((node, Arc::unwrap_or_clone(report)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut waiting = self.reports.lock();
        self.reports.readers.send_modify(|readers| *readers -= 1);
        (waiting.newest, waiting.order) = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use fleet_api::message::Finding;

    use super::*;

    fn numbered(run: u64) -> Report {
        Report { findings: vec![Finding { run, ..Finding::default() }], ..Report::default() }
    }

    fn run((node, report): (String, Report)) -> (String, u64) {
        (node, report.findings[0].run)
    }

    #[tokio::test]
    async fn the_newest_of_each_node_waits_and_who_came_first_is_first() {
        let reports = Arc::new(Reports::default());
        let mut reader = reports.read();
        assert_eq!(reader.try_next(), None);
        for (node, run) in [("a", 1), ("b", 1), ("a", 2), ("a", 3)] {
            reports.put(node, numbered(run));
        }
        assert_eq!(run(reader.next().await), ("a".to_owned(), 3));
        assert_eq!(run(reader.next().await), ("b".to_owned(), 1));
        assert_eq!(reader.try_next(), None);
        let later = {
            let reports = Arc::clone(&reports);
            tokio::spawn(async move { reports.put("c", numbered(1)) })
        };
        assert_eq!(run(reader.next().await), ("c".to_owned(), 1));
        later.await.unwrap();
    }

    #[test]
    fn who_begins_to_read_hears_all_nodes_that_are_connected_and_what_others_forward_is_not_kept() {
        let reports = Arc::new(Reports::default());
        reports.put_forwarded("elsewhere", numbered(1));
        for (node, run) in [("a", 1), ("b", 1), ("a", 2)] {
            reports.put(node, numbered(run));
        }
        let all = |reader: &mut Reader| {
            let mut all: Vec<_> = std::iter::from_fn(|| reader.try_next()).map(run).collect();
            all.sort();
            all
        };
        let mut reader = reports.read();
        reports.put_forwarded("elsewhere", numbered(2));
        assert_eq!(all(&mut reader), [("a".to_owned(), 2), ("b".to_owned(), 1), ("elsewhere".to_owned(), 2)]);
        drop(reader);
        reports.left("a");
        assert_eq!(all(&mut reports.read()), [("b".to_owned(), 1)]);
    }
}
