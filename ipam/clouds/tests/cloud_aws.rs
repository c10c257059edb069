//! The source on AWS against a simulated EC2 on sockets: IMDSv2, credentials of the instance's role, signed calls.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use cloudsim::cloud::{Action, Cloud, InstanceId, InterfaceSpec, LaunchSpec, Request as Ec2, Response, Settings, SubnetId, SubnetSpec};
use cloudsim::fabric::NoFabric;
use cloudsim::faults::{DeviceFaults, Faults, Interval, Latency, Refusal as SimulatedRefusal, Storm};
use cloudsim::http::{Asker, Role, Server};
use cloudsim::metadata::Service;
use cloudsim::time::Millis;
use ipam_clouds::Source;
use ipam_clouds::aws::{ApiSettings, Aws, AwsSettings};
use ipam_pool::range::Family;
use ipam_supply::evidence::Reader;
use ipam_supply::{Outcome, Reading, Refusal, Request};
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
        let mut subnet = |cidr: &str, ipv6: Option<&str>, zone: &str, tags: &[(&str, &str)]| {
            let ipv6_cidr = ipv6.map(|cidr| cidr.parse().unwrap());
            let availability_zone = zone.to_owned();
            cloud.create_subnet(SubnetSpec { availability_zone, cidr: cidr.parse().unwrap(), ipv6_cidr, tags: tags_of(tags) }).unwrap()
        };
        let (first, other) =
            (subnet("10.0.0.0/20", Some("fd00:10::/64"), "us-east-1a", &[]), subnet("10.0.16.0/20", None, "us-east-1a", &[]));
        // For pods: a small one, one with more room, one of another zone, one of another cluster.
        for (cidr, zone, cluster) in [
            ("10.0.32.0/24", "us-east-1a", "one"),
            ("10.0.48.0/20", "us-east-1a", "one"),
            ("10.0.64.0/18", "us-east-1b", "one"),
            ("10.0.128.0/18", "us-east-1a", "two"),
        ] {
            subnet(cidr, None, zone, &[("pods", "yes"), ("cluster", cluster)]);
        }
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
        self.source_with(ApiSettings { subnets: subnets.iter().map(ToString::to_string).collect(), ..ApiSettings::default() })
    }

    fn source_with(&self, api: ApiSettings) -> Source {
        let api = ApiSettings { endpoint: Some(self.api.parse().unwrap()), ..api };
        Source::Aws(Box::new(Aws::new(AwsSettings { metadata: self.metadata.parse().unwrap(), all_interfaces: false, api: Some(api) })))
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

fn tags_of(tags: &[(&str, &str)]) -> BTreeMap<String, String> {
    tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
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
    assert_eq!((primary.free_slots, reading.interface_room), ([9, 10], true));
    assert_eq!(primary.gateways.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1"]);
    assert_eq!(source.native_cidrs(), ["10.0.0.0/16", "fd00:10::/56"].map(|cidr| cidr.parse::<IpNetwork>().unwrap()));

    let id = primary.id.clone();
    let v4 = assign(&source, &id, Family::V4, 2).await;
    let v6 = assign(&source, &id, Family::V6, 1).await;
    assert_eq!((v4.len(), v4[0].prefix(), v6.len(), v6[0].prefix()), (2, 28, 1, 80));
    let primary = &agreed(&source).await.interfaces[0];
    assert_eq!(primary.blocks, v4.iter().chain(&v6).copied().collect());
    assert_eq!(primary.free_slots, [7, 9]);

    for block in [v4[0], v6[0]] {
        let unassign = |blocks| Request::Unassign { interface: id.clone(), blocks };
        assert_eq!(source.call(&unassign(vec![block])).await, Outcome::Unassigned);
        assert!(!lab.networks().contains(&block));
        // Once more is no refusal: readers have to tell. And of several, all or none.
        assert_eq!(source.call(&unassign(vec![block])).await, Outcome::Unknown);
        assert_eq!(source.call(&unassign(vec![if block.is_ipv4() { v4[1] } else { v6[0] }, block])).await, Outcome::Unknown);
        assert!(lab.networks().contains(&v4[1]));
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
    let before = lab.server.with(|cloud, _| cloud.calls().of(Action::UnassignPrivateIpAddresses).calls);
    assert_eq!(source.call(&Request::Unassign { interface: id.clone(), blocks: assigned.clone() }).await, Outcome::Unassigned);
    assert!(assigned.iter().all(|block| !lab.networks().contains(block)));
    assert_eq!(lab.server.with(|cloud, _| cloud.calls().of(Action::UnassignPrivateIpAddresses).calls) - before, 1, "in one call");

    lab.server.with(|cloud, _| cloud.fill_subnet(lab.subnet, 0).unwrap());
    let request = Request::Assign { interface: id, family: Family::V4, blocks: 1 };
    assert_eq!(source.call(&request).await, Outcome::Refused(Refusal::Exhausted));
    let calls = lab.server.with(|cloud, _| cloud.calls().of(Action::AssignPrivateIpAddresses).calls);
    assert_eq!(calls, 3, "neither prefixes are asked for again within the hour, nor addresses where there are none");
}

/// A subnet gives all or nothing, so that asking for sixteen of five would be asking for none.
#[tokio::test]
async fn of_a_subnet_that_is_nearly_full_the_last_addresses_are_taken() {
    let lab = Lab::new("m5.4xlarge");
    let source = lab.source();
    let id = agreed(&source).await.interfaces[0].id.clone();
    lab.server.with(|cloud, _| cloud.fill_subnet(lab.subnet, 5).unwrap());
    let assigned = assign(&source, &id, Family::V4, 1).await;
    assert_eq!(assigned.len(), 5);
    assert_eq!(source.warnings(), Vec::<String>::new(), "it is not fragmented: prefixes are asked for again");
    let calls = || lab.server.with(|cloud, _| cloud.calls().of(Action::AssignPrivateIpAddresses).calls);
    let before = calls();
    let one = Request::Assign { interface: id.clone(), family: Family::V4, blocks: 1 };
    assert_eq!(source.call(&one).await, Outcome::Refused(Refusal::Exhausted));
    assert_eq!(calls() - before, 1, "what has none is not asked for single ones");
    // Where nobody may look, sixteen are asked for, as ever.
    lab.set_faults(|faults| faults.api.denied = [Action::DescribeSubnets].into());
    assert_eq!(source.call(&one).await, Outcome::Refused(Refusal::Exhausted));
    assert_eq!(calls() - before, 3);

    // An interface takes one of them for itself.
    let lab = Lab::new("m5.large");
    let source = lab.source();
    agreed(&source).await;
    lab.server.with(|cloud, _| cloud.fill_subnet(lab.subnet, 4).unwrap());
    assert_eq!(source.call(&Request::AddInterface { family: Family::V4, blocks: 1 }).await, Outcome::Added);
    assert_eq!(agreed(&source).await.interfaces[1].blocks.len(), 3);
    assert_eq!(source.call(&Request::AddInterface { family: Family::V4, blocks: 1 }).await, Outcome::Refused(Refusal::Exhausted));
    assert_eq!(lab.interfaces(), 2);
}

/// What others attach to the instance is theirs, until they say otherwise.
#[tokio::test]
async fn tags_tell_which_further_interfaces_are_managed() {
    let lab = Lab::new("m5.4xlarge");
    let attach = |device_index: u32, tags: &[(&str, &str)]| {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        lab.server.with(|cloud, now| {
            let spec = InterfaceSpec { tags, secondary_count: 2, ..InterfaceSpec::new(lab.subnet) };
            let created = cloud.apply(now, &Ec2::CreateNetworkInterface { spec, client_token: None }).unwrap();
            let Response::CreateNetworkInterface { interface, .. } = created else { panic!("{created:?}") };
            let attach = Ec2::AttachNetworkInterface { interface: interface.id, instance: lab.instance, device_index, network_card: 0 };
            cloud.apply(now, &attach).unwrap();
            interface.id.to_string()
        })
    };
    let theirs = attach(1, &[]);
    let tagged = attach(2, &[("barewire/manage", "true")]);
    let another_nodes = attach(3, &[("barewire/instance", "i-00000000000000001")]);
    let source = lab.source();
    let ids = |reading: &Reading| reading.interfaces.iter().map(|interface| interface.id.clone()).collect::<Vec<_>>();
    let metadata = read(&source, Reader::Metadata).await;
    assert_eq!((ids(&metadata).len(), metadata.has_unidentified), (1, true), "the primary, and others that it knows nothing of");
    let reading = read(&source, Reader::Api).await;
    assert_eq!(ids(&reading)[1..], [tagged]);
    assert!(!ids(&reading).contains(&theirs) && !ids(&reading).contains(&another_nodes));
    assert_eq!(agreed(&source).await, reading, "metadata knows as much by now");
    assert!(!reading.has_unidentified && reading.interface_room);
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
    assert_eq!((added.blocks.len(), added.free_slots), (2, [7, 0]), "that subnet has no IPv6");
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
async fn subnets_are_found_by_their_tags_and_the_roomiest_comes_first() {
    let lab = Lab::new("m5.large");
    let by = |tags: &[(&str, &str)]| lab.source_with(ApiSettings { subnet_tags: tags_of(tags), ..ApiSettings::default() });
    let source = by(&[("pods", "yes"), ("cluster", "one")]);
    agreed(&source).await;
    let request = Request::AddInterface { family: Family::V4, blocks: 1 };
    assert_eq!(source.call(&request).await, Outcome::Added);
    let reading = agreed(&source).await;
    assert_eq!(reading.interfaces[1].gateways[0].to_string(), "10.0.48.1");
    // That one is full: the next.
    lab.server.with(|cloud, _| {
        let roomy = cloud.subnets().find(|subnet| subnet.cidr.to_string() == "10.0.48.0/20").unwrap().id;
        cloud.fill_subnet(roomy, 0).unwrap();
    });
    assert_eq!(source.call(&request).await, Outcome::Added);
    assert_eq!(agreed(&source).await.interfaces[2].gateways[0].to_string(), "10.0.32.1");
    let lab = Lab::new("m5.large");
    let by = |tags: &[(&str, &str)]| lab.source_with(ApiSettings { subnet_tags: tags_of(tags), ..ApiSettings::default() });
    let Outcome::Refused(Refusal::Other(why)) = by(&[("pods", "no")]).call(&request).await else { panic!("not refused") };
    assert!(why.contains("source.subnet_tags (pods = no)") && why.contains("us-east-1a"), "{why}");
}

/// Cost allocation and policies of an organization want tags; and an account has clusters that must not clean up after each other.
#[tokio::test]
async fn what_is_made_has_the_operators_tags_and_only_such_is_swept() {
    let lab = Lab::new("m5.4xlarge");
    let tagged = |cluster: &str| {
        let tags = tags_of(&[("cost-center", "4711"), ("cluster", cluster)]);
        lab.source_with(ApiSettings { tags, ..ApiSettings::default() })
    };
    let (one, two) = (tagged("one"), tagged("two"));
    agreed(&one).await;
    let request = Request::AddInterface { family: Family::V4, blocks: 1 };
    assert_eq!(one.call(&request).await, Outcome::Added);
    lab.server.with(|cloud, _| {
        let tags = &cloud.interfaces_of(lab.instance)[1].tags;
        assert_eq!((tags["cost-center"].as_str(), tags["cluster"].as_str()), ("4711", "one"));
        assert_eq!(tags["barewire/instance"], lab.instance.to_string());
    });
    lab.set_faults(|faults| faults.api.denied = [Action::AttachNetworkInterface, Action::DeleteNetworkInterface].into());
    assert!(matches!(one.call(&request).await, Outcome::Refused(_)));
    lab.set_faults(|faults| faults.api.denied = [Action::CreateNetworkInterface].into());
    let Outcome::Refused(Refusal::Other(why)) = one.call(&request).await else { panic!("not refused") };
    assert!(why.contains("source.tags"), "{why}");
    lab.set_faults(|_| {});
    let before = lab.interfaces();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let swept = async |source: &Source| {
        let Source::Aws(aws) = source else { panic!("another source") };
        aws.sweep_leaked(Duration::from_secs(1)).await.unwrap()
    };
    assert_eq!((swept(&two).await, swept(&one).await), (0, 1));
    assert_eq!(lab.interfaces(), before - 1);
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
    assert_eq!((reading.interfaces[0].free_slots, reading.interface_room), ([3, 4], false));
    assert!(source.warnings()[0].contains("x9.nano"), "{:?}", source.warnings());
    assert_eq!(assign(&source, &reading.interfaces[0].id, Family::V4, 3).await.len(), 3);
}

#[tokio::test]
async fn without_the_api_metadata_is_enough() {
    let lab = Lab::new("m5.large");
    let source = Source::Aws(Box::new(Aws::new(AwsSettings { metadata: lab.metadata.parse().unwrap(), all_interfaces: false, api: None })));
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
