//! Which endpoints of a service's port are used (KEPs 1669, 2086, 2433, 3015; `pkg/proxy/topology.go`).

use std::net::IpAddr;

use fleet_api::message::Endpoint;

/// An endpoint of one port of a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) of: &'a Endpoint,
    /// It is on this node.
    pub(crate) is_local: bool,
}

impl Candidate<'_> {
    /// On its way out, and still answering.
    fn is_leaving(&self) -> bool {
        !self.of.ready && self.of.serving && self.of.terminating
    }
}

/// What of the endpoints a service's policies use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uses {
    /// Some traffic may go to any node.
    pub(crate) cluster: bool,
    /// Some traffic may go to this node's alone.
    pub(crate) local: bool,
}

/// The endpoints to use.
#[derive(Debug, Default)]
pub(crate) struct Chosen<'a> {
    /// Of traffic that may go to any node.
    pub(crate) cluster: Vec<Candidate<'a>>,
    /// Of traffic that stays on the node.
    pub(crate) local: Vec<Candidate<'a>>,
    /// Somewhere there is one: what cannot be served here is dropped rather than refused.
    pub(crate) any: bool,
}

impl<'a> Chosen<'a> {
    /// Of both, each once.
    pub(crate) fn all(&self) -> Vec<Candidate<'a>> {
        let mut all = self.cluster.clone();
        all.extend(&self.local);
        all.sort_unstable_by_key(|candidate| (candidate.address, candidate.port));
        all.dedup_by_key(|candidate| (candidate.address, candidate.port));
        all
    }
}

/// Chooses: those that are ready; where none is, those that are leaving and still answer. Hints count only where every ready one has them.
pub(crate) fn choose<'a>(candidates: &[Candidate<'a>], uses: Uses, node: &str, zone: Option<&str>) -> Chosen<'a> {
    let ready = |candidate: &&Candidate<'_>| candidate.of.ready;
    let mut chosen = Chosen::default();
    if uses.cluster {
        let near = nearness(candidates, node, zone);
        chosen.cluster = candidates.iter().filter(|candidate| candidate.of.ready && near.has(candidate.of)).copied().collect();
        if chosen.cluster.is_empty() {
            chosen.cluster = candidates.iter().filter(|candidate| candidate.is_leaving()).copied().collect();
        }
        chosen.any = !chosen.cluster.is_empty();
    }
    if uses.local {
        chosen.any |= candidates.iter().any(|candidate| candidate.of.ready || candidate.is_leaving());
        let here = || candidates.iter().filter(|candidate| candidate.is_local);
        chosen.local = here().filter(ready).copied().collect();
        if chosen.local.is_empty() {
            chosen.local = here().filter(|candidate| candidate.is_leaving()).copied().collect();
        }
    }
    chosen
}

enum Nearness<'a> {
    Node(&'a str),
    Zone(&'a str),
    Any,
}

impl Nearness<'_> {
    fn has(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Node(node) => endpoint.for_nodes.iter().any(|hint| hint == node),
            Self::Zone(zone) => endpoint.for_zones.iter().any(|hint| hint == zone),
            Self::Any => true,
        }
    }
}

fn nearness<'a>(candidates: &[Candidate<'_>], node: &'a str, zone: Option<&'a str>) -> Nearness<'a> {
    let ready = || candidates.iter().map(|candidate| candidate.of).filter(|endpoint| endpoint.ready);
    let serves = |near: &Nearness<'_>| ready().any(|endpoint| near.has(endpoint));
    let by_node = Nearness::Node(node);
    if ready().all(|endpoint| !endpoint.for_nodes.is_empty()) && serves(&by_node) {
        return by_node;
    }
    zone.map(Nearness::Zone).filter(|near| ready().all(|endpoint| !endpoint.for_zones.is_empty()) && serves(near)).unwrap_or(Nearness::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(ready: bool, leaving: bool, zones: &[&str], nodes: &[&str]) -> Endpoint {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let (for_zones, for_nodes) = (texts(zones), texts(nodes));
        Endpoint { ready, serving: ready || leaving, terminating: leaving, node: String::new(), zone: String::new(), for_zones, for_nodes }
    }

    fn chosen(endpoints: &[(Endpoint, bool)], uses: Uses) -> (Vec<u16>, Vec<u16>, bool) {
        let candidates: Vec<_> = (1..)
            .zip(endpoints)
            .map(|(port, (of, is_local))| Candidate { address: [10, 0, 0, 1].into(), port, of, is_local: *is_local })
            .collect();
        let chosen = choose(&candidates, uses, "n1", Some("z1"));
        let ports = |candidates: &[Candidate<'_>]| candidates.iter().map(|candidate| candidate.port).collect();
        (ports(&chosen.cluster), ports(&chosen.local), chosen.any)
    }

    #[test]
    fn those_that_leave_are_used_where_none_is_ready_and_each_policy_for_itself() {
        let both = Uses { cluster: true, local: true };
        let (ready, leaving, sick) = (endpoint(true, false, &[], &[]), endpoint(false, true, &[], &[]), endpoint(false, false, &[], &[]));
        assert_eq!(chosen(&[(ready.clone(), false), (leaving.clone(), true)], both), (vec![1], vec![2], true));
        assert_eq!(chosen(&[(leaving.clone(), false), (sick.clone(), true)], both), (vec![1], vec![], true));
        assert_eq!(chosen(&[(sick, true)], both), (vec![], vec![], false));
        assert_eq!(chosen(&[(leaving, false)], Uses { cluster: false, local: true }), (vec![], vec![], true), "elsewhere: dropped");
        assert_eq!(chosen(&[(ready, true)], Uses { cluster: true, local: false }), (vec![1], vec![], true));
    }

    #[test]
    fn hints_count_where_all_that_are_ready_have_them() {
        let cluster = Uses { cluster: true, local: false };
        let [here, there] = [["z1"], ["z2"]].map(|zones| (endpoint(true, false, &zones, &[]), false));
        assert_eq!(chosen(&[here.clone(), there.clone()], cluster).0, [1]);
        assert_eq!(chosen(&[there.clone(), there.clone()], cluster).0, [1, 2], "none for us");
        assert_eq!(chosen(&[here.clone(), (endpoint(true, false, &[], &[]), false)], cluster).0, [1, 2], "one without");
        assert_eq!(chosen(&[here.clone(), there, (endpoint(false, true, &[], &[]), false)], cluster).0, [1], "a sick one without");
        let node = (endpoint(true, false, &["z2"], &["n1"]), false);
        let other = (endpoint(true, false, &["z1"], &["n2"]), false);
        assert_eq!(chosen(&[node, other.clone()], cluster).0, [1], "the node before the zone");
        assert_eq!(chosen(&[other, here], cluster).0, [1, 2], "not all name nodes: the zone");
    }
}
