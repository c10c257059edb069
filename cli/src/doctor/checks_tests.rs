use serde_json::json;

use super::super::facts::{Clock, ForwardDrop, Kernel, Link, Networkd, PathMtu, Plugin};
use super::*;

/// A node at which nothing is wrong.
fn healthy() -> Facts {
    let sysctl = |(name, value): (&str, i64)| (name.to_owned(), value);
    let configuration = Configuration {
        path: "/etc/barewire/barewired.toml".into(),
        run_dir: "/run/barewire".into(),
        cni_conf_file: "/etc/cni/net.d/00-barewire.conflist".into(),
        bin_dirs: vec!["/opt/cni/bin".into()],
        ipv6: true,
        source: "fixed".to_owned(),
        fast_path: true,
        forward_accept: true,
        further: vec!["eth2".to_owned()],
    };
    let file = |path: &str, mode, expected| FileFound { path: path.into(), mode, uid: 0, expected };
    Facts {
        kernel: Kernel { release: "6.1.0-13-cloud-amd64".to_owned(), bpf_fs: true },
        sysctls: [
            ("net/core/bpf_jit_enable", 1),
            ("net/ipv4/ip_forward", 1),
            ("net/ipv6/conf/all/forwarding", 1),
            ("net/ipv6/conf/default/disable_ipv6", 0),
            ("net/ipv4/conf/all/rp_filter", 1),
            ("net/ipv4/conf/eth2/rp_filter", 2),
            ("net/ipv4/neigh/default/gc_thresh3", 1024),
            ("net/ipv6/neigh/default/gc_thresh3", 1024),
            ("net/netfilter/nf_conntrack_count", 100),
            ("net/netfilter/nf_conntrack_max", 262_144),
        ]
        .map(sysctl)
        .into(),
        configuration: Some(Ok(configuration)),
        links: vec![Link { name: "eth1".to_owned(), mtu: 9001 }, Link { name: "bw0000100000".to_owned(), mtu: 9001 }],
        default_routes: vec![("eth1".to_owned(), None)],
        path_mtus: Vec::new(),
        nft: Some(Ok("nftables v1.0.6".to_owned())),
        forward_drops: Some(Ok(Vec::new())),
        networkd: Some(Networkd { keeps_foreign_routes: true, keeps_foreign_rules: true, claims_pod_links: None }),
        network_manager: Some(true),
        agents: Vec::new(),
        lists: Some(Ok(Lists {
            directory: "/etc/cni/net.d".into(),
            ours: "00-barewire.conflist".to_owned(),
            names: vec!["00-barewire.conflist".to_owned(), "10-other.conflist".to_owned()],
            cni_version: Some("1.0.0".to_owned()),
        })),
        plugins: vec![Plugin {
            kind: "barewire-cni".to_owned(),
            found: Some(("/opt/cni/bin/barewire-cni".into(), Ok(vec!["0.4.0".to_owned(), "1.0.0".to_owned()]))),
            searched: vec!["/opt/cni/bin".into()],
        }],
        files: vec![
            file("/etc/barewire/barewired.toml", 0o600, Expected::OthersDoNotWrite),
            file("/run/barewire/cni.sock", 0o600, Expected::Private),
            file("/opt/cni/bin/barewire-cni", 0o755, Expected::Program),
        ],
        clock: Clock { now_seconds: 2_000, not_before_seconds: 1_000, kept_by: Some("chrony"), synchronized: None },
        daemon: Some(Ok(json!({ "version": env!("CARGO_PKG_VERSION"), "ready": true, "conditions": [] }))),
        kube_proxy: None,
    }
}

#[test]
fn a_healthy_node_is_well() {
    let findings = judge(&healthy());
    let wrong: Vec<_> = findings.iter().filter(|finding| finding.severity != Severity::Well).collect();
    assert!(wrong.is_empty() && findings.len() > 15, "{wrong:?}");
}

type Alter = fn(&mut Facts);

fn set(facts: &mut Facts, name: &str, value: i64) {
    facts.sysctls.insert(name.to_owned(), value);
}

fn configuration_of(facts: &mut Facts) -> &mut Configuration {
    facts.configuration.as_mut().unwrap().as_mut().unwrap()
}

fn lists_of(facts: &mut Facts) -> &mut Lists {
    facts.lists.as_mut().unwrap().as_mut().unwrap()
}

fn status(facts: &mut Facts) -> &mut serde_json::Value {
    facts.daemon.as_mut().unwrap().as_mut().unwrap()
}

/// Each row: what is altered at a healthy node, the check that tells, how bad it is, a word of what was seen, and how many fixes there are.
const ROWS: &[(Alter, &str, Severity, &str, usize)] = &[
    (|facts| facts.kernel.release = "5.4.0".to_owned(), "kernel", Severity::Warning, "5.4.0", 0),
    (|facts| facts.kernel.release = "5.15.0-91".to_owned(), "kernel", Severity::Warning, "older", 0),
    (|facts| facts.kernel.release = "x".to_owned(), "kernel", Severity::Unseen, "no number", 0),
    (|facts| facts.kernel.bpf_fs = false, "bpf-file-system", Severity::Warning, "/sys/fs/bpf", 0),
    (|facts| set(facts, "net/core/bpf_jit_enable", 0), "bpf-jit", Severity::Warning, "interpreted", 1),
    (|facts| set(facts, "net/ipv4/ip_forward", 0), "forwarding", Severity::Failed, "IPv4", 1),
    (|facts| set(facts, "net/ipv6/conf/all/forwarding", 0), "forwarding", Severity::Failed, "IPv6", 1),
    (|facts| set(facts, "net/ipv6/conf/default/disable_ipv6", 1), "ipv6", Severity::Failed, "disable_ipv6", 0),
    (|facts| set(facts, "net/ipv4/conf/eth2/rp_filter", 1), "rp_filter", Severity::Failed, "eth2", 1),
    (|facts| set(facts, "net/ipv4/neigh/default/gc_thresh3", 512), "neighbours", Severity::Warning, "512", 1),
    (
        |facts| facts.links.extend((0..250).map(|number| Link { name: format!("bw{number:010x}"), mtu: 9001 })),
        "neighbours",
        Severity::Warning,
        "251 pods",
        1,
    ),
    (|facts| set(facts, "net/netfilter/nf_conntrack_count", 250_000), "conntrack", Severity::Warning, "250000", 0),
    (|facts| facts.clock.now_seconds = 10, "clock", Severity::Failed, "990 s before", 0),
    (|facts| facts.clock.kept_by = None, "clock", Severity::Warning, "chrony", 0),
    (|facts| facts.clock.synchronized = Some(false), "clock", Severity::Warning, "not set it yet", 0),
    (|facts| facts.default_routes.clear(), "uplink", Severity::Warning, "no default route", 0),
    (|facts| facts.default_routes[0].1 = Some(1400), "mtu", Severity::Warning, "1400", 0),
    (|facts| facts.links[0].mtu = 1500, "mtu", Severity::Warning, "bw0000100000", 0),
    (|facts| facts.path_mtus.push(path(PathOutcome::Swallowed)), "path-mtu", Severity::Failed, "10.0.0.2", 0),
    (|facts| facts.path_mtus.push(path(PathOutcome::Narrower(1400))), "path-mtu", Severity::Warning, "1400", 0),
    (|facts| facts.path_mtus.push(path(PathOutcome::Silent)), "path-mtu", Severity::Warning, "does not answer", 0),
    (|facts| facts.path_mtus.push(path(PathOutcome::Unseen("there is no ping".to_owned()))), "path-mtu", Severity::Unseen, "no ping", 0),
    (|facts| facts.nft = Some(Err("there is no nft".to_owned())), "nft", Severity::Failed, "there is no nft", 0),
    (|facts| drops(facts, false), "forward", Severity::Warning, "nft ip filter FORWARD", 0),
    (
        |facts| {
            configuration_of(facts).forward_accept = false;
            drops(facts, false);
        },
        "forward",
        Severity::Failed,
        "forward_accept is off",
        0,
    ),
    (|facts| facts.forward_drops = Some(Err("nft: not permitted".to_owned())), "forward", Severity::Unseen, "not permitted", 0),
    (|facts| networkd(facts).keeps_foreign_routes = false, "systemd-networkd", Severity::Warning, "takes away", 1),
    (|facts| networkd(facts).keeps_foreign_rules = false, "systemd-networkd", Severity::Warning, "takes away", 1),
    (
        |facts| networkd(facts).claims_pod_links = Some("/etc/systemd/network/10-all.network".into()),
        "systemd-networkd",
        Severity::Failed,
        "10-all.network",
        1,
    ),
    (|facts| facts.network_manager = Some(false), "NetworkManager", Severity::Warning, "bw", 1),
    (|facts| lists_of(facts).names.insert(0, "00-aaa.conf".to_owned()), "network-list", Severity::Failed, "00-aaa.conf", 0),
    (|facts| lists_of(facts).names.clear(), "network-list", Severity::Failed, "no list is there", 0),
    (|facts| facts.plugins[0].found = None, "plugins", Severity::Failed, "/opt/cni/bin", 0),
    (|facts| lists_of(facts).cni_version = Some("1.1.0".to_owned()), "plugins", Severity::Failed, "1.1.0", 0),
    (
        |facts| facts.plugins[0].found.as_mut().unwrap().1 = Err("exec format error".to_owned()),
        "plugins",
        Severity::Failed,
        "exec format",
        0,
    ),
    (|facts| facts.files[0].mode = 0o666, "file-modes", Severity::Warning, "barewired.toml has mode 666", 1),
    (|facts| facts.files[1].mode = 0o777, "file-modes", Severity::Warning, "cni.sock has mode 777", 1),
    (|facts| facts.files[2].mode = 0o644, "file-modes", Severity::Warning, "barewire-cni has mode 644", 1),
    (|facts| facts.files[2].uid = 1000, "file-modes", Severity::Warning, "user 1000", 0),
    (|facts| facts.configuration = Some(Err("/x: no such file".to_owned())), "configuration", Severity::Failed, "/x", 0),
    (|facts| facts.daemon = Some(Err("it does not answer\nsee there".to_owned())), "daemon", Severity::Failed, "does not answer", 0),
    (|facts| status(facts)["version"] = json!("0.0.1"), "daemon", Severity::Warning, "0.0.1", 0),
    (
        |facts| {
            status(facts)["ready"] = json!(false);
            status(facts)["reason"] = json!("no uplink");
        },
        "ready",
        Severity::Failed,
        "no uplink",
        0,
    ),
    (
        |facts| status(facts)["conditions"] = json!([{ "type": "RulesRefused", "reason": "NftMissing", "message": "m", "remedy": "r" }]),
        "condition",
        Severity::Warning,
        "RulesRefused (NftMissing): m",
        0,
    ),
    (|facts| kube_proxy(facts, &["kube-proxy", "--cluster-cidr=10.244.0.0/16"]), "kube-proxy", Severity::Warning, "10.244.0.0/16", 0),
    (|facts| kube_proxy(facts, &["kube-proxy", "--cluster-cidr", "10.0.0.0/8"]), "kube-proxy", Severity::Warning, "10.0.0.0/8", 0),
];

fn path(outcome: PathOutcome) -> PathMtu {
    PathMtu { to: "10.0.0.2".to_owned(), size: 9001, outcome }
}

fn drops(facts: &mut Facts, accepts_pods: bool) {
    facts.forward_drops = Some(Ok(vec![ForwardDrop { chain: "nft ip filter FORWARD".to_owned(), accepts_pods }]));
}

fn networkd(facts: &mut Facts) -> &mut Networkd {
    facts.networkd.as_mut().unwrap()
}

fn kube_proxy(facts: &mut Facts, words: &[&str]) {
    facts.kube_proxy = Some(words.iter().map(|word| (*word).to_owned()).collect());
}

#[test]
fn each_fault_is_found_with_its_remedy() {
    for (row, (alter, check, severity, part, fixes)) in ROWS.iter().enumerate() {
        let mut facts = healthy();
        alter(&mut facts);
        let findings = judge(&facts);
        let finding = findings.iter().find(|finding| finding.check == *check && finding.severity == *severity);
        let finding = finding.unwrap_or_else(|| panic!("row {row}: no {check}: {findings:?}"));
        assert!(finding.seen.contains(part) && finding.fixes.len() == *fixes, "row {row}: {finding:?}");
        assert_eq!(finding.remedy.is_some(), *severity > Severity::Unseen, "row {row}: {finding:?}");
    }
}

#[test]
fn what_is_no_fault_is_not_told_as_one() {
    let harmless: &[Alter] = &[
        |facts| drops(facts, true),
        |facts| facts.networkd = None,
        |facts| facts.network_manager = None,
        |facts| kube_proxy(facts, &["kube-proxy", "--detect-local-mode=InterfaceNamePrefix", "--cluster-cidr=10.0.0.0/8"]),
        |facts| kube_proxy(facts, &["kube-proxy", "--config=/x"]),
        // Without a daemon nobody has set it yet.
        |facts| {
            facts.daemon = None;
            set(facts, "net/ipv4/ip_forward", 0);
        },
        |facts| {
            configuration_of(facts).fast_path = false;
            facts.kernel.bpf_fs = false;
        },
        |facts| {
            configuration_of(facts).ipv6 = false;
            set(facts, "net/ipv6/conf/default/disable_ipv6", 1);
        },
        |facts| {
            configuration_of(facts).further.clear();
            set(facts, "net/ipv4/conf/eth2/rp_filter", 1);
        },
    ];
    for (row, alter) in harmless.iter().enumerate() {
        let mut facts = healthy();
        alter(&mut facts);
        let wrong: Vec<_> = judge(&facts).into_iter().filter(|finding| finding.severity > Severity::Unseen).collect();
        assert!(wrong.is_empty(), "row {row}: {wrong:?}");
    }
}
