use std::collections::BTreeSet;

use super::*;

fn backend(target: &str, here: bool) -> Backend {
    Backend { target: target.parse().unwrap(), here }
}

fn service(name: &str, address: &str, node_port: Option<u16>, local_only: bool, backends: Vec<Backend>) -> Service {
    Service { name: name.to_owned(), addresses: vec![address.parse().unwrap()], port: 80, node_port, local_only, backends }
}

fn services() -> Vec<Service> {
    let (here, there) = (backend("10.0.1.17:8080", true), backend("10.0.1.33:8080", false));
    vec![
        service("two", "10.96.0.1", Some(30_000), false, vec![here, there]),
        service("local", "10.96.0.2", Some(30_001), true, vec![here, there]),
        service("elsewhere", "10.96.0.3", Some(30_002), true, vec![there]),
        service("empty", "10.96.0.4", None, false, vec![]),
        service("six", "fd00:96::1", None, false, vec![backend("[fd00:10:0:1::7]:8080", true)]),
    ]
}

fn texts() -> (String, String, String) {
    let services = services();
    let node = ["10.0.0.11".parse().unwrap(), "fd00:10::11".parse().unwrap()];
    let pods = ["10.0.1.16/28".parse().unwrap(), "fd00:10:0:1::/80".parse().unwrap()];
    let proxy = KubeProxy { node: &node, pods: &pods, services: &services };
    (proxy.nftables(), proxy.iptables(Family::V4), proxy.iptables(Family::V6))
}

/// The lines between a chain's opening and its end.
fn chain<'a>(text: &'a str, start: &str) -> &'a str {
    let begin = text.find(&format!("chain {start}")).unwrap_or_else(|| panic!("no chain {start} in {text}"));
    &text[begin..begin + text[begin..].find("}\nchain").unwrap()]
}

#[test]
fn a_node_port_hides_the_source_unless_its_policy_is_local() {
    let (nft, iptables, _) = texts();
    assert!(chain(&nft, "external-00000000-lab/two/tcp").contains("jump mark-for-masquerade; goto service-00000000"));
    let local = chain(&nft, "external-00000001-lab/local/udp");
    assert!(local.contains("ip saddr 10.0.1.16/28 goto service-") && local.contains("goto local-"), "{local}");
    assert!(iptables.contains("-A KUBE-EXT-0000000000000TCP -m comment --comment \"lab/two:tcp\" -j KUBE-MARK-MASQ"), "{iptables}");
    let local: Vec<_> = iptables.lines().filter(|line| line.starts_with("-A KUBE-EXT-0000000000001UDP")).collect();
    assert_eq!(local.len(), 4, "{local:?}");
    assert!(local[1].contains("--src-type LOCAL -j KUBE-MARK-MASQ") && local[3].ends_with("-j KUBE-SVL-0000000000001UDP"), "{local:?}");
}

#[test]
fn a_local_policy_leads_to_backends_of_this_node_only() {
    let (nft, iptables, _) = texts();
    assert!(chain(&nft, "local-00000001").contains("mod 1 vmap { 0 : goto endpoint-00000001-lab/local/tcp/p80__10.0.1.17/8080 }"));
    assert_eq!(iptables.lines().filter(|line| line.starts_with("-A KUBE-SVL-0000000000001TCP")).count(), 1);
    assert!(nft.contains("tcp . 30002 : drop") && !nft.contains("external-00000002"), "{nft}");
    assert!(iptables.contains("--dport 30002 -m addrtype --dst-type LOCAL -j DROP"), "{iptables}");
}

#[test]
fn backends_share_alike_and_mark_their_own_hairpin() {
    let (nft, iptables, _) = texts();
    assert!(chain(&nft, "service-00000000").contains("numgen random mod 2 vmap { 0 : goto endpoint-"));
    assert!(chain(&nft, "endpoint-00000000").contains("ip saddr 10.0.1.17 jump mark-for-masquerade"));
    assert_eq!(iptables.matches("--probability 0.5000000000").count(), 4);
    assert!(iptables.contains("-A KUBE-SEP-0000000000000TCP -s 10.0.1.17 "), "{iptables}");
}

#[test]
fn a_service_without_backends_is_refused() {
    let (nft, iptables, _) = texts();
    assert!(nft.contains("10.96.0.4 . tcp . 80 : goto reject-chain"), "{nft}");
    assert!(iptables.contains("-A KUBE-SERVICES -d 10.96.0.4 -p tcp") && iptables.contains("-j REJECT"), "{iptables}");
}

#[test]
fn each_family_has_its_own_services() {
    let (nft, four, six) = texts();
    assert!(nft.contains("dnat to [fd00:10:0:1::7]:8080") && nft.contains("p80__fd00.10.0.1..7/8080"), "{nft}");
    assert!(six.contains("--to-destination [fd00:10:0:1::7]:8080") && !six.contains("10.96."), "{six}");
    assert!(!four.contains("fd00"), "{four}");
}

#[test]
fn every_chain_that_is_jumped_to_is_declared_and_names_are_short_enough() {
    let (_, iptables, _) = texts();
    let declared: BTreeSet<_> = iptables.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next()).collect();
    let targets = iptables.lines().filter_map(|line| line.split(" -j ").nth(1)?.split(' ').next());
    let ours: BTreeSet<_> = targets.filter(|target| target.starts_with("KUBE-")).collect();
    assert!(ours.len() > 10);
    assert_eq!(ours.difference(&declared).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert!(declared.iter().all(|chain| chain.len() <= 28), "the kernel's limit of a chain's name");
}
