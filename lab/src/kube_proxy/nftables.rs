//! kube-proxy's nftables form: tables `ip kube-proxy` and `ip6 kube-proxy`, verdict maps from address or node port to chain.

use super::{Backend, Family, KubeProxy, MASQUERADE, Port, push};

pub(super) fn table(proxy: &KubeProxy<'_>, family: Family) -> String {
    let (ip, address_type) = match family {
        Family::V4 => ("ip", "ipv4_addr"),
        Family::V6 => ("ip6", "ipv6_addr"),
    };
    let ports = proxy.ports(family);
    let mut chains = String::new();
    let (mut services, mut node_ports, mut closed_services, mut closed_node_ports) = (vec![], vec![], vec![], vec![]);
    for port in &ports {
        let Port { service, address, protocol, .. } = port;
        let key = format!("{address} . {protocol} . {}", service.port);
        if port.backends.is_empty() {
            closed_services.push(format!("{key} : goto reject-chain"));
        } else {
            services.push(format!("{key} : goto {}", name("service", port)));
            to_backends(&mut chains, proxy, port, ip);
        }
        let Some(number) = service.node_port else { continue };
        if port.is_reachable_here() {
            node_ports.push(format!("{protocol} . {number} : goto {}", name("external", port)));
            from_outside(&mut chains, proxy, port, ip);
        } else {
            closed_node_ports.push(format!("{protocol} . {number} : drop"));
        }
    }
    let node: Vec<String> = proxy.node.iter().filter(|address| family.has(address)).map(ToString::to_string).collect();
    let cluster: Vec<String> = ports.iter().filter(|port| port.protocol == "tcp").map(|port| port.address.to_string()).collect();

    let mut text = format!("table {ip} kube-proxy\ndelete table {ip} kube-proxy\ntable {ip} kube-proxy {{\n");
    let service_key = format!("{address_type} . inet_proto . inet_service");
    for (kind, what, of, elements) in [
        ("set", "cluster-ips", address_type, &cluster),
        ("set", "nodeport-ips", address_type, &node),
        ("map", "no-endpoint-services", &service_key, &closed_services),
        ("map", "no-endpoint-nodeports", "inet_proto . inet_service", &closed_node_ports),
        ("map", "service-ips", &service_key, &services),
        ("map", "service-nodeports", "inet_proto . inet_service", &node_ports),
    ] {
        let verdict = if kind == "map" { " : verdict" } else { "" };
        let elements = if elements.is_empty() { String::new() } else { format!(" elements = {{ {} }}", elements.join(", ")) };
        push(&mut text, format_args!("{kind} {what} {{ type {of}{verdict};{elements} }}"));
    }
    text.push_str(&chains);
    text.push_str(&base(ip));
    text.push_str("}\n");
    text
}

/// The chains that are the same whatever the services.
fn base(ip: &str) -> String {
    format!(
        "chain reject-chain {{ reject; }}\n\
         chain mark-for-masquerade {{ meta mark set meta mark or {MASQUERADE}; }}\n\
         chain masquerading {{ meta mark and {MASQUERADE} == 0 return; meta mark set meta mark xor {MASQUERADE}; masquerade fully-random; }}\n\
         chain services {{\n\
         {ip} daddr . meta l4proto . th dport vmap @service-ips\n\
         {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports\n\
         }}\n\
         chain service-endpoints-check {{ {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services; }}\n\
         chain nodeport-endpoints-check {{ {ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }}\n\
         chain cluster-ips-check {{ {ip} daddr @cluster-ips reject; }}\n\
         chain filter-input {{ type filter hook input priority -110; ct state new jump nodeport-endpoints-check; ct state new jump service-endpoints-check; }}\n\
         chain filter-forward {{ type filter hook forward priority -110; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }}\n\
         chain filter-output {{ type filter hook output priority -110; ct state new jump service-endpoints-check; }}\n\
         chain filter-output-post-dnat {{ type filter hook output priority -90; ct state new jump cluster-ips-check; }}\n\
         chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}\n\
         chain nat-output {{ type nat hook output priority -100; jump services; }}\n\
         chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}\n"
    )
}

/// The service's own chain and those of its backends.
fn to_backends(chains: &mut String, proxy: &KubeProxy<'_>, port: &Port<'_>, ip: &str) {
    let Port { service, address, protocol, backends, .. } = port;
    for (index, Backend { target, .. }) in backends.iter().enumerate() {
        push(
            chains,
            format_args!(
                "chain {} {{\n{ip} saddr {} jump mark-for-masquerade\nmeta l4proto {protocol} dnat to {target}\n}}",
                endpoint(port, index),
                target.ip()
            ),
        );
    }
    let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
    let pods: Vec<String> = proxy.pods_of(family).map(ToString::to_string).collect();
    push(chains, format_args!("chain {} {{", name("service", port)));
    push(
        chains,
        format_args!(
            "{ip} daddr {address} {protocol} dport {} {ip} saddr != {{ {} }} jump mark-for-masquerade",
            service.port,
            pods.join(", ")
        ),
    );
    push(chains, format_args!("{}\n}}", choice(port, &(0..backends.len()).collect::<Vec<_>>())));
}

/// The chain of what comes by a node port, and, where only backends of this node count, theirs.
fn from_outside(chains: &mut String, proxy: &KubeProxy<'_>, port: &Port<'_>, ip: &str) {
    let service = name("service", port);
    if !port.service.local_only {
        push(chains, format_args!("chain {} {{ jump mark-for-masquerade; goto {service}; }}", name("external", port)));
        return;
    }
    let here: Vec<usize> = port.backends_here().map(|(index, _)| index).collect();
    push(chains, format_args!("chain {} {{ {}; }}", name("local", port), choice(port, &here)));
    let family = if port.address.is_ipv4() { Family::V4 } else { Family::V6 };
    push(chains, format_args!("chain {} {{", name("external", port)));
    for pods in proxy.pods_of(family) {
        push(chains, format_args!("{ip} saddr {pods} goto {service}"));
    }
    push(chains, format_args!("fib saddr type local jump mark-for-masquerade\nfib saddr type local goto {service}"));
    push(chains, format_args!("goto {}\n}}", name("local", port)));
}

/// A backend at random.
fn choice(port: &Port<'_>, backends: &[usize]) -> String {
    let targets: Vec<String> =
        backends.iter().enumerate().map(|(index, backend)| format!("{index} : goto {}", endpoint(port, *backend))).collect();
    format!("numgen random mod {} vmap {{ {} }}", targets.len(), targets.join(", "))
}

fn name(kind: &str, port: &Port<'_>) -> String {
    format!("{kind}-{:08X}-lab/{}/{}/p{}", port.number, port.service.name, port.protocol, port.service.port)
}

fn endpoint(port: &Port<'_>, backend: usize) -> String {
    let target = port.backends[backend].target;
    // A colon is no part of a chain's name.
    format!("{}__{}/{}", name("endpoint", port), target.ip().to_string().replace(':', "."), target.port())
}
