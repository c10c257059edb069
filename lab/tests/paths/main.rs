//! The same answer with the fast path and without: one matrix of traffic, asked in two labs that differ in `network.fast_path` alone,
//! and what is right for each kind of flow that has gone wrong somewhere, by name.
//!
//! `cargo test --test paths [-- FILTER] [-- --json]`, where FILTER is a part of `matrix/iptables` or of a case's name. With `--json` the
//! last line is an object: `cells`, `differences`, `differing`, `asked_again`, `failed` (cases by name) and `seconds`. Needs root, and
//! `barewired`, `barewire-cni` and `barewire-ebpf.o` in `BAREWIRE_BIN_DIR` or beside the test.
//! Where the suite cannot run it says `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the object for programs is its result")]

mod datagram;
mod disturbance;
mod matrix;
mod named;
#[path = "../lab_paths/notes.rs"]
mod notes;
mod probe;
mod site;
mod ways;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use lab::cni::{FastPath, barewire_binaries};
use lab::harness::{self, Ended, Harness, Request};
use lab::init;
use lab::services::Form;
use serde_json::{Value, json};

use disturbance::Disturbance;
use matrix::{Compared, Matrix, Pair};
use named::Named;
use site::Site;

/// kube-proxy's rules in both forms, the one that drops what conntrack finds invalid first; and none.
const FORMS: [Option<Form>; 3] = [Some(Form::Iptables), Some(Form::Nftables), None];

/// Under what the named cases are asked: the rules that forgive nothing.
const NAMED: Option<Form> = Some(Form::Iptables);

fn name_of(form: Option<Form>) -> &'static str {
    form.map_or("none", Form::name)
}

/// What the object for programs says.
#[derive(Default)]
struct Report {
    cells: usize,
    asked_again: usize,
    differing: Vec<Value>,
    failed: Vec<String>,
}

impl Report {
    fn json(&self, begun: Instant) -> Value {
        let seconds = (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        json!({
            "cells": self.cells, "differences": self.differing.len(), "differing": self.differing,
            "asked_again": self.asked_again, "failed": self.failed, "seconds": seconds,
        })
    }
}

fn stages() -> Vec<String> {
    let disturbances = Disturbance::ALL.into_iter().map(|disturbance| disturbance.name().to_owned());
    ["first".to_owned(), "later".to_owned()].into_iter().chain(disturbances).collect()
}

fn run_matrix(harness: &mut Harness, report: &mut Report, form: Option<Form>) {
    let name = format!("matrix/{}", name_of(form));
    let pair = match Pair::up(form) {
        Ok(pair) => pair,
        Err(error) => {
            report.failed.push(name.clone());
            return harness.fail(&format!("{name}: bring the labs up"), &format!("{error:#}"), stages().len());
        }
    };
    let mut matrix = Matrix::over(pair, form);
    let mut stage = |stage: &str, work: &mut dyn FnMut() -> Result<Compared>| {
        let begun = Instant::now();
        let compared = work();
        let name = format!("{name}/{stage}");
        let outcome = compared.map(|compared| {
            report.cells += compared.cells;
            report.asked_again += compared.asked_again;
            report.differing.extend(compared.differing.iter().map(|difference| {
                let mut value = difference.json();
                value["cell"] = format!("{}/{}", name_of(form), difference.cell).into();
                value
            }));
            harness.note(&format!("{name}: {} cells, {} asked again", compared.cells, compared.asked_again));
            compared.alike()
        });
        if !harness.ended(&name, Ended::after(begun.elapsed(), outcome.and_then(|alike| alike))) {
            report.failed.push(name);
        }
    };
    stage("first", &mut || Ok(matrix.first()));
    stage("later", &mut || Ok(matrix.later()));
    for disturbance in Disturbance::ALL {
        stage(disturbance.name(), &mut || matrix.after(disturbance));
    }
    let pair = matrix.into_pair();
    for site in [&pair.auto, &pair.off] {
        site.logs().iter().for_each(|line| harness.note(line));
    }
    if let Err(error) = pair.down() {
        harness.fail(&format!("{name}: take the labs down"), &format!("{error:#}"), 1);
    }
}

/// Runs the named cases on both labs side by side.
fn run_named(harness: &mut Harness, report: &mut Report, cases: &[Named]) {
    let mut pair = match Pair::up(NAMED) {
        Ok(pair) => pair,
        Err(error) => {
            report.failed.push("named".to_owned());
            return harness.fail("named: bring the labs up", &format!("{error:#}"), cases.len());
        }
    };
    for case in cases {
        let run = |site: &mut Site| {
            let is_left_out = case.carried_only && site.fast_path == FastPath::Off;
            (!is_left_out).then(|| Ended::of(|| (case.run)(site)))
        };
        let (auto, off) = pair.each(run);
        for (fast_path, ended) in FastPath::ALL.into_iter().zip([auto, off]) {
            let name = format!("named/{}/{}", case.name, fast_path.value());
            if ended.is_some_and(|ended| !harness.ended(&name, ended)) {
                report.failed.push(name);
            }
        }
    }
    if let Err(error) = pair.down() {
        harness.fail("named: take the labs down", &format!("{error:#}"), 1);
    }
}

fn main() -> ExitCode {
    init::become_init_if_asked();
    let begun = Instant::now();
    let filter = match Request::of_this_program() {
        Request::List => {
            for form in FORMS {
                stages().iter().for_each(|stage| harness::list(&format!("matrix/{}/{stage}", name_of(form))));
            }
            named::ALL.iter().for_each(|case| harness::list(&format!("named/{}", case.name)));
            return ExitCode::SUCCESS;
        }
        Request::Run(filter) => filter,
    };
    let mut harness = Harness::default();
    let mut report = Report::default();
    let forms: Vec<_> = FORMS.into_iter().filter(|form| format!("matrix/{}", name_of(*form)).contains(&filter)).collect();
    let cases: Vec<_> = named::ALL.into_iter().filter(|case| format!("named/{}", case.name).contains(&filter)).collect();
    let programs = ["ip", "nft", "nsenter", "iptables-restore", "ip6tables-restore", "tcpdump", "tc", "conntrack"];
    match harness::require_programs(&programs).and_then(|()| Ok(barewire_binaries()?)) {
        Ok(_) => {
            forms.into_iter().for_each(|form| run_matrix(&mut harness, &mut report, form));
            if !cases.is_empty() {
                run_named(&mut harness, &mut report, &cases);
            }
        }
        Err(error) => harness.skip("paths", &format!("{error:#}"), forms.len() * stages().len() + cases.len()),
    }
    let code = harness.finish();
    if std::env::args().any(|argument| argument == "--json") {
        println!("{}", report.json(begun));
    }
    code
}
