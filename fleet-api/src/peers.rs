//! Whom a node looks at, and who looks at it.

use std::net::IpAddr;

use crate::message::{Order, Peers};

impl Order {
    /// Of those that a node measures with.
    pub const MAX: usize = 4;
}

impl Peers {
    /// Of those that a node looks at. With all its other checks they fit into a report.
    pub const MAX: usize = 8;

    /// An address as it is told.
    #[must_use]
    pub fn bytes(address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }
    }

    /// Addresses as they were told; what is none is passed over.
    pub fn addresses(told: &[Vec<u8>]) -> impl Iterator<Item = IpAddr> {
        let v4 = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        told.iter().filter_map(move |bytes| v4(bytes).or_else(|_| <[u8; 16]>::try_from(&bytes[..]).map(IpAddr::from)).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_they_were_and_others_are_passed_over() {
        let all: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let mut told = all.map(Peers::bytes).to_vec();
        told.insert(1, vec![1, 2, 3]);
        assert_eq!(Peers::addresses(&told).collect::<Vec<_>>(), all);
    }
}
