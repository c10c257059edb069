use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::{Ifindex, PodRange};

const CLOUD: Terms = Terms { neighbours_by_gateway: true, marks_are_set: false };
const FLAT: Terms = Terms { neighbours_by_gateway: false, marks_are_set: false };
const MAIN: u32 = 254;
const LOCAL: u32 = 255;

fn cidr(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn network() -> NodeNetwork {
    let uplink = Uplink {
        index: 0,
        ifindex: Ifindex(2),
        ifname: "eth0".to_owned(),
        mtu: 9001,
        running: true,
        gateways: vec!["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()],
        addresses: vec!["10.0.0.11".parse().unwrap()],
    };
    NodeNetwork {
        uplinks: vec![uplink],
        node_addresses: vec!["10.0.0.11".parse().unwrap()],
        pods: vec![PodRange { first: "10.0.1.16".parse().unwrap(), last: "10.0.1.31".parse().unwrap(), uplink: 0 }],
        native: vec![cidr("10.0.0.0/16"), cidr("fd00::/16")],
        service: vec![cidr("10.0.96.0/20")],
        ..NodeNetwork::default()
    }
}

fn by(oif: u32, gateway: Option<&str>) -> Leads {
    let gateway = gateway.map(|text| text.parse().unwrap());
    Leads::By(vec![Hop { oif, name: format!("eth{}", oif - 2), gateway, wraps: false, mtu: None }])
}

fn route(table: u32, to: &str, leads: Leads) -> Route {
    Route { table, to: cidr(to), metric: 0, leads }
}

fn rule(priority: u32, action: Action) -> Rule {
    let (to, from, iif, mark, never, by_others, is_inverted) = (None, None, None, None, false, false, false);
    Rule { ipv4: true, priority, to, from, iif, mark, never, by_others, is_inverted, action }
}

fn usual_rules() -> Vec<Rule> {
    vec![rule(0, Action::Table(LOCAL, None)), rule(32766, Action::Table(MAIN, None))]
}

/// The default route and the connected subnet, and these.
fn routing(more: Vec<Route>) -> Routing {
    let mut routes = vec![route(MAIN, "0.0.0.0/0", by(2, Some("10.0.0.1"))), route(MAIN, "10.0.0.0/24", by(2, None))];
    routes.extend(more);
    Routing { routes, rules: usual_rules() }
}

fn told(routing: &Routing, terms: Terms) -> Vec<String> {
    routing.elsewhere(&network(), terms).iter().map(ToString::to_string).collect()
}

#[test]
fn in_a_cloud_the_subnet_is_the_gateways_and_on_a_flat_link_it_is_not() {
    assert_eq!(told(&routing(vec![]), CLOUD), [""; 0]);
    assert_eq!(told(&routing(vec![]), FLAT), ["10.0.0.0/24 takes the slow path: it is on the link of eth0"]);
    let host_route = Routing { routes: vec![route(MAIN, "10.0.0.1/32", by(2, None))], rules: usual_rules() };
    assert_eq!(told(&host_route, FLAT), [""; 0], "to the gateway both ways are one");
}

#[test]
fn every_way_that_is_not_the_gateways_is_told_in_a_line() {
    let with =
        |mtu, wraps| Leads::By(vec![Hop { oif: 2, name: "eth0".to_owned(), gateway: Some("10.0.0.1".parse().unwrap()), wraps, mtu }]);
    let rows = [
        (by(9, None), "route via eth7"),
        (by(9, Some("10.0.9.1")), "route via eth7"),
        (by(2, Some("10.0.0.99")), "route via 10.0.0.99 dev eth0"),
        (Leads::Nowhere("blackhole"), "blackhole route"),
        (Leads::Nowhere("prohibit"), "prohibit route"),
        (Leads::Here, "it is the node's own"),
        (with(Some(1400), false), "route with mtu 1400"),
        (with(None, true), "route with an encapsulation or a gateway of the other family"),
    ];
    for (leads, why) in rows {
        let found = told(&routing(vec![route(MAIN, "10.0.50.0/24", leads)]), CLOUD);
        assert_eq!(found, [format!("10.0.50.0/24 takes the slow path: {why}")]);
    }
    assert_eq!(told(&routing(vec![route(MAIN, "10.0.50.0/24", by(2, Some("10.0.0.1")))]), CLOUD), [""; 0]);
    assert_eq!(told(&routing(vec![route(MAIN, "10.0.50.0/24", with(Some(9001), false))]), CLOUD), [""; 0]);
    assert_eq!(told(&routing(vec![route(MAIN, "192.0.2.0/24", by(9, None))]), CLOUD), [""; 0], "not native");
    assert_eq!(told(&routing(vec![route(MAIN, "10.0.96.0/24", by(9, None))]), CLOUD), [""; 0], "a service's");
    assert_eq!(told(&routing(vec![route(LOCAL, "10.0.0.11/32", Leads::Here)]), CLOUD), [""; 0], "the node's own address");
    assert_eq!(told(&routing(vec![route(MAIN, "10.0.0.11/32", by(2, None))]), CLOUD), [""; 0], "likewise");
}

#[test]
fn the_longest_prefix_and_the_lowest_metric_win() {
    let nested = routing(vec![route(MAIN, "10.0.48.0/20", by(9, None)), route(MAIN, "10.0.56.0/21", by(2, Some("10.0.0.1")))]);
    assert_eq!(told(&nested, CLOUD), ["10.0.48.0/21 takes the slow path: route via eth7"]);
    let worse = routing(vec![Route { metric: 9, ..route(MAIN, "0.0.0.0/0", by(9, None)) }]);
    assert_eq!(told(&worse, CLOUD), [""; 0]);
}

#[test]
fn rules_are_followed_as_far_as_they_hold_for_pods() {
    let with = |rule: Rule| {
        let mut routing = routing(vec![route(100, "0.0.0.0/0", by(9, None))]);
        routing.rules.insert(1, rule);
        told(&routing, CLOUD)
    };
    let to_100 = || rule(100, Action::Table(100, None));
    let some = |addresses: &str| vec![format!("{addresses} takes the slow path: route via eth7")];
    let all = || vec!["10.0.0.0/18", "10.0.64.0/19", "10.0.112.0/20", "10.0.128.0/17"].into_iter().flat_map(some).collect::<Vec<_>>();
    assert_eq!(with(to_100()), all());
    assert_eq!(with(Rule { from: Some(cidr("10.0.1.20/32")), ..to_100() }), all(), "some pod's");
    assert_eq!(with(Rule { to: Some(cidr("10.0.50.0/24")), ..to_100() }), some("10.0.50.0/24"));
    for harmless in [
        Rule { from: Some(cidr("10.0.0.11/32")), ..to_100() },
        Rule { iif: Some("eth3".to_owned()), ..to_100() },
        Rule { mark: Some(0x100), ..to_100() },
        Rule { never: true, ..to_100() },
    ] {
        assert_eq!(with(harmless), [""; 0]);
    }
    assert_eq!(
        with(Rule { to: Some(cidr("10.0.50.0/24")), ..rule(100, Action::Nowhere("prohibit")) }),
        ["10.0.50.0/24 takes the slow path: prohibit rule"]
    );
}

#[test]
fn a_full_tunnel_as_wg_quick_makes_it_is_a_way_of_its_own() {
    let mut tunnel = routing(vec![route(51820, "0.0.0.0/0", by(9, None))]);
    tunnel.rules.insert(1, rule(32764, Action::Table(MAIN, Some(0))));
    tunnel.rules.insert(2, Rule { mark: Some(0xca6c), is_inverted: true, ..rule(32765, Action::Table(51820, None)) });
    let found = tunnel.elsewhere(&network(), CLOUD);
    let holds = |address: &str| found.iter().any(|elsewhere| elsewhere.cidr.contains(address.parse().unwrap()));
    assert!(holds("10.0.2.1") && !holds("10.0.0.5"), "the subnet's route is more specific than the default: {found:?}");
}

fn any_route() -> impl Strategy<Value = Route> {
    let leads = prop_oneof![
        Just(by(2, Some("10.0.0.1"))),
        Just(by(2, None)),
        Just(by(2, Some("10.0.0.99"))),
        Just(by(9, None)),
        Just(Leads::Nowhere("blackhole")),
        Just(Leads::Back),
    ];
    let table = prop_oneof![Just(MAIN), Just(100)];
    (table, 0x0a00_0000..0x0a01_0000_u128, 0..=32_u8, 0..3_u32, leads).prop_map(|(table, address, length, metric, leads)| Route {
        table,
        to: prefixes::prefix(true, address, length),
        metric,
        leads,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Against the kernel's own way of looking up, one address at a time.
    #[test]
    fn what_goes_elsewhere_is_what_a_lookup_says(
        mut routes in prop::collection::vec(any_route(), 0..12),
        to in prop::option::of((0x0a00_0000..0x0a01_0000_u128, 8..=32_u8)),
        addresses in prop::collection::vec(0x0a00_0000..0x0a01_0000_u128, 1..40),
    ) {
        let mut seen = HashSet::new();
        routes.retain(|route| seen.insert((route.table, route.to, route.metric)));
        let special = Rule { to: to.map(|(address, length)| prefixes::prefix(true, address, length)), ..rule(100, Action::Table(100, None)) };
        let routing = Routing { routes: routes.clone(), rules: [vec![special.clone()], usual_rules()].concat() };
        let network = network();
        let found = routing.elsewhere(&network, FLAT);
        for address in addresses.into_iter().chain(routes.iter().map(|route| prefixes::ends(&route.to).0)) {
            let at = prefixes::prefix(true, address, 32);
            let mut tables = Vec::new();
            tables.extend(special.to.is_none_or(|to| prefixes::contains(&to, &at)).then_some(100));
            tables.push(MAIN);
            let matched = tables.iter().find_map(|table| {
                let matching = routes.iter().filter(|route| route.table == *table && prefixes::contains(&route.to, &at));
                let best = matching.min_by_key(|route| (std::cmp::Reverse(route.to.prefix()), route.metric))?;
                (best.leads != Leads::Back).then_some(best)
            });
            let is_ours = matched.is_none_or(|route| match &route.leads {
                Leads::By(hops) => hops[0].oif == 2
                    && (hops[0].gateway == Some("10.0.0.1".parse().unwrap()) || hops[0].gateway.is_none() && route.to == cidr("10.0.0.1/32")),
                _ => false,
            });
            let is_native = network.native.iter().any(|native| prefixes::contains(native, &at));
            let is_service = network.service.iter().any(|service| prefixes::contains(service, &at));
            let expected = is_native && !is_service && !is_ours;
            prop_assert_eq!(found.iter().any(|elsewhere| prefixes::contains(&elsewhere.cidr, &at)), expected, "{} {:?}", at, found);
        }
    }
}
