//! The last version's words, as bytes that it has said: today's replica answers its node, and today's node hears its replica.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use fleet::admission::Limits;
use fleet::tls;
use fleet_api::message::{FromFleet, FromNode, ToFleet, ToNode};
use fleet_api::{Decoder, FRAME_MAX, Kind, decode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::bad_input::handshake;
use crate::fixture::{Authority, Node, Running, SOON, in_namespace};
use crate::health::until;

const SAID: &str = include_str!("../../../fleet-api/tests/wire/said.txt");

/// What was said, as a frame.
fn said(name: &str) -> Vec<u8> {
    let hex = SAID.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("{name} was never said"));
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
}

/// The next frame, with its length.
async fn frame(stream: &mut (impl AsyncRead + Unpin), decoder: &mut Decoder) -> Bytes {
    let read = async {
        loop {
            if let Some(frame) = decoder.next_frame().unwrap() {
                return frame.freeze();
            }
            assert!(stream.read_buf(decoder.buffer()).await.unwrap() > 0, "the end");
        }
    };
    timeout(SOON, read).await.unwrap()
}

#[test]
fn a_node_of_the_last_version_is_served() {
    in_namespace(|| async {
        let authority = Authority::new();
        let replica = Running::telling(&authority, Limits::default(), vec!["10.0.0.1:7443".to_owned()]).await;
        replica.serve(20, "default/web", 80);
        let mut reader = replica.server.reports().read();
        let mut stream = handshake(tls::client(&authority.node("n1")).unwrap(), replica.address).await.unwrap();
        let mut decoder = Decoder::new(FRAME_MAX);
        stream.write_all(&said("hello")).await.unwrap();
        assert_eq!(frame(&mut stream, &mut decoder).await[..], said("welcome")[4..], "word for word");
        // What it had was of another table: a snapshot, and another when it asks.
        let mut piece = async |stream: &mut _| match decode::<FromFleet>(&frame(stream, &mut decoder).await).unwrap().message {
            Some(ToNode::Piece(piece)) => piece.at.unwrap(),
            other => panic!("{other:?}"),
        };
        let first = piece(&mut stream).await;
        assert_eq!((first.kind, first.resource_version), (Kind::Services.number(), 20));
        stream.write_all(&[said("seen"), said("report"), said("resync")].concat()).await.unwrap();
        assert_eq!(piece(&mut stream).await, first);
        let (node, report) = timeout(SOON, reader.next()).await.unwrap();
        assert_eq!((&*node, &*report.findings[0].peer), ("n1", "n2"));
        until("it is where it says", || replica.server.nodes()["n1"].seen.first().is_some_and(|at| at.resource_version == 7)).await;
        assert_eq!(replica.server.counters().bad_reports.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_replica_of_the_last_version_is_heard() {
    in_namespace(|| async {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(tls::server(&authority.replica()).unwrap());
        let node = Node::start(&authority.node("n1"), "n1", &[address], None);
        let (stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut decoder = Decoder::new(FRAME_MAX);
        let mut heard = async |stream: &mut _| decode::<ToFleet>(&frame(stream, &mut decoder).await).unwrap().message;
        let Some(FromNode::Hello(hello)) = heard(&mut stream).await else { panic!("no hello") };
        assert_eq!((&*hello.node, hello.versions.map(|versions| versions.oldest)), ("n1", Some(1)));
        for name in ["welcome", "snapshot", "delta", "directive", "checkpoint"] {
            stream.write_all(&said(name)).await.unwrap();
        }
        stream.flush().await.unwrap();
        let Some(FromNode::Seen(seen)) = heard(&mut stream).await else { panic!("no answer to a checkpoint") };
        let services = seen.positions.iter().find(|at| at.kind == Kind::Services.number()).unwrap();
        assert_eq!(services.resource_version, 7);
        node.sees("default/web", 80).await;
        assert_eq!(node.client.view(|state| state.directive().map(|directive| directive.number)), Some(4));
        assert_eq!(node.client.view(fleet_api::NodeState::divergences), 0);
        node.stop().await;
    });
}
