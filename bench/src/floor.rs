//! The floor under an ADD: executing a program that does nothing, and the least that must be asked of the kernel.

use std::mem;
use std::time::Duration;

use anyhow::Result;

use crate::node::Node;
use crate::plugin::{Plugin, Pod};
use crate::samples::{Rounds, Samples};
use crate::wiring::Wiring;

/// The figures of the floor.
#[derive(Debug)]
pub struct Floor {
    nothing: Plugin,
    wiring: Wiring,
    wired: Vec<Pod>,
    unwired: Vec<Pod>,
    round: [Samples; 4],
    /// Executing a program that does nothing.
    pub execs: Rounds,
    /// The kernel's part of the wiring.
    pub wirings: Rounds,
    /// …of which the creation of the veth.
    pub veths: Rounds,
    /// Both, for one pod after the other.
    pub totals: Rounds,
}

impl Floor {
    /// Nothing is measured yet.
    ///
    /// # Errors
    /// When out of file descriptors.
    pub fn new(nothing: Plugin) -> Result<Self> {
        Ok(Self {
            nothing,
            wiring: Wiring::open()?,
            wired: Vec::new(),
            unwired: Vec::new(),
            round: Default::default(),
            execs: Rounds::default(),
            wirings: Rounds::default(),
            veths: Rounds::default(),
            totals: Rounds::default(),
        })
    }

    /// What an ADD cannot do without, in a round that [`Self::end_round`] ends.
    ///
    /// # Errors
    /// When the kernel refuses a request.
    pub fn add(&mut self, pod: Pod) -> Result<()> {
        let exec = self.nothing.exec(&pod)?;
        let steps = self.wiring.wire(&pod.namespace)?;
        let took: [Duration; 4] = [exec, steps.total, steps.veth, exec + steps.total];
        for (round, took) in self.round.iter_mut().zip(took) {
            round.push(took);
        }
        self.wired.push(pod);
        Ok(())
    }

    /// Ends the round and deletes its links.
    ///
    /// # Errors
    /// When the kernel refuses it, or links stay.
    pub fn end_round(&mut self, node: &Node) -> Result<()> {
        let [execs, wirings, veths, totals] = mem::take(&mut self.round);
        self.execs.push(execs);
        self.wirings.push(wirings);
        self.veths.push(veths);
        self.totals.push(totals);
        let links = node.links()? - self.wired.len();
        self.wiring.delete_all()?;
        self.unwired.append(&mut self.wired);
        node.wait_for_links(links)
    }

    /// The pods of the rounds that have ended.
    pub fn take_unwired(&mut self) -> Vec<Pod> {
        mem::take(&mut self.unwired)
    }
}
