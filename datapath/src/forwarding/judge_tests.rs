use super::super::legacy;
use super::*;
use crate::{Ifindex, PodRange, Uplink};

fn network() -> NodeNetwork {
    let uplink = Uplink {
        index: 0,
        ifindex: Ifindex(2),
        ifname: "eth0".to_owned(),
        mtu: 9001,
        running: true,
        gateways: vec!["10.0.0.1".parse().unwrap()],
        addresses: vec!["10.0.0.11".parse().unwrap()],
    };
    let range = |first: &str, last: &str| PodRange { first: first.parse().unwrap(), last: last.parse().unwrap(), uplink: 0 };
    NodeNetwork {
        uplinks: vec![uplink],
        pods: vec![range("10.0.1.16", "10.0.1.31"), range("10.0.7.0", "10.0.7.15")],
        native: vec!["10.0.0.0/16".parse().unwrap(), "10.8.0.0/16".parse().unwrap()],
        ..NodeNetwork::default()
    }
}

fn judged_with(tables: &str, accept: bool) -> Judgement {
    let mut ruleset = Ruleset::default();
    legacy::read(Family::Ip, tables, &mut ruleset);
    judge(&ruleset, &network(), accept)
}

fn judged(tables: &str) -> Judgement {
    judged_with(tables, false)
}

fn filter(rules: &str) -> String {
    format!("*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:OTHER -\n{rules}COMMIT\n")
}

/// What kube-proxy sets in iptables mode, with services outside and inside of what is native.
const KUBE_PROXY: &str = r#"*filter
:FORWARD ACCEPT
:KUBE-EXTERNAL-SERVICES -
:KUBE-FORWARD -
:KUBE-PROXY-FIREWALL -
:KUBE-SERVICES -
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment "a/b has no endpoints" -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j REJECT --reject-with icmp-port-unreachable
-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-SERVICES -d 10.96.0.77/32 -p tcp -m comment --comment "a/c has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
COMMIT
*nat
:PREROUTING ACCEPT
:POSTROUTING ACCEPT
:KUBE-MARK-MASQ -
:KUBE-NODEPORTS -
:KUBE-POSTROUTING -
:KUBE-SERVICES -
:KUBE-SVC-AAAA -
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-EXT-AAAA
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-AAAA
SERVICE-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
"#;

#[test]
fn kube_proxy_switches_nothing_off() {
    assert_eq!(judged(&KUBE_PROXY.replace("SERVICE", "")), Judgement { accepts: judged(&filter("")).accepts, ..Judgement::default() });
}

#[test]
fn a_service_within_native_networks_is_left_to_the_stack() {
    let inside = "-A KUBE-SERVICES -d 10.0.99.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-AAAA\n";
    let found = judged(&KUBE_PROXY.replace("SERVICE", inside));
    assert_eq!(found.families, [], "{found:?}");
    assert_eq!(found.elsewhere[0].cidr, "10.0.99.1/32".parse().unwrap());
    assert_eq!(found.services, ["10.0.99.1/32".parse().unwrap()]);
}

#[test]
fn a_rule_that_names_a_destination_costs_that_destination() {
    for rule in ["-A FORWARD -d 10.0.50.0/24 -j DROP\n", "-A FORWARD -s 10.0.50.0/24 -p tcp -m tcp --dport 22 -j REJECT\n"] {
        let found = judged(&filter(rule));
        assert_eq!((found.families.len(), found.dropped.len()), (0, 0), "{found:?}");
        assert_eq!(found.elsewhere.len(), 1);
        assert_eq!(
            found.elsewhere[0].to_string(),
            "10.0.50.0/24 takes the slow path: rule 1 of chain FORWARD of iptables-legacy filter may drop it"
        );
    }
    assert_eq!(judged(&filter("-A FORWARD -d 192.0.2.0/24 -j DROP\n")).elsewhere, []);
    let inner = judged(&filter("-A FORWARD -i bw+ -j OTHER\n-A OTHER -d 10.0.50.1/32 -j DROP\n"));
    assert!(inner.elsewhere[0].why.contains("chain OTHER"), "{inner:?}");
}

#[test]
fn rules_that_may_drop_whatever_they_do_not_name_cost_the_family() {
    for (rule, drops) in [
        ("-A FORWARD -p tcp -m tcp --dport 25 -j DROP\n", false),
        ("-A FORWARD -m set --match-set blocked src -j DROP\n", false),
        ("-A FORWARD -j NFQUEUE --queue-num 1\n", false),
        ("-A FORWARD -s 10.0.1.17/32 -j DROP\n", false),
        ("-A FORWARD -j REJECT\n", true),
        ("-A FORWARD -i bw+ -j DROP\n", true),
        ("-A FORWARD -s 10.0.1.16/28 -j DROP\n", true),
    ] {
        let found = judged(&filter(rule));
        assert_eq!(found.families.len(), 1, "{rule} {found:?}");
        assert_eq!(found.dropped.len(), usize::from(drops), "{rule} {found:?}");
    }
}

#[test]
fn rules_of_others_for_others_cost_nothing() {
    for rules in [
        "-A FORWARD -i docker0 -j DROP\n",
        "-A FORWARD ! -i docker0 -o docker0 -j DROP\n",
        "-A FORWARD -s 172.17.0.0/16 -j DROP\n",
        "-A FORWARD -m conntrack --ctstate INVALID -j DROP\n",
        "-A FORWARD -m mark --mark 0x8000/0x8000 -j DROP\n",
        "-A FORWARD -p sctp -j DROP\n",
        "-A FORWARD -i bw+ -j ACCEPT\n-A FORWARD -o bw+ -j ACCEPT\n-A FORWARD -j REJECT\n",
        "-A FORWARD -j LOG --log-prefix \"all: \"\n",
    ] {
        let found = judged(&filter(rules));
        assert!(found.families.is_empty() && found.dropped.is_empty() && found.elsewhere.is_empty(), "{rules} {found:?}");
    }
}

#[test]
fn who_sets_marks_makes_them_unknown() {
    let found = judged(&filter(
        "-A OTHER -j MARK --set-xmark 0x8000/0x8000\n-A FORWARD -j OTHER\n-A FORWARD -m mark --mark 0x8000/0x8000 -j DROP\n",
    ));
    assert!(found.marks_are_set && found.families.len() == 1, "{found:?}");
}

#[test]
fn a_network_policy_engine_is_known_by_its_chains() {
    for chain in ["KUBE-ROUTER-FORWARD", "cali-FORWARD", "KUBE-NWPLCY-ABC", "WEAVE-NPC"] {
        let found = judged_with(&format!("*filter\n:FORWARD DROP\n:{chain} -\nCOMMIT\n"), true);
        assert!(found.families[0].1.contains(chain), "{found:?}");
        assert!(found.accepts.iter().all(Accept::stands), "nothing is let pass before an engine has judged");
    }
}

#[test]
fn pods_are_accepted_before_what_drops_everything_and_behind_what_is_particular() {
    let dropping = "*filter\n:FORWARD DROP\n-A FORWARD -d 10.0.50.0/24 -j DROP\nOURS-A FORWARD -i docker0 -j ACCEPT\nCOMMIT\n";
    let before = judged_with(&dropping.replace("OURS", ""), true);
    assert!(before.families.len() == 1 && before.dropped.len() == 1 && !before.accepts[0].stands(), "{before:?}");
    assert!(before.dropped[0].1.contains("chain FORWARD of iptables-legacy filter drops by its policy"));
    assert!(judged(&dropping.replace("OURS", "")).accepts[0].stands(), "not asked for");
    let range =
        |end: &str, cidr: &str| format!("-A FORWARD {end} {cidr} -m comment --comment \"barewire: network.forward_accept\" -j ACCEPT\n");
    let ours: String = ["10.0.1.16/28", "10.0.7.0/28"].iter().flat_map(|cidr| [range("-s", cidr), range("-d", cidr)]).collect();
    let after = judged_with(&dropping.replace("OURS", &ours), true);
    assert!(after.families.is_empty() && after.dropped.is_empty() && after.accepts[0].stands(), "{after:?}");
    assert_eq!(after.elsewhere.len(), 1, "what was forbidden still is");
    assert!(!judged_with(&dropping.replace("OURS", &range("-s", "10.0.1.16/28")), true).accepts[0].stands(), "half of them");
    let against_pods = judged_with(&filter("-A FORWARD -s 10.0.1.16/28 -j DROP\n"), true);
    assert!(against_pods.dropped.len() == 1 && against_pods.accepts[0].stands(), "that is meant so");
    let refusing = judged_with(&filter("-A FORWARD -i docker0 -j ACCEPT\n-A FORWARD -j REJECT\n"), true);
    let last = judged_with(&filter(&format!("-A FORWARD -i docker0 -j ACCEPT\n-A FORWARD -j REJECT\n{ours}")), true);
    assert!(!refusing.accepts[0].stands() && !last.accepts[0].stands(), "behind what refuses they are in vain");
}
