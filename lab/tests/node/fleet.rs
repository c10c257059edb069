//! The daemon hears a replica of the fleet: what it is told arrives, stays when the replica, the file or the clock is not what it should be, and no
//! pod waits for any of it.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use fleet::admission::Limits;
use fleet::hub::Hub;
use fleet::server::Server;
use fleet::tls::{self, Credentials, SERVER_NAME};
use fleet_api::message::{Service, ServicePort};
use fleet_api::{Change, Kind, Replica, Saved, Table};
use lab::host::{Daemon, Host, Settings, Start};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::on_host;

const REPLICA: &str = "127.0.0.1:7443";

/// Signs a replica and nodes.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    fn sign(&self, dns: &[&str], name: &str, group: &str) -> Result<Credentials> {
        let mut params = CertificateParams::new(dns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem().into_bytes();
        Ok(Credentials { authority: self.pem.clone().into_bytes(), certificate, key: key.serialize_pem().into_bytes() })
    }

    /// The files of a node, its certificate and key in one as kubelet has them.
    pub(crate) fn write_node(&self, host: &Host, node: &str) -> Result<()> {
        let node = self.sign(&[], &format!("system:node:{node}"), "system:nodes")?;
        fs::write(host.path("fleet-ca.crt"), &node.authority)?;
        Ok(fs::write(host.path("kubelet.pem"), [node.certificate, node.key].concat())?)
    }
}

/// A replica in the host's namespace. It ends when it is dropped.
pub(crate) struct Running {
    hub: Arc<Hub>,
    server: Arc<Server>,
    _runtime: Runtime,
}

impl Running {
    pub(crate) fn start(host: &Host, authority: &Authority, cluster: &str) -> Result<Self> {
        // Threads are where they were begun.
        let _inside = host.netns().enter()?;
        let mut replica = Replica::new(cluster, vec![REPLICA.to_owned()], fleet_api::Limits::default());
        for kind in Kind::ALL {
            replica.log_mut(kind).replace(1, Table::default());
        }
        let hub = Arc::new(Hub::new(replica));
        let server = Arc::new(Server::new(Arc::clone(&hub), Limits::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let tls = tls::server(&authority.sign(&[SERVER_NAME], SERVER_NAME, "barewire")?)?;
        let listener = runtime.block_on(TcpListener::bind(REPLICA)).context("listen")?;
        let (teller, serving) = (Arc::clone(&hub), Arc::clone(&server));
        runtime.spawn(async move { teller.tell().await });
        runtime.spawn(serving.run(listener, tls));
        Ok(Self { hub, server, _runtime: runtime })
    }

    /// These changes are told.
    pub(crate) fn tell(&self, version: u64, kind: Kind, changes: Vec<Change>) {
        self.hub.change(|replica| replica.log_mut(kind).record(version, changes));
    }

    /// So many services are there from now on.
    fn serve(&self, version: u64, services: u32) {
        let put = |number| {
            let ports = vec![ServicePort { port: 80, ..ServicePort::default() }];
            Change::put(format!("default/web-{number}"), &Service { ports, ..Service::default() })
        };
        self.tell(version, Kind::Services, (0..services).map(put).collect());
    }
}

/// The section of a daemon's configuration.
pub(crate) fn keys(host: &Host) -> String {
    let path = |name| host.path(name).display().to_string();
    format!(
        "[fleet]\nreplicas = [\"{REPLICA}\"]\nauthority = {:?}\ncertificate = {:?}\nstate_file = {:?}\n",
        path("fleet-ca.crt"),
        path("kubelet.pem"),
        path("fleet/state"),
    )
}

fn start(host: &Host) -> Result<Daemon<'_>> {
    let daemon = host.spawn_with(Start { keys: &keys(host), ..Start::default() })?;
    daemon.wait_until_ready()?;
    Ok(daemon)
}

fn fleet_of(daemon: &Daemon<'_>) -> Result<Value> {
    Ok(serde_json::from_str::<Value>(&daemon.get("/status")?)?["fleet"].take())
}

fn sees(daemon: &Daemon<'_>, services: u32, connected: bool) -> Result<()> {
    daemon.wait_until("what the fleet tells", || {
        let fleet = fleet_of(daemon)?;
        ensure!(fleet["tables"]["services"]["entries"] == services && fleet["connected"] == connected, "{fleet:#}");
        Ok(())
    })
}

#[test]
fn what_the_fleet_tells_outlives_the_fleet_and_the_daemon() -> Result<()> {
    on_host(Settings::default(), |host| {
        let authority = Authority::new()?;
        authority.write_node(host, "a.example")?;
        let replica = Running::start(host, &authority, "cluster")?;
        replica.serve(2, 3);
        let daemon = start(host)?;
        sees(&daemon, 3, true)?;
        ensure!(replica.server.nodes().keys().eq(["a.example"]), "{:?}", replica.server.nodes());
        replica.serve(3, 4);
        sees(&daemon, 4, true)?;
        ensure!(daemon.metric("barewire_fleet_connected")? == 1.0);
        ensure!(daemon.metric("barewire_fleet_resource_version{table=\"services\"}")? == 3.0);
        daemon.stop()?;
        drop(replica);

        // Neither a fleet nor, for its TLS, a certificate.
        fs::remove_file(host.path("kubelet.pem"))?;
        let daemon = start(host)?;
        let fleet = fleet_of(&daemon)?;
        ensure!(fleet["tables"]["services"]["entries"] == 4, "at once, from the file: {fleet:#}");
        ensure!(fleet["age_seconds"].as_f64().is_some_and(|age| age < 60.0), "{fleet:#}");
        let (pod, _) = host.attached()?;
        host.call_for("DEL", &pod).run()?.silence()?;
        daemon.wait_until("why nothing is heard", || {
            let fleet = fleet_of(&daemon)?;
            ensure!(fleet["last_error"].as_str().is_some_and(|error| error.contains("kubelet.pem")), "{fleet:#}");
            Ok(())
        })?;

        // kubelet has its certificate now; the file's place in the stream is still good.
        let replica = Running::start(host, &authority, "cluster")?;
        replica.serve(3, 4);
        authority.write_node(host, "a.example")?;
        sees(&daemon, 4, true)?;
        let snapshots = replica.server.counters().snapshots.load(std::sync::atomic::Ordering::Relaxed);
        ensure!(snapshots == 0, "{snapshots} snapshots");
        daemon.stop()
    })
}

#[test]
fn a_damaged_file_a_full_disk_and_a_clock_that_is_off_cost_no_service_and_no_pod() -> Result<()> {
    on_host(Settings::default(), |host| {
        let authority = Authority::new()?;
        authority.write_node(host, "a.example")?;
        let replica = Running::start(host, &authority, "cluster")?;
        replica.serve(2, 3);
        fs::create_dir(host.path("fleet"))?;
        fs::write(host.path("fleet/state"), b"bwfleet\x01 and nothing of sense")?;
        let daemon = start(host)?;
        sees(&daemon, 3, true)?;
        daemon.wait_for_condition("FleetStateNotKept", "FileFailed", &["state: it is damaged", "fleet.state_file"])?;
        daemon.stop()?;
        ensure!(Saved::decode(&fs::read(host.path("fleet/state"))?).is_ok(), "it is replaced at the end");

        // An hour ahead: the age is nought, and nothing else is by the clock.
        let state = Saved::decode(&fs::read(host.path("fleet/state"))?)?.state;
        let later = SystemTime::now().duration_since(UNIX_EPOCH)? + Duration::from_secs(3_600);
        fs::write(host.path("fleet/state"), Saved::encode(&state, u64::try_from(later.as_millis())?))?;
        drop(replica);
        let daemon = start(host)?;
        let fleet = fleet_of(&daemon)?;
        ensure!(fleet["tables"]["services"]["entries"] == 3 && fleet["age_seconds"] == 0.0, "{fleet:#}");

        // A folder that takes nothing, as a full disk does.
        fs::remove_dir_all(host.path("fleet"))?;
        fs::write(host.path("fleet"), b"")?;
        let replica = Running::start(host, &authority, "cluster")?;
        replica.serve(3, 5);
        sees(&daemon, 5, true)?;
        daemon.wait_for_condition("FleetStateNotKept", "FileFailed", &["fleet/state"])?;
        let (pod, _) = host.attached()?;
        host.call_for("DEL", &pod).run()?.silence()?;
        fs::remove_file(host.path("fleet"))?;
        fs::create_dir(host.path("fleet"))?;
        daemon.wait_for_end_of("FleetStateNotKept")?;
        daemon.stop()
    })
}
