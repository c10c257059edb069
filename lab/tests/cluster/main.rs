//! A real Kubernetes on two nodes and a VPC fabric: what the users of a cluster see, with the runtimes and proxies that people run.
//!
//! `cargo test --test cluster [-- FILTER]`. Needs root, what `cargo xtask bootstrap` builds, and `barewired`, `barewire-cni` and `barewire-fleet` in
//! `BAREWIRE_BIN_DIR` or beside the test. Cases run twice, on a cluster with kube-proxy in iptables mode and on one in nftables mode, those that no proxy has a part in once;
//! in each, one node has containerd 1.6 and the other containerd 2. Those about services run once more where barewired serves them, without a
//! kube-proxy, as a replica of the fleet tells, with what such a cluster has of its own. On a fourth, of three nodes, the fleet acts: new nodes, sick
//! nodes, teams. FILTER may be `iptables/`, `nftables/`, `barewired/` or `acting/`.
//! Two clusters are up at a time, each by a process of its own.
//! `BAREWIRE_OUTAGE_SECONDS` says for how long the API server is away there; a minute by default.
//! `BAREWIRE_E2E_CNI=ptp` runs the same cases on a reference plugin, which tests the tests.
//! Where the suite cannot run it says `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![forbid(unsafe_code)]

mod health;
mod http;
mod load;
mod pods;
mod restarts;
mod services;
mod suite;
mod teams;
mod unwatched;
mod workloads;

use std::process::ExitCode;

use lab::harness::{Harness, Request};
use lab::init;
use suite::Case;

fn cases() -> Vec<Case> {
    [services::cases(), pods::cases(), workloads::cases(), restarts::cases(), unwatched::cases(), health::cases(), teams::cases()].concat()
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
