use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use ::services::{ChainKey, Container, Family};
use datapath::fast_path::FastPathError;
use datapath::service_tables::Chain;
use fleet_api::message::{Endpoint, FromFleet, FromNode, Protocol, Service, ServicePort, SliceHead, SlicePort};
use fleet_api::{Change, Decoder, EndpointsKey, Limits, Replica, Session};

use super::*;

const VIP: [u8; 4] = [10, 96, 0, 10];
const UID: [u8; 16] = [7; 16];

/// A kernel with as much of `nft` as scripts of ours need. Whoever holds it can change it as well.
#[derive(Debug, Clone, Default)]
struct Fake {
    seen: Rc<RefCell<Seen>>,
    /// Rules by chain: their text is the kernel's form.
    rules: Rc<RefCell<BTreeMap<ChainKey, Vec<String>>>>,
    generation: Rc<Cell<u32>>,
    installations: Rc<Cell<u32>>,
    edits: Rc<Cell<u32>>,
    reads: Rc<Cell<u32>>,
    /// Scripts are refused.
    refuses: Rc<Cell<bool>>,
    flows: Rc<RefCell<Vec<(SocketAddr, SocketAddr)>>>,
    fronts: Rc<RefCell<Fronts>>,
    script: Rc<RefCell<String>>,
}

impl Fake {
    /// Somebody else changes something.
    fn altered(&self, alter: impl FnOnce(&mut Seen, &mut BTreeMap<ChainKey, Vec<String>>)) {
        alter(&mut self.seen.borrow_mut(), &mut self.rules.borrow_mut());
        self.generation.set(self.generation.get() + 1);
    }

    fn try_line(&self, line: &str, base: &mut Option<(Family, String)>) -> Option<()> {
        let (mut seen, mut rules) = (self.seen.borrow_mut(), self.rules.borrow_mut());
        let words: Vec<&str> = line.split_whitespace().collect();
        let family = |word: &str| if word == "ip" { Family::V4 } else { Family::V6 };
        if let Some((family, chain)) = base {
            match words[..] {
                ["chain", name, "{"] => {
                    name.clone_into(chain);
                    rules.insert((*family, name.to_owned()), Vec::new());
                }
                ["set" | "map", name, ..] => drop(seen.sets.insert((*family, name.to_owned()))),
                ["}"] if line == "}" => *base = None,
                ["}"] => {}
                _ => rules.get_mut(&(*family, chain.clone()))?.push(line.to_owned()),
            }
            return Some(());
        }
        match words[..] {
            ["add", "table", ..] => {}
            ["delete", "table", of, _] => {
                seen.sleeps = false;
                seen.sets.retain(|(family, _)| family.keyword() != of);
                seen.elements.retain(|(family, ..), _| family.keyword() != of);
                seen.clients.retain(|(family, _), _| family.keyword() != of);
                rules.retain(|(family, _), _| family.keyword() != of);
            }
            ["table", of, ..] => *base = Some((family(of), String::new())),
            ["add", "chain", of, _, name] => drop(rules.entry((family(of), name.to_owned())).or_default()),
            ["flush", "chain", of, _, name] => rules.get_mut(&(family(of), name.to_owned()))?.clear(),
            ["delete", "chain", of, _, name] => drop(rules.remove(&(family(of), name.to_owned()))?),
            ["add", "rule", of, _, name, ..] => rules.get_mut(&(family(of), name.to_owned()))?.push(line.to_owned()),
            ["add", "set", of, _, name, ..] => drop(seen.sets.insert((family(of), name.to_owned()))),
            ["delete", "set", of, _, name] => seen.sets.remove(&(family(of), name.to_owned())).then_some(())?,
            [verb, "element", of, _, name, ..] => {
                let inner = line.split_once("{ ")?.1.strip_suffix(" }")?;
                let Some(container) = Container::ALL.into_iter().find(|container| container.name() == name) else {
                    return seen.sets.contains(&(family(of), name.to_owned())).then_some(());
                };
                for element in inner.split(", ") {
                    let (key, verdict) = element.split_once(" : ").map_or((element, None), |(key, to)| (key, Some(to.to_owned())));
                    let key = (family(of), container, key.to_owned());
                    match verb {
                        "add" => drop(seen.elements.insert(key, verdict)),
                        _ => drop(seen.elements.remove(&key)?),
                    }
                }
            }
            _ => return None,
        }
        Some(())
    }
}

impl Edge for Fake {
    fn run(&mut self, script: &str) -> Result<(), RulesError> {
        let refused = |why: String| RulesError::Refused { what: "a test", why };
        if self.refuses.get() {
            return Err(refused("no".to_owned()));
        }
        let before = (self.seen.borrow().clone(), self.rules.borrow().clone());
        let mut base = None;
        for line in script.lines() {
            if self.try_line(line, &mut base).is_none() {
                (*self.seen.borrow_mut(), *self.rules.borrow_mut()) = before;
                return Err(refused(line.to_owned()));
            }
        }
        let count = if script.contains("delete table") { &self.installations } else { &self.edits };
        count.set(count.get() + 1);
        self.generation.set(self.generation.get() + 1);
        script.clone_into(&mut self.script.borrow_mut());
        Ok(())
    }

    fn translate(&mut self, fronts: &Fronts) -> Result<usize, FastPathError> {
        fronts.clone_into(&mut self.fronts.borrow_mut());
        Ok(fronts.len())
    }

    fn generation(&mut self) -> Result<Option<u32>, NetlinkError> {
        Ok(Some(self.generation.get()))
    }

    fn read(&mut self, _: Option<&Ruleset>) -> Result<Seen, NetlinkError> {
        self.reads.set(self.reads.get() + 1);
        let mut seen = self.seen.borrow().clone();
        let hash = |rules: &Vec<String>| {
            use std::hash::{DefaultHasher, Hash, Hasher};
            let mut hasher = DefaultHasher::new();
            rules.hash(&mut hasher);
            hasher.finish()
        };
        let chain = |rules: &Vec<String>| Chain { rules: rules.len(), hash: hash(rules) };
        seen.chains = self.rules.borrow().iter().map(|(key, rules)| (key.clone(), chain(rules))).collect();
        Ok(seen)
    }

    fn forget(&mut self, most: usize, is_stale: &dyn Fn(SocketAddr, SocketAddr) -> bool) -> io::Result<usize> {
        let mut flows = self.flows.borrow_mut();
        let before = flows.len();
        let mut left = most;
        flows.retain(|(to, from)| {
            let goes = left > 0 && is_stale(*to, *from);
            left -= usize::from(goes);
            !goes
        });
        Ok(before - flows.len())
    }
}

fn node() -> Node {
    Node {
        name: "a".to_owned(),
        zone: None,
        addresses: vec!["192.0.2.1".parse().unwrap()],
        pod_interfaces: "bw".to_owned(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        external_ips: false,
    }
}

/// A fleet as its nodes hear it.
struct Fleet {
    tables: [Table; 2],
    version: u64,
    /// Services with a node port have chains of their own.
    has_node_ports: bool,
}

impl Fleet {
    fn new() -> Self {
        Self { tables: [Table::default(), Table::default()], version: 1, has_node_ports: true }
    }

    fn service(&mut self, name: &str, last: u8, affinity_seconds: u32) {
        let node_port = if self.has_node_ports { 30_000 + u32::from(last) } else { 0 };
        let ports = vec![ServicePort { port: 53, protocol: Protocol::Udp.into(), node_port, ..ServicePort::default() }];
        let cluster_ips = vec![[VIP[0], VIP[1], VIP[2], last].to_vec()];
        let service = Service { cluster_ips, ports, affinity_seconds, ..Service::default() };
        self.tables[0].apply(Change::put(format!("default/{name}"), &service));
    }

    fn endpoints(&mut self, service: &str, addresses: &[[u8; 4]]) {
        let head = SliceHead {
            service: format!("default/{service}"),
            ports: vec![SlicePort { port: 5353, protocol: Protocol::Udp.into(), ..SlicePort::default() }],
        };
        let mut new = Table::default();
        new.apply(Change::put(EndpointsKey::Slice(UID).encode(), &head));
        for address in addresses {
            let endpoint = Endpoint { ready: true, serving: true, node: "b".to_owned(), ..Endpoint::default() };
            new.apply(Change::put(EndpointsKey::Endpoint(UID, (*address).into()).encode(), &endpoint));
        }
        self.tables[1] = new;
    }

    /// What a node that hears it knows.
    fn state(&mut self, kinds: &[Kind]) -> NodeState {
        self.version += 1;
        let mut replica = Replica::new("cluster", Vec::new(), Limits::default());
        for (kind, table) in KINDS.into_iter().zip(&self.tables).filter(|(kind, _)| kinds.contains(kind)) {
            replica.log_mut(kind).replace(self.version, table.clone());
        }
        heard(replica)
    }
}

/// What a node that has heard all of it knows.
fn heard(mut replica: Replica) -> NodeState {
    let mut state = NodeState::default();
    let hello = FromNode::Hello(state.hello("a", "a test"));
    let (mut session, welcome) = Session::open(Some(hello), "a", &replica).unwrap();
    let mut decoder = Decoder::new(fleet_api::FRAME_MAX);
    decoder.push(&welcome);
    loop {
        while let Some(frame) = decoder.next_frame().unwrap() {
            state.hear(fleet_api::decode::<FromFleet>(&frame).unwrap().message).unwrap();
        }
        let frames = session.next(&mut replica, usize::MAX);
        if frames.is_empty() {
            return state;
        }
        frames.iter().for_each(|frame| decoder.push(frame));
    }
}

/// A node that serves one service with two endpoints.
fn serving() -> (Fake, Keeper<Fake>, Fleet) {
    let (fake, mut fleet) = (Fake::default(), Fleet::new());
    let mut keeper = Keeper::new(fake.clone(), node());
    fleet.service("dns", 10, 0);
    fleet.endpoints("dns", &[[10, 1, 0, 2], [10, 1, 0, 3]]);
    keeper.take(&fleet.state(&KINDS));
    keeper.apply(0);
    assert!(keeper.stands() && keeper.fault().is_none(), "{:?}", keeper.fault());
    (fake, keeper, fleet)
}

#[test]
fn before_all_was_told_nothing_is_touched() {
    let (fake, mut fleet) = (Fake::default(), Fleet::new());
    let mut keeper = Keeper::new(fake.clone(), node());
    fleet.service("dns", 10, 0);
    for kinds in [&[][..], &[Kind::Services], &[Kind::Endpoints]] {
        keeper.take(&fleet.state(kinds));
        keeper.apply(0);
        keeper.look(0);
        assert!(!keeper.is_told() && fake.generation.get() == 0, "{kinds:?}");
    }
    keeper.take(&fleet.state(&KINDS));
    keeper.apply(0);
    assert!(keeper.stands() && fake.installations.get() == 1);
    // Of another cluster for a moment: what is known is served.
    keeper.take(&fleet.state(&[Kind::Services]));
    keeper.apply(1);
    assert_eq!((fake.generation.get(), keeper.services().counts().services), (1, 1));
}

#[test]
fn a_change_is_an_edit_and_the_next_look_finds_what_it_should() {
    let (fake, mut keeper, mut fleet) = serving();
    fleet.service("web", 11, 0);
    fleet.endpoints("dns", &[[10, 1, 0, 3]]);
    keeper.take(&fleet.state(&KINDS));
    keeper.apply(10);
    let reads = fake.reads.get();
    keeper.look(20);
    assert_eq!((fake.installations.get(), fake.edits.get(), fake.reads.get()), (1, 1, reads), "nobody else has changed anything");
    // Somebody has, elsewhere.
    fake.altered(|_, _| {});
    keeper.look(10_000);
    assert_eq!((fake.installations.get(), fake.reads.get()), (1, reads + 1));
    assert_eq!(keeper.done().applications, 2);
    // The service goes, and its chain a moment later.
    fleet.tables[0].apply(Change::delete("default/dns"));
    keeper.take(&fleet.state(&KINDS));
    keeper.apply(20_000);
    assert!(keeper.script.rests());
    fake.altered(|_, _| {});
    keeper.look(20_500);
    assert!(fake.rules.borrow().keys().any(|(_, chain)| chain.starts_with("cluster-d")), "it rests");
    keeper.look(21_500);
    assert!(!fake.rules.borrow().keys().any(|(_, chain)| chain.starts_with("cluster-d")));
    assert_eq!((fake.installations.get(), keeper.fault()), (1, None));
}

#[test]
fn an_endpoint_that_is_gone_can_be_found_for_a_moment_by_who_has_chosen_its_number() {
    let (fake, mut keeper, mut fleet) = serving();
    fleet.has_node_ports = false;
    fleet.service("dns", 10, 0);
    keeper.take(&fleet.state(&KINDS));
    keeper.apply(10);
    let elements = || -> Vec<(String, String)> {
        let seen = fake.seen.borrow();
        let of_dns = seen.elements.iter().filter(|((.., key), _)| key.starts_with("10.96.0.10 . 17 . 53"));
        of_dns.map(|((.., key), to)| (key["10.96.0.10 . 17 . 53".len()..].to_owned(), to.clone().unwrap())).collect()
    };
    let pairs = |all: &[(&str, &str)]| all.iter().map(|(key, to)| ((*key).to_owned(), (*to).to_owned())).collect::<Vec<_>>();
    let (first, second) = (" . 0", " . 1");
    assert_eq!(elements(), pairs(&[("", "goto pick-17-2"), (first, "10.1.0.2 . 5353"), (second, "10.1.0.3 . 5353")]));
    fleet.endpoints("dns", &[[10, 1, 0, 3]]);
    keeper.take(&fleet.state(&KINDS));
    keeper.apply(20_000);
    let resting = pairs(&[("", "goto pick-17-1"), (first, "10.1.0.3 . 5353"), (second, "10.1.0.3 . 5353")]);
    assert_eq!(elements(), resting);
    fake.altered(|_, _| {});
    keeper.look(20_500);
    assert_eq!((elements(), fake.installations.get()), (resting, 1), "it is not taken for somebody's");
    // It has two again while the second rests, and then one.
    fleet.endpoints("dns", &[[10, 1, 0, 3], [10, 1, 0, 4]]);
    keeper.take(&fleet.state(&KINDS));
    keeper.apply(20_600);
    assert_eq!(elements(), pairs(&[("", "goto pick-17-2"), (first, "10.1.0.3 . 5353"), (second, "10.1.0.4 . 5353")]));
    fleet.endpoints("dns", &[[10, 1, 0, 4]]);
    keeper.take(&fleet.state(&KINDS));
    keeper.apply(20_700);
    keeper.look(21_700);
    assert_eq!(elements(), pairs(&[("", "goto pick-17-1"), (first, "10.1.0.4 . 5353")]));
    assert_eq!((fake.installations.get(), keeper.fault()), (1, None));
}

#[test]
fn whatever_somebody_alters_is_back_and_counted() {
    let of_service =
        |rules: &BTreeMap<ChainKey, Vec<String>>| rules.keys().find(|(_, chain)| chain.starts_with("cluster-d")).unwrap().clone();
    type Alter = Box<dyn Fn(&mut Seen, &mut BTreeMap<ChainKey, Vec<String>>)>;
    let alterations: [(&str, Alter); 9] = [
        ("flushed", Box::new(|seen, rules| (*seen, *rules) = Default::default())),
        ("put to sleep", Box::new(|seen, _| seen.sleeps = true)),
        ("an element deleted", Box::new(|seen, _| drop(seen.elements.pop_first()))),
        ("an element added", Box::new(|seen, _| drop(seen.elements.insert((Family::V4, Container::ClusterIps, "10.96.0.9".into()), None)))),
        ("a verdict changed", Box::new(|seen, _| seen.elements.values_mut().flatten().for_each(|verdict| *verdict = "drop".into()))),
        ("a rule deleted", Box::new(move |_, rules| rules.get_mut(&of_service(rules)).unwrap().clear())),
        ("a rule replaced", Box::new(move |_, rules| rules.get_mut(&of_service(rules)).unwrap()[0] = "accept".into())),
        ("a base rule added", Box::new(|_, rules| rules.get_mut(&(Family::V6, "forward".into())).unwrap().push("drop".into()))),
        ("a set added", Box::new(|seen, _| assert!(seen.sets.insert((Family::V4, "mine".into()))))),
    ];
    for (what, alter) in alterations {
        let (fake, mut keeper, _) = serving();
        let mut kernel = fake.clone();
        let before = kernel.read(None).unwrap();
        let repaired = repairs::count(repairs::Kind::Nftables);
        fake.altered(alter);
        assert_ne!(kernel.read(None).unwrap(), before, "{what}: nothing was altered");
        keeper.look(10_000);
        assert_eq!((kernel.read(None).unwrap(), fake.installations.get()), (before, 2), "{what}");
        assert!(repairs::count(repairs::Kind::Nftables) > repaired, "{what}");
    }
}

#[test]
fn an_edit_that_is_refused_becomes_an_installation_and_what_fails_is_tried_again_later_and_later() {
    let (fake, mut keeper, mut fleet) = serving();
    fake.altered(|seen, rules| (*seen, *rules) = Default::default());
    fleet.endpoints("dns", &[[10, 1, 0, 9]]);
    keeper.take(&fleet.state(&KINDS));
    keeper.apply(10);
    assert_eq!((fake.installations.get(), fake.edits.get(), keeper.fault()), (2, 0, None));

    fake.refuses.set(true);
    fleet.endpoints("dns", &[[10, 1, 0, 8]]);
    keeper.take(&fleet.state(&KINDS));
    let mut tried = Vec::new();
    let mut last = fake.reads.get();
    for now in (100..200_000).step_by(100) {
        keeper.apply(now);
        keeper.look(now);
        if std::mem::replace(&mut last, fake.reads.get()) != last {
            tried.push(now);
        }
    }
    let pauses: Vec<_> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..7], [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000]);
    assert_eq!(keeper.fault().unwrap().0, "Refused");
    fake.refuses.set(false);
    keeper.apply(300_000);
    assert!(keeper.stands() && keeper.fault().is_none());
    assert!(fake.script.borrow().contains("10.1.0.8:5353"), "what is newest is set");
}

#[test]
fn flows_to_endpoints_that_are_gone_are_forgotten() {
    let (fake, mut keeper, mut fleet) = serving();
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    let flow = |to: &str, from: &str| (at(to), at(from));
    let other = flow("10.96.0.99:53", "10.1.0.2:5353");
    *fake.flows.borrow_mut() = vec![flow("10.96.0.10:53", "10.1.0.2:5353"), flow("10.96.0.10:53", "10.1.0.3:5353"), other];
    keeper.forget_flows().unwrap();
    assert_eq!(fake.flows.borrow().len(), 3);
    fleet.endpoints("dns", &[[10, 1, 0, 3]]);
    keeper.take(&fleet.state(&KINDS));
    keeper.apply(10);
    keeper.forget_flows().unwrap();
    assert_eq!(*fake.flows.borrow(), [flow("10.96.0.10:53", "10.1.0.3:5353"), other]);
    assert_eq!(keeper.done().forgotten, 1);
    // One that was begun by the old rules meanwhile.
    fake.flows.borrow_mut().push(flow("10.96.0.10:53", "10.1.0.2:5353"));
    keeper.forget_flows().unwrap();
    assert_eq!((fake.flows.borrow().len(), keeper.passes), (2, 0));
}

#[test]
fn clients_stay_with_their_endpoints_when_all_is_installed_again() {
    let (fake, mut keeper, mut fleet) = serving();
    fleet.service("dns", 10, 10_800);
    keeper.take(&fleet.state(&KINDS));
    keeper.apply(10);
    let set = fake.seen.borrow().sets.iter().find(|(_, set)| set.starts_with("affinity-")).cloned().unwrap();
    fake.altered(|seen, _| {
        seen.clients.insert(set.clone(), vec![([10, 1, 0, 7].into(), 10_800_000, 400), ([10, 1, 0, 8].into(), 10_800_000, 0)]);
        seen.clients.insert((Family::V4, "affinity-other".into()), vec![([10, 1, 0, 9].into(), 1, 1)]);
        seen.elements.clear();
    });
    keeper.look(10_000);
    assert_eq!(fake.installations.get(), 2);
    let script = fake.script.borrow();
    let kept: Vec<_> = script.lines().filter(|line| line.contains("expires")).collect();
    assert_eq!(kept, [format!("add element ip {TABLE} {} {{ 10.1.0.7 timeout 10800000ms expires 400ms }}", set.1)]);
}

#[test]
fn the_programs_are_told_what_stands_as_rules() {
    let (fake, mut keeper, mut fleet) = serving();
    let told = |fake: &Fake| fake.fronts.borrow().iter().map(|((address, ..), ends)| (address.to_string(), ends.len())).collect::<Vec<_>>();
    keeper.translate(false);
    assert_eq!((told(&fake), keeper.translated()), (vec![("10.96.0.10".to_owned(), 2)], 1));
    // One that keeps its clients, and one without endpoints, are for the rules.
    fleet.service("dns", 10, 60);
    fleet.service("other", 11, 0);
    keeper.take(&fleet.state(&KINDS));
    keeper.apply(1);
    keeper.translate(false);
    assert_eq!((told(&fake), keeper.translated()), (Vec::new(), 0));
    // What is not in force is told to nobody.
    fleet.service("dns", 10, 0);
    keeper.take(&fleet.state(&KINDS));
    fake.refuses.set(true);
    keeper.apply(2);
    keeper.translate(true);
    assert_eq!(told(&fake), Vec::new());
}
