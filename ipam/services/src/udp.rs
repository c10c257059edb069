//! Flows of UDP whose endpoint is gone. Nobody tells a client; each of its packets renews the flow, and goes nowhere. So they are forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::Family;

/// Where one service's port is reached by UDP, and who may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frontend {
    pub(crate) addresses: Vec<(IpAddr, u16)>,
    pub(crate) node_port: u16,
    pub(crate) family: Family,
    pub(crate) backends: BTreeSet<(IpAddr, u16)>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontends {
    backends: BTreeMap<(IpAddr, u16), BTreeSet<(IpAddr, u16)>>,
}

impl Frontends {
    pub(crate) fn of<'a>(all: impl Iterator<Item = &'a Frontend>, node: &[IpAddr]) -> Self {
        let mut found = Self::default();
        for frontend in all {
            let at_node = node.iter().filter(|address| frontend.node_port != 0 && frontend.family.has(**address));
            let at_node = at_node.map(|address| (*address, frontend.node_port));
            for key in frontend.addresses.iter().copied().chain(at_node) {
                found.backends.entry(key).or_default().extend(&frontend.backends);
            }
        }
        found
    }

    /// Whether a flow that was sent to `to` and is answered by `from` leads to an endpoint that is no more.
    #[must_use]
    pub fn is_stale(&self, to: SocketAddr, from: SocketAddr) -> bool {
        self.backends.get(&(to.ip(), to.port())).is_some_and(|backends| !backends.contains(&(from.ip(), from.port())))
    }

    /// Whether there is any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }
}
