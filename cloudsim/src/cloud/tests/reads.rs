//! What readers see, and when.

use super::*;
use crate::faults::MetadataFaults;

#[test]
fn describes_are_behind_by_a_lag_of_each_interface() {
    let mut world = World::new();
    world.set_faults(|faults| faults.reads.lag = Millis(1000));
    let interfaces: Vec<_> = (0..20).map(|_| world.launch("m5.large").1).collect();
    world.later(Millis(1000));
    interfaces.iter().for_each(|interface| assert!(world.assign_prefix(*interface).is_ok()));
    let assigned = world.now;
    let mut seen_after = BTreeMap::new();
    while seen_after.len() < interfaces.len() {
        assert!(world.now.since(assigned) <= Millis(1000));
        for interface in &interfaces {
            let has = world.describe(*interface).is_some_and(|seen| seen.ipv4_prefixes.len() == 1);
            assert!(has || !seen_after.contains_key(interface), "reads do not go back by themselves");
            if has {
                seen_after.entry(*interface).or_insert(world.now.since(assigned));
            }
        }
        world.later(Millis(100));
    }
    assert!(seen_after.values().collect::<BTreeSet<_>>().len() > 3, "{seen_after:?}");
}

#[test]
fn a_new_interface_is_unknown_to_other_calls_until_its_lag_has_passed() {
    let mut world = World::new();
    world.set_faults(|faults| faults.reads.lag = Millis(100_000));
    let interface = world.create();
    let lag = world.cloud.lag_of(interface);
    assert!(lag > Millis::ZERO);
    assert_eq!(world.assign_prefix(interface), Err("InvalidNetworkInterfaceID.NotFound"));
    world.later(lag);
    assert!(world.describe(interface).is_some());
    world.assign_prefix(interface).unwrap();
}

#[test]
fn a_deleted_interface_is_seen_for_a_while_and_then_forgotten() {
    let mut world = World::new();
    let interface = world.create();
    world.set_faults(|faults| faults.reads.lag = Millis(100_000));
    let lag = world.cloud.lag_of(interface);
    world.later(lag);
    world.call(&Request::DeleteNetworkInterface { interface }).unwrap();
    assert!(world.describe(interface).is_some());
    world.later(lag);
    assert!(world.describe(interface).is_none());
    world.later(Millis(100_000));
    assert!(world.cloud.interfaces.is_empty() && world.cloud.next_change().is_none());
}

#[test]
fn a_read_goes_back_in_time_once() {
    let mut world = World::new();
    let (_, interface) = world.launch("m5.large");
    world.set_faults(|faults| faults.reads.lag = Millis(1000));
    world.later(Millis(5000));
    world.assign_prefix(interface).unwrap();
    world.later(Millis(999));
    let settled = world.describe(interface).unwrap().ipv4_prefixes.len();
    world.set_faults(|faults| faults.reads.back_in_time = 1.0);
    let seen: Vec<_> = (0..3).map(|_| world.describe(interface).unwrap().ipv4_prefixes.len()).collect();
    assert_eq!(seen, [0, settled, settled]);
}

#[test]
fn describes_may_leave_something_out() {
    let mut world = World::new();
    let (_, interface) = world.launch("m5.large");
    world.assign(interface, Ipv4Wanted::Ipv4PrefixCount(3)).unwrap();
    world.set_faults(|faults| faults.reads.omissions = 1.0);
    assert_eq!(world.describe(interface).unwrap().ipv4_prefixes.len(), 2);
    assert_eq!(world.cloud.interface(interface).unwrap().ipv4_prefixes.len(), 3);
}

#[test]
fn metadata_lists_additions_and_removals_late() {
    let mut world = World::new();
    let faults = MetadataFaults { additions_late: Millis(500), removals_late: Millis(2000), ..MetadataFaults::default() };
    world.set_faults(|all| all.metadata = faults.clone());
    let (instance, interface) = world.launch("m5.large");
    world.later(Millis(2000));
    let listed = |world: &mut World| world.cloud.shown_by_metadata(world.now, instance, &faults)[0].ipv4_prefixes.clone();
    let prefix = world.assign_prefix(interface).unwrap();
    world.later(Millis(499));
    assert_eq!(listed(&mut world), []);
    world.later(Millis(1));
    assert_eq!(listed(&mut world), [prefix]);
    world.later(Millis(5000));
    let unassign = Request::UnassignPrivateIpAddresses { interface, addresses: vec![], prefixes: vec![prefix] };
    world.call(&unassign).unwrap();
    assert_eq!(listed(&mut world), [prefix]);
    world.later(Millis(1999));
    assert_eq!(listed(&mut world), [prefix], "an address that somebody else may have by now");
    world.later(Millis(1));
    assert_eq!(listed(&mut world), []);
}

#[test]
fn metadata_knows_of_an_interface_once_the_guest_does() {
    let mut world = World::new();
    world.set_faults(|faults| faults.devices.appearing = Latency::exactly(Millis(700)));
    let (instance, _) = world.launch("m5.large");
    let interface = world.create();
    let attachment = world.attach(interface, instance, 1).unwrap();
    let count = |world: &mut World| world.cloud.shown_by_metadata(world.now, instance, &MetadataFaults::default()).len();
    assert_eq!(count(&mut world), 1);
    world.later(Millis(700));
    assert_eq!(count(&mut world), 2);
    world.call(&Request::DetachNetworkInterface { attachment, force: true }).unwrap();
    assert_eq!(count(&mut world), 1);
}

#[test]
fn filters_and_pages_cut_an_answer() {
    let mut world = World::new();
    let (instance, primary) = world.launch("m5.large");
    let tagged = world.create();
    let tags = BTreeMap::from([("cluster".to_owned(), "blue".to_owned())]);
    let resources = vec![tagged.to_string(), instance.to_string()];
    world.call(&Request::CreateTags { resources, tags }).unwrap();
    let mut find = |filters: Vec<Filter>| {
        let request = Request::DescribeNetworkInterfaces { interfaces: BTreeSet::new(), filters, page: Page::default() };
        match world.call(&request)? {
            Response::DescribeNetworkInterfaces { interfaces, .. } => Ok(interfaces.iter().map(|found| found.id).collect::<Vec<_>>()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(find(vec![filter("tag:cluster", &["bl*"])]), Ok(vec![tagged]));
    assert_eq!(find(vec![filter("tag-key", &["cluster"]), filter("status", &["in-use"])]), Ok(vec![]));
    assert_eq!(find(vec![filter("attachment.instance-id", &[&instance.to_string()])]), Ok(vec![primary]));
    assert_eq!(find(vec![filter("status", &["available", "in-use"])]).unwrap().len(), 2);
    assert_eq!(find(vec![filter("colour", &["blue"])]), Err("InvalidParameterValue"));
    let named = |ids, max_results| Request::DescribeNetworkInterfaces {
        interfaces: ids,
        filters: vec![],
        page: Page { max_results, next_token: None },
    };
    assert_eq!(world.call(&named([tagged].into(), Some(5))), Err("InvalidParameterCombination"));
    assert_eq!(world.call(&named([InterfaceId(1)].into(), None)), Err("InvalidNetworkInterfaceID.NotFound"));
    assert_eq!(world.call(&Request::CreateTags { resources: vec!["x".to_owned()], tags: BTreeMap::new() }), Err("InvalidID"));
}

#[test]
fn nobody_can_describe_a_type_that_nobody_knows() {
    let mut world = World::new();
    let (instance, interface) = world.launch("x9.nano");
    let describe =
        |name: &str| Request::DescribeInstanceTypes { instance_types: [name.to_owned()].into(), filters: vec![], page: Page::default() };
    assert_eq!(world.call(&describe("x9.nano")), Err("InvalidInstanceType"));
    assert!(world.call(&describe("m5.large")).is_ok());
    assert_eq!(world.assign(interface, Ipv4Wanted::Ipv4PrefixCount(20)), Err("PrivateIpAddressLimitExceeded"));
    let describe = Request::DescribeInstances { instances: [instance].into(), filters: vec![], page: Page::default() };
    assert!(matches!(world.call(&describe), Ok(Response::DescribeInstances { instances, .. }) if instances[0].interfaces.len() == 1));
}
