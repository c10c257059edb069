//! A pod, and a network attached to it.

use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::{
    case::{Stop, fail},
    kernel::{Kernel, Link},
    netns::Netns,
};

/// A container: an id and a namespace.
#[derive(Clone, Debug)]
pub struct Pod {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// Its path is `CNI_NETNS`.
    pub netns: Arc<Netns>,
}

impl Pod {
    /// A window into the pod's namespace.
    pub fn kernel(&self) -> Result<Kernel, Stop> {
        Ok(Kernel::of(&self.netns)?)
    }
}

/// A network attached to a pod.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The pod.
    pub pod: Pod,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// What ADD printed.
    pub result: Value,
}

impl Attachment {
    pub(super) fn new(pod: &Pod, interface: &str, result: Value) -> Self {
        Self { pod: pod.clone(), interface: interface.to_owned(), result }
    }

    /// The result's entry for the interface in the pod, and its index.
    pub fn entry(&self) -> Result<(usize, &Value), Stop> {
        let entries = self.list("interfaces").iter().enumerate();
        let found = entries
            .filter(|(_, entry)| entry["name"] == self.interface.as_str())
            .find(|(_, entry)| entry["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty()));
        match found {
            Some(found) => Ok(found),
            None => fail(format!(
                "expected an entry in \"interfaces\" with name {:?} and a sandbox, got {}",
                self.interface, self.result["interfaces"]
            )),
        }
    }

    /// The addresses that the result gives the interface in the pod. One that names no interface is meant for it too.
    pub fn addresses(&self) -> Result<Vec<IpNetwork>, Stop> {
        let (index, _) = self.entry()?;
        let mine = |ip: &&Value| ip["interface"].is_null() || ip["interface"].as_u64() == u64::try_from(index).ok();
        self.list("ips").iter().filter(mine).map(|ip| prefix(&ip["address"])).collect()
    }

    /// The result's routes.
    #[must_use]
    pub fn routes(&self) -> &[Value] {
        self.list("routes")
    }

    /// The interface in the pod, as the kernel sees it.
    pub fn link(&self) -> Result<Link, Stop> {
        let links = self.pod.kernel()?.links()?;
        let names: Vec<_> = links.iter().map(|link| link.name.clone()).collect();
        match links.into_iter().find(|link| link.name == self.interface) {
            Some(link) => Ok(link),
            None => fail(format!("expected an interface {:?} in the pod, its interfaces are {names:?}", self.interface)),
        }
    }

    fn list(&self, key: &str) -> &[Value] {
        self.result[key].as_array().map_or(&[], Vec::as_slice)
    }
}

/// Reads an address or a destination of a result.
pub(crate) fn prefix(value: &Value) -> Result<IpNetwork, Stop> {
    match value.as_str().and_then(|text| text.parse().ok()) {
        Some(prefix) => Ok(prefix),
        None => fail(format!("expected an address with its prefix length, got {value}")),
    }
}
