//! A node's addresses become more as it needs them, end, and become fewer again.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cloudsim::cloud::{Interface, Request};
use ipnetwork::IpNetwork;
use lab::Error;
use lab::command::wait_until;
use lab::cri::pod::Pod;

use crate::site::{Kind, SETTLES, Site};

/// How long a new node may take from its daemon's start to addresses.
const FIRST: Duration = Duration::from_secs(20);
/// How long a pod may take to be refused: what the daemon waits for its cloud, and what the runtime needs.
const REFUSED: Duration = Duration::from_secs(15);
/// How long until an address is free that was given back: the cooldown of the lab's configuration, and the pod's own start.
const COOLED: Duration = Duration::from_secs(15);
/// Prefixes of an AWS node, three interfaces of three.
const AWS_BLOCKS: usize = 9;

pub(crate) fn first_pods(site: &mut Site) -> Result<()> {
    for _ in 0..2 {
        site.start_pod_within(FIRST)?;
    }
    site.every_pod_pings()
}

pub(crate) fn second_interface(site: &mut Site) -> Result<()> {
    // On AWS the node sees to it itself.
    if site.kind != Kind::Aws {
        site.attach_another()?;
    }
    pod_on(site, |device_index| device_index == 1)?;
    site.every_pod_pings()
}

/// A crowd comes until one of it is on an interface that is wanted, by its place; then a pod of the runtime comes there as well.
pub(crate) fn pod_on(site: &mut Site, is_wanted: fn(u32) -> bool) -> Result<Pod> {
    let last = wait_until(&format!("a pod on another interface of {}", site.kind.name()), SETTLES, || {
        let address = site.join().map_err(|error| error.to_string())?;
        let device_index = site.device_index_of(address).map_err(|error| format!("{error:#}"))?;
        if is_wanted(device_index) { Ok(address) } else { Err(format!("{} pods, the last on {device_index}", site.crowd.len())) }
    })?;
    // Its address, which is free again, or another one there.
    site.leave(last)?;
    for _ in 0..16 * site.blocks()? {
        let pod = site.start_pod_within(COOLED)?;
        if is_wanted(site.device_index_of(pod.v4().context("an IPv4 address")?)?) {
            return Ok(pod);
        }
        site.remove_pod(site.pods.len() - 1)?;
        site.join_within(COOLED)?;
    }
    anyhow::bail!("no pod of the runtime is on the wanted interface of {}", site.kind.name())
}

pub(crate) fn exhaustion(site: &mut Site) -> Result<()> {
    let told = wait_until(&format!("{} full", site.kind.name()), 2 * SETTLES, || {
        let refused = match site.join() {
            Ok(_) => return Err(format!("{} pods", site.addresses().count())),
            Err(error) => error.to_string(),
        };
        if is_full(site).map_err(|error| format!("{error:#}"))? { Ok(refused) } else { Err(refused) }
    })?;
    ensure!(told.contains("\"code\":11") && told.contains("no free IPv4 address"), "the plugin's caller is told {told}");
    let begun = Instant::now();
    let refused = match site.start_pod() {
        Ok(pod) => anyhow::bail!("a full node started {} {:?}", pod.name, pod.addresses),
        Err(Error::Cri(refused)) => refused,
        Err(other) => return Err(other.into()),
    };
    ensure!(begun.elapsed() < REFUSED, "the refusal took {:?}", begun.elapsed());
    let message = refused.refusal().with_context(|| format!("not a refusal: {refused}"))?;
    ensure!(message.contains("address"), "the runtime's caller is not told what is missing: {message}");

    let gone = site.crowd.pop().context("a full node without a crowd")?;
    gone.remove(&site.worker.node)?;
    site.start_pod_within(COOLED)?;
    site.every_pod_pings()?;
    site.remove_pod(site.pods.len() - 1)
}

/// Whether every address that the node can have is some pod's.
fn is_full(site: &Site) -> Result<bool> {
    // Of an IPv6 prefix nobody sees the end.
    let (blocks, used) = (site.blocks()?, site.addresses().filter(IpAddr::is_ipv4).count());
    Ok(match site.kind {
        Kind::Aws => blocks == AWS_BLOCKS && used == 16 * blocks,
        Kind::Azure => used == blocks,
        Kind::Gcp => used == 16 * blocks,
    })
}

pub(crate) fn shrinking(site: &mut Site) -> Result<()> {
    site.disperse()?;
    match site.kind {
        Kind::Aws => given_back(site)?,
        Kind::Azure | Kind::Gcp => taken(site)?,
    }
    site.start_pod_within(FIRST)?;
    site.every_pod_pings()
}

/// The node gives back all but what it keeps in reserve.
fn given_back(site: &Site) -> Result<()> {
    /// Of the lab's configuration: at most a block and a half free, beside the few pods. These are in no more blocks than that.
    const KEPT: usize = 2;
    // The API lists the latest of them at its next reading, which is a minute after the last at the earliest.
    wait_until("prefixes given back", 2 * SETTLES, || match site.blocks() {
        Ok(blocks) if blocks <= KEPT => Ok(()),
        Ok(blocks) => Err(format!("{blocks} prefixes")),
        Err(error) => Err(format!("{error:#}")),
    })?;
    Ok(())
}

/// The operator takes what no pod has; nobody gets an address of it any more.
fn taken(site: &mut Site) -> Result<()> {
    /// Pods that come then.
    const NEXT: u64 = 5;
    let used: Vec<IpAddr> = site.addresses().collect();
    let is_free = |network: &IpNetwork| !used.iter().any(|address| network.contains(*address));
    let interfaces = site.interfaces()?;
    let blocks = |interface: &Interface| {
        let single = interface.secondary.iter().map(|address| IpNetwork::from(IpAddr::V4(*address)));
        single.chain(interface.ipv4_prefixes.iter().map(|prefix| IpNetwork::V4(*prefix))).collect::<Vec<_>>()
    };
    let free = interfaces.iter().find_map(|interface| Some((interface.id, blocks(interface).into_iter().find(is_free)?)));
    let (interface, block) = free.context("every block has a pod")?;
    let IpNetwork::V4(network) = block else { anyhow::bail!("{block} is not of IPv4") };
    let (addresses, prefixes) = if network.prefix() == 32 { (vec![network.ip()], Vec::new()) } else { (Vec::new(), vec![network]) };
    site.apply(&Request::UnassignPrivateIpAddresses { interface, addresses, prefixes })?;
    site.wait_until_doubted(block)?;
    // Where there is nothing else, what is doubted is given all the same.
    site.wait_until_free(NEXT)?;
    for _ in 0..NEXT {
        let address = site.join()?;
        ensure!(!block.contains(address), "{address} was given to a pod after the cloud took {block}");
    }
    Ok(())
}
