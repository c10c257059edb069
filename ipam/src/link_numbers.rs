//! Interface numbers for host ends, chosen by us: no look-up after a link is made, and a dense index for tables by link.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use datapath::{Ifindex, fast_path};

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
    taken: HashSet<u32>,
    /// Given back, oldest first.
    returned: VecDeque<u32>,
    never_used: u32,
}

impl Default for LinkNumbers {
    fn default() -> Self {
        Self { state: Mutex::new(State { taken: HashSet::new(), returned: VecDeque::new(), never_used: FIRST }) }
    }
}

impl LinkNumbers {
    /// Takes a free number; `None` where all are taken.
    #[must_use]
    pub fn take(&self) -> Option<Ifindex> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Low numbers are used again before new ones: tables by link stay small.
        while let Some(number) = state.returned.pop_front() {
            if state.taken.insert(number) {
                return Some(Ifindex(number));
            }
        }
        while state.never_used < FIRST + COUNT {
            let number = state.never_used;
            state.never_used += 1;
            if state.taken.insert(number) {
                return Some(Ifindex(number));
            }
        }
        None
    }

    /// At start: a link that exists has this number.
    pub fn claim(&self, link: Ifindex) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).taken.insert(link.0);
    }

    /// Whether somebody has it.
    #[must_use]
    pub fn is_taken(&self, link: Ifindex) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).taken.contains(&link.0)
    }

    /// The link is gone.
    pub fn give_back(&self, link: Ifindex) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.taken.remove(&link.0) && (FIRST..FIRST + COUNT).contains(&link.0) {
            state.returned.push_back(link.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_link_at_a_time() {
        let numbers = LinkNumbers::default();
        numbers.claim(Ifindex(FIRST));
        let a = numbers.take().unwrap();
        assert_eq!(a, Ifindex(FIRST + 1));
        numbers.give_back(Ifindex(FIRST));
        numbers.give_back(Ifindex(7));
        assert_eq!(numbers.take(), Some(Ifindex(FIRST)));
        assert_eq!(numbers.take(), Some(Ifindex(FIRST + 2)));
        let rest = std::iter::from_fn(|| numbers.take()).count();
        assert_eq!(rest, COUNT as usize - 3);
    }
}
