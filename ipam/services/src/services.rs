//! The fleet's tables as a ruleset, one changed service at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fleet_api::message::{Endpoint, Service, SliceHead};
use fleet_api::{Change, EndpointsKey, Kind, Table, decode};

use crate::Node;
use crate::edit::Edit;
use crate::family::Family;
use crate::fragment::{Fragment, Fronts, Place, Slice};
use crate::port::is_a_name;
use crate::ruleset::{Container, ElementKey, LeadsTo, Ruleset};
use crate::udp::Frontends;

/// What a value says; what cannot be read says nothing.
fn read<M: prost::Message + Default>(value: Option<&[u8]>) -> (Option<M>, Result<(), String>) {
    match value.map(decode).transpose() {
        Ok(message) => (message, Ok(())),
        Err(error) => (None, Err(format!("an endpoint or slice: {error}"))),
    }
}

/// The port on which a service tells load balancers whether this node serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// `namespace/name`.
    pub service: String,
    /// On the node's addresses.
    pub port: u16,
    /// Endpoints on this node that are ready.
    pub local_endpoints: usize,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services.
    pub services: usize,
    /// Endpoints that are used, those of several ports several times.
    pub endpoints: usize,
}

/// What is to be there by the tables as they are.
#[derive(Debug, Clone)]
pub struct Services {
    node: Node,
    zone: Option<String>,
    services: BTreeMap<String, Service>,
    slices: BTreeMap<[u8; 16], Slice>,
    of_service: BTreeMap<String, BTreeSet<[u8; 16]>>,
    /// Zones of endpoints on this node, and how many.
    zones: BTreeMap<String, usize>,
    fragments: BTreeMap<String, Fragment>,
    /// Who wants an element, and with which verdict: more than one where services contradict each other.
    claims: BTreeMap<ElementKey, BTreeMap<String, Option<String>>>,
    ruleset: Ruleset,
    /// Services to render again.
    dirty: BTreeSet<String>,
    /// What could not be read counts as not being there.
    unreadable: BTreeMap<(Kind, Vec<u8>), String>,
}

impl Services {
    /// Without any service yet.
    #[must_use]
    pub fn new(node: Node) -> Self {
        let mut services = Self {
            zone: node.zone.clone(),
            node,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            of_service: BTreeMap::new(),
            zones: BTreeMap::new(),
            fragments: BTreeMap::new(),
            claims: BTreeMap::new(),
            ruleset: Ruleset::default(),
            dirty: BTreeSet::new(),
            unreadable: BTreeMap::new(),
        };
        services.ruleset.elements = services.own_addresses();
        services
    }

    /// By whole tables.
    #[must_use]
    pub fn of(node: Node, services: &Table, endpoints: &Table) -> Self {
        let mut new = Self::new(node);
        for (kind, table) in [(Kind::Services, services), (Kind::Endpoints, endpoints)] {
            new.change(kind, Table::default().difference(table));
        }
        new.render();
        new
    }

    /// Takes changes of a table.
    pub fn change(&mut self, kind: Kind, changes: impl IntoIterator<Item = Change>) {
        for Change { key, value } in changes {
            self.unreadable.remove(&(kind, key.clone()));
            let done = match kind {
                Kind::Services => self.change_service(&key, value.as_deref()),
                Kind::Endpoints => self.change_endpoints(&key, value.as_deref()),
            };
            if let Err(why) = done {
                self.unreadable.insert((kind, key), why);
            }
        }
    }

    fn change_service(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        let name = String::from_utf8_lossy(key).into_owned();
        self.services.remove(&name);
        self.dirty.insert(name.clone());
        let Some(value) = value else { return Ok(()) };
        if !is_a_name(&name) {
            return Err(format!("{name:.80?} is no name of a service"));
        }
        let service = decode(value).map_err(|error| format!("service {name}: {error}"))?;
        self.services.insert(name, service);
        Ok(())
    }

    fn change_endpoints(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        let key = EndpointsKey::decode(key).ok_or_else(|| format!("a key of {} bytes is no endpoint's", key.len()))?;
        match key {
            EndpointsKey::Slice(uid) => {
                let (head, outcome) = read::<SliceHead>(value);
                let slice = self.slices.entry(uid).or_default();
                if let Some(old) = std::mem::replace(&mut slice.head, head) {
                    if let Some(slices) = self.of_service.get_mut(&old.service) {
                        slices.remove(&uid);
                    }
                    self.dirty.insert(old.service);
                }
                if let Some(head) = &slice.head {
                    self.of_service.entry(head.service.clone()).or_default().insert(uid);
                }
                self.touched(uid);
                outcome
            }
            EndpointsKey::Endpoint(uid, address) => {
                let (endpoint, outcome) = read::<Endpoint>(value);
                let slice = self.slices.entry(uid).or_default();
                let (zone_is, is_here) = (endpoint.as_ref().map(|endpoint| endpoint.zone.clone()), |e: &Endpoint| e.node == self.node.name);
                let comes = endpoint.as_ref().is_some_and(is_here);
                let old = match endpoint {
                    Some(endpoint) => slice.endpoints.insert(address, endpoint),
                    None => slice.endpoints.remove(&address),
                };
                if let Some(old) = old.filter(is_here)
                    && let Some(count) = self.zones.get_mut(&old.zone)
                {
                    *count -= 1;
                }
                if let Some(zone) = zone_is.filter(|zone| comes && !zone.is_empty()) {
                    *self.zones.entry(zone).or_default() += 1;
                }
                self.zones.retain(|_, count| *count > 0);
                self.touched(uid);
                outcome
            }
        }
    }

    /// A slice has changed: its service is rendered again. One without a head and endpoints is no more.
    fn touched(&mut self, uid: [u8; 16]) {
        let Some(slice) = self.slices.get(&uid) else { return };
        match &slice.head {
            Some(head) => {
                self.dirty.insert(head.service.clone());
            }
            None if slice.endpoints.is_empty() => {
                self.slices.remove(&uid);
            }
            None => {}
        }
    }

    /// The node is another now; all is rendered again. Where interfaces or ranges of services changed, the base of the tables is another, too.
    pub fn set_node(&mut self, node: Node) {
        if node != self.node {
            self.node = node;
            self.zones = BTreeMap::new();
            for endpoint in self.slices.values().flat_map(|slice| slice.endpoints.values()) {
                if endpoint.node == self.node.name && !endpoint.zone.is_empty() {
                    *self.zones.entry(endpoint.zone.clone()).or_default() += 1;
                }
            }
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    /// The node that is rendered for.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Renders what has changed, and tells what is to be changed for it.
    pub fn render(&mut self) -> Edit {
        let learned = self.zones.iter().max_by_key(|(_, count)| **count).map(|(zone, _)| zone.clone());
        let zone = self.node.zone.clone().or(learned);
        if zone != self.zone {
            self.zone = zone;
            self.dirty.extend(self.services.keys().cloned());
        }
        let mut edit = Edit::default();
        for name in std::mem::take(&mut self.dirty) {
            let new = self.services.get(&name).map(|service| self.fragment(&name, service));
            self.put(&name, new, &mut edit);
        }
        self.put_own_addresses(&mut edit);
        edit.without_nothing()
    }

    fn fragment(&self, name: &str, service: &Service) -> Fragment {
        let slices = self.of_service.get(name).into_iter().flatten();
        let slices: Vec<_> = slices.filter_map(|uid| self.slices.get(uid)).collect();
        Place { node: &self.node, zone: self.zone.as_deref() }.render(name, service, &slices)
    }

    /// Replaces what a service adds.
    fn put(&mut self, name: &str, new: Option<Fragment>, edit: &mut Edit) {
        let empty = Fragment::default();
        let old = self.fragments.remove(name);
        let (was, is) = (old.as_ref().unwrap_or(&empty), new.as_ref().unwrap_or(&empty));
        for key in was.chains.keys().chain(is.chains.keys()) {
            let (was, is) = (was.chains.get(key), is.chains.get(key));
            if was != is {
                edit.chain(key, was.cloned(), is.cloned());
                match is {
                    Some(rules) => self.ruleset.chains.insert(key.clone(), rules.clone()),
                    None => self.ruleset.chains.remove(key),
                };
            }
        }
        for key in was.affinity.symmetric_difference(&is.affinity) {
            let stays = is.affinity.contains(key);
            edit.affinity(key, !stays, stays);
            if stays {
                self.ruleset.affinity.insert(key.clone())
            } else {
                self.ruleset.affinity.remove(key)
            };
        }
        for key in was.elements.keys().chain(is.elements.keys()) {
            self.claim(name, key, is.elements.get(key), edit);
        }
        self.fragments.extend(new.map(|new| (name.to_owned(), new)));
    }

    /// The first by name has it.
    fn claim(&mut self, name: &str, key: &ElementKey, verdict: Option<&Option<String>>, edit: &mut Edit) {
        let claims = self.claims.entry(key.clone()).or_default();
        let was = claims.values().next().cloned();
        match verdict {
            Some(verdict) => claims.insert(name.to_owned(), verdict.clone()),
            None => claims.remove(name),
        };
        let is = claims.values().next().cloned();
        if claims.is_empty() {
            self.claims.remove(key);
        }
        if was != is {
            match &is {
                Some(verdict) => self.ruleset.elements.insert(key.clone(), verdict.clone()),
                None => self.ruleset.elements.remove(key),
            };
            edit.element(key, was, is);
        }
    }

    fn own_addresses(&self) -> BTreeMap<ElementKey, Option<String>> {
        let families = |address: &IpAddr| Family::ALL.into_iter().find(|family| family.has(*address));
        let addresses = self.node.addresses.iter().filter_map(|address| Some((families(address)?, address)));
        addresses.map(|(family, address)| ((family, Container::NodeAddresses, address.to_string()), None)).collect()
    }

    fn put_own_addresses(&mut self, edit: &mut Edit) {
        let wanted = self.own_addresses();
        let there: Vec<_> = self.ruleset.elements.keys().filter(|key| key.1 == Container::NodeAddresses).cloned().collect();
        for key in there.iter().filter(|key| !wanted.contains_key(key)) {
            self.ruleset.elements.remove(key);
            edit.element(key, Some(None), None);
        }
        for key in wanted.into_keys() {
            if self.ruleset.elements.insert(key.clone(), None).is_none() {
                edit.element(&key, None, Some(None));
            }
        }
    }

    /// What is to be there, as rendered last.
    #[must_use]
    pub fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// What of the tables makes no sense, in words, at most `limit` of them; and how many there are. All else is served.
    #[must_use]
    pub fn problems(&self, limit: usize) -> (Vec<String>, usize) {
        let contested = self.claims.iter().filter(|(key, claims)| key.1.leads_to() == LeadsTo::Verdict && claims.len() > 1);
        let contested = contested.map(|((_, container, key), claims)| {
            let names: Vec<_> = claims.keys().map(String::as_str).collect();
            format!("{} {key} is of {}; the first has it", container.name(), names.join(" and "))
        });
        let of_one =
            self.fragments.iter().flat_map(|(name, fragment)| fragment.problems.iter().map(move |why| format!("service {name}: {why}")));
        let mut all = self.unreadable.values().cloned().chain(of_one).chain(contested);
        let told: Vec<_> = all.by_ref().take(limit).collect();
        let count = told.len() + all.count();
        (told, count)
    }

    /// How much there is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { services: self.fragments.len(), endpoints: self.fragments.values().map(|fragment| fragment.endpoints).sum() }
    }

    /// The ports on which load balancers ask.
    #[must_use]
    pub fn health_checks(&self) -> Vec<HealthCheck> {
        let checks = self.fragments.iter().filter_map(|(name, fragment)| {
            let (port, local_endpoints) = fragment.health?;
            Some(HealthCheck { service: name.clone(), port, local_endpoints })
        });
        checks.collect()
    }

    /// What may be translated packet by packet. Of an address that several services have, the first by name has it, as in the rules.
    #[must_use]
    pub fn fronts(&self) -> Fronts {
        let mut fronts = Fronts::new();
        for (front, endpoints) in self.fragments.values().flat_map(|fragment| &fragment.fronts) {
            fronts.entry(*front).or_insert_with(|| endpoints.clone());
        }
        fronts
    }

    /// Where services are reached by UDP.
    #[must_use]
    pub fn frontends(&self) -> Frontends {
        Frontends::of(self.fragments.values().flat_map(|fragment| &fragment.udp), &self.node.addresses)
    }
}
