//! A real etcd and kube-apiserver, and the kube-proxy that they tell, in the calling thread's network namespace.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::world;
use serde_json::{Value, json};

/// The API server makes its own objects first.
const READY: Duration = Duration::from_secs(90);

/// A program that ends with its owner.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The three of them.
pub(crate) struct Cluster {
    folder: PathBuf,
    kubectl: PathBuf,
    proxy: Option<Program>,
    _apiserver: Program,
    _etcd: Program,
}

/// Waits for something on a plain thread's time.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + READY;
    while !is() {
        if Instant::now() > end {
            bail!("{what}: not within {READY:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn start(folder: &Path, program: &Path, arguments: &[String]) -> Result<Program> {
    let log = File::create(folder.join(program.file_name().context("a program")?).with_extension("log"))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Program(command.spawn()?))
}

impl Cluster {
    /// Starts etcd and the API server.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let [apiserver, kubectl] = ["kube-apiserver", "kubectl"].map(|name| world::program("kubernetes", name));
        let (etcd, apiserver, kubectl) = (world::program("etcd", "etcd")?, apiserver?, kubectl?);
        let file = |name: &str, content: String| -> Result<String> {
            std::fs::write(folder.join(name), content)?;
            Ok(folder.join(name).display().to_string())
        };
        let pair = rcgen::KeyPair::generate()?;
        let (key, public) = (file("sa.key", pair.serialize_pem())?, file("sa.pub", pair.public_key_pem())?);
        let tokens = file("tokens", "secret,admin,admin,system:masters\n".to_owned())?;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
            "clusters": [{ "name": "c", "cluster": { "server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": true } }],
            "users": [{ "name": "u", "user": { "token": "secret" } }],
        });
        file("kubeconfig", kubeconfig.to_string())?;
        let data = format!("--data-dir={}", folder.join("etcd").display());
        let etcd = start(folder, &etcd, &[data, "--listen-peer-urls=http://127.0.0.1:2380".to_owned(), "--unsafe-no-fsync".to_owned()])?;
        let arguments = [
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--advertise-address=192.0.2.1".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--service-cluster-ip-range={},{}", crate::site::SERVICES[0], crate::site::SERVICES[1]),
            "--authorization-mode=RBAC".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-account-issuer=https://localhost".to_owned(),
            format!("--service-account-signing-key-file={key}"),
            format!("--service-account-key-file={public}"),
            format!("--token-auth-file={tokens}"),
            format!("--cert-dir={}", folder.join("certificates").display()),
        ];
        let apiserver = start(folder, &apiserver, &arguments)?;
        let cluster = Self { folder: folder.to_owned(), kubectl, proxy: None, _apiserver: apiserver, _etcd: etcd };
        until("the API server", || cluster.kubectl(&["get", "--raw", "/readyz"], "").is_ok())
            .with_context(|| cluster.log("kube-apiserver"))?;
        until("namespace default", || cluster.kubectl(&["get", "namespace", "default"], "").is_ok())?;
        Ok(cluster)
    }

    /// Starts kube-proxy, for this node.
    pub(crate) fn start_proxy(&mut self, node: &str) -> Result<()> {
        let untouched = json!({ "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" });
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "clientConnection": { "kubeconfig": self.folder.join("kubeconfig").display().to_string(), "qps": 1000, "burst": 1000 },
            "mode": "nftables", "hostnameOverride": node,
            "detectLocalMode": "InterfaceNamePrefix", "detectLocal": { "interfaceNamePrefix": "bw" },
            "nftables": { "minSyncPeriod": "100ms" }, "conntrack": untouched,
        });
        let path = self.folder.join("kube-proxy.json");
        std::fs::write(&path, config.to_string())?;
        let program = world::program("kubernetes", "kube-proxy")?;
        self.proxy = Some(start(&self.folder, &program, &[format!("--config={}", path.display())])?);
        Ok(())
    }

    /// Ends kube-proxy; its rules stay.
    pub(crate) fn stop_proxy(&mut self) {
        self.proxy = None;
    }

    /// The end of a program's log.
    pub(crate) fn log(&self, program: &str) -> String {
        let text = std::fs::read_to_string(self.folder.join(program).with_extension("log")).unwrap_or_default();
        let mut tail: Vec<_> = text.lines().rev().take(8).collect();
        tail.reverse();
        tail.join("\n")
    }

    /// Runs kubectl and answers what it prints.
    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(&self.kubectl);
        command.arg(format!("--kubeconfig={}", self.folder.join("kubeconfig").display())).arg("--request-timeout=20s").args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// All objects of a kind.
    pub(crate) fn all(&self, kind: &str) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.kubectl(&["get", kind, "-A", "-o", "json"], "")?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}
