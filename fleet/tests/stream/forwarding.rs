//! Two replicas: what nodes of either say reaches the one that leads, and the next; who is no replica speaks for nobody but itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fleet::acting::Heard;
use fleet::admission::Limits;
use fleet::forwarding::{Counters, Forwarder};
use fleet::tls;
use fleet_api::message::{Forwarded, FromFleet, FromNode, NodeReport, Outcome, Report as Said, ToFleet, ToNode};
use fleet_api::{Decoder, FRAME_MAX, decode, encode};
use fleet_plans::health::Verdict;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::bad_input::handshake;
use crate::fixture::{Authority, Node, Running, SOON, in_namespace};
use crate::health::{connected, frame, report, until};

/// A replica that hears reports while it leads, and forwards them otherwise.
struct Hears {
    replica: Running,
    leads: watch::Sender<bool>,
    leader: watch::Sender<Option<String>>,
    heard: mpsc::Receiver<(String, Heard)>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Hears {
    async fn start(authority: &Authority, name: &str) -> Self {
        let replica = Running::start(authority, Limits::default()).await;
        let credentials = authority.replica();
        let shown = Box::new(move || tls::client(&credentials).map_err(|error| error.to_string()));
        let counters = Arc::new(Counters::default());
        let forwarder = Forwarder::new(Arc::clone(&replica.server), name, "cluster", shown, Arc::clone(&counters));
        let ((leads, led), (leader, leading), (told, heard)) = (watch::channel(false), watch::channel(None), mpsc::channel(100));
        let task = tokio::spawn(forwarder.run(led, leading, told));
        Self { replica, leads, leader, heard, counters, task }
    }

    /// From now on this one leads.
    fn lead(&self) {
        self.leads.send_replace(true);
        self.leader.send_replace(None);
    }

    /// From now on another does.
    fn follow(&self, other: &Self) {
        self.leads.send_replace(false);
        self.leader.send_replace(Some(other.replica.address.to_string()));
    }

    /// Until `nodes` have been heard of, of each one verdict, in any order.
    async fn hears(&mut self, nodes: &[&str]) {
        let mut missing: Vec<_> = nodes.to_vec();
        let all = async {
            while !missing.is_empty() {
                let (node, Heard::Verdict(said)) = self.heard.recv().await.unwrap() else { continue };
                assert!(matches!(said.verdict, Verdict::Bad(_)) && said.node == node);
                missing.retain(|missing| *missing != node);
            }
        };
        // Well before the nodes say again what they have said.
        let all = timeout(Said::HEARTBEAT / 3, all).await;
        assert!(all.is_ok(), "not heard of: {missing:?}");
    }
}

impl Drop for Hears {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A node that has failed.
fn sick(authority: &Authority, name: &str, at: &Hears) -> (Node, watch::Sender<Said>) {
    let (told, reports) = watch::channel(report(Outcome::Failed, 1));
    (Node::reporting(&authority.node(name), name, &[at.replica.address], reports), told)
}

#[test]
fn reports_reach_the_leader_and_the_next_one_hears_what_was_said_last() {
    in_namespace(|| async {
        let authority = Authority::new();
        let (mut a, mut b) = (Hears::start(&authority, "a").await, Hears::start(&authority, "b").await);
        let (_at_a, of_a) = sick(&authority, "at-a", &a);
        let (_at_b, of_b) = sick(&authority, "at-b", &b);
        // Before anybody leads: the follower tries until the leader reads.
        b.follow(&a);
        until("it is refused", || a.replica.server.counters().refused.load(Ordering::Relaxed) > 0).await;
        assert!(!a.counters.reaches() && !b.counters.reaches());
        a.lead();
        a.hears(&["at-a", "at-b"]).await;
        assert!(a.counters.reaches() && b.counters.reaches());
        until("the streams of both count", || a.replica.server.connected_elsewhere() == 1).await;
        of_b.send_replace(report(Outcome::Failed, 2));
        a.hears(&["at-b"]).await;
        assert_eq!(a.replica.server.counters().forwarded_reports.load(Ordering::Relaxed), 2, "each once");

        // Another leads: nodes say nothing new, and all that they have said is heard.
        a.follow(&b);
        b.lead();
        b.hears(&["at-a", "at-b"]).await;
        of_a.send_replace(report(Outcome::Failed, 3));
        b.hears(&["at-a"]).await;
        assert!(a.heard.try_recv().is_err(), "one leader hears");
        until("nobody forwards to the first", || a.replica.server.forwarding() == 0).await;
    });
}

#[test]
fn a_replica_that_is_lost_is_silent_and_its_streams_are_missed() {
    in_namespace(|| async {
        let authority = Authority::new();
        let (mut a, b) = (Hears::start(&authority, "a").await, Hears::start(&authority, "b").await);
        let (_node, _told) = sick(&authority, "at-b", &b);
        a.lead();
        b.follow(&a);
        a.hears(&["at-b"]).await;
        until("its stream counts", || a.replica.server.connected_elsewhere() == 1).await;
        let since = Instant::now();
        drop(b);
        until("it does not count any more", || a.replica.server.connected_elsewhere() == 0).await;
        assert!(since.elapsed() >= Duration::from_secs(4), "one that comes back soon has not been away: {:?}", since.elapsed());
        assert!(a.heard.try_recv().is_err(), "nothing is said of its nodes");
    });
}

fn forwarded(node: &str) -> Vec<u8> {
    let reports = vec![NodeReport { node: node.to_owned(), report: Some(report(Outcome::Failed, 1)) }];
    encode(&ToFleet { message: Some(FromNode::Forwarded(Forwarded { nodes: 1_000, reports })) }).to_vec()
}

#[test]
fn a_node_speaks_for_itself_alone_and_a_replica_of_another_cluster_for_nobody() {
    in_namespace(|| async {
        let authority = Authority::new();
        let mut a = Hears::start(&authority, "a").await;
        a.lead();
        until("it reads", || a.counters.reaches()).await;
        let mut node = connected(&authority.node("liar"), "liar", a.replica.address).await;
        node.write_all(&[forwarded("victim"), frame(report(Outcome::Failed, 1))].concat()).await.unwrap();
        let (heard, _) = timeout(SOON, a.heard.recv()).await.unwrap().unwrap();
        assert_eq!((&*heard, a.replica.server.connected_elsewhere()), ("liar", 0));

        let mut stream = handshake(tls::client(&authority.replica()).unwrap(), a.replica.address).await.unwrap();
        let frames = [Forwarded::hello("c", "another", "test").to_vec(), forwarded("victim")].concat();
        stream.write_all(&frames).await.unwrap();
        let mut decoder = Decoder::new(FRAME_MAX);
        let refused = async {
            loop {
                assert!(stream.read_buf(decoder.buffer()).await.unwrap() > 0);
                if let Some(frame) = decoder.next_frame().unwrap() {
                    return decode::<FromFleet>(&frame).unwrap().message;
                }
            }
        };
        let Some(ToNode::Refused(refused)) = timeout(SOON, refused).await.unwrap() else { panic!("not refused") };
        assert!(refused.reason.contains("is of cluster \"another\""), "{}", refused.reason);
        assert!(a.heard.try_recv().is_err());

        // Who may serve and may not ask gets through no handshake.
        let server = authority.server(&[tls::SERVER_NAME], tls::SERVER_NAME);
        let mut stream = handshake(tls::client(&server).unwrap(), a.replica.address).await.unwrap();
        drop(stream.write_all(&Forwarded::hello("c", "cluster", "test")).await);
        let ended = timeout(SOON, stream.read_u8()).await.unwrap();
        assert!(ended.is_err_and(|error| error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())), "an alert of TLS");
    });
}
