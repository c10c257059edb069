//! What readers say, and what is believed of it.

use super::*;

#[test]
fn a_request_whose_reply_was_lost_is_not_made_twice() {
    let mut world = World::new(true, &[]);
    let mut lost = false;
    world.run_with(120, |world, request| {
        let outcome = world.serve(request);
        if matches!(request, Request::Assign { .. }) && !std::mem::replace(&mut lost, true) { Outcome::Unknown } else { outcome }
    });
    assert_eq!(world.assigned.len(), 1, "{:?}", world.calls);
    assert_eq!(world.pool.counts(Family::V4, world.now).size, 16);
}

#[test]
fn a_block_that_one_reader_misses_is_kept() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    world.run(60);
    world.take(3);
    world.run_with(4 * 3600, |world, request| match request {
        Request::Read(Reader::Metadata) => {
            let interface = eni(BTreeSet::new(), [14, 0]);
            Outcome::Read(Reading { reader: Reader::Metadata, interfaces: vec![interface], interface_room: false, has_unidentified: false })
        }
        other => world.serve(other),
    });
    assert!(world.changes().is_empty(), "{:?}", world.changes());
    assert_eq!(world.reports, []);
    assert_eq!(world.take(1).len(), 1);
    let of_the_api = world.calls.iter().filter(|request| **request == Request::Read(Reader::Api)).count();
    assert!((10..30).contains(&of_the_api), "often at first, and then as ever: {of_the_api}");
}

#[test]
fn a_block_that_all_miss_keeps_its_pods_gets_no_new_ones_and_is_reported() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    world.run(60);
    let pods = world.take(3);
    let block: IpNetwork = "10.0.1.0/28".parse().unwrap();
    world.assigned.remove(&block);
    world.run(600);
    assert!(world.reports.contains(&Report::Lost { block, held: 3, why: Closed::Lost }), "{:?}", world.reports);
    assert!(world.take(5).iter().all(|address| !block.contains(*address)), "new pods get addresses that the node has");
    // It comes back.
    world.assigned.insert(block);
    world.run(120);
    assert_eq!(world.pool.state_of(&AddressRange::from(block)), Some(&RangeState::Open));
    assert_eq!(world.pool.take_this(pods[0], &owner(), world.now), Err(ipam_pool::PoolError::InUse { address: pods[0], owner: owner() }));
}

#[test]
fn after_a_restart_a_reader_that_omits_an_interface_takes_nothing_away_and_what_all_miss_is_reported() {
    let block: IpNetwork = "10.0.2.0/28".parse().unwrap();
    let second = Interface { id: "eni-2".into(), ..eni(BTreeSet::new(), [0; 2]) };
    for is_assigned in [true, false] {
        let mut world = World::new(true, &["10.0.1.0/28"]);
        let first: IpNetwork = "10.0.1.0/28".parse().unwrap();
        let pod = "10.0.2.3".parse().unwrap();
        world.pool.restore_held(pod, &owner());
        let known = [(&first, "eni-1"), (&block, "eni-2")];
        world.supply.restore(&[eni(BTreeSet::new(), [0; 2]), second.clone()], known, &BTreeSet::new(), &mut world.pool, world.now);
        // Metadata omits the interface; whether the API has it is what counts.
        world.run_with(300, |world, request| match request {
            Request::Read(Reader::Api) if is_assigned => {
                let interface = Interface { blocks: [block].into(), ..second.clone() };
                reading_of(Reader::Api, vec![eni(world.assigned.clone(), [13, 0]), interface])
            }
            other => world.serve(other),
        });
        assert_eq!(world.supply.interface_of(&block), Some("eni-2"));
        assert!(world.supply.interfaces().iter().any(|interface| interface.id == "eni-2"));
        let lost = Report::Lost { block, held: 1, why: Closed::Lost };
        assert_eq!(world.reports.contains(&lost), !is_assigned, "{:?}", world.reports);
        assert!(world.take(10).iter().all(|address| first.contains(*address)), "nobody else gets an address that is in doubt");
    }
}

#[test]
fn a_node_whose_readers_are_away_after_a_restart_serves_pods_from_what_it_remembers() {
    let mut world = World::new(true, &[]);
    let block: IpNetwork = "10.0.1.0/28".parse().unwrap();
    world.supply.restore(&[eni(BTreeSet::new(), [0; 2])], [(&block, "eni-1")], &BTreeSet::new(), &mut world.pool, world.now);
    world.run_with(3600, |_, _| Outcome::Refused(Refusal::Other("away".into())));
    assert!(block.contains(world.take(1)[0]));
}

#[test]
fn one_reader_does_not_move_a_block_whose_interface_is_there() {
    for both_agree in [false, true] {
        let mut world = World::new(true, &["10.0.1.0/28"]);
        world.supply.set_present(["eni-1", "eni-2"].map(String::from).into(), &mut world.pool, world.now);
        world.run(60);
        let mut seen = BTreeSet::new();
        for _ in 0..4000 {
            world.run_with(1, |world, request| match request {
                Request::Read(reader) if both_agree || *reader == Reader::Metadata => {
                    reading_of(*reader, vec![Interface { id: "eni-2".into(), ..eni(world.assigned.clone(), [13, 0]) }])
                }
                other => world.serve(other),
            });
            seen.extend(world.supply.interface_of(&"10.0.1.0/28".parse().unwrap()).map(str::to_owned));
        }
        assert_eq!(seen, [if both_agree { "eni-2" } else { "eni-1" }.to_owned()].into(), "both agree: {both_agree}");
    }
}

#[test]
fn before_unidentified_interfaces_are_identified_the_api_is_asked_and_nothing_else() {
    let mut world = World::new(true, &[]);
    world.run_with(60, |world, request| match world.serve(request) {
        Outcome::Read(reading) if reading.reader == Reader::Metadata => Outcome::Read(Reading { has_unidentified: true, ..reading }),
        Outcome::Read(_) => Outcome::Refused(Refusal::Other("denied".into())),
        other => other,
    });
    let asked = |what: fn(&Request) -> bool| world.calls.iter().any(what);
    assert!(asked(|call| *call == Request::Read(Reader::Api)), "{:?}", world.calls);
    assert!(!asked(|call| !matches!(call, Request::Read(_))), "{:?}", world.calls);
}
