//! What a report may be: small, and of words that can be shown to anybody.

use std::time::Duration;

use prost::Message;

use crate::HELLO_MAX;
use crate::message::{About, Finding, Order, Outcome, Preflight, Report};

/// Bytes around a report in its frame, at most: lengths and a tag.
const AROUND: usize = 16;

/// Why a report is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportFault {
    /// More than a node has checks.
    #[error("{0} findings; at most {max} are allowed", max = Report::FINDINGS_MAX)]
    Findings(usize),
    /// A name that is none.
    #[error("a check called {0:?}: names are of 1 to {max} letters, digits, `_`, `-`, `.` and `/`", max = Report::NAME_MAX)]
    Name(String),
    /// One that is about another node, and does not say which, or the other way round.
    #[error("a finding of {0:?} with the peer {1:?}: only what is about a peer names one, of at most 253 bytes")]
    Peer(String, String),
    /// More words than anybody reads.
    #[error("{0:?} has seen {1} bytes; at most {max} are allowed", max = Report::SEEN_MAX)]
    Seen(String, usize),
    /// A boot that is none.
    #[error("a preflight of the boot {0:?}: it is named by 1 to {max} letters, digits and `-`", max = Report::NAME_MAX)]
    Boot(String),
    /// More of it than anybody reads.
    #[error("a preflight has seen {0}; at most {lines} lines of {max} bytes are allowed", lines = Report::EVIDENCE_MAX, max = Report::SEEN_MAX)]
    Evidence(String),
    /// Measured with more than it may be, or with nobody that has a name.
    #[error("a preflight has measured with {0} nodes; at most {max} with names of 1 to 253 bytes are allowed", max = Order::MAX)]
    Measured(usize),
}

impl Report {
    /// Checks of the daemon, plug-ins and peers together.
    pub const FINDINGS_MAX: usize = 48;
    /// Bytes of a check's name.
    pub const NAME_MAX: usize = 64;
    /// Bytes of what was seen. With as many findings as there may be, and names of peers as they are, the report fits into a node's largest frame.
    pub const SEEN_MAX: usize = 200;
    /// Lines of what a preflight has seen, each as long as what a check has.
    pub const EVIDENCE_MAX: usize = 4;
    /// Between two reports of a node: what is bad is said again this often, as long as it is.
    pub const AGAIN: Duration = Duration::from_millis(500);
    /// Between two of which the second says nothing new.
    pub const HEARTBEAT: Duration = Duration::from_secs(30);

    /// Whether anything is bad.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.findings.iter().any(|finding| finding.outcome() == Outcome::Failed)
    }

    /// Judges what another has sent. Findings about the future's kinds of subjects and outcomes read as `Own` and `Unknown`.
    ///
    /// # Errors
    /// See [`ReportFault`].
    pub fn judge(&self) -> Result<(), ReportFault> {
        if self.findings.len() > Self::FINDINGS_MAX {
            return Err(ReportFault::Findings(self.findings.len()));
        }
        self.findings.iter().try_for_each(Finding::judge)?;
        self.preflight.as_ref().map_or(Ok(()), Preflight::judge)
    }

    /// Cuts what is too long, so that [`Self::judge`] has nothing to say of words and numbers.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.findings.truncate(Self::FINDINGS_MAX);
        self.findings.iter_mut().for_each(|finding| cut(&mut finding.seen));
        if let Some(preflight) = &mut self.preflight {
            preflight.evidence.truncate(Self::EVIDENCE_MAX);
            preflight.evidence.iter_mut().for_each(cut);
            preflight.measured.truncate(Order::MAX);
        }
        // Names of peers may be so long that not all of it is a frame.
        while self.encoded_len() > HELLO_MAX - AROUND {
            self.findings.pop();
        }
        self
    }
}

impl Finding {
    fn judge(&self) -> Result<(), ReportFault> {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
        if !(1..=Report::NAME_MAX).contains(&self.check.len()) || !self.check.bytes().all(is_letter) {
            return Err(ReportFault::Name(short(&self.check)));
        }
        let is_about_peer = self.about() == About::Peer;
        if is_about_peer == self.peer.is_empty() || self.peer.len() > 253 {
            return Err(ReportFault::Peer(self.check.clone(), short(&self.peer)));
        }
        if self.seen.len() > Report::SEEN_MAX {
            return Err(ReportFault::Seen(self.check.clone(), self.seen.len()));
        }
        Ok(())
    }
}

impl Preflight {
    fn judge(&self) -> Result<(), ReportFault> {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(1..=Report::NAME_MAX).contains(&self.boot.len()) || !self.boot.bytes().all(is_letter) {
            return Err(ReportFault::Boot(short(&self.boot)));
        }
        if self.evidence.len() > Report::EVIDENCE_MAX {
            return Err(ReportFault::Evidence(format!("{} lines", self.evidence.len())));
        }
        if let Some(line) = self.evidence.iter().find(|line| line.len() > Report::SEEN_MAX) {
            return Err(ReportFault::Evidence(format!("a line of {} bytes", line.len())));
        }
        if self.measured.len() > Order::MAX || self.measured.iter().any(|measured| !(1..=253).contains(&measured.peer.len())) {
            return Err(ReportFault::Measured(self.measured.len()));
        }
        Ok(())
    }
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(Report::SEEN_MAX));
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{FromNode, Measured, Peers, PreflightState, ToFleet};
    use crate::{decode, encode};

    fn finding(check: &str, seen: &str) -> Finding {
        Finding { check: check.to_owned(), outcome: Outcome::Failed.into(), seen: seen.to_owned(), run: u64::MAX, ..Finding::default() }
    }

    fn report(findings: Vec<Finding>) -> Report {
        Report { findings, ..Report::default() }
    }

    fn preflight(boot: &str, evidence: &[&str]) -> Preflight {
        let evidence = evidence.iter().map(|line| (*line).to_owned()).collect();
        let (state, boot) = (PreflightState::Failed.into(), boot.to_owned());
        Preflight { state, boot, since_seconds: u64::MAX, evidence, run: u64::MAX, hears: true, measured: Vec::new() }
    }

    #[test]
    fn what_is_too_long_is_cut_by_who_says_it_and_refused_by_who_hears_it() {
        let mut many = report(vec![finding(&"n".repeat(Report::NAME_MAX), &"é".repeat(5_000)); 200]);
        many.pods = Some(u32::MAX);
        let about_peer = |finding: &mut Finding| (finding.about, finding.peer) = (About::Peer.into(), "p".repeat(253));
        many.findings[..Peers::MAX].iter_mut().for_each(about_peer);
        many.preflight = Some(preflight(&"b".repeat(Report::NAME_MAX), &[&*"é".repeat(5_000); 200]));
        assert_eq!(many.judge(), Err(ReportFault::Findings(200)));
        let bounded = many.bounded();
        assert_eq!(bounded.judge(), Ok(()));
        let frame = encode(&ToFleet { message: Some(FromNode::Report(bounded)) });
        assert!((HELLO_MAX - 600..=HELLO_MAX).contains(&frame.len()), "{}", frame.len());
        for (bad, words) in [
            (finding("", ""), "a check called \"\""),
            (finding("a b", ""), "a check called \"a b\""),
            (finding("über", ""), "a check called \"über\""),
            (finding("x", &"y".repeat(201)), "\"x\" has seen 201 bytes"),
            (Finding { about: About::Peer.into(), ..finding("ping", "") }, "with the peer \"\""),
            (Finding { peer: "b".to_owned(), ..finding("disk", "") }, "with the peer \"b\""),
        ] {
            let said = report(vec![finding("good", ""), bad]).judge().unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn only_what_failed_is_bad() {
        let said = |outcome: Outcome| report(vec![Finding { outcome: outcome.into(), ..finding("x", "") }]).is_bad();
        assert_eq!([Outcome::Unknown, Outcome::Ok, Outcome::Failed].map(said), [false, false, true]);
        // A later version's outcome is not known.
        assert!(!report(vec![Finding { outcome: 9, ..finding("x", "") }]).is_bad());
    }

    #[test]
    fn a_preflight_is_of_a_boot_and_of_few_words() {
        let judged = |preflight| Report { preflight: Some(preflight), ..Report::default() }.judge();
        assert_eq!(judged(preflight("0d6b8a0e-5a0e-4f43-9a57-6c2b7b6c3c1d", &["disk_root: full"])), Ok(()));
        let long = "x".repeat(201);
        for (bad, words) in [
            (preflight("", &[]), "the boot \"\""),
            (preflight("a b", &[]), "the boot \"a b\""),
            (preflight(&long, &[]), "the boot \"xxx"),
            (preflight("b", &["x"; 5]), "has seen 5 lines"),
            (preflight("b", &[&long]), "a line of 201 bytes"),
            (Preflight { measured: vec![Measured::default()], ..preflight("b", &[]) }, "has measured with 1 nodes"),
        ] {
            let said = judged(bad).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
        // A later version's state is not known.
        assert_eq!(Preflight { state: 9, ..Preflight::default() }.state(), PreflightState::Unknown);
    }

    /// A report before there was a preflight in it.
    #[derive(Clone, PartialEq, Message)]
    struct ReportBefore {
        #[prost(message, repeated, tag = "1")]
        findings: Vec<Finding>,
    }

    #[test]
    fn a_preflight_is_passed_over_by_the_version_before_whose_reports_have_none() {
        let findings = vec![finding("disk", "full")];
        let now = Report { preflight: Some(preflight("b", &["disk: full"])), ..report(findings.clone()) };
        assert_eq!(ReportBefore::decode(&*now.encode_to_vec()).unwrap().findings, findings);
        let before = ReportBefore { findings: findings.clone() }.encode_to_vec();
        assert_eq!(Report::decode(&*before).unwrap(), report(findings));
    }

    /// What a node could say before there were reports.
    #[derive(Clone, PartialEq, Message)]
    struct Before {
        #[prost(message, optional, tag = "3")]
        seen: Option<crate::message::Seen>,
    }

    #[test]
    fn a_replica_of_the_version_before_passes_a_report_over() {
        let frame = encode(&ToFleet { message: Some(FromNode::Report(report(vec![finding("disk", "full")]))) });
        assert_eq!(decode::<Before>(&frame[4..]).unwrap(), Before { seen: None });
    }
}
