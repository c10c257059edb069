//! `barewire-bench machine`: what this machine's kernel and the reference plugin take, without Barewire.
//!
//! The figures of two machines, or of one machine on two days, compare only beside these.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::contender::{Contender, Pods};
use crate::floor::Floor;
use crate::node::Node;
use crate::noise;
use crate::plugin::Plugin;
use crate::report::{Figure, Report, millis, title};
use crate::samples::{Rounds, Samples};

/// Measures `pods` pods in each of `rounds` rounds.
///
/// # Errors
/// When anything that is measured fails.
pub fn run(binaries: &Path, pods: usize, rounds: usize) -> Result<Report> {
    let noise = noise::percent()?;
    let node = Node::become_one()?;
    let mut names = Pods::default();
    let mut floor = Floor::new(Plugin::exec_floor(binaries))?;
    let mut reference = Contender::new(Plugin::reference(&node.folder("reference")?));
    let mut namespaces = Rounds::default();
    for round in 0..rounds {
        let mut created = Samples::default();
        for _ in 0..pods {
            let started = Instant::now();
            let pod = names.make()?;
            created.push(started.elapsed());
            floor.add(pod)?;
            reference.add(names.make()?)?;
        }
        namespaces.push(created);
        floor.end_round(&node)?;
        let adds = reference.end_round();
        reference.adds.push(adds);
        reference.del(&node, pods)?;
        let dels = reference.end_round();
        reference.dels.push(dels);
        eprintln!("round {} of {rounds}", round + 1);
    }
    Ok(Report {
        title: title(&format!("what this machine takes, {rounds} rounds of {pods} pods")),
        figures: vec![
            Figure { key: "netns_p50_ms", value: millis(&namespaces, 50)?, meaning: "a new network namespace" },
            Figure { key: "exec_p50_ms", value: millis(&floor.execs, 50)?, meaning: "executing an empty static program" },
            Figure { key: "veth_p50_ms", value: millis(&floor.veths, 50)?, meaning: "creating a veth with its peer in the pod" },
            Figure { key: "wiring_p50_ms", value: millis(&floor.wirings, 50)?, meaning: "all bare netlink requests, the veth included" },
            Figure { key: "floor_p50_ms", value: millis(&floor.totals, 50)?, meaning: "both: the floor under an ADD" },
            Figure { key: "reference_add_p50_ms", value: millis(&reference.adds, 50)?, meaning: "ADD of ptp with host-local" },
            Figure { key: "reference_del_p50_ms", value: millis(&reference.dels, 50)?, meaning: "DEL of ptp with host-local" },
            Figure {
                key: "noise_percent",
                value: noise,
                meaning: "CPU time that others used just before: trust ratios at most where it is high",
            },
        ],
        verdicts: Vec::new(),
    })
}
