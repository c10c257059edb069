//! The pods of a cluster: they end and begin all the time, anywhere.

use std::rc::Rc;
use std::time::Duration;

use crate::node::PodId;
use crate::world::{NodeHandle, World};

/// How much of a second passes between two looks.
const STEP: Duration = Duration::from_millis(100);

/// All pods, and chance.
pub(super) struct Pods<'a> {
    world: &'a World,
    nodes: Vec<NodeHandle>,
    live: Vec<(NodeHandle, PodId)>,
    random: fastrand::Rng,
    replaced: u64,
}

impl<'a> Pods<'a> {
    pub(super) fn new(world: &'a World, seed: u64) -> Self {
        Self { world, nodes: world.nodes(), live: Vec::new(), random: fastrand::Rng::with_seed(seed), replaced: 0 }
    }

    /// Pods that ended and began elsewhere.
    pub(super) const fn replaced(&self) -> u64 {
        self.replaced
    }

    /// A pod begins on any node that is ready; which of them has room for it, the scheduler does not know.
    fn start_one(&mut self) {
        let node = loop {
            let node = &self.nodes[self.random.usize(..self.nodes.len())];
            if node.borrow().ready_at().is_some() {
                break Rc::clone(node);
            }
        };
        let pod = self.world.start_pod(&node);
        self.live.push((node, pod));
    }

    fn replace_one(&mut self) {
        let (node, pod) = self.live.swap_remove(self.random.usize(..self.live.len()));
        self.world.stop_pod(&node, pod);
        self.start_one();
        self.replaced += 1;
    }

    /// A node ends; its pods begin elsewhere, and `launch` makes another node.
    pub(super) fn replace_node(&mut self, launch: impl FnOnce() -> NodeHandle) {
        let ended = self.nodes.swap_remove(self.random.usize(..self.nodes.len()));
        self.world.terminate(&ended);
        let before = self.live.len();
        self.live.retain(|(node, _)| !Rc::ptr_eq(node, &ended));
        for _ in self.live.len()..before {
            self.start_one();
        }
        self.nodes.push(launch());
    }

    /// Lets `span` pass, in which the pods become `wanted` evenly and `percent` of them are replaced each minute.
    pub(super) async fn pass(&mut self, span: Duration, wanted: u64, percent: u64) {
        let steps = span.as_millis() / STEP.as_millis();
        let begun_with = self.live.len() as f64;
        let (mut due, mut target) = (0.0, begun_with);
        for _ in 0..steps {
            target += (wanted as f64 - begun_with) / steps as f64;
            while (self.live.len() as f64) < target.round() {
                self.start_one();
            }
            due += self.live.len() as f64 * percent as f64 / 100.0 / 60.0 * STEP.as_secs_f64();
            while due >= 1.0 {
                self.replace_one();
                due -= 1.0;
            }
            self.world.pass(STEP).await;
        }
    }
}
