//! What tables there are, and how their keys are made.

use std::net::IpAddr;

/// A table that every node gets, followed by one watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Services: key `namespace/name`, value [`Service`](crate::message::Service).
    Services = 1,
    /// Endpoints: see [`EndpointsKey`].
    Endpoints = 2,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Services, Self::Endpoints];

    /// As in messages.
    #[must_use]
    pub fn number(self) -> u32 {
        self as u32
    }

    /// Of a message; nothing for one that this version does not know.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    pub(crate) fn index(self) -> usize {
        self as usize - 1
    }
}

/// A key of [`Kind::Endpoints`]. A slice is one entry for what its endpoints have in common, and one for each of them: a change of one
/// endpoint is the size of one endpoint. The slice's UID is the same on every replica and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointsKey {
    /// A [`SliceHead`](crate::message::SliceHead).
    Slice([u8; 16]),
    /// An [`Endpoint`](crate::message::Endpoint) of that slice.
    Endpoint([u8; 16], IpAddr),
}

impl EndpointsKey {
    /// As bytes: the UID, then the address if any.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Slice(uid) => uid.to_vec(),
            Self::Endpoint(uid, IpAddr::V4(address)) => [&uid[..], &address.octets()].concat(),
            Self::Endpoint(uid, IpAddr::V6(address)) => [&uid[..], &address.octets()].concat(),
        }
    }

    /// Of bytes; nothing where they are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (uid, address) = bytes.split_first_chunk::<16>()?;
        match address.len() {
            0 => Some(Self::Slice(*uid)),
            4 => <[u8; 4]>::try_from(address).ok().map(|address| Self::Endpoint(*uid, address.into())),
            16 => <[u8; 16]>::try_from(address).ok().map(|address| Self::Endpoint(*uid, address.into())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_they_were() {
        let uid = [7; 16];
        for key in [
            EndpointsKey::Slice(uid),
            EndpointsKey::Endpoint(uid, "10.0.0.1".parse().unwrap()),
            EndpointsKey::Endpoint(uid, "fd00::1".parse().unwrap()),
        ] {
            assert_eq!(EndpointsKey::decode(&key.encode()), Some(key));
        }
        assert_eq!(EndpointsKey::decode(&[0; 17]), None);
        assert_eq!(EndpointsKey::decode(b"short"), None);
    }
}
