//! A replica, an authority and nodes.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use conformance_tests::netns::Netns;
use fleet::admission::Limits;
use fleet::backoff::Backoff;
use fleet::client::{Client, Config, Identity};
use fleet::hub::Hub;
use fleet::server::Server;
use fleet::tls::{self, Credentials, SERVER_NAME};
use fleet_api::message::{Report, Service, ServicePort};
use fleet_api::{Change, Kind, Replica, Table};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// For what takes milliseconds.
pub(crate) const SOON: Duration = Duration::from_secs(20);

const DAY: Duration = Duration::from_secs(86_400);

/// Runs a test in a namespace where only loopback is.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let folder = tempfile::tempdir().unwrap();
    let namespace = match Netns::create(folder.path().join("net")) {
        Ok(namespace) => namespace,
        Err(error) => {
            assert!(std::env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "required, but {error}");
            println!("SKIP {error}");
            return;
        }
    };
    let _inside = namespace.enter().unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test());
}

/// Signs nodes and replicas.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn sign(&self, names: &[&str], name: &str, group: &str, usages: &[ExtendedKeyUsagePurpose], valid: Duration) -> Credentials {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = usages.to_vec();
        params.not_after = (SystemTime::now() + valid).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem().into_bytes();
        Credentials { authority: self.pem.clone().into_bytes(), certificate, key: key.serialize_pem().into_bytes() }
    }

    pub(crate) fn client(&self, name: &str, group: &str) -> Credentials {
        self.sign(&[], name, group, &[ExtendedKeyUsagePurpose::ClientAuth], DAY)
    }

    pub(crate) fn node(&self, node: &str) -> Credentials {
        self.client(&format!("system:node:{node}"), "system:nodes")
    }

    /// A node's, for so long.
    pub(crate) fn node_for(&self, node: &str, valid: Duration) -> Credentials {
        self.sign(&[], &format!("system:node:{node}"), "system:nodes", &[ExtendedKeyUsagePurpose::ClientAuth], valid)
    }

    pub(crate) fn server(&self, names: &[&str], name: &str) -> Credentials {
        self.sign(names, name, "barewire", &[ExtendedKeyUsagePurpose::ServerAuth], DAY)
    }

    /// A replica's: a server for nodes, and a client of the replica that leads.
    pub(crate) fn replica(&self) -> Credentials {
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&[SERVER_NAME], SERVER_NAME, "barewire", &usages, DAY)
    }
}

/// A replica that serves.
pub(crate) struct Running {
    pub(crate) hub: Arc<Hub>,
    pub(crate) server: Arc<Server>,
    pub(crate) address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// One that has read two empty lists, as of 1.
    pub(crate) async fn start(authority: &Authority, limits: Limits) -> Self {
        Self::telling(authority, limits, Vec::new()).await
    }

    /// One that tells of these replicas.
    pub(crate) async fn telling(authority: &Authority, limits: Limits, replicas: Vec<String>) -> Self {
        let mut replica = Replica::new("cluster", replicas, fleet_api::Limits::default());
        for kind in Kind::ALL {
            replica.log_mut(kind).replace(1, Table::default());
        }
        let hub = Arc::new(Hub::new(replica));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Server::new(Arc::clone(&hub), limits));
        let (teller, serving, tls) = (Arc::clone(&hub), Arc::clone(&server), tls::server(&authority.replica()).unwrap());
        let tasks =
            vec![tokio::spawn(async move { teller.tell().await }), tokio::spawn(async move { serving.run(listener, tls).await.unwrap() })];
        Self { hub, server, address, tasks }
    }

    pub(crate) fn snapshots(&self) -> u64 {
        self.server.counters().snapshots.load(Ordering::Relaxed)
    }

    /// A service with this port is there from now on.
    pub(crate) fn serve(&self, version: u64, name: &str, port: u32) {
        let service = Service { ports: vec![ServicePort { port, ..ServicePort::default() }], ..Service::default() };
        self.hub.change(|replica| replica.log_mut(Kind::Services).record(version, vec![Change::put(name, &service)]));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A client that runs, and ends with this.
pub(crate) struct Node {
    pub(crate) client: Client,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Node {
    pub(crate) fn start(credentials: &Credentials, node: &str, replicas: &[SocketAddr], file: Option<&Path>) -> Self {
        Self::with(credentials, node, replicas, file, None)
    }

    /// One that says how it is.
    pub(crate) fn reporting(credentials: &Credentials, node: &str, replicas: &[SocketAddr], reports: watch::Receiver<Report>) -> Self {
        Self::with(credentials, node, replicas, None, Some(reports))
    }

    fn with(
        credentials: &Credentials,
        node: &str,
        replicas: &[SocketAddr],
        file: Option<&Path>,
        reports: Option<watch::Receiver<Report>>,
    ) -> Self {
        let client = Client::new(Config {
            identity: Identity::Fixed { node: node.to_owned(), tls: tls::client(credentials).unwrap() },
            replicas: replicas.iter().map(ToString::to_string).collect(),
            file: file.map(Path::to_owned),
            save_after: Duration::from_millis(20),
            backoff: Backoff::new(Duration::from_millis(10), Duration::from_millis(100)),
            reports,
        });
        let (stop, stopped) = watch::channel(false);
        let running = client.clone();
        Self { client, stop, task: tokio::spawn(async move { running.run(stopped).await }) }
    }

    /// Until a service has this port.
    pub(crate) async fn sees(&self, name: &str, port: u32) {
        let sees = || self.client.view(|state| port_of(state, name) == Some(port));
        self.until(&format!("port {port} of {name}"), sees).await;
    }

    /// Until `is` is so, looked at with each change and now and then.
    pub(crate) async fn until(&self, what: &str, is: impl Fn() -> bool) {
        let mut changes = self.client.changes();
        let seen = tokio::time::timeout(SOON, async {
            while !is() {
                drop(tokio::time::timeout(Duration::from_millis(20), changes.changed()).await);
            }
        });
        assert!(seen.await.is_ok(), "{what}: {:?}", self.client.status());
    }

    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap();
    }
}

/// The first port of a service at a node.
pub(crate) fn port_of(state: &fleet_api::NodeState, name: &str) -> Option<u32> {
    let service: Service = fleet_api::decode(state.table(Kind::Services).get(name.as_bytes())?).unwrap();
    service.ports.first().map(|port| port.port)
}
