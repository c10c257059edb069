//! The simulated cloud drives the lab's fabric: what it assigns is reachable, what it unassigns is not, what it attaches is a device of
//! the node, and each node finds the metadata of its own cloud. No daemon takes part.
//!
//! Needs root. Where it cannot run it says `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use cloudsim::cloud::{Interface, InterfaceSpec, Ipv4Wanted, Ipv6Wanted, Request, Response};
use cloudsim::faults::{DeviceFaults, Faults, Latency};
use cloudsim::time::Millis;
use lab::cloud::{API, LabCloud};
use lab::command::wait_until;
use lab::network::Network;
use lab::node::Node;
use lab::state::BASE;
use lab::topology::Topology;
use lab::vpc;
use lab::{Lab, Options};

const PROGRAM: &str = env!("CARGO_BIN_EXE_barewire-lab");
const LIMIT: Duration = Duration::from_secs(10);

fn bring_up(test: &str) -> Option<(Lab, LabCloud)> {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "{test} needs root");
        println!("SKIP {test}: it needs root");
        return None;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs/clouds.clab.yml");
    let options = Options { program: PROGRAM.into(), base: BASE.into(), name: Some(test.replace('_', "-")) };
    let lab = Lab::up(Topology::read(&file).unwrap(), &options).unwrap();
    let cloud = LabCloud::start(lab.name(), lab.topology(), lab.nodes()).unwrap();
    Some((lab, cloud))
}

fn apply(cloud: &LabCloud, request: &Request) -> Response {
    cloud.server.with(|cloud, now| cloud.apply(now, request)).unwrap()
}

fn first_interface(cloud: &LabCloud, node: &str) -> Interface {
    let instance = cloud.instance(node).unwrap();
    cloud.server.with(|cloud, _| cloud.interfaces_of(instance)[0].clone())
}

/// An answer may be late on a busy machine; where none is expected, it is not waited for so long.
fn answers(node: &Node, arguments: &[&str]) -> bool {
    pings(node, "5", arguments)
}

fn is_silent(node: &Node, arguments: &[&str]) -> bool {
    !pings(node, "1", arguments)
}

fn pings(node: &Node, seconds: &str, arguments: &[&str]) -> bool {
    let argv = [&["ping", "-c", "1", "-W", seconds], arguments].concat();
    node.try_run(&argv, LIMIT).unwrap().status.success()
}

/// What a service says, with its status.
fn ask(node: &Node, method: &str, url: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let network = Network::of(node).unwrap();
    let asked: lab::Result<_> = network.run(|| {
        let agent = ureq::Agent::config_builder().timeout_global(Some(LIMIT)).http_status_as_error(false).build().new_agent();
        let request =
            headers.iter().fold(http::Request::builder().method(method).uri(url), |request, (name, value)| request.header(*name, *value));
        let mut reply = agent.run(request.body(()).unwrap()).unwrap();
        Ok((reply.status().as_u16(), reply.body_mut().read_to_string().unwrap()))
    });
    asked.unwrap()
}

#[test]
fn assigned_addresses_are_reachable_until_they_are_unassigned() {
    let Some((lab, cloud)) = bring_up("cloud_addresses") else { return };
    let (vpc, internet) = (lab.node("vpc").unwrap(), lab.node("internet").unwrap());
    let names = ["aws", "azure", "gcp"];
    for (name, other) in names.into_iter().zip(names.into_iter().cycle().skip(1)) {
        let before = vpc::refused(vpc).unwrap();
        let (node, peer, interface) = (lab.node(name).unwrap(), lab.node(other).unwrap(), first_interface(&cloud, name));
        let own = [IpAddr::V4(interface.primary), IpAddr::V6(interface.ipv6[0])].map(|address| address.to_string());
        for address in &own {
            assert!(answers(peer, &[address]) && answers(internet, &[address]), "{name}: {address}");
        }
        for outside in ["203.0.113.10", "2001:db8:113::10"] {
            assert!(answers(node, &[outside]), "{name} to {outside}");
        }
        assert_eq!(vpc::refused(vpc).unwrap(), before);

        let Interface { id, .. } = interface;
        let wanted = Ipv4Wanted::SecondaryPrivateIpAddressCount(1);
        let Response::AssignPrivateIpAddresses { addresses, .. } =
            apply(&cloud, &Request::AssignPrivateIpAddresses { interface: id, wanted })
        else {
            panic!("another response")
        };
        let request = Request::AssignIpv6Addresses { interface: id, wanted: Ipv6Wanted::Ipv6PrefixCount(1) };
        let Response::AssignIpv6Addresses { prefixes, .. } = apply(&cloud, &request) else { panic!("another response") };
        let assigned = [IpAddr::V4(addresses[0]), IpAddr::V6(prefixes[0].nth(7).unwrap())].map(|address| address.to_string());
        for address in &assigned {
            let length = if address.contains(':') { 128 } else { 32 };
            node.run(&["ip", "address", "add", &format!("{address}/{length}"), "dev", "lo"]).unwrap();
            assert!(answers(peer, &[address]), "{name}: {address} is not reached");
        }
        apply(&cloud, &Request::UnassignPrivateIpAddresses { interface: id, addresses, prefixes: Vec::new() });
        apply(&cloud, &Request::UnassignIpv6Addresses { interface: id, addresses: Vec::new(), prefixes });
        for address in &assigned {
            assert!(is_silent(peer, &[address]), "{name}: {address} is reached still");
        }
        assert_eq!(vpc::refused(vpc).unwrap().unknown_destination, before.unknown_destination + 2);
    }
    assert_eq!(cloud.complaints(), Vec::<String>::new());
    cloud.server.with(|cloud, _| cloud.audit()).unwrap();
    lab.down().unwrap();
}

#[test]
fn each_node_finds_its_own_clouds_services() {
    let Some((lab, cloud)) = bring_up("cloud_metadata") else { return };
    let metadata = |node: &str, path: &str, headers: &[(&str, &str)]| {
        ask(lab.node(node).unwrap(), "GET", &format!("http://169.254.169.254{path}"), headers)
    };
    let id = |node: &str| cloud.instance(node).unwrap();
    let lifetime = ("x-aws-ec2-metadata-token-ttl-seconds", "60");
    let (status, token) = ask(lab.node("aws").unwrap(), "PUT", "http://169.254.169.254/latest/api/token", &[lifetime]);
    assert_eq!(status, 200, "{token}");
    let aws = metadata("aws", "/latest/meta-data/instance-id", &[("x-aws-ec2-metadata-token", &token)]);
    assert_eq!(aws, (200, id("aws").to_string()));
    let path = "/metadata/instance/compute/vmId?api-version=2021-12-13&format=text";
    assert_eq!(metadata("azure", path, &[("metadata", "true")]), (200, id("azure").to_string()));
    assert_eq!(metadata("gcp", "/computeMetadata/v1/instance/id", &[("metadata-flavor", "Google")]), (200, id("gcp").0.to_string()));
    assert_eq!(metadata("aws", path, &[("metadata", "true")]).0, 401, "not another cloud's");

    let wireserver = "http://168.63.129.16/machine/plugins?comp=nmagent&type=getinterfaceinfov1";
    let (status, interfaces) = ask(lab.node("azure").unwrap(), "GET", wireserver, &[]);
    let mac = first_interface(&cloud, "azure").mac.bare();
    assert!(status == 200 && interfaces.contains(&mac), "{status} {interfaces}");
    let (status, refusal) = ask(lab.node("aws").unwrap(), "GET", &format!("http://{API}/?Action=DescribeSubnets"), &[]);
    assert!(status >= 400 && refusal.contains("<Code>"), "{status} {refusal}");
    lab.down().unwrap();
}

#[test]
fn an_attached_interface_is_a_device_that_comes_late_and_goes() {
    let Some((lab, cloud)) = bring_up("cloud_devices") else { return };
    let (node, peer) = (lab.node("aws").unwrap(), lab.node("gcp").unwrap());
    let (late, slow) = (Duration::from_millis(1500), Duration::from_millis(500));
    let exactly = |span: Duration| Latency::exactly(Millis(span.as_millis() as u64));
    let devices = DeviceFaults { appearing: exactly(late), detaching: exactly(slow), misnamed: 1.0, ..DeviceFaults::default() };
    cloud.server.with(|cloud, _| cloud.set_faults(Faults { devices, ..Faults::default() }));

    let subnet = first_interface(&cloud, "aws").subnet;
    let spec = InterfaceSpec { ipv4_prefix_count: 1, ..InterfaceSpec::new(subnet) };
    let Response::CreateNetworkInterface { interface, .. } = apply(&cloud, &Request::CreateNetworkInterface { spec, client_token: None })
    else {
        panic!("another response")
    };
    let instance = cloud.instance("aws").unwrap();
    let attach = Request::AttachNetworkInterface { interface: interface.id, instance, device_index: 1, network_card: 0 };
    let begun = Instant::now();
    let Response::AttachNetworkInterface { attachment, .. } = apply(&cloud, &attach) else { panic!("another response") };
    let mac = interface.mac.to_string();
    let device = || {
        let links = node.run(&["ip", "-brief", "link"]).unwrap();
        let found = links.lines().find(|line| line.contains(&mac)).map(|line| line.split('@').next().unwrap().to_owned());
        found.ok_or(links)
    };
    assert!(device().is_err(), "it is there at once");
    let name = wait_until("the device", LIMIT, device).unwrap();
    assert!(begun.elapsed() >= late, "after {:?}", begun.elapsed());
    assert_ne!(name, "eth1", "it was to have another name");

    // A node that forwards takes no advertisement else.
    node.run(&["sysctl", "-qw", &format!("net.ipv6.conf.{name}.accept_ra=2")]).unwrap();
    // What the node's network daemon would do with it: packets of its addresses leave by it.
    let address = interface.ipv4_prefixes[0].nth(5).unwrap().to_string();
    for line in [
        format!("link set {name} up"),
        format!("address add {address}/32 dev lo"),
        format!("route add default via 10.0.0.1 dev {name} onlink table 7"),
        format!("rule add from {address} table 7"),
    ] {
        node.run(&[&["ip"], &line.split(' ').collect::<Vec<_>>()[..]].concat()).unwrap();
    }
    let reached = || if answers(peer, &[&address]) { Ok(()) } else { Err(format!("{address} is not reached")) };
    // The kernel takes a moment from `up` to the first packet.
    wait_until("the first packet", LIMIT, reached).unwrap();
    wait_until("the way out by IPv6", LIMIT, || {
        let route = node.run(&["ip", "-6", "route", "show", "default", "dev", &name]).unwrap();
        if route.contains("via fe80::1 ") { Ok(()) } else { Err(route) }
    })
    .unwrap();
    let received = node.run(&["cat", &format!("/sys/class/net/{name}/statistics/rx_packets")]).unwrap();
    assert_ne!(received.trim(), "0", "not by {name}");

    apply(&cloud, &Request::DetachNetworkInterface { attachment, force: false });
    assert!(device().is_ok(), "it went before its time");
    wait_until("the device's end", LIMIT, || device().map_or(Ok(()), Err)).unwrap();
    assert!(is_silent(peer, &[&address]), "{address} is reached still");
    assert_eq!(cloud.complaints(), Vec::<String>::new());
    cloud.server.with(|cloud, _| cloud.audit()).unwrap();
    lab.down().unwrap();
}
