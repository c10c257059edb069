//! Interface numbers for host ends, chosen by us: no look-up after a link is made, and a dense index for tables by link.
//!
//! A number has an owner, as an address has (invariant I1): an attachment, from the moment that its ADD takes the number, or nobody, while
//! a link goes. Only in its owner's name is a link removed.

use std::collections::{HashMap, VecDeque};
use std::sync::PoisonError;

use datapath::{Ifindex, fast_path};
use ipam_state::record::AttachmentKey;

use crate::sync::{Mutex, MutexGuard};

/// The first number, far above those that the kernel counts up from 1.
pub const FIRST: u32 = fast_path::FIRST_IFINDEX;
/// How many there are: more pods than any node runs, and as many as the kernel programs have room for.
pub const COUNT: u32 = fast_path::ENDPOINTS_MAX;

/// Which numbers are free. A number is taken until its link is gone for good.
#[derive(Debug)]
pub struct LinkNumbers {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By whom; `None` is a link that goes, or somebody else's.
    taken: HashMap<u32, Option<AttachmentKey>>,
    /// Given back, oldest first.
    returned: VecDeque<u32>,
    never_used: u32,
}

impl Default for LinkNumbers {
    fn default() -> Self {
        Self { state: Mutex::new(State { taken: HashMap::new(), returned: VecDeque::new(), never_used: FIRST }) }
    }
}

impl LinkNumbers {
    /// Takes a free number for an attachment; `None` where all are taken.
    #[must_use]
    pub fn take(&self, owner: &AttachmentKey) -> Option<Ifindex> {
        let mut state = self.state();
        // Low numbers are used again before new ones: tables by link stay small.
        while let Some(number) = state.returned.pop_front() {
            if state.take(number, owner) {
                return Some(Ifindex(number));
            }
        }
        while state.never_used < FIRST + COUNT {
            let number = state.never_used;
            state.never_used += 1;
            if state.take(number, owner) {
                return Some(Ifindex(number));
            }
        }
        None
    }

    /// At start: this number is an attachment's, or that of a link of nobody's.
    pub fn restore(&self, number: u32, owner: Option<AttachmentKey>) {
        self.state().taken.insert(number, owner);
    }

    /// Takes the number of a link that was found and is nobody's, if it is nobody's still. In one step with looking: a link that was found
    /// a moment ago may have gone since, and its number be another pod's.
    #[must_use]
    pub fn claim_stray(&self, link: Ifindex) -> bool {
        let mut state = self.state();
        let is_free = !state.taken.contains_key(&link.0);
        if is_free {
            state.taken.insert(link.0, None);
        }
        is_free
    }

    /// Whether the number is this attachment's.
    #[must_use]
    pub fn is_of(&self, link: Ifindex, owner: &AttachmentKey) -> bool {
        self.state().is_of(link, owner)
    }

    /// Every number of an attachment.
    #[must_use]
    pub fn all_of(&self, owner: &AttachmentKey) -> Vec<Ifindex> {
        let state = self.state();
        state.taken.iter().filter(|(_, of)| of.as_ref() == Some(owner)).map(|(number, _)| Ifindex(*number)).collect()
    }

    /// Takes the owner's name off a number, whose link goes now. One that is another's, or nobody's, stays as it is; tells whether it was
    /// the owner's.
    #[must_use]
    pub fn let_go(&self, link: Ifindex, owner: &AttachmentKey) -> bool {
        let mut state = self.state();
        let is_owner = state.is_of(link, owner);
        if is_owner {
            state.taken.insert(link.0, None);
        }
        is_owner
    }

    /// The link is gone, or was never made. A number that is an attachment's is let go first.
    pub fn give_back(&self, link: Ifindex) {
        let mut state = self.state();
        if state.taken.get(&link.0).is_some_and(Option::is_none) {
            state.taken.remove(&link.0);
            if (FIRST..FIRST + COUNT).contains(&link.0) {
                state.returned.push_back(link.0);
            }
        }
    }

    /// Does something with all numbers of attachments, while none is taken or let go.
    pub fn with_owned<T>(&self, work: impl FnOnce(&[(Ifindex, &AttachmentKey)]) -> T) -> T {
        let state = self.state();
        let owned: Vec<_> = state.taken.iter().filter_map(|(number, owner)| Some((Ifindex(*number), owner.as_ref()?))).collect();
        work(&owned)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, number: u32, owner: &AttachmentKey) -> bool {
        let is_free = !self.taken.contains_key(&number);
        if is_free {
            self.taken.insert(number, Some(owner.clone()));
        }
        is_free
    }

    fn is_of(&self, link: Ifindex, owner: &AttachmentKey) -> bool {
        self.taken.get(&link.0).is_some_and(|of| of.as_ref() == Some(owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: &str) -> AttachmentKey {
        format!("{id}/eth0").parse().unwrap()
    }

    #[test]
    fn a_number_has_one_link_at_a_time() {
        let (numbers, pod) = (LinkNumbers::default(), owner("a"));
        numbers.restore(FIRST, None);
        let a = numbers.take(&pod).unwrap();
        assert_eq!(a, Ifindex(FIRST + 1));
        numbers.give_back(Ifindex(FIRST));
        numbers.give_back(Ifindex(7));
        assert_eq!(numbers.take(&pod), Some(Ifindex(FIRST)));
        assert_eq!(numbers.take(&pod), Some(Ifindex(FIRST + 2)));
        let rest = std::iter::from_fn(|| numbers.take(&pod)).count();
        assert_eq!(rest, COUNT as usize - 3);
    }

    #[test]
    fn only_its_owner_lets_a_number_go() {
        let numbers = LinkNumbers::default();
        let number = numbers.take(&owner("a")).unwrap();
        assert!(!numbers.let_go(number, &owner("b")) && !numbers.claim_stray(number));
        numbers.give_back(number);
        assert!(numbers.is_of(number, &owner("a")), "it is let go first");
        assert!(numbers.let_go(number, &owner("a")) && !numbers.let_go(number, &owner("a")));
        assert!(!numbers.claim_stray(number), "its link is not gone yet");
        numbers.give_back(number);
        assert!(numbers.claim_stray(number));
    }
}
