//! All four decisions on arbitrary tables, on an arbitrary packet and on an arbitrary flow; what must hold is in `ebpf/tests/fuzzed`.
#![no_main]

#[path = "../../ebpf/tests/fuzzed/mod.rs"]
mod fuzzed;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut seen = fuzzed::Seen::default();
    fuzzed::check_packet(input, &mut seen);
    fuzzed::check_flow(input, &mut seen);
});
