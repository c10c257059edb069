//! What nodes report, as the state machine of health hears it: one verdict for each look of a check, however often the look is told.

use std::collections::HashMap;
use std::sync::Arc;

use fleet_api::message::{self, Outcome, PreflightState};
use fleet_plans::health::{About, Report, Verdict};
use fleet_plans::preflight::{Said, State};
use tokio::sync::mpsc;

use crate::reports::Reports;

/// Nodes whose last looks are remembered; beyond that all are forgotten, and a look that is told again then counts once more.
const NODES_MAX: usize = 50_000;

/// What a node has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A check has looked.
    Verdict(Report),
    /// How far it is before its first pod.
    Preflight(Said),
    /// How many pods it has.
    Pods(u32),
}

/// Hands on what nodes report, for as long as this replica leads: the caller ends it. Ends by itself when nobody hears.
pub(crate) async fn hear(reports: &Arc<Reports>, told: &mpsc::Sender<(String, Heard)>) {
    // What another leader has heard is not this one's.
    let (mut reader, mut looks) = (reports.read(), Looks::default());
    loop {
        let (node, report) = reader.next().await;
        for heard in looks.heard(&node, report) {
            if told.send((node.clone(), heard)).await.is_err() {
                return;
            }
        }
    }
}

/// By node: which look of each check was heard last.
#[derive(Debug, Default)]
struct Looks(HashMap<String, HashMap<(String, String), u64>>);

impl Looks {
    /// What is news of a report.
    fn heard(&mut self, node: &str, report: message::Report) -> Vec<Heard> {
        // What is told again is the same: the state machine keeps the newest.
        let preflight = report.preflight.clone().and_then(said).map(Heard::Preflight);
        let pods = report.pods.map(Heard::Pods);
        self.verdicts(node, report).into_iter().map(Heard::Verdict).chain(preflight).chain(pods).collect()
    }

    /// What was looked at since the node's last report. What could not be told is neither good nor bad, and what is about nobody that this
    /// version knows is passed over.
    fn verdicts(&mut self, node: &str, report: message::Report) -> Vec<Report> {
        if self.0.len() >= NODES_MAX && !self.0.contains_key(node) {
            self.0.clear();
        }
        let known = self.0.entry(node.to_owned()).or_default();
        let before = std::mem::take(known);
        let mut verdicts = Vec::new();
        for finding in report.findings {
            let key = (finding.check.clone(), finding.peer.clone());
            let is_new = before.get(&key) != Some(&finding.run);
            known.insert(key, finding.run);
            let about = match message::About::try_from(finding.about) {
                Ok(message::About::Own) => About::Own,
                Ok(message::About::Probe) => About::Probe,
                Ok(message::About::Peer) => About::Peer(finding.peer),
                Err(_) => continue,
            };
            let verdict = match Outcome::try_from(finding.outcome) {
                Ok(Outcome::Ok) => Verdict::Good,
                Ok(Outcome::Failed) => Verdict::Bad(finding.seen),
                Ok(Outcome::Unknown) | Err(_) => continue,
            };
            if is_new {
                verdicts.push(Report { node: node.to_owned(), about, check: finding.check, verdict });
            }
        }
        verdicts
    }
}

/// A state that this version does not know says nothing.
fn said(preflight: message::Preflight) -> Option<Said> {
    let state = match preflight.state() {
        PreflightState::Unknown => return None,
        PreflightState::Waiting => State::Waiting,
        PreflightState::Running => State::Running,
        PreflightState::Passed => State::Passed,
        PreflightState::Failed => State::Failed,
    };
    let message::Preflight { boot, evidence, run, hears, .. } = preflight;
    Some(Said { state, boot, evidence, run, hears })
}

#[cfg(test)]
mod tests {
    use fleet_api::message::Finding;

    use super::*;

    fn report(findings: &[(&str, Outcome, u64)]) -> message::Report {
        let finding = |(check, outcome, run): &(&str, Outcome, u64)| Finding {
            check: (*check).to_owned(),
            outcome: (*outcome).into(),
            run: *run,
            seen: "seen".to_owned(),
            ..Finding::default()
        };
        message::Report { findings: findings.iter().map(finding).collect(), ..message::Report::default() }
    }

    #[test]
    fn a_look_counts_once_however_often_it_is_told() {
        let mut looks = Looks::default();
        let mut heard = |findings: &[_]| -> Vec<_> {
            let verdicts = looks.verdicts("n", report(findings)).into_iter();
            verdicts.map(|said| (said.check, matches!(said.verdict, Verdict::Bad(_)))).collect()
        };
        let bad = |check: &str| (check.to_owned(), true);
        assert_eq!(heard(&[("uplink", Outcome::Failed, 1), ("clock", Outcome::Ok, 1)]), [bad("uplink"), ("clock".to_owned(), false)]);
        assert_eq!(heard(&[("uplink", Outcome::Failed, 1), ("clock", Outcome::Ok, 1)]), [], "a heartbeat");
        assert_eq!(heard(&[("uplink", Outcome::Failed, 2), ("clock", Outcome::Unknown, 2)]), [bad("uplink")]);
        assert_eq!(heard(&[("uplink", Outcome::Failed, 1)]), [bad("uplink")], "the node's daemon was started anew");
    }

    #[test]
    fn what_is_said_of_a_preflight_is_handed_on_and_a_state_of_the_future_is_not() {
        let heard = |state: i32| {
            let (boot, evidence) = ("b".to_owned(), vec!["disk: slow".to_owned()]);
            let preflight = message::Preflight { state, boot, since_seconds: 1, evidence, run: 7, hears: true, measured: Vec::new() };
            Looks::default().heard("n", message::Report { preflight: Some(preflight), ..message::Report::default() })
        };
        let evidence = || vec!["disk: slow".to_owned()];
        let said = |state| [Heard::Preflight(Said { state, boot: "b".to_owned(), evidence: evidence(), run: 7, hears: true })];
        assert_eq!(heard(PreflightState::Waiting.into()), said(State::Waiting));
        assert_eq!(heard(PreflightState::Running.into()), said(State::Running));
        assert_eq!(heard(PreflightState::Passed.into()), said(State::Passed));
        assert_eq!(heard(PreflightState::Failed.into()), said(State::Failed));
        assert_eq!((heard(0), heard(9)), (vec![], vec![]));
    }

    #[tokio::test]
    async fn reports_are_handed_on_until_nobody_hears() {
        let reports = Arc::new(Reports::default());
        reports.put("n", report(&[("uplink", Outcome::Failed, 1)]));
        let (told, mut heard) = mpsc::channel(8);
        let hearing = {
            let reports = Arc::clone(&reports);
            tokio::spawn(async move { hear(&reports, &told).await })
        };
        let limit = std::time::Duration::from_secs(10);
        let verdict = Verdict::Bad("seen".to_owned());
        let said = Report { node: "n".to_owned(), about: About::Own, check: "uplink".to_owned(), verdict };
        let next = tokio::time::timeout(limit, heard.recv()).await.unwrap();
        assert_eq!(next, Some(("n".to_owned(), Heard::Verdict(said))));
        drop(heard);
        reports.put("n", report(&[("uplink", Outcome::Failed, 2)]));
        tokio::time::timeout(limit, hearing).await.unwrap().unwrap();
    }
}
