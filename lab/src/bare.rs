//! A pod without a runtime: a network namespace of a node, wired by the plugins that a runtime would execute.
//!
//! Some milliseconds instead of a second, for suites that are about packets.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::command::CONFIGURE;
use super::error::{Error, Result};
use super::network::Network;
use super::node::Node;
use crate::kube_proxy::Family;

const VERSION: &str = "1.0.0";
const INTERFACE: &str = "eth0";

/// A pod.
#[derive(Debug)]
pub struct BarePod {
    /// Its name, and its `CNI_CONTAINERID`.
    pub name: String,
    /// Its network.
    pub network: Network,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl BarePod {
    /// Makes a pod; `host_ports` are pairs of the node's and the pod's port, each for TCP and UDP, given to the plugin `portmap`.
    ///
    /// # Errors
    /// When a plugin refuses.
    pub fn start(node: &Node, name: &str, host_ports: &[(u16, u16)]) -> Result<Self> {
        let mut result = add(node, name, json!({ "cniVersion": VERSION, "name": "barewire", "type": "barewire-cni" }))?;
        if !host_ports.is_empty() {
            let mappings: Vec<Value> = host_ports
                .iter()
                .flat_map(|(host, pod)| {
                    ["tcp", "udp"].map(|protocol| json!({ "hostPort": host, "containerPort": pod, "protocol": protocol }))
                })
                .collect();
            let conf = json!({ "cniVersion": VERSION, "name": "barewire", "type": "portmap",
                "runtimeConfig": { "portMappings": mappings }, "prevResult": result });
            result = execute(node, name, "ADD", conf)?;
        }
        Self::of_result(node, name, &result)
    }

    /// Makes a pod with these addresses.
    ///
    /// # Errors
    /// When the plugin refuses.
    pub fn start_with(node: &Node, name: &str, addresses: &[&str]) -> Result<Self> {
        let conf = json!({ "cniVersion": VERSION, "name": "barewire", "type": "barewire-cni",
            "capabilities": { "ips": true }, "runtimeConfig": { "ips": addresses } });
        Self::of_result(node, name, &add(node, name, conf)?)
    }

    fn of_result(node: &Node, name: &str, result: &Value) -> Result<Self> {
        let assigned = result["ips"].as_array().into_iter().flatten();
        let addresses = assigned.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect();
        let network = Network::at(name, &node.host_path(format!("/run/netns/{name}")))?;
        Ok(Self { name: name.to_owned(), network, addresses })
    }

    /// Ends a pod, as a runtime does.
    ///
    /// # Errors
    /// When the plugin refuses.
    pub fn remove(self, node: &Node) -> Result<()> {
        let conf = json!({ "cniVersion": VERSION, "name": "barewire", "type": "barewire-cni" });
        run_plugin(node, &self.name, "DEL", &conf)?;
        node.run(&["ip", "netns", "delete", &self.name]).map(drop)
    }

    /// Its address of one family.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self, family: Family) -> Result<IpAddr> {
        let found = self.addresses.iter().copied().find(|address| family.has(address));
        found.ok_or_else(|| Error::Node { node: self.name.clone(), message: format!("no {family:?} address in {:?}", self.addresses) })
    }
}

/// Makes a namespace and has it wired.
fn add(node: &Node, name: &str, conf: Value) -> Result<Value> {
    node.run(&["ip", "netns", "add", name])?;
    node.run(&["ip", "-n", name, "link", "set", "lo", "up"])?;
    execute(node, name, "ADD", conf)
}

/// Executes a plugin in a node as a runtime does, and answers its result.
fn execute(node: &Node, pod: &str, command: &str, conf: Value) -> Result<Value> {
    let said = run_plugin(node, pod, command, &conf)?;
    serde_json::from_str(&said)
        .map_err(|error| Error::Node { node: node.name().to_owned(), message: format!("{} answered {said:?}: {error}", conf["type"]) })
}

/// Executes a plugin in a node, and answers what it says.
fn run_plugin(node: &Node, pod: &str, command: &str, conf: &Value) -> Result<String> {
    let plugin = format!("/opt/cni/bin/{}", conf["type"].as_str().unwrap_or_default());
    let file = format!("/run/conf-of-{pod}.json");
    node.write(&file, conf.to_string())?;
    let line = format!(
        "CNI_COMMAND={command} CNI_CONTAINERID={pod} CNI_NETNS=/run/netns/{pod} CNI_IFNAME={INTERFACE} CNI_PATH=/opt/cni/bin \
         CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=lab;K8S_POD_NAME={pod}' {plugin} <{file}"
    );
    node.try_run(&["sh", "-c", &line], CONFIGURE)?.success()
}
