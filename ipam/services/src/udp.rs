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

    /// Whether a flow that was sent to `to` and is answered by `from` leads to an endpoint that is no more. Where a port has none at all, its
    /// flows stay, as kube-proxy has it: there is nobody to lead them to.
    #[must_use]
    pub fn is_stale(&self, to: SocketAddr, from: SocketAddr) -> bool {
        let backends = self.backends.get(&(to.ip(), to.port())).filter(|backends| !backends.is_empty());
        backends.is_some_and(|backends| !backends.contains(&(from.ip(), from.port())))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_stale_where_another_endpoint_could_take_it() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let key = |text: &str| (at(text).ip(), at(text).port());
        let frontend = |address: &str, node_port, backends: &[&str]| Frontend {
            addresses: vec![key(address)],
            node_port,
            family: Family::V4,
            backends: backends.iter().map(|backend| key(backend)).collect(),
        };
        let all = [frontend("10.96.0.10:53", 30_053, &["10.1.0.2:5353"]), frontend("10.96.0.11:53", 0, &[])];
        let frontends = Frontends::of(all.iter(), &["192.0.2.1".parse().unwrap()]);
        for (to, from, stale) in [
            ("10.96.0.10:53", "10.1.0.2:5353", false),
            ("10.96.0.10:53", "10.1.0.3:5353", true),
            // Before there was an endpoint it was not translated at all.
            ("10.96.0.10:53", "10.96.0.10:53", true),
            ("192.0.2.1:30053", "10.1.0.3:5353", true),
            ("192.0.2.9:30053", "10.1.0.3:5353", false),
            ("10.96.0.11:53", "10.1.0.3:5353", false),
            ("10.96.0.10:54", "10.1.0.3:5353", false),
        ] {
            assert_eq!(frontends.is_stale(at(to), at(from)), stale, "{to} {from}");
        }
    }
}
