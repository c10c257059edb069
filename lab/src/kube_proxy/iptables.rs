//! kube-proxy's iptables form: `KUBE-SERVICES` leads by address to `KUBE-SVC-…`, by node port to `KUBE-EXT-…`, and these to
//! `KUBE-SEP-…`, one for each backend.

use super::{Backend, Family, KubeProxy, MASQUERADE, Port, push};

/// The rules that stand in the kernel's own chains.
pub(super) fn jumps() -> String {
    "*filter\n\
     :KUBE-FORWARD - [0:0]\n\
     :KUBE-SERVICES - [0:0]\n\
     :KUBE-EXTERNAL-SERVICES - [0:0]\n\
     -A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
     -A FORWARD -j KUBE-FORWARD\n\
     -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
     -A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
     -A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
     COMMIT\n\
     *nat\n\
     :KUBE-SERVICES - [0:0]\n\
     :KUBE-POSTROUTING - [0:0]\n\
     -A PREROUTING -j KUBE-SERVICES\n\
     -A OUTPUT -j KUBE-SERVICES\n\
     -A POSTROUTING -j KUBE-POSTROUTING\n\
     COMMIT\n"
        .to_owned()
}

pub(super) fn rules(proxy: &KubeProxy<'_>, family: Family) -> String {
    let mut chains = String::new();
    let mut entries = String::new();
    let mut node_ports = String::new();
    let mut targets = String::new();
    let mut closed = String::new();
    for port in &proxy.ports(family) {
        let Port { service, address, protocol, .. } = port;
        let comment = comment(port);
        let at_address = format!("-d {address} -p {protocol} {comment} -m {protocol} --dport {}", service.port);
        if port.backends.is_empty() {
            push(&mut closed, format_args!("-A KUBE-SERVICES {at_address} -j REJECT"));
        } else {
            let chain = name("KUBE-SVC", port);
            push(&mut entries, format_args!("-A KUBE-SERVICES {at_address} -j {chain}"));
            push(&mut chains, format_args!(":{chain} - [0:0]"));
            for pods in proxy.pods_of(family) {
                push(&mut targets, format_args!("-A {chain} ! -s {pods} {at_address} -j KUBE-MARK-MASQ"));
            }
            choice(&mut targets, &chain, port, &(0..port.backends.len()).collect::<Vec<_>>());
            for index in 0..port.backends.len() {
                endpoint(&mut chains, &mut targets, port, index);
            }
        }
        let Some(number) = service.node_port else { continue };
        let at_port = format!("-p {protocol} {comment} -m {protocol} --dport {number}");
        if port.is_reachable_here() {
            push(&mut node_ports, format_args!("-A KUBE-NODEPORTS {at_port} -j {}", name("KUBE-EXT", port)));
            from_outside(&mut chains, &mut targets, proxy, port, family);
        } else {
            push(&mut closed, format_args!("-A KUBE-EXTERNAL-SERVICES {at_port} -m addrtype --dst-type LOCAL -j DROP"));
        }
    }
    format!(
        "*filter\n\
         :KUBE-FORWARD - [0:0]\n\
         :KUBE-SERVICES - [0:0]\n\
         :KUBE-EXTERNAL-SERVICES - [0:0]\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark {MASQUERADE}/{MASQUERADE} -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         {closed}\
         COMMIT\n\
         *nat\n\
         :KUBE-SERVICES - [0:0]\n\
         :KUBE-NODEPORTS - [0:0]\n\
         :KUBE-POSTROUTING - [0:0]\n\
         :KUBE-MARK-MASQ - [0:0]\n\
         {chains}\
         -A KUBE-MARK-MASQ -j MARK --or-mark {MASQUERADE}\n\
         -A KUBE-POSTROUTING -m mark ! --mark {MASQUERADE}/{MASQUERADE} -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark {MASQUERADE}\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         {entries}\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         {node_ports}\
         {targets}\
         COMMIT\n"
    )
}

/// The chain of what comes by a node port, and, where only backends of this node count, theirs.
fn from_outside(chains: &mut String, targets: &mut String, proxy: &KubeProxy<'_>, port: &Port<'_>, family: Family) {
    let (external, service, comment) = (name("KUBE-EXT", port), name("KUBE-SVC", port), comment(port));
    push(chains, format_args!(":{external} - [0:0]"));
    if !port.service.local_only {
        push(targets, format_args!("-A {external} {comment} -j KUBE-MARK-MASQ\n-A {external} -j {service}"));
        return;
    }
    let local = name("KUBE-SVL", port);
    push(chains, format_args!(":{local} - [0:0]"));
    for pods in proxy.pods_of(family) {
        push(targets, format_args!("-A {external} -s {pods} {comment} -j {service}"));
    }
    let from_node = "-m addrtype --src-type LOCAL";
    push(targets, format_args!("-A {external} {comment} {from_node} -j KUBE-MARK-MASQ\n-A {external} {comment} {from_node} -j {service}"));
    push(targets, format_args!("-A {external} -j {local}"));
    choice(targets, &local, port, &port.backends_here().map(|(index, _)| index).collect::<Vec<_>>());
}

/// A backend at random; the last takes what is left.
fn choice(targets: &mut String, chain: &str, port: &Port<'_>, backends: &[usize]) {
    for (index, backend) in backends.iter().enumerate() {
        let share = match backends.len() - index {
            1 => String::new(),
            left => format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64),
        };
        push(targets, format_args!("-A {chain} {}{share} -j {}", comment(port), endpoint_name(port, *backend)));
    }
}

fn endpoint(chains: &mut String, targets: &mut String, port: &Port<'_>, index: usize) {
    let (chain, comment) = (endpoint_name(port, index), comment(port));
    let Backend { target, .. } = port.backends[index];
    push(chains, format_args!(":{chain} - [0:0]"));
    push(targets, format_args!("-A {chain} -s {} {comment} -j KUBE-MARK-MASQ", target.ip()));
    push(targets, format_args!("-A {chain} -p {0} {comment} -m {0} -j DNAT --to-destination {target}", port.protocol));
}

fn comment(port: &Port<'_>) -> String {
    format!("-m comment --comment \"lab/{}:{}\"", port.service.name, port.protocol)
}

/// As long as kube-proxy's: a prefix and sixteen characters.
fn name(prefix: &str, port: &Port<'_>) -> String {
    format!("{prefix}-{:013X}{}", port.number, port.protocol.to_uppercase())
}

fn endpoint_name(port: &Port<'_>, backend: usize) -> String {
    format!("KUBE-SEP-{:07X}{backend:06X}{}", port.number, port.protocol.to_uppercase())
}
