//! How many addresses a node asks for, and where.

use super::*;

#[test]
fn what_was_assigned_at_launch_is_found_without_a_call() {
    let mut world = World::new(false, &["10.0.1.0/28", "10.0.1.16/28"]);
    world.run(3600);
    assert_eq!(world.pool.counts(Family::V4, world.now).size, 32);
    assert!(world.calls.iter().all(|request| *request == Request::Read(Reader::Metadata)));
}

#[test]
fn a_node_grows_before_it_runs_dry_and_shrinks_slowly() {
    let mut world = World::new(true, &[]);
    world.run(60);
    assert_eq!(world.pool.counts(Family::V4, world.now).size, 16);
    let mut pods = world.take(9);
    world.run(5);
    assert_eq!(world.pool.counts(Family::V4, world.now).size, 32, "the ninth address of sixteen asks for the next block");
    for _ in 0..10 {
        pods.extend(world.take(7));
        world.run(5);
    }
    let size = world.pool.counts(Family::V4, world.now).size;
    assert_eq!(size, 96, "79 pods in blocks of 16, half a block free");
    let before = world.changes().len();
    world.run(3600);
    assert_eq!(world.changes().len(), before, "a node at rest calls nothing");
    pods.drain(20..).for_each(|address| assert!(world.pool.release(address, &owner(), world.now)));
    world.run(300);
    assert_eq!(world.changes().len(), before, "nothing is given back at once");
    world.run(3600);
    assert_eq!(world.pool.counts(Family::V4, world.now).size, 64, "20 pods, and two blocks and a half");
    assert_eq!(world.assigned.len(), 4);
}

#[test]
fn a_subnet_that_has_fewer_blocks_than_are_wanted_gives_what_it_has() {
    let mut world = World::new(true, &[]);
    world.supply.settings.sizing[0] = Some(Sizing { min_free: 5000, max_free: 9000, ..Sizing::of_blocks(16) });
    let mut left = 4;
    world.run_with(60, |world, request| match request {
        Request::Assign { blocks, .. } if *blocks > left => Outcome::Refused(Refusal::Exhausted),
        Request::Assign { blocks, .. } => {
            left -= blocks;
            world.serve(request)
        }
        other => world.serve(other),
    });
    assert_eq!((world.assigned.len(), left), (4, 0), "{:?}", world.changes());
    assert!(world.supply.is_stuck(Family::V4, &world.pool, 0, world.now));
}

#[test]
fn a_node_that_knows_of_no_room_asks_the_api_for_its_limits() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    let limits_are_known = std::cell::Cell::new(false);
    let serve = |world: &mut World, request: &Request| {
        limits_are_known.set(limits_are_known.get() || *request == Request::Read(Reader::Api));
        match world.serve(request) {
            Outcome::Read(mut reading) if !limits_are_known.get() => {
                reading.interfaces.iter_mut().for_each(|interface| interface.free_slots = [0, 0]);
                Outcome::Read(reading)
            }
            other => other,
        }
    };
    world.run_with(60, serve);
    assert!(world.calls.iter().all(|request| *request == Request::Read(Reader::Metadata)), "nothing is wanted: {:?}", world.calls);
    world.take(16);
    world.run_with(60, serve);
    assert_eq!(world.pool.counts(Family::V4, world.now).size, 32, "{:?}", world.calls);
}

#[test]
fn where_a_subnet_is_full_the_next_interface_is_asked_and_then_another_made() {
    let mut world = World::new(true, &[]);
    let second = Interface { id: "eni-2".into(), ..eni(BTreeSet::new(), [14, 0]) };
    world.run_with(3600, |world, request| match request {
        Request::Read(reader) => {
            let interfaces = vec![eni(world.assigned.clone(), [14, 0]), second.clone()];
            Outcome::Read(Reading { reader: *reader, interfaces, interface_room: true, has_unidentified: false })
        }
        Request::Assign { .. } | Request::AddInterface { .. } => Outcome::Refused(Refusal::Exhausted),
        Request::Unassign { .. } => unreachable!(),
    });
    let asked: Vec<_> = world.changes().into_iter().cloned().collect();
    let assign = |interface: &str| Request::Assign { interface: interface.into(), family: Family::V4, blocks: 1 };
    let all = [assign("eni-1"), assign("eni-2"), Request::AddInterface { family: Family::V4, blocks: 1 }];
    assert_eq!(asked[..3], all);
    assert!(asked.len() <= 3 * 8, "each again every ten minutes, and not at every reading: {}", asked.len());
}

#[test]
fn pods_that_come_together_are_asked_for_together() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    world.run(60);
    world.take(16);
    let request = world.supply.poll_request(&mut world.pool, 51, world.now);
    assert_eq!(request, Some(Request::Assign { interface: "eni-1".into(), family: Family::V4, blocks: 4 }));
}

#[test]
fn what_can_be_had_is_told() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    world.run(60);
    assert_eq!(world.supply.growth_of(Family::V4, world.now), Growth::Room { blocks: 13, interface: false });
    assert_eq!(world.supply.growth_of(Family::V6, world.now), Growth::NotAsked);
    world.take(16);
    world.run_with(30, |world, request| match request {
        Request::Assign { .. } => Outcome::Refused(Refusal::Exhausted),
        other => world.serve(other),
    });
    let Growth::SubnetFull { retry_at } = world.supply.growth_of(Family::V4, world.now) else { panic!("not full") };
    assert!(retry_at > world.now);
    world.run_with(60, |world, request| match request {
        Request::Read(reader) => reading_of(*reader, vec![eni(world.assigned.clone(), [0, 0])]),
        other => world.serve(other),
    });
    assert_eq!(world.supply.growth_of(Family::V4, world.now), Growth::AtLimit);
}
