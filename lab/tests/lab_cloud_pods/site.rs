//! A node on one of the clouds, with its pods and what its cloud's operator does for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cloudsim::cloud::{Interface, InterfaceSpec, Request, Response};
use cloudsim::faults::{DeviceFaults, Faults, Latency};
use cloudsim::time::Millis;
use ipnetwork::IpNetwork;
use lab::bare::BarePod;
use lab::cloud::LabCloud;
use lab::cni::NodeCni;
use lab::command::{Running, wait_until};
use lab::cri::pod::Pod;
use lab::network::Network;
use lab::node::tail;
use lab::telemetry;
use lab::topology::Topology;
use lab::worker::Worker;
use lab::{Lab, Options};
use serde::Deserialize;

/// Limit of one command in a pod or node.
const COMMAND: Duration = Duration::from_secs(30);
/// How long a pod may have to wait until a reader lists what was assigned, and its interface: metadata is read every 30 s.
pub(crate) const SETTLES: Duration = Duration::from_secs(60);
/// Beyond the VPC.
const INTERNET: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10))];
/// When a device comes that was attached, under a name that nobody has foretold.
const DEVICES: DeviceFaults = DeviceFaults { attaching: seconds(1), appearing: seconds(3), detaching: seconds(0), misnamed: 1.0 };

const fn seconds(count: u64) -> Latency {
    Latency::exactly(Millis::seconds(count))
}

/// A cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The node asks for addresses itself.
    Aws,
    /// An operator assigns single addresses.
    Azure,
    /// An operator assigns ranges.
    Gcp,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Aws, Self::Azure, Self::Gcp];

    /// The node's name, which is the cloud's.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::Gcp => "gcp",
        }
    }

    /// How many addresses a pod has: one of each family.
    const fn families(self) -> usize {
        match self {
            Self::Aws => 2,
            Self::Azure | Self::Gcp => 1,
        }
    }
}

/// The lab with its cloud.
pub(crate) struct CloudLab {
    lab: Option<Lab>,
    cloud: LabCloud,
}

impl CloudLab {
    pub(crate) fn up() -> Result<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/clouds.clab.yml");
        let options = Options { name: Some("cloud-pods".to_owned()), ..Options::of_this_program()? };
        let lab = Lab::up(Topology::read(&file)?, &options)?;
        let cloud = LabCloud::start(lab.name(), lab.topology(), lab.nodes())?;
        let lab = Self { lab: Some(lab), cloud };
        lab.set_faults(Faults::default());
        Ok(lab)
    }

    /// What goes wrong from now on, beside devices that are always late.
    pub(crate) fn set_faults(&self, faults: Faults) {
        set_faults(&self.cloud, faults);
    }

    fn lab(&self) -> Result<&Lab> {
        self.lab.as_ref().context("the lab is down")
    }

    /// The cloud's own books, and what the fabric could not do.
    pub(crate) fn is_sound(&self) -> Result<()> {
        self.cloud.server.with(|cloud, _| cloud.audit())?;
        let complaints = self.cloud.complaints();
        ensure!(complaints.is_empty(), "the fabric: {complaints:?}");
        Ok(())
    }

    pub(crate) fn down(mut self) -> Result<()> {
        self.lab.take().map_or(Ok(()), |lab| Ok(lab.down()?))
    }
}

fn set_faults(cloud: &LabCloud, faults: Faults) {
    cloud.server.with(|cloud, _| cloud.set_faults(Faults { devices: DEVICES, ..faults }));
}

/// A node, with pods of the runtime that are looked at, and a crowd of cheap ones that take addresses.
pub(crate) struct Site<'lab> {
    pub(crate) kind: Kind,
    pub(crate) cloud: &'lab LabCloud,
    pub(crate) worker: Worker,
    pub(crate) pods: Vec<Pod>,
    pub(crate) crowd: Vec<BarePod>,
    /// What its pods are to reach: the other nodes, and the internet.
    peers: Vec<IpAddr>,
    made: usize,
}

impl<'lab> Site<'lab> {
    pub(crate) fn start(lab: &'lab CloudLab, kind: Kind) -> Result<Self> {
        let cloud = &lab.cloud;
        let mut peers = INTERNET.to_vec();
        for other in Kind::ALL.iter().filter(|other| **other != kind) {
            let id = cloud.instance(other.name())?;
            let first = cloud.server.with(|cloud, _| cloud.interfaces_of(id).first().map(|first| (first.primary, first.ipv6.clone())));
            let (v4, v6) = first.context("it has no interface")?;
            peers.push(v4.into());
            peers.extend(v6.into_iter().map(IpAddr::V6));
        }
        let worker = Worker::start(lab.lab()?, kind.name(), NodeCni::Barewire).with_context(|| kind.name().to_owned())?;
        // The first use of `ip netns` mounts over the directory, and a runtime cannot remove what it made there before (ip-netns(8)).
        worker.node.run(&["sh", "-c", "ip netns add first && ip netns delete first"])?;
        Ok(Self { kind, cloud, worker, pods: Vec::new(), crowd: Vec::new(), peers, made: 0 })
    }

    /// The end of the daemon's log.
    pub(crate) fn logs(&self) -> Vec<String> {
        let log = tail(&self.worker.node.logs().join("barewired.log"), 12);
        log.lines().map(|line| format!("{}: {}", self.kind.name(), line.chars().take(400).collect::<String>())).collect()
    }

    fn next_name(&mut self) -> String {
        self.made += 1;
        format!("p{}", self.made)
    }

    /// Starts a pod through the runtime.
    pub(crate) fn start_pod(&mut self) -> lab::Result<&Pod> {
        let name = self.next_name();
        let pod = self.worker.run_pod(&name)?;
        self.pods.push(pod);
        Ok(&self.pods[self.pods.len() - 1])
    }

    /// Starts a pod as a kubelet does, which tries again.
    pub(crate) fn start_pod_within(&mut self, limit: Duration) -> Result<Pod> {
        let what = format!("a pod on {}", self.kind.name());
        Ok(wait_until(&what, limit, || self.start_pod().cloned().map_err(|error| error.to_string()))?)
    }

    pub(crate) fn remove_pod(&mut self, index: usize) -> Result<()> {
        let pod = self.pods.remove(index);
        Ok(self.worker.remove_pod(&pod)?)
    }

    /// Adds to the crowd.
    pub(crate) fn join(&mut self) -> lab::Result<IpAddr> {
        let name = self.next_name();
        let pod = BarePod::start(&self.worker.node, &name, &[]).inspect_err(|_| {
            // The error that led here is the one to report.
            let _ = self.worker.node.run(&["ip", "netns", "delete", &name]);
        })?;
        let address = pod.addresses[0];
        self.crowd.push(pod);
        Ok(address)
    }

    /// As a kubelet does, which tries again.
    pub(crate) fn join_within(&mut self, limit: Duration) -> Result<IpAddr> {
        let what = format!("a pod on {}", self.kind.name());
        Ok(wait_until(&what, limit, || self.join().map_err(|error| error.to_string()))?)
    }

    /// Whoever of the crowd has `address` leaves it.
    pub(crate) fn leave(&mut self, address: IpAddr) -> Result<()> {
        let index = self.crowd.iter().position(|pod| pod.addresses.contains(&address)).context("nobody has it")?;
        Ok(self.crowd.remove(index).remove(&self.worker.node)?)
    }

    pub(crate) fn disperse(&mut self) -> Result<()> {
        for pod in std::mem::take(&mut self.crowd) {
            pod.remove(&self.worker.node)?;
        }
        Ok(())
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let of_crowd = self.crowd.iter().flat_map(|pod| &pod.addresses);
        self.pods.iter().flat_map(|pod| &pod.addresses).chain(of_crowd).copied()
    }

    /// The addresses that a pod can talk to: those of its own families.
    fn peers_of(&self, pod: &Pod) -> impl Iterator<Item = &IpAddr> {
        let families: Vec<bool> = pod.addresses.iter().map(IpAddr::is_ipv4).collect();
        self.peers.iter().filter(move |peer| families.contains(&peer.is_ipv4()))
    }

    /// What goes wrong from now on, on all clouds.
    pub(crate) fn set_faults(&self, faults: Faults) {
        set_faults(self.cloud, faults);
    }

    /// The node's interfaces, as the cloud truly has them.
    pub(crate) fn interfaces(&self) -> Result<Vec<Interface>> {
        let id = self.cloud.instance(self.kind.name())?;
        Ok(self.cloud.server.with(|cloud, _| cloud.interfaces_of(id).into_iter().cloned().collect()))
    }

    /// The interface that the cloud delivers an address to, by its place.
    pub(crate) fn device_index_of(&self, address: IpAddr) -> Result<u32> {
        let found = self.interfaces()?.into_iter().find(|interface| interface.networks().any(|network| network.contains(address)));
        let attachment = found.and_then(|interface| interface.attachment);
        Ok(attachment.with_context(|| format!("{address} is on no interface of {}", self.kind.name()))?.device_index)
    }

    /// How many blocks for pods the node has.
    pub(crate) fn blocks(&self) -> Result<usize> {
        let on = |interface: &Interface| interface.ipv4_prefixes.len() + interface.secondary.len();
        Ok(self.interfaces()?.iter().map(on).sum())
    }

    /// A call of the cloud's operator.
    pub(crate) fn apply(&self, request: &Request) -> Result<Response> {
        self.cloud.server.with(|cloud, now| cloud.apply(now, request)).with_context(|| format!("{request:?}"))
    }

    /// The operator attaches another interface, with addresses for pods.
    pub(crate) fn attach_another(&self) -> Result<()> {
        let interfaces = self.interfaces()?;
        let first = interfaces.first().context("no interface")?;
        let spec = match self.kind {
            Kind::Azure => InterfaceSpec { secondary_count: 8, ..InterfaceSpec::new(first.subnet) },
            Kind::Aws | Kind::Gcp => InterfaceSpec { ipv4_prefix_count: 2, ..InterfaceSpec::new(first.subnet) },
        };
        let Response::CreateNetworkInterface { interface, .. } =
            self.apply(&Request::CreateNetworkInterface { spec, client_token: None })?
        else {
            bail!("no interface was made")
        };
        let instance = self.cloud.instance(self.kind.name())?;
        let device_index = u32::try_from(interfaces.len())?;
        self.apply(&Request::AttachNetworkInterface { interface: interface.id, instance, device_index, network_card: 0 }).map(drop)
    }

    /// No address is on two pods, each is on an interface of this node, and each pod reaches its peers and is reached by the node.
    pub(crate) fn every_pod_pings(&self) -> Result<()> {
        let mut seen = BTreeMap::new();
        let crowd = self.crowd.iter().map(|pod| (&pod.name, &pod.addresses));
        for (name, addresses) in self.pods.iter().map(|pod| (&pod.name, &pod.addresses)).chain(crowd) {
            ensure!(addresses.len() == self.kind.families(), "{name} has {addresses:?}");
            for address in addresses {
                self.device_index_of(*address)?;
                if let Some(other) = seen.insert(*address, name) {
                    bail!("{name} and {other} have {address}");
                }
            }
        }
        let mut pings = Vec::new();
        for pod in &self.pods {
            for peer in self.peers_of(pod) {
                let mut command = self.worker.in_pod(pod, &["ping", "-c", "1", "-W", "2", &peer.to_string()])?;
                pings.push((format!("{} {:?} to {peer}", pod.name, pod.addresses), Running::start(&mut command, Stdio::null())?));
            }
        }
        for (what, ping) in pings {
            let said = ping.wait(COMMAND)?;
            ensure!(said.status.success(), "{what}: {}", said.stdout);
        }
        Ok(())
    }

    /// What the daemon says of its supply.
    fn supply(&self) -> Result<Supply> {
        let page = telemetry::get(&Network::of(&self.worker.node)?, "/debug/supply")?;
        serde_json::from_str(&page).with_context(|| format!("not a supply: {page}"))
    }

    /// Waits until nothing is wrong with the supply any more.
    pub(crate) fn wait_until_untroubled(&self) -> Result<()> {
        Ok(wait_until("an end of the conditions", SETTLES, || {
            let supply = self.supply().map_err(|error| format!("{error:#}"))?;
            if supply.conditions.is_empty() { Ok(()) } else { Err(format!("{:?}", supply.conditions)) }
        })?)
    }

    /// Waits until one of the daemon's conditions has these words in it.
    pub(crate) fn wait_until_told(&self, words: &str) -> Result<()> {
        Ok(wait_until(&format!("a condition with {words:?} in it"), SETTLES, || {
            let supply = self.supply().map_err(|error| format!("{error:#}"))?;
            if supply.conditions.iter().any(|condition| condition.message.contains(words)) {
                Ok(())
            } else {
                Err(format!("{:?}", supply.conditions))
            }
        })?)
    }

    /// Waits until the daemon gives out addresses of `block` no more, or only where it has no other.
    pub(crate) fn wait_until_doubted(&self, block: IpNetwork) -> Result<()> {
        Ok(wait_until(&format!("doubts of {block}"), SETTLES, || {
            let supply = self.supply().map_err(|error| format!("{error:#}"))?;
            if supply.blocks.iter().any(|known| known.block == block && known.state == "open") {
                Err(format!("{supply:?}"))
            } else {
                Ok(())
            }
        })?)
    }

    /// Waits until so many pods could have addresses that nobody doubts. What pods had a moment ago cools down first.
    pub(crate) fn wait_until_free(&self, wanted: u64) -> Result<()> {
        Ok(wait_until(&format!("{wanted} free addresses"), SETTLES, || {
            let supply = self.supply().map_err(|error| format!("{error:#}"))?;
            let free: u64 = supply.blocks.iter().filter(|known| known.state == "open").map(|known| known.free).sum();
            if free >= wanted { Ok(()) } else { Err(format!("{supply:?}")) }
        })?)
    }

    /// Waits until the daemon gives out addresses of the block no more that `address` is of, and says so.
    pub(crate) fn wait_until_quarantined(&self, address: IpAddr) -> Result<()> {
        Ok(wait_until(&format!("quarantine of {address}"), SETTLES, || {
            let supply = self.supply().map_err(|error| format!("{error:#}"))?;
            let closed = supply.blocks.iter().find(|known| known.block.contains(address) && known.state == "closed");
            let told =
                closed.is_some_and(|known| supply.conditions.iter().any(|condition| condition.message.contains(&known.block.to_string())));
            if told { Ok(()) } else { Err(format!("{supply:?}")) }
        })?)
    }

    /// Streams of a hundred pings a second from a pod to each of its peers.
    pub(crate) fn stream(&self, pod: &Pod, seconds: u32) -> Result<Stream> {
        let count = (seconds * 100).to_string();
        let mut pings = Vec::new();
        for peer in self.peers_of(pod) {
            let argv = ["ping", "-i", "0.01", "-c", &count, "-W", "2", "-q", &peer.to_string()];
            pings.push(Running::start(&mut self.worker.in_pod(pod, &argv)?, Stdio::null())?);
        }
        Ok(Stream { of: format!("{} {:?}", pod.name, pod.addresses), count, pings })
    }
}

/// What `/debug/supply` says, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Supply {
    conditions: Vec<Condition>,
    blocks: Vec<Block>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    message: String,
}

#[derive(Debug, Deserialize)]
struct Block {
    block: IpNetwork,
    state: String,
    free: u64,
}

/// Pings that are under way.
pub(crate) struct Stream {
    of: String,
    count: String,
    pings: Vec<Running>,
}

impl Stream {
    /// That all were answered.
    pub(crate) fn ends_unbroken(self) -> Result<()> {
        for ping in self.pings {
            let said = ping.wait(COMMAND)?;
            ensure!(said.stdout.contains(&format!("{} received", self.count)), "{}: {}: {}", self.of, said.command, said.stdout);
        }
        Ok(())
    }
}
