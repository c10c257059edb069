//! Who may begin a handshake, and when: a rate for all, and a number of connections for one address.

use std::collections::HashMap;
use std::net::IpAddr;

/// What is admitted.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Handshakes in a second; as many at once after a calm second. One costs some 0.3 ms of a processor.
    pub handshakes_per_second: u32,
    /// Connections of one address at a time. A node has one, and for a moment two.
    pub per_address: u32,
    /// Nodes at a time.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshakes_per_second: 1_000, per_address: 8, nodes: 10_000 }
    }
}

/// A bucket of handshakes. Times are milliseconds of a clock that does not go back.
#[derive(Debug)]
pub struct Bucket {
    per_second: u64,
    /// Thousandths of a handshake.
    level: u64,
    at: u64,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second.max(1));
        Self { per_second, level: per_second * 1_000, at: 0 }
    }

    /// Takes one handshake at `now`: how many milliseconds to wait before it.
    pub fn take(&mut self, now: u64) -> u64 {
        let earned = now.saturating_sub(self.at).saturating_mul(self.per_second);
        self.level = (self.level.saturating_add(earned)).min(self.per_second * 1_000);
        self.at = self.at.max(now);
        if self.level >= 1_000 {
            self.level -= 1_000;
            return 0;
        }
        let wait = (1_000 - self.level).div_ceil(self.per_second);
        // What comes in during the wait is spent.
        self.at += wait;
        self.level = 0;
        self.at - now
    }
}

/// Connections by address.
#[derive(Debug, Default)]
pub struct Addresses {
    open: HashMap<IpAddr, u32>,
}

impl Addresses {
    /// One more, if there are fewer than `limit`.
    pub fn enter(&mut self, address: IpAddr, limit: u32) -> bool {
        let open = self.open.entry(address).or_default();
        let may = *open < limit;
        *open += u32::from(may);
        may
    }

    /// One fewer.
    pub fn leave(&mut self, address: IpAddr) {
        if let Some(open) = self.open.get_mut(&address) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_herd_is_spread_and_a_calm_second_forgets_it() {
        let mut bucket = Bucket::new(100);
        let mut now = 0;
        for _ in 0..1_000 {
            now += bucket.take(now);
        }
        assert!((8_900..=9_100).contains(&now), "{now} ms for 1,000 at 100 a second, the first 100 at once");
        assert_eq!(bucket.take(now + 1_000), 0);
    }

    #[test]
    fn one_address_does_not_take_the_places_of_others() {
        let mut addresses = Addresses::default();
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        assert_eq!((0..10_000).filter(|_| addresses.enter(one, 8)).count(), 8);
        assert!(addresses.enter(other, 8));
        addresses.leave(one);
        assert!(addresses.enter(one, 8));
        (0..8).for_each(|_| addresses.leave(one));
        addresses.leave(other);
        assert!(addresses.open.is_empty(), "nothing is kept of those who have gone");
    }
}
