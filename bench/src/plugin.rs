//! Calls CNI plugins as a container runtime does, and takes the time.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::netns::Namespace;

const CNI_VERSION: &str = "1.0.0";

/// Where Debian keeps the reference plugins.
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

/// A pod before its network: an empty namespace and a container ID.
#[derive(Debug)]
pub struct Pod {
    /// The pod's network.
    pub namespace: Namespace,
    container_id: String,
    cni_args: String,
}

impl Pod {
    /// A new pod; `number` makes its names unique.
    ///
    /// # Errors
    /// When its namespace cannot be created.
    pub fn create(number: usize) -> Result<Self> {
        let container_id = format!("{number:064x}");
        let cni_args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod-{number};\
             K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID=00000000-0000-4000-8000-{number:012x}"
        );
        Ok(Self { namespace: Namespace::create()?, container_id, cni_args })
    }
}

/// A pod with a network.
#[derive(Debug)]
pub struct Attached {
    pod: Pod,
    result: Value,
}

impl Attached {
    /// Where the pod's programs run.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.pod.namespace
    }

    /// The pod's first address.
    ///
    /// # Errors
    /// When the plugin's answer has none.
    pub fn address(&self) -> Result<IpAddr> {
        let told = self.result["ips"][0]["address"].as_str().context("the answer of an ADD has no address")?;
        told.split('/').next().and_then(|address| address.parse().ok()).with_context(|| format!("ADD gave the address {told:?}"))
    }

    /// The pod, for another network.
    #[must_use]
    pub fn into_pod(self) -> Pod {
        self.pod
    }
}

/// A plugin and its configuration.
#[derive(Debug)]
pub struct Plugin {
    binary: PathBuf,
    config: Value,
    /// A variable that only this plugin reads.
    variable: Option<(&'static str, PathBuf)>,
    /// Whether it is told whose pod it is; one that then asks an API server would ask for pods that do not exist.
    names_pods: bool,
}

impl Plugin {
    /// `barewire-cni`, which talks to the daemon on `socket`.
    #[must_use]
    pub fn barewire(binaries: &Path, socket: &Path) -> Self {
        let config = json!({"cniVersion": CNI_VERSION, "name": "bench", "type": "barewire-cni", "socket": socket});
        Self::of(binaries.join("barewire-cni"), config)
    }

    /// The reference: `ptp` with `host-local`, IPv4 only, no masquerade. `state` is where host-local keeps its addresses.
    #[must_use]
    pub fn reference(state: &Path) -> Self {
        let config = json!({
            "cniVersion": CNI_VERSION,
            "name": "reference",
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": state,
                "ranges": [[{"subnet": "10.78.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        Self::of(Path::new(REFERENCE_PLUGINS).join("ptp"), config)
    }

    /// The reference for traffic: `bridge` with `host-local`, which gives addresses of `range`.
    #[must_use]
    pub fn bridge(state: &Path, range: &str, mtu: u32) -> Self {
        let config = json!({
            "cniVersion": CNI_VERSION,
            "name": "reference",
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "isDefaultGateway": true,
            "hairpinMode": true,
            "ipMasq": false,
            "mtu": mtu,
            "ipam": {"type": "host-local", "dataDir": state, "ranges": [[{"subnet": range}]]},
        });
        Self::of(Path::new(REFERENCE_PLUGINS).join("bridge"), config)
    }

    /// Cilium's plugin, which talks to the agent on `socket`.
    #[must_use]
    pub fn cilium(binary: PathBuf, socket: &Path) -> Self {
        let log = socket.with_extension("log");
        let config = json!({"cniVersion": CNI_VERSION, "name": "cilium", "type": "cilium-cni", "log-file": log});
        Self { variable: Some(("CILIUM_SOCK", socket.to_owned())), names_pods: false, ..Self::of(binary, config) }
    }

    fn of(binary: PathBuf, config: Value) -> Self {
        Self { binary, config, variable: None, names_pods: true }
    }

    /// A program called with all that a plugin is called with, which does nothing with it.
    #[must_use]
    pub fn exec_floor(binaries: &Path) -> Self {
        let config = json!({"cniVersion": CNI_VERSION, "name": "bench", "type": "exec-floor"});
        Self::of(binaries.join("exec-floor"), config)
    }

    /// ADD: from before the program is spawned until its exit has been collected.
    ///
    /// # Errors
    /// When the plugin fails, or answers with anything but a result with an address.
    pub fn add(&self, pod: Pod) -> Result<(Duration, Attached)> {
        self.add_with(pod, &Value::Null)
    }

    /// ADD with what a runtime passes of the pod, as `runtimeConfig`.
    ///
    /// # Errors
    /// See [`Self::add`].
    pub fn add_with(&self, pod: Pod, runtime_config: &Value) -> Result<(Duration, Attached)> {
        let mut config = self.config.clone();
        if !runtime_config.is_null() {
            config["runtimeConfig"] = runtime_config.clone();
        }
        let call = self.call("ADD", &pod, config.to_string());
        let (took, stdout) = call.run()?;
        let result: Value = serde_json::from_str(&stdout).with_context(|| format!("{}: ADD answered {stdout:?}", self.binary.display()))?;
        if result["ips"][0]["address"].as_str().is_none() {
            bail!("{}: ADD answered without an address: {stdout}", self.binary.display());
        }
        Ok((took, Attached { pod, result }))
    }

    /// DEL, with the result of the ADD as the specification asks.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn del(&self, attached: &Attached) -> Result<Duration> {
        let mut config = self.config.clone();
        config["prevResult"] = attached.result.clone();
        let (took, _) = self.call("DEL", &attached.pod, config.to_string()).run()?;
        Ok(took)
    }

    /// A call whose answer does not matter.
    ///
    /// # Errors
    /// When the program fails.
    pub fn exec(&self, pod: &Pod) -> Result<Duration> {
        let (took, _) = self.call("ADD", pod, self.config.to_string()).run()?;
        Ok(took)
    }

    /// The start and the end of the program alone: VERSION, from before it is spawned until its exit has been collected, with nothing
    /// that anybody waits for in between.
    ///
    /// # Errors
    /// When the program fails.
    pub fn exec_alone(&self) -> Result<Duration> {
        let mut command = Command::new(&self.binary);
        command.env_clear().env("CNI_COMMAND", "VERSION").stdin(Stdio::null()).stdout(Stdio::null());
        let started = Instant::now();
        let status = command.status().with_context(|| format!("cannot execute {}", self.binary.display()))?;
        let took = started.elapsed();
        if !status.success() {
            bail!("{} VERSION failed ({status})", self.binary.display());
        }
        Ok(took)
    }

    /// How large the program is, in bytes.
    ///
    /// # Errors
    /// When it is not there.
    pub fn size(&self) -> Result<u64> {
        let metadata = fs::metadata(&self.binary).with_context(|| format!("cannot look at {}", self.binary.display()))?;
        Ok(metadata.len())
    }

    /// One ADD for each pod, all at once. Each took as long as it ended after the common start, and each may fail.
    ///
    /// # Errors
    /// When the thread of a call panics.
    pub fn add_at_once(&self, pods: Vec<Pod>) -> Result<Vec<Result<(Duration, Attached)>>> {
        let start = Barrier::new(pods.len());
        thread::scope(|scope| {
            let calls: Vec<_> = pods
                .into_iter()
                .map(|pod| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        let started = Instant::now();
                        let (_, attached) = self.add(pod)?;
                        Ok((started.elapsed(), attached))
                    })
                })
                .collect();
            calls.into_iter().map(|call| call.join().map_err(|_panic| anyhow::anyhow!("the thread of a call panicked"))).collect()
        })
    }

    fn call<'a>(&'a self, verb: &'static str, pod: &'a Pod, stdin: String) -> Call<'a> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
        let mut command = Command::new(&self.binary);
        // The whole environment is given, so that it is the same for every plugin and every caller.
        command
            .env_clear()
            .env("PATH", path)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &pod.container_id)
            .env("CNI_NETNS", pod.namespace.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", if self.names_pods { &pod.cni_args } else { "" })
            .envs(self.variable.as_ref().map(|(name, value)| (name, value)))
            .env("CNI_PATH", OsString::from(REFERENCE_PLUGINS))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Call { plugin: self, verb, command, stdin }
    }
}

struct Call<'a> {
    plugin: &'a Plugin,
    verb: &'static str,
    command: Command,
    stdin: String,
}

impl Call<'_> {
    /// The standard library spawns with `posix_spawn` here: the size of this process does not count.
    fn run(mut self) -> Result<(Duration, String)> {
        let program = || self.plugin.binary.display();
        let mut stdout = String::new();
        let started = Instant::now();
        let mut child = self.command.spawn().with_context(|| format!("cannot execute {}", program()))?;
        if let Some(mut pipe) = child.stdin.take() {
            // A program that does not read its configuration says so by its exit code.
            let _unread = pipe.write_all(self.stdin.as_bytes());
        }
        if let Some(mut pipe) = child.stdout.take() {
            pipe.read_to_string(&mut stdout).with_context(|| format!("cannot read from {}", program()))?;
        }
        let status = child.wait().with_context(|| format!("cannot wait for {}", program()))?;
        let took = started.elapsed();
        if !status.success() {
            bail!("{} {} failed ({status}): {}", program(), self.verb, stdout.trim());
        }
        Ok((took, stdout))
    }
}
