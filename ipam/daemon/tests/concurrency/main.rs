//! Operations side by side, in orders that threads could run them in: ADD, DEL, GC, the sweep, the retry of commits, removals, a reload,
//! changes of a cloud's addresses, a full disk.
//!
//! Pool, store (a real one, on disk), numbers and transactions are the real ones, with locks of the library `shuttle`, which decides at
//! each of them who goes on. The kernel is the model that the sequential test has. Bounded by [`LIMIT`]; the seed is printed, and
//! `BAREWIRE_SEED` takes one; a failure prints the schedule too.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "the seed is printed")]

#[path = "../model/kernel.rs"]
mod kernel;
mod world;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

use crate::world::World;

/// How long each scenario is tried, in each way of choosing orders.
const LIMIT: Duration = Duration::from_secs(7);

/// What runs side by side.
type Task = fn(&World);

fn explore(scheduler: impl Scheduler + 'static, before: Task, tasks: &'static [Task]) -> usize {
    let mut config = Config::new();
    config.max_time = Some(LIMIT);
    config.stack_size = 1 << 20;
    Runner::new(scheduler, config).run(move || {
        let world = Arc::new(World::new());
        before(&world);
        let threads: Vec<_> = tasks
            .iter()
            .map(|task| {
                let world = Arc::clone(&world);
                shuttle::thread::spawn(move || task(&world))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        world.assert_settled();
    })
}

fn explore_both_ways(before: Task, tasks: &'static [Task]) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
    let seed = std::env::var("BAREWIRE_SEED").map_or_else(|_| now(), |seed| seed.parse().unwrap());
    println!("seed {seed}; again with BAREWIRE_SEED={seed}");
    world::prepare();
    let random = explore(RandomScheduler::new_from_seed(seed, usize::MAX), before, tasks);
    let few_switches = explore(PctScheduler::new_from_seed(seed, 3, usize::MAX), before, tasks);
    println!("{random} orders at random, {few_switches} with few switches");
    assert!(random > 20 && few_switches > 20, "too few orders were tried");
}

/// One after the other: a full disk is the process's.
#[test]
fn operations_side_by_side_keep_the_invariants() {
    println!("two runtimes with two containers each, and all that the daemon does by itself");
    explore_both_ways(
        |_| {},
        &[
            |world| world.runtime([0, 1]),
            |world| world.runtime([2, 3]),
            World::keep_house,
            World::remove_links,
            World::change_network,
            World::fill_disk,
        ],
    );
    println!("B1: a link that the sweep has found goes, and its number is the next pod's");
    explore_both_ways(World::begin_removal, &[World::sweep, World::remove_links, |world| world.attach(1)]);
    println!("B2: a DEL that was not durable is settled, and its attachment made again");
    explore_both_ways(World::del_on_full_disk, &[|world| world.daemon().settle(), |world| world.attach(0)]);
    println!("an attachment that was dead is made again while the sweep looks");
    explore_both_ways(World::die, &[World::sweep, World::remove_links, |world| world.attach(0)]);
}
