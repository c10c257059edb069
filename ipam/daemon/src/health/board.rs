//! What the checks have found last, for the page, the metrics and the fleet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fleet_api::message::{About, Finding, Outcome, Report};
use serde::Serialize;
use tokio::sync::watch;

use crate::conditions::timestamp;
use crate::health_check::{Basis, Verdict};

/// A check on the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    pub(crate) check: String,
    basis: Basis,
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    /// Since when it says that, RFC 3339.
    since: String,
    pub(crate) runs: u64,
    /// Of the last run that has ended.
    took_seconds: f64,
}

#[derive(Debug)]
struct Entry {
    basis: Basis,
    limit: Duration,
    verdict: Verdict,
    since: SystemTime,
    runs: u64,
    took: Duration,
    /// Of a run that has not ended.
    started: Option<Instant>,
}

impl Entry {
    /// A run that does not come back is neither good nor bad: a disk that hangs says so in the kernel's log.
    fn verdict(&self, now: Instant) -> Verdict {
        match self.started.map(|started| now.saturating_duration_since(started)) {
            Some(waits) if waits > self.limit => Verdict::Unknown(format!("has not come back within {} s", self.limit.as_secs())),
            _ => self.verdict.clone(),
        }
    }
}

/// Written by the checks' threads, read by whoever asks. Nobody waits in it.
#[derive(Debug)]
pub(crate) struct Board {
    entries: Mutex<BTreeMap<String, Entry>>,
    told: watch::Sender<Report>,
}

impl Default for Board {
    fn default() -> Self {
        Self { entries: Mutex::default(), told: watch::Sender::new(Report::default()) }
    }
}

impl Board {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A check is there, and has not run.
    pub(super) fn add(&self, check: &str, basis: Basis, limit: Duration) {
        let verdict = Verdict::Unknown("has not run yet".to_owned());
        let entry = Entry { basis, limit, verdict, since: SystemTime::now(), runs: 0, took: Duration::ZERO, started: None };
        self.lock().insert(check.to_owned(), entry);
    }

    pub(super) fn begin(&self, check: &str) {
        if let Some(entry) = self.lock().get_mut(check) {
            entry.started = Some(Instant::now());
        }
    }

    pub(super) fn end(&self, check: &str, verdict: Verdict) {
        if let Some(entry) = self.lock().get_mut(check) {
            if entry.verdict.result() != verdict.result() {
                entry.since = SystemTime::now();
                match &verdict {
                    Verdict::Ok => tracing::info!(check, "health check passes"),
                    Verdict::Failed(seen) => tracing::warn!(check, seen, "health check failed"),
                    Verdict::Unknown(why) => tracing::info!(check, why, "health check cannot tell"),
                }
            }
            entry.verdict = verdict;
            entry.runs += 1;
            entry.took = entry.started.take().map(|started| started.elapsed()).unwrap_or_default();
        }
        self.tell();
    }

    /// What is bad is said with every run, what is not when it has changed.
    fn tell(&self) {
        let report = self.report(Instant::now());
        let without_runs = |report: &Report| {
            let mut report = report.clone();
            report.findings.iter_mut().for_each(|finding| finding.run = 0);
            report
        };
        self.told.send_if_modified(|told| {
            let is_news = if report.is_bad() { *told != report } else { without_runs(told) != without_runs(&report) };
            *told = report;
            is_news
        });
    }

    fn report(&self, now: Instant) -> Report {
        let finding = |(check, entry): (&String, &Entry)| {
            let verdict = entry.verdict(now);
            let about = match entry.basis {
                Basis::Own => About::Own,
                Basis::Probe => About::Probe,
            };
            let outcome = match verdict {
                Verdict::Ok => Outcome::Ok,
                Verdict::Failed(_) => Outcome::Failed,
                Verdict::Unknown(_) => Outcome::Unknown,
            };
            let (check, seen) = (check.clone(), verdict.message().to_owned());
            Finding { check, about: about.into(), peer: String::new(), outcome: outcome.into(), seen, run: entry.runs }
        };
        Report { findings: self.lock().iter().map(finding).collect(), preflight: None }.bounded()
    }

    /// The newest report, at once and with each that is news.
    pub(crate) fn reports(&self) -> watch::Receiver<Report> {
        self.told.subscribe()
    }

    /// For the page and the metrics.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let now = Instant::now();
        let line = |(check, entry): (&String, &Entry)| Line {
            check: check.clone(),
            basis: entry.basis,
            verdict: entry.verdict(now),
            since: timestamp(entry.since),
            runs: entry.runs,
            took_seconds: entry.took.as_secs_f64(),
        };
        self.lock().iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_news_when_something_changes_and_with_every_run_while_it_is_bad() {
        let board = Board::new();
        board.add("disk", Basis::Own, Duration::from_secs(5));
        let mut reports = board.reports();
        let mut run = |verdict: Verdict| {
            board.begin("disk");
            board.end("disk", verdict);
            let is_news = reports.has_changed().unwrap();
            reports.mark_unchanged();
            is_news
        };
        let failed = || Verdict::Failed("full".to_owned());
        let runs = [Verdict::Ok, Verdict::Ok, failed(), failed(), Verdict::Ok, Verdict::Ok];
        assert_eq!(runs.map(&mut run), [true, false, true, true, true, false]);
        let report = board.reports().borrow().clone();
        assert_eq!((report.findings[0].run, report.findings[0].outcome()), (6, Outcome::Ok));
    }

    #[test]
    fn a_run_that_does_not_come_back_is_not_known() {
        let board = Board::new();
        board.add("disk", Basis::Own, Duration::ZERO);
        board.end("disk", Verdict::Ok);
        assert_eq!(board.lines()[0].verdict, Verdict::Ok);
        board.begin("disk");
        let later = Instant::now() + Duration::from_secs(1);
        assert_eq!(board.report(later).findings[0].outcome(), Outcome::Unknown);
        board.end("disk", Verdict::Ok);
        assert_eq!(board.report(later).findings[0].outcome(), Outcome::Ok);
    }
}
