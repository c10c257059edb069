mod properties;

use super::*;

const COOLDOWN: u64 = 30_000;

#[test]
fn an_address_that_the_host_has_is_nobodys() {
    let mut pool = pool(&["10.0.0.0/30"]);
    assert_eq!(pool.set_host_addresses(&[ip("10.0.0.1"), ip("192.0.2.1")], at(0)), [(ip("10.0.0.1"), false)]);
    assert_eq!(pool.take_this(ip("10.0.0.1"), &pod(), at(0)), Err(PoolError::OfHost(ip("10.0.0.1"))));
    let taken: Vec<_> = std::iter::from_fn(|| pool.take(Family::V4, &pod(), at(0)).ok()).collect();
    assert_eq!(taken, ["10.0.0.0", "10.0.0.2", "10.0.0.3"].map(ip));
    assert_eq!((pool.counts(Family::V4, at(0)).quarantined, pool.counts(Family::V4, at(0)).free()), (1, 0));
    // The host takes one that a pod has: it stays the pod's, and is nobody's after it.
    assert_eq!(pool.set_host_addresses(&[ip("10.0.0.2")], at(30)), [(ip("10.0.0.2"), true)]);
    assert!(pool.take(Family::V4, &pod(), at(59)).is_err(), "what the host had cools down");
    assert_eq!(pool.take(Family::V4, &pod(), at(60)), Ok(ip("10.0.0.1")), "the host has it no more");
    pool.release(ip("10.0.0.2"), &pod(), at(60));
    assert!(pool.take(Family::V4, &pod(), at(120)).is_err());
    assert!(matches!(pool.remove_range(&"10.0.0.0/30".parse().unwrap(), at(120)), Err(RangeError::Occupied { .. })));
    assert_eq!(pool.set_host_addresses(&[], at(120)), []);
    assert_eq!(pool.take(Family::V4, &pod(), at(150)), Ok(ip("10.0.0.2")));
}

#[test]
fn an_address_that_a_pod_uses_besides_is_not_given_to_another_when_a_range_has_it() {
    let mut pool = pool(&["10.0.0.0/30"]);
    assert_eq!(pool.take_beside(ip("10.0.0.1"), &pod()), Err(PoolError::OfPods(ip("10.0.0.1"), "10.0.0.0/30".parse().unwrap())));
    assert_eq!(pool.take_beside(ip("10.0.1.1"), &pod()), Ok(()));
    assert_eq!(pool.take_beside(ip("10.0.1.1"), &owner(1)), Err(PoolError::InUse { address: ip("10.0.1.1"), owner: pod() }));
    pool.add_range("10.0.1.0/30".parse().unwrap()).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| pool.take(Family::V4, &owner(1), at(0)).ok()).collect();
    assert!(taken.len() == 7 && !taken.contains(&ip("10.0.1.1")), "{taken:?}");
    // It is of the pods' ranges by now, and cools down like others of them.
    pool.release(ip("10.0.1.1"), &pod(), at(1));
    assert!(pool.take(Family::V4, &owner(1), at(30)).is_err());
    assert_eq!(pool.take(Family::V4, &owner(1), at(31)), Ok(ip("10.0.1.1")));
}

fn pool(ranges: &[&str]) -> Pool {
    let ranges: Vec<_> = ranges.iter().map(|text| text.parse().unwrap()).collect();
    Pool::new(&ranges, COOLDOWN)
}

fn pod() -> AttachmentKey {
    owner(0)
}

fn owner(number: u8) -> AttachmentKey {
    AttachmentKey { container_id: format!("c{number}").parse().unwrap(), ifname: "eth0".parse().unwrap() }
}

fn at(seconds: u64) -> BootMillis {
    BootMillis(seconds * 1000)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn never_used_first_then_least_recently_freed() {
    let mut pool = pool(&["10.0.0.1-10.0.0.3"]);
    let [a, b] = [0, 0].map(|_| pool.take(Family::V4, &pod(), at(0)).unwrap());
    pool.release(b, &pod(), at(1));
    pool.release(a, &pod(), at(2));
    assert_eq!(pool.take(Family::V4, &pod(), at(100)).unwrap(), ip("10.0.0.3"));
    assert_eq!(pool.take(Family::V4, &pod(), at(100)).unwrap(), b);
    assert_eq!(pool.take(Family::V4, &pod(), at(100)).unwrap(), a);
}

#[test]
fn a_freed_address_cools_down() {
    let mut pool = pool(&["10.0.0.1"]);
    let only = pool.take(Family::V4, &pod(), at(0)).unwrap();
    pool.release(only, &pod(), at(10));
    let error = pool.take(Family::V4, &pod(), at(39)).unwrap_err();
    assert_eq!(error, PoolError::Exhausted { family: Family::V4, held: 0, cooling: 1, quarantined: 0, size: 1, next: Some(1000) });
    assert!(error.to_string().contains("1.0 s"), "{error}");
    assert!(pool.lacking(at(39)).is_some());
    assert_eq!(pool.take_this(only, &pod(), at(39)), Err(PoolError::Cooling { address: only, left: 1000 }));
    assert!(pool.lacking(at(40)).is_none());
    assert_eq!(pool.take(Family::V4, &pod(), at(40)).unwrap(), only);
}

#[test]
fn certain_addresses() {
    let mut pool = pool(&["10.0.0.1-10.0.0.3"]);
    pool.take_this(ip("10.0.0.1"), &pod(), at(0)).unwrap();
    assert_eq!(pool.take_this(ip("10.0.0.1"), &pod(), at(0)), Err(PoolError::InUse { address: ip("10.0.0.1"), owner: pod() }));
    assert_eq!(pool.take_this(ip("10.9.9.9"), &pod(), at(0)), Err(PoolError::Foreign(ip("10.9.9.9"))));
    assert_eq!(pool.take(Family::V4, &pod(), at(0)).unwrap(), ip("10.0.0.2"));
}

#[test]
fn quarantine_keeps_an_address_out() {
    let mut pool = pool(&["10.0.0.1-10.0.0.2"]);
    pool.quarantine(ip("10.0.0.1"), "seen on a foreign link".into());
    assert_eq!(pool.take(Family::V4, &pod(), at(0)).unwrap(), ip("10.0.0.2"));
    assert!(matches!(pool.take_this(ip("10.0.0.1"), &pod(), at(0)), Err(PoolError::Quarantined(..))));
    assert!(pool.take(Family::V4, &pod(), at(9999)).is_err());
}

#[test]
fn a_quarantined_address_that_was_released_cools_down_first() {
    let mut pool = pool(&["10.0.0.1-10.0.0.2"]);
    assert_eq!(pool.take(Family::V4, &pod(), at(0)).unwrap(), ip("10.0.0.1"));
    pool.quarantine(ip("10.0.0.2"), "seen on a foreign link".into());
    assert_eq!(pool.release_quarantined(ip("10.0.0.1"), at(0)), None, "a pod has it");
    assert_eq!(pool.release_quarantined(ip("10.0.0.2"), at(1_000)).as_deref(), Some("seen on a foreign link"));
    assert_eq!(pool.release_quarantined(ip("10.0.0.2"), at(1_000)), None, "once");
    assert!(pool.take(Family::V4, &pod(), at(1_001)).is_err());
    assert_eq!(pool.take(Family::V4, &pod(), at(1_000_000)).unwrap(), ip("10.0.0.2"));
    // The host has it, or it is in no range (any more): it is not quarantined, and nobody gets it.
    pool.quarantine(ip("10.0.0.1"), "x".into());
    pool.set_host_addresses(&[ip("10.0.0.1")], at(0));
    assert!(pool.release_quarantined(ip("10.0.0.1"), at(0)).is_some());
    assert!(pool.take(Family::V4, &pod(), at(2_000_000)).is_err());
    pool.quarantine(ip("10.9.9.9"), "x".into());
    assert!(pool.release_quarantined(ip("10.9.9.9"), at(0)).is_some());
}

#[test]
fn what_was_held_and_freed_before_a_restart_is_so_after_it() {
    let mut pool = pool(&["10.0.0.1-10.0.0.4"]);
    pool.restore_held(ip("10.0.0.1"), &pod());
    pool.restore_freed(vec![(ip("10.0.0.3"), at(5)), (ip("10.0.0.2"), at(4)), (ip("10.0.0.1"), at(3))]);
    let order: Vec<_> = (0..3).map(|_| pool.take(Family::V4, &pod(), at(100)).unwrap()).collect();
    assert_eq!(order, ["10.0.0.4", "10.0.0.2", "10.0.0.3"].map(ip));
    assert!(pool.take(Family::V4, &pod(), at(100)).is_err());
}

#[test]
fn a_vast_range_needs_little_memory() {
    let mut pool = Pool::new(&["fd00::/64".parse().unwrap()], 0);
    for step in 0..200_000 {
        let address = pool.take(Family::V6, &pod(), BootMillis(step)).unwrap();
        pool.release(address, &pod(), BootMillis(step));
    }
    assert!(pool.of(Family::V6).ranges.values().all(|part| part.remembered() <= range_pool::REMEMBERED + 1));
}

fn range(text: &str) -> AddressRange {
    text.parse().unwrap()
}

#[test]
fn a_wanted_family_without_a_range_is_exhausted() {
    let mut pool = pool(&["10.0.0.0/31"]);
    pool.want(Family::V6);
    assert!(matches!(pool.lacking(at(0)), Some(PoolError::Exhausted { family: Family::V6, size: 0, .. })));
    assert_eq!(pool.families().count(), 2);
}

#[test]
fn pods_gather_in_the_lower_ranges() {
    let mut pool = pool(&["10.0.0.16/30", "10.0.0.0/30"]);
    let taken: Vec<_> = (0..5).map(|_| pool.take(Family::V4, &pod(), at(0)).unwrap()).collect();
    assert_eq!(taken[4], ip("10.0.0.16"));
    pool.release(taken[1], &pod(), at(1));
    assert_eq!(pool.take(Family::V4, &pod(), at(100)).unwrap(), taken[1]);
}

#[test]
fn i2_a_range_goes_only_when_all_of_it_is_free() {
    let mut pool = pool(&["10.0.0.0/30"]);
    let upper = range("10.0.0.16/30");
    pool.add_range(upper).unwrap();
    pool.add_range(upper).unwrap();
    assert!(matches!(pool.add_range(range("10.0.0.18/31")), Err(RangeError::Overlap(..))));
    pool.take_this(ip("10.0.0.17"), &pod(), at(0)).unwrap();
    assert!(matches!(pool.remove_range(&upper, at(0)), Err(RangeError::Occupied { held: 1, .. })));
    pool.release(ip("10.0.0.17"), &pod(), at(10));
    assert!(matches!(pool.remove_range(&upper, at(39)), Err(RangeError::Occupied { cooling: 1, .. })));
    pool.remove_range(&upper, at(40)).unwrap();
    assert!(matches!(pool.remove_range(&upper, at(40)), Err(RangeError::NoSuchRange(_))));
    assert_eq!(pool.take_this(ip("10.0.0.17"), &pod(), at(40)), Err(PoolError::Foreign(ip("10.0.0.17"))));
}

#[test]
fn a_closed_range_keeps_its_pods_and_gets_no_new_ones() {
    let mut pool = pool(&["10.0.0.0/31", "10.0.0.16/31"]);
    let first = pool.take(Family::V4, &pod(), at(0)).unwrap();
    pool.set_state(&range("10.0.0.0/31"), RangeState::Closed(Closed::Lost)).unwrap();
    assert_eq!(pool.take(Family::V4, &pod(), at(0)).unwrap(), ip("10.0.0.16"));
    assert!(matches!(pool.take_this(ip("10.0.0.1"), &pod(), at(0)), Err(PoolError::Quarantined(..))));
    let counts = pool.counts(Family::V4, at(0));
    assert_eq!((counts.size, counts.held, counts.quarantined, counts.free()), (4, 2, 1, 1));
    pool.release(first, &pod(), at(1));
    pool.take(Family::V4, &pod(), at(100)).unwrap();
    assert!(pool.take(Family::V4, &pod(), at(100)).is_err(), "what was freed in a closed range is not used again");
    pool.remove_range(&range("10.0.0.0/31"), at(100)).unwrap();
}

#[test]
fn a_doubtful_range_is_the_last_resort() {
    let mut pool = pool(&["10.0.0.0/31", "10.0.0.16/31"]);
    pool.set_state(&range("10.0.0.0/31"), RangeState::Suspect).unwrap();
    let taken: Vec<_> = (0..3).map(|_| pool.take(Family::V4, &pod(), at(0)).unwrap()).collect();
    assert_eq!(taken, ["10.0.0.16", "10.0.0.17", "10.0.0.0"].map(ip));
}

#[test]
fn what_was_held_or_freed_before_its_range_was_known_is_so_after() {
    let mut pool = pool(&[]);
    pool.restore_held(ip("10.0.0.0"), &pod());
    pool.restore_freed(vec![(ip("10.0.0.1"), at(5))]);
    pool.restore_held(ip("10.0.0.2"), &pod());
    pool.release(ip("10.0.0.2"), &pod(), at(6));
    pool.add_range(range("10.0.0.0/30")).unwrap();
    assert_eq!(pool.take(Family::V4, &pod(), at(7)).unwrap(), ip("10.0.0.3"));
    assert_eq!(pool.counts(Family::V4, at(7)), Counts { size: 4, held: 2, cooling: 2, quarantined: 0 });
    assert_eq!(pool.take(Family::V4, &pod(), at(35)).unwrap(), ip("10.0.0.1"));
}

/// Both in one millisecond: found by the property of I1, as a count of one address for two.
#[test]
fn an_address_that_is_freed_twice_at_once_cools_once() {
    let (mut pool, now) = (pool(&["10.0.0.0/30"]), BootMillis(1));
    for who in [owner(0), owner(1)] {
        assert!(pool.restore_held(ip("10.0.0.1"), &who) && pool.release(ip("10.0.0.1"), &who, now));
    }
    assert_eq!((pool.counts(Family::V4, now).cooling, pool.counts(Family::V4, now).free()), (1, 3));
}
