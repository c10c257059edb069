//! What nodes say of their health, on its way from their connections to who decides.
//!
//! There is one place for each node, and the newest report is in it: a reader that is slow skips reports, and nobody waits for it. While
//! nobody reads, as in a replica that does not lead, nothing is kept. A node's name is that of its certificate.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_api::message::Report;
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Waiting {
    readers: usize,
    newest: HashMap<String, Report>,
    /// Names of `newest`, each once, by when they came.
    order: VecDeque<String>,
}

/// The places. As many as there are nodes, each of a frame at most.
#[derive(Debug, Default)]
pub struct Reports {
    waiting: Mutex<Waiting>,
    put: Notify,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place of what the node has said before, and its turn.
    pub(crate) fn put(&self, node: &str, report: Report) {
        let mut waiting = self.lock();
        if waiting.readers == 0 {
            return;
        }
        if waiting.newest.insert(node.to_owned(), report).is_none() {
            waiting.order.push_back(node.to_owned());
        }
        self.put.notify_one();
    }

    /// Begins to keep reports. There is one reader at a time: of two that wait, one may not be woken.
    #[must_use]
    pub fn read(self: &Arc<Self>) -> Reader {
        self.lock().readers += 1;
        Reader { reports: Arc::clone(self) }
    }
}

/// Who reads them, as a leader does while it leads.
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
        Some((node, report))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut waiting = self.reports.lock();
        waiting.readers -= 1;
        if waiting.readers == 0 {
            (waiting.newest, waiting.order) = Default::default();
        }
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
        reports.put("a", numbered(0));
        let mut reader = reports.read();
        assert_eq!(reader.try_next(), None, "nothing is kept while nobody reads");
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
        reports.put("d", numbered(1));
        drop(reader);
        assert_eq!(reports.read().try_next(), None, "what nobody took ends with its reader");
    }
}
