//! What nodes say of their health: under whose name it arrives, and what becomes of what is wrong, too much, or read too late.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fleet::admission::Limits;
use fleet::tls::Credentials;
use fleet_api::encode;
use fleet_api::message::{Finding, FromNode, Outcome, Report, ToFleet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::bad_input::{NOW, handshake, hello};
use crate::fixture::{Authority, Node, Running, SOON, in_namespace};

pub(crate) fn report(outcome: Outcome, run: u64) -> Report {
    let finding = Finding { check: "disk_var".to_owned(), outcome: outcome.into(), seen: "x".repeat(10), run, ..Finding::default() };
    Report { findings: vec![finding], ..Report::default() }
}

pub(crate) fn frame(report: Report) -> Vec<u8> {
    encode(&ToFleet { message: Some(FromNode::Report(report)) }).to_vec()
}

/// A node's connection, without the client that behaves.
pub(crate) async fn connected(credentials: &Credentials, node: &str, address: SocketAddr) -> TlsStream<TcpStream> {
    let mut stream = handshake(fleet::tls::client(credentials).unwrap(), address).await.unwrap();
    stream.write_all(&hello(node, NOW)).await.unwrap();
    timeout(SOON, stream.read_u8()).await.unwrap().unwrap();
    stream
}

pub(crate) async fn until(what: &str, is: impl Fn() -> bool) {
    let seen = timeout(SOON, async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(seen.await.is_ok(), "{what}");
}

#[test]
fn a_report_arrives_under_the_certificates_name_and_the_newest_is_what_a_slow_reader_has() {
    in_namespace(|| async {
        let authority = Authority::new();
        let replica = Running::start(&authority, Limits::default()).await;
        let mut reader = replica.server.reports().read();
        let (told, reports) = watch::channel(report(Outcome::Ok, 1));
        let node = Node::reporting(&authority.node("a"), "a", &[replica.address], reports);
        let first = timeout(SOON, reader.next()).await.unwrap();
        assert_eq!(first, ("a".to_owned(), report(Outcome::Ok, 1)), "told as soon as it is connected");
        // Nobody reads while these come.
        let heard = || replica.server.counters().reports.load(Ordering::Relaxed);
        for run in 2..=4 {
            told.send_replace(report(Outcome::Failed, run));
            until("each is heard", || heard() >= run).await;
        }
        assert_eq!(reader.try_next(), Some(("a".to_owned(), report(Outcome::Failed, 4))));
        assert_eq!(reader.try_next(), None);
        node.stop().await;
    });
}

#[test]
fn what_is_no_report_is_passed_over_or_ends_who_says_it_and_nobody_else() {
    in_namespace(|| async {
        let authority = Authority::new();
        let replica = Running::start(&authority, Limits::default()).await;
        replica.serve(2, "default/web", 80);
        let mut reader = replica.server.reports().read();
        let (told, reports) = watch::channel(report(Outcome::Ok, 1));
        let good = Node::reporting(&authority.node("good"), "good", &[replica.address], reports);
        good.sees("default/web", 80).await;
        let bad = authority.node("bad");
        // Too many findings, and one about itself that names a peer: passed over, and the connection stays.
        let mut stream = connected(&bad, "bad", replica.address).await;
        let many = Report { findings: vec![Finding { check: "x".to_owned(), ..Finding::default() }; 100], ..Report::default() };
        let liar = Report {
            findings: vec![Finding { check: "x".to_owned(), peer: "good".to_owned(), ..Finding::default() }],
            ..Report::default()
        };
        stream.write_all(&[frame(many), frame(liar)].concat()).await.unwrap();
        let counters = replica.server.counters();
        until("both are counted", || counters.bad_reports.load(Ordering::Relaxed) == 2).await;
        stream.write_all(&frame(report(Outcome::Failed, 7))).await.unwrap();
        let heard = async {
            loop {
                let (node, report) = reader.next().await;
                if node == "bad" {
                    return report;
                }
            }
        };
        assert_eq!(timeout(SOON, heard).await.unwrap(), report(Outcome::Failed, 7));
        // A frame of a megabyte, and one of no message: the end of that connection.
        for bytes in [vec![0, 16, 0, 0], vec![0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]] {
            let mut stream = connected(&bad, "bad", replica.address).await;
            stream.write_all(&bytes).await.unwrap();
            let mut rest = Vec::new();
            let ended = timeout(SOON, stream.read_to_end(&mut rest)).await;
            assert!(ended.is_ok(), "closed by the replica");
        }
        told.send_replace(report(Outcome::Failed, 2));
        let (node, heard) = timeout(SOON, reader.next()).await.unwrap();
        assert_eq!((&*node, heard), ("good", report(Outcome::Failed, 2)));
        assert_eq!(good.client.status().attempts, 1, "the one that behaves has not noticed");
        good.stop().await;
    });
}

#[test]
fn who_says_too_much_is_heard_at_the_pace_of_the_replica() {
    in_namespace(|| async {
        let authority = Authority::new();
        let replica = Running::start(&authority, Limits::default()).await;
        let mut reader = replica.server.reports().read();
        let mut stream = connected(&authority.node("a"), "a", replica.address).await;
        let begun = Instant::now();
        let flood: Vec<_> = (1..=6).flat_map(|run| frame(report(Outcome::Failed, run))).collect();
        stream.write_all(&flood).await.unwrap();
        until("all are heard", || replica.server.counters().reports.load(Ordering::Relaxed) == 6).await;
        assert!(begun.elapsed() >= Duration::from_millis(500), "six have five pauses between them: {:?}", begun.elapsed());
        assert_eq!(reader.try_next(), Some(("a".to_owned(), report(Outcome::Failed, 6))), "and none is lost that is the last");
    });
}
