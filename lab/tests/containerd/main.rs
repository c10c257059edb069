//! Pods through a real containerd on two nodes and a VPC fabric: what a cluster's user sees.
//!
//! `cargo test --test containerd [-- FILTER]`. Needs root, containerd, and `barewired` and `barewire-cni` in `BAREWIRE_BIN_DIR` or
//! beside the test. All cases run twice, with `network.fast_path = "auto"` and with `"off"`: FILTER may be `auto/` or `off/`.
//! `BAREWIRE_E2E_CNI=ptp|bridge` runs the same cases on a reference plugin, which tests the tests.
//! Where the suite cannot run it says `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![forbid(unsafe_code)]

mod daemon;
mod lifecycle;
mod pool;
mod reach;
mod suite;

use std::process::ExitCode;

use lab::harness::{Harness, Request};
use lab::init;
use suite::Case;

fn cases() -> Vec<Case> {
    [reach::cases(), lifecycle::cases(), daemon::cases(), pool::cases()].concat()
}

fn main() -> ExitCode {
    init::become_init_if_asked();
    match Request::of_this_program() {
        Request::List => {
            suite::list(&cases());
            ExitCode::SUCCESS
        }
        Request::Run(filter) => {
            let mut harness = Harness::default();
            suite::run(&mut harness, &cases(), &filter);
            harness.finish()
        }
    }
}
