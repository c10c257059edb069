//! Pods through a real containerd on nodes of three simulated clouds: a node's whole life with addresses that a cloud gives and takes.
//!
//! `cargo test --test lab_cloud_pods [-- CLOUD]`, where CLOUD is `aws`, `azure` or `gcp`. Needs root, containerd, and `barewired` and
//! `barewire-cni` in `BAREWIRE_BIN_DIR` or beside the test. A case runs on all clouds at once; the next one builds on what it left.
//! Where the suite cannot run it says `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![forbid(unsafe_code)]

mod growth;
mod life;
mod site;
mod trouble;

use std::process::ExitCode;
use std::thread;

use anyhow::Result;
use cloudsim::faults::Faults;
use lab::cni::barewire_binaries;
use lab::harness::{self, Ended, Harness, Request};
use lab::init;

use site::{CloudLab, Kind, Site};
use trouble::{AILMENTS, Ailment};

type Work = fn(&mut Site) -> Result<()>;

/// The cases by name, in the order of a node's life.
const CASES: [(&str, Work); 9] = [
    ("a_new_node_has_addresses_for_its_first_pods", growth::first_pods),
    ("pods_go_to_a_second_interface_when_the_first_is_full", growth::second_interface),
    ("a_full_node_says_so_in_time_and_recovers", growth::exhaustion),
    ("addresses_that_nobody_needs_are_given_back", growth::shrinking),
    ("restart_of_barewired_loses_no_packet", life::restart),
    ("kill_of_barewired_loses_no_packet", life::kill),
    ("a_reboot_leaves_no_address_behind", life::reboot),
    ("an_interface_is_detached_under_load", trouble::detached),
    ("a_cloud_that_misbehaves_costs_no_address_and_no_pod", trouble::misbehaviour),
];

fn ailing(ailment: &Ailment) -> String {
    format!("{}_is_told_and_costs_no_pod", ailment.name)
}

fn recovered(ailment: &Ailment) -> String {
    format!("{}_is_got_over", ailment.name)
}

fn cases() -> impl Iterator<Item = String> {
    let ailing = AILMENTS.iter().flat_map(|ailment| [ailing(ailment), recovered(ailment)]);
    CASES.iter().map(|(case, _)| (*case).to_owned()).chain(ailing)
}

fn name(kind: Kind, case: &str) -> String {
    format!("{}/{case}", kind.name())
}

fn run(harness: &mut Harness, kinds: &[Kind]) {
    let count = kinds.len() * cases().count();
    let lab = match CloudLab::up() {
        Ok(lab) => lab,
        Err(error) => return harness.fail("bring the lab up", &format!("{error:#}"), count),
    };
    let started: Result<Vec<Site>> = thread::scope(|scope| {
        let starting: Vec<_> = kinds.iter().map(|kind| scope.spawn(|| Site::start(&lab, *kind))).collect();
        starting.into_iter().map(|site| site.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    match started {
        Ok(mut sites) => {
            CASES.iter().for_each(|(case, work)| run_case(harness, case, work, &mut sites));
            for ailment in &AILMENTS {
                let mut faults = Faults::default();
                (ailment.faults)(&mut faults.metadata);
                lab.set_faults(faults);
                run_case(harness, &ailing(ailment), |site| trouble::ailing(site, ailment), &mut sites);
                lab.set_faults(Faults::default());
                run_case(harness, &recovered(ailment), trouble::recovered, &mut sites);
            }
        }
        Err(error) => harness.fail("start the nodes", &format!("{error:#}"), count),
    }
    harness.case("no_address_is_lost_or_given_twice_by_the_cloud", || lab.is_sound());
    harness.case("take_the_lab_down", || lab.down());
}

fn run_case(harness: &mut Harness, case: &str, work: impl Fn(&mut Site) -> Result<()> + Sync, sites: &mut [Site]) {
    let work = &work;
    let ended: Vec<Ended> = thread::scope(|scope| {
        let running: Vec<_> = sites.iter_mut().map(|site| scope.spawn(move || Ended::of(|| work(site)))).collect();
        running.into_iter().map(|case| case.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    for (site, ended) in sites.iter_mut().zip(ended) {
        if !harness.ended(&name(site.kind, case), ended) {
            site.logs().iter().for_each(|line| harness.note(line));
            if let Err(error) = site.worker.ensure_daemon() {
                harness.note(&format!("FAIL recover from it: {error:#}"));
            }
        }
    }
}

fn main() -> ExitCode {
    init::become_init_if_asked();
    let filter = match Request::of_this_program() {
        Request::List => {
            Kind::ALL.iter().for_each(|kind| cases().for_each(|case| harness::list(&name(*kind, &case))));
            return ExitCode::SUCCESS;
        }
        Request::Run(filter) => filter,
    };
    let mut harness = Harness::default();
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.name().contains(&filter)).collect();
    match harness::require_programs(&["containerd", "ctr", "runc", "ip", "nft", "nsenter", "ping", "busybox"])
        .and_then(|()| Ok(barewire_binaries()?))
    {
        Ok(_) if kinds.is_empty() => harness.fail("lab_cloud_pods", &format!("no cloud is called {filter:?}"), 1),
        Ok(_) => run(&mut harness, &kinds),
        Err(error) => harness.skip("lab_cloud_pods", &format!("{error:#}"), kinds.len() * cases().count()),
    }
    harness.finish()
}
