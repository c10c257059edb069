//! One node: the real supply and the real pool, driven as the daemon drives them, and what of it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipam_pool::range::{AddressRange, Family};
use ipam_pool::{AttachmentKey, Pool, PoolError, RangeState};
use ipam_supply::evidence::Reader;
use ipam_supply::memory::Known;
use ipam_supply::sizing::Sizing;
use ipam_supply::{Interface, Outcome, Request, Settings, Supply};
use ipnetwork::IpNetwork;
use node_api::BootMillis;

use crate::cloud::BLOCK;

pub(crate) const COOLDOWN: u64 = 30_000;
pub(crate) const READERS: [Reader; 2] = [Reader::Metadata, Reader::Api];

/// What the node has been told of a block, kept by the test itself.
#[derive(Debug, Default, Clone, Copy)]
struct Word {
    listed_at: Option<BootMillis>,
    missing_since: Option<BootMillis>,
    misses: u32,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) supply: Supply,
    pub(crate) pool: Pool,
    name: String,
    /// The call that is out, and since when.
    pub(crate) out: Option<(Request, BootMillis)>,
    /// Durable: what each pod has, what was freed when, what is being given back.
    pub(crate) pods: BTreeMap<u8, IpAddr>,
    freed: BTreeMap<IpAddr, BootMillis>,
    released: BTreeMap<IpNetwork, BootMillis>,
    /// Durable as well, and written a moment after it is known: the network that the cloud has told.
    remembered: Known,
    /// Pods whose ADD found no address. They try again.
    pub(crate) waiting: BTreeSet<u8>,
    words: BTreeMap<(IpNetwork, usize), Word>,
    /// A change had no answer: who has not been asked since.
    pub(crate) unsure: Vec<Reader>,
}

pub(crate) fn sizing() -> Sizing {
    Sizing::of_blocks(BLOCK)
}

/// What a pod's attachment is known by.
fn name(pod: u8) -> AttachmentKey {
    format!("pod-{pod}/eth0").parse().expect("a name")
}

impl Node {
    pub(crate) fn new(number: usize, now: BootMillis) -> Self {
        let name = format!("node-{number}");
        let mut node = Self {
            supply: Supply::new(settings(&name), BTreeMap::new(), now),
            pool: Pool::new(&[], COOLDOWN),
            name,
            out: None,
            pods: BTreeMap::new(),
            freed: BTreeMap::new(),
            released: BTreeMap::new(),
            remembered: Default::default(),
            waiting: BTreeSet::new(),
            words: BTreeMap::new(),
            unsure: Vec::new(),
        };
        node.start(now);
        node
    }

    /// Starts the daemon with what is durable.
    pub(crate) fn start(&mut self, now: BootMillis) {
        self.supply = Supply::new(settings(&self.name), self.released.clone(), now);
        self.pool = Pool::new(&[], COOLDOWN);
        for (pod, address) in &self.pods {
            self.pool.restore_held(*address, &name(*pod));
        }
        self.pool.restore_freed(self.freed.iter().map(|(address, at)| (*address, *at)).collect());
        let Known { interfaces, blocks, assigned_here, .. } = &self.remembered;
        let blocks = blocks.iter().map(|(block, interface)| (block, interface.as_str()));
        self.supply.restore(interfaces, blocks, assigned_here, &mut self.pool, now);
        self.out = None;
        self.words.clear();
        self.unsure.clear();
    }

    /// The kernel starts anew: pods and the run directory are gone.
    pub(crate) fn reboot(&mut self, now: BootMillis) {
        self.pods.clear();
        self.freed.clear();
        self.released.clear();
        self.remembered = Default::default();
        self.waiting.clear();
        self.start(now);
    }

    /// Asks for a call; what is about to be given back becomes durable before it is made.
    pub(crate) fn ask(&mut self, now: BootMillis) -> Option<Request> {
        let request = self.supply.poll_request(&mut self.pool, self.waiting.len() as u64, now)?;
        if let Request::Unassign { blocks, .. } = &request {
            self.released.extend(blocks.iter().map(|block| (*block, now)));
        }
        self.out = Some((request.clone(), now));
        Some(request)
    }

    /// Takes in what became of the call that is out.
    pub(crate) fn answer(&mut self, outcome: Outcome, now: BootMillis) {
        let Some((request, _)) = self.out.take() else { return };
        match (&request, &outcome) {
            (Request::Unassign { blocks, .. }, Outcome::Refused(_)) => {
                self.released.retain(|block, _| !blocks.contains(block));
            }
            (_, Outcome::Assigned(blocks)) => self.released.retain(|block, _| !blocks.contains(block)),
            (_, Outcome::Read(reading)) => {
                let listed: BTreeSet<IpNetwork> =
                    reading.interfaces.iter().flat_map(|interface| interface.blocks.iter().copied()).collect();
                self.unsure.retain(|reader| *reader != reading.reader);
                self.note(reading.reader, &listed, now);
            }
            (_, Outcome::Unknown) => self.unsure = READERS.to_vec(),
            _ => {}
        }
        self.supply.handle_response(outcome, &mut self.pool, now);
    }

    /// What is known becomes durable.
    pub(crate) fn remember(&mut self) {
        self.remembered = Known {
            interfaces: self.supply.interfaces().iter().map(Interface::lasting).collect(),
            blocks: self.supply.blocks().map(|(block, interface)| (*block, interface.to_owned())).collect(),
            native: Vec::new(),
            assigned_here: self.supply.assigned_here().copied().collect(),
        };
    }

    pub(crate) fn has_change_out(&self) -> bool {
        self.out.as_ref().is_some_and(|(request, _)| !matches!(request, Request::Read(_)))
    }

    fn note(&mut self, reader: Reader, listed: &BTreeSet<IpNetwork>, now: BootMillis) {
        let known: Vec<IpNetwork> = self.supply.blocks().map(|(block, _)| *block).collect();
        for block in known.iter().chain(listed) {
            let word = self.words.entry((*block, reader as usize)).or_default();
            if listed.contains(block) {
                *word = Word { listed_at: Some(now), ..Word::default() };
            } else {
                word.missing_since.get_or_insert(now);
                word.misses += 1;
            }
        }
    }

    /// Whether both readers listed it the last time, a minute ago at most.
    pub(crate) fn both_list(&self, block: &IpNetwork, now: BootMillis) -> bool {
        self.both(block, |word| word.listed_at.is_some_and(|at| now.since(at) <= 60_000))
    }

    /// Whether both readers have missed it three times over a minute.
    pub(crate) fn both_miss(&self, block: &IpNetwork, now: BootMillis) -> bool {
        self.both(block, |word| word.misses >= 3 && word.missing_since.is_some_and(|since| now.since(since) >= 60_000))
    }

    fn both(&self, block: &IpNetwork, says: impl Fn(&Word) -> bool) -> bool {
        READERS.iter().all(|reader| self.words.get(&(*block, *reader as usize)).is_some_and(&says))
    }

    pub(crate) fn add(&mut self, pod: u8, now: BootMillis) -> Result<IpAddr, PoolError> {
        let taken = self.pool.take(Family::V4, &name(pod), now);
        match &taken {
            Ok(address) => {
                self.freed.remove(address);
                self.pods.insert(pod, *address);
                self.waiting.remove(&pod);
            }
            Err(_) => {
                self.waiting.insert(pod);
            }
        }
        taken
    }

    pub(crate) fn del(&mut self, pod: u8, now: BootMillis) {
        self.waiting.remove(&pod);
        if let Some(address) = self.pods.remove(&pod) {
            assert!(self.pool.release(address, &name(pod), now));
            self.freed.insert(address, now);
        }
    }

    /// Takes an address and dies: the link that it was for is found and removed at the next start.
    pub(crate) fn die_in_add(&mut self, now: BootMillis) {
        if let Ok(address) = self.pool.take(Family::V4, &name(0), now) {
            self.freed.insert(address, now);
        }
        self.start(now);
    }

    /// Addresses of the block that a pod has, or had a moment ago.
    pub(crate) fn occupied(&self, block: &IpNetwork, now: BootMillis) -> Vec<IpAddr> {
        let cooling = self.freed.iter().filter(|(_, at)| now.since(**at) < COOLDOWN).map(|(address, _)| address);
        self.pods.values().chain(cooling).filter(|address| block.contains(**address)).copied().collect()
    }

    /// Whether pods must not get some address of the block.
    pub(crate) fn excludes_of(&self, block: &IpNetwork) -> bool {
        exclusions(&self.name).iter().any(|hole| hole.overlaps(&AddressRange::from(*block)))
    }

    /// Whether pods must not get an address.
    pub(crate) fn excludes(&self, address: IpAddr) -> bool {
        exclusions(&self.name).iter().any(|hole| hole.contains(address))
    }

    /// Whether new pods may get addresses of the block.
    pub(crate) fn is_used(&self, block: &IpNetwork) -> bool {
        let range = AddressRange::from(*block);
        self.pool.ranges().any(|(other, state)| *other == range && !matches!(state, RangeState::Closed(_)))
    }

    /// Blocks that new pods may get addresses of.
    pub(crate) fn used_blocks(&self) -> Vec<IpNetwork> {
        self.supply.blocks().map(|(block, _)| *block).filter(|block| self.is_used(block)).collect()
    }
}

/// What pods of a node must not get: one address of a block, and a whole block.
pub(crate) fn exclusions(name: &str) -> Vec<AddressRange> {
    let all: &[&str] = if name == "node-1" { &["10.0.0.17", "10.0.0.32/30"] } else { &[] };
    all.iter().filter_map(|text| text.parse().ok()).collect()
}

fn settings(name: &str) -> Settings {
    Settings {
        node: name.to_owned(),
        api: true,
        sizing: [Some(sizing()), None],
        exclude: exclusions(name),
        cluster_nodes: 0,
        account_calls_per_second: 5,
    }
}
