//! The one place where inner errors become CNI errors.

use cni_spec::{Code, Error};
use datapath::netlink::NetlinkError;
use datapath::{NetnsError, WiringError};

use ipam_pool::PoolError;
use ipam_state::store::StoreError;

pub(crate) fn pool(error: &PoolError) -> Error {
    let code = match error {
        PoolError::Exhausted { .. } | PoolError::InUse { .. } | PoolError::Cooling { .. } | PoolError::Quarantined(..) => {
            Code::TryAgainLater
        }
        PoolError::Foreign(_) | PoolError::OfHost(_) | PoolError::OfPods(..) => Code::InvalidConfig,
    };
    let remedy = match error {
        PoolError::Exhausted { .. } => "; try again later, or give the node more addresses",
        PoolError::Foreign(_) | PoolError::OfPods(..) => "; ask for another, or none",
        PoolError::OfHost(_) => "",
        _ => "; try again later",
    };
    Error::new(code, format!("{error}{remedy}"))
}

pub(crate) fn wiring(error: &WiringError) -> Error {
    match error {
        WiringError::NameTaken(_) => Error::new(Code::InvalidEnvironment, format!("CNI_IFNAME: {error}")),
        WiringError::Netns(error) => netns(None, error),
        WiringError::Netlink(error) if error.is_held_up() => netlink(error),
        WiringError::Netlink(_)
        | WiringError::FastPath(_)
        | WiringError::Ipv6Disabled(_)
        | WiringError::NoIpv6
        | WiringError::HostEndTaken(..) => Error::new(Code::WiringFailed, format!("cannot wire the pod: {error}")),
    }
}

/// `path` is the namespace's in the runtime's view, where the request tells it.
pub(crate) fn netns(path: Option<&str>, error: &NetnsError) -> Error {
    let named = path.map_or_else(String::new, |path| format!(" {path:?}"));
    Error::new(Code::InvalidEnvironment, format!("CNI_NETNS{named}: {error}; give the path of the pod's network namespace"))
}

pub(crate) fn store(error: &StoreError) -> Error {
    let remedy = match error {
        StoreError::Failed { .. } => "; free space in the run directory",
        _ => "",
    };
    Error::new(Code::IoFailure, format!("cannot make the attachment durable: {error}{remedy}"))
}

pub(crate) fn netlink(error: &NetlinkError) -> Error {
    if error.is_held_up() {
        return Error::new(Code::TryAgainLater, held_up());
    }
    Error::new(Code::IoFailure, format!("cannot read the kernel's tables: {error}"))
}

/// What is told where somebody has held the kernel's lock of network configuration for long.
pub(crate) fn held_up() -> String {
    "somebody holds the kernel's lock of network configuration (RTNL) and does not let it go, so no pod can be wired or looked at; \
     try again later (`grep -l rtnl /proc/*/task/*/stack` as root tells who waits and who has it)"
        .to_owned()
}
