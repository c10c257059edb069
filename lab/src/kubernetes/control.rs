//! The control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler in one node of the lab.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::config::{ADDRESS, file, write_client};
use super::kubectl::Kubectl;
use super::pki::{self, Authority};
use super::{SERVICE_CIDRS, audit, pem};
use crate::command::wait_until;
use crate::error::{Error, Result};
use crate::node::{Node, Service};
use crate::world;

/// How long the API server may take to be ready: it makes its own objects first.
const READY: Duration = Duration::from_secs(120);

/// The first addresses of the services' ranges: the API server's own service.
const SERVICE: [&str; 2] = ["10.96.0.1", "fd00:20::1"];

/// The control plane of a cluster.
#[derive(Debug)]
pub(super) struct ControlPlane {
    node: Node,
    /// By program.
    services: BTreeMap<&'static str, Service>,
    is_audited: bool,
}

impl ControlPlane {
    /// Starts it in `node` and waits until the API server is ready.
    pub(super) fn start(node: &Node, authority: &Authority, is_audited: bool) -> Result<Self> {
        write_files(node, authority)?;
        audit::write_policy(node)?;
        let mut control = Self { node: node.clone(), services: BTreeMap::new(), is_audited };
        control.run("etcd", "etcd", &["--data-dir=/run/etcd", "--listen-peer-urls=http://127.0.0.1:2380", "--unsafe-no-fsync"])?;
        control.start_all_but_etcd()?;
        Ok(control)
    }

    /// Whether all of it runs.
    pub(super) fn is_complete(&self) -> bool {
        self.services.len() == 4 && self.services.values().all(Service::is_running)
    }

    /// Kills the API server, and those that end without it: controllers and scheduler give up their leadership, where there is more than one.
    pub(super) fn kill_all_but_etcd(&mut self) -> Result<()> {
        for program in ["kube-scheduler", "kube-controller-manager", "kube-apiserver"] {
            self.services.remove(program).map_or(Ok(()), Service::kill)?;
        }
        Ok(())
    }

    /// Starts them, and waits until the API server is ready.
    pub(super) fn start_all_but_etcd(&mut self) -> Result<()> {
        self.run_apiserver()?;
        self.wait_until_ready()?;
        let kubeconfig = |who: &str| format!("--kubeconfig={}", file(&format!("{who}.conf")));
        self.run(
            "kubernetes",
            "kube-controller-manager",
            &[
                &kubeconfig("kube-controller-manager"),
                "--leader-elect=false",
                "--use-service-account-credentials",
                // Addresses of pods are Barewire's business.
                "--allocate-node-cidrs=false",
                &format!("--service-account-private-key-file={}", file("sa.key")),
                &format!("--root-ca-file={}", file("ca.crt")),
                // A rebooted or silent node is noticed soon.
                "--node-monitor-grace-period=20s",
                "--concurrent-deployment-syncs=2",
                // With the default of 20 a second, the clean-up of 200 pods would be as long as its own limit.
                "--kube-api-qps=500",
                "--kube-api-burst=1000",
            ],
        )?;
        self.run("kubernetes", "kube-scheduler", &[&kubeconfig("kube-scheduler"), "--leader-elect=false"])
    }

    fn run(&mut self, module: &str, program: &'static str, arguments: &[&str]) -> Result<()> {
        let path = world::program(module, program)?;
        let path = path.to_string_lossy();
        let argv: Vec<&str> = std::iter::once(&*path).chain(arguments.iter().copied()).collect();
        self.services.insert(program, self.node.start_service(program, &argv)?);
        Ok(())
    }

    fn run_apiserver(&mut self) -> Result<()> {
        let audit = if self.is_audited { audit::arguments().to_vec() } else { Vec::new() };
        let arguments = [
            "--etcd-servers=http://127.0.0.1:2379",
            &format!("--advertise-address={ADDRESS}"),
            &format!("--service-cluster-ip-range={}", SERVICE_CIDRS.join(",")),
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            &format!("--client-ca-file={}", file("ca.crt")),
            &format!("--tls-cert-file={}", file("apiserver.crt")),
            &format!("--tls-private-key-file={}", file("apiserver.key")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            &format!("--service-account-signing-key-file={}", file("sa.key")),
            &format!("--service-account-key-file={}", file("sa.pub")),
            &format!("--kubelet-certificate-authority={}", file("ca.crt")),
            &format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
            &format!("--kubelet-client-key={}", file("kubelet-client.key")),
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged",
            // One server: nobody else holds the endpoints of its own service.
            "--endpoint-reconciler-type=master-count",
        ];
        let audit: Vec<&str> = audit.iter().map(String::as_str).collect();
        self.run("kubernetes", "kube-apiserver", &[&arguments[..], &audit].concat())
    }

    fn wait_until_ready(&self) -> Result<()> {
        let kubectl = Kubectl::new(&self.node)?;
        let ready = wait_until("the API server", READY, || {
            if let Some(ended) = self.services.values().find(|service| !service.is_running()) {
                return Err(format!("it has ended: {}", ended.log_tail(5)));
            }
            kubectl.run(&["get", "--raw", "/readyz"]).map(drop).map_err(|error| error.to_string())
        });
        ready.map_err(|error| {
            let logs = self.services.get("kube-apiserver").map(|service| service.log_tail(10)).unwrap_or_default();
            Error::Node { node: self.node.name().to_owned(), message: format!("{error}\n{logs}") }
        })
    }
}

fn write_files(node: &Node, authority: &Authority) -> Result<()> {
    let write = |name: &str, text: &str| node.write(&file(name), text);
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];
    let addresses: Vec<IpAddr> = [ADDRESS, "127.0.0.1"].into_iter().chain(SERVICE).filter_map(|address| address.parse().ok()).collect();
    let server = authority.server("kube-apiserver", &names, &addresses).map_err(pem)?;
    write("apiserver.crt", &server.certificate)?;
    write("apiserver.key", &server.key)?;
    let client = authority.client("kube-apiserver-kubelet-client", &["system:masters"]).map_err(pem)?;
    write("kubelet-client.crt", &client.certificate)?;
    write("kubelet-client.key", &client.key)?;
    let (private, public) = pki::key_pair().map_err(pem)?;
    write("sa.key", &private)?;
    write("sa.pub", &public)?;
    for (who, user, groups) in [
        ("admin", "admin", &["system:masters"][..]),
        ("kube-controller-manager", "system:kube-controller-manager", &[]),
        ("kube-scheduler", "system:kube-scheduler", &[]),
    ] {
        write_client(node, authority, who, &authority.client(user, groups).map_err(pem)?)?;
    }
    Ok(())
}
