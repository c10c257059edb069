use super::*;
use crate::sizing::Sizing;

const SECOND: u64 = 1000;

/// A node with a cloud that does what it is asked, and two readers that see it at once.
struct World {
    supply: Supply,
    pool: Pool,
    now: BootMillis,
    assigned: BTreeSet<IpNetwork>,
    next_block: u8,
    calls: Vec<Request>,
    reports: Vec<Report>,
}

fn settings(api: bool) -> Settings {
    let sizing = [Some(Sizing::of_blocks(16)), None];
    Settings { node: "node-1".into(), api, sizing, exclude: Vec::new(), cluster_nodes: 0, account_calls_per_second: 5 }
}

fn eni(blocks: BTreeSet<IpNetwork>, free_slots: [u64; 2]) -> Interface {
    let (id, mac) = ("eni-1".into(), [2, 0, 0, 0, 0, 1]);
    Interface { id, mac, address: None, gateways: Vec::new(), blocks, free_slots, created_here: true }
}

/// Whose all the addresses are: the supply does not look.
fn owner() -> ipam_pool::AttachmentKey {
    "pod/eth0".parse().unwrap()
}

impl World {
    fn new(api: bool, assigned: &[&str]) -> Self {
        let assigned = assigned.iter().map(|text| text.parse().unwrap()).collect();
        let (supply, pool) = (Supply::new(settings(api), BTreeMap::new(), BootMillis(0)), Pool::new(&[], 30 * SECOND));
        Self { supply, pool, now: BootMillis(0), assigned, next_block: 0, calls: Vec::new(), reports: Vec::new() }
    }

    fn reading(&self, reader: Reader) -> Outcome {
        let interface = eni(self.assigned.clone(), [14 - self.assigned.len() as u64, 0]);
        Outcome::Read(Reading { reader, interfaces: vec![interface], interface_room: false, has_unidentified: false })
    }

    fn serve(&mut self, request: &Request) -> Outcome {
        match request {
            Request::Read(reader) => self.reading(*reader),
            Request::Assign { blocks, .. } => {
                let granted: Vec<IpNetwork> = (0..*blocks)
                    .map(|_| {
                        self.next_block += 16;
                        format!("10.0.9.{}/28", self.next_block).parse().unwrap()
                    })
                    .collect();
                self.assigned.extend(&granted);
                Outcome::Assigned(granted)
            }
            Request::Unassign { blocks, .. } => {
                assert!(blocks.iter().all(|block| self.assigned.remove(block)));
                Outcome::Unassigned
            }
            Request::AddInterface { .. } => Outcome::Refused(Refusal::Full),
        }
    }

    /// Lets time pass, in which every call is served.
    fn run(&mut self, seconds: u64) {
        self.run_with(seconds, |world, request| world.serve(request));
    }

    fn run_with(&mut self, seconds: u64, mut serve: impl FnMut(&mut Self, &Request) -> Outcome) {
        for _ in 0..seconds {
            while let Some(request) = self.supply.poll_request(&mut self.pool, 0, self.now) {
                self.calls.push(request.clone());
                let outcome = serve(self, &request);
                let reports = self.supply.handle_response(outcome, &mut self.pool, self.now);
                self.reports.extend(reports);
            }
            self.now = self.now.plus(SECOND);
        }
    }

    fn take(&mut self, count: usize) -> Vec<std::net::IpAddr> {
        (0..count).map(|_| self.pool.take(Family::V4, &owner(), self.now).unwrap()).collect()
    }

    fn changes(&self) -> Vec<&Request> {
        self.calls.iter().filter(|request| !matches!(request, Request::Read(_))).collect()
    }
}

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

fn all_of(blocks: &[&str]) -> BTreeSet<IpNetwork> {
    blocks.iter().map(|text| text.parse().unwrap()).collect()
}

fn reading_of(reader: Reader, interfaces: Vec<Interface>) -> Outcome {
    Outcome::Read(Reading { reader, interfaces, interface_room: false, has_unidentified: false })
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
