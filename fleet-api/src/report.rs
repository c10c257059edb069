//! What a report may be: small, and of words that can be shown to anybody.

use std::time::Duration;

use crate::message::{About, Finding, Outcome, Report};

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
}

impl Report {
    /// Checks of the daemon, plug-ins and peers together.
    pub const FINDINGS_MAX: usize = 48;
    /// Bytes of a check's name.
    pub const NAME_MAX: usize = 64;
    /// Bytes of what was seen. With as many findings as there may be the report fits into a node's largest frame.
    pub const SEEN_MAX: usize = 200;
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
        self.findings.iter().try_for_each(Finding::judge)
    }

    /// Cuts what is too long, so that [`Self::judge`] has nothing to say of words and numbers.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.findings.truncate(Self::FINDINGS_MAX);
        for finding in &mut self.findings {
            let end = finding.seen.floor_char_boundary(Self::SEEN_MAX);
            finding.seen.truncate(end);
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

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::message::{FromNode, ToFleet};
    use crate::{HELLO_MAX, decode, encode};

    fn finding(check: &str, seen: &str) -> Finding {
        Finding { check: check.to_owned(), outcome: Outcome::Failed.into(), seen: seen.to_owned(), run: u64::MAX, ..Finding::default() }
    }

    fn report(findings: Vec<Finding>) -> Report {
        Report { findings }
    }

    #[test]
    fn what_is_too_long_is_cut_by_who_says_it_and_refused_by_who_hears_it() {
        let many = report(vec![finding(&"n".repeat(Report::NAME_MAX), &"é".repeat(5_000)); 200]);
        assert_eq!(many.judge(), Err(ReportFault::Findings(200)));
        let bounded = many.bounded();
        assert_eq!(bounded.judge(), Ok(()));
        let frame = encode(&ToFleet { message: Some(FromNode::Report(bounded)) });
        assert!(frame.len() <= HELLO_MAX, "{}", frame.len());
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
