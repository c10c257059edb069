//! Kernel settings that a node with pods needs.

use std::io;
use std::path::PathBuf;

use crate::NodeNetwork;
use crate::repairs::{self, Kind};

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("sysctl {path}: {source}; set it at boot (sysctl.d) if barewired may not", path = path.display())]
pub struct SysctlError {
    path: PathBuf,
    source: io::Error,
}

/// Lets the kernel forward packets between pods and uplinks, for each family that pods use; what it refused.
///
/// With IPv6 forwarding the kernel ignores router advertisements unless `accept_ra` is 2; an uplink that lives by them
/// would lose its default route some minutes later, so a 1 there becomes a 2, and first
/// (Documentation/networking/ip-sysctl.rst).
pub(crate) fn enable_forwarding(network: &NodeNetwork) -> Vec<SysctlError> {
    let mut refused = Vec::new();
    if network.pods_of(true).next().is_some() {
        refused.extend(set("net/ipv4/ip_forward", "1").err());
        // Each interface has its own, which counts for what comes in by it. Pods' links have theirs from the ADD on.
        refused
            .extend(network.uplinks.iter().filter_map(|uplink| set_if_there(&format!("net/ipv4/conf/{}/forwarding", uplink.ifname), "1")));
    }
    if network.pods_of(false).next().is_some() {
        let advertised = network.uplinks.iter().try_for_each(|uplink| keep_advertisements(&uplink.ifname));
        // Rather no pods of this family than a node without its default route.
        refused.extend(advertised.and_then(|()| set("net/ipv6/conf/all/forwarding", "1")).err());
    }
    refused
}

fn keep_advertisements(ifname: &str) -> Result<(), SysctlError> {
    let accept_ra = format!("net/ipv6/conf/{ifname}/accept_ra");
    match get(&accept_ra) {
        Ok(value) if value == "1" => set(&accept_ra, "2"),
        // It may have gone since it was looked for.
        Err(error) if error.source.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A further uplink carries packets whose way back by the main table is another, so a strict `rp_filter` becomes a loose one; what was
/// refused.
pub(crate) fn settle_uplinks(network: &NodeNetwork) -> Vec<SysctlError> {
    if network.pods_of(true).next().is_none() {
        return Vec::new();
    }
    let further = network.uplinks.iter().filter(|uplink| uplink.index != 0);
    further.filter_map(|uplink| set_if_there(&format!("net/ipv4/conf/{}/rp_filter", uplink.ifname), "2")).collect()
}

/// Lets an interface take router advertisements though the kernel forwards, from its first one on, and places the default routes
/// that they bring behind those of the node's own uplink.
pub(crate) fn take_advertisements(ifname: &str) -> Result<(), SysctlError> {
    /// The kernel's default is 1024 (IP6_RT_PRIO_USER).
    const BEHIND: &str = "4096";
    let folder = format!("net/ipv6/conf/{ifname}");
    // A kernel without IPv6 has none of it, and one before 5.12 no metric.
    for (name, value) in [("ra_defrtr_metric", BEHIND), ("accept_ra", "2")] {
        let setting = format!("{folder}/{name}");
        if PathBuf::from("/proc/sys").join(&setting).exists() {
            set(&setting, value)?;
        }
    }
    Ok(())
}

/// Lets an interface of the calling thread's network namespace have IPv6 addresses. `/proc/sys/net` is that namespace's.
pub(crate) fn enable_ipv6(ifname: &str) -> Result<(), SysctlError> {
    set(&format!("net/ipv6/conf/{ifname}/disable_ipv6"), "0")
}

/// Lets an interface answer neighbour solicitations for the addresses that a proxy's entries name.
pub(crate) fn answer_for_others(ifname: &str) -> Result<(), SysctlError> {
    set(&format!("net/ipv6/conf/{ifname}/proxy_ndp"), "1")
}

fn get(name: &str) -> Result<String, SysctlError> {
    let path = PathBuf::from("/proc/sys").join(name);
    match std::fs::read_to_string(&path) {
        Ok(value) => Ok(value.trim().to_owned()),
        Err(source) => Err(SysctlError { path, source }),
    }
}

/// The same of an interface that may have gone since it was looked for.
fn set_if_there(name: &str, value: &str) -> Option<SysctlError> {
    set(name, value).err().filter(|error| error.source.kind() != io::ErrorKind::NotFound)
}

/// Writes only what differs: `/proc/sys` may be read-only where somebody else has set it right.
fn set(name: &str, value: &str) -> Result<(), SysctlError> {
    if get(name)? == value {
        return Ok(());
    }
    let path = PathBuf::from("/proc/sys").join(name);
    std::fs::write(&path, value).map_err(|source| SysctlError { path, source })?;
    repairs::note(Kind::Sysctl, &format!("{name} = {value}"));
    Ok(())
}
