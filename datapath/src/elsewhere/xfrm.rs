//! IPsec policies (ip-xfrm(8)): what the stack would encrypt, refuse, or take only decrypted, the programs must not carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_sys::protocols::NETLINK_XFRM;
use nix::errno::Errno;
use nix::libc::{AF_INET, AF_INET6};

use super::{Elsewhere, Found, Share, native_parts, of_pods};
use crate::netlink::NetlinkError;
use crate::raw_netlink::{Dumps, attributes, number};
use crate::{NodeNetwork, prefixes};

/// A policy that does something to forwarded packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    from: IpNetwork,
    to: IpNetwork,
    /// `out` or `fwd`
    direction: &'static str,
    /// `block` or `protect`
    action: &'static str,
}

/// Reads all policies; none where the kernel has no IPsec.
pub(super) fn policies() -> Result<Vec<Policy>, NetlinkError> {
    const STEP: &str = "read the IPsec policies";
    /// `XFRM_MSG_GETPOLICY`, linux/xfrm.h
    const GET_POLICY: u16 = 0x15;
    let Some(mut socket) = Dumps::open(STEP, NETLINK_XFRM)? else { return Ok(Vec::new()) };
    let found = socket.dump(STEP, GET_POLICY, &[], |_, payload| Some(policy(payload)));
    match found {
        Ok(found) => Ok(found.into_iter().flatten().collect()),
        // The socket is there and the module is not.
        Err(error) if [Errno::EINVAL, Errno::EOPNOTSUPP, Errno::ECONNREFUSED].iter().any(|errno| error.is(*errno)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Offsets in `struct xfrm_userpolicy_info` (linux/xfrm.h), which begins with a `struct xfrm_selector`.
fn policy(payload: &[u8]) -> Vec<Policy> {
    const DESTINATION: usize = 0;
    const SOURCE: usize = 16;
    const FAMILY: usize = 40;
    const DESTINATION_LENGTH: usize = 42;
    const SOURCE_LENGTH: usize = 43;
    const DIRECTION: usize = 160;
    const ACTION: usize = 161;
    const SIZE: usize = 168;
    /// `XFRMA_TMPL`, `XFRMA_IF_ID`
    const TEMPLATES: u16 = 5;
    const INTERFACE: u16 = 31;
    const BLOCK: u8 = 1;
    let Some(info) = payload.get(..SIZE) else { return Vec::new() };
    let direction = match info[DIRECTION] {
        1 => "out",
        2 => "fwd",
        // What comes in is for the host itself.
        _ => return Vec::new(),
    };
    let (mut protects, mut interface) = (false, 0);
    for (kind, value) in attributes(&payload[SIZE..]) {
        match kind {
            TEMPLATES => protects = !value.is_empty(),
            INTERFACE => interface = number(value),
            _ => {}
        }
    }
    // A policy of an xfrm interface holds for what is routed to that interface, which is a route's matter.
    let action = match (info[ACTION] == BLOCK, protects) {
        _ if interface != 0 => return Vec::new(),
        (true, _) => "block",
        (false, true) => "protect",
        (false, false) => return Vec::new(),
    };
    let side = |ipv4: bool, at: usize, length: usize| {
        let bytes = &info[at..at + 16];
        let address = if ipv4 {
            IpAddr::from(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        } else {
            bytes.first_chunk::<16>().map_or(IpAddr::from(Ipv6Addr::UNSPECIFIED), |octets| IpAddr::from(*octets))
        };
        prefixes::prefix(ipv4, prefixes::number(address), info[length].min(prefixes::width(ipv4)))
    };
    let of_family =
        |ipv4| Policy { from: side(ipv4, SOURCE, SOURCE_LENGTH), to: side(ipv4, DESTINATION, DESTINATION_LENGTH), direction, action };
    match i32::from(u16::from_ne_bytes([info[FAMILY], info[FAMILY + 1]])) {
        AF_INET => vec![of_family(true)],
        AF_INET6 => vec![of_family(false)],
        // Of any family: there is no address to tell by.
        _ => vec![of_family(true), of_family(false)],
    }
}

/// Adds what these policies say to what was found.
pub(super) fn judge(policies: &[Policy], network: &NodeNetwork, found: &mut Found) {
    for policy in policies {
        let why = || format!("IPsec policy {} {} -> {} ({})", policy.direction, policy.from, policy.to, policy.action);
        let ipv4 = policy.from.is_ipv4();
        let (from, to) = (of_pods(&policy.from, network), of_pods(&policy.to, network));
        // Pods among themselves: nothing that is native can be told apart.
        if from != Share::None && to != Share::None {
            if !found.families.iter().any(|(family, _)| *family == ipv4) {
                found.families.push((ipv4, why()));
            }
            continue;
        }
        let remote = match () {
            () if from != Share::None => &policy.to,
            () if to != Share::None => &policy.from,
            () => continue,
        };
        for cidr in native_parts(remote, network) {
            if !found.elsewhere.iter().any(|known| prefixes::contains(&known.cidr, &cidr)) {
                found.elsewhere.push(Elsewhere { cidr, why: why() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PodRange;

    fn network() -> NodeNetwork {
        let range = |first: &str, last: &str| PodRange { first: first.parse().unwrap(), last: last.parse().unwrap(), uplink: 0 };
        NodeNetwork {
            pods: vec![range("10.0.1.16", "10.0.1.31"), range("fd00::1", "fd00::ff")],
            native: ["10.0.0.0/16", "fd00::/16"].map(|text| text.parse().unwrap()).to_vec(),
            ..NodeNetwork::default()
        }
    }

    fn judged(from: &str, to: &str) -> Found {
        let policy = Policy { from: from.parse().unwrap(), to: to.parse().unwrap(), direction: "out", action: "protect" };
        let mut found = Found::default();
        judge(&[policy], &network(), &mut found);
        found
    }

    #[test]
    fn a_policy_for_pods_concerns_its_other_end_and_no_more() {
        for (from, to) in [("10.0.1.16/28", "10.0.2.0/24"), ("10.0.2.0/24", "10.0.1.17/32")] {
            let found = judged(from, to);
            assert_eq!(found.cidrs(), ["10.0.2.0/24".parse::<IpNetwork>().unwrap()], "{from} {to}");
            assert!(found.families.is_empty() && found.elsewhere[0].to_string().contains("IPsec policy out"), "{found:?}");
        }
        assert_eq!(judged("10.0.9.0/24", "10.0.2.0/24"), Found::default(), "not pods'");
        assert_eq!(judged("10.0.1.16/28", "192.0.2.0/24"), Found::default(), "not native");
        assert_eq!(judged("0.0.0.0/0", "10.0.2.0/24").cidrs().len(), 1);
        assert!(judged("0.0.0.0/0", "0.0.0.0/0").families[0].0, "IPv4");
        assert!(!judged("::/0", "fd00::/16").families[0].0, "IPv6");
    }

    #[test]
    fn what_is_too_short_is_no_policy() {
        for length in [0, 55, 167] {
            assert_eq!(policy(&vec![1; length]), []);
        }
    }
}
