//! Random services and endpoints, few of each, so that they meet.

use fleet_api::message::{Endpoint, Protocol, Service, ServicePort, SliceHead, SlicePort};
use fleet_api::{Change, EndpointsKey, Kind};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use services::Node;

/// What changes at once.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) after_ms: u64,
    pub(crate) node: Option<Node>,
    pub(crate) changes: Vec<(Kind, Change)>,
}

pub(crate) fn node() -> Node {
    Node {
        name: "n1".to_owned(),
        zone: None,
        addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        pod_interfaces: "bw".to_owned(),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        external_ips: true,
    }
}

/// A plain one, with a change.
pub(crate) fn service(change: impl FnOnce(&mut Service)) -> Service {
    let mut service = Service {
        cluster_ips: vec![vec![10, 96, 0, 1]],
        ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp.into(), port: 80, node_port: 0 }],
        load_balancer_ips: vec![vec![198, 51, 100, 1]],
        ..Service::default()
    };
    change(&mut service);
    service
}

pub(crate) fn endpoint_key(slice: usize, number: usize) -> Vec<u8> {
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    EndpointsKey::Endpoint([slice as u8; 16], [10, 0, high, low].into()).encode()
}

/// Slices of a hundred endpoints.
pub(crate) fn slices(service: &str, endpoints: usize) -> Vec<Change> {
    let ports = vec![SlicePort { name: String::new(), protocol: Protocol::Tcp.into(), port: 8080 }];
    let head = SliceHead { service: service.to_owned(), ports };
    let heads = (0..endpoints.div_ceil(100)).map(|slice| Change::put(EndpointsKey::Slice([slice as u8; 16]).encode(), &head));
    let ready = Endpoint { ready: true, serving: true, ..Endpoint::default() };
    heads.chain((0..endpoints).map(|number| Change::put(endpoint_key(number / 100, number), &ready))).collect()
}

fn bytes(v4: [u8; 3], v6: u16) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let of_v4 = (1..4u8).prop_map(move |last| [&v4[..], &[last]].concat());
    let of_v6 = (1..4u16).prop_map(move |last| std::net::Ipv6Addr::new(0xfd00, v6, 0, 0, 0, 0, 0, last).octets().to_vec());
    prop_oneof![
        2 => of_v4.clone().prop_map(|address| vec![address]),
        2 => (of_v4, of_v6).prop_map(|(a, b)| vec![a, b]),
        1 => Just(vec![vec![7; 5]]),
    ]
}

fn names(name: &'static str) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![3 => Just(Vec::new()), 1 => (1..3u8).prop_map(move |number| vec![format!("{name}{number}")])]
}

fn port() -> impl Strategy<Value = ServicePort> {
    (
        0..2u8,
        0..4i32,
        prop_oneof![3 => Just(80u32), 1 => Just(81), 1 => Just(0), 1 => Just(70_000)],
        prop_oneof![Just(0u32), Just(30_000), Just(30_001)],
    )
        .prop_map(|(name, protocol, port, node_port)| ServicePort {
            name: if name == 0 { String::new() } else { "b".to_owned() },
            protocol,
            port,
            node_port,
        })
}

fn any_service() -> impl Strategy<Value = Service> {
    let sets = (
        bytes([10, 96, 0], 0x96),
        vec(port(), 0..3),
        weighted(0.3, bytes([203, 0, 113], 0x203)),
        weighted(0.4, bytes([198, 51, 100], 0x198)),
    );
    let ranges = prop_oneof![
        4 => Just(Vec::new()),
        1 => Just(vec!["10.0.0.0/8".to_owned()]),
        1 => Just(vec![" 192.0.2.0/24 ".to_owned(), "fd00::/8".to_owned(), "192.0.0.0/16".to_owned()]),
        1 => Just(vec!["nowhere".to_owned()]),
        1 => Just(vec!["0.0.0.0/0".to_owned()]),
    ];
    let policies = (
        any::<bool>(),
        any::<bool>(),
        prop_oneof![2 => Just(0u32), 1 => Just(10_800), 1 => Just(5)],
        prop_oneof![Just(0u32), Just(32_000)],
    );
    (sets, ranges, policies).prop_map(
        |((cluster_ips, ports, external, balancer), source_ranges, (internal_local, external_local, affinity_seconds, health))| Service {
            cluster_ips,
            ports,
            external_ips: external.unwrap_or_default(),
            load_balancer_ips: balancer.unwrap_or_default(),
            source_ranges,
            internal_local,
            external_local,
            affinity_seconds,
            health_check_node_port: health,
        },
    )
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![Just("a/x"), Just("a/y"), Just("b/x"), Just("a/none; such")].prop_map(ToOwned::to_owned)
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let state = (any::<bool>(), any::<bool>(), any::<bool>());
    let place = (prop_oneof![Just(""), Just("n1"), Just("n2")], prop_oneof![Just(""), Just("z1"), Just("z2")]);
    (state, place, names("z"), names("n")).prop_map(|((ready, serving, terminating), (node, zone), for_zones, for_nodes)| Endpoint {
        ready,
        serving: ready || serving,
        terminating,
        node: node.to_owned(),
        zone: zone.to_owned(),
        for_zones,
        for_nodes,
    })
}

fn change() -> impl Strategy<Value = (Kind, Change)> {
    let uid = || (0..3u8).prop_map(|number| [number; 16]);
    let of_service = (key(), weighted(0.8, any_service())).prop_map(move |(key, service)| {
        (Kind::Services, service.map_or_else(|| Change::delete(key.as_bytes()), |service| Change::put(key.as_bytes(), &service)))
    });
    let target = (0..2u8, 0..3i32, prop_oneof![Just(8080u32), Just(8081), Just(0)]);
    let target = target.prop_map(|(name, protocol, port)| SlicePort {
        name: if name == 0 { String::new() } else { "b".to_owned() },
        protocol,
        port,
    });
    let of_slice = (uid(), weighted(0.8, (key(), vec(target, 0..3)))).prop_map(move |(uid, head)| {
        let head = head.map(|(service, ports)| SliceHead { service, ports });
        (
            Kind::Endpoints,
            head.map_or_else(
                || Change::delete(EndpointsKey::Slice(uid).encode()),
                |head| Change::put(EndpointsKey::Slice(uid).encode(), &head),
            ),
        )
    });
    let address = prop_oneof![
        (1..5u8).prop_map(|last| std::net::IpAddr::from([10, 0, 0, last])),
        (1..3u16).prop_map(|last| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into()),
    ];
    let of_endpoint = (uid(), address, weighted(0.8, endpoint())).prop_map(move |(uid, address, endpoint)| {
        (
            Kind::Endpoints,
            endpoint.map_or_else(
                || Change::delete(EndpointsKey::Endpoint(uid, address).encode()),
                |endpoint| Change::put(EndpointsKey::Endpoint(uid, address).encode(), &endpoint),
            ),
        )
    });
    let garbage = (any::<bool>(), vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..20));
    let garbage = garbage.prop_map(move |(is_service, key, value)| {
        (if is_service { Kind::Services } else { Kind::Endpoints }, Change { key, value: Some(value) })
    });
    prop_oneof![6 => of_service, 4 => of_slice, 8 => of_endpoint, 1 => garbage]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let moved = (prop_oneof![Just("n1"), Just("n2")], weighted(0.3, Just("z2".to_owned())), any::<bool>(), 1..3usize).prop_map(
        |(name, zone, external_ips, addresses)| {
            let mut node = Node { name: name.to_owned(), zone, external_ips, ..node() };
            node.addresses.truncate(addresses);
            node
        },
    );
    (prop_oneof![Just(0u64), Just(300), Just(1_500)], weighted(0.1, moved), vec(change(), 1..6))
        .prop_map(|(after_ms, node, changes)| Step { after_ms, node, changes })
}
