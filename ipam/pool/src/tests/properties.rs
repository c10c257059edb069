//! The pool beside a model of one map each: random operations of several owners, two records of one address among them.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use proptest::prelude::*;

const RANGES: [&str; 2] = ["10.0.0.0/29", "10.0.0.12-10.0.0.15"];
const OWNERS: u8 = 4;

#[derive(Debug, Clone)]
enum Step {
    Take(u8),
    TakeThis(u8, u8),
    TakeBeside(u8, u8),
    Release(u8, u8),
    Untake(u8, u8),
    /// A record that says that this owner has this address, whoever has it.
    Restore(u8, u8),
    Quarantine(u8),
    HostHas(BTreeSet<u8>),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (address, owner) = (0_u8..18, 0..OWNERS);
    let pair = (address.clone(), owner.clone());
    let step = prop_oneof![
        6 => owner.prop_map(Step::Take),
        2 => pair.clone().prop_map(|(address, owner)| Step::TakeThis(address, owner)),
        2 => pair.clone().prop_map(|(address, owner)| Step::TakeBeside(address, owner)),
        6 => pair.clone().prop_map(|(address, owner)| Step::Release(address, owner)),
        1 => pair.clone().prop_map(|(address, owner)| Step::Untake(address, owner)),
        2 => pair.prop_map(|(address, owner)| Step::Restore(address, owner)),
        1 => address.clone().prop_map(Step::Quarantine),
        1 => proptest::collection::btree_set(address, 0..4).prop_map(Step::HostHas),
        2 => (0_u16..40_000).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..200)
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

/// What must be true of the pool.
#[derive(Default)]
struct Model {
    held: BTreeMap<IpAddr, AttachmentKey>,
    freed: BTreeMap<IpAddr, BootMillis>,
    of_host: BTreeSet<IpAddr>,
    quarantined: BTreeSet<IpAddr>,
    now: BootMillis,
}

impl Model {
    fn is_of_node(address: IpAddr) -> bool {
        RANGES.iter().any(|text| range(text).contains(address))
    }

    fn is_free(&self, address: IpAddr) -> bool {
        Self::is_of_node(address)
            && !self.held.contains_key(&address)
            && !self.of_host.contains(&address)
            && !self.quarantined.contains(&address)
            && self.freed.get(&address).is_none_or(|at| self.now.since(*at) >= COOLDOWN)
    }

    fn free(&self) -> usize {
        (0..18).map(address).filter(|address| self.is_free(*address)).count()
    }

    /// Takes an owner's name off an address; another's stays.
    fn let_go(&mut self, address: IpAddr, owner: &AttachmentKey) -> bool {
        let is_owner = self.held.get(&address) == Some(owner);
        if is_owner {
            self.held.remove(&address);
        }
        is_owner
    }

    fn apply(&mut self, pool: &mut Pool, step: Step) -> Result<(), TestCaseError> {
        let now = self.now;
        match step {
            Step::Take(who) => match pool.take(Family::V4, &owner(who), now) {
                Ok(address) => {
                    prop_assert!(self.is_free(address), "{} was not free", address);
                    self.held.insert(address, owner(who));
                }
                Err(_) => prop_assert_eq!(self.free(), 0),
            },
            Step::TakeThis(last, who) => {
                let taken = pool.take_this(address(last), &owner(who), now);
                prop_assert_eq!(taken.is_ok(), self.is_free(address(last)), "{:?}", taken);
                if let Err(PoolError::InUse { owner, .. }) = &taken {
                    prop_assert_eq!(Some(owner), self.held.get(&address(last)));
                }
                if taken.is_ok() {
                    self.held.insert(address(last), owner(who));
                }
            }
            Step::TakeBeside(last, who) => {
                let address = address(last);
                let taken = pool.take_beside(address, &owner(who));
                let is_others = self.held.contains_key(&address) || self.of_host.contains(&address) || self.quarantined.contains(&address);
                prop_assert_eq!(taken.is_ok(), !is_others && !Self::is_of_node(address), "{:?}", taken);
                if taken.is_ok() {
                    self.held.insert(address, owner(who));
                }
            }
            Step::Release(last, who) => {
                let released = pool.release(address(last), &owner(who), now);
                prop_assert_eq!(released, self.let_go(address(last), &owner(who)), "only its owner gives an address back");
                if released && !self.of_host.contains(&address(last)) {
                    self.freed.insert(address(last), now);
                }
            }
            Step::Untake(last, who) => {
                pool.untake(address(last), &owner(who));
                if self.let_go(address(last), &owner(who)) {
                    self.freed.remove(&address(last));
                }
            }
            Step::Restore(last, who) => {
                let has_it = pool.restore_held(address(last), &owner(who));
                let is_another = self.held.get(&address(last)).is_some_and(|first| *first != owner(who));
                prop_assert_eq!(has_it, !is_another && !self.quarantined.contains(&address(last)));
                if has_it {
                    self.held.insert(address(last), owner(who));
                }
            }
            Step::Quarantine(last) => {
                pool.quarantine(address(last), "seen on a foreign link".into());
                self.held.remove(&address(last));
                self.quarantined.insert(address(last));
            }
            Step::HostHas(lasts) => {
                let before = std::mem::replace(&mut self.of_host, lasts.into_iter().map(address).collect());
                let of_host: Vec<_> = self.of_host.iter().copied().collect();
                let told: BTreeMap<_, _> = pool.set_host_addresses(&of_host, now).into_iter().collect();
                let left = before.difference(&self.of_host).filter(|address| !self.held.contains_key(address));
                self.freed.extend(left.map(|address| (*address, now)));
                let of_node = self.of_host.iter().filter(|address| Self::is_of_node(**address));
                let expected: BTreeMap<_, _> = of_node.map(|address| (*address, self.held.contains_key(address))).collect();
                prop_assert_eq!(told, expected, "an address that host and node both have is told");
                self.freed.retain(|address, _| !self.of_host.contains(address));
            }
            Step::Wait(millis) => self.now = now.plus(millis.into()),
        }
        Ok(())
    }
}

proptest! {
    /// I1: an address has one owner, who alone gives it back; none is given out within a cooldown of its release, nor one that the host has.
    #[test]
    fn i1_one_owner_and_a_cooldown(steps in steps()) {
        let (mut pool, mut model) = (pool(&RANGES), Model { now: BootMillis(1), ..Model::default() });
        for step in steps {
            model.apply(&mut pool, step)?;
            for last in 0..18 {
                prop_assert_eq!(pool.owner_of(address(last)), model.held.get(&address(last)), "the owner of {}", address(last));
            }
            let counts = pool.counts(Family::V4, model.now);
            prop_assert_eq!(counts.held, model.held.keys().filter(|address| Model::is_of_node(**address)).count());
            prop_assert_eq!(counts.free(), model.free() as u64);
            prop_assert_eq!(counts.free() == 0, pool.lacking(model.now).is_some());
        }
    }
}
