//! How many calls an account may make, to the millisecond.

use super::*;

#[test]
fn assigning_costs_five_a_second_after_a_hundred() {
    let mut world = World::with_cidr("10.0.0.0/16");
    let interfaces: Vec<_> = (0..200).map(|_| world.launch("m5.large").1).collect();
    let answered = interfaces.iter().filter(|interface| world.assign_prefix(**interface).is_ok()).count();
    assert_eq!(answered, 100);
    assert_eq!(world.assign_prefix(interfaces[150]), Err("RequestLimitExceeded"));
    world.later(Millis(199));
    assert_eq!(world.assign_prefix(interfaces[150]), Err("RequestLimitExceeded"));
    world.later(Millis(1));
    world.assign_prefix(interfaces[150]).unwrap();
    assert_eq!(world.assign_prefix(interfaces[151]), Err("RequestLimitExceeded"));
    let tally = world.cloud.calls().of(Action::AssignPrivateIpAddresses);
    assert_eq!((tally.calls, tally.answered, tally.throttled, tally.refused), (204, 101, 103, 0));
}

#[test]
fn each_action_has_a_bucket_of_its_own() {
    let mut world = World::new();
    let (instance, interface) = world.launch("m5.large");
    while world.assign(interface, Ipv4Wanted::Ipv4PrefixCount(99)) != Err("RequestLimitExceeded") {}
    let absent = AttachmentId(1);
    let describe =
        |filters: Vec<Filter>| Request::DescribeNetworkInterfaces { interfaces: BTreeSet::new(), filters, page: Page::default() };
    let one = vec![filter("attachment.instance-id", &[&instance.to_string()])];
    for (request, size) in [
        (Request::DetachNetworkInterface { attachment: absent, force: false }, 50),
        (Request::DeleteNetworkInterface { interface }, 100),
        (describe(one), 100),
        (describe(vec![]), 50),
    ] {
        let taken = (0..200).filter(|_| world.call(&request) != Err("RequestLimitExceeded")).count();
        assert_eq!(taken, size, "{request:?}");
    }
}

#[test]
fn buckets_are_those_that_aws_documents() {
    for action in Action::ALL {
        let name = action.to_string();
        let documented = match name.as_str() {
            describe if describe.starts_with("Describe") => (100, 20),
            "AttachNetworkInterface" | "DetachNetworkInterface" => (50, 5),
            "CreateTags" => (100, 10),
            _ => (100, 5),
        };
        assert_eq!(action.bucket(false), documented, "{name}");
    }
}

#[test]
fn a_node_each_cannot_be_faster_than_the_bucket() {
    let mut world = World::with_cidr("10.0.0.0/16");
    let interface = world.launch("p4d.24xlarge").1;
    let (start, mut granted) = (world.now, 0);
    // The call is refused for its size; the token is spent on it all the same.
    while granted < 7500 {
        match world.assign(interface, Ipv4Wanted::Ipv4PrefixCount(99)) {
            Err("RequestLimitExceeded") => world.later(Millis(200)),
            _ => granted += 1,
        }
    }
    assert_eq!(world.now.since(start), Millis::seconds((7500 - 100) / 5), "24.7 minutes");
}

#[test]
fn the_operator_spends_no_tokens() {
    let mut world = World::new();
    let interface = world.create();
    let read = Request::DescribeNetworkInterfaces { interfaces: [interface].into(), filters: vec![], page: Page::default() };
    assert!((0..500).all(|_| world.cloud.apply(world.now, &read).is_ok()));
    assert_eq!(world.cloud.calls().of(Action::DescribeNetworkInterfaces).calls, 0);
}
