//! When calls are made, and who waits for whom.

use super::*;

#[test]
fn throttling_slows_down_and_stops_releases_first() {
    let mut world = World::new(true, &[]);
    world.run_with(3600, |world, request| match request {
        Request::Read(Reader::Metadata) => world.serve(request),
        _ => Outcome::Refused(Refusal::Throttled(None)),
    });
    assert_eq!(world.supply.api_mode(), ApiMode::CircuitOpen);
    assert!(world.changes().len() < 60, "{}", world.changes().len());
    world.run(600);
    assert_eq!(world.supply.api_mode(), ApiMode::Normal);
    assert_eq!(world.pool.counts(Family::V4, world.now).size, 16);
}

#[test]
fn metadata_that_is_away_at_the_start_is_asked_again_soon_and_then_less_often() {
    let mut world = World::new(false, &["10.0.1.0/28"]);
    world.run_with(600, |_, _| Outcome::Refused(Refusal::Other("away".into())));
    let calls = world.calls.len();
    assert!((20..150).contains(&calls), "{calls}");
    world.run_with(1, |_, _| Outcome::Refused(Refusal::Other("away".into())));
    world.run(30);
    assert_eq!(world.pool.counts(Family::V4, world.now).size, 16);
}

#[test]
fn a_node_whose_pods_wait_does_not_wait_for_its_turn_unless_all_do() {
    for (throttled, waiting, early) in [(false, 1, 1), (true, 1, 1), (false, 0, 0)] {
        let mut world = World::new(true, &["10.0.1.0/28"]);
        world.supply = Supply::new(Settings { cluster_nodes: 7500, ..settings(true) }, BTreeMap::new(), world.now);
        world.run(1);
        world.take(16);
        for _ in 0..60 {
            while let Some(request) = world.supply.poll_request(&mut world.pool, waiting, world.now) {
                let is_read = matches!(request, Request::Read(_));
                let outcome = if throttled && !is_read { Outcome::Refused(Refusal::Throttled(None)) } else { world.serve(&request) };
                world.supply.handle_response(outcome, &mut world.pool, world.now);
                world.calls.push(request);
            }
            world.now = world.now.plus(SECOND);
        }
        assert_eq!(world.changes().len(), early, "throttled: {throttled}, waiting: {waiting}");
    }
}

#[test]
fn a_reader_that_is_asked_does_not_take_the_turn_of_pods_that_wait() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    world.run(60);
    world.take(16);
    world.now = world.now.plus(60 * SECOND);
    assert_eq!(world.supply.reading_to_make(1, world.now), Some(Reader::Metadata), "it is due");
    let request = world.supply.poll_request(&mut world.pool, 1, world.now);
    assert!(matches!(request, Some(Request::Assign { .. })), "{request:?}");
}

#[test]
fn while_the_api_is_away_pods_that_wait_do_not_keep_metadata_from_being_read() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    world.run(1);
    world.take(16);
    let mut readings = 0;
    for _ in 0..600 {
        while let Some(request) = world.supply.poll_request(&mut world.pool, 1, world.now) {
            readings += u32::from(request == Request::Read(Reader::Metadata));
            let is_metadata = request == Request::Read(Reader::Metadata);
            let outcome = if is_metadata { world.serve(&request) } else { Outcome::Refused(Refusal::Other("away".into())) };
            world.supply.handle_response(outcome, &mut world.pool, world.now);
        }
        world.now = world.now.plus(SECOND);
    }
    assert!(readings >= 15, "{readings}");
}

#[test]
fn where_nobody_asks_for_addresses_a_pod_that_waits_has_them_read_soon_and_not_all_the_time() {
    for waiting in [0, 1, 60] {
        let mut world = World::new(false, &["10.0.1.0/28"]);
        world.supply.settings.sizing = [None; 2];
        world.pool.want(Family::V4);
        world.run(100);
        world.take(16);
        let given = world.now.plus(7 * SECOND);
        let mut readings = 0;
        while world.pool.lacking(world.now).is_some() && world.now < given.plus(60 * SECOND) {
            while let Some(request) = world.supply.poll_request(&mut world.pool, waiting, world.now) {
                readings += 1;
                if world.now >= given {
                    world.assigned.insert("10.0.1.16/28".parse().unwrap());
                }
                let outcome = world.serve(&request);
                world.supply.handle_response(outcome, &mut world.pool, world.now);
            }
            world.now = world.now.plus(100);
        }
        let late = world.now.since(given);
        assert_eq!(late <= 2 * SECOND + 100, waiting > 0, "{late} ms after it was given, waiting: {waiting}");
        assert!(readings <= 6, "{readings} readings within {} ms", late + 7 * SECOND);
    }
}
