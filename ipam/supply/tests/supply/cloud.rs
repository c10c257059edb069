//! A cloud in little: one subnet of blocks, the nodes' interfaces, and two readers of them that may be behind, go back in time, and
//! leave things out. A block that is given back is the next one to be assigned, to whomever asks: nothing is more dangerous.

use std::collections::VecDeque;
use std::rc::Rc;

use ipam_supply::evidence::Reader;
use ipam_supply::{Interface, Outcome, Reading, Refusal, Request};
use ipnetwork::{IpNetwork, Ipv4Network};
use node_api::BootMillis;

use crate::step::{Fate, METADATA_LAG, NODES};

/// Addresses of a block.
pub(crate) const BLOCK: u64 = 4;
/// Fewer than two busy nodes want.
const SUBNET_BLOCKS: u8 = 13;
const NIC_BLOCKS: usize = 4;
const NICS: usize = 3;

#[derive(Debug, Clone)]
struct Nic {
    id: u32,
    blocks: Vec<IpNetwork>,
    /// The kernel shows it.
    is_shown: bool,
}

/// What a reader does wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sight {
    pub(crate) lag: u64,
    /// It leaves out every block of this number modulo four.
    pub(crate) omits: Option<u8>,
}

#[derive(Debug)]
struct Account {
    nics: Rc<Vec<Nic>>,
    /// As it was, and from when on.
    history: VecDeque<(BootMillis, Rc<Vec<Nic>>)>,
    sights: [Sight; 2],
    /// What somebody took away. It goes to no other node: that would be an error of his.
    taken_away: Vec<IpNetwork>,
}

#[derive(Debug)]
pub(crate) struct Cloud {
    accounts: [Account; NODES],
    free: Vec<IpNetwork>,
    next_id: u32,
}

impl Cloud {
    pub(crate) fn new(now: BootMillis) -> Self {
        let free =
            (0..SUBNET_BLOCKS).filter_map(|number| Ipv4Network::new([10, 0, 0, number * 4].into(), 30).ok()).map(IpNetwork::V4).collect();
        let accounts = std::array::from_fn(|node| {
            let nics = Rc::new(vec![Nic { id: node as u32, blocks: Vec::new(), is_shown: true }]);
            Account { history: [(now, Rc::clone(&nics))].into(), nics, sights: [Sight::default(); 2], taken_away: Vec::new() }
        });
        Self { accounts, free, next_id: NODES as u32 }
    }

    /// Executes a request, as often as `fate` says; what the caller is told of it is another matter.
    pub(crate) fn execute(&mut self, node: usize, request: &Request, fate: Fate, now: BootMillis) -> Outcome {
        let outcome = match (fate, request) {
            (Fate::Throttled, _) => Outcome::Refused(Refusal::Throttled(None)),
            // Of a read nothing can get lost but the reading.
            (Fate::Refused, _) | (Fate::Lost | Fate::ReplyLost, Request::Read(_)) => Outcome::Refused(Refusal::Other("no reason".into())),
            (Fate::Lost, _) => Outcome::Unknown,
            (_, Request::Read(reader)) => Outcome::Read(self.reading(node, *reader, now)),
            _ => self.change(node, request, fate == Fate::Partial, now),
        };
        match fate {
            Fate::ReplyLost if !matches!(outcome, Outcome::Refused(_)) => Outcome::Unknown,
            Fate::Twice if !matches!(request, Request::Read(_)) => self.change(node, request, false, now),
            _ => outcome,
        }
    }

    fn change(&mut self, node: usize, request: &Request, is_partial: bool, now: BootMillis) -> Outcome {
        let mut nics = Vec::clone(&self.accounts[node].nics);
        let outcome = match request {
            Request::Read(_) => return Outcome::Unknown,
            Request::Assign { interface, blocks, .. } => {
                let wanted = (*blocks as usize - usize::from(is_partial)).max(1);
                match nics.iter_mut().find(|nic| name(nic) == *interface) {
                    None => Outcome::Refused(Refusal::Other("no such interface".into())),
                    Some(nic) if nic.blocks.len() + wanted > NIC_BLOCKS => Outcome::Refused(Refusal::Full),
                    Some(_) if self.free.len() < wanted => Outcome::Refused(Refusal::Exhausted),
                    Some(nic) => {
                        let granted = self.free.split_off(self.free.len() - wanted);
                        nic.blocks.extend(&granted);
                        Outcome::Assigned(granted)
                    }
                }
            }
            Request::AddInterface { blocks, .. } => {
                let wanted = (*blocks as usize).min(NIC_BLOCKS);
                if nics.len() == NICS {
                    Outcome::Refused(Refusal::Full)
                } else if self.free.len() < wanted {
                    Outcome::Refused(Refusal::Exhausted)
                } else {
                    let blocks = self.free.split_off(self.free.len() - wanted);
                    nics.push(Nic { id: self.next_id, blocks, is_shown: false });
                    self.next_id += 1;
                    Outcome::Added
                }
            }
            Request::Unassign { interface, blocks } => {
                let has_all = |nic: &&mut Nic| name(nic) == *interface && blocks.iter().all(|block| nic.blocks.contains(block));
                // As EC2: all of it is refused, and nothing says whether an earlier call was done.
                let Some(nic) = nics.iter_mut().find(has_all) else { return Outcome::Unknown };
                nic.blocks.retain(|other| !blocks.contains(other));
                self.free.extend(blocks);
                Outcome::Unassigned
            }
        };
        self.set(node, nics, now);
        outcome
    }

    fn set(&mut self, node: usize, nics: Vec<Nic>, now: BootMillis) {
        let account = &mut self.accounts[node];
        account.nics = Rc::new(nics);
        account.history.push_back((now, Rc::clone(&account.nics)));
        while account.history.get(1).is_some_and(|(at, _)| now.since(*at) > METADATA_LAG * 1000) {
            account.history.pop_front();
        }
    }

    fn reading(&self, node: usize, reader: Reader, now: BootMillis) -> Reading {
        let account = &self.accounts[node];
        let Sight { lag, omits } = account.sights[reader as usize];
        let seen = account.history.iter().rev().find(|(at, _)| now.since(*at) >= lag * 1000).or(account.history.front());
        let nics = seen.map_or(&account.nics, |(_, nics)| nics);
        let is_seen = |block: &&IpNetwork| omits != Some(place(block) % 4);
        let interface = |nic: &Nic| Interface {
            id: name(nic),
            mac: [0; 6],
            address: None,
            gateways: Vec::new(),
            blocks: nic.blocks.iter().filter(is_seen).copied().collect(),
            free_slots: [(NIC_BLOCKS - nic.blocks.len()) as u64, 0],
            // What it was launched with is found, and stays.
            created_here: name(nic) != name(&nics[0]),
        };
        let interfaces = nics.iter().map(interface).collect();
        Reading { reader, interfaces, interface_room: nics.len() < NICS, has_unidentified: false }
    }

    pub(crate) fn sight(&mut self, node: usize, reader: Reader) -> &mut Sight {
        &mut self.accounts[node].sights[reader as usize]
    }

    /// Nothing is read that is older than the instance's start.
    pub(crate) fn restart(&mut self, node: usize) {
        let account = &mut self.accounts[node];
        let newest = account.history.pop_back();
        account.history = newest.into_iter().collect();
        self.show(node);
    }

    pub(crate) fn show(&mut self, node: usize) {
        for nic in Rc::make_mut(&mut self.accounts[node].nics) {
            nic.is_shown = true;
        }
    }

    /// The interfaces that the kernel shows.
    pub(crate) fn shown(&self, node: usize) -> impl Iterator<Item = String> {
        self.accounts[node].nics.iter().filter(|nic| nic.is_shown).map(name)
    }

    pub(crate) fn vanish(&mut self, node: usize, place: u8, now: BootMillis) {
        let mut nics = Vec::clone(&self.accounts[node].nics);
        let Some(nic) = nics.iter_mut().find(|nic| !nic.blocks.is_empty()) else { return };
        let block = nic.blocks.remove(usize::from(place) % nic.blocks.len());
        self.accounts[node].taken_away.push(block);
        self.set(node, nics, now);
    }

    pub(crate) fn detach(&mut self, node: usize, now: BootMillis) {
        let mut nics = Vec::clone(&self.accounts[node].nics);
        if nics.len() > 1
            && let Some(nic) = nics.pop()
        {
            self.accounts[node].taken_away.extend(nic.blocks);
            self.set(node, nics, now);
        }
    }

    pub(crate) fn restore(&mut self, node: usize, now: BootMillis) {
        let mut nics = Vec::clone(&self.accounts[node].nics);
        if let Some(nic) = nics.iter_mut().find(|nic| nic.blocks.len() < NIC_BLOCKS)
            && let Some(block) = self.accounts[node].taken_away.pop()
        {
            nic.blocks.push(block);
            self.set(node, nics, now);
        }
    }

    /// What the node really has.
    pub(crate) fn assigned(&self, node: usize) -> impl Iterator<Item = IpNetwork> {
        self.accounts[node].nics.iter().flat_map(|nic| nic.blocks.iter().copied())
    }

    /// Whether packets for the block's addresses go to this node, or would but for somebody who took it away.
    pub(crate) fn is_of(&self, node: usize, block: &IpNetwork) -> bool {
        self.assigned(node).any(|other| other == *block) || self.accounts[node].taken_away.contains(block)
    }

    /// Whether the node could have one more block.
    pub(crate) fn has_room(&self, node: usize) -> bool {
        let nics = &self.accounts[node].nics;
        !self.free.is_empty() && (nics.len() < NICS || nics.iter().any(|nic| nic.blocks.len() < NIC_BLOCKS))
    }
}

fn name(nic: &Nic) -> String {
    format!("eni-{}", nic.id)
}

/// The block's number in the subnet.
fn place(block: &IpNetwork) -> u8 {
    match block {
        IpNetwork::V4(block) => block.ip().octets()[3] / 4,
        IpNetwork::V6(_) => 0,
    }
}
