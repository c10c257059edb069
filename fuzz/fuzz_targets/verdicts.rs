//! All four decisions on arbitrary tables and an arbitrary packet; what must hold is in `ebpf/tests/fuzzed`.
#![no_main]

#[path = "../../ebpf/tests/fuzzed/mod.rs"]
mod fuzzed;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzzed::check(input, &mut fuzzed::Seen::default()));
