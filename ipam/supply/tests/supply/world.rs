//! Nodes and a cloud that they share; what is to hold after every step, and what is to come about when nothing goes wrong any more.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipam_pool::PoolError;
use ipam_pool::range::Family;
use ipam_supply::{Outcome, Request};
use ipnetwork::IpNetwork;
use node_api::BootMillis;

use crate::cloud::{BLOCK, Cloud, Sight};
use crate::node::{Node, READERS, sizing};
use crate::step::{Fate, NODES, Step};

/// How often a daemon asks for a call.
const TURN: u64 = 10;
const MINUTE: u64 = 60;
/// A call ends by then, with an answer or without.
const CALL: u64 = 30_000;
/// When nothing goes wrong any more, a node has what it should have after this many seconds: a reading of the API is due within half
/// an hour, a tombstone is one for a quarter, and a release waits for ten minutes.
const SETTLES: u64 = 3600;

/// A law that was broken, and how.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) law: &'static str,
    pub(crate) how: String,
}

type Holds = Result<(), Broken>;

fn must(holds: bool, law: &'static str, how: impl FnOnce() -> String) -> Holds {
    if holds { Ok(()) } else { Err(Broken { law, how: how() }) }
}

pub(crate) struct World {
    now: BootMillis,
    cloud: Cloud,
    nodes: [Node; NODES],
    /// Who has which address, over all nodes.
    owners: BTreeMap<IpAddr, (usize, u8)>,
    pub(crate) steps: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let now = BootMillis(1_000_000);
        let nodes = std::array::from_fn(|node| Node::new(node, now));
        let mut world = Self { now, cloud: Cloud::new(now), nodes, owners: BTreeMap::new(), steps: 0 };
        (0..NODES).for_each(|node| world.tell_what_is_shown(node));
        world
    }

    pub(crate) fn run(&mut self, trace: &[Step]) -> Holds {
        trace.iter().try_for_each(|step| self.take(*step))?;
        self.settle()
    }

    fn take(&mut self, step: Step) -> Holds {
        self.steps += 1;
        match step {
            Step::Ask(node) => self.ask(node)?,
            Step::Answer(node, fate) => self.answer(node, fate)?,
            Step::Add(node, pod) => self.add(node, pod)?,
            Step::Del(node, pod) => self.del(node, pod),
            Step::Wait(seconds) => self.wait(seconds.into())?,
            Step::Drive(seconds) => self.drive(seconds.into(), |world| world.nodes.iter().any(Node::has_change_out))?,
            Step::Lag(node, reader, seconds) => self.cloud.sight(node, reader).lag = seconds.into(),
            Step::Omit(node, reader, number) => self.cloud.sight(node, reader).omits = (number < 4).then_some(number),
            Step::Vanish(node, place) => self.cloud.vanish(node, place, self.now),
            Step::Restore(node) => self.cloud.restore(node, self.now),
            Step::Detach(node) => {
                self.cloud.detach(node, self.now);
                self.tell_what_is_shown(node);
            }
            Step::Appear(node) => {
                self.cloud.show(node);
                self.tell_what_is_shown(node);
            }
            Step::Crash(node, arrives) => {
                self.let_go(node, arrives)?;
                self.nodes[node].start(self.now);
                self.tell_what_is_shown(node);
            }
            Step::CrashInAdd(node) => {
                self.let_go(node, true)?;
                self.nodes[node].die_in_add(self.now);
                self.tell_what_is_shown(node);
            }
            Step::Reboot(node, arrives) => {
                self.let_go(node, arrives)?;
                self.owners.retain(|_, (owner, _)| *owner != node);
                self.cloud.restart(node);
                self.nodes[node].reboot(self.now);
                self.tell_what_is_shown(node);
            }
        }
        self.nodes.iter().try_for_each(|node| {
            let held = node.pool.counts(Family::V4, self.now).held;
            let known = node.used_blocks();
            let in_ranges = node.pods.values().filter(|address| known.iter().any(|block| block.contains(**address))).count();
            must(held >= in_ranges && held <= node.pods.len(), "I3: what a pod has, the pool knows", || {
                format!("{held} held, pods {:?}", node.pods)
            })
        })
    }

    /// The daemon dies with a call that is out, which may arrive all the same.
    fn let_go(&mut self, node: usize, arrives: bool) -> Holds {
        match self.nodes[node].out.clone() {
            Some((request, _)) if arrives => self.execute(node, &request, Fate::Done).map(|_| ()),
            _ => Ok(()),
        }
    }

    fn tell_what_is_shown(&mut self, node: usize) {
        let shown = self.cloud.shown(node).collect();
        let Node { supply, pool, .. } = &mut self.nodes[node];
        supply.set_present(shown, pool, self.now);
        self.nodes[node].remember();
    }

    fn ask(&mut self, number: usize) -> Holds {
        let node = &mut self.nodes[number];
        let was_out = node.out.is_some();
        let Some(request) = node.ask(self.now) else { return Ok(()) };
        must(!was_out, "one request is in flight", || format!("node {number} asked for {request:?} too"))?;
        let is_sure = node.unsure.is_empty() || !node.has_change_out();
        must(is_sure, "what had no answer is asked after before anything else is changed", || format!("node {number}: {request:?}"))?;
        let Request::Unassign { blocks, .. } = &request else { return Ok(()) };
        must(!blocks.is_empty(), "what is given back is named", || format!("node {number}"))?;
        for block in blocks {
            let node = &self.nodes[number];
            must(node.both_list(block, self.now), "I2: two readers agree on what is given back", || format!("node {number}, {block}"))?;
            must(!node.is_used(block), "I2: what is given back is closed", || format!("node {number}, {block}"))?;
            must(!node.excludes_of(block), "what has an excluded address stays", || format!("node {number}, {block}"))?;
            self.assert_unoccupied(number, block)?;
        }
        Ok(())
    }

    fn assert_unoccupied(&self, node: usize, block: &IpNetwork) -> Holds {
        let occupied = self.nodes[node].occupied(block, self.now);
        must(occupied.is_empty(), "I2: no address leaves that is held or cools down", || format!("node {node}, {block}: {occupied:?}"))
    }

    fn execute(&mut self, node: usize, request: &Request, fate: Fate) -> Result<Outcome, Broken> {
        if let Request::Unassign { blocks, .. } = request {
            blocks.iter().try_for_each(|block| self.assert_unoccupied(node, block))?;
        }
        Ok(self.cloud.execute(node, request, fate, self.now))
    }

    fn answer(&mut self, number: usize, fate: Fate) -> Holds {
        let Some((request, _)) = self.nodes[number].out.clone() else { return Ok(()) };
        let outcome = self.execute(number, &request, fate)?;
        let before = self.nodes[number].used_blocks();
        let is_reading = matches!(outcome, Outcome::Read(_));
        self.nodes[number].answer(outcome, self.now);
        let node = &self.nodes[number];
        let shown: Vec<String> = self.cloud.shown(number).collect();
        let is_shown = |block: &IpNetwork| node.supply.interface_of(block).is_some_and(|name| shown.iter().any(|shown| shown == name));
        for block in before.iter().filter(|block| is_reading && !node.is_used(block) && is_shown(block)) {
            must(node.both_miss(block, self.now), "a block is lost when two readers miss it over time", || {
                format!("node {number}, {block}")
            })?;
        }
        for block in node.used_blocks() {
            must(self.cloud.is_of(number, &block), "what pods may get is the node's", || format!("node {number}, {block}"))?;
            must(is_shown(&block), "what pods may get is on an interface that is there", || format!("node {number}, {block}"))?;
        }
        let waiting: Vec<u8> = node.waiting.iter().copied().collect();
        waiting.into_iter().try_for_each(|pod| self.add(number, pod))
    }

    fn add(&mut self, number: usize, pod: u8) -> Holds {
        let node = &mut self.nodes[number];
        if node.pods.contains_key(&pod) {
            return Ok(());
        }
        let counts = node.pool.counts(Family::V4, self.now);
        match node.add(pod, self.now) {
            Ok(address) => {
                must(!self.nodes[number].excludes(address), "no pod gets what is excluded", || format!("node {number}: {address}"))?;
                let other = self.owners.insert(address, (number, pod));
                must(other.is_none(), "I1: an address has one live owner", || {
                    format!("{address}: node {number} pod {pod}, and {other:?}")
                })?;
                Ok(())
            }
            Err(PoolError::Exhausted { .. }) => {
                must(counts.free() == 0, "a pod gets an address when there is one", || format!("node {number} pod {pod}: {counts:?}"))
            }
            Err(error) => Err(Broken { law: "an ADD finds an address or none", how: error.to_string() }),
        }
    }

    fn del(&mut self, number: usize, pod: u8) {
        if let Some(address) = self.nodes[number].pods.get(&pod) {
            self.owners.remove(address);
        }
        self.nodes[number].del(pod, self.now);
    }

    fn wait(&mut self, seconds: u64) -> Holds {
        self.now = self.now.plus(seconds * 1000);
        for node in 0..NODES {
            if self.nodes[node].out.as_ref().is_some_and(|(_, since)| self.now.since(*since) >= CALL) {
                self.answer(node, Fate::ReplyLost)?;
            }
        }
        Ok(())
    }

    /// Every daemon does its work, until the time or something else says stop.
    fn drive(&mut self, seconds: u64, stop: impl Fn(&Self) -> bool) -> Holds {
        // Nobody tells a node anything while no call of its is out.
        let mut due = [None; NODES];
        for _ in 0..seconds / TURN {
            for (node, due) in due.iter_mut().enumerate() {
                self.take(Step::Answer(node, Fate::Done))?;
                self.take(Step::Ask(node))?;
                let asked = &self.nodes[node];
                let is_early = due.is_some_and(|due| due > self.now) && asked.out.is_some();
                must(!is_early, "nothing is due before it is said to be", || format!("node {node}: {:?} before {due:?}", asked.out))?;
                *due = asked.supply.next_deadline(&asked.pool, asked.waiting.len() as u64, self.now);
            }
            if stop(self) {
                break;
            }
            self.take(Step::Wait(TURN as u16))?;
        }
        Ok(())
    }

    /// Nothing goes wrong any more.
    fn settle(&mut self) -> Holds {
        for node in 0..NODES {
            for reader in READERS {
                *self.cloud.sight(node, reader) = Sight::default();
            }
        }
        for _ in 0..SETTLES / MINUTE {
            self.drive(MINUTE, |_| false)?;
            (0..NODES).try_for_each(|node| self.take(Step::Appear(node)))?;
        }
        (0..NODES).try_for_each(|node| self.assert_settled(node))
    }

    fn assert_settled(&self, number: usize) -> Holds {
        let node = &self.nodes[number];
        for block in self.cloud.assigned(number) {
            let is_out = block.iter().all(|address| node.excludes(address));
            must(node.is_used(&block) != is_out, "nothing leaks: what is assigned is used", || format!("node {number}: {block}"))?;
        }
        let counts = node.pool.counts(Family::V4, self.now);
        let used = (counts.held + counts.cooling) as u64;
        let have = counts.size - counts.quarantined;
        let enough = have >= sizing().at_least(used) * BLOCK || !self.cloud.has_room(number);
        must(enough, "a node gets what it needs", || format!("node {number}: {counts:?}"))?;
        must(node.waiting.is_empty() || !self.cloud.has_room(number), "no pod waits for ever", || {
            format!("node {number}: {:?}", node.waiting)
        })?;
        let is_free = |block: &IpNetwork| node.occupied(block, self.now).is_empty() && !node.excludes_of(block);
        let asked_for = |block: &&IpNetwork| node.supply.assigned_here().any(|own| own == *block);
        let excess = have > sizing().at_most(used) * BLOCK && node.used_blocks().iter().filter(asked_for).any(is_free);
        must(!excess, "a node gives back what it asked for and does not need", || format!("node {number}: {counts:?}"))
    }
}
