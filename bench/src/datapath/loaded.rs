//! A node that is full: [`ENDPOINTS`] pods by real ADDs, and [`FLOWS`] noted flows of theirs.
//!
//! What a node sends to its own pods passes the stack, as a kubelet's probes do, and the kernel programs note each such flow
//! for the endpoint. So one packet each from the node to many ports of every pod fills the table of flows, and marks every
//! endpoint as one with flows: from then on each of its packets is looked up. What the maps hold is read from the maps.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use ebpf::flow::{Flow4, Noted};
use ebpf::layout::Endpoint;

use crate::contender::Pods;
use crate::daemon::Daemon;
use crate::datapath::cluster::{Cluster, address_of_node, write_setting};
use crate::datapath::programs::held_by;

/// Pods on the node.
pub const ENDPOINTS: usize = 1_000;
/// Noted flows of all of them.
pub const FLOWS: usize = 100_000;

const FIRST_PORT: usize = 20_000;
/// Longer than any run: the daemon forgets flows that were idle for longer than conntrack would keep them.
const IDLE_SECONDS: &str = "3600";
/// Room in a socket's queue is a matter of microseconds.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// What the maps of a node's daemon hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Endpoints of which at least one flow was noted: their packets are looked up.
    pub endpoints: usize,
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
    let _home = cluster.node(0).enter()?;
    write_setting("netfilter/nf_conntrack_udp_timeout_stream", IDLE_SECONDS)?;
    let socket = UdpSocket::bind((address_of_node(0), 0)).context("cannot bind the node's address")?;
    socket.set_write_timeout(Some(SEND_LIMIT))?;
    for pod in cluster.pods(0) {
        for port in FIRST_PORT..FIRST_PORT + FLOWS.div_ceil(ENDPOINTS) {
            let there = SocketAddr::new(pod.address()?, u16::try_from(port)?);
            socket.send_to(&[0], there).with_context(|| {
                format!("the node cannot send to {there}: if not permitted, raise net.netfilter.nf_conntrack_max above {FLOWS}")
            })?;
        }
    }
    require(cluster)
}

/// Makes sure that the first node is full, still.
///
/// # Errors
/// When it is not; the message has the numbers.
pub fn require(cluster: &Cluster) -> Result<()> {
    let daemon = cluster.daemons().first().context("the node has no daemon")?;
    let Held { endpoints, flows } = held(daemon)?;
    ensure!(
        endpoints >= ENDPOINTS && flows >= FLOWS,
        "the loaded node has {endpoints} endpoints with flows and {flows} noted flows, not {ENDPOINTS} and {FLOWS}: \
         the kernel programs did not note what the node sent to its pods, or the daemon forgot it"
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
    let mut marked = 0;
    for endpoint in endpoints.iter() {
        marked += usize::from(is_marked(endpoint?));
    }
    let flows = flows.keys().try_fold(0, |count, flow| flow.map(|_| count + 1))?;
    Ok(Held { endpoints: marked, flows })
}

/// Whether there is an endpoint, on the fast path, whose packets are looked up.
fn is_marked(endpoint: [u8; size_of::<Endpoint>()]) -> bool {
    const IFINDEX: usize = std::mem::offset_of!(Endpoint, ifindex);
    const HAS_FLOWS: usize = std::mem::offset_of!(Endpoint, has_flows);
    const STACK_ONLY: usize = std::mem::offset_of!(Endpoint, stack_only);
    endpoint[IFINDEX..][..4] != [0; 4] && endpoint[HAS_FLOWS] != 0 && endpoint[STACK_ONLY] == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_counts_where_its_packets_are_looked_up_and_carried() {
        let mut endpoint = [0; size_of::<Endpoint>()];
        endpoint[std::mem::offset_of!(Endpoint, has_flows)] = 1;
        assert!(!is_marked(endpoint), "no interface");
        endpoint[std::mem::offset_of!(Endpoint, ifindex) + 2] = 0x10;
        assert!(is_marked(endpoint));
        endpoint[std::mem::offset_of!(Endpoint, stack_only)] = 1;
        assert!(!is_marked(endpoint), "the stack carries its packets");
    }
}
