//! What the checks have found last, for the page, the metrics and the fleet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fleet_api::message::{About, Finding, Outcome, Report};
use serde::Serialize;
use tokio::sync::watch;

use super::standing::{PreflightLine, Standing, State};
use crate::conditions::timestamp;
use crate::health_check::{Basis, Verdict};

/// The check of a finding about another node.
const PEER: &str = "peer";

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

/// What the page lists.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum PageLine {
    Check(Line),
    Preflight(PreflightLine),
}

/// Who is told of an entry beside the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Fleet,
    /// Its verdict has what is found: a node without pods is not sick by it.
    Preflight,
    /// What it finds has entries of its own.
    Nobody,
}

#[derive(Debug)]
struct Entry {
    basis: Basis,
    told: Told,
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

    fn new(basis: Basis, told: Told, limit: Duration) -> Self {
        let verdict = Verdict::Unknown("has not run yet".to_owned());
        Self { basis, told, limit, verdict, since: SystemTime::now(), runs: 0, took: Duration::ZERO, started: None }
    }

    fn line(&self, check: &str, now: Instant) -> Line {
        Line {
            check: check.to_owned(),
            basis: self.basis,
            verdict: self.verdict(now),
            since: timestamp(self.since),
            runs: self.runs,
            took_seconds: self.took.as_secs_f64(),
        }
    }

    fn end(&mut self, check: &str, verdict: Verdict) {
        if self.verdict.result() != verdict.result() {
            self.since = SystemTime::now();
            match &verdict {
                Verdict::Ok => tracing::info!(check, "health check passes"),
                Verdict::Failed(seen) => tracing::warn!(check, seen, "health check failed"),
                Verdict::Unknown(why) => tracing::info!(check, why, "health check cannot tell"),
            }
        }
        self.verdict = verdict;
        self.runs += 1;
        self.took = self.started.take().map(|started| started.elapsed()).unwrap_or_default();
    }
}

#[derive(Debug, Default)]
struct Standings {
    /// Of the checks that write now; none where the node does not look at itself.
    generation: Option<u64>,
    last: u64,
    entries: BTreeMap<String, Entry>,
    /// By the name of the other node.
    peers: BTreeMap<String, Entry>,
    preflight: Option<Standing>,
    /// Pods of the node.
    pods: Option<u32>,
}

/// Written by the checks' threads, read by whoever asks. Nobody waits in it.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<Standings>,
    told: watch::Sender<Report>,
}

impl Default for Board {
    fn default() -> Self {
        Self { state: Mutex::default(), told: watch::Sender::new(Report::default()) }
    }
}

/// The board for checks that were started together: once others are, what these say is passed over.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    board: Arc<Board>,
    generation: u64,
}

impl Board {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, Standings> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties it for other checks.
    pub(super) fn renew(self: &Arc<Self>) -> Writer {
        let mut state = self.lock();
        let generation = state.last + 1;
        *state = Standings { generation: Some(generation), last: generation, pods: state.pods, ..Standings::default() };
        Writer { board: Arc::clone(self), generation }
    }

    /// Nobody looks any more.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        *state = Standings { last: state.last, pods: state.pods, ..Standings::default() };
        drop(state);
        self.tell();
    }

    /// The node has so many pods. That is no news: the next report has it, whatever that is made for.
    pub(crate) fn has_pods(&self, pods: u32) {
        self.lock().pods = Some(pods);
        self.told.send_if_modified(|told| {
            told.pods = Some(pods);
            false
        });
    }

    /// What is bad is said with every run, what is not when it has changed.
    fn tell(&self) {
        let report = self.report(Instant::now());
        let without_runs = |report: &Report| {
            let mut report = Report { pods: None, ..report.clone() };
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
        let state = self.lock();
        let finding = |check: &str, peer: &str, entry: &Entry| {
            let verdict = entry.verdict(now);
            let about = match entry.basis {
                Basis::Own => About::Own,
                Basis::Probe => About::Probe,
                Basis::Peer => About::Peer,
            };
            let outcome = match verdict {
                Verdict::Ok => Outcome::Ok,
                Verdict::Failed(_) => Outcome::Failed,
                Verdict::Unknown(_) => Outcome::Unknown,
            };
            let (check, peer, seen) = (check.to_owned(), peer.to_owned(), verdict.message().to_owned());
            Finding { check, about: about.into(), peer, outcome: outcome.into(), seen, run: entry.runs }
        };
        let own = state.entries.iter().filter(|(_, entry)| entry.told == Told::Fleet);
        let of_peers = state.peers.iter().map(|(peer, entry)| finding(PEER, peer, entry));
        let findings = own.map(|(check, entry)| finding(check, "", entry)).chain(of_peers).collect();
        Report { findings, preflight: state.preflight.as_ref().map(Standing::told), pods: state.pods }.bounded()
    }

    /// The newest report, at once and with each that is news.
    pub(crate) fn reports(&self) -> watch::Receiver<Report> {
        self.told.subscribe()
    }

    /// All, the preflight first; nothing where the node does not look at itself.
    pub(crate) fn page(&self) -> Option<Vec<PageLine>> {
        let state = self.lock();
        state.generation?;
        let preflight = state.preflight.as_ref().map(Standing::line);
        let now = Instant::now();
        let peers: Vec<_> = state.peers.iter().map(|(peer, entry)| entry.line(&format!("{PEER}/{peer}"), now)).collect();
        drop(state);
        let checks = self.lines().into_iter().chain(peers).map(PageLine::Check);
        Some(preflight.map(PageLine::Preflight).into_iter().chain(checks).collect())
    }

    /// How many peers were found so, by the verdict's [`Verdict::result`].
    pub(crate) fn peers(&self, result: &str) -> usize {
        self.lock().peers.values().filter(|entry| entry.verdict.result() == result).count()
    }

    /// How the preflight stands.
    pub(crate) fn preflight(&self) -> Option<State> {
        self.lock().preflight.as_ref().map(|standing| standing.state)
    }

    /// For the page and the metrics, without peers: whom a node looks at changes, and metrics have as many series as there are checks.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let now = Instant::now();
        self.lock().entries.iter().map(|(check, entry)| entry.line(check, now)).collect()
    }
}

impl Writer {
    fn with(&self, change: impl FnOnce(&mut Standings)) {
        let mut state = self.board.lock();
        if state.generation == Some(self.generation) {
            change(&mut state);
        }
    }

    pub(super) fn is_current(&self) -> bool {
        self.board.lock().generation == Some(self.generation)
    }

    /// A check is there, and has not run.
    pub(super) fn add(&self, check: &str, basis: Basis, limit: Duration) {
        self.add_entry(check, Entry::new(basis, Told::Fleet, limit));
    }

    /// Likewise one whose finding is the preflight's.
    pub(super) fn add_for_preflight(&self, check: &str, limit: Duration) {
        self.add_entry(check, Entry::new(Basis::Own, Told::Preflight, limit));
    }

    /// Likewise one that looks at peers.
    pub(super) fn add_for_peers(&self, check: &str, limit: Duration) {
        self.add_entry(check, Entry::new(Basis::Probe, Told::Nobody, limit));
    }

    fn add_entry(&self, check: &str, entry: Entry) {
        self.with(|state| drop(state.entries.insert(check.to_owned(), entry)));
    }

    /// All that was found of peers, by name; others are peers no more. The fleet is told with the end of the check that has found it.
    pub(super) fn peers(&self, found: Vec<(String, Verdict)>) {
        self.with(|state| {
            let mut before = std::mem::take(&mut state.peers);
            for (peer, verdict) in found {
                let mut entry = before.remove(&peer).unwrap_or_else(|| Entry::new(Basis::Peer, Told::Fleet, Duration::MAX));
                entry.end(&format!("{PEER}/{peer}"), verdict);
                state.peers.insert(peer, entry);
            }
        });
    }

    pub(super) fn begin(&self, check: &str) {
        self.with(|state| {
            if let Some(entry) = state.entries.get_mut(check) {
                entry.started = Some(Instant::now());
            }
        });
    }

    pub(super) fn end(&self, check: &str, verdict: Verdict) {
        self.with(|state| {
            if let Some(entry) = state.entries.get_mut(check) {
                entry.end(check, verdict);
            }
        });
        self.board.tell();
    }

    /// The preflight stands so.
    pub(super) fn stand(&self, standing: Standing) {
        self.with(|state| {
            match (standing.state, state.preflight.as_ref()) {
                (now, Some(before)) if (now, standing.run) == (before.state, before.run) => {}
                (State::Waiting, _) => tracing::info!("preflight waits for the fleet's word"),
                (State::Running, _) => tracing::info!("preflight runs"),
                (State::Passed, _) => tracing::info!("preflight has passed"),
                (State::Failed, _) => tracing::warn!(evidence = standing.evidence.join("; "), "preflight failed"),
            }
            state.preflight = Some(standing);
        });
        self.board.tell();
    }

    /// Checks that keep a preflight from passing, those beside its own: each with what it has seen, or nothing where it has not looked yet.
    pub(super) fn open(&self) -> Vec<(String, Option<String>)> {
        let now = Instant::now();
        let open = |(check, entry): (&String, &Entry)| match entry.verdict(now) {
            Verdict::Failed(seen) => Some((check.clone(), Some(seen))),
            Verdict::Unknown(why) if entry.runs == 0 => {
                let is_late = entry.started.is_some_and(|started| now.saturating_duration_since(started) > entry.limit);
                Some((check.clone(), is_late.then_some(why)))
            }
            Verdict::Ok | Verdict::Unknown(_) => None,
        };
        self.board.lock().entries.iter().filter(|(_, entry)| entry.told != Told::Preflight).filter_map(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_news_when_something_changes_and_with_every_run_while_it_is_bad() {
        let board = Board::new();
        let writer = board.renew();
        writer.add("disk", Basis::Own, Duration::from_secs(5));
        let mut reports = board.reports();
        let mut run = |verdict: Verdict| {
            writer.begin("disk");
            writer.end("disk", verdict);
            let is_news = reports.has_changed().unwrap();
            reports.mark_unchanged();
            is_news
        };
        let failed = || Verdict::Failed("full".to_owned());
        let runs = [Verdict::Ok, Verdict::Ok, failed(), failed(), Verdict::Ok, Verdict::Ok];
        assert_eq!(runs.map(&mut run), [true, false, true, true, true, false]);
        let report = board.reports().borrow().clone();
        assert_eq!((report.findings[0].run, report.findings[0].outcome()), (6, Outcome::Ok));
        // How many pods there are is said by the way.
        board.has_pods(7);
        assert!(!reports.has_changed().unwrap());
        assert_eq!(reports.borrow().pods, Some(7));
        writer.end("disk", failed());
        assert_eq!((reports.has_changed().unwrap(), reports.borrow().pods), (true, Some(7)));
        board.close();
        assert_eq!(board.reports().borrow().pods, Some(7));
    }

    #[test]
    fn a_run_that_does_not_come_back_is_not_known() {
        let board = Board::new();
        let writer = board.renew();
        writer.add("disk", Basis::Own, Duration::ZERO);
        writer.end("disk", Verdict::Ok);
        assert_eq!(board.lines()[0].verdict, Verdict::Ok);
        writer.begin("disk");
        let later = Instant::now() + Duration::from_secs(1);
        assert_eq!(board.report(later).findings[0].outcome(), Outcome::Unknown);
        writer.end("disk", Verdict::Ok);
        assert_eq!(board.report(later).findings[0].outcome(), Outcome::Ok);
    }

    #[test]
    fn what_checks_of_before_say_is_passed_over() {
        let board = Board::new();
        assert_eq!(board.page(), None);
        let before = board.renew();
        before.add("disk", Basis::Own, Duration::ZERO);
        let now = board.renew();
        now.add("disk", Basis::Own, Duration::ZERO);
        before.end("disk", Verdict::Failed("old".to_owned()));
        assert!(!before.is_current() && now.is_current());
        assert_eq!((board.lines().len(), board.lines()[0].runs), (1, 0));
        board.close();
        now.end("disk", Verdict::Ok);
        assert_eq!((board.page(), board.reports().borrow().clone()), (None, Report::default()));
    }
}
