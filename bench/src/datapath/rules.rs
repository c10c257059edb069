//! What a real node's netfilter carries: connection tracking and the rules of its services, in the form and order in which
//! kube-proxy writes them in its iptables mode (chains `KUBE-SERVICES`, `KUBE-SVC-…`, `KUBE-SEP-…`), and the masquerade
//! rules that Flannel adds for an overlay.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Cluster addresses are taken from here.
const SERVICES: u32 = u32::from_be_bytes([10, 96, 0, 0]);
/// Backends are taken from here: within the pods' network, but no pod of the benchmark.
const BACKENDS: u32 = u32::from_be_bytes([10, 10, 128, 0]);
const BACKENDS_PER_SERVICE: u32 = 2;
/// Every tenth service has a port on the node too.
const NODE_PORT_EVERY: u32 = 10;
const NODE_PORTS: u32 = 30_000;

/// The rules of `services` services with two backends each, for `iptables-restore`.
#[must_use]
pub fn kube_proxy(services: u32, pods: &str) -> String {
    let mut chains = String::new();
    let mut entries = String::new();
    let mut node_ports = String::new();
    let mut targets = String::new();
    for service in 0..services {
        let chain = format!("KUBE-SVC-{service:016X}");
        let address = Ipv4Addr::from(SERVICES + 1 + service);
        let comment = format!("-m comment --comment \"bench/service-{service}:http\"");
        push(&mut chains, format_args!(":{chain} - [0:0]"));
        push(&mut entries, format_args!("-A KUBE-SERVICES -d {address}/32 -p tcp {comment} -m tcp --dport 80 -j {chain}"));
        if service % NODE_PORT_EVERY == 0 {
            let external = format!("KUBE-EXT-{service:016X}");
            push(&mut chains, format_args!(":{external} - [0:0]"));
            let port = NODE_PORTS + service;
            push(&mut node_ports, format_args!("-A KUBE-NODEPORTS -p tcp {comment} -m tcp --dport {port} -j {external}"));
            push(&mut targets, format_args!("-A {external} {comment} -j KUBE-MARK-MASQ"));
            push(&mut targets, format_args!("-A {external} -j {chain}"));
        }
        push(&mut targets, format_args!("-A {chain} ! -s {pods} -d {address}/32 -p tcp {comment} -m tcp --dport 80 -j KUBE-MARK-MASQ"));
        for backend in 0..BACKENDS_PER_SERVICE {
            let number = service * BACKENDS_PER_SERVICE + backend;
            let endpoint = format!("KUBE-SEP-{number:016X}");
            let address = Ipv4Addr::from(BACKENDS + 1 + number);
            push(&mut chains, format_args!(":{endpoint} - [0:0]"));
            // The last backend takes what is left.
            let share = match BACKENDS_PER_SERVICE - backend {
                1 => String::new(),
                left => format!(" -m statistic --mode random --probability {:.10}", 1.0 / f64::from(left)),
            };
            push(&mut targets, format_args!("-A {chain} {comment}{share} -j {endpoint}"));
            push(&mut targets, format_args!("-A {endpoint} -s {address}/32 {comment} -j KUBE-MARK-MASQ"));
            push(&mut targets, format_args!("-A {endpoint} -p tcp {comment} -m tcp -j DNAT --to-destination {address}:8080"));
        }
    }
    format!(
        "*filter\n\
         :KUBE-FORWARD - [0:0]\n\
         :KUBE-SERVICES - [0:0]\n\
         :KUBE-EXTERNAL-SERVICES - [0:0]\n\
         :KUBE-PROXY-FIREWALL - [0:0]\n\
         :KUBE-FIREWALL - [0:0]\n\
         -A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
         -A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
         -A INPUT -j KUBE-FIREWALL\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
         -A FORWARD -j KUBE-FORWARD\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
         -A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
         -A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
         -A OUTPUT -j KUBE-FIREWALL\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n\
         COMMIT\n\
         *nat\n\
         :KUBE-SERVICES - [0:0]\n\
         :KUBE-NODEPORTS - [0:0]\n\
         :KUBE-POSTROUTING - [0:0]\n\
         :KUBE-MARK-MASQ - [0:0]\n\
         {chains}\
         -A PREROUTING -j KUBE-SERVICES\n\
         -A OUTPUT -j KUBE-SERVICES\n\
         -A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         {entries}\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         {node_ports}\
         {targets}\
         COMMIT\n"
    )
}

/// The rules of an overlay's node that has the pods `own` of all `pods`, for `iptables-restore --noflush`.
#[must_use]
pub fn overlay(own: &str, pods: &str) -> String {
    format!(
        "*filter\n\
         :FLANNEL-FWD - [0:0]\n\
         -A FORWARD -j FLANNEL-FWD\n\
         -A FLANNEL-FWD -s {pods} -j ACCEPT\n\
         -A FLANNEL-FWD -d {pods} -j ACCEPT\n\
         COMMIT\n\
         *nat\n\
         :FLANNEL-POSTRTG - [0:0]\n\
         -A POSTROUTING -j FLANNEL-POSTRTG\n\
         -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN\n\
         -A FLANNEL-POSTRTG -s {own} -d {pods} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {pods} -d {own} -j RETURN\n\
         -A FLANNEL-POSTRTG ! -s {pods} -d {own} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {pods} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully\n\
         -A FLANNEL-POSTRTG ! -s {pods} -d {pods} -j MASQUERADE --random-fully\n\
         COMMIT\n"
    )
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _written = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_service_has_an_entry_and_each_backend_a_target() {
        let rules = kube_proxy(300, "10.10.0.0/16");
        let count = |start: &str| rules.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(count("-A KUBE-SERVICES -d "), 300);
        assert_eq!(count("-A KUBE-NODEPORTS "), 30);
        assert_eq!(rules.lines().filter(|line| line.contains("-j DNAT")).count(), 600);
        assert_eq!(rules.lines().filter(|line| line.contains("--probability 0.5000000000")).count(), 300);
    }

    #[test]
    fn every_chain_that_is_jumped_to_is_declared_and_names_are_short_enough() {
        let rules = kube_proxy(300, "10.10.0.0/16") + &overlay("10.10.16.0/20", "10.10.0.0/16");
        let declared: BTreeSet<_> = rules.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next()).collect();
        let targets = rules.lines().filter_map(|line| line.split(" -j ").nth(1)?.split(' ').next());
        let ours: BTreeSet<_> = targets.filter(|target| target.contains('-')).collect();
        assert!(ours.len() > 900);
        assert_eq!(ours.difference(&declared).collect::<Vec<_>>(), Vec::<&&str>::new());
        assert!(declared.iter().all(|chain| chain.len() <= 28), "the kernel's limit of a chain's name");
    }
}
