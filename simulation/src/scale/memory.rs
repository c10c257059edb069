//! What the pool of one node takes of memory, its supply included: by how much this process grows when there are many of them.

use std::collections::BTreeMap;
use std::fs;

use ipam_pool::range::Family;
use ipam_pool::{AttachmentKey, Pool};
use ipam_supply::evidence::Reader;
use ipam_supply::{Interface, Outcome, Reading, Supply};
use ipnetwork::{IpNetwork, Ipv4Network};
use node_api::BootMillis;

use crate::node::{COOLDOWN, supply_settings};

const PODS: usize = 250;
/// Enough that pages and the allocator's own books do not count.
const NODES: u32 = 1000;
/// Each pod is replaced so often before it is measured: freed addresses are remembered.
const GENERATIONS: u64 = 5;

/// Kilobytes of a pool and a supply with 250 pods. To be called before anything else has left freed memory behind.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn pool_kb() -> std::io::Result<f64> {
    let before = resident_kb()?;
    let nodes: Vec<_> = (0..NODES).map(node).collect();
    let grown = resident_kb()?.saturating_sub(before);
    let held: usize = nodes.iter().map(|(pool, _)| pool.counts(Family::V4, BootMillis(0)).held).sum();
    assert_eq!(held, NODES as usize * PODS, "all of them have their pods");
    Ok(grown as f64 / f64::from(NODES))
}

fn node(number: u32) -> (Pool, Supply) {
    let now = BootMillis(0);
    let (mut pool, mut supply) = (Pool::new(&[], COOLDOWN), Supply::new(supply_settings("node", true, 0), BTreeMap::new(), now));
    // 272 addresses.
    let block = |place: u32| Ipv4Network::new((number * 4096 + place * 16).into(), 28).ok().map(IpNetwork::V4);
    let blocks = (0..17).filter_map(block).collect();
    let id = "eni-0123456789abcdef0".to_owned();
    let interface =
        Interface { id, mac: [2, 0, 0, 0, 0, 1], address: None, gateways: vec![], blocks, free_slots: [12, 0], created_here: true };
    let reading = Reading { reader: Reader::Metadata, interfaces: vec![interface], interface_room: true, has_unidentified: false };
    if supply.poll_request(&mut pool, 0, now).is_some() {
        supply.handle_response(Outcome::Read(reading), &mut pool, now);
    }
    let mut pods = Vec::new();
    for generation in 0..GENERATIONS {
        let now = BootMillis((generation + 1) * 2 * COOLDOWN);
        for (owner, address) in pods.drain(..) {
            pool.release(address, &owner, BootMillis(now.0 - COOLDOWN));
        }
        pods.extend((0..PODS).filter_map(|pod| {
            let owner = owner(generation * PODS as u64 + pod as u64)?;
            let address = pool.take(Family::V4, &owner, now).ok()?;
            Some((owner, address))
        }));
    }
    (pool, supply)
}

/// As long as a runtime's names of containers are.
fn owner(pod: u64) -> Option<AttachmentKey> {
    format!("{pod:064x}/eth0").parse().ok()
}

fn resident_kb() -> std::io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).ok_or_else(|| std::io::Error::other("no VmRSS"))
}
