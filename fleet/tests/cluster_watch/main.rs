//! A real etcd, a real kube-apiserver and the real `barewire-fleet`, in a network namespace: what is written to the API server arrives at a node,
//! and stays there when the API server is gone.
//!
//! Needs root and the programs that `cargo xtask bootstrap` builds. Where it cannot run it says `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1`
//! that is a failure.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and says what it skips")]

#[path = "../stream/fixture.rs"]
#[expect(dead_code, reason = "the other program's tests use the rest of it")]
mod fixture;

mod acting;
mod admission;
mod nodes;
mod noisy;
mod preflights;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fixture::{Authority, Node, in_namespace, port_of};
use fleet_api::message::{Endpoint, SliceHead};
use fleet_api::{EndpointsKey, Kind};
use lab::world;

/// The API server makes its own objects first.
const READY: Duration = Duration::from_secs(90);
const FLEET: &str = "127.0.0.1:7443";
/// What the API server was asked, in the folder of the test.
const AUDIT_LOG: &str = "audit.log";

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Cluster {
    folder: PathBuf,
    kubectl: PathBuf,
    _etcd: Program,
    apiserver: Program,
}

fn start(folder: &Path, program: &Path, arguments: &[&str]) -> Program {
    let log = File::create(folder.join(program.file_name().unwrap()).with_extension("log")).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Program(command.spawn().unwrap())
}

/// Waits on a plain thread's time: nothing else runs meanwhile.
fn until(what: &str, folder: &Path, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + READY;
    while !is() {
        if Instant::now() > end {
            let log = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            let tail = |text: String| text.lines().rev().take(5).collect::<Vec<_>>().join("\n");
            panic!("{what}\n{}\n{}", tail(log("kube-apiserver.log")), tail(log("barewire-fleet.log")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Cluster {
    /// `None`, with the reason printed, where it cannot run.
    fn or_skip(authority: &Authority, folder: &Path) -> Option<Self> {
        match Self::start(authority, folder) {
            Ok(cluster) => Some(cluster),
            Err(missing) => {
                assert!(std::env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "required, but {missing}");
                println!("SKIP {missing}");
                None
            }
        }
    }

    fn start(authority: &Authority, folder: &Path) -> Result<Self, world::Missing> {
        let [apiserver, kubectl] = ["kube-apiserver", "kubectl"].map(|name| world::program("kubernetes", name));
        let (etcd, apiserver, kubectl) = (world::program("etcd", "etcd")?, apiserver?, kubectl?);
        let file = |name: &str, content: &[u8]| {
            std::fs::write(folder.join(name), content).unwrap();
            folder.join(name).to_str().unwrap().to_owned()
        };
        let server = authority.server(&["localhost", "127.0.0.1"], "kube-apiserver");
        let admin = authority.client("admin", "system:masters");
        let (authority, certificate, key) =
            (file("ca.crt", &server.authority), file("api.crt", &server.certificate), file("api.key", &server.key));
        let (admin, admin_key) = (file("admin.crt", &admin.certificate), file("admin.key", &admin.key));
        for (name, who) in [("kubeconfig", ""), ("fleet.conf", ", as: 'system:serviceaccount:kube-system:barewire-fleet'")] {
            let content = format!(
                "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
                 clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:6443', certificate-authority: {authority}}}}}], \
                 users: [{{name: u, user: {{client-certificate: {admin}, client-key: {admin_key}{who}}}}}]}}"
            );
            file(name, content.as_bytes());
        }
        let data = format!("--data-dir={}", folder.join("etcd").display());
        let etcd = start(folder, &etcd, &[&data, "--listen-peer-urls=http://127.0.0.1:2380", "--unsafe-no-fsync"]);
        let policy = file("policy.json", br#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}"#);
        let arguments = [
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            // Nobody makes service accounts here, and what it adds to pods is not compared.
            "--disable-admission-plugins=ServiceAccount,DefaultTolerationSeconds".to_owned(),
            "--service-account-issuer=https://localhost".to_owned(),
            format!("--service-account-signing-key-file={key}"),
            format!("--service-account-key-file={certificate}"),
            format!("--client-ca-file={authority}"),
            format!("--audit-policy-file={policy}"),
            format!("--audit-log-path={}", folder.join(AUDIT_LOG).display()),
            format!("--tls-cert-file={certificate}"),
            format!("--tls-private-key-file={key}"),
        ];
        let apiserver = start(folder, &apiserver, &arguments.each_ref().map(String::as_str));
        let cluster = Self { folder: folder.to_owned(), kubectl, _etcd: etcd, apiserver };
        until("the API server", folder, || cluster.kubectl(&["get", "--raw", "/readyz"], "").is_ok());
        until("namespace default", folder, || cluster.kubectl(&["get", "namespace", "default", "kube-system"], "").is_ok());
        Ok(cluster)
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        use std::io::Write;
        let mut command = Command::new(&self.kubectl);
        command.arg(format!("--kubeconfig={}", self.folder.join("kubeconfig").display())).args(["--request-timeout=20s"]).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn apply(&self, object: &str) {
        self.kubectl(&["apply", "--validate=false", "-f", "-"], object).unwrap();
    }
}

fn service(name: &str, port: u16, more: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default}}, spec: {{ports: [{{port: {port}}}]{more}}}}}")
}

fn slice(name: &str, labels: &str, addresses: &[&str]) -> String {
    let endpoints: Vec<_> = addresses.iter().map(|address| format!("{{addresses: ['{address}'], nodeName: n1, zone: z1}}")).collect();
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{{name: '', port: 8080, protocol: TCP}}], \
         metadata: {{name: {name}, namespace: default, labels: {{kubernetes.io/service-name: web{labels}}}}}, endpoints: [{}]}}",
        endpoints.join(", ")
    )
}

/// Services and addresses that a node knows of the slices of `web`.
fn addresses(node: &Node) -> Vec<String> {
    node.client.view(|state| {
        let mut found = Vec::new();
        for (key, value) in state.table(Kind::Endpoints).iter() {
            match EndpointsKey::decode(key).unwrap() {
                EndpointsKey::Slice(_) => assert_eq!(fleet_api::decode::<SliceHead>(value).unwrap().service, "default/web"),
                EndpointsKey::Endpoint(_, address) => {
                    let endpoint: Endpoint = fleet_api::decode(value).unwrap();
                    assert!(endpoint.ready && endpoint.node == "n1" && endpoint.zone == "z1");
                    found.push(address.to_string());
                }
            }
        }
        found.sort();
        found
    })
}

/// What replicas show.
fn write_credentials(authority: &Authority, folder: &Path) {
    let credentials = authority.replica();
    std::fs::write(folder.join("fleet.crt"), &credentials.certificate).unwrap();
    std::fs::write(folder.join("fleet.key"), &credentials.key).unwrap();
}

fn fleet(authority: &Authority, folder: &Path) -> Program {
    write_credentials(authority, folder);
    let file = |flag: &str, name: &str| format!("--{flag}={}", folder.join(name).display());
    let files = [file("authority", "ca.crt"), file("certificate", "fleet.crt"), file("key", "fleet.key"), file("kubeconfig", "kubeconfig")];
    let [a, b, c, d] = files.each_ref().map(String::as_str);
    start(folder, Path::new(env!("CARGO_BIN_EXE_barewire-fleet")), &[&format!("--listen={FLEET}"), a, b, c, d])
}

#[test]
fn what_the_api_server_has_arrives_at_a_node_and_stays() {
    in_namespace(|| async {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let Some(mut cluster) = Cluster::or_skip(&authority, folder.path()) else { return };
        // Before the fleet is there: a list has it.
        cluster.apply(&service("web", 80, ""));
        cluster.apply(&service("headless", 80, ", clusterIP: None"));
        cluster.apply(&slice("web-1", "", &["10.0.0.1", "10.0.0.2"]));
        cluster.apply(&slice("headless-1", ", service.kubernetes.io/headless: ''", &["10.0.9.9"]));
        let replica = fleet(&authority, folder.path());
        let file = folder.path().join("node.state");
        let node = Node::start(&authority.node("a"), "a", &[FLEET.parse().unwrap()], Some(&file));
        node.sees("default/web", 80).await;
        node.until("the slice", || addresses(&node) == ["10.0.0.1", "10.0.0.2"]).await;
        assert_eq!(node.client.view(|state| port_of(state, "default/headless")), None);

        // Afterwards: a watch has it.
        cluster.apply(&service("web", 81, ""));
        node.sees("default/web", 81).await;
        let before = node.client.status().received_bytes;
        cluster.apply(&slice("web-1", "", &["10.0.0.1", "10.0.0.3"]));
        node.until("another endpoint", || addresses(&node) == ["10.0.0.1", "10.0.0.3"]).await;
        let bytes = node.client.status().received_bytes - before;
        assert!(bytes <= 160, "{bytes} bytes for an endpoint that goes and one that comes");
        cluster.kubectl(&["delete", "endpointslice", "web-1"], "").unwrap();
        node.until("no slice", || addresses(&node).is_empty()).await;

        // The replica starts anew: the node goes on.
        drop(replica);
        let replica = fleet(&authority, folder.path());
        cluster.apply(&service("web", 82, ""));
        node.sees("default/web", 82).await;

        // Without an API server: nothing changes.
        drop(std::mem::replace(&mut cluster.apiserver, start(folder.path(), Path::new("/bin/true"), &[])));
        let late = Node::start(&authority.node("b"), "b", &[FLEET.parse().unwrap()], None);
        late.sees("default/web", 82).await;
        // Nor without a fleet, after a start of the node's own.
        drop(replica);
        node.stop().await;
        let node = Node::start(&authority.node("a"), "a", &[FLEET.parse().unwrap()], Some(&file));
        assert_eq!(node.client.view(|state| port_of(state, "default/web")), Some(82));
        node.stop().await;
        late.stop().await;
    });
}

/// The process and the port that a replica's metrics are on.
struct Led {
    program: Program,
    telemetry: &'static str,
}

impl Led {
    fn start(folder: &Path, number: u16, telemetry: &'static str, more: &[String]) -> Self {
        let file = |flag: &str, name: &str| format!("--{flag}={}", folder.join(name).display());
        let listen = format!("127.0.0.1:{}", 7_450 + number);
        let arguments = [
            file("authority", "ca.crt"),
            file("certificate", "fleet.crt"),
            file("key", "fleet.key"),
            // With the rights of the manifest and no others.
            file("kubeconfig", "fleet.conf"),
            format!("--listen={listen}"),
            format!("--telemetry={telemetry}"),
        ];
        let arguments: Vec<&str> = arguments.iter().chain(more).map(String::as_str).collect();
        let program = start(folder, Path::new(env!("CARGO_BIN_EXE_barewire-fleet")), &arguments);
        Self { program, telemetry }
    }

    /// A page of the telemetry; nothing where it is not served.
    fn page(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let ask = || {
            let mut stream = std::net::TcpStream::connect(self.telemetry)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        };
        ask().unwrap_or_default()
    }

    fn leads(&self) -> bool {
        self.page("/metrics").lines().any(|line| line == "barewire_fleet_leader 1")
    }
}

/// One after the other leads, never two.
fn until_leads(one: &Led, others: &[&Led], folder: &Path) {
    until("the replica leads", folder, || {
        let leaders = others.iter().filter(|other| other.leads()).count() + usize::from(one.leads());
        assert!(leaders <= 1, "{leaders} lead");
        one.leads()
    });
}

#[test]
fn one_replica_leads_and_another_after_it() {
    in_namespace(|| async {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let folder = folder.path();
        let Some(cluster) = Cluster::or_skip(&authority, folder) else { return };
        write_credentials(&authority, folder);
        let program = Path::new(env!("CARGO_BIN_EXE_barewire-fleet"));
        let file = |flag: &str, name: &str| format!("--{flag}={}", folder.join(name).display());
        let dry_run = || {
            let mut command = Command::new(program);
            command.arg("--dry-run").args([file("authority", "ca.crt"), file("certificate", "fleet.crt"), file("key", "fleet.key")]);
            command.arg(file("kubeconfig", "fleet.conf")).output().unwrap()
        };
        let refused = dry_run();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("list endpointslices: ") && said.contains("get lease"), "{said}");
        let manifest = Command::new(program).arg("manifest").output().unwrap();
        cluster.kubectl(&["apply", "--validate=strict", "-f", "-"], std::str::from_utf8(&manifest.stdout).unwrap()).unwrap();
        until("the rights of the manifest", folder, || dry_run().status.success());
        let first = Led::start(folder, 1, "127.0.0.1:7461", &[]);
        until_leads(&first, &[], folder);
        let second = Led::start(folder, 2, "127.0.0.1:7462", &[]);

        // Killed: the Lease runs out.
        let since = Instant::now();
        drop(first.program);
        let first = Led::start(folder, 3, "127.0.0.1:7463", &[]);
        until("another leads", folder, || {
            let (first, second) = (first.leads(), second.leads());
            assert!(!(first && second), "both lead");
            first || second
        });
        let took = since.elapsed();
        assert!((Duration::from_secs(10)..Duration::from_secs(30)).contains(&took), "{took:?}");

        // Ended in order: the Lease is given up, and nobody waits for its end.
        let (mut leader, other) = if first.leads() { (first, second) } else { (second, first) };
        let since = Instant::now();
        let pid = leader.program.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(leader.program.0.wait().unwrap().success());
        until_leads(&other, &[], folder);
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());

        // Somebody else's Lease: steps down at once.
        let stolen = "{\"spec\": {\"holderIdentity\": \"somebody\"}}";
        cluster.kubectl(&["patch", "lease", "-n", "kube-system", "barewire-fleet", "--type=merge", "-p", stolen], "").unwrap();
        until("it steps down", folder, || !other.leads());
    });
}
