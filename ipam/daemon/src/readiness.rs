//! Why an ADD would fail now, and who is told.
//!
//! Three ask. A runtime asks STATUS, and what it makes of an error is that the node's network is broken: kubelet calls the node NotReady,
//! takes its pods out of every Service at once and evicts them after five minutes. So STATUS fails only where running pods suffer as well
//! (docs/adr/0012). `/readyz` asks whether an ADD would succeed, and conditions tell all that is wrong.

use cni_spec::{Code, Error};
use ipam_pool::range::Family;

use crate::conditions::{Finding, Kind};

/// How STATUS is answered: `cni.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StatusPolicy {
    /// It fails where the node's network is broken.
    #[default]
    Lenient,
    /// It fails wherever an ADD would, as the specification says.
    Strict,
}

/// A reason why an ADD would fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The daemon is about to end.
    Draining,
    /// It is not known yet which interface is the uplink.
    UplinkUnknown(String),
    /// The node's own uplink is not there.
    NoUplink(String),
    /// The node's own uplink does not run; its name.
    UplinkDown(String),
    /// The kernel forwards no packets of pods.
    NotForwarding(String),
    /// No pod could have an address of this family; what the pod would be told.
    Exhausted(Family, String),
    /// Somebody holds the kernel's lock of network configuration; what the pod would be told.
    KernelHeldUp(String),
    /// Nothing can be made durable; what the pod would be told.
    Store(String),
}

impl Fault {
    /// Whether running pods suffer, and are better off on another node.
    #[must_use]
    pub const fn is_broken_network(&self) -> bool {
        match self {
            Self::NoUplink(_) | Self::UplinkDown(_) | Self::NotForwarding(_) => true,
            // Pods that run are as well as before.
            Self::Draining | Self::UplinkUnknown(_) | Self::Exhausted(..) | Self::KernelHeldUp(_) | Self::Store(_) => false,
        }
    }

    /// As STATUS tells it (section 5 of the specification, "Error").
    #[must_use]
    pub fn to_error(&self) -> Error {
        let code = if self.is_broken_network() { Code::LimitedConnectivity } else { Code::NotAvailable };
        let message = match self {
            Self::Draining => "barewired is shutting down; try again when it is back".to_owned(),
            Self::UplinkUnknown(why) => format!("the node has no uplink yet: {why}"),
            Self::NoUplink(why) => format!("the node has no uplink: {why}; set uplink.interface or a default route"),
            Self::UplinkDown(ifname) => format!("the uplink {ifname} is down; bring it up"),
            Self::NotForwarding(why) | Self::Exhausted(_, why) | Self::KernelHeldUp(why) | Self::Store(why) => why.clone(),
        };
        Error::new(code, message)
    }

    /// As a condition tells it; nothing of what is over by itself in a moment, or is told by whoever sees it first.
    #[must_use]
    pub fn condition(&self) -> Option<(Kind, Finding)> {
        Some(match self {
            Self::Draining | Self::NotForwarding(_) | Self::KernelHeldUp(_) => return None,
            Self::UplinkUnknown(why) => (
                Kind::NoUplink,
                Finding::new(
                    "NotKnownYet",
                    format!("the node has no uplink yet: {why}"),
                    "see what keeps the cloud's metadata from being read",
                ),
            ),
            Self::NoUplink(why) => (
                Kind::NoUplink,
                Finding::new("NotFound", format!("the node has no uplink: {why}"), "set uplink.interface or a default route"),
            ),
            Self::UplinkDown(ifname) => {
                (Kind::UplinkDown, Finding::new("NoCarrier", format!("the uplink {ifname} is down"), "bring it up, or see to its cable"))
            }
            Self::Exhausted(family, _) => (
                Kind::AddressesExhausted,
                Finding::new(
                    if matches!(family, Family::V4) { "NoFreeIPv4Address" } else { "NoFreeIPv6Address" },
                    format!("no {family} address is free: all are in use, cooling down or closed; running pods are well"),
                    "give the node more addresses, or set kubelet's maxPods to what `barewired --max-pods` prints",
                ),
            ),
            Self::Store(why) => (
                Kind::StoreNotWritable,
                Finding::new("CommitFailed", why.clone(), "free space in the run directory; running pods are well"),
            ),
        })
    }
}

/// The kinds that [`Fault::condition`] tells, so that those that are over can be ended.
pub const KINDS: [Kind; 4] = [Kind::NoUplink, Kind::UplinkDown, Kind::AddressesExhausted, Kind::StoreNotWritable];

/// What STATUS answers, of all that is wrong.
///
/// # Errors
/// [`Code::NotAvailable`] or, where running pods suffer too, [`Code::LimitedConnectivity`].
pub fn status(policy: StatusPolicy, faults: &[Fault]) -> Result<(), Error> {
    let told = faults.iter().find(|fault| policy == StatusPolicy::Strict || fault.is_broken_network());
    told.map_or(Ok(()), |fault| Err(fault.to_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_fault() -> [Fault; 8] {
        [
            Fault::Draining,
            Fault::UplinkUnknown("metadata".into()),
            Fault::NoUplink("gone".into()),
            Fault::UplinkDown("eth1".into()),
            Fault::NotForwarding("sysctl".into()),
            Fault::Exhausted(Family::V4, "no free".into()),
            Fault::KernelHeldUp("held".into()),
            Fault::Store("full".into()),
        ]
    }

    #[test]
    fn status_fails_only_where_running_pods_suffer() {
        for fault in every_fault() {
            let suffers = matches!(fault, Fault::NoUplink(_) | Fault::UplinkDown(_) | Fault::NotForwarding(_));
            let answer = status(StatusPolicy::Lenient, std::slice::from_ref(&fault));
            assert_eq!(answer.is_err(), suffers, "{fault:?}");
            assert_eq!(answer.err().map(|error| error.code), suffers.then_some(Code::LimitedConnectivity));
            assert!(status(StatusPolicy::Strict, &[fault]).is_err());
        }
        assert!(status(StatusPolicy::Strict, &[]).is_ok());
    }

    #[test]
    fn what_breaks_the_network_is_told_whatever_else_is_wrong() {
        let error = status(StatusPolicy::Lenient, &every_fault()).unwrap_err();
        assert!(error.msg.contains("gone"), "{error}");
    }

    #[test]
    fn conditions_are_of_the_kinds_that_can_be_ended() {
        for (kind, _) in every_fault().iter().filter_map(Fault::condition) {
            assert!(KINDS.contains(&kind) && kind.fails_adds(), "{kind:?}");
        }
    }
}
