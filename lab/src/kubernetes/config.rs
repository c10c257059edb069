//! What the components of a cluster are told: their files.

use serde_json::{Value, json};

use super::pki::{Authority, Credential};
use crate::error::Result;
use crate::node::Node;

/// The control plane's address.
pub(super) const ADDRESS: &str = "10.0.0.10";

/// The API server.
pub(super) const SERVER: &str = "https://10.0.0.10:6443";

/// The replica of the fleet.
pub(super) const FLEET: &str = "10.0.0.10:7443";

/// The cluster's name server.
pub const DNS: &str = "10.96.0.10";

/// The taint of a node whose preflight has not passed.
pub(super) const NEW: &str = "startup-taint.cluster-autoscaler.kubernetes.io/barewire-preflight";

/// Where a node's components have their files.
const FILES: &str = "/etc/kubernetes";

/// The name of the folder with the pods that kubelet runs of its own accord.
pub(super) const STATIC_PODS: &str = "manifests";

/// A file of the cluster in a node.
pub(super) fn file(name: &str) -> String {
    format!("{FILES}/{name}")
}

/// Writes what `who` needs to ask the API server: `ca.crt`, its own certificate and key, and `<who>.conf`, a kubeconfig that names them.
pub(super) fn write_client(node: &Node, authority: &Authority, who: &str, client: &Credential) -> Result<()> {
    let (certificate, key) = (format!("{who}.client.crt"), format!("{who}.client.key"));
    node.write(&file("ca.crt"), authority.certificate())?;
    node.write(&file(&certificate), &client.certificate)?;
    node.write(&file(&key), &client.key)?;
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "lab", "cluster": { "server": SERVER, "certificate-authority": file("ca.crt") } }],
        "users": [{ "name": "lab", "user": { "client-certificate": file(&certificate), "client-key": file(&key) } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
        "current-context": "lab",
    });
    node.write(&file(&format!("{who}.conf")), kubeconfig.to_string())
}

/// The kubelet's configuration, less what the lab's machine cannot do.
pub(super) fn kubelet(cgroup_root: &str, max_pods: u32, is_new: bool) -> String {
    let taint = json!({ "key": NEW, "effect": "NoSchedule" });
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": file("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": file("kubelet.crt"),
        "tlsPrivateKeyFile": file("kubelet.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        // Of the lab, so that it can be found and removed when all else is lost.
        "cgroupRoot": cgroup_root,
        "failCgroupV1": false,
        "failSwapOn": false,
        "staticPodPath": file(STATIC_PODS),
        "fileCheckFrequency": "2s",
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "resolvConf": file("resolv.conf"),
        "maxPods": max_pods,
        // A nested machine may forbid to lower it.
        "oomScoreAdj": 0,
        // The machine's disk is nobody's business here.
        "evictionHard": { "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%" },
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": false,
        "nodeStatusUpdateFrequency": "5s",
        "shutdownGracePeriod": "0s",
        "registerWithTaints": if is_new { json!([taint]) } else { Value::Null },
    })
    .to_string()
}

/// Who translates services, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// kube-proxy, with rules of iptables, the default for many years.
    Iptables,
    /// kube-proxy, with tables of nftables.
    Nftables,
    /// barewired, as a replica of the fleet tells it; there is no kube-proxy. The API server keeps an audit log.
    Barewired,
}

impl ProxyMode {
    /// Its name: of kube-proxy's modes the value of the key `mode`.
    #[must_use]
    pub const fn value(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Barewired => "barewired",
        }
    }
}

/// kube-proxy's configuration. Pods are told by the name of their host ends: no range of addresses is a cluster's own here.
pub(super) fn kube_proxy(mode: ProxyMode, node: &str, interface_prefix: &str) -> String {
    let untouched: Value = json!({ "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" });
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": file("kube-proxy.conf") },
        "mode": mode.value(),
        "hostnameOverride": node,
        "detectLocalMode": "InterfaceNamePrefix",
        "detectLocal": { "interfaceNamePrefix": interface_prefix },
        // Sysctls of the whole machine, which the lab leaves alone.
        "conntrack": untouched,
    })
    .to_string()
}

/// The sections that barewired's configuration has beside the topology's where it serves services.
pub(super) fn services_of_barewired() -> String {
    let [authority, certificate, key] = ["ca.crt", "kubelet.client.crt", "kubelet.client.key"].map(file);
    format!(
        "\n[fleet]\nreplicas = [\"{FLEET}\"]\nauthority = {authority:?}\ncertificate = {certificate:?}\nkey = {key:?}\n\n[services]\nmode = \"on\"\n"
    )
}

/// The section with which it looks at itself; less what of the machine all nodes of the lab share, as one node would be sick by another's fault.
pub(super) fn health() -> String {
    let server = SERVER.trim_start_matches("https://");
    format!(
        "\n[health]\nenabled = true\napi_server = [\"{server}\"]\nchecks_off = [\"kernel_log\", \"clock\", \"disk_root\", \"disk_var\", \"conntrack\", \"neighbours\"]\n"
    )
}
