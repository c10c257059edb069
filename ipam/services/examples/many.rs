//! What many services cost a node: all of them rendered and installed, and one endpoint changed. With the `nft` that is there, and nothing else.
//!
//! `cargo xtask bench services [--services N] [--endpoints N] [--json]` builds and runs it, in a network namespace of its own.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "an experiment: where it fails, it ends")]

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fleet_api::message::{Endpoint, Protocol, Service, ServicePort, SliceHead, SlicePort};
use fleet_api::{Change, EndpointsKey, Kind, Table};
use services::{Node, Script, Services};

const CHANGES: u32 = 20;

fn nft(script: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn uid(service: u32) -> [u8; 16] {
    u128::from(service).to_be_bytes()
}

fn endpoint(number: u32, ready: bool) -> Endpoint {
    let node = format!("ip-10-0-{}-{}.ec2.internal", number / 250 % 250, number % 250);
    Endpoint { ready, serving: ready, node, zone: "us-east-1a".to_owned(), ..Endpoint::default() }
}

fn key(service: u32, endpoints: u32, number: u32) -> Vec<u8> {
    EndpointsKey::Endpoint(uid(service), Ipv4Addr::from_bits(0x0a00_0000 + service * endpoints + number).into()).encode()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [count, endpoints] = [0, 1].map(|place: usize| arguments[place].parse::<u32>().unwrap());
    let (mut services, mut slices) = (Table::default(), Table::default());
    for number in 0..count {
        let protocol = if number % 10 == 0 { Protocol::Udp } else { Protocol::Tcp }.into();
        let ports = vec![ServicePort {
            port: 80,
            protocol,
            node_port: if number % 10 == 1 { 30_000 + number % 2_768 } else { 0 },
            ..ServicePort::default()
        }];
        let cluster_ips = vec![Ipv4Addr::from_bits(0x0a60_0000 + number + 1).octets().to_vec()];
        let name = format!("team-{}/service-{number}", number % 100);
        let head = SliceHead { service: name.clone(), ports: vec![SlicePort { port: 8080, protocol, ..SlicePort::default() }] };
        services.apply(Change::put(name, &Service { cluster_ips, ports, ..Service::default() }));
        slices.apply(Change::put(EndpointsKey::Slice(uid(number)).encode(), &head));
        for endpoint in 0..endpoints {
            slices.apply(Change::put(key(number, endpoints, endpoint), &self::endpoint(endpoint, true)));
        }
    }
    let node = Node {
        name: "ip-10-0-0-1.ec2.internal".to_owned(),
        zone: None,
        addresses: vec![Ipv4Addr::new(10, 0, 0, 1).into()],
        pod_interfaces: "bw".to_owned(),
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        external_ips: false,
    };
    let begun = Instant::now();
    let mut all = Services::of(node, &services, &slices);
    let mut script = Script::default();
    let text = script.install(all.node(), all.ruleset());
    let rendered = begun.elapsed();
    nft(&text);
    let installed = begun.elapsed();

    let mut changes: Vec<Duration> = Vec::new();
    for change in 0..CHANGES {
        let number = change * 37 % count;
        let mut new = slices.clone();
        new.apply(Change::put(key(number, endpoints, 0), &endpoint(0, false)));
        let begun = Instant::now();
        all.change(Kind::Endpoints, slices.difference(&new));
        nft(&script.edit(&all.render(), 0));
        changes.push(begun.elapsed());
        slices = new;
    }
    changes.sort_unstable();
    let millis = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
    let (median, most) = (millis(changes[changes.len() / 2]), millis(changes[changes.len() - 1]));
    let [rendered, installed] = [rendered, installed].map(|time| (time.as_secs_f64() * 1e3).round() / 1e3);
    if arguments.get(2).is_some_and(|argument| argument == "--json") {
        println!(
            "{{\"services\":{count},\"endpoints\":{},\"services_render_s\":{rendered},\"services_{count}_render_s\":{installed},\"service_change_ms\":{median},\"service_change_most_ms\":{most}}}",
            count * endpoints
        );
    } else {
        println!("{count} services with {endpoints} endpoints each: rendered in {rendered} s, in force after {installed} s");
        println!("one endpoint changed: in force after {median} ms, {most} ms at most of {CHANGES}");
    }
}
