//! Random services and slices as objects of the API server, and the questions to ask about them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;
use serde_json::{Value, json};

use crate::probe::Probe;
use crate::site::{From, NODE, PODS, PORTS, REMOTES, pod, remote};

pub(crate) const NAMESPACE: &str = "w";
/// The node's name in the cluster, and its zone.
pub(crate) const NODE_NAME: &str = "n1";
pub(crate) const ZONE: &str = "z1";

fn address(v4: [u8; 3], v6: [u16; 3], last: u8, is_v4: bool) -> String {
    if is_v4 {
        IpAddr::from([v4[0], v4[1], v4[2], last]).to_string()
    } else {
        IpAddr::from([v6[0], v6[1], v6[2], 0, 0, 0, 0, u16::from(last)]).to_string()
    }
}

fn cluster_ip(last: u8, is_v4: bool) -> String {
    address([10, 96, 1], [0xfd00, 0x96, 0], last, is_v4)
}

/// Objects to create, those whose status is to be set, and questions.
pub(crate) struct World {
    pub(crate) objects: Vec<Value>,
    pub(crate) with_status: Vec<Value>,
    pub(crate) probes: Vec<Probe>,
}

/// Made of a seed.
pub(crate) fn world(rng: &mut Rng, services: u8) -> World {
    let mut world = World { objects: Vec::new(), with_status: Vec::new(), probes: Vec::new() };
    for number in 1..=services {
        service(rng, number, &mut world);
    }
    // Nobody has this one.
    for from in From::ALL {
        for is_v4 in [true, false] {
            world.ask(from, &cluster_ip(254, is_v4), 80, false, false, "unallocated");
        }
    }
    world
}

/// One that is there when all before it is.
pub(crate) fn sentinel(name: &str, last: u8) -> (Vec<Value>, [String; 2]) {
    let ips = [format!("10.96.255.{last}"), format!("fd00:96::ff{last:02x}")];
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "clusterIPs": ips, "clusterIP": ips[0], "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"], "ports": [{ "port": 80 }] },
    })];
    for is_v4 in [true, false] {
        objects.push(slice(
            name,
            &format!("{name}-{is_v4}"),
            is_v4,
            &json!([{ "name": "", "port": PORTS[0], "protocol": "TCP" }]),
            vec![json!({ "addresses": [remote(0, is_v4).to_string()] })],
        ));
    }
    (objects, ips)
}

fn slice(service: &str, name: &str, is_v4: bool, ports: &Value, endpoints: Vec<Value>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "kubernetes.io/service-name": service } },
        "addressType": if is_v4 { "IPv4" } else { "IPv6" }, "ports": ports, "endpoints": endpoints,
    })
}

fn service(rng: &mut Rng, number: u8, world: &mut World) {
    let name = format!("s{number}");
    let families: &[bool] = match rng.u8(..6) {
        0..3 => &[true],
        3 => &[false],
        _ => &[true, false],
    };
    let kind = ["ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer"][rng.usize(..4)];
    let is_outside = kind != "ClusterIP";
    let stays = rng.u8(..7) == 0;
    let mut ports = Vec::new();
    let mut targets = Vec::new();
    let protocols: &[&str] = [&["TCP"][..], &["UDP"], &["TCP", "UDP"], &["TCP", "TCP"], &["TCP", "SCTP"]][rng.usize(..5)];
    for (place, protocol) in protocols.iter().enumerate() {
        let port_name = if protocols.len() == 1 { String::new() } else { format!("p{place}") };
        // The same number with another protocol is another port.
        let port = if protocols == ["TCP", "TCP"] { 80 + place } else { 80 };
        ports.push(json!({ "name": port_name, "port": port, "protocol": protocol }));
        if is_outside {
            ports[place]["nodePort"] = json!(30_000 + usize::from(number) * 4 + place);
        }
        targets.push(json!({ "name": port_name, "port": PORTS[rng.usize(..2)], "protocol": protocol }));
    }
    let ips: Vec<_> = families.iter().map(|is_v4| cluster_ip(number, *is_v4)).collect();
    let mut spec = json!({
        "type": kind, "ports": ports, "clusterIP": ips[0], "clusterIPs": ips,
        "ipFamilyPolicy": if families.len() == 2 { "RequireDualStack" } else { "SingleStack" },
        "ipFamilies": families.iter().map(|is_v4| if *is_v4 { "IPv4" } else { "IPv6" }).collect::<Vec<_>>(),
        "internalTrafficPolicy": if rng.u8(..4) == 0 { "Local" } else { "Cluster" },
    });
    if is_outside {
        let is_local = rng.bool();
        spec["externalTrafficPolicy"] = json!(if is_local { "Local" } else { "Cluster" });
        if is_local && kind == "LoadBalancer" {
            // Else the API server chooses one, which may be another service's node port.
            spec["healthCheckNodePort"] = json!(32_000 + u16::from(number));
        }
    }
    if stays {
        spec["sessionAffinity"] = json!("ClientIP");
    }
    let external = rng.u8(..4) == 0;
    if external {
        spec["externalIPs"] = families.iter().map(|is_v4| address([203, 0, 113], [0x2001, 0xdb8, 0x203], number, *is_v4)).collect();
    }
    let balanced = kind == "LoadBalancer";
    if balanced && rng.bool() {
        let ranges = [
            ["192.0.2.2/32", "2001:db8::2/128"],
            ["192.0.2.0/24", "2001:db8::/64"],
            ["10.1.1.0/24", "fd00:1:1::/64"],
            ["10.0.0.0/8", "fd00::/16"],
        ];
        let mut chosen: Vec<&str> = ranges[rng.usize(..4)].into();
        if rng.bool() {
            chosen.extend(ranges[rng.usize(..4)]);
        }
        spec["loadBalancerSourceRanges"] = json!(chosen);
    }
    world
        .objects
        .push(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec }));
    let mode = if rng.u8(..8) == 0 { "Proxy" } else { "VIP" };
    if balanced {
        let ingress: Vec<_> = families
            .iter()
            .map(|is_v4| json!({ "ip": address([198, 51, 100], [0x2001, 0xdb8, 0x198], number, *is_v4), "ipMode": mode }))
            .collect();
        world.with_status.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec,
            "status": { "loadBalancer": { "ingress": ingress } },
        }));
    }
    let hints = rng.u8(..10);
    for is_v4 in families {
        // The same address twice, and neither on its way out: which one holds is not defined.
        let mut used = BTreeSet::new();
        for place in 0..rng.u8(..3) {
            let endpoints: Vec<_> = (0..rng.u8(1..4)).map(|_| endpoint(rng, *is_v4, hints)).collect();
            let endpoints = endpoints.into_iter().filter(|endpoint| used.insert(endpoint["addresses"][0].to_string())).collect();
            world.objects.push(slice(&name, &format!("{name}-{is_v4}-{place}"), *is_v4, &json!(targets), endpoints));
        }
    }
    for is_v4 in families {
        for (place, protocol) in protocols.iter().enumerate().filter(|(_, protocol)| **protocol != "SCTP") {
            let (port, is_udp) = (ports[place]["port"].as_u64().unwrap_or_default() as u16, *protocol == "UDP");
            for from in From::ALL {
                let about = |what: &str| format!("{name} {kind} {what} {protocol}");
                world.ask(from, &cluster_ip(number, *is_v4), port, is_udp, stays, &about("cluster address"));
                if external {
                    let to = address([203, 0, 113], [0x2001, 0xdb8, 0x203], number, *is_v4);
                    world.ask(from, &to, port, is_udp, stays, &about("external address"));
                }
                if balanced {
                    let to = address([198, 51, 100], [0x2001, 0xdb8, 0x198], number, *is_v4);
                    world.ask(from, &to, port, is_udp, stays, &about("balancer"));
                }
                if let Some(node_port) = ports[place]["nodePort"].as_u64() {
                    world.ask(from, NODE[usize::from(!*is_v4)], node_port as u16, is_udp, stays, &about("node port"));
                    if from == From::Node {
                        world.ask(
                            from,
                            if *is_v4 { "127.0.0.1" } else { "::1" },
                            node_port as u16,
                            is_udp,
                            stays,
                            &about("node port of loopback"),
                        );
                    }
                }
            }
            let from = From::ALL[rng.usize(..From::ALL.len())];
            world.ask(from, &cluster_ip(number, *is_v4), 99, is_udp, false, &format!("{name} unused port {protocol}"));
        }
    }
}

fn endpoint(rng: &mut Rng, is_v4: bool, hints: u8) -> Value {
    let (address, node) = match rng.u8(..8) {
        0..4 => (pod(rng.u8(..PODS), is_v4).to_string(), NODE_NAME),
        4 => (NODE[usize::from(!is_v4)].to_owned(), NODE_NAME),
        _ => (remote(rng.u8(..REMOTES), is_v4).to_string(), ["n2", "n3"][rng.usize(..2)]),
    };
    let conditions = match rng.u8(..8) {
        0 => json!({ "ready": false, "serving": true, "terminating": true }),
        1 => json!({ "ready": false, "serving": false, "terminating": false }),
        2 => json!({ "ready": false, "serving": false, "terminating": true }),
        3 => json!({}),
        _ => json!({ "ready": true, "serving": true, "terminating": false }),
    };
    let mut endpoint =
        json!({ "addresses": [address], "conditions": conditions, "nodeName": node, "zone": if node == "n3" { "z2" } else { ZONE } });
    let zone = ["z1", "z2"][rng.usize(..2)];
    match hints {
        0 => endpoint["hints"] = json!({ "forZones": [{ "name": zone }] }),
        1 => endpoint["hints"] = json!({ "forNodes": [{ "name": node }], "forZones": [{ "name": zone }] }),
        2 if rng.bool() => endpoint["hints"] = json!({ "forZones": [{ "name": zone }] }),
        _ => {}
    }
    endpoint
}

impl World {
    fn ask(&mut self, from: From, to: &str, port: u16, is_udp: bool, stays: bool, about: &str) {
        let address: IpAddr = to.parse().expect("an address of this file");
        self.probes.push(Probe { from, to: SocketAddr::new(address, port), is_udp, stays, about: about.to_owned() });
    }
}
