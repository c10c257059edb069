//! A plugin in the race, and everything measured of it. Barewire and its peer go through the same code.

use std::mem;
use std::time::Instant;

use anyhow::Result;

use crate::node::Node;
use crate::plugin::{Attached, Plugin, Pod};
use crate::samples::{Rounds, Samples};

/// Makes pods with names that no other pod of this process has.
#[derive(Debug, Default)]
pub struct Pods {
    made: usize,
}

impl Pods {
    /// A new pod.
    ///
    /// # Errors
    /// When its namespace cannot be created.
    pub fn make(&mut self) -> Result<Pod> {
        self.made += 1;
        Pod::create(self.made)
    }

    /// `count` new pods.
    ///
    /// # Errors
    /// When a namespace cannot be created.
    pub fn make_many(&mut self, count: usize) -> Result<Vec<Pod>> {
        (0..count).map(|_| self.make()).collect()
    }
}

/// A plugin and its figures.
///
/// Every method but [`Self::add`] returns only when the links of detached pods are gone, so that work which a plugin
/// leaves for later is done before the other contender is measured.
#[derive(Debug)]
pub struct Contender {
    plugin: Plugin,
    attached: Vec<Attached>,
    detached: Vec<Pod>,
    round: Samples,
    /// ADD, one after the other.
    pub adds: Rounds,
    /// DEL, one after the other.
    pub dels: Rounds,
    /// From the first of several DELs until all their links are gone, by the number of pods.
    pub settled: Rounds,
    /// ADD straight after a DEL.
    pub adds_after_del: Rounds,
    /// DEL and the ADD straight after it.
    pub churns: Rounds,
    /// Why ADDs of bursts failed.
    pub burst_failures: Vec<String>,
}

impl Contender {
    /// Nothing is measured yet.
    #[must_use]
    pub fn new(plugin: Plugin) -> Self {
        Self {
            plugin,
            attached: Vec::new(),
            detached: Vec::new(),
            round: Samples::default(),
            adds: Rounds::default(),
            dels: Rounds::default(),
            settled: Rounds::default(),
            adds_after_del: Rounds::default(),
            churns: Rounds::default(),
            burst_failures: Vec::new(),
        }
    }

    /// Attaches a pod, in a round that [`Self::end_round`] ends.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn add(&mut self, pod: Pod) -> Result<()> {
        let (took, attached) = self.plugin.add(pod)?;
        self.round.push(took);
        self.attached.push(attached);
        Ok(())
    }

    /// The ADDs or DELs since the last call.
    pub fn end_round(&mut self) -> Samples {
        mem::take(&mut self.round)
    }

    /// Attaches pods without taking the time.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn attach(&mut self, pods: Vec<Pod>) -> Result<()> {
        for pod in pods {
            self.attached.push(self.plugin.add(pod)?.1);
        }
        Ok(())
    }

    /// How many pods are attached.
    #[must_use]
    pub fn attached(&self) -> usize {
        self.attached.len()
    }

    /// Detaches `count` pods, in a round that [`Self::end_round`] ends.
    ///
    /// # Errors
    /// When the plugin fails, or links stay.
    pub fn del(&mut self, node: &Node, count: usize) -> Result<()> {
        let leavers = self.attached.split_off(self.attached.len().saturating_sub(count));
        if leavers.is_empty() {
            return Ok(());
        }
        let links = node.links()? - leavers.len();
        let number = u32::try_from(leavers.len())?;
        let started = Instant::now();
        for leaver in leavers {
            self.round.push(self.plugin.del(&leaver)?);
            self.detached.push(leaver.into_pod());
        }
        node.wait_for_links(links)?;
        self.settled.push(Samples::from_iter([started.elapsed() / number]));
        Ok(())
    }

    /// Detaches all pods without taking the time.
    ///
    /// # Errors
    /// When the plugin fails, or links stay.
    pub fn detach_all(&mut self, node: &Node) -> Result<()> {
        let links = node.links()? - self.attached.len();
        for attached in self.attached.drain(..) {
            self.plugin.del(&attached)?;
            self.detached.push(attached.into_pod());
        }
        node.wait_for_links(links)
    }

    /// The pods detached so far, in that order. Once they are dropped, the kernel takes their namespaces down, for a
    /// while and not unnoticed by whoever is being measured.
    pub fn take_detached(&mut self) -> Vec<Pod> {
        mem::take(&mut self.detached)
    }

    /// Attaches `count` pods, then replaces each, one DEL and one ADD straight after the other.
    ///
    /// # Errors
    /// When the plugin fails, or links stay.
    pub fn churn(&mut self, node: &Node, pods: &mut Pods, count: usize) -> Result<()> {
        let newcomers = pods.make_many(count)?;
        self.attach(pods.make_many(count)?)?;
        let links = node.links()?;
        let (mut adds, mut both) = (Samples::default(), Samples::default());
        for (leaver, newcomer) in mem::take(&mut self.attached).into_iter().zip(newcomers) {
            let del = self.plugin.del(&leaver)?;
            let (add, attached) = self.plugin.add(newcomer)?;
            adds.push(add);
            both.push(del + add);
            self.detached.push(leaver.into_pod());
            self.attached.push(attached);
        }
        self.adds_after_del.push(adds);
        self.churns.push(both);
        node.wait_for_links(links)?;
        self.detach_all(node)
    }

    /// Attaches pods, all at once. What fails is kept.
    ///
    /// # Errors
    /// When the thread of a call panics.
    pub fn burst(&mut self, pods: Vec<Pod>) -> Result<Samples> {
        let mut round = Samples::default();
        for outcome in self.plugin.add_at_once(pods)? {
            match outcome {
                Ok((took, attached)) => {
                    round.push(took);
                    self.attached.push(attached);
                }
                Err(error) => self.burst_failures.push(format!("{error:#}")),
            }
        }
        Ok(round)
    }
}
