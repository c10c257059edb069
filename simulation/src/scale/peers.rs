//! The same hour with two other policies, to compare calls of the API with: those of `ipamd` in amazon-vpc-cni-k8s, with secondary
//! addresses on interfaces. They are simple and in their own favour: they know at once what they have, calls take no time, an interface
//! costs three calls, and nothing is read or retried between ticks.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use cloudsim::cloud::{
    AttachmentId, AttributeChange, Cloud, InstanceId, InterfaceId, InterfaceSpec, Ipv4Wanted, LaunchSpec, Outcome, Request, Response,
    Settings, SubnetId, SubnetSpec, Tally,
};
use cloudsim::time::Millis;
use ipnetwork::Ipv4Network;

use super::Scale;
use super::churn::PODS_PERCENT;

/// How addresses are kept in reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// AWS's default, `WARM_ENI_TARGET=1`: as many addresses free as an interface has, in whole interfaces; one that is wholly free
    /// beyond that is deleted.
    WarmInterface,
    /// `WARM_IP_TARGET=5`: five addresses free, one by one; what is beyond that is given back.
    PerAddress,
}

/// How the hour went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeerHour {
    /// Calls of the API.
    pub calls: Tally,
    /// The longest that a pod waited for an address, in seconds; those that wait still included.
    pub longest_wait: u64,
    /// Addresses for pods that a node has in the end, on average.
    pub addresses: f64,
}

/// An m5.xlarge's limits, as the real nodes have them.
const TYPE: &str = "m5.xlarge";
const INTERFACES: usize = 4;
const ADDRESSES: usize = 14;
const WARM: usize = 5;
/// ipamd's intervals and its cooldown, in seconds.
const TICK: u64 = 5;
const DECREASE: u64 = 30;
const COOLDOWN: u64 = 30;
const YOUNG: u64 = 60;

struct Interface {
    id: InterfaceId,
    attachment: Option<AttachmentId>,
    since: u64,
    free: Vec<Ipv4Addr>,
    cooling: VecDeque<(u64, Ipv4Addr)>,
    held: usize,
}

impl Interface {
    fn size(&self) -> usize {
        self.free.len() + self.cooling.len() + self.held
    }
}

struct Node {
    instance: InstanceId,
    interfaces: Vec<Interface>,
    /// Pods, and since when they wait.
    waiting: VecDeque<(usize, u64)>,
}

/// A pod's node, and its interface and address once it has one.
type Pod = (usize, Option<(InterfaceId, Ipv4Addr)>);

struct Cluster {
    policy: Policy,
    cloud: Cloud,
    subnets: Vec<SubnetId>,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    random: fastrand::Rng,
    /// Seconds.
    now: u64,
    /// Before the hour, calls are free.
    is_metered: bool,
    longest_wait: u64,
}

/// The hour.
#[must_use]
pub fn hour(scale: Scale, policy: Policy) -> PeerHour {
    let mut cluster = Cluster::new(scale, policy);
    let per_second = scale.pods as f64 * PODS_PERCENT as f64 / 100.0 / 60.0;
    cluster.fill(scale.pods);
    let mut due = 0.0;
    for _ in 0..3600 {
        due += per_second;
        while due >= 1.0 {
            let pod = cluster.random.usize(..cluster.pods.len());
            cluster.end(pod);
            cluster.begin(pod);
            due -= 1.0;
        }
        cluster.tick();
    }
    let waiting = cluster.nodes.iter().flat_map(|node| &node.waiting).map(|(_, since)| cluster.now - since).max();
    let size: usize = cluster.nodes.iter().flat_map(|node| &node.interfaces).map(Interface::size).sum();
    PeerHour {
        calls: cluster.cloud.calls().total(),
        longest_wait: cluster.longest_wait.max(waiting.unwrap_or(0)),
        addresses: size as f64 / scale.nodes as f64,
    }
}

impl Cluster {
    fn new(scale: Scale, policy: Policy) -> Self {
        let mut cloud = Cloud::new(Settings { seed: scale.seed, ..Settings::default() });
        let cidrs = (0..scale.subnets()).flat_map(|number| Ipv4Network::new(Ipv4Addr::new(10, number, 0, 0), 16));
        let spec = |cidr| SubnetSpec { availability_zone: "us-east-1a".to_owned(), cidr, ipv6_cidr: None, tags: [].into() };
        let subnets: Vec<_> = cidrs.flat_map(|cidr| cloud.create_subnet(spec(cidr))).collect();
        let random = fastrand::Rng::with_seed(scale.seed);
        let mut cluster =
            Self { policy, cloud, subnets, nodes: vec![], pods: vec![], random, now: 1_000_000, is_metered: false, longest_wait: 0 };
        for number in 0..scale.nodes as usize {
            let subnet = cluster.subnets[number % cluster.subnets.len()];
            let Ok(instance) = cluster.cloud.launch(cluster.time(), &LaunchSpec::new(TYPE, subnet)) else { continue };
            let own = cluster.cloud.interfaces_of(instance).iter().map(|interface| interface.id).collect::<Vec<_>>();
            let interface = |id| Interface { id, attachment: None, since: 0, free: vec![], cooling: VecDeque::new(), held: 0 };
            cluster.nodes.push(Node { instance, interfaces: own.into_iter().map(interface).collect(), waiting: VecDeque::new() });
        }
        cluster
    }

    fn time(&self) -> Millis {
        Millis::seconds(self.now)
    }

    /// All pods begin, and each node gets what it wants, for nothing.
    fn fill(&mut self, pods: u64) {
        for pod in 0..pods as usize {
            self.pods.push((0, None));
            self.begin(pod);
        }
        // An interface a tick.
        (0..INTERFACES as u64 * TICK).for_each(|_| self.tick());
        self.is_metered = true;
        self.longest_wait = 0;
        self.cloud.clear_calls();
    }

    fn call(&mut self, request: &Request) -> Option<Response> {
        let now = self.time();
        if !self.is_metered {
            return self.cloud.apply(now, request).ok();
        }
        match self.cloud.call(now, request).outcome {
            Outcome::Answered(response) => Some(response),
            Outcome::Refused(_) | Outcome::NoReply => None,
        }
    }

    fn begin(&mut self, pod: usize) {
        let node = self.random.usize(..self.nodes.len());
        self.pods[pod] = (node, None);
        self.nodes[node].waiting.push_back((pod, self.now));
        self.serve(node);
    }

    fn end(&mut self, pod: usize) {
        let (node, had) = self.pods[pod];
        let node = &mut self.nodes[node];
        node.waiting.retain(|(waiting, _)| *waiting != pod);
        let interface = had.and_then(|(id, address)| Some((node.interfaces.iter_mut().find(|known| known.id == id)?, address)));
        if let Some((interface, address)) = interface {
            interface.held -= 1;
            interface.cooling.push_back((self.now, address));
        }
    }

    fn serve(&mut self, node: usize) {
        while let Some((pod, since)) = self.nodes[node].waiting.front().copied() {
            // ipamd takes any interface that has an address.
            let interfaces = &mut self.nodes[node].interfaces;
            let with: Vec<_> = (0..interfaces.len()).filter(|number| !interfaces[*number].free.is_empty()).collect();
            let Some(number) = self.random.choice(with) else { return };
            let interface = &mut interfaces[number];
            let Some(address) = interface.free.pop() else { return };
            interface.held += 1;
            self.pods[pod].1 = Some((interface.id, address));
            self.longest_wait = self.longest_wait.max(self.now - since);
            self.nodes[node].waiting.pop_front();
        }
    }

    /// A second passes; each node looks every five.
    fn tick(&mut self) {
        self.now += 1;
        for number in (0..self.nodes.len()).filter(|number| (self.now + *number as u64).is_multiple_of(TICK)).collect::<Vec<_>>() {
            for interface in &mut self.nodes[number].interfaces {
                while let Some((_, address)) = interface.cooling.pop_front_if(|(since, _)| self.now - *since >= COOLDOWN) {
                    interface.free.push(address);
                }
            }
            self.serve(number);
            let free: usize = self.nodes[number].interfaces.iter().map(|interface| interface.free.len()).sum();
            let waiting = self.nodes[number].waiting.len();
            let may_decrease = (self.now + number as u64) % DECREASE < TICK;
            match self.policy {
                Policy::WarmInterface if free < ADDRESSES + waiting => self.grow(number, ADDRESSES),
                Policy::WarmInterface if free >= 2 * ADDRESSES => self.delete_interface(number),
                Policy::PerAddress if free < WARM + waiting => self.grow(number, WARM + waiting - free),
                Policy::PerAddress if free > WARM && may_decrease => self.unassign(number, free - WARM),
                _ => {}
            }
            self.serve(number);
        }
        self.cloud.take_events();
    }

    /// On an interface that has room, or on another.
    fn grow(&mut self, node: usize, wanted: usize) {
        let roomy = self.nodes[node].interfaces.iter().position(|interface| interface.size() < ADDRESSES);
        let Some(position) = roomy else { return self.add_interface(node, wanted.min(ADDRESSES)) };
        let interface = &self.nodes[node].interfaces[position];
        let count = wanted.min(ADDRESSES - interface.size()) as u32;
        let request =
            Request::AssignPrivateIpAddresses { interface: interface.id, wanted: Ipv4Wanted::SecondaryPrivateIpAddressCount(count) };
        if let Some(Response::AssignPrivateIpAddresses { addresses, .. }) = self.call(&request) {
            self.nodes[node].interfaces[position].free.extend(addresses);
        }
    }

    fn add_interface(&mut self, node: usize, count: usize) {
        let Node { instance, interfaces, .. } = &self.nodes[node];
        let (instance, number) = (*instance, interfaces.len());
        if number == INTERFACES {
            return;
        }
        let spec = InterfaceSpec { secondary_count: count as u32, ..InterfaceSpec::new(self.subnets[node % self.subnets.len()]) };
        let Some(Response::CreateNetworkInterface { interface, .. }) =
            self.call(&Request::CreateNetworkInterface { spec, client_token: None })
        else {
            return;
        };
        let id = interface.id;
        let taken = self.cloud.interfaces_of(instance);
        let taken: Vec<_> = taken.iter().filter_map(|interface| Some(interface.attachment.as_ref()?.device_index)).collect();
        let device_index = (0..).find(|index| !taken.contains(index)).unwrap_or(0);
        let attach = Request::AttachNetworkInterface { interface: id, instance, device_index, network_card: 0 };
        let Some(Response::AttachNetworkInterface { attachment, .. }) = self.call(&attach) else {
            self.call(&Request::DeleteNetworkInterface { interface: id });
            return;
        };
        let change = AttributeChange::DeleteOnTermination { attachment, delete: true };
        self.call(&Request::ModifyNetworkInterfaceAttribute { interface: id, change });
        let free = interface.secondary.clone();
        let made = Interface { id, attachment: Some(attachment), since: self.now, free, cooling: VecDeque::new(), held: 0 };
        self.nodes[node].interfaces.push(made);
    }

    fn delete_interface(&mut self, node: usize) {
        let is_unused =
            |known: &Interface| known.attachment.is_some() && known.size() == known.free.len() && self.now - known.since > YOUNG;
        let Some(position) = self.nodes[node].interfaces.iter().position(is_unused) else { return };
        let Interface { id, attachment, .. } = self.nodes[node].interfaces[position];
        let Some(attachment) = attachment else { return };
        if self.call(&Request::DetachNetworkInterface { attachment, force: false }).is_some() {
            self.nodes[node].interfaces.remove(position);
            self.call(&Request::DeleteNetworkInterface { interface: id });
        }
    }

    fn unassign(&mut self, node: usize, count: usize) {
        let Some(position) = self.nodes[node].interfaces.iter().position(|interface| !interface.free.is_empty()) else { return };
        let interface = &self.nodes[node].interfaces[position];
        let kept = interface.free.len().saturating_sub(count);
        let (interface, addresses) = (interface.id, interface.free[kept..].to_vec());
        if self.call(&Request::UnassignPrivateIpAddresses { interface, addresses, prefixes: vec![] }).is_some() {
            self.nodes[node].interfaces[position].free.truncate(kept);
        }
    }
}
