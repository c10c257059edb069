//! The source on AWS against a simulated EC2 on sockets: IMDSv2, credentials of the instance's role, signed calls.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::TcpListener;
use std::time::Duration;

use cloudsim::cloud::{Action, Cloud, InstanceId, LaunchSpec, Settings, SubnetId, SubnetSpec};
use cloudsim::fabric::NoFabric;
use cloudsim::faults::{DeviceFaults, Faults, Interval, Latency, Refusal as SimulatedRefusal, Storm};
use cloudsim::http::{Asker, Role, Server};
use cloudsim::metadata::Service;
use cloudsim::time::Millis;
use ipam::config::Config;
use ipam::max_pods::max_pods;
use ipam::range::Family;
use ipam::sources::Source;
use ipam::sources::aws::{ApiSettings, Aws, AwsSettings};
use ipam::supply::evidence::Reader;
use ipam::supply::{Outcome, Reading, Refusal, Request};
use ipnetwork::IpNetwork;

const ALWAYS: Interval = Interval { from: Millis(0), until: Millis(u64::MAX) };

struct Lab {
    server: Server,
    subnet: SubnetId,
    other: SubnetId,
    instance: InstanceId,
    metadata: String,
    api: String,
}

impl Lab {
    /// A subnet with IPv6, one without, and an instance with a role in the first.
    fn new(instance_type: &str) -> Self {
        let mut cloud = Cloud::new(Settings {
            seed: 5,
            vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
            vpc_ipv6_cidrs: vec!["fd00:10::/56".parse().unwrap()],
            ..Settings::default()
        });
        let mut subnet = |cidr: &str, ipv6: Option<&str>| {
            let ipv6_cidr = ipv6.map(|cidr| cidr.parse().unwrap());
            let availability_zone = "us-east-1a".to_owned();
            cloud.create_subnet(SubnetSpec { availability_zone, cidr: cidr.parse().unwrap(), ipv6_cidr, tags: [].into() }).unwrap()
        };
        let (first, other) = (subnet("10.0.0.0/20", Some("fd00:10::/64")), subnet("10.0.16.0/20", None));
        let server = Server::start(cloud, Box::new(NoFabric)).unwrap();
        let spec = LaunchSpec { role: Some("node".to_owned()), ..LaunchSpec::new(instance_type, first) };
        let instance = server.with(|cloud, now| cloud.launch(now, &spec).unwrap());
        let listen = |role| format!("http://{}", server.listen(TcpListener::bind("127.0.0.1:0").unwrap(), role).unwrap());
        let metadata = listen(Role::Metadata(Service::Aws, Asker::Instance(instance)));
        let api = listen(Role::Api);
        Self { server, subnet: first, other, instance, metadata, api }
    }

    fn source(&self) -> Source {
        self.source_in(&[])
    }

    fn source_in(&self, subnets: &[SubnetId]) -> Source {
        let subnets = subnets.iter().map(ToString::to_string).collect();
        let api = ApiSettings { endpoint: Some(self.api.parse().unwrap()), subnets, ..ApiSettings::default() };
        Source::Aws(Box::new(Aws::new(AwsSettings { metadata: self.metadata.parse().unwrap(), api: Some(api) })))
    }

    fn set_faults(&self, set: impl FnOnce(&mut Faults)) {
        self.server.with(|cloud, _| {
            let mut faults = Faults::default();
            set(&mut faults);
            cloud.set_faults(faults);
        });
    }

    fn networks(&self) -> Vec<IpNetwork> {
        self.server.with(|cloud, _| cloud.interfaces_of(self.instance).iter().flat_map(|interface| interface.networks()).collect())
    }

    fn interfaces(&self) -> usize {
        self.server.with(|cloud, _| cloud.interfaces().count())
    }
}

async fn read(source: &Source, reader: Reader) -> Reading {
    match source.call(&Request::Read(reader)).await {
        Outcome::Read(reading) => reading,
        outcome => panic!("{reader:?}: {outcome:?}"),
    }
}

/// What both readers say, which must be the same.
async fn agreed(source: &Source) -> Reading {
    let (metadata, api) = (read(source, Reader::Metadata).await, read(source, Reader::Api).await);
    // The API has told the limits: from now on metadata counts with them.
    let again = read(source, Reader::Metadata).await;
    assert_eq!(again, Reading { reader: Reader::Metadata, ..api.clone() });
    let blocks = |reading: &Reading| reading.interfaces.iter().map(|interface| interface.blocks.clone()).collect::<Vec<_>>();
    assert_eq!(blocks(&metadata), blocks(&api));
    api
}

async fn assign(source: &Source, interface: &str, family: Family, blocks: u64) -> Vec<IpNetwork> {
    match source.call(&Request::Assign { interface: interface.to_owned(), family, blocks }).await {
        Outcome::Assigned(blocks) => blocks,
        outcome => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn prefixes_come_and_go_and_both_readers_see_it() {
    let lab = Lab::new("m5.large");
    let source = lab.source();
    let reading = agreed(&source).await;
    let primary = &reading.interfaces[0];
    assert_eq!((primary.room, reading.interface_room), ([9, 10], true));
    assert_eq!(primary.gateways.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1"]);
    assert_eq!(source.native_cidrs(), ["10.0.0.0/16", "fd00:10::/56"].map(|cidr| cidr.parse::<IpNetwork>().unwrap()));

    let id = primary.id.clone();
    let v4 = assign(&source, &id, Family::V4, 2).await;
    let v6 = assign(&source, &id, Family::V6, 1).await;
    assert_eq!((v4.len(), v4[0].prefix(), v6.len(), v6[0].prefix()), (2, 28, 1, 80));
    let primary = &agreed(&source).await.interfaces[0];
    assert_eq!(primary.blocks, v4.iter().chain(&v6).copied().collect());
    assert_eq!(primary.room, [7, 9]);

    for block in [v4[0], v6[0]] {
        assert_eq!(source.call(&Request::Unassign { interface: id.clone(), block }).await, Outcome::Unassigned);
        assert!(!lab.networks().contains(&block));
        // Once more is no refusal: readers have to tell.
        assert_eq!(source.call(&Request::Unassign { interface: id.clone(), block }).await, Outcome::Unknown);
    }
    assert_eq!(agreed(&source).await.interfaces[0].blocks, [v4[1]].into());
    let too_many = Request::Assign { interface: id, family: Family::V4, blocks: 9 };
    assert_eq!(source.call(&too_many).await, Outcome::Refused(Refusal::Full));
}

#[tokio::test]
async fn a_fragmented_subnet_gives_single_addresses() {
    let lab = Lab::new("m5.large");
    let source = lab.source();
    let id = agreed(&source).await.interfaces[0].id.clone();
    lab.server.with(|cloud, _| cloud.fragment_subnet(lab.subnet, 0).unwrap());
    let two = Request::Assign { interface: id.clone(), family: Family::V4, blocks: 2 };
    assert_eq!(source.call(&two).await, Outcome::Refused(Refusal::Exhausted), "of one there may be room: it is for the supply to ask");
    let assigned = assign(&source, &id, Family::V4, 1).await;
    assert_eq!(assigned.len(), 9, "as many as there is room for, of the sixteen of a prefix");
    assert!(assigned.iter().all(|block| block.prefix() == 32));
    assert!(source.warnings()[0].contains("no free prefix"), "{:?}", source.warnings());
    assert_eq!(agreed(&source).await.interfaces[0].blocks, assigned.iter().copied().collect());
    assert_eq!(source.call(&Request::Unassign { interface: id.clone(), block: assigned[0] }).await, Outcome::Unassigned);

    lab.server.with(|cloud, _| cloud.fill_subnet(lab.subnet, 0).unwrap());
    let request = Request::Assign { interface: id, family: Family::V4, blocks: 1 };
    assert_eq!(source.call(&request).await, Outcome::Refused(Refusal::Exhausted));
    let calls = lab.server.with(|cloud, _| cloud.calls().of(Action::AssignPrivateIpAddresses).calls);
    assert_eq!(calls, 4, "prefixes are not asked for again within the hour");
}

#[tokio::test]
async fn an_interface_is_added_with_its_addresses_in_the_subnet_that_has_room() {
    let lab = Lab::new("m5.large");
    lab.server.with(|cloud, _| cloud.fill_subnet(lab.subnet, 0).unwrap());
    let source = lab.source_in(&[lab.subnet, lab.other]);
    agreed(&source).await;
    let request = Request::AddInterface { family: Family::V4, blocks: 2 };
    assert_eq!(source.call(&request).await, Outcome::Added);
    let reading = agreed(&source).await;
    let added = &reading.interfaces[1];
    assert_eq!((added.blocks.len(), added.room), (2, [7, 0]), "that subnet has no IPv6");
    assert_eq!(added.gateways[0].to_string(), "10.0.16.1");
    lab.server.with(|cloud, _| {
        let interfaces = cloud.interfaces_of(lab.instance);
        let attachment = interfaces[1].attachment.as_ref().unwrap();
        assert_eq!((attachment.device_index, attachment.delete_on_termination), (1, true));
        assert_eq!(interfaces[1].tags["barewire/instance"], lab.instance.to_string());
        assert_eq!(interfaces[1].security_groups, interfaces[0].security_groups);
    });
    assert_eq!(source.call(&request).await, Outcome::Added);
    assert_eq!(source.call(&request).await, Outcome::Refused(Refusal::Full));
    assert!(!agreed(&source).await.interface_room);
}

#[tokio::test]
async fn an_interface_that_is_being_attached_is_the_nodes_own_already() {
    let lab = Lab::new("m5.large");
    let slowly = DeviceFaults { attaching: Latency::exactly(Millis(60_000)), ..DeviceFaults::default() };
    lab.set_faults(|faults| faults.devices = slowly);
    let source = lab.source();
    agreed(&source).await;
    assert_eq!(source.call(&Request::AddInterface { family: Family::V4, blocks: 1 }).await, Outcome::Added);
    let reading = read(&source, Reader::Api).await;
    assert_eq!(reading.interfaces.iter().map(|interface| interface.blocks.len()).collect::<Vec<_>>(), [0, 1]);
}

#[tokio::test]
async fn what_cannot_be_attached_is_deleted_and_what_leaked_is_swept() {
    let lab = Lab::new("m5.large");
    let source = lab.source();
    agreed(&source).await;
    let request = Request::AddInterface { family: Family::V4, blocks: 1 };
    lab.set_faults(|faults| faults.api.denied = [Action::AttachNetworkInterface].into());
    let Outcome::Refused(Refusal::Other(why)) = source.call(&request).await else { panic!("not refused") };
    assert!(why.contains("ec2:AttachNetworkInterface"), "{why}");
    assert_eq!(lab.interfaces(), 1);

    lab.set_faults(|faults| faults.api.denied = [Action::AttachNetworkInterface, Action::DeleteNetworkInterface].into());
    assert!(matches!(source.call(&request).await, Outcome::Refused(_)));
    assert_eq!(lab.interfaces(), 2);
    lab.set_faults(|_| {});
    let Source::Aws(aws) = &source else { panic!("another source") };
    assert_eq!(aws.sweep_leaked(Duration::from_secs(600)).await, Ok(0), "it is too young");
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(aws.sweep_leaked(Duration::from_secs(1)).await, Ok(1));
    assert_eq!(lab.interfaces(), 1);
}

#[tokio::test]
async fn an_interface_is_made_once_though_replies_are_lost() {
    let lab = Lab::new("m5.4xlarge");
    let source = lab.source();
    agreed(&source).await;
    lab.set_faults(|faults| faults.api.lost_replies = 0.4);
    let request = Request::AddInterface { family: Family::V4, blocks: 1 };
    let mut added = 0;
    for _ in 0..4 {
        match source.call(&request).await {
            Outcome::Added => added += 1,
            Outcome::Unknown | Outcome::Refused(_) => {}
            outcome => panic!("{outcome:?}"),
        }
    }
    lab.set_faults(|_| {});
    let attached = agreed(&source).await.interfaces.len() - 1;
    assert!(added > 0 && attached >= added, "{added} {attached}");
    assert_eq!(lab.interfaces(), attached + 1, "nothing was made twice");
}

#[tokio::test]
async fn failures_of_the_api_are_told_apart() {
    let lab = Lab::new("m5.large");
    let source = lab.source();
    let id = agreed(&source).await.interfaces[0].id.clone();
    let request = Request::Assign { interface: id, family: Family::V4, blocks: 1 };
    let storm = |refusal| vec![Storm { from: ALWAYS.from, until: ALWAYS.until, probability: 1.0, refusal }];
    for (refusal, outcome) in [
        (SimulatedRefusal::RequestLimitExceeded, Outcome::Refused(Refusal::Throttled(None))),
        (SimulatedRefusal::TooManyRequests(9), Outcome::Refused(Refusal::Throttled(Some(9000)))),
        (SimulatedRefusal::InternalError, Outcome::Unknown),
        (SimulatedRefusal::Unavailable, Outcome::Unknown),
    ] {
        lab.set_faults(|faults| faults.api.storms = storm(refusal));
        assert_eq!(source.call(&request).await, outcome);
    }
    let before = lab.networks().len();
    lab.set_faults(|faults| faults.api.lost_replies = 1.0);
    assert_eq!(source.call(&request).await, Outcome::Unknown);
    assert_eq!(lab.networks().len(), before + 1, "it was done");
    lab.set_faults(|faults| faults.api.credentials_rejected = true);
    for request in [request, Request::Read(Reader::Api)] {
        let Outcome::Refused(Refusal::Other(why)) = source.call(&request).await else { panic!("not refused") };
        assert!(why.contains("AuthFailure") && why.contains("check credentials"), "{why}");
    }
    lab.set_faults(|faults| faults.metadata.html = true);
    let Outcome::Refused(Refusal::Other(why)) = source.call(&Request::Read(Reader::Metadata)).await else { panic!("not refused") };
    assert!(why.contains("html"), "{why}");
}

#[tokio::test]
async fn a_type_that_nobody_knows_gets_a_little() {
    let lab = Lab::new("x9.nano");
    let source = lab.source();
    let reading = agreed(&source).await;
    assert_eq!((reading.interfaces[0].room, reading.interface_room), ([3, 4], false));
    assert!(source.warnings()[0].contains("x9.nano"), "{:?}", source.warnings());
    assert_eq!(assign(&source, &reading.interfaces[0].id, Family::V4, 3).await.len(), 3);
}

#[tokio::test]
async fn without_the_api_metadata_is_enough() {
    let lab = Lab::new("m5.large");
    let source = Source::Aws(Box::new(Aws::new(AwsSettings { metadata: lab.metadata.parse().unwrap(), api: None })));
    assert_eq!(read(&source, Reader::Metadata).await.interfaces.len(), 1);
    let Outcome::Refused(Refusal::Other(why)) = source.call(&Request::Read(Reader::Api)).await else { panic!("not refused") };
    assert!(why.contains("switched off"), "{why}");
    assert_eq!(lab.server.with(|cloud, _| cloud.calls().total().calls), 0);
}

#[tokio::test]
async fn the_instance_type_says_how_many_addresses_there_can_be() {
    let lab = Lab::new("m5.large");
    let source = lab.source();
    // Three interfaces of ten places, of which one is the interface's own, and sixteen addresses in each.
    assert_eq!(source.address_limit(Family::V4).await, Ok(Some(3 * 9 * 16)));
    assert_eq!(source.address_limit(Family::V6).await, Ok(Some(u64::MAX)));
    assert!(lab.networks().len() <= 1, "nothing was assigned for that");
}

/// As node bootstrap asks it, with what the configuration says and nothing else.
#[test]
fn max_pods_is_known_before_there_is_an_address() {
    let lab = Lab::new("m5.large");
    let config = |more: &str| {
        let text = format!("[source]\nkind = \"aws\"\nmetadata = {:?}\n{more}", lab.metadata);
        Config::from_toml(&text, "node").unwrap()
    };
    let with_api = config(&format!("api_endpoint = {:?}\n", lab.api));
    let processors = std::thread::available_parallelism().unwrap().get();
    assert_eq!(max_pods(&with_api).unwrap(), if processors > 30 { 250 } else { 110 }, "the type allows more, EKS' cap does not");
    let without = max_pods(&config("api = false\n")).unwrap_err().to_string();
    assert!(without.contains("no address for pods"), "{without}");
    lab.set_faults(|faults| faults.metadata.off = true);
    let away = max_pods(&config("api = false\n")).unwrap_err().to_string();
    assert!(away.contains("does not tell") && away.contains(&lab.metadata), "{away}");
}
