use cni_spec::Version;

use super::*;
use crate::readiness::StatusPolicy;
use crate::scheduling::Scheduling;

const LEAST: &str = "[source]\nkind = \"fixed\"\nranges = [\"10.0.1.16/28\"]\n[network]\nnative_cidrs = [\"10.0.0.0/16\"]\n";

fn faults(text: &str) -> Vec<String> {
    Config::from_toml(text, "host").unwrap_err().0
}

#[test]
fn defaults() {
    let config = Config::from_toml(LEAST, "host").unwrap();
    assert_eq!(config.node_name, "host");
    assert_eq!(config.run_dir, PathBuf::from("/run/barewire"));
    assert_eq!(config.cooldown_millis, 30_000);
    assert_eq!(config.network.as_str(), "barewire");
    assert!(config.masquerade && config.forward_accept && !config.on_link_by_gateway);
    assert_eq!(config.uplinks, [UplinkChoice::default()]);
}

#[test]
fn neighbours_are_the_gateways_in_a_cloud_and_where_it_is_said() {
    let text = format!("{LEAST}[uplink]\non_link = \"gateway\"\n");
    assert!(Config::from_toml(&text, "host").unwrap().on_link_by_gateway);
    let wrong = faults(&text.replace("gateway", "router"));
    assert_eq!(wrong, ["uplink.on_link: \"router\" is unknown; use \"direct\" or \"gateway\""]);
    let cloud = "[source]\nkind = \"aws\"\n";
    assert!(Config::from_toml(cloud, "host").unwrap().on_link_by_gateway);
    assert!(faults(&format!("{cloud}[uplink]\non_link = \"direct\"\n"))[0].contains("belongs to source.kind = \"fixed\""));
}

#[test]
fn all_faults_at_once_each_with_its_key() {
    let text = r#"
        [node]
        name = 7
        [paths]
        run_dir = "relative"
        [uplink]
        interface = "much-too-long-name"
        [network]
        native_cidrs = ["10.0.0.1/16", "x"]
        masquerade = "yes"
        packet_mark_mask = 0x3e00
        [source]
        kind = "fixed"
        ranges = ["10.0.1.0/24", "10.0.1.128/25", "10.0.0.0/33"]
        exclude = ["192.0.2.1"]
        [pool]
        cooldown_seconds = -1
        [cni]
        chained_plugins = [{ capabilities = {} }]
        [telemetry]
        listen = "nowhere"
        [surprise]
        key = 1
    "#;
    let all = faults(text);
    for part in [
        "node.name",
        "paths.run_dir",
        "uplink.interface",
        "network.native_cidrs[0]",
        "network.native_cidrs[1]",
        "network.masquerade",
        "network.packet_mark_mask: 0x3e00 has the bit 0x2000, which is the CNI plugin portmap's",
        "source.ranges[2]",
        "overlaps \"10.0.1.0/24\"",
        "source.exclude",
        "pool.cooldown_seconds",
        "cni.chained_plugins[0]",
        "telemetry.listen",
        "surprise",
    ] {
        assert!(all.iter().any(|line| line.contains(part)), "{part} missing in {all:#?}");
    }
}

#[test]
fn a_range_that_is_not_native_is_a_fault_where_it_would_be_masqueraded() {
    let text = LEAST.replace("10.0.0.0/16", "10.9.0.0/16");
    assert!(faults(&text)[0].contains("10.0.1.16-10.0.1.31"));
    let without = text.replace("[network]", "[network]\nmasquerade = false");
    assert!(Config::from_toml(&without, "host").is_ok());
}

#[test]
fn exclusions_leave_holes() {
    let text = LEAST.replace("kind = ", "exclude = [\"10.0.1.16\", \"10.0.1.20-10.0.1.21\"]\nkind = ");
    let config = Config::from_toml(&text, "host").unwrap();
    let sizes: Vec<_> = config.source.ranges().iter().map(AddressRange::size).collect();
    assert_eq!(sizes, [3, 10]);
}

#[test]
fn a_key_of_the_last_version_is_accepted_with_a_warning_that_names_its_new_name() {
    let of = |key: &str| format!("{LEAST}[uplink]\ninterface = \"eth1\"\n[[uplink.{key}]]\ninterface = \"eth2\"\n");
    let [old, new] = ["further", "secondary"].map(|key| Config::from_toml(&of(key), "host").unwrap());
    assert_eq!(old.uplinks, new.uplinks);
    assert_eq!(new.warnings, Vec::<String>::new());
    assert!(old.warnings[0].starts_with("uplink.further is now uplink.secondary"), "{:?}", old.warnings);
    let both = of("further") + "[[uplink.secondary]]\ninterface = \"eth3\"\n";
    assert!(faults(&both)[0].starts_with("uplink.further: is the old name of uplink.secondary"), "{:?}", faults(&both));
    // What is wrong with it is told by the new name, as the documentation has it.
    assert!(faults(&format!("{}surprise = 1", of("further")))[0].starts_with("uplink.secondary[0].surprise"));
    assert!(faults("[uplink]\nfurther = 1\n")[0].contains("source.kind"));
}

#[test]
fn a_secondary_uplink_owns_its_ranges() {
    let further = "[uplink]\ninterface = \"eth1\"\n[[uplink.secondary]]\ninterface = \"eth2\"\ngateways = [\"10.0.0.1\", \"fe80::1\"]\nranges = [\"10.0.1.48/28\"]\n";
    let config = Config::from_toml(&format!("{LEAST}{further}"), "host").unwrap();
    assert_eq!(config.uplinks[1].interface, datapath::UplinkName::Interface("eth2".into()));
    assert_eq!(config.uplinks[1].gateways.len(), 2);
    assert_eq!(config.source.uplink_ranges().iter().map(|owned| owned.uplink).collect::<Vec<_>>(), [0, 1]);
    assert!(faults(&format!("{LEAST}{}", further.replace("eth2", "eth1")))[0].contains("uplink.secondary[0].interface"));
    assert!(faults(&format!("{LEAST}{}", further.replace("\"fe80::1\"", "\"10.0.0.2\"")))[0].contains("second one"));
    assert!(faults(&format!("{LEAST}{}", further.replace("10.0.1.48/28", "10.0.1.16/30")))[0].contains("overlaps"));
    assert!(faults(&format!("{LEAST}{further}surprise = 1"))[0].starts_with("uplink.secondary[0].surprise"));
    assert!(faults(&format!("{LEAST}{}", further.replace("interface = \"eth1\"", "")))[0].starts_with("uplink.interface"));
}

#[test]
fn missing_source_is_told() {
    assert!(faults("")[0].contains("source.kind"));
    assert!(faults("[source]\nkind = \"aws9\"")[0].contains("aws9"));
}

fn cloud(text: &str) -> CloudSource {
    match Config::from_toml(text, "host").unwrap().source {
        Source::Cloud(source) => *source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cloud_needs_no_more_than_its_name() {
    let aws = cloud("[source]\nkind = \"aws\"");
    let api = AwsApi { endpoint: None, subnets: vec![], subnet_tags: [].into(), tags: [].into(), security_groups: vec![] };
    assert_eq!(aws.cloud, Cloud::Aws { metadata: None, all_interfaces: false, api: Some(api) });
    assert_eq!((aws.min_free, aws.max_free, aws.release_after_millis, aws.wait.as_secs(), aws.cluster_nodes), (500, 2500, 600_000, 5, 0));
    let gcp = "[source]\nkind = \"gcp\"";
    assert!(faults(gcp)[0].starts_with("network.native_cidrs: is missing"), "{:?}", faults(gcp));
    cloud(&format!("{gcp}\n[network]\nmasquerade = false"));
}

#[test]
fn all_of_a_clouds_keys() {
    let aws = cloud(
        "[source]\nkind = \"aws\"\nmetadata = \"http://[fd00:ec2::254]\"\napi_endpoint = \"https://ec2.example\"\nsubnets = [\"subnet-1\"]\n\
         security_groups = [\"sg-1\"]\nfamilies = [\"ipv6\", \"ipv4\"]\n[pool]\nmin_free = 4\nrelease_after_seconds = 60\nwait_seconds = 0\n\
         [cluster]\nnodes = 7500",
    );
    assert!(matches!(&aws.cloud, Cloud::Aws { api: Some(api), .. } if api.subnets == ["subnet-1"] && api.security_groups == ["sg-1"]));
    assert_eq!((aws.min_free, aws.max_free, aws.release_after_millis, aws.cluster_nodes), (4000, 6000, 60_000, 7500));
    assert_eq!(aws.families.len(), 2);
    let azure = "[source]\nkind = \"azure\"\nwireserver = \"http://127.0.0.1:81\"\n[network]\nnative_cidrs = [\"10.0.0.0/8\"]";
    assert!(matches!(cloud(azure).cloud, Cloud::Azure { metadata: None, wireserver: Some(_) }));
}

#[test]
fn tags_are_those_that_ec2_allows() {
    let with = |keys: &str| format!("[source]\nkind = \"aws\"\n{keys}\n");
    let aws = cloud(&with("subnet_tags = { pods = \"yes\" }\n[source.tags]\ncost-center = \"4711\"\n\"a/b:c\" = \"\""));
    let Cloud::Aws { api: Some(api), .. } = aws.cloud else { panic!("{aws:?}") };
    assert_eq!(api.subnet_tags, [("pods".to_owned(), "yes".to_owned())].into());
    assert_eq!(api.tags, [("cost-center", "4711"), ("a/b:c", "")].map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    for (keys, part) in [
        ("tags = { \"aws:x\" = \"1\" }".to_owned(), "source.tags.aws:x: a tag's name"),
        ("tags = { \"barewire/manage\" = \"true\" }".to_owned(), "source.tags.barewire/manage: begins as barewire's own"),
        ("tags = { a = 1 }".to_owned(), "source.tags.a: 1 is not a string"),
        ("tags = [\"a\"]".to_owned(), "source.tags: [\"a\"] is not a table"),
        (format!("tags = {{ a = {:?} }}", "x".repeat(257)), "source.tags.a: a tag's value"),
        ("subnets = [\"subnet-1\"]\nsubnet_tags = { a = \"b\" }".to_owned(), "source.subnet_tags: names subnets"),
        ("api = false\ntags = { a = \"b\" }".to_owned(), "source.tags: has no meaning with source.api = false"),
    ] {
        let all = faults(&with(&keys));
        assert!(all.len() == 1 && all[0].starts_with(part), "{keys}: {all:?}");
    }
    let many: String = (0..49).map(|number| format!("t{number} = \"\"\n")).collect();
    assert!(faults(&with(&format!("[source.tags]\n{many}")))[0].starts_with("source.tags: has 49 tags"));
}

#[test]
fn what_no_pod_may_get_can_be_excluded_from_what_a_cloud_assigns() {
    let with = |exclude: &str| format!("[source]\nkind = \"aws\"\nexclude = [{exclude}]\n");
    let aws = cloud(&with("\"10.0.1.7\", \"10.0.2.0/24\""));
    assert_eq!(aws.exclude.iter().map(|range| range.size()).collect::<Vec<_>>(), [1, 256]);
    assert!(faults(&with("\"10.0.1\""))[0].starts_with("source.exclude[0]"), "{:?}", faults(&with("\"10.0.1\"")));
    assert!(faults(&with("\"fd00::/80\""))[0].contains("has more than 65536 addresses"));
}

#[test]
fn a_key_of_another_kind_is_told() {
    let all = faults(
        "[uplink]\ninterface = \"eth0\"\n[source]\nkind = \"gcp\"\nranges = []\napi = false\nregion = \"x\"\nwireserver = \"http://a\"\n\
         [pool]\nmin_free = 1\n[cluster]\nnodes = 3\n[network]\nmasquerade = false",
    );
    for part in [
        "uplink.interface: belongs to source.kind = \"fixed\"",
        "source.ranges: belongs to source.kind = \"fixed\"",
        "source.api: belongs to source.kind = \"aws\"",
        "source.region: is no key",
        "source.wireserver: belongs to source.kind = \"azure\"",
        "pool.min_free: ",
        "cluster.nodes: ",
    ] {
        assert!(all.iter().any(|line| line.starts_with(part)), "{part} missing in {all:#?}");
    }
    assert_eq!(all.len(), 7, "{all:#?}");
}

#[test]
fn values_of_a_cloud_are_judged() {
    let all = faults(
        "[source]\nkind = \"aws\"\nmetadata = \"https://x/latest\"\nsubnets = [\"10.0.0.0/8\"]\nfamilies = [\"ipx\"]\n\
         [pool]\nmin_free = 2\nmax_free = 2.5\nwait_seconds = 99",
    );
    for part in ["source.metadata", "source.subnets[0]", "source.families[0]", "pool.max_free", "pool.wait_seconds"] {
        assert!(all.iter().any(|line| line.starts_with(part)), "{part} missing in {all:#?}");
    }
    let without = faults("[source]\nkind = \"aws\"\napi = false\nsubnets = [\"subnet-1\"]\n[cluster]\nnodes = 9");
    assert!(without.len() == 2 && without.iter().all(|line| line.contains("source.api = false")), "{without:#?}");
}

#[test]
fn what_the_runtime_is_told_has_defaults_and_can_be_set() {
    let config = Config::from_toml(LEAST, "host").unwrap();
    assert_eq!(config.cni_conf_file, PathBuf::from("/etc/cni/net.d/00-barewire.conflist"));
    assert_eq!(config.cni.bin_dirs, [PathBuf::from("/opt/cni/bin")]);
    assert_eq!((config.cni.versions, config.cni.status), (None, StatusPolicy::Lenient));
    let set = "[cni]\nbin_dirs = [\"/usr/lib/cni\"]\nversions = [\"1.0.0\", \"0.4.0\", \"1.0.0\"]\nstatus = \"strict\"\n";
    let config = Config::from_toml(&format!("{LEAST}{set}"), "host").unwrap();
    assert_eq!(config.cni.bin_dirs, [PathBuf::from("/usr/lib/cni")]);
    assert_eq!(config.cni.versions, Some(vec![Version::V0_4_0, Version::V1_0_0]));
    assert_eq!(config.cni.status, StatusPolicy::Strict);
}

#[test]
fn the_daemon_goes_before_pods_unless_it_is_told_otherwise() {
    let read = |set: &str| Config::from_toml(&format!("{LEAST}{set}"), "host").map(|config| config.scheduling);
    assert_eq!(read("").unwrap(), Scheduling::RealTime);
    for (text, scheduling) in [("realtime", Scheduling::RealTime), ("nice", Scheduling::Nice), ("inherit", Scheduling::Inherit)] {
        assert_eq!(read(&format!("[node]\nscheduling = {text:?}\n")).unwrap(), scheduling);
    }
    let all = faults(&format!("{LEAST}[node]\nscheduling = \"fifo\"\n"));
    assert!(all.len() == 1 && all[0].contains("node.scheduling: \"fifo\" is unknown; use"), "{all:?}");
}

#[test]
fn a_namespace_may_have_a_limit_of_its_own() {
    let network = |set: &str| format!("[source]\nkind = \"fixed\"\nranges = [\"10.0.1.16/28\"]\n[network]\nmasquerade = false\n{set}");
    let config = Config::from_toml(&network("[network.namespaces.\"batch-1\"]\npod_internet_egress = \"10M\"\n"), "host").unwrap();
    assert_eq!(config.namespaces.iter().map(|(name, rate)| (name.as_str(), rate.bytes())).collect::<Vec<_>>(), [("batch-1", 1_250_000)]);
    for (set, said) in [
        ("[network.namespaces.batch]\npod_internet_egress = \"0\"", "network.namespaces.batch.pod_internet_egress: \"0\" would stop"),
        ("[network.namespaces.batch]\npod_internet_egress = \"10x\"", "network.namespaces.batch.pod_internet_egress: \"10x\" is not"),
        ("[network.namespaces.batch]\negress = \"10M\"", "network.namespaces.batch.egress: is no key"),
        ("[network.namespaces.Batch]\npod_internet_egress = \"10M\"", "network.namespaces.Batch: \"Batch\" is no name"),
        ("namespaces = { batch = \"10M\" }", "network.namespaces.batch: \"10M\" is not a table"),
        ("namespaces = 7", "network.namespaces: 7 is not a table of tables"),
        ("fast_path = \"off\"\n[network.namespaces.batch]\npod_internet_egress = \"10M\"", "network.namespaces: needs the kernel programs"),
    ] {
        let all = faults(&network(set));
        assert!(all.len() == 1 && all[0].contains(said), "{set}: {all:?}");
    }
}

#[test]
fn a_namespace_may_have_addresses_that_nobody_else_has() {
    let network = |set: &str| {
        let source = "[source]\nkind = \"fixed\"\nranges = [\"10.0.1.16/28\", \"fd00:1::/80\"]\n";
        format!(
            "{source}[network]\nmasquerade = false\nservice_cidrs = [\"10.96.0.0/12\"]\n[network.namespaces.edge]\nallowed_addresses = {set}\n"
        )
    };
    let config = Config::from_toml(&network("[\"10.0.50.0/24\", \"fd00:50::/64\"]"), "host").unwrap();
    assert_eq!(config.allowed_addresses["edge"], ["10.0.50.0/24", "fd00:50::/64"].map(|text| text.parse::<IpNetwork>().unwrap()));
    assert_eq!(Config::from_toml(&network("[]"), "host").unwrap().allowed_addresses.len(), 0);
    for (set, said) in [
        ("[\"10.0.50.1/24\"]", "network.namespaces.edge.allowed_addresses[0]"),
        ("[\"10.0.1.0/24\"]", "network.namespaces.edge.allowed_addresses: 10.0.1.0/24 overlaps 10.0.1.16"),
        ("[\"fd00:1::/64\"]", "of source.ranges; name addresses that nobody else has"),
        ("[\"10.96.1.0/24\"]", "of network.service_cidrs"),
        ("[\"0.0.0.0/0\"]", "0.0.0.0/0 overlaps 0.0.0.0/8, which no pod may send from"),
        ("[\"169.254.1.0/24\"]", "169.254.0.0/16"),
        ("[\"fe80::/64\"]", "fe80::/10"),
        ("[\"ff02::/16\"]", "ff00::/8"),
        ("\"10.0.50.0/24\"", "is not an array"),
    ] {
        let all = faults(&network(set));
        assert!(all.iter().any(|fault| fault.contains(said)), "{set}: {all:?}");
    }
}

#[test]
fn a_limit_on_internet_egress_is_a_rate_and_needs_the_programs() {
    let network = |set: &str| LEAST.replacen("[network]", &format!("[network]\n{set}"), 1);
    let limit = |config: &Config, key| if key == "pod_internet_egress" { config.pod_internet_egress } else { config.node_internet_egress };
    for key in ["pod_internet_egress", "node_internet_egress"] {
        let read = |set: &str| limit(&Config::from_toml(&network(set), "host").unwrap(), key).map(BitRate::bytes);
        assert_eq!([read(""), read(&format!("{key} = \"10M\""))], [None, Some(1_250_000)]);
        for (value, part) in [("\"0\"", "\"0\" would stop"), ("\"10x\"", "\"10x\" is not a rate")] {
            let all = faults(&network(&format!("{key} = {value}")));
            assert!(all.len() == 1 && all[0].contains(&format!("network.{key}")) && all[0].contains(part), "{all:?}");
        }
        let all = faults(&network(&format!("fast_path = \"off\"\n{key} = \"10M\"")));
        assert!(all.len() == 1 && all[0].contains(&format!("network.{key}: needs the kernel programs")), "{all:?}");
    }
}

#[test]
fn what_the_runtime_cannot_be_told_is_a_fault() {
    for (key, part) in [
        ("chained_plugins = [{ type = \"bandwidth\" }]", "cni.chained_plugins[0]: \"bandwidth\" does not work behind barewire-cni"),
        ("chained_plugins = [{ type = \"portmap\" }, { type = \"../x\" }]", "cni.chained_plugins[1]: \"../x\" is a path"),
        ("chained_plugins = [{ type = \"barewire-cni\" }]", "in the list already"),
        ("chained_plugins = [{ type = \"\" }]", "empty type"),
        ("chained_plugins = [{ type = 7 }]", "is not a plugin"),
        ("bin_dirs = []", "cni.bin_dirs: is empty"),
        ("bin_dirs = [\"bin\"]", "cni.bin_dirs[0]: \"bin\" is not an absolute path"),
        ("versions = []", "cni.versions: is empty"),
        ("versions = [\"2.0.0\"]", "cni.versions[0]: cniVersion \"2.0.0\" is not supported"),
        ("status = \"loose\"", "cni.status: \"loose\" is unknown"),
    ] {
        let all = faults(&format!("{LEAST}[cni]\n{key}\n"));
        assert!(all.len() == 1 && all[0].contains(part), "{key}: {all:?}");
    }
}

#[test]
fn a_fleet_is_heard_where_replicas_are_named() {
    let minimal = |more: &str| format!("[network]\nmasquerade = false\n[source]\nkind = \"fixed\"\nranges = [\"10.0.1.0/28\"]\n{more}");
    let fleet = |more: &str| Config::from_toml(&minimal(more), "n").unwrap().fleet;
    assert_eq!(fleet(""), None);
    assert_eq!(fleet("[fleet]\nreplicas = []"), None);
    let default = fleet("[fleet]\nreplicas = [\"10.0.0.1:7443\", \"fleet.example:7443\"]").unwrap();
    let kubelet = "/var/lib/kubelet/pki/kubelet-client-current.pem";
    assert_eq!((default.files.certificate.to_str(), default.files.key.to_str()), (Some(kubelet), Some(kubelet)));
    assert_eq!(default.state_file.to_str(), Some("/var/lib/barewire/fleet.state"));
    let own = fleet("[fleet]\nreplicas = [\"[fd00::1]:7443\"]\ncertificate = \"/etc/a.crt\"\nkey = \"/etc/a.key\"").unwrap();
    assert_eq!(own.files.key.to_str(), Some("/etc/a.key"));
    let found = faults(&minimal("[fleet]\nreplicas = [\"10.0.0.1\", \":7443\", \"a:0\"]\nauthority = \"ca.crt\""));
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found[0].starts_with("fleet.replicas[0]: \"10.0.0.1\" is not a host and port like"), "{found:?}");
}

#[test]
fn a_fault_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = ConfigFile { path: directory.path().join("barewired.toml"), hostname: "host".to_owned() };
    let told = |error: ConfigFileError| format!("{:#}", anyhow::Error::new(error));
    assert_eq!(told(file.read().unwrap_err()).matches("No such file").count(), 1);
    std::fs::write(&file.path, "[source]\nkind = \"moon\"\n").unwrap();
    assert_eq!(told(file.read().unwrap_err()).matches("moon").count(), 1);
}

#[test]
fn services_are_served_where_it_is_said_and_a_fleet_tells_of_them() {
    let minimal = |more: &str| format!("{LEAST}{more}");
    let fleet = "[fleet]\nreplicas = [\"10.0.0.1:7443\"]\n";
    let services = |more: &str| Config::from_toml(&minimal(&format!("{fleet}{more}")), "n").unwrap().services;
    assert_eq!(services(""), None);
    assert_eq!(services("[services]\nmode = \"off\"\nexternal_ips = true"), None);
    let default = services("[services]\nmode = \"on\"").unwrap();
    assert!(default.node_port_addresses.is_empty() && !default.external_ips, "{default:?}");
    assert_eq!(default.health, "0.0.0.0:10256".parse().ok());
    let own = services("[services]\nmode = \"on\"\nnode_port_addresses = [\"10.0.0.0/8\"]\nhealth_listen = \"\"").unwrap();
    assert_eq!((own.node_port_addresses.len(), own.health), (1, None));
    let found = faults(&minimal("[services]\nmode = \"on\""));
    assert!(found.len() == 1 && found[0].starts_with("services.mode: \"on\" needs the fleet"), "{found:?}");
    let found = faults(&minimal("[services]\nmode = true\nnode_port_addresses = [\"10.0.0.1/8\"]\nhealth_listen = \"10256\""));
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn plug_ins_are_programs_with_bounds() {
    let text = "[health]\nenabled = true\n[health.plugins.xid]\ncommand = [\"/usr/lib/x\", \"-v\"]\n\
                [health.plugins.burn-in]\ncommand = [\"/b\"]\nkind = \"preflight\"\ntimeout_seconds = 600\nmemory_mib = 4096";
    let plugins = Config::from_toml(&format!("{LEAST}\n{text}"), "host").unwrap().health.unwrap().plugins;
    let [burn_in, xid] = &plugins[..] else { panic!("{plugins:?}") };
    assert_eq!((burn_in.kind, burn_in.memory, burn_in.cpu_seconds), (PluginKind::Preflight, 4 << 30, 600));
    assert_eq!((xid.kind, xid.failures, &*xid.arguments), (PluginKind::Passive, 2, &["-v".to_owned()][..]));
    assert_eq!((xid.interval.as_secs(), xid.timeout.as_secs(), xid.memory), (60, 10, 256 << 20));
    let many: String = (0..21).map(|number| format!("[health.plugins.p{number}]\ncommand = [\"/x\"]\n")).collect();
    let faults = Config::from_toml(&format!("{LEAST}\n{many}"), "host").unwrap_err().to_string();
    assert!(faults.contains("health.plugins: there are 21; at most 20"), "{faults}");
}

#[test]
fn checks_of_the_nodes_health_are_named_and_bounded() {
    let with = |health: &str| Config::from_toml(&format!("{LEAST}\n[health]\nenabled = true\n{health}"), "host");
    let all = with("").unwrap().health.unwrap();
    assert_eq!(all.checks.len(), crate::health_check::Check::ALL.len());
    let fewer = with("checks_off = [\"clock\", \"disk_var\"]\ninterval_seconds = { kubelet = 60 }").unwrap().health.unwrap();
    assert_eq!(fewer.checks.len(), all.checks.len() - 2);
    assert_eq!(fewer.checks[&crate::health_check::Check::Kubelet], std::time::Duration::from_secs(60));
    assert_eq!(Config::from_toml(LEAST, "host").unwrap().health, None, "in its first version a node is asked to");
    for (text, fault) in [
        ("checks_off = [\"clocks\"]", "health.checks_off[0]: there is no check \"clocks\"; there are uplink, "),
        ("interval_seconds = { clock = 0 }", "health.interval_seconds.clock: 0 is not a whole number from 1 to 3600"),
        ("interval_seconds = { nothing = 5 }", "health.interval_seconds.nothing: there is no check"),
        ("kubelet = \"localhost\"", "health.kubelet: \"localhost\" is not an address and port"),
        ("api_server = [\"10.0.0.10:6443\", \"api.internal\"]", "health.api_server[1]: \"api.internal\" is not an address and port like"),
        ("runtime_sockets = [\"a.sock\"]", "health.runtime_sockets[0]: \"a.sock\" is not an absolute path"),
        ("preflight_least_mbit = 0", "health.preflight_least_mbit: 0 is not a whole number from 1 to 10000000"),
        ("preflight_round_trip_micros = 0", "health.preflight_round_trip_micros: 0 is not a whole number from 1 to 10000000"),
        ("peer_port = 0", "health.peer_port: 0 is not a whole number from 1 to 65535"),
        ("[health.plugins.\"a/b\"]\ncommand = [\"/x\"]", "health.plugins.a/b: \"a/b\" is no name"),
        ("[health.plugins.a]\ncommand = [\"x\"]", "health.plugins.a.command: is missing or does not begin with an absolute path"),
        ("[health.plugins.a]\nkind = \"active\"", "health.plugins.a.kind: \"active\" is unknown; use \"passive\" or \"preflight\""),
        ("[health.plugins.a]\ntimeout_seconds = 0", "health.plugins.a.timeout_seconds: 0 is not a whole number from 1 to 7200"),
        ("[health.plugins.a]\nkind = \"preflight\"\ninterval_seconds = 5", "health.plugins.a.interval_seconds: is of passive plug-ins"),
        ("[health.plugins.a]\nevery = 5", "health.plugins.a.every: is no key"),
        ("plugins = [\"/x\"]", "health.plugins: [\"/x\"] is not a table of tables"),
    ] {
        let faults = with(text).unwrap_err().to_string();
        assert!(faults.contains(fault), "{faults}");
    }
}
