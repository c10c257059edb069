//! Pods through a real containerd on two nodes and a VPC fabric: what a cluster's user sees.
//!
//! `cargo test --test containerd [-- FILTER]`. Needs root, containerd, and `barewired` and `barewire-cni` in `BAREWIRE_BIN_DIR` or
//! beside the test. `BAREWIRE_E2E_CNI=ptp|bridge` runs the same cases on a reference plugin, which tests the tests.
//! Where the suite cannot run it says `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the suite is its own harness: it prints one line a case")]

mod daemon;
mod lifecycle;
mod pool;
mod reach;
mod suite;

use std::process::ExitCode;

use conformance_tests::lab::init;
use suite::Case;

fn cases() -> Vec<Case> {
    [reach::cases(), lifecycle::cases(), daemon::cases(), pool::cases()].concat()
}

fn main() -> ExitCode {
    init::become_init_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for case in cases() {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen: Vec<Case> = cases().into_iter().filter(|case| filter.is_none_or(|filter| case.name.contains(filter.as_str()))).collect();
    suite::run(&chosen)
}
