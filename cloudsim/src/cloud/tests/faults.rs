//! Each way of misbehaving does what it says.

use super::*;
use crate::faults::{Interval, Refusal, Storm};

#[test]
fn a_lost_reply_is_a_call_that_was_carried_out() {
    let mut world = World::new();
    let (_, interface) = world.launch("m5.large");
    world.set_faults(|faults| faults.api.lost_replies = 1.0);
    let request = Request::AssignPrivateIpAddresses { interface, wanted: Ipv4Wanted::Ipv4PrefixCount(1) };
    assert_eq!(world.cloud.call(world.now, &request).outcome, Outcome::NoReply);
    assert_eq!(world.cloud.interface(interface).unwrap().ipv4_prefixes.len(), 1);
    assert_eq!(world.cloud.calls().total().unheard, 1);
}

#[test]
fn a_failed_reply_is_one_too() {
    let mut world = World::new();
    let (_, interface) = world.launch("m5.large");
    world.set_faults(|faults| faults.api.failed_replies = 1.0);
    assert_eq!(world.assign_prefix(interface), Err("InternalError"));
    assert_eq!(world.cloud.interface(interface).unwrap().ipv4_prefixes.len(), 1);
}

#[test]
fn a_duplicate_is_carried_out_twice_and_answered_once() {
    let mut world = World::new();
    let (_, interface) = world.launch("m5.large");
    world.set_faults(|faults| faults.api.duplicates = 1.0);
    let heard = world.assign_prefix(interface).unwrap();
    let held = &world.cloud.interface(interface).unwrap().ipv4_prefixes;
    assert_eq!((held.len(), held[0]), (2, heard));
    let spec = InterfaceSpec::new(world.subnet);
    world.call(&Request::CreateNetworkInterface { spec, client_token: Some("t".to_owned()) }).unwrap();
    assert_eq!(world.cloud.interfaces().count(), 2, "a client token makes it one");
    assert_eq!(world.cloud.calls().total().duplicated, 2);
}

#[test]
fn partial_success_gives_less_but_something() {
    let mut world = World::new();
    world.set_faults(|faults| faults.api.partial = 1.0);
    let mut given = BTreeSet::new();
    for _ in 0..40 {
        let (_, interface) = world.launch("m5.large");
        world.assign(interface, Ipv4Wanted::Ipv4PrefixCount(4)).unwrap();
        given.insert(world.cloud.interface(interface).unwrap().ipv4_prefixes.len());
    }
    assert_eq!(given, [1, 2, 3].into());
    let (_, interface) = world.launch("m5.large");
    world.assign_prefix(interface).unwrap();
}

#[test]
fn away_and_storms_have_their_time() {
    let mut world = World::new();
    let (_, interface) = world.launch("m5.large");
    let (from, until) = (world.now + Millis(10), world.now + Millis(20));
    world.set_faults(|faults| {
        faults.api.away = vec![Interval { from, until }];
        let storm = |from, refusal| Storm { from, until: from + Millis(10), probability: 1.0, refusal };
        faults.api.storms = vec![
            storm(until, Refusal::InternalError),
            storm(until + Millis(10), Refusal::TooManyRequests(7)),
            storm(until + Millis(20), Refusal::RequestLimitExceeded),
            storm(until + Millis(30), Refusal::Unavailable),
        ];
    });
    let request = Request::AssignPrivateIpAddresses { interface, wanted: Ipv4Wanted::Ipv4PrefixCount(1) };
    let mut seen = Vec::new();
    for offset in [0, 10, 19, 20, 30, 40, 50, 60] {
        seen.push(match world.cloud.call(world.now + Millis(offset), &request).outcome {
            Outcome::Answered(_) => (200, None),
            Outcome::Refused(error) => (error.status, error.retry_after),
            Outcome::NoReply => (0, None),
        });
    }
    assert_eq!(seen, [(200, None), (0, None), (0, None), (500, None), (429, Some(7)), (503, None), (503, None), (200, None)]);
    assert_eq!(world.cloud.interface(interface).unwrap().ipv4_prefixes.len(), 2, "nothing was carried out in between");
}

#[test]
fn credentials_can_be_wrong_or_too_weak() {
    let mut world = World::new();
    let (_, interface) = world.launch("m5.large");
    world.set_faults(|faults| faults.api.denied = [Action::AssignPrivateIpAddresses].into());
    assert_eq!(world.assign_prefix(interface), Err("UnauthorizedOperation"));
    let _allowed = world.create();
    world.set_faults(|faults| faults.api.credentials_rejected = true);
    assert_eq!(world.assign_prefix(interface), Err("AuthFailure"));
}

#[test]
fn replies_take_their_time() {
    let mut world = World::new();
    world.set_faults(|faults| faults.api.latency = Latency { min: Millis(20), max: Millis(40) });
    let request = Request::DescribeSubnets { subnets: BTreeSet::new(), filters: vec![], page: Page::default() };
    let times: BTreeSet<_> = (0..50).map(|_| world.cloud.call(world.now, &request).after.0).collect();
    assert!(times.len() > 5 && times.iter().all(|time| (20..=40).contains(time)), "{times:?}");
}

#[test]
fn one_seed_is_one_history() {
    let history = || {
        let mut world = World::new();
        world.set_faults(|faults| {
            faults.api.lost_replies = 0.2;
            faults.api.duplicates = 0.2;
            faults.devices.appearing = Latency { min: Millis(0), max: Millis(5000) };
        });
        let (instance, _) = world.launch("m5.4xlarge");
        for index in 1..8 {
            let request = Request::CreateNetworkInterface { spec: InterfaceSpec::new(world.subnet), client_token: Some(index.to_string()) };
            let _heard = world.cloud.call(world.now, &request);
            let free = world.cloud.interfaces().find(|interface| interface.attachment.is_none()).map(|interface| interface.id);
            if let Some(free) = free {
                let _heard = world.attach(free, instance, index);
                let _heard = world.assign_prefix(free);
            }
            world.later(Millis(700));
        }
        format!("{:?}", world.cloud.take_events())
    };
    assert_eq!(history(), history());
}
