//! Everything wrong that can be sent to a replica: refused, in words where anybody can hear them, and nothing of others is lost.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fleet::admission::Limits;
use fleet::tls::{self, Credentials, SERVER_NAME};
use fleet_api::message::{FromFleet, FromNode, Hello, ToFleet, ToNode, Versions};
use fleet_api::{Decoder, FRAME_MAX, decode, encode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fixture::{Authority, Node, Running, SOON, in_namespace};

/// A handshake, without the client that behaves.
pub(crate) async fn handshake(config: Arc<rustls::ClientConfig>, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::try_from(SERVER_NAME).unwrap(), stream).await
}

/// Sends `bytes` and reads until a refusal or the end.
async fn refusal(credentials: &Credentials, address: SocketAddr, bytes: &[u8]) -> String {
    let heard = timeout(SOON, async {
        let mut stream = handshake(tls::client(credentials).unwrap(), address).await.unwrap();
        // A replica may have refused and closed before all was sent.
        drop(stream.write_all(bytes).await);
        drop(stream.flush().await);
        let mut decoder = Decoder::new(FRAME_MAX);
        while let Ok(1..) = stream.read_buf(decoder.buffer()).await {
            while let Some(frame) = decoder.next_frame().unwrap() {
                if let Some(ToNode::Refused(refused)) = decode::<FromFleet>(&frame).unwrap().message {
                    assert!(refused.retry_after_millis > 0);
                    return refused.reason;
                }
            }
        }
        "closed without a word".to_owned()
    });
    heard.await.unwrap()
}

pub(crate) fn hello(node: &str, versions: Versions) -> Vec<u8> {
    let hello = Hello { node: node.to_owned(), versions: Some(versions), ..Hello::default() };
    encode(&ToFleet { message: Some(FromNode::Hello(hello)) }).to_vec()
}

pub(crate) const NOW: Versions = Versions { oldest: 1, newest: 1 };

#[test]
fn who_asks_wrongly_is_refused_in_words() {
    in_namespace(|| async {
        let authority = Authority::new();
        let replica = Running::start(&authority, Limits::default()).await;
        replica.serve(2, "default/web", 80);
        let node = Node::start(&authority.node("a"), "a", &[replica.address], None);
        node.sees("default/web", 80).await;
        let b = authority.node("b");
        let (stranger, admin) = (authority.client("kubelet", "dev"), authority.client("ann", "system:masters"));
        for (credentials, bytes, words) in [
            (&b, hello("a", NOW), "the certificate is of node \"b\", and the hello of \"a\""),
            (&stranger, hello("a", NOW), "a certificate of \"kubelet\" in the groups [\"dev\"]"),
            (&admin, hello("a", NOW), "the certificate is of \"ann\", a person"),
            (&b, hello("b", Versions { oldest: 7, newest: 9 }), "speaks versions 7 to 9 of the protocol, this replica 1 to 1"),
            (&b, b"GET / HTTP/1.1\r\n\r\n".to_vec(), "a frame of 1195725856 bytes; at most 16384 are allowed"),
            (&b, [&[0, 0, 0, 4][..], &[0xff; 4]].concat(), "not a message of this protocol"),
            (&b, encode(&ToFleet { message: None }).to_vec(), "a hello is the first message"),
        ] {
            let reason = refusal(credentials, replica.address, &bytes).await;
            assert!(reason.contains(words), "{reason}");
        }
        replica.serve(3, "default/web", 81);
        node.sees("default/web", 81).await;
        assert_eq!(node.client.status().attempts, 1, "the one that behaves has not noticed");
        node.stop().await;
    });
}

#[test]
fn who_shows_no_certificate_of_the_authority_is_not_heard() {
    in_namespace(|| async {
        let (authority, strange) = (Authority::new(), Authority::new());
        let replica = Running::start(&authority, Limits::default()).await;
        let ours = authority.node("a").authority;
        // One with the right names, its authority's included, but another key; and one with nothing at all.
        let liar = tls::client(&Credentials { authority: ours.clone(), ..strange.node("a") }).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&ours).unwrap()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let nobody = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        for (config, alert) in [(liar, "DecryptError"), (nobody, "CertificateRequired")] {
            // In TLS 1.3 a client learns of it by what it reads after its own part of the handshake.
            let reached = async {
                let mut stream = handshake(config, replica.address).await?;
                drop(stream.write_all(&hello("a", NOW)).await);
                stream.read_u8().await
            };
            let error = timeout(SOON, reached).await.unwrap().unwrap_err();
            assert!(error.to_string().contains(alert) || error.kind() == std::io::ErrorKind::ConnectionReset, "{error}");
        }
        assert!(replica.server.nodes().is_empty());
        // And a node does not hear a replica of another authority.
        let node = Node::start(&strange.node("a"), "a", &[replica.address], None);
        let told = || node.client.status().last_error.is_some_and(|error| error.contains("invalid peer certificate"));
        node.until("the replica's certificate is refused", told).await;
        node.stop().await;
    });
}

#[test]
fn one_address_with_ten_thousand_connections_keeps_nobody_out() {
    in_namespace(|| async {
        let authority = Authority::new();
        let replica = Running::start(&authority, Limits::default()).await;
        replica.serve(2, "default/web", 80);
        // The first bytes of a handshake each, and never more. The first hundred, among them those that were let in, are kept.
        let mut open = VecDeque::new();
        for _ in 0..10_000 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
            let mut stream = timeout(SOON, socket.connect(replica.address)).await.unwrap().unwrap();
            drop(stream.write_all(b"\x16\x03\x01\x02\x00\x01").await);
            open.push_back(stream);
            if open.len() > 200 {
                open.remove(100);
            }
        }
        let node = Node::start(&authority.node("a"), "a", &[replica.address], None);
        node.sees("default/web", 80).await;
        let counters = replica.server.counters();
        assert!(counters.crowded.load(Ordering::Relaxed) >= 9_900, "{counters:?}");
        node.stop().await;
    });
}

#[test]
fn a_full_replica_says_so_and_the_node_finds_another() {
    in_namespace(|| async {
        let authority = Authority::new();
        let full = Running::start(&authority, Limits { nodes: 0, ..Limits::default() }).await;
        let other = Running::start(&authority, Limits::default()).await;
        other.serve(2, "default/web", 80);
        let reason = refusal(&authority.node("a"), full.address, &hello("a", NOW)).await;
        assert!(reason.contains("takes no more"), "{reason}");
        let node = Node::start(&authority.node("a"), "a", &[full.address, other.address], None);
        node.sees("default/web", 80).await;
        node.stop().await;
    });
}

#[test]
fn the_second_connection_of_a_node_takes_the_place_of_its_first() {
    in_namespace(|| async {
        let authority = Authority::new();
        let replica = Running::start(&authority, Limits { nodes: 1, ..Limits::default() }).await;
        replica.serve(2, "default/web", 80);
        // As after a power cut: the replica has not seen the end of the first.
        let credentials = authority.node("a");
        let mut half_open = handshake(tls::client(&credentials).unwrap(), replica.address).await.unwrap();
        half_open.write_all(&hello("a", NOW)).await.unwrap();
        timeout(SOON, half_open.read_u8()).await.unwrap().unwrap();
        let node = Node::start(&credentials, "a", &[replica.address], None);
        node.sees("default/web", 80).await;
        drop(half_open);
        replica.serve(3, "default/web", 81);
        node.sees("default/web", 81).await;
        assert_eq!(replica.server.nodes().len(), 1);
        node.stop().await;
    });
}
