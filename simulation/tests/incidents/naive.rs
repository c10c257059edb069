//! A daemon that takes what it is told for the truth: its books are the last list of blocks that it believed, and the pods on them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cloudsim::cloud::Request as Ec2;
use ipam_clouds::Source;
use ipam_pool::range::Family;
use ipam_supply::evidence::Reader;
use ipam_supply::{Outcome, Request};
use ipnetwork::IpNetwork;
use simulation::{NodeHandle, NodeSettings, World};

/// Blocks with the interfaces that they are on.
pub(crate) type Blocks = BTreeMap<IpNetwork, String>;

pub(crate) struct Naive<'world> {
    world: &'world World,
    node: NodeHandle,
    source: Source,
    pub(crate) blocks: Blocks,
    pub(crate) pods: Vec<IpAddr>,
}

impl<'world> Naive<'world> {
    pub(crate) async fn launch(world: &'world World, settings: NodeSettings) -> Self {
        let node = world.launch(settings);
        // Its daemon is this one.
        world.crash(&node);
        let source = world.source_of(&node);
        let mut naive = Self { world, node, source, blocks: Blocks::new(), pods: Vec::new() };
        naive.blocks = naive.read().await;
        naive
    }

    /// What metadata lists.
    pub(crate) async fn read(&self) -> Blocks {
        let Outcome::Read(reading) = self.source.call(&Request::Read(Reader::Metadata)).await else { panic!("metadata is there") };
        let blocks = reading.interfaces.into_iter().map(|interface| (interface.id, interface.blocks));
        blocks.flat_map(|(id, blocks)| blocks.into_iter().map(move |block| (block, id.clone()))).collect()
    }

    /// Takes a list for the truth: what is not on it is gone, and so are the pods that have addresses of it.
    pub(crate) fn believe(&mut self, blocks: Blocks) {
        self.pods.retain(|address| blocks.keys().any(|block| block.contains(*address)));
        self.blocks = blocks;
    }

    /// A new pod gets an address that no pod on the books has.
    pub(crate) fn start_pod(&mut self) -> Option<IpAddr> {
        let mut addresses = self.blocks.keys().flat_map(IpNetwork::iter);
        let address = addresses.find(|address| !self.pods.contains(address))?;
        self.pods.push(address);
        self.world.note_pod(&self.node, address);
        Some(address)
    }

    fn is_unused(&self, block: &IpNetwork) -> bool {
        !self.pods.iter().any(|address| block.contains(*address))
    }

    /// Asks for a block more, and tells what became of it.
    pub(crate) async fn grow(&mut self) -> Outcome {
        let interface = self.world.with_cloud(|cloud, _| cloud.interfaces_of(self.node.borrow().instance())[0].id.to_string());
        let outcome = self.source.call(&Request::Assign { interface: interface.clone(), family: Family::V4, blocks: 1 }).await;
        if let Outcome::Assigned(blocks) = &outcome {
            self.blocks.extend(blocks.iter().map(|block| (*block, interface.clone())));
        }
        outcome
    }

    pub(crate) async fn add_interface(&mut self) {
        let added = self.source.call(&Request::AddInterface { family: Family::V4, blocks: 1 }).await;
        assert_eq!(added, Outcome::Added);
        self.blocks = self.read().await;
    }

    pub(crate) async fn give_back(&mut self, block: IpNetwork) {
        let interface = self.blocks.remove(&block).unwrap();
        assert_eq!(self.source.call(&Request::Unassign { interface, blocks: vec![block] }).await, Outcome::Unassigned);
    }

    /// Gives back what no pod on the books uses, but for one block.
    pub(crate) async fn shrink(&mut self) {
        let unused: Vec<IpNetwork> = self.blocks.keys().filter(|block| self.is_unused(block)).copied().collect();
        let spare = unused.len().min(self.blocks.len() - 1);
        for block in &unused[..spare] {
            self.give_back(*block).await;
        }
    }

    /// Detaches further interfaces that no pod on the books uses.
    pub(crate) fn detach_unused(&mut self) {
        let instance = self.node.borrow().instance();
        let interfaces: Vec<_> = self.world.with_cloud(|cloud, _| cloud.interfaces_of(instance).into_iter().skip(1).cloned().collect());
        for interface in interfaces {
            if interface.ipv4_prefixes.iter().all(|prefix| self.is_unused(&IpNetwork::V4(*prefix))) {
                let detach = Ec2::DetachNetworkInterface { attachment: interface.attachment.unwrap().id, force: true };
                self.world.with_cloud(|cloud, now| cloud.apply(now, &detach).unwrap());
            }
        }
    }
}
