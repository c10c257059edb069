//! A pod as a kubelet makes it: a sandbox with its addresses, and one container in it.

use std::net::IpAddr;
use std::time::Duration;

use k8s_cri::v1::{
    Capability, ContainerConfig, ContainerMetadata, ContainerState, DnsConfig, ExecSyncResponse, ImageSpec, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, Protocol,
};
use serde_json::Value;

use super::{Cri, Error};
use crate::image;

/// What a pod is to be.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// Pod name, also its host name.
    pub name: String,
    /// Cgroup below which its own are made.
    pub cgroup_parent: String,
    /// TCP ports: of the node, and of the pod.
    pub host_ports: Vec<(u16, u16)>,
}

/// Namespace of all pods of the lab.
pub const NAMESPACE: &str = "lab";

/// A pod that runs.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Identifier of its sandbox, which the CNI plugin gets as `CNI_CONTAINERID`.
    pub sandbox: String,
    /// Identifier of its container.
    pub container: String,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// A process in its network namespace, as the node sees it.
    pub pid: u32,
    config: PodSandboxConfig,
}

impl Pod {
    /// Makes and starts a pod. What was made is removed again when a later step fails.
    ///
    /// # Errors
    /// With the call that the runtime refused.
    pub fn start(cri: &Cri, spec: &PodSpec) -> Result<Self, Error> {
        let config = sandbox_config(spec);
        let sandbox = cri.run_pod_sandbox(config.clone())?;
        Self::complete(cri, spec, &sandbox, config).inspect_err(|_| {
            // The error that led here is the one to report.
            let _ = remove(cri, &sandbox);
        })
    }

    fn complete(cri: &Cri, spec: &PodSpec, sandbox: &str, config: PodSandboxConfig) -> Result<Self, Error> {
        let container = cri.create_container(sandbox, container_config(0), config.clone())?;
        cri.start_container(&container)?;
        let (addresses, pid) = network(cri, sandbox)?;
        Ok(Self { name: spec.name.clone(), sandbox: sandbox.to_owned(), container, addresses, pid, config })
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv4)
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn v6(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv6)
    }

    /// Whether its container runs.
    ///
    /// # Errors
    /// When the runtime does not know it.
    pub fn is_running(&self, cri: &Cri) -> Result<bool, Error> {
        let status = cri.container_status(&self.container)?;
        Ok(status.state == i32::from(ContainerState::ContainerRunning))
    }

    /// Runs a program in its container; the program's failure is in the answer.
    ///
    /// # Errors
    /// When the runtime refuses, or the program exceeds `limit`.
    pub fn exec(&self, cri: &Cri, cmd: &[&str], limit: Duration) -> Result<ExecSyncResponse, Error> {
        cri.exec_sync(&self.container, cmd, limit)
    }

    /// Ends its container and starts another in the same sandbox, as a kubelet does when one has crashed.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn replace_container(&mut self, cri: &Cri) -> Result<(), Error> {
        cri.stop_container(&self.container)?;
        cri.remove_container(&self.container)?;
        self.container = cri.create_container(&self.sandbox, container_config(1), self.config.clone())?;
        cri.start_container(&self.container)
    }

    /// Stops and removes it.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn remove(&self, cri: &Cri) -> Result<(), Error> {
        remove(cri, &self.sandbox)
    }
}

/// Stops and removes a sandbox with everything in it.
///
/// # Errors
/// When the runtime refuses.
pub fn remove(cri: &Cri, sandbox: &str) -> Result<(), Error> {
    cri.stop_pod_sandbox(sandbox)?;
    cri.remove_pod_sandbox(sandbox)
}

/// The addresses of a sandbox, and a process in its network namespace, as the node sees it.
///
/// # Errors
/// When the runtime does not tell.
pub fn network(cri: &Cri, sandbox: &str) -> Result<(Vec<IpAddr>, u32), Error> {
    let method = "PodSandboxStatus";
    let incomplete = |missing| Error::Incomplete { method, missing };
    let response = cri.pod_sandbox_status(sandbox)?;
    let network = response.status.and_then(|status| status.network).ok_or(incomplete("network"))?;
    let addresses = std::iter::once(network.ip)
        .chain(network.additional_ips.into_iter().map(|additional| additional.ip))
        .map(|address| address.parse().map_err(|_| incomplete("readable address")))
        .collect::<Result<_, _>>()?;
    let pid = response
        .info
        .get("info")
        .and_then(|info| serde_json::from_str::<Value>(info).ok())
        .and_then(|info| u32::try_from(info.get("pid")?.as_u64()?).ok())
        .ok_or(incomplete("pid in its info"))?;
    Ok((addresses, pid))
}

fn sandbox_config(spec: &PodSpec) -> PodSandboxConfig {
    let port_mapping = |(host, pod): &(u16, u16)| PortMapping {
        protocol: Protocol::Tcp.into(),
        container_port: (*pod).into(),
        host_port: (*host).into(),
        host_ip: String::new(),
    };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: spec.name.clone(),
            uid: format!("uid-of-{}", spec.name),
            namespace: NAMESPACE.to_owned(),
            attempt: 0,
        }),
        hostname: spec.name.clone(),
        dns_config: Some(DnsConfig::default()),
        port_mappings: spec.host_ports.iter().map(port_mapping).collect(),
        labels: [("app".to_owned(), spec.name.clone())].into(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: spec.cgroup_parent.clone(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

fn container_config(attempt: u32) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "workload".to_owned(), attempt }),
        image: Some(ImageSpec { image: image::REFERENCE.to_owned(), ..ImageSpec::default() }),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                // For ping; Kubernetes' default set has it too.
                capabilities: Some(Capability { add_capabilities: vec!["NET_RAW".to_owned()], ..Capability::default() }),
                namespace_options: Some(namespaces()),
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    }
}

fn namespaces() -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..NamespaceOption::default()
    }
}
