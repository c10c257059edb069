//! The invariants of [`fuzzed`] on seeded bytes: bounded, the same in every run, and by a stable compiler.

mod fuzzed;

const ROUNDS: u64 = 200_000;
const LENGTH: u64 = 600;

#[test]
fn hold_on_arbitrary_bytes() {
    // xorshift64* (Marsaglia 2003, Vigna 2016)
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let mut seen = fuzzed::Seen::default();
    let mut input = Vec::new();
    for _ in 0..ROUNDS {
        input.clear();
        let length = next() % LENGTH;
        while (input.len() as u64) < length {
            input.extend(next().to_be_bytes());
        }
        fuzzed::check(&input, &mut seen);
    }
    for (what, times) in [("redirect", seen.redirected), ("note", seen.noted), ("noted flow", seen.stopped_by_note)] {
        assert!(times > ROUNDS / 200, "{times} times a {what} in {ROUNDS} rounds: the bytes do not reach it");
    }
}
