//! A node: the daemon's parts put together as its `main` does, on a model of the kernel.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use barewired::attachments::Attachments;
use barewired::attachments::link::for_recovery;
use barewired::cloud::{self, Driver, SupplyReport};
use barewired::config::{CloudSource, Config};
use barewired::kernel::link_numbers::LinkNumbers;
use barewired::latencies::Metrics;
use cloudsim::cloud::{
    Action, Cloud, InstanceId, InterfaceSpec, Ipv4Wanted, LaunchSpec, Request, Response, Settings, SubnetId, SubnetSpec,
};
use cloudsim::fabric::NoFabric;
use cloudsim::faults::Faults;
use cloudsim::http::{Asker, Role, Server};
use cloudsim::metadata::Service;
use cni_spec::{Error, PodIdentity};
use datapath::fast_path::Limits;
use datapath::{Ifindex, Uplink};
use ipam_clouds::Source;
use ipam_pool::Pool;
use ipam_state::recovery;
use ipam_state::store::{Change, Found, Store};
use ipam_supply::memory::CloudRecord;
use ipnetwork::IpNetwork;
use node_api::{AddRequest, BootMillis, DelRequest};

use super::kernel::{Machine, ModelKernel};

const THEIRS: &str = "somebody else's";
const COOLDOWN: u64 = 1000;
const NAMESPACE: u64 = 100;

thread_local! {
    static LEAPT: Cell<u64> = const { Cell::new(0) };
}

/// The boot's clock, and how far this test has leapt.
pub(crate) fn now() -> BootMillis {
    BootMillis::now().plus(LEAPT.get())
}

/// Lets time pass for this test, though not for the cloud.
pub(crate) fn leap(span: Duration) {
    LEAPT.set(LEAPT.get() + u64::try_from(span.as_millis()).unwrap());
}

pub(crate) struct Lab {
    pub(crate) server: Server,
    pub(crate) subnet: SubnetId,
    instance: InstanceId,
    config: CloudSource,
}

impl Lab {
    /// An instance without prefixes, in a subnet with both families. `keys` go to `source` or `pool`, wherever they belong.
    pub(crate) fn new(instance_type: &str, keys: &str) -> Self {
        Self::launch(instance_type, keys, 0)
    }

    pub(crate) fn in_subnet_without_ipv6(keys: &str) -> Self {
        Self::of("m5.large", keys, 0, None)
    }

    pub(crate) fn launch(instance_type: &str, keys: &str, prefixes: u32) -> Self {
        Self::of(instance_type, keys, prefixes, Some("fd00:10::/64".parse().unwrap()))
    }

    fn of(instance_type: &str, keys: &str, prefixes: u32, ipv6_cidr: Option<ipnetwork::Ipv6Network>) -> Self {
        let mut cloud = Cloud::new(Settings {
            seed: 11,
            vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
            vpc_ipv6_cidrs: vec!["fd00:10::/56".parse().unwrap()],
            ..Settings::default()
        });
        let availability_zone = "us-east-1a".to_owned();
        let spec = SubnetSpec { availability_zone, cidr: "10.0.0.0/20".parse().unwrap(), ipv6_cidr, tags: [].into() };
        let subnet = cloud.create_subnet(spec).unwrap();
        let server = Server::start(cloud, Box::new(NoFabric)).unwrap();
        let mut spec = LaunchSpec { role: Some("node".to_owned()), ..LaunchSpec::new(instance_type, subnet) };
        spec.interfaces[0].ipv4_prefix_count = prefixes;
        let instance = server.with(|cloud, now| cloud.launch(now, &spec).unwrap());
        let listen = |role| format!("http://{}", server.listen(TcpListener::bind("127.0.0.1:0").unwrap(), role).unwrap());
        let metadata = listen(Role::Metadata(Service::Aws, Asker::Instance(instance)));
        let api = listen(Role::Api);
        let (pool, source) = if keys.starts_with("wait") { (keys, "") } else { ("", keys) };
        let endpoint = if source.starts_with("api") { String::new() } else { format!("api_endpoint = {api:?}") };
        let release = if endpoint.is_empty() { "" } else { "release_after_seconds = 0" };
        let text = format!("[source]\nkind = \"aws\"\nmetadata = {metadata:?}\n{endpoint}\n{source}\n[pool]\n{release}\n{pool}\n");
        let config = Config::from_toml(&text, "node-1").unwrap().source.cloud().unwrap().clone();
        Self { server, subnet, instance, config }
    }

    /// A machine of a cloud on which others assign, with so many addresses for pods.
    pub(crate) fn of_others(kind: &str, addresses: u32) -> Self {
        let mut cloud = Cloud::new(Settings { seed: 11, vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()], ..Settings::default() });
        let spec = SubnetSpec {
            availability_zone: "us-east-1a".to_owned(),
            cidr: "10.0.0.0/20".parse().unwrap(),
            ipv6_cidr: None,
            tags: [].into(),
        };
        let subnet = cloud.create_subnet(spec).unwrap();
        let server = Server::start(cloud, Box::new(NoFabric)).unwrap();
        let instance_type = if kind == "azure" { "Standard_D4s_v5" } else { "n2-standard-4" };
        let mut spec = LaunchSpec::new(instance_type, subnet);
        spec.interfaces[0].secondary_count = addresses;
        let instance = server.with(|cloud, now| cloud.launch(now, &spec).unwrap());
        let listen = |service| {
            let role = Role::Metadata(service, Asker::Instance(instance));
            format!("http://{}", server.listen(TcpListener::bind("127.0.0.1:0").unwrap(), role).unwrap())
        };
        let services = if kind == "azure" {
            format!("metadata = {:?}\nwireserver = {:?}", listen(Service::Azure), listen(Service::Wireserver))
        } else {
            format!("metadata = {:?}", listen(Service::Gcp))
        };
        let text = format!("[source]\nkind = {kind:?}\n{services}\n[network]\nnative_cidrs = [\"10.0.0.0/16\"]\n");
        let config = Config::from_toml(&text, "node-1").unwrap().source.cloud().unwrap().clone();
        Self { server, subnet, instance, config }
    }

    /// Whoever owns the machine gives it so many addresses more.
    pub(crate) fn give(&self, addresses: u32) {
        self.server.with(|cloud, now| {
            let interface = cloud.interfaces_of(self.instance)[0].id;
            let wanted = Ipv4Wanted::SecondaryPrivateIpAddressCount(addresses);
            cloud.apply(now, &Request::AssignPrivateIpAddresses { interface, wanted }).unwrap();
        });
    }

    pub(crate) fn set_faults(&self, set: impl FnOnce(&mut Faults)) {
        self.server.with(|cloud, _| {
            let mut faults = Faults::default();
            set(&mut faults);
            cloud.set_faults(faults);
        });
    }

    /// What the instance has for pods.
    pub(crate) fn networks(&self) -> BTreeSet<IpNetwork> {
        self.server.with(|cloud, _| {
            let networks = cloud.interfaces_of(self.instance).into_iter().flat_map(|interface| {
                let own = IpNetwork::from(IpAddr::V4(interface.primary));
                interface.networks().filter(move |network| *network != own).collect::<Vec<_>>()
            });
            networks.collect()
        })
    }

    /// Somebody takes all addresses of the subnet, and gives so many of them back when told to.
    pub(crate) fn occupy(&self, addresses: u32) -> impl FnOnce() + use<'_> {
        let interface = self.server.with(|cloud, now| {
            let spec = InterfaceSpec { secondary_count: addresses - 1, ..InterfaceSpec::new(self.subnet) };
            let created = cloud.apply(now, &Request::CreateNetworkInterface { spec, client_token: None }).unwrap();
            let Response::CreateNetworkInterface { interface, .. } = created else { panic!("{created:?}") };
            cloud.fill_subnet(self.subnet, 0).unwrap();
            interface.id
        });
        move || {
            self.server.with(|cloud, now| cloud.apply(now, &Request::DeleteNetworkInterface { interface }).unwrap());
        }
    }

    /// Attaches an interface with so many secondary addresses, which nobody tags; tells all of its addresses.
    pub(crate) fn attach_theirs(&self, secondary: u32) -> BTreeSet<IpAddr> {
        self.server.with(|cloud, now| {
            let spec = InterfaceSpec { description: THEIRS.to_owned(), secondary_count: secondary, ..InterfaceSpec::new(self.subnet) };
            let created = cloud.apply(now, &Request::CreateNetworkInterface { spec, client_token: None }).unwrap();
            let Response::CreateNetworkInterface { interface, .. } = created else { panic!("{created:?}") };
            let attach =
                Request::AttachNetworkInterface { interface: interface.id, instance: self.instance, device_index: 1, network_card: 0 };
            cloud.apply(now, &attach).unwrap();
        });
        self.theirs()
    }

    /// The addresses of that interface.
    pub(crate) fn theirs(&self) -> BTreeSet<IpAddr> {
        self.server.with(|cloud, _| {
            let theirs = cloud.interfaces().filter(|interface| interface.description == THEIRS);
            theirs.flat_map(|interface| interface.ipv4().map(IpAddr::V4).collect::<Vec<_>>()).collect()
        })
    }

    pub(crate) fn interfaces(&self) -> usize {
        self.server.with(|cloud, _| cloud.interfaces().count())
    }

    pub(crate) fn calls(&self, action: Action) -> u64 {
        self.server.with(|cloud, _| cloud.calls().of(action).calls)
    }

    pub(crate) fn total_calls(&self) -> u64 {
        self.server.with(|cloud, _| cloud.calls().total().calls)
    }
}

pub(crate) struct Node {
    home: tempfile::TempDir,
    boot: &'static str,
    machine: Arc<Mutex<Machine>>,
    pub(crate) attachments: Arc<Attachments<ModelKernel>>,
    pub(crate) driver: Arc<Driver<ModelKernel>>,
}

impl Node {
    pub(crate) fn start(lab: &Lab) -> Self {
        Self::begin(lab, tempfile::tempdir_in("/dev/shm").unwrap(), "boot", fresh_machine())
    }

    /// The daemon is gone, and another one starts on what is left.
    pub(crate) fn restart(self, lab: &Lab) -> Self {
        let Self { home, boot, machine, attachments, driver } = self;
        drop((driver, attachments));
        Self::begin(lab, home, boot, machine)
    }

    /// The machine was off, and its disk has kept the store.
    pub(crate) fn reboot(self, lab: &Lab) -> Self {
        let Self { home, attachments, driver, .. } = self;
        drop((driver, attachments));
        Self::begin(lab, home, "another boot", fresh_machine())
    }

    fn begin(lab: &Lab, home: tempfile::TempDir, boot: &'static str, machine: Arc<Mutex<Machine>>) -> Self {
        let (store, found) = Store::open(home.path(), boot).unwrap();
        let numbers = Arc::new(LinkNumbers::default());
        let kernel = ModelKernel::new(Arc::clone(&machine), Arc::clone(&numbers));
        let links =
            barewired::kernel::Kernel::links(&kernel).unwrap().into_iter().map(|link| for_recovery(link, Limits::default())).collect();
        let mut plan = recovery::plan(found.into_contents(), links, &"pods".parse().unwrap(), now());
        let memory = std::mem::take(&mut plan.cloud);
        let mut pool = Pool::new(&[], COOLDOWN);
        lab.config.families.iter().for_each(|family| pool.want(*family));
        let attachments = Attachments::recover(kernel, store, pool, numbers, Arc::new(Metrics::default()), plan);
        attachments.wait_for_addresses(lab.config.wait);
        let attachments = Arc::new(attachments);
        let settings = cloud::settings(&lab.config, "node-1");
        let driver = Driver::new(Arc::clone(&attachments), Source::from(&lab.config.cloud), settings, &memory, now);
        Self { home, boot, machine, attachments, driver: Arc::new(driver) }
    }

    /// What the keeper does, on a kernel that shows every interface at once.
    pub(crate) fn look(&self) {
        let Some(known) = self.driver.known() else { return };
        let uplink = |index| Uplink {
            index,
            ifindex: Ifindex(2 + u32::from(index)),
            ifname: format!("eth{index}"),
            mtu: 9001,
            running: true,
            gateways: Vec::new(),
            addresses: Vec::new(),
        };
        let uplinks: Vec<_> = (0..u16::try_from(known.interfaces.len()).unwrap()).map(uplink).collect();
        self.attachments.set_uplinks(&uplinks);
        let record = CloudRecord { known: known.clone(), uplinks: BTreeMap::new() };
        self.attachments.commit(&Change::Cloud(&record)).unwrap();
        let interfaces = known.interfaces.iter().map(|interface| interface.id.clone()).collect();
        self.driver.set_network(interfaces, known.blocks.iter().map(|(block, _)| *block).collect());
    }

    /// Makes calls until none is due.
    pub(crate) async fn settle(&self) {
        while self.driver.round().await {
            self.look();
        }
    }

    pub(crate) fn status(&self) -> String {
        self.attachments.ready(now()).map_or_else(|error| error.to_string(), |()| "ok".to_owned())
    }

    pub(crate) fn report(&self) -> SupplyReport {
        self.driver.report()
    }

    pub(crate) fn add(&self, pod: u64) -> Result<Vec<IpAddr>, Error> {
        add(&self.attachments, pod, now())
    }

    pub(crate) fn del(&self, pod: u64) {
        let request = DelRequest { container_id: format!("pod-{pod}").parse().unwrap(), ifname: "eth0".parse().unwrap() };
        self.attachments.del(&request, now()).unwrap();
    }

    /// The blocks that the store has as given back, read by another process as it were.
    pub(crate) fn stored(&self) -> BTreeSet<IpNetwork> {
        let copy = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::copy(self.home.path().join("store.redb"), copy.path().join("store.redb")).unwrap();
        match Store::open(copy.path(), self.boot).unwrap().1 {
            Found::Present(contents) => contents.cloud.released.into_iter().map(|(block, _)| block).collect(),
            other => panic!("{other:?}"),
        }
    }
}

/// Pods whose ADDs all run at once.
pub(crate) struct Burst(Vec<std::thread::JoinHandle<Result<Vec<IpAddr>, Error>>>);

impl Burst {
    pub(crate) fn begin(node: &Node, pods: impl Iterator<Item = u64>) -> Self {
        let at = now();
        let add = |pod| {
            let attachments = Arc::clone(&node.attachments);
            std::thread::spawn(move || add(&attachments, pod, at))
        };
        Self(pods.map(add).collect())
    }

    pub(crate) fn of(parts: Vec<Self>) -> Self {
        Self(parts.into_iter().flat_map(|part| part.0).collect())
    }

    pub(crate) fn ended(&self) -> usize {
        self.0.iter().filter(|add| add.is_finished()).count()
    }

    /// Has the driver run until all have ended; what became of each.
    pub(crate) async fn end(self, node: &Node) -> Vec<Result<Vec<IpAddr>, Error>> {
        let stopped = async {
            while self.ended() < self.0.len() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            node.driver.stop();
        };
        tokio::join!(node.driver.run(async || node.look()), stopped);
        self.0.into_iter().map(|add| add.join().unwrap()).collect()
    }
}

fn fresh_machine() -> Arc<Mutex<Machine>> {
    Arc::new(Mutex::new(Machine { namespaces: (NAMESPACE..NAMESPACE + 1000).collect(), ..Machine::default() }))
}

pub(crate) fn add(attachments: &Attachments<ModelKernel>, pod: u64, now: BootMillis) -> Result<Vec<IpAddr>, Error> {
    let request = AddRequest {
        container_id: format!("pod-{pod}").parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
        netns_path: format!("/run/netns/pod-{pod}"),
        network: "pods".parse().unwrap(),
        ips: Vec::new(),
        mac: None,
        bandwidth: None,
        internet_egress: None,
        allowed_addresses: None,
        pod: PodIdentity::default(),
    };
    let attached = attachments.add(&request, &(NAMESPACE + pod), &|| Ok(()), now)?;
    Ok(attached.result.ips.iter().map(|ip| ip.address.ip()).collect())
}
