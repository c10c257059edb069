//! The invariants of [`fuzzed`] on seeded bytes: bounded, the same in every run, and by a stable compiler.
//!
//! `BAREWIRE_SEED` has it begin elsewhere. Where one does not hold, the input is made as small as it still fails with, and told with the
//! seed.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a generator that errs is a fault of the test; the smallest input is told")]

mod fuzzed;
#[path = "tables/malformed.rs"]
mod malformed;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

use fuzzed::Seen;

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// Enough for tables, a flow and four packets.
const LENGTH: usize = 420;

/// xorshift64* (Marsaglia 2003, Vigna 2016)
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(&mut self, input: &mut [u8]) {
        for chunk in input.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_be_bytes()[..chunk.len()]);
        }
    }
}

fn fails(check: fn(&[u8], &mut Seen), input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| check(input, &mut Seen::default()))).is_err()
}

/// The shortest front that still fails, and of that as many zeroes as can be: zero stands for the plainest of each kind.
fn shrink(check: fn(&[u8], &mut Seen), input: &[u8]) -> Vec<u8> {
    let mut small = input.to_vec();
    while let Some(front) = (0..small.len()).map(|length| &small[..length]).find(|front| fails(check, front)) {
        small = front.to_vec();
    }
    for at in 0..small.len() {
        for value in (0..small[at]).take(8) {
            let mut plainer = small.clone();
            plainer[at] = value;
            if fails(check, &plainer) {
                small = plainer;
                break;
            }
        }
    }
    small
}

fn run(rounds: u64, check: fn(&[u8], &mut Seen)) -> Seen {
    let seed = env::var("BAREWIRE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(SEED);
    let (mut random, mut seen) = (Random(seed), Seen::default());
    let mut input = vec![0; LENGTH];
    for round in 0..rounds {
        random.fill(&mut input);
        if catch_unwind(AssertUnwindSafe(|| check(&input, &mut seen))).is_err() {
            let hook = take_hook();
            set_hook(Box::new(|_| {}));
            let small = shrink(check, &input);
            set_hook(hook);
            println!("BAREWIRE_SEED={seed}, round {round}, {small:?}:");
            check(&small, &mut seen);
        }
    }
    seen
}

/// A million flows: for each, both directions, pieces, errors, and all of it again once the stack has emitted a packet.
#[test]
fn a_flow_takes_one_path() {
    const ROUNDS: u64 = 1_000_000;
    let seen = run(ROUNDS, fuzzed::check_flow);
    let often = [("carried", seen.carried), ("tracked", seen.tracked), ("noted", seen.noted), ("refused", seen.refused)];
    for (what, times) in often {
        assert!(times > ROUNDS / 20, "{times} times {what} in {ROUNDS} rounds: the bytes do not reach it");
    }
    assert!(seen.lost > ROUNDS / 1000, "{} times no room for a note: the bytes do not reach it", seen.lost);
}

/// Every malformed frame that is known, on many tables.
#[test]
fn hold_on_malformed_frames() {
    const TABLES: u64 = 2_000;
    let (mut random, mut input) = (Random(SEED), vec![0; LENGTH]);
    let frames = malformed::all();
    for _ in 0..TABLES {
        random.fill(&mut input);
        fuzzed::check_frames(&input, &frames);
    }
}

#[test]
fn hold_on_arbitrary_bytes() {
    const ROUNDS: u64 = 300_000;
    let seen = run(ROUNDS, fuzzed::check_packet);
    assert!(seen.redirected > ROUNDS / 200, "{} redirects in {ROUNDS} rounds: the bytes do not reach one", seen.redirected);
}
