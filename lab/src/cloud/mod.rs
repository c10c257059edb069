//! Nodes that are instances of a simulated cloud: cloudsim decides about interfaces and addresses, and the lab's VPC carries their packets.
//!
//! Promises: an assigned address is reachable when the cloud says that it is assigned, and not any more when it is unassigned; each
//! node finds the metadata service of its own cloud at the addresses it has in that cloud, and no other node's.
//!
//! The services are addresses of the fabric, which nodes reach by their default routes. A cloud's metadata listener takes connections
//! of one interface only: whose metadata to serve is in the wire, as in a cloud, not in the source address.

mod advertiser;
mod fabric;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cloudsim::cloud::{Cloud, InstanceId, InterfaceSpec, LaunchSpec, Settings, SubnetId, SubnetSpec};
use cloudsim::http::{self, Asker, Role, Server};
use cloudsim::metadata::Service;
use ipnetwork::{Ipv4Network, Ipv6Network};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt};

use super::Lab;
use super::command::wait_until;
use super::error::{Context, Error, Result};
use super::network::Network;
use super::node::Node;
use super::topology::{self, NodeSpec, Topology};
use advertiser::Advertiser;
use fabric::{Complaints, VpcFabric, end_of};

/// Label of a node that is an instance: `aws`, `azure` or `gcp`.
const CLOUD: &str = "barewire.cloud";
/// Label with its instance type.
const INSTANCE_TYPE: &str = "barewire.instance-type";
/// Label with the number of blocks that it is launched with: prefixes, ipConfigurations, alias ranges. None where it is not there.
const BLOCKS: &str = "barewire.blocks";
/// The fabric's role in a topology.
const FABRIC: &str = "fabric";

/// Where instances ask for their metadata.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Azure's wireserver.
const WIRESERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// The EC2 API: somewhere outside of the VPC.
pub const API: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const HTTP: u16 = 80;
/// The control API, on the fabric's loopback.
const CONTROL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7070);

/// The VPC's blocks and those of its one subnet, whose first address is the lab's gateway.
const VPC: Ipv4Network = v4([10, 0, 0, 0], 16);
const SUBNET: Ipv4Network = v4([10, 0, 0, 0], 20);
const VPC_V6: Ipv6Network = v6(56);
const SUBNET_V6: Ipv6Network = v6(64);
const ZONE: &str = "us-east-1a";
/// Whose credentials metadata serves.
const ROLE: &str = "node";

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> Ipv4Network {
    Ipv4Network::new_checked(Ipv4Addr::new(a, b, c, d), length).expect("a prefix length")
}

/// fd00:10::/`length`
const fn v6(length: u8) -> Ipv6Network {
    Ipv6Network::new_checked(Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0), length).expect("a prefix length")
}

/// What the program says that serves the cloud of a lab, once it does.
pub const SERVES: &str = "the cloud serves";
/// How long that may take.
const STARTS: Duration = Duration::from_secs(20);

/// Has `program`, which is `barewire-lab`, serve the cloud of a lab that is to stay up, where the topology has instances. It ends with the
/// fabric's node.
///
/// # Errors
/// When it does not serve in time; the end of its log is in the message.
pub fn start_beside(lab: &Lab, program: &Path) -> Result<()> {
    let has_instances = lab.topology().nodes.values().any(|node| node.labels.contains_key(CLOUD));
    let Some(fabric) = lab.topology().with_role(FABRIC).next().filter(|_| has_instances) else { return Ok(()) };
    let service = lab.node(fabric)?.start_host_service("cloudsim", program, &["cloud", lab.name()])?;
    wait_until(&format!("the cloud of lab {}", lab.name()), STARTS, || match service.log() {
        log if log.lines().any(|line| line == SERVES) => Ok(()),
        log => Err(log),
    })
}

/// The simulated cloud of a lab, until it is dropped.
#[derive(Debug)]
pub struct LabCloud {
    /// The cloud, to be asked and made to misbehave.
    pub server: Server,
    instances: BTreeMap<String, InstanceId>,
    complaints: Complaints,
    _advertiser: Advertiser,
}

impl LabCloud {
    /// Launches an instance for each node that is one, with devices, and serves its metadata. `nodes` are those of the lab `name`.
    ///
    /// # Errors
    /// When a label says what no cloud has, or the kernel refuses.
    pub fn start(name: &str, topology: &Topology, nodes: &BTreeMap<String, Node>) -> Result<Self> {
        let wrong = |message: String| Error::Lab { lab: name.to_owned(), message };
        let node = |of: &str| nodes.get(of).cloned().ok_or_else(|| wrong(format!("node {of} is not up")));
        let fabric = topology.with_role(FABRIC).next();
        let fabric = fabric.ok_or_else(|| wrong(format!("no node has the label `{}: {FABRIC}`: a cloud needs one", topology::ROLE)))?;
        let vpc = node(fabric)?;
        let mut cloud = Cloud::new(Settings { vpc_cidrs: vec![VPC], vpc_ipv6_cidrs: vec![VPC_V6], ..Settings::default() });
        let subnet = SubnetSpec { availability_zone: ZONE.to_owned(), cidr: SUBNET, ipv6_cidr: Some(SUBNET_V6), tags: BTreeMap::new() };
        let subnet = cloud.create_subnet(subnet).map_err(|error| wrong(error.to_string()))?;

        let (mut instances, mut guests, mut services) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for (name, spec) in &topology.nodes {
            let Some(machine) = Machine::of(spec).map_err(|message| wrong(format!("node {name}: {message}")))? else { continue };
            let launched = cloud.launch(http::now(), &machine.launch(name, subnet));
            let id = launched.map_err(|error| wrong(format!("node {name}: {error}")))?;
            instances.insert(name.clone(), id);
            guests.insert(id, node(name)?);
            services.push((machine.service, id));
        }

        let network = Network::of(&vpc)?;
        let advertiser = Advertiser::start(&network)?;
        let complaints = Complaints::default();
        let fabric = VpcFabric::new(vpc.clone(), guests, Arc::clone(&complaints));
        let server = Server::start(cloud, Box::new(fabric)).context(|| "start the cloud".to_owned())?;
        // The first look tells the fabric of the launches.
        let first_device = |id| server.with(|cloud, _| cloud.interfaces_of(id).first().map(|interface| end_of(interface.mac)));
        for address in [METADATA, WIRESERVER, API] {
            vpc.run_in_network(&["ip", "address", "replace", &format!("{address}/32"), "dev", "lo"])?;
        }
        let serve = |role, address, device: Option<&str>| -> Result<()> {
            let what = || format!("serve {role:?} on {address}");
            let listener = network.run(|| bound(address, device).context(what))?;
            server.listen(listener, role).map(drop).context(what)
        };
        for (service, id) in services {
            let device = first_device(id);
            let role = |service| Role::Metadata(service, Asker::Instance(id));
            serve(role(service), SocketAddrV4::new(METADATA, HTTP), device.as_deref())?;
            if service == Service::Azure {
                serve(role(Service::Wireserver), SocketAddrV4::new(WIRESERVER, HTTP), device.as_deref())?;
            }
        }
        serve(Role::Api, SocketAddrV4::new(API, HTTP), None)?;
        serve(Role::Control, CONTROL, None)?;
        Ok(Self { server, instances, complaints, _advertiser: advertiser })
    }

    /// The instance that a node is.
    ///
    /// # Errors
    /// When it is none.
    pub fn instance(&self, node: &str) -> Result<InstanceId> {
        self.instances
            .get(node)
            .copied()
            .ok_or_else(|| Error::Node { node: node.to_owned(), message: format!("it is no instance: it has no label `{CLOUD}`") })
    }

    /// What the kernel has refused to the fabric, each in a sentence.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a node's labels say.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    service: Service,
    instance_type: String,
    blocks: u32,
}

impl Machine {
    fn of(node: &NodeSpec) -> Result<Option<Self>, String> {
        let label = |key| node.labels.get(key).map(String::as_str);
        let service = match label(CLOUD) {
            None => return Ok(None),
            Some("aws") => Service::Aws,
            Some("azure") => Service::Azure,
            Some("gcp") => Service::Gcp,
            Some(other) => return Err(format!("`{CLOUD}: {other}`: write aws, azure or gcp")),
        };
        let instance_type = label(INSTANCE_TYPE).ok_or_else(|| format!("it is an instance: add the label `{INSTANCE_TYPE}`"))?.to_owned();
        let blocks = label(BLOCKS).unwrap_or("0");
        let blocks = blocks.parse().map_err(|_| format!("`{BLOCKS}: {blocks}`: write a number"))?;
        Ok(Some(Self { service, instance_type, blocks }))
    }

    fn launch(&self, name: &str, subnet: SubnetId) -> LaunchSpec {
        let mut first = InterfaceSpec { ipv6_count: 1, ..InterfaceSpec::new(subnet) };
        match self.service {
            Service::Aws | Service::Gcp => first.ipv4_prefix_count = self.blocks,
            Service::Azure | Service::Wireserver => first.secondary_count = self.blocks,
        }
        let tags = BTreeMap::from([("Name".to_owned(), name.to_owned())]);
        LaunchSpec { interfaces: vec![first], tags, role: Some(ROLE.to_owned()), ..LaunchSpec::new(&self.instance_type, subnet) }
    }
}

/// A listener for connections by `device`, or by any.
fn bound(address: SocketAddrV4, device: Option<&str>) -> nix::Result<TcpListener> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(device) = device {
        setsockopt(&socket, sockopt::BindToDevice, &device.into())?;
    }
    bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(labels: &[(&str, &str)]) -> NodeSpec {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        NodeSpec { labels, ..NodeSpec::default() }
    }

    #[test]
    fn labels_say_which_nodes_are_instances() {
        assert_eq!(Machine::of(&node(&[("barewire.role", "node")])), Ok(None));
        let machine = Machine::of(&node(&[(CLOUD, "gcp"), (INSTANCE_TYPE, "n2-standard-4"), (BLOCKS, "2")])).unwrap().unwrap();
        assert_eq!(machine, Machine { service: Service::Gcp, instance_type: "n2-standard-4".to_owned(), blocks: 2 });
    }

    #[test]
    fn a_wrong_label_is_told_with_its_remedy() {
        for (labels, says) in [
            (vec![(CLOUD, "oracle")], "write aws, azure or gcp"),
            (vec![(CLOUD, "aws")], "barewire.instance-type"),
            (vec![(CLOUD, "aws"), (INSTANCE_TYPE, "m5.large"), (BLOCKS, "many")], "write a number"),
        ] {
            let message = Machine::of(&node(&labels)).unwrap_err();
            assert!(message.contains(says), "{message}");
        }
    }
}
