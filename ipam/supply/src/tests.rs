//! A node and a cloud that does what it is asked; the tests by what they are about.

mod growth;
mod interfaces;
mod readers;
mod releases;
mod turns;

use super::*;
use crate::sizing::Sizing;

const SECOND: u64 = 1000;

/// A node with a cloud that does what it is asked, and two readers that see it at once.
struct World {
    supply: Supply,
    pool: Pool,
    now: BootMillis,
    assigned: BTreeSet<IpNetwork>,
    next_block: u8,
    calls: Vec<Request>,
    reports: Vec<Report>,
}

fn settings(api: bool) -> Settings {
    let sizing = [Some(Sizing::of_blocks(16)), None];
    Settings { node: "node-1".into(), api, sizing, exclude: Vec::new(), cluster_nodes: 0, account_calls_per_second: 5 }
}

fn eni(blocks: BTreeSet<IpNetwork>, free_slots: [u64; 2]) -> Interface {
    let (id, mac) = ("eni-1".into(), [2, 0, 0, 0, 0, 1]);
    Interface { id, mac, address: None, gateways: Vec::new(), blocks, free_slots, created_here: true }
}

/// Whose all the addresses are: the supply does not look.
fn owner() -> ipam_pool::AttachmentKey {
    "pod/eth0".parse().unwrap()
}

impl World {
    fn new(api: bool, assigned: &[&str]) -> Self {
        let assigned = assigned.iter().map(|text| text.parse().unwrap()).collect();
        let (supply, pool) = (Supply::new(settings(api), BTreeMap::new(), BootMillis(0)), Pool::new(&[], 30 * SECOND));
        Self { supply, pool, now: BootMillis(0), assigned, next_block: 0, calls: Vec::new(), reports: Vec::new() }
    }

    fn reading(&self, reader: Reader) -> Outcome {
        let interface = eni(self.assigned.clone(), [14 - self.assigned.len() as u64, 0]);
        Outcome::Read(Reading { reader, interfaces: vec![interface], interface_room: false, has_unidentified: false })
    }

    fn serve(&mut self, request: &Request) -> Outcome {
        match request {
            Request::Read(reader) => self.reading(*reader),
            Request::Assign { blocks, .. } => {
                let granted: Vec<IpNetwork> = (0..*blocks)
                    .map(|_| {
                        self.next_block += 16;
                        format!("10.0.9.{}/28", self.next_block).parse().unwrap()
                    })
                    .collect();
                self.assigned.extend(&granted);
                Outcome::Assigned(granted)
            }
            Request::Unassign { blocks, .. } => {
                assert!(blocks.iter().all(|block| self.assigned.remove(block)));
                Outcome::Unassigned
            }
            Request::AddInterface { .. } => Outcome::Refused(Refusal::Full),
        }
    }

    /// Lets time pass, in which every call is served.
    fn run(&mut self, seconds: u64) {
        self.run_with(seconds, |world, request| world.serve(request));
    }

    fn run_with(&mut self, seconds: u64, mut serve: impl FnMut(&mut Self, &Request) -> Outcome) {
        // Between two rounds nobody tells anything.
        let mut due = None;
        for _ in 0..seconds {
            while let Some(request) = self.supply.poll_request(&mut self.pool, 0, self.now) {
                assert!(due.take().is_none_or(|due| due <= self.now), "{request:?} at {:?} was to come at {due:?}", self.now);
                self.calls.push(request.clone());
                let outcome = serve(self, &request);
                let reports = self.supply.handle_response(outcome, &mut self.pool, self.now);
                self.reports.extend(reports);
            }
            due = self.supply.next_deadline(&self.pool, 0, self.now);
            self.now = self.now.plus(SECOND);
        }
    }

    fn take(&mut self, count: usize) -> Vec<std::net::IpAddr> {
        (0..count).map(|_| self.pool.take(Family::V4, &owner(), self.now).unwrap()).collect()
    }

    fn changes(&self) -> Vec<&Request> {
        self.calls.iter().filter(|request| !matches!(request, Request::Read(_))).collect()
    }
}

fn all_of(blocks: &[&str]) -> BTreeSet<IpNetwork> {
    blocks.iter().map(|text| text.parse().unwrap()).collect()
}

fn reading_of(reader: Reader, interfaces: Vec<Interface>) -> Outcome {
    Outcome::Read(Reading { reader, interfaces, interface_room: false, has_unidentified: false })
}
