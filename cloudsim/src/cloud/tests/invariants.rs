//! Random calls, with everything going wrong at once: the state keeps its promises all the same.

use proptest::prelude::*;

use super::*;

/// A call whose subjects are chosen by number among those there are.
#[derive(Debug, Clone)]
enum Step {
    Launch(usize),
    Terminate(usize),
    Create { secondary: u32, prefixes: u32 },
    Attach { interface: usize, instance: usize, index: u32 },
    Detach { interface: usize, force: bool },
    Delete(usize),
    Assign { interface: usize, wanted: u32, prefixes: bool },
    AssignIpv6 { interface: usize, prefixes: u32 },
    Unassign { interface: usize, first: bool },
    UnassignIpv6(usize),
    Read { lag: u64 },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0_usize..64;
    prop_oneof![
        2 => (0_usize..4).prop_map(Step::Launch),
        1 => which.clone().prop_map(Step::Terminate),
        3 => (0_u32..4, 0_u32..3).prop_map(|(secondary, prefixes)| Step::Create { secondary, prefixes }),
        4 => (which.clone(), which.clone(), 0_u32..9).prop_map(|(interface, instance, index)| Step::Attach { interface, instance, index }),
        2 => (which.clone(), any::<bool>()).prop_map(|(interface, force)| Step::Detach { interface, force }),
        1 => which.clone().prop_map(Step::Delete),
        6 => (which.clone(), 0_u32..5, any::<bool>()).prop_map(|(interface, wanted, prefixes)| Step::Assign { interface, wanted, prefixes }),
        2 => (which.clone(), 0_u32..4).prop_map(|(interface, prefixes)| Step::AssignIpv6 { interface, prefixes }),
        4 => (which.clone(), any::<bool>()).prop_map(|(interface, first)| Step::Unassign { interface, first }),
        1 => which.prop_map(Step::UnassignIpv6),
        1 => (0_u64..2000).prop_map(|lag| Step::Read { lag }),
        4 => (0_u64..4000).prop_map(Step::Wait),
    ]
}

fn pick<T: Copy>(items: &[T], number: usize) -> Option<T> {
    (!items.is_empty()).then(|| items[number % items.len()])
}

fn request(world: &World, step: &Step) -> Option<Request> {
    let ids: Vec<_> = world.cloud.interfaces().map(|interface| interface.id).collect();
    Some(match *step {
        Step::Create { secondary, prefixes } => {
            let mut spec = InterfaceSpec::new(world.subnet);
            (spec.secondary_count, spec.ipv4_prefix_count) = (secondary, prefixes);
            Request::CreateNetworkInterface { spec, client_token: None }
        }
        Step::Attach { interface, instance, index } => {
            let instances: Vec<_> = world.cloud.instances().map(|instance| instance.id).collect();
            let (interface, instance) = (pick(&ids, interface)?, pick(&instances, instance)?);
            Request::AttachNetworkInterface { interface, instance, device_index: index, network_card: 0 }
        }
        Step::Detach { interface, force } => {
            let held = world.cloud.interface(pick(&ids, interface)?)?.attachment.clone()?;
            Request::DetachNetworkInterface { attachment: held.id, force }
        }
        Step::Delete(interface) => Request::DeleteNetworkInterface { interface: pick(&ids, interface)? },
        Step::Assign { interface, wanted, prefixes } => Request::AssignPrivateIpAddresses {
            interface: pick(&ids, interface)?,
            wanted: if prefixes { Ipv4Wanted::Ipv4PrefixCount(wanted) } else { Ipv4Wanted::SecondaryPrivateIpAddressCount(wanted) },
        },
        Step::AssignIpv6 { interface, prefixes } => {
            Request::AssignIpv6Addresses { interface: pick(&ids, interface)?, wanted: Ipv6Wanted::Ipv6PrefixCount(prefixes) }
        }
        Step::Unassign { interface, first } => {
            let held = world.cloud.interface(pick(&ids, interface)?)?;
            let (addresses, prefixes) = if first {
                (held.secondary.first().copied().into_iter().collect(), held.ipv4_prefixes.clone())
            } else {
                (held.secondary.clone(), held.ipv4_prefixes.first().copied().into_iter().collect())
            };
            Request::UnassignPrivateIpAddresses { interface: held.id, addresses, prefixes }
        }
        Step::UnassignIpv6(interface) => {
            let held = world.cloud.interface(pick(&ids, interface)?)?;
            Request::UnassignIpv6Addresses { interface: held.id, addresses: held.ipv6.clone(), prefixes: held.ipv6_prefixes.clone() }
        }
        Step::Launch(_) | Step::Terminate(_) | Step::Read { .. } | Step::Wait(_) => return None,
    })
}

/// What a fabric would carry, built from the changes alone.
#[derive(Default)]
struct Carried {
    assigned: BTreeSet<(InterfaceId, ipnetwork::IpNetwork)>,
    attached: BTreeSet<InterfaceId>,
}

impl Carried {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Attached { interface } => {
                // A launch tells of its interface once, with all that it holds.
                self.assigned.extend(interface.networks().map(|network| (interface.id, network)));
                assert!(self.attached.insert(interface.id), "attached twice: {}", interface.id);
            }
            Change::Detached { interface } => assert!(self.attached.remove(&interface.id), "not attached: {}", interface.id),
            Change::Assigned { interface, network } => assert!(self.assigned.insert((interface, network)), "assigned twice: {network}"),
            Change::Unassigned { interface, network } => assert!(self.assigned.remove(&(interface, network)), "not assigned: {network}"),
        }
    }
}

fn check(cidr: &str, steps: &[Step]) {
    let mut world = World::with_cidr(cidr);
    world.set_faults(|faults| {
        faults.api.lost_replies = 0.1;
        faults.api.duplicates = 0.2;
        faults.api.partial = 0.2;
        faults.reads.lag = Millis(300);
        faults.reads.omissions = 0.3;
        faults.devices.appearing = Latency { min: Millis(0), max: Millis(3000) };
        faults.devices.detaching = Latency { min: Millis(0), max: Millis(3000) };
        faults.devices.misnamed = 0.3;
        faults.metadata.removals_late = Millis(500);
    });
    let mut carried = Carried::default();
    for step in steps {
        match *step {
            Step::Launch(number) => {
                let kind = ["t3.medium", "m5.large", "m5.4xlarge", "x9.nano"][number];
                let _full_is_fine = world.cloud.launch(world.now, &LaunchSpec::new(kind, world.subnet));
            }
            Step::Terminate(number) => {
                let running: Vec<_> =
                    world.cloud.instances().filter(|instance| instance.is_running()).map(|instance| instance.id).collect();
                if let Some(instance) = pick(&running, number) {
                    world.cloud.terminate(world.now, instance).unwrap();
                }
            }
            Step::Read { lag } => {
                world.set_faults(|faults| faults.reads.lag = Millis(lag));
                let whole = Request::DescribeInstances { instances: BTreeSet::new(), filters: vec![], page: Page::default() };
                let _any = world.call(&whole);
            }
            Step::Wait(span) => world.later(Millis(span)),
            _ => {
                if let Some(request) = request(&world, step) {
                    let _any = world.call(&request);
                }
            }
        }
        world.changes().into_iter().for_each(|change| carried.apply(change));
        world.cloud.audit().unwrap();
        let held: BTreeSet<_> =
            world.cloud.interfaces().flat_map(|interface| interface.networks().map(|network| (interface.id, network))).collect();
        assert_eq!(carried.assigned, held, "what the fabric was told is what the interfaces hold");
        let devices: BTreeSet<_> = world.cloud.interfaces().filter(|held| held.device().is_some()).map(|held| held.id).collect();
        assert_eq!(carried.attached, devices);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn promises_hold_under_random_calls(steps in prop::collection::vec(step(), 1..150)) {
        check("10.0.0.0/22", &steps);
    }

    #[test]
    fn promises_hold_in_a_subnet_that_is_always_full(steps in prop::collection::vec(step(), 1..150)) {
        check("10.0.0.0/26", &steps);
    }

    #[test]
    fn a_bucket_never_gives_more_than_its_size_and_its_refill(waits in prop::collection::vec(0_u64..700, 1..400)) {
        let (mut bucket, mut now, mut taken) = (TokenBucket::full(20, 5, Millis::ZERO), Millis::ZERO, 0);
        for wait in waits {
            now = now + Millis(wait);
            taken += u64::from(bucket.take(now));
            prop_assert!(taken <= 20 + now.0 * 5 / 1000);
        }
    }
}
