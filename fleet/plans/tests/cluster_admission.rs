//! One table of pods: what the function decides, and what a real kube-apiserver does with the policies that are made from the same file.
//!
//! Needs root and the programs that `cargo xtask bootstrap` builds. Where it cannot run it says `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1`
//! that is a failure.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "admission/table.rs"]
mod table;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use conformance_tests::netns::Netns;
use fleet_plans::admission::policies;
use lab::world;
use serde_json::{Value, json};
use table::{decision, is_decided_alike, pod, table, teams};

const READY: Duration = Duration::from_secs(60);

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Cluster {
    kubectl: PathBuf,
    folder: PathBuf,
    _programs: [Program; 2],
}

fn start(folder: &Path, program: &Path, arguments: &[String]) -> Program {
    let log = File::create(folder.join(program.file_name().unwrap()).with_extension("log")).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Program(command.spawn().unwrap())
}

impl Cluster {
    fn start(folder: &Path) -> Result<Self, world::Missing> {
        let [apiserver, kubectl] = ["kube-apiserver", "kubectl"].map(|name| world::program("kubernetes", name));
        let (etcd, apiserver, kubectl) = (world::program("etcd", "etcd")?, apiserver?, kubectl?);
        let key = folder.join("accounts.key");
        let public = folder.join("accounts.pub");
        let pair = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        std::fs::write(&public, pair.public_key_pem()).unwrap();
        std::fs::write(folder.join("tokens.csv"), "token,admin,admin,system:masters\n").unwrap();
        let data = format!("--data-dir={}", folder.join("etcd").display());
        let etcd = start(folder, &etcd, &[data, "--listen-peer-urls=http://127.0.0.1:2380".to_owned(), "--unsafe-no-fsync".to_owned()]);
        let apiserver = start(
            folder,
            &apiserver,
            &[
                "--etcd-servers=http://127.0.0.1:2379".to_owned(),
                "--advertise-address=127.0.0.1".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                "--authorization-mode=RBAC".to_owned(),
                "--endpoint-reconciler-type=none".to_owned(),
                // Nobody makes service accounts here, and what it adds to pods is not compared.
                "--disable-admission-plugins=ServiceAccount,DefaultTolerationSeconds".to_owned(),
                "--service-account-issuer=https://localhost".to_owned(),
                format!("--service-account-signing-key-file={}", key.display()),
                format!("--service-account-key-file={}", public.display()),
                format!("--token-auth-file={}", folder.join("tokens.csv").display()),
                format!("--cert-dir={}", folder.display()),
            ],
        );
        let cluster = Self { kubectl, folder: folder.to_owned(), _programs: [etcd, apiserver] };
        cluster.until("the API server", || cluster.kubectl(&["get", "namespace", "default"], "").is_ok());
        Ok(cluster)
    }

    fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let end = Instant::now() + READY;
        while !is() {
            let log = || std::fs::read_to_string(self.folder.join("kube-apiserver.log")).unwrap_or_default();
            assert!(Instant::now() < end, "{what}\n{}", log().lines().rev().take(8).collect::<Vec<_>>().join("\n"));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new(&self.kubectl);
        command.args(["--server=https://127.0.0.1:6443", "--insecure-skip-tls-verify", "--token=token", "--request-timeout=20s"]);
        command.args(arguments).env("HOME", &self.folder).env_remove("KUBECONFIG");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// What the API server would make of a pod.
    fn pod(&self, namespace: &str, spec: &Value) -> Result<Value, String> {
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "namespace": namespace }, "spec": spec });
        let made = self.kubectl(&["create", "--dry-run=server", "-o", "json", "-f", "-"], &pod.to_string())?;
        Ok(serde_json::from_str(&made).unwrap())
    }
}

#[test]
fn the_function_and_the_policies_decide_alike() {
    for (namespace, more, is_admitted) in table() {
        assert_eq!(decision(namespace, &more).is_ok(), is_admitted, "{namespace} {more}");
    }
    let folder = tempfile::tempdir().unwrap();
    let skip = |why: String| {
        assert!(std::env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "required, but {why}");
        println!("SKIP {why}");
    };
    let namespace = match Netns::create(folder.path().join("net")) {
        Ok(namespace) => namespace,
        Err(error) => return skip(error.to_string()),
    };
    let _inside = namespace.enter().unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let cluster = match Cluster::start(folder.path()) {
        Ok(cluster) => cluster,
        Err(missing) => return skip(missing.to_string()),
    };
    let class = json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": "scavenger" }, "value": -10 });
    let namespaces =
        ["research", "serving", "monitoring"].map(|name| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }));
    let objects: Vec<_> = namespaces.into_iter().chain([class]).chain(policies(&teams())).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    cluster.kubectl(&["apply", "-f", "-"], &list.to_string()).unwrap();
    // Policies are compiled a moment after they were written.
    cluster.until("the refusal", || cluster.pod("default", &pod(&json!({ "tolerations": [{ "operator": "Exists" }] }))).is_err());
    cluster.until("the addition", || cluster.pod("research", &pod(&json!({}))).is_ok_and(|pod| pod["spec"]["affinity"].is_object()));
    is_decided_alike(|namespace, more| cluster.pod(namespace, &pod(more)));
}
