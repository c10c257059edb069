//! What one replica says to the one that leads (ADR 37): a hello as a node's, then [`Forwarded`] after [`Forwarded`].

use bytes::Bytes;

use crate::message::{Forwarded, FromFleet, FromNode, Hello, NodeReport, ToFleet, ToNode, Versions, Welcome};
use crate::session::common;
use crate::{HELLO_MAX, NEWEST, OLDEST, Refusal, Replica, frame};

impl Forwarded {
    /// Reports of one message. With as many of the largest there may be it fits into a frame.
    pub const REPORTS_MAX: usize = (crate::FRAME_MAX / HELLO_MAX) / 2;
    /// Bytes of a node's name, as of a DNS name.
    pub const NAME_MAX: usize = 253;

    /// The first frame of a replica called `name`, of the cluster with this UID.
    #[must_use]
    pub fn hello(name: &str, cluster: &str, program: &str) -> Bytes {
        let hello = Hello {
            versions: Some(Versions { oldest: OLDEST, newest: NEWEST }),
            node: name.to_owned(),
            cluster: cluster.to_owned(),
            program: program.to_owned(),
            ..Hello::default()
        };
        frame::encode(&ToFleet { message: Some(FromNode::Hello(hello)) })
    }

    /// Begins with what another replica says first: its name, and the answer.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn open(first: Option<FromNode>, replica: &Replica) -> Result<(String, Bytes), Refusal> {
        let Some(FromNode::Hello(hello)) = first else { return Err(Refusal::OutOfTurn("the first message was another")) };
        let version = common(&hello)?;
        if hello.cluster != replica.cluster() {
            return Err(Refusal::AnotherCluster { theirs: hello.cluster, ours: replica.cluster().to_owned() });
        }
        let welcome = Welcome { version, cluster: hello.cluster, replicas: Vec::new(), orders: false };
        Ok((hello.node, frame::encode(&FromFleet { message: Some(ToNode::Welcome(welcome)) })))
    }

    /// The reports that are of use, and how many are not.
    #[must_use]
    pub fn judged(self) -> (Vec<NodeReport>, usize) {
        let all = self.reports.len();
        let is_good = |said: &NodeReport| {
            (1..=Self::NAME_MAX).contains(&said.node.len()) && said.report.as_ref().is_some_and(|report| report.judge().is_ok())
        };
        let good: Vec<_> = self.reports.into_iter().filter(is_good).collect();
        let bad = all - good.len();
        (good, bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Finding, Report};
    use crate::{FRAME_MAX, Limits, decode, encode};

    #[test]
    fn the_largest_message_fits_into_a_frame_and_bad_reports_are_passed_over() {
        let long = Finding { check: "n".repeat(Report::NAME_MAX), seen: "x".repeat(Report::SEEN_MAX), run: u64::MAX, ..Finding::default() };
        let report = Report { findings: vec![long; Report::FINDINGS_MAX], ..Report::default() };
        let said = NodeReport { node: "n".repeat(Forwarded::NAME_MAX), report: Some(report) };
        let mut forwarded = Forwarded { nodes: u32::MAX, reports: vec![said; Forwarded::REPORTS_MAX] };
        let frame = encode(&ToFleet { message: Some(FromNode::Forwarded(forwarded.clone())) });
        assert!(frame.len() <= FRAME_MAX, "{}", frame.len());
        forwarded.reports[0].node.clear();
        forwarded.reports[1].report = None;
        let (good, bad) = forwarded.judged();
        assert_eq!((good.len(), bad), (Forwarded::REPORTS_MAX - 2, 2));
    }

    #[test]
    fn a_replica_of_another_cluster_is_refused() {
        let replica = Replica::new("ours", Vec::new(), Limits::default());
        let first = |cluster: &str| decode::<ToFleet>(&Forwarded::hello("a", cluster, "test")[4..]).unwrap().message;
        assert_eq!(Forwarded::open(first("ours"), &replica).unwrap().0, "a");
        assert!(matches!(Forwarded::open(first("theirs"), &replica), Err(Refusal::AnotherCluster { .. })));
        assert!(matches!(Forwarded::open(None, &replica), Err(Refusal::OutOfTurn(_))));
    }
}
