//! How long the webhook of admission takes to answer an API server: real connections over TLS, pods of 20 KB, a hundred teams.
//!
//! `cargo xtask bench admission [--json]` builds and runs it. The peer is a request without a body to a path that the same server does
//! not know: what TLS, HTTP and the machine take.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement: it may panic, and it prints")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleet::acting::TeamsFile;
use fleet::webhook::{Counters, Files, Webhook, router};
use fleet_plans::teams::Teams;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

/// API servers, each with a request under way.
const CLIENTS: usize = 5;
/// Of each client and path in a round; of so many rounds the median counts.
const REVIEWS: usize = 400;
const ROUNDS: usize = 5;
const MUST_MS: f64 = 5.0;

fn teams() -> Teams {
    let team = |number: usize| {
        let (name, namespaces) = (format!("team-{number}"), [format!("namespace-{number}")]);
        json!({ "name": name, "namespaces": namespaces, "lend": true, "nodes": [{ "pool": "p", "count": 1 }] })
    };
    let teams: Vec<_> = (0..100).map(team).collect();
    serde_json::from_value(json!({ "pools": [{ "name": "p", "matchLabels": { "pool": "p" } }], "teams": teams })).unwrap()
}

fn review() -> Bytes {
    let volumes: Vec<_> = (0..200).map(|number| json!({ "name": format!("{number:0>90}") })).collect();
    let tolerations = json!([{ "key": "gpu", "operator": "Exists" }]);
    let pod = json!({ "spec": { "containers": [{ "name": "c", "image": "i" }], "volumes": volumes, "tolerations": tolerations } });
    let resource = json!({ "group": "", "version": "v1", "resource": "pods" });
    let request = json!({ "uid": "u", "operation": "CREATE", "namespace": "namespace-42", "resource": resource, "object": pod });
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request }).to_string().into()
}

async fn connect(to: SocketAddr, connector: TlsConnector) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// How long each of many requests took, of one client.
async fn ask(sender: &mut SendRequest<Full<Bytes>>, path: &str, body: &Bytes) -> Vec<Duration> {
    let mut took = Vec::with_capacity(REVIEWS);
    for _ in 0..REVIEWS {
        let request = Request::post(path).header("host", "a").body(Full::new(body.clone())).unwrap();
        sender.ready().await.unwrap();
        let begun = Instant::now();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        took.push(begun.elapsed());
        match status {
            StatusCode::OK => {
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                assert!(answer["response"]["patch"].is_string(), "{answer}");
            }
            status => assert!(status == StatusCode::NOT_FOUND && path == "/nothing", "{path}: {status}"),
        }
    }
    took
}

/// Milliseconds: the median and the 99th percentile, of all clients at once.
async fn round(senders: &mut [SendRequest<Full<Bytes>>], path: &str, body: &Bytes) -> [f64; 2] {
    let asked = senders.iter_mut().map(|sender| ask(sender, path, body));
    let mut took = futures_util::future::join_all(asked).await.concat();
    took.sort_unstable();
    [took.len() / 2, took.len() * 99 / 100].map(|index| took[index].as_secs_f64() * 1e3)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[tokio::main]
async fn main() {
    let is_json = std::env::args().nth(1).as_deref() == Some("--json");
    let folder = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("crt"), folder.path().join("key"));
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let (_files, shows) = Files::read(&certificate, &key).unwrap();
    let webhook = Webhook::bind("127.0.0.1:0".parse().unwrap(), shows).await.unwrap();
    let address = webhook.address().unwrap();
    let (_file, file) = watch::channel(TeamsFile::of(teams()));
    tokio::spawn(webhook.run(router(file, Arc::new(Counters::default()))));

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certified.cert)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let mut senders = Vec::new();
    for _ in 0..CLIENTS {
        senders.push(connect(address, connector.clone()).await);
    }
    let paths = [("/mutate", review()), ("/nothing", Bytes::new())];
    let mut rounds: [Vec<[f64; 2]>; 2] = [Vec::new(), Vec::new()];
    for number in 0..=ROUNDS {
        for ((path, body), figures) in paths.iter().zip(&mut rounds) {
            let figure = round(&mut senders, path, body).await;
            // The first is for caches.
            if number > 0 {
                figures.push(figure);
            }
        }
    }
    let [mutate, nothing] = rounds.map(|figures| [0, 1].map(|which| median(figures.iter().map(|figure| figure[which]).collect())));
    let figures =
        [("admission_p50_ms", mutate[0]), ("admission_p99_ms", mutate[1]), ("empty_p50_ms", nothing[0]), ("empty_p99_ms", nothing[1])];
    if is_json {
        let object: serde_json::Map<_, _> = figures.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        println!("{}", Value::Object(object));
    } else {
        for (key, value) in figures {
            println!("{key:<20} {value:>8.3}");
        }
        println!("admission_p99_ms is to be at most {MUST_MS}: {}", if mutate[1] <= MUST_MS { "kept" } else { "missed" });
    }
}
