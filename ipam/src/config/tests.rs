use cni_spec::Version;

use super::*;
use crate::readiness::StatusPolicy;

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
fn a_further_uplink_owns_its_ranges() {
    let further = "[uplink]\ninterface = \"eth1\"\n[[uplink.further]]\ninterface = \"eth2\"\ngateways = [\"10.0.0.1\", \"fe80::1\"]\nranges = [\"10.0.1.48/28\"]\n";
    let config = Config::from_toml(&format!("{LEAST}{further}"), "host").unwrap();
    assert_eq!(config.uplinks[1].interface, datapath::UplinkName::Interface("eth2".into()));
    assert_eq!(config.uplinks[1].gateways.len(), 2);
    assert_eq!(config.source.uplink_ranges().iter().map(|owned| owned.uplink).collect::<Vec<_>>(), [0, 1]);
    assert!(faults(&format!("{LEAST}{}", further.replace("eth2", "eth1")))[0].contains("uplink.further[0].interface"));
    assert!(faults(&format!("{LEAST}{}", further.replace("\"fe80::1\"", "\"10.0.0.2\"")))[0].contains("second one"));
    assert!(faults(&format!("{LEAST}{}", further.replace("10.0.1.48/28", "10.0.1.16/30")))[0].contains("overlaps"));
    assert!(faults(&format!("{LEAST}{further}surprise = 1"))[0].starts_with("uplink.further[0].surprise"));
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
    let api = AwsApi { endpoint: None, subnets: vec![], security_groups: vec![] };
    assert_eq!(aws.cloud, Cloud::Aws { metadata: None, api: Some(api) });
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
