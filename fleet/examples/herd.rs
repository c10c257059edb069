//! What a replica costs with many nodes: the real server in one process, many real clients in another, loopback TLS, objects made up.
//!
//! `cargo xtask bench fleet [--nodes N] [--services N] [--endpoints N] [--json]` builds and runs it, in a network namespace of its own. No API server is
//! behind the replica: with one, it would be what is measured. Each node holds tables of its own, so that memory bounds nodes × endpoints.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "an experiment: where it fails, it ends")]

use std::io::{BufRead, Write};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet::admission::Limits;
use fleet::backoff::Backoff;
use fleet::client::{Client, Config, Identity};
use fleet::hub::Hub;
use fleet::server::Server;
use fleet::tls::{self, Credentials, SERVER_NAME};
use fleet_api::message::{Endpoint, Service, ServicePort, SliceHead};
use fleet_api::{Change, EndpointsKey, Kind, NodeState, Replica, Table};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use tokio::sync::watch;

const ADDRESS: &str = "127.0.0.1:7443";

fn endpoint(node: u64) -> Endpoint {
    Endpoint {
        ready: true,
        serving: true,
        node: format!("ip-10-0-0-{node}.ec2.internal"),
        zone: "us-east-1a".to_owned(),
        ..Endpoint::default()
    }
}

/// The endpoint that changes.
fn changing() -> Vec<u8> {
    EndpointsKey::Endpoint([0; 16], Ipv4Addr::from_bits(0x0a00_0000).into()).encode()
}

fn tables(services: u32, endpoints: u32, version: u64) -> [Table; 2] {
    let apply = |table: &mut Table, change: Change| {
        table.apply(change);
    };
    let (mut first, mut second) = (Table::default(), Table::default());
    for service in 0..services {
        let name = format!("namespace-{}/service-{service}", service % 100);
        let port = ServicePort { name: "http".to_owned(), port: 80, ..ServicePort::default() };
        let ip = (0x0a60_0000 + service).to_be_bytes().to_vec();
        apply(&mut first, Change::put(name.clone(), &Service { cluster_ips: vec![ip], ports: vec![port], ..Service::default() }));
        let uid = u128::from(service).to_be_bytes();
        apply(&mut second, Change::put(EndpointsKey::Slice(uid).encode(), &SliceHead { service: name, ports: Vec::new() }));
        for number in 0..endpoints {
            let address = Ipv4Addr::from_bits(0x0a00_0000 + service * endpoints + number);
            apply(&mut second, Change::put(EndpointsKey::Endpoint(uid, address.into()).encode(), &endpoint(u64::from(number))));
        }
    }
    apply(&mut second, Change::put(changing(), &endpoint(version)));
    [first, second]
}

/// One replica; each line of its standard input is a version at which the endpoint changes.
async fn serve(services: u32, endpoints: u32, version: u64, credentials: Credentials) {
    let mut replica = Replica::new("cluster", Vec::new(), fleet_api::Limits::default());
    for (kind, table) in Kind::ALL.into_iter().zip(tables(services, endpoints, version)) {
        replica.log_mut(kind).replace(version, table);
    }
    let hub = Arc::new(Hub::new(replica));
    let limits = Limits { per_address: u32::MAX, ..Limits::default() };
    let server = Arc::new(Server::new(Arc::clone(&hub), limits));
    let listener = tokio::net::TcpSocket::new_v4().unwrap();
    listener.set_reuseaddr(true).unwrap();
    listener.bind(ADDRESS.parse().unwrap()).unwrap();
    tokio::spawn(server.run(listener.listen(4_096).unwrap(), tls::server(&credentials).unwrap()));
    let changes = Arc::clone(&hub);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let version: u64 = line.unwrap().parse().unwrap();
            changes.change(|it| it.log_mut(Kind::Endpoints).record(version, vec![Change::put(changing(), &endpoint(version))]));
        }
        std::process::exit(0);
    });
    hub.tell().await;
}

fn certificates(nodes: usize) -> (Credentials, Vec<Credentials>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem().into_bytes();
    let (issuer, key) = (Issuer::new(params, key), KeyPair::generate().unwrap());
    let sign = |names: Vec<String>, name: &str, group: &str| {
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).unwrap().pem().into_bytes();
        Credentials { authority: authority.clone(), certificate, key: key.serialize_pem().into_bytes() }
    };
    let nodes = (0..nodes).map(|node| sign(Vec::new(), &format!("system:node:node-{node}"), "system:nodes")).collect();
    (sign(vec![SERVER_NAME.to_owned()], SERVER_NAME, "barewire"), nodes)
}

struct Served(Child);

impl Served {
    fn start(services: &str, endpoints: &str, version: u64, credentials: &Credentials) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["serve", services, endpoints, &version.to_string()]);
        for (name, value) in [("AUTHORITY", &credentials.authority), ("CERTIFICATE", &credentials.certificate), ("KEY", &credentials.key)] {
            command.env(name, String::from_utf8(value.clone()).unwrap());
        }
        Self(command.stdin(Stdio::piped()).spawn().unwrap())
    }

    fn change(&mut self, version: u64) {
        writeln!(self.0.stdin.as_ref().unwrap(), "{version}").unwrap();
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap()
    }

    fn rss_mb(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    fn cpu(&self) -> f64 {
        cpu_of(&self.proc("stat"))
    }
}

/// Seconds of a processor; a tick is a hundredth.
fn cpu_of(stat: &str) -> f64 {
    stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

/// The generator's.
fn own_cpu() -> f64 {
    cpu_of(&std::fs::read_to_string("/proc/self/stat").unwrap())
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits until every node has `version`: how long each took.
async fn everywhere(clients: &[Client], version: u64, since: Instant) -> Vec<Duration> {
    let value = prost::Message::encode_to_vec(&endpoint(version));
    let waits = clients.iter().cloned().map(|client| {
        let value = value.clone();
        tokio::spawn(async move {
            let mut changes = client.changes();
            while !client.view(|state| state.table(Kind::Endpoints).get(&changing()) == Some(&value) && state.is_complete()) {
                if tokio::time::timeout(Duration::from_secs(120), changes.changed()).await.is_err() {
                    panic!("{:?}", client.status());
                }
            }
            since.elapsed()
        })
    });
    let mut took = Vec::new();
    for wait in waits.collect::<Vec<_>>() {
        took.push(wait.await.unwrap());
    }
    took.sort();
    took
}

fn received(clients: &[Client]) -> u64 {
    clients.iter().map(|client| client.status().received_bytes).sum::<u64>() / clients.len() as u64
}

fn percentile(took: &[Duration], percent: usize) -> u128 {
    took[(took.len() * percent / 100).min(took.len() - 1)].as_millis()
}

async fn load(nodes: usize, services: &str, endpoints: &str, json: bool) {
    let mut figures = serde_json::Map::new();
    let mut figure = |name: &str, value: f64| {
        if !json {
            println!("{name:<44} {value}");
        }
        figures.insert(name.to_owned(), ((value * 1_000.0).round() / 1_000.0).into());
    };
    let (server, credentials) = certificates(nodes);
    let mut version = 10;
    let mut served = Served::start(services, endpoints, version, &server);
    let (_stop, stopped) = watch::channel(false);
    let started = Instant::now();
    let start = |(number, credentials): (usize, &Credentials)| {
        let client = Client::new(Config {
            identity: Identity::Fixed { node: format!("node-{number}"), tls: tls::client(credentials).unwrap() },
            replicas: vec![ADDRESS.to_owned()],
            file: None,
            save_after: Duration::from_secs(3_600),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            reports: None,
        });
        let (running, stopped) = (client.clone(), stopped.clone());
        tokio::spawn(async move { running.run(stopped).await });
        client
    };
    let clients: Vec<_> = credentials.iter().enumerate().map(start).collect();
    let took = everywhere(&clients, version, started).await;
    figure("nodes_per_replica", nodes as f64);
    figure("cold_sync_s", took[nodes - 1].as_secs_f64());
    figure("cold_sync_bytes_per_node", received(&clients) as f64);
    figure("cold_sync_server_cpu_s", served.cpu());

    let (cpu, from) = (served.cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    figure("idle_cores", (served.cpu() - cpu) / from.elapsed().as_secs_f64());
    let (mut latest, before) = (Vec::new(), received(&clients));
    for _ in 0..5 {
        version += 1;
        let since = Instant::now();
        served.change(version);
        latest.extend(everywhere(&clients, version, since).await);
    }
    latest.sort();
    figure("endpoint_to_all_nodes_p50_ms", percentile(&latest, 50) as f64);
    figure("endpoint_to_all_nodes_p99_ms", percentile(&latest, 99) as f64);
    figure("bytes_per_node_per_endpoint_change", (received(&clients) - before) as f64 / 5.0);
    let (cpu, own, from) = (served.cpu(), own_cpu(), Instant::now());
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..100 {
        ticks.tick().await;
        version += 1;
        served.change(version);
    }
    let last = everywhere(&clients, version, Instant::now()).await;
    let seconds = from.elapsed().as_secs_f64();
    figure("cores_at_20_changes_per_s", (served.cpu() - cpu) / seconds);
    figure("generator_cores_at_20_changes_per_s", (own_cpu() - own) / seconds);
    figure("endpoint_to_all_nodes_at_20_p99_ms", percentile(&last, 99) as f64);
    figure("rss_mb", served.rss_mb() as f64);

    drop(served);
    let (before, since) = (received(&clients), Instant::now());
    let mut served = Served::start(services, endpoints, version, &server);
    version += 1;
    served.change(version);
    let took = everywhere(&clients, version, since).await;
    figure("restart_resume_s", took[nodes - 1].as_secs_f64());
    figure("restart_resume_bytes_per_node", (received(&clients) - before) as f64);
    figure("restart_resume_server_cpu_s", served.cpu());
    figure("divergence", clients.iter().map(|client| client.view(NodeState::divergences)).sum::<u64>() as f64);
    if json {
        println!("{}", serde_json::Value::Object(figures));
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", services, endpoints, version] => {
            let variable = |name| std::env::var(name).unwrap().into_bytes();
            let credentials = Credentials { authority: variable("AUTHORITY"), certificate: variable("CERTIFICATE"), key: variable("KEY") };
            serve(services.parse().unwrap(), endpoints.parse().unwrap(), version.parse().unwrap(), credentials).await;
        }
        [nodes, services, endpoints] => load(nodes.parse().unwrap(), services, endpoints, false).await,
        [nodes, services, endpoints, "--json"] => load(nodes.parse().unwrap(), services, endpoints, true).await,
        _ => println!("herd NODES SERVICES ENDPOINTS-OF-EACH [--json]"),
    }
}
