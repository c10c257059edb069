//! Who may begin a handshake: a rate for all, and a number of connections for one address.

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
