//! What is given back, and what never is.

use super::*;

#[test]
fn i2_a_block_in_use_is_never_given_back() {
    let mut world = World::new(true, &["10.0.1.0/28", "10.0.1.16/28", "10.0.1.32/28", "10.0.1.48/28", "10.0.1.64/28"]);
    world.run(60);
    let pod: std::net::IpAddr = "10.0.1.64".parse().unwrap();
    world.pool.take_this(pod, &owner(), world.now).unwrap();
    world.run(7200);
    assert!(world.assigned.contains(&"10.0.1.64/28".parse().unwrap()));
    assert_eq!(world.assigned.len(), 3, "the free ones beyond two and a half went");
}

#[test]
fn what_was_given_back_is_not_brought_back_by_a_reader_that_lags() {
    let four = ["10.0.1.0/28", "10.0.1.16/28", "10.0.1.32/28", "10.0.1.48/28"];
    let mut world = World::new(true, &four);
    world.run(1200);
    let released: IpNetwork = "10.0.1.48/28".parse().unwrap();
    assert!(!world.assigned.contains(&released));
    let all: BTreeSet<_> = four.iter().map(|text| text.parse().unwrap()).collect();
    world.run_with(300, |world, request| match request {
        Request::Read(Reader::Metadata) => {
            let interface = eni(all.clone(), [10, 0]);
            Outcome::Read(Reading { reader: Reader::Metadata, interfaces: vec![interface], interface_room: false, has_unidentified: false })
        }
        other => world.serve(other),
    });
    assert!(world.pool.ranges().all(|(range, _)| *range != AddressRange::from(released)));
}

#[test]
fn an_unassignment_without_an_answer_is_settled_by_the_readers() {
    for done in [true, false] {
        let mut world = World::new(true, &["10.0.1.0/28", "10.0.1.16/28", "10.0.1.32/28", "10.0.1.48/28"]);
        let mut lost = false;
        world.run_with(1800, |world, request| match request {
            Request::Unassign { .. } if !lost => {
                lost = true;
                if done {
                    world.serve(request);
                }
                Outcome::Unknown
            }
            other => world.serve(other),
        });
        assert!(lost);
        assert_eq!(world.assigned.len(), 3);
        assert_eq!(world.pool.counts(Family::V4, world.now).size, 48, "done: {done}");
        assert_eq!(world.pool.counts(Family::V4, world.now).free(), 48);
    }
}

#[test]
fn readers_that_both_lag_do_not_bring_back_what_was_given_back() {
    let four = ["10.0.1.0/28", "10.0.1.16/28", "10.0.1.32/28", "10.0.1.48/28"];
    let mut world = World::new(true, &four);
    let mut gone = None;
    for _ in 0..1200 {
        world.run_with(1, |world, request| match request {
            Request::Unassign { blocks, .. } => {
                world.serve(request);
                gone = Some((blocks[0], world.now));
                Outcome::Unknown
            }
            Request::Read(reader) => {
                let lags = gone.is_some_and(|(_, at)| world.now.since(at) < 110 * SECOND);
                let seen = if lags { four.iter().map(|text| text.parse().unwrap()).collect() } else { world.assigned.clone() };
                Outcome::Read(Reading {
                    reader: *reader,
                    interfaces: vec![eni(seen, [10, 0])],
                    interface_room: false,
                    has_unidentified: false,
                })
            }
            other => world.serve(other),
        });
        let is_used = |block: IpNetwork| world.pool.ranges().any(|range| range == (&AddressRange::from(block), &RangeState::Open));
        assert!(gone.is_none_or(|(block, _)| !is_used(block)), "used again at {:?}", world.now);
    }
    assert!(gone.is_some());
    assert_eq!(world.pool.ranges().count(), 3);
}

#[test]
fn a_reader_that_never_forgets_does_not_bring_back_what_was_given_back() {
    let four = ["10.0.1.0/28", "10.0.1.16/28", "10.0.1.32/28", "10.0.1.48/28"];
    let mut world = World::new(true, &four);
    world.run(1200);
    let all: BTreeSet<_> = four.iter().map(|text| text.parse().unwrap()).collect();
    world.run_with(4 * 3600, |world, request| match request {
        Request::Read(Reader::Metadata) => {
            let interface = eni(all.clone(), [10, 0]);
            Outcome::Read(Reading { reader: Reader::Metadata, interfaces: vec![interface], interface_room: false, has_unidentified: false })
        }
        other => world.serve(other),
    });
    assert_eq!(world.pool.counts(Family::V4, world.now).free(), 48);
}

#[test]
fn a_restart_does_not_make_a_reader_that_never_forgets_right() {
    let four = ["10.0.1.0/28", "10.0.1.16/28", "10.0.1.32/28", "10.0.1.48/28"];
    let mut world = World::new(true, &four);
    world.run(1200);
    let stays = |world: &mut World, request: &Request| match request {
        Request::Read(Reader::Metadata) => reading_of(Reader::Metadata, vec![eni(all_of(&four), [10, 0])]),
        other => world.serve(other),
    };
    world.run_with(3600, stays);
    let released: BTreeMap<_, _> = world.supply.tombstones.clone();
    world.supply = Supply::new(settings(true), released, world.now);
    world.pool = Pool::new(&[], 30 * SECOND);
    world.run_with(3600, stays);
    assert_eq!(world.pool.counts(Family::V4, world.now).free(), 48, "{:?}", world.pool.ranges().collect::<Vec<_>>());
}

/// An operator's addresses, and what the node was launched with.
#[test]
fn what_was_there_before_is_used_and_never_unassigned() {
    let mut world = World::new(true, &["10.0.1.0/28", "10.0.1.16/28", "10.0.1.32/28", "10.0.1.48/28", "10.0.1.64/28", "10.0.1.80/28"]);
    let found = world.assigned.clone();
    world.run_with(24 * 3600, |world, request| {
        let outcome = world.serve(request);
        match outcome {
            Outcome::Read(mut reading) => {
                reading.interfaces.iter_mut().for_each(|interface| interface.created_here = false);
                Outcome::Read(reading)
            }
            other => other,
        }
    });
    assert!(!world.calls.iter().any(|call| matches!(call, Request::Unassign { .. })), "{:?}", world.calls);
    assert!(found.iter().all(|block| world.pool.state_of(&AddressRange::from(*block)) == Some(&RangeState::Open)));
}

#[test]
fn what_is_excluded_is_nobodys_and_stays() {
    let mut world = World::new(true, &["10.0.1.0/28", "10.0.2.7/32"]);
    let exclude = ["10.0.1.4-10.0.1.5", "10.0.2.7", "10.0.9.16/29"].map(|text| text.parse().unwrap()).to_vec();
    world.supply = Supply::new(Settings { exclude, ..settings(true) }, BTreeMap::new(), world.now);
    world.run(60);
    // Fourteen are less than a block: another was asked for, and has eight.
    let counts = world.pool.counts(Family::V4, world.now);
    assert_eq!((counts.size, counts.quarantined, counts.free()), (33, 11, 22));
    let single = AddressRange::from("10.0.2.7/32".parse::<IpNetwork>().unwrap());
    assert_eq!(world.pool.state_of(&single), Some(&RangeState::Closed(Closed::Excluded)));
    let pods = world.take(22);
    world.run(5);
    assert_eq!(world.assigned.len(), 4, "{:?}", world.changes());
    let more = world.take(16);
    let first_assigned: AddressRange = "10.0.9.16/29".parse().unwrap();
    let is_excluded = |address: &std::net::IpAddr| {
        first_assigned.contains(*address) || ["10.0.1.4", "10.0.1.5", "10.0.2.7"].contains(&address.to_string().as_str())
    };
    assert!(!pods.iter().chain(&more).any(is_excluded), "{more:?}");
    assert!(world.pool.take(Family::V4, &owner(), world.now).is_err());
    pods.into_iter().chain(more).for_each(|address| assert!(world.pool.release(address, &owner(), world.now)));
    world.run(7200);
    for stays in ["10.0.1.0/28", "10.0.2.7/32", "10.0.9.16/28"] {
        assert!(world.assigned.contains(&stays.parse().unwrap()), "{stays}");
    }
}

/// A fragmented subnet gives single addresses: giving sixty back is not sixty calls.
#[test]
fn single_addresses_are_given_back_together() {
    let mut world = World::new(true, &[]);
    let serve = |world: &mut World, request: &Request| match request {
        Request::Assign { blocks, .. } => {
            let first = world.next_block;
            world.next_block += (*blocks * 16) as u8;
            let granted: Vec<IpNetwork> = (first..world.next_block).map(|last| format!("10.0.8.{last}/32").parse().unwrap()).collect();
            world.assigned.extend(&granted);
            Outcome::Assigned(granted)
        }
        Request::Read(reader) => reading_of(*reader, vec![eni(world.assigned.clone(), [100, 0])]),
        other => world.serve(other),
    };
    world.run_with(60, serve);
    let mut pods = Vec::new();
    for _ in 0..10 {
        pods.extend(world.take(8));
        world.run_with(60, serve);
    }
    assert_eq!(world.assigned.len(), 96);
    pods.into_iter().for_each(|address| assert!(world.pool.release(address, &owner(), world.now)));
    world.run_with(3600, serve);
    let calls: Vec<_> = world.calls.iter().filter(|call| matches!(call, Request::Unassign { .. })).collect();
    assert_eq!((world.assigned.len(), calls.len()), (48, 1), "{calls:?}");
}
