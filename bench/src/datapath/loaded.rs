//! A node that is full: [`ENDPOINTS`] pods by real ADDs, and [`FLOWS`] noted flows of theirs.
//!
//! Every pod gets a service address of its own, and another pod sends one packet each to many ports of it. The stack
//! translates them, and the kernel programs note each such flow: the table of flows fills, and every packet is looked up in a full
//! one. What the maps hold is read from the maps.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use ebpf::flow::{Flow4, Noted};
use ebpf::layout::Endpoint;

use crate::contender::Pods;
use crate::daemon::Daemon;
use crate::datapath::cluster::{Cluster, write_setting};
use crate::datapath::programs::held_by;
use crate::node::feed;
use crate::plugin::Attached;

/// Pods on the node.
pub const ENDPOINTS: usize = 1_000;
/// Noted flows of all of them.
pub const FLOWS: usize = 100_000;

const FIRST_PORT: usize = 20_000;
/// The first half of a service's address; the second half is its pod's.
const SERVICES: [u8; 2] = [10, 97];
/// Longer than any run: the daemon forgets flows that were idle for longer than conntrack would keep them.
const IDLE_SECONDS: &str = "3600";
/// Room in a socket's queue is a matter of microseconds.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// What the maps of a node's daemon hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Endpoints on the fast path.
    pub endpoints: usize,
    /// Endpoints all of whose packets take the stack.
    pub slow: usize,
    /// Noted flows over IPv4.
    pub flows: usize,
}

/// Fills the first node of a cluster.
///
/// # Errors
/// When an ADD fails, or flows cannot be noted.
pub fn fill(cluster: &mut Cluster, names: &mut Pods) -> Result<()> {
    while cluster.pods(0).len() < ENDPOINTS {
        cluster.add(0, names).with_context(|| format!("the ADD of pod {} of {ENDPOINTS}", cluster.pods(0).len() + 1))?;
    }
    let services = cluster.pods(0).iter().map(service_of).collect::<Result<Vec<_>>>()?;
    {
        let _home = cluster.node(0).enter()?;
        for setting in ["netfilter/nf_conntrack_udp_timeout", "netfilter/nf_conntrack_udp_timeout_stream"] {
            write_setting(setting, IDLE_SECONDS)?;
        }
        feed("nft", &["-f", "-"], "nftables", &translation(&services))?;
    }
    // Each sends to the next one's service: the sender is charged with the notes, and no pod may have too many.
    for (pod, service) in cluster.pods(0).iter().zip(services.iter().cycle().skip(1)) {
        send_from(pod, &[*service])?;
    }
    require(cluster)
}

/// A service's address and its pod's.
pub(super) fn service_of(pod: &Attached) -> Result<(Ipv4Addr, Ipv4Addr)> {
    let IpAddr::V4(address) = pod.address()? else { bail!("the pod {} has no IPv4 address", pod.address()?) };
    let ([first, second], [_, _, third, fourth]) = (SERVICES, address.octets());
    Ok((Ipv4Addr::new(first, second, third, fourth), address))
}

/// The rule of all services, for `nft`: a map, as kube-proxy writes in its nftables mode.
pub(super) fn translation(services: &[(Ipv4Addr, Ipv4Addr)]) -> String {
    let backends: Vec<_> = services.iter().map(|(service, pod)| format!("{service} : {pod}")).collect();
    format!(
        "table ip bench {{\n\
         map backends {{ type ipv4_addr : ipv4_addr; elements = {{ {} }} }}\n\
         chain services {{ type nat hook prerouting priority dstnat; meta l4proto {{ tcp, udp }} dnat to ip daddr map @backends; }}\n\
         }}\n",
        backends.join(", ")
    )
}

/// One packet from a pod to each port of each service.
fn send_from(pod: &Attached, services: &[(Ipv4Addr, Ipv4Addr)]) -> Result<()> {
    let _home = pod.namespace().enter()?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot open a socket in a pod")?;
    socket.set_write_timeout(Some(SEND_LIMIT))?;
    for (service, _) in services {
        for port in FIRST_PORT..FIRST_PORT + FLOWS.div_ceil(ENDPOINTS) {
            let there = (*service, u16::try_from(port)?);
            socket.send_to(&[0], there).with_context(|| format!("a pod cannot send to {there:?}"))?;
        }
    }
    Ok(())
}

/// Makes sure that the first node is full, still.
///
/// # Errors
/// When it is not; the message has the numbers.
pub fn require(cluster: &Cluster) -> Result<()> {
    let daemon = cluster.daemons().first().context("the node has no daemon")?;
    let Held { endpoints, slow: _, flows } = held(daemon)?;
    ensure!(
        endpoints >= ENDPOINTS && flows >= FLOWS,
        "the loaded node has {endpoints} endpoints on the fast path and {flows} noted flows, not {ENDPOINTS} and {FLOWS}: \
         the programs did not note what was sent to services, the daemon forgot it, or conntrack has no room for as many \
         (net.netfilter.nf_conntrack_max)"
    );
    Ok(())
}

/// Reads the maps that a daemon holds.
///
/// # Errors
/// When it holds none of the names that are looked for.
pub fn held(daemon: &Daemon) -> Result<Held> {
    let maps = held_by(daemon, "map_id:")?.into_iter().map(MapInfo::from_id).collect::<Result<Vec<_>, _>>()?;
    let open = |name: &str| -> Result<MapData> {
        let map = maps.iter().find(|map| map.name() == name.as_bytes()).with_context(|| format!("barewired holds no map {name}"))?;
        Ok(MapData::from_id(map.id())?)
    };
    let endpoints: Array<_, [u8; size_of::<Endpoint>()]> = Map::Array(open("ENDPOINTS")?).try_into()?;
    let flows: HashMap<_, [u8; size_of::<Flow4>()], [u8; size_of::<Noted>()]> = Map::HashMap(open("FLOWS4")?).try_into()?;
    let (mut carried, mut slow) = (0, 0);
    for endpoint in endpoints.iter() {
        match state_of(endpoint?) {
            (true, true) => carried += 1,
            (true, false) => slow += 1,
            (false, _) => {}
        }
    }
    let flows = flows.keys().try_fold(0, |count, flow| flow.map(|_| count + 1))?;
    Ok(Held { endpoints: carried, slow, flows })
}

/// Whether there is an endpoint, and whether it is on the fast path.
fn state_of(endpoint: [u8; size_of::<Endpoint>()]) -> (bool, bool) {
    const IFINDEX: usize = std::mem::offset_of!(Endpoint, ifindex);
    const STACK_ONLY: usize = std::mem::offset_of!(Endpoint, stack_only);
    (endpoint[IFINDEX..][..4] != [0; 4], endpoint[STACK_ONLY] == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_is_translated_to_its_pod() {
        let services =
            [(Ipv4Addr::new(10, 97, 16, 2), Ipv4Addr::new(10, 10, 16, 2)), (Ipv4Addr::new(10, 97, 17, 0), Ipv4Addr::new(10, 10, 17, 0))];
        assert!(translation(&services).contains("elements = { 10.97.16.2 : 10.10.16.2, 10.97.17.0 : 10.10.17.0 }"));
    }

    #[test]
    fn an_endpoint_counts_where_its_packets_are_carried() {
        let mut endpoint = [0; size_of::<Endpoint>()];
        assert!(!state_of(endpoint).0, "no interface");
        endpoint[std::mem::offset_of!(Endpoint, ifindex) + 2] = 0x10;
        assert_eq!(state_of(endpoint), (true, true));
        endpoint[std::mem::offset_of!(Endpoint, stack_only)] = 1;
        assert_eq!(state_of(endpoint), (true, false), "the stack carries its packets");
    }
}
