//! Interfaces that come, go and are late.

use super::*;

#[test]
fn a_block_is_of_use_when_the_nodes_network_carries_it() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    world.supply.set_programmed(BTreeSet::new(), &mut world.pool, world.now);
    world.run(120);
    assert!(world.pool.take(Family::V4, &owner(), world.now).is_err());
    assert!(world.changes().is_empty(), "what is on its way is not asked for again: {:?}", world.changes());
    world.supply.set_programmed(["10.0.1.0/28".parse().unwrap()].into(), &mut world.pool, world.now);
    assert_eq!(world.take(1).len(), 1);
    assert_eq!(world.reports, []);
}

#[test]
fn what_is_news_waits_for_the_nodes_network_and_what_it_lost_is_closed_at_once() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    let block: IpNetwork = "10.0.1.0/28".parse().unwrap();
    world.supply.set_programmed([block].into(), &mut world.pool, world.now);
    world.run(60);
    let pods = world.take(9);
    world.run(5);
    assert_eq!(world.assigned.len(), 2, "the next block is asked for");
    assert!(world.take(7).iter().all(|address| block.contains(*address)));
    assert!(world.pool.take(Family::V4, &owner(), world.now).is_err(), "the second block is not carried");
    let all = world.assigned.clone();
    world.supply.set_programmed(all, &mut world.pool, world.now);
    world.take(1);
    // The interface is detached while metadata omits it: what is doubtful is no last resort then.
    let lost = world.assigned.clone();
    world.assigned.clear();
    world.run(31);
    let reports = world.supply.set_present(BTreeSet::new(), &mut world.pool, world.now);
    assert_eq!(reports.len(), lost.len(), "{reports:?}");
    assert!(world.pool.take(Family::V4, &owner(), world.now).is_err());
    assert_eq!(pods.len(), 9);
}

#[test]
fn what_a_detached_interface_took_along_is_replaced_at_once() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    world.run(1);
    world.supply.set_programmed(world.assigned.clone(), &mut world.pool, world.now);
    assert_eq!(world.take(1).len(), 1);
    world.supply.set_programmed(BTreeSet::new(), &mut world.pool, world.now);
    world.run(5);
    assert_eq!(world.assigned.len(), 2, "{:?}", world.calls);
}

#[test]
fn a_block_that_moves_to_another_interface_is_used_there() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    world.run(60);
    world.supply.set_present(["eni-2".to_owned()].into(), &mut world.pool, world.now);
    assert!(world.pool.take(Family::V4, &owner(), world.now).is_err());
    world.run_with(60, |world, request| match request {
        Request::Read(reader) => {
            let interface = Interface { id: "eni-2".into(), ..eni(world.assigned.clone(), [13, 0]) };
            Outcome::Read(Reading { reader: *reader, interfaces: vec![interface], interface_room: false, has_unidentified: false })
        }
        other => world.serve(other),
    });
    assert_eq!(world.supply.interface_of(&"10.0.1.0/28".parse().unwrap()), Some("eni-2"));
    assert_eq!(world.take(1).len(), 1);
}

#[test]
fn a_block_of_which_there_is_doubt_is_of_no_use_either_without_its_interface() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    world.run(60);
    world.supply.set_present(BTreeSet::new(), &mut world.pool, world.now);
    let unseen = |world: &mut World, request: &Request| match request {
        Request::Read(Reader::Metadata) => {
            let interface = eni(BTreeSet::new(), [14, 0]);
            Outcome::Read(Reading { reader: Reader::Metadata, interfaces: vec![interface], interface_room: false, has_unidentified: false })
        }
        other => world.serve(other),
    };
    world.run_with(60, unseen);
    assert!(world.pool.take(Family::V4, &owner(), world.now).is_err());
    world.supply.set_present(["eni-1".to_owned()].into(), &mut world.pool, world.now);
    assert_eq!(world.take(1).len(), 1, "for want of a better one");
}

#[test]
fn no_second_interface_is_made_while_the_first_is_attached() {
    let mut world = World::new(true, &[]);
    let mut made = None;
    world.run_with(120, |world, request| match request {
        Request::AddInterface { .. } => {
            made.get_or_insert(world.now);
            Outcome::Added
        }
        Request::Read(reader) => {
            let mut interfaces = vec![eni(BTreeSet::new(), [0, 0])];
            if made.is_some_and(|at| world.now.since(at) > 40 * SECOND) {
                interfaces.push(Interface { id: "eni-2".into(), ..eni(all_of(&["10.0.2.0/28"]), [13, 0]) });
            }
            Outcome::Read(Reading { reader: *reader, interfaces, interface_room: true, has_unidentified: false })
        }
        other => unreachable!("{other:?}"),
    });
    assert_eq!(world.changes().len(), 1, "{:?}", world.changes());
    assert_eq!(world.pool.counts(Family::V4, world.now).size, 16);
}

#[test]
fn an_interface_that_does_not_appear_gets_no_more_while_another_can_have_some() {
    let mut world = World::new(true, &["10.0.1.0/28"]);
    let [absent, third] = ["eni-2", "eni-3"].map(|id| Interface { id: id.into(), ..eni(BTreeSet::new(), [49, 0]) });
    let all = |world: &World| {
        let absent = Interface { blocks: all_of(&["10.0.2.0/28"]), ..absent.clone() };
        vec![eni(world.assigned.clone(), [0, 0]), absent, third.clone()]
    };
    let serve = |world: &mut World, request: &Request| match request {
        Request::Read(reader) => reading_of(*reader, all(world)),
        Request::Assign { .. } => Outcome::Refused(Refusal::Exhausted),
        other => world.serve(other),
    };
    world.supply.set_present(["eni-1", "eni-3"].map(String::from).into(), &mut world.pool, world.now);
    world.run_with(1, serve);
    world.take(16);
    world.run_with(1200, serve);
    let asked: BTreeSet<_> = world.changes().iter().map(|request| format!("{request:?}")).collect();
    assert!(asked.iter().all(|request| request.contains("eni-3")), "{asked:?}");
}
