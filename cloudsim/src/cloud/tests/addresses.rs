//! Limits of interfaces, and what a subnet can give.

use super::*;

#[test]
fn prefixes_count_against_the_addresses_of_an_interface() {
    let mut world = World::new();
    let (_, interface) = world.launch("t3.medium");
    assert_eq!(world.assign(interface, Ipv4Wanted::Ipv4PrefixCount(6)), Err("PrivateIpAddressLimitExceeded"), "six with the primary");
    world.assign(interface, Ipv4Wanted::Ipv4PrefixCount(4)).unwrap();
    world.assign(interface, Ipv4Wanted::SecondaryPrivateIpAddressCount(1)).unwrap();
    assert_eq!(world.assign_prefix(interface), Err("PrivateIpAddressLimitExceeded"));
    assert_eq!(world.cloud.interface(interface).unwrap().ipv4_count(), 6);
    world.cloud.audit().unwrap();
}

#[test]
fn a_fragmented_subnet_refuses_prefixes_and_gives_addresses() {
    let mut world = World::new();
    let (_, interface) = world.launch("m5.large");
    world.cloud.fragment_subnet(world.subnet, 1).unwrap();
    assert_eq!(world.assign(interface, Ipv4Wanted::Ipv4PrefixCount(2)), Err("InsufficientCidrBlocks"));
    assert_eq!(world.cloud.audit(), Ok(()), "what was taken for a call that failed is given back");
    world.assign_prefix(interface).unwrap();
    assert_eq!(world.assign_prefix(interface), Err("InsufficientCidrBlocks"));
    world.assign(interface, Ipv4Wanted::SecondaryPrivateIpAddressCount(3)).unwrap();
    world.cloud.audit().unwrap();
}

#[test]
fn a_full_subnet_says_so_in_its_own_words() {
    let mut world = World::new();
    let (_, interface) = world.launch("m5.large");
    world.cloud.fill_subnet(world.subnet, 2).unwrap();
    assert_eq!(world.assign(interface, Ipv4Wanted::Ipv4PrefixCount(1)), Err("InvalidParameterValue"));
    assert_eq!(world.assign(interface, Ipv4Wanted::SecondaryPrivateIpAddressCount(3)), Err("InsufficientFreeAddressesInSubnet"));
    world.assign(interface, Ipv4Wanted::SecondaryPrivateIpAddressCount(2)).unwrap();
    world.cloud.audit().unwrap();
}

#[test]
fn only_what_is_assigned_can_be_unassigned_and_all_of_it_or_nothing() {
    let mut world = World::new();
    let (_, interface) = world.launch("m5.large");
    let prefix = world.assign_prefix(interface).unwrap();
    let primary = world.cloud.interface(interface).unwrap().primary;
    let unassign = |addresses: &[std::net::Ipv4Addr], prefixes: &[Ipv4Network]| Request::UnassignPrivateIpAddresses {
        interface,
        addresses: addresses.to_vec(),
        prefixes: prefixes.to_vec(),
    };
    assert_eq!(world.call(&unassign(&[primary], &[])), Err("InvalidParameterValue"));
    let foreign = "10.0.15.0/28".parse().unwrap();
    assert_eq!(world.call(&unassign(&[], &[prefix, foreign])), Err("InvalidParameterValue"));
    assert_eq!(world.cloud.interface(interface).unwrap().ipv4_prefixes, [prefix]);
    let _before = world.changes();
    assert_eq!(world.call(&unassign(&[], &[prefix, prefix])), Ok(Response::Done));
    assert_eq!(world.changes(), [Change::Unassigned { interface, network: prefix.into() }]);
    world.assign(interface, Ipv4Wanted::Ipv4Prefixes(vec![prefix])).unwrap();
    world.cloud.audit().unwrap();
}

#[test]
fn an_address_moves_to_nobody() {
    let mut world = World::new();
    let ((_, first), (_, second)) = (world.launch("m5.large"), world.launch("m5.large"));
    let address = "10.0.7.7".parse().unwrap();
    world.assign(first, Ipv4Wanted::PrivateIpAddresses(vec![address])).unwrap();
    assert_eq!(world.assign(second, Ipv4Wanted::PrivateIpAddresses(vec![address])), Err("InvalidParameterValue"));
    assert_eq!(world.assign(second, Ipv4Wanted::PrivateIpAddresses(vec!["10.0.0.1".parse().unwrap()])), Err("InvalidParameterValue"));
    let around = "10.0.7.0/28".parse().unwrap();
    assert_eq!(world.assign(second, Ipv4Wanted::Ipv4Prefixes(vec![around])), Err("InvalidIPAddress.InUse"));
    world.cloud.audit().unwrap();
}

#[test]
fn ipv6_prefixes_come_and_go() {
    let mut world = World::new();
    let (_, interface) = world.launch("m5.large");
    let assign = Request::AssignIpv6Addresses { interface, wanted: Ipv6Wanted::Ipv6PrefixCount(2) };
    let Ok(Response::AssignIpv6Addresses { prefixes, .. }) = world.call(&assign) else { panic!() };
    assert_eq!(prefixes.len(), 2);
    let too_many = Request::AssignIpv6Addresses { interface, wanted: Ipv6Wanted::Ipv6PrefixCount(9) };
    assert_eq!(world.call(&too_many), Err("Ipv6AddressLimitExceeded"));
    world.cloud.audit().unwrap();
    world.call(&Request::UnassignIpv6Addresses { interface, addresses: vec![], prefixes }).unwrap();
    world.cloud.audit().unwrap();
}

#[test]
fn prefixes_need_nitro() {
    let mut world = World::new();
    let (_, interface) = world.launch("t2.medium");
    assert_eq!(world.assign_prefix(interface), Err("UnsupportedOperation"));
    world.assign(interface, Ipv4Wanted::SecondaryPrivateIpAddressCount(1)).unwrap();
}

#[test]
fn launch_gives_prefixes_without_a_call() {
    let mut world = World::new();
    let mut spec = LaunchSpec::new("m5.large", world.subnet);
    spec.interfaces[0].ipv4_prefix_count = 9;
    spec.interfaces[0].ipv6_prefix_count = 1;
    let instance = world.cloud.launch(world.now, &spec).unwrap();
    assert_eq!(world.cloud.interfaces_of(instance)[0].ipv4_prefixes.len(), 9);
    assert_eq!(world.cloud.calls().total().calls, 0);
    spec.interfaces[0].ipv4_prefix_count = 10;
    assert_eq!(world.cloud.launch(world.now, &spec).unwrap_err().code, "PrivateIpAddressLimitExceeded");
    assert_eq!(world.cloud.instances().count(), 1, "nothing is left of a launch that was refused");
    world.cloud.audit().unwrap();
}

#[test]
fn alias_ranges_have_any_length() {
    let mut world = World::new();
    let mut spec = LaunchSpec::new("n2-standard-4", world.subnet);
    spec.interfaces[0].ipv4_prefix_count = 2;
    spec.interfaces[0].ipv4_prefix_length = 24;
    let instance = world.cloud.launch(world.now, &spec).unwrap();
    let interface = world.cloud.interfaces_of(instance)[0].clone();
    assert!(interface.ipv4_prefixes.iter().all(|range| range.prefix() == 24));
    let inside = interface.ipv4_prefixes[1].nth(77).unwrap();
    assert_eq!(world.cloud.instance_with(inside.into()), Some(instance));
    world.cloud.audit().unwrap();
}
