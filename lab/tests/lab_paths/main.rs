//! Packets of pods beside kube-proxy's rules: every path to a service, at its first packet, behind a hundred thousand flows and with
//! the table of flows full; connections that go on whatever happens beside them; and what nobody may send or fail to count.
//!
//! `cargo test --test lab_paths [-- FILTER]`, where FILTER is a part of `auto/nftables`. Needs root, and `barewired`, `barewire-cni`
//! and `barewire-ebpf.o` in `BAREWIRE_BIN_DIR` or beside the test. Each of the fast path's two settings meets the rules in both of
//! kube-proxy's forms, each in a lab of its own, so that no flow is left of the one before.
//! Where the suite cannot run it says `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![forbid(unsafe_code)]

mod accounting;
mod cluster;
mod flows;
mod life;
mod notes;
mod paths;
mod spoofing;

use std::process::ExitCode;

use anyhow::Result;
use lab::cni::{FastPath, barewire_binaries};
use lab::harness::{self, Harness, Request};
use lab::init;

use cluster::Cluster;
use lab::services::Form;

/// What one lab is for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pass {
    fast_path: FastPath,
    form: Form,
}

impl Pass {
    fn all() -> impl Iterator<Item = Self> {
        FastPath::ALL.into_iter().flat_map(|fast_path| Form::ALL.map(|form| Self { fast_path, form }))
    }

    fn name(self) -> String {
        format!("{}/{}", self.fast_path.value(), self.form.name())
    }
}

type Work = Box<dyn FnOnce(&mut Cluster) -> Result<()>>;

/// A case by name.
struct Case {
    name: String,
    run: Work,
}

impl Case {
    fn new(name: impl Into<String>, run: impl FnOnce(&mut Cluster) -> Result<()> + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

/// The cases of a pass, in order: later ones build on what earlier ones left running.
fn cases(pass: Pass) -> Vec<Case> {
    let carried = pass.fast_path == FastPath::Auto;
    let mut cases = vec![Case::new("the_daemon_and_the_hosts_stack_agree_on_who_carries", life::who_carries)];
    cases.push(Case::new("connections_go_on_when_rules_appear", life::rules_appear));
    cases.extend(paths::cases("first_packet"));
    cases.push(Case::new("connections_go_on_when_rules_are_replaced", life::rules_replaced));
    if pass.form == Form::Nftables {
        cases.extend(accounting::cases());
        cases.push(spoofing::of_addresses());
    }
    if carried && pass.form == Form::Nftables {
        cases.push(spoofing::of_mac_addresses());
    }
    cases.push(Case::new("a_hundred_thousand_flows_leave_connections_alone", flows::hundred_thousand));
    cases.extend(paths::cases("behind_100_000_flows"));
    cases.push(Case::new("connections_go_on_over_a_restart_and_a_kill_of_the_daemon", life::restarts));
    if carried {
        cases.push(Case::new("replies_alone_keep_a_flow_noted", flows::replies_keep_it_noted));
        cases.push(Case::new("a_full_table_of_flows_leaves_connections_alone", flows::full));
        cases.extend(paths::cases("table_full"));
        cases.push(Case::new("connections_go_on_over_another_layout_of_the_maps", life::another_layout));
    }
    cases.push(Case::new("connections_go_on_when_the_fast_path_is_switched_off_and_on", life::switched));
    cases.push(Case::new("uninstall_leaves_nothing_attached_and_connections_alone", life::uninstall));
    cases
}

fn run(harness: &mut Harness, pass: Pass) {
    let cases = cases(pass);
    let mut cluster = match Cluster::up(pass.fast_path, pass.form) {
        Ok(cluster) => cluster,
        Err(error) => return harness.fail(&format!("{}: bring the cluster up", pass.name()), &format!("{error:#}"), cases.len()),
    };
    for Case { name, run } in cases {
        if !harness.case(&format!("{}/{name}", pass.name()), || run(&mut cluster)) {
            cluster.logs().iter().for_each(|line| harness.note(line));
        }
    }
    if let Err(error) = cluster.down() {
        harness.fail(&format!("{}: take the lab down", pass.name()), &format!("{error:#}"), 1);
    }
}

fn main() -> ExitCode {
    init::become_init_if_asked();
    let filter = match Request::of_this_program() {
        Request::List => {
            for pass in Pass::all() {
                cases(pass).iter().for_each(|case| harness::list(&format!("{}/{}", pass.name(), case.name)));
            }
            return ExitCode::SUCCESS;
        }
        Request::Run(filter) => filter,
    };
    let mut harness = Harness::default();
    let passes: Vec<Pass> = Pass::all().filter(|pass| pass.name().contains(&filter)).collect();
    let programs = ["ip", "nft", "nsenter", "iptables-restore", "ip6tables-restore", "tcpdump", "tc", "conntrack"];
    match harness::require_programs(&programs).and_then(|()| Ok(barewire_binaries()?)) {
        Ok(_) => passes.into_iter().for_each(|pass| run(&mut harness, pass)),
        Err(error) => harness.skip("lab_paths", &format!("{error:#}"), passes.into_iter().map(|pass| cases(pass).len()).sum()),
    }
    harness.finish()
}
