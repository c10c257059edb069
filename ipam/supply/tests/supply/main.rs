//! Supply and pool of two nodes that share a cloud in which everything goes wrong, under random traces and a virtual clock.
//!
//! `SUPPLY_MODEL_STEPS` says how many steps are taken. A failure prints its seed, and the trace cut down to what it takes to fail;
//! `SUPPLY_MODEL_SEED` runs that seed again.
//!
//! What the model grants the supply, and no more: metadata is behind by less than a quarter of an hour, the API by less than two
//! minutes; a call is done within half a minute or never; nothing is read that is older than the node's last boot; and a block that
//! somebody takes from a node behind its back goes to no other node.

mod cloud;
mod node;
mod step;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::SystemTime;

use step::Step;
use world::{Broken, World};

const STEPS: u64 = 2_000_000;
const TRACE: usize = 1000;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}; it takes a number")))
}

/// Runs a trace; tells how many steps it took.
fn run(trace: &[Step]) -> Result<u64, Broken> {
    let mut world = World::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run(trace)));
    outcome.unwrap_or_else(|_| Err(Broken { law: "nothing panics", how: "see above".to_owned() }))?;
    Ok(world.steps)
}

#[test]
fn supply_and_pool_keep_their_promises() {
    let steps = variable("SUPPLY_MODEL_STEPS").unwrap_or(STEPS);
    #[expect(clippy::disallowed_methods, reason = "another seed each time; the supply itself is told the time")]
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970").as_secs() << 20;
    let first = variable("SUPPLY_MODEL_SEED").unwrap_or_else(now);
    let mut taken = 0;
    for seed in first.. {
        if taken >= steps {
            break;
        }
        let trace = step::trace(seed, TRACE);
        match run(&trace) {
            Ok(steps) => taken += steps,
            Err(Broken { law, .. }) => {
                let least = step::shrink(trace, |trace| run(trace).is_err_and(|broken| broken.law == law));
                let how = run(&least).map_or_else(|broken| broken.how, |_| String::new());
                let least: Vec<String> = least.iter().map(|step| format!("Step::{step:?},")).collect();
                panic!(
                    "broken: {law}\n{how}\nafter\n{}\nSUPPLY_MODEL_SEED={seed} cargo test -p ipam-supply --test supply runs it again",
                    least.join("\n")
                );
            }
        }
    }
}
