use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use super::*;

const EVERY: &str = "\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"";
const DEBIAN: &str = "\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\"";

/// A node's directories, with our plugin installed.
struct Node {
    home: tempfile::TempDir,
    conditions: Arc<NodeConditions>,
}

impl Node {
    fn new() -> Self {
        let node = Self { home: tempfile::tempdir().unwrap(), conditions: Arc::default() };
        fs::create_dir(node.home.path().join("bin")).unwrap();
        node.install(OWN_PLUGIN, EVERY);
        node
    }

    fn install(&self, plugin: &str, versions: &str) {
        let (draft, path) = (self.home.path().join("draft"), self.home.path().join("bin").join(plugin));
        fs::write(&draft, format!("#!/bin/sh\necho '{{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[{versions}]}}'\n")).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(draft, path).unwrap();
    }

    fn publisher(&self, chained: &str, has_stood: bool) -> Publisher {
        let text = format!(
            "[source]\nkind = \"fixed\"\nranges = [\"10.0.1.16/28\"]\n[network]\nmasquerade = false\n\
             [paths]\ncni_conf_file = {:?}\n[cni]\nbin_dirs = [{:?}]\nchained_plugins = [{chained}]\n",
            self.path(),
            self.home.path().join("bin")
        );
        Publisher::new(Config::from_toml(&text, "host").unwrap(), Arc::clone(&self.conditions), has_stood)
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("net.d/00-barewire.conflist")
    }

    fn list(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path()).unwrap()).unwrap()
    }

    fn types(&self) -> Vec<String> {
        self.list()["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    /// As istio-cni does: the whole list with its own plugin at the end, under another name and then renamed.
    fn append(&self, path: &Path, plugin: Value) {
        let mut list: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        list["plugins"].as_array_mut().unwrap().push(plugin);
        let draft = path.with_extension("tmp");
        fs::write(&draft, list.to_string()).unwrap();
        fs::rename(draft, path).unwrap();
    }

    fn condition(&self, kind: Kind) -> Option<(&'static str, String)> {
        self.conditions.all().into_iter().find(|condition| condition.kind == kind).map(|found| (found.reason, found.message))
    }
}

#[test]
fn it_is_written_when_an_add_would_succeed_and_not_again() {
    let node = Node::new();
    let mut publisher = node.publisher("", false);
    assert!(!publisher.look(Some("no uplink")));
    assert_eq!(node.condition(Kind::NoNetworkList).unwrap().0, "NotPublished");
    assert!(node.condition(Kind::NoNetworkList).unwrap().1.contains("no uplink"));
    assert!(!node.path().exists() && publisher.look(None));
    assert_eq!(node.list()["cniVersions"].as_array().unwrap().len(), 4);
    let written = fs::metadata(node.path()).unwrap().modified().unwrap();
    assert!(publisher.look(Some("no address is free")), "it stays");
    assert_eq!(fs::metadata(node.path()).unwrap().modified().unwrap(), written, "it is equal and not written again");
    assert!(node.conditions.all().is_empty(), "{:?}", node.conditions.all());
}

#[test]
fn it_offers_what_the_chain_speaks_and_follows_the_plugins() {
    let node = Node::new();
    node.install("portmap", DEBIAN);
    let mut publisher = node.publisher("{ type = \"portmap\" }", false);
    assert!(publisher.look(None));
    assert_eq!(node.list()["cniVersions"], json!(["0.3.1", "0.4.0", "1.0.0"]));
    node.install("portmap", EVERY);
    assert!(publisher.look(None));
    assert_eq!(node.list()["cniVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    // One that a newer runtime puts behind the list, from a file beside it.
    node.install("dropped-in", "\"0.4.0\",\"1.0.0\"");
    fs::create_dir(node.path().with_file_name("barewire")).unwrap();
    fs::write(node.path().with_file_name("barewire").join("mesh.conf"), "{\"type\":\"dropped-in\"}").unwrap();
    assert!(publisher.look(None));
    assert_eq!((&node.list()["cniVersions"], node.types().len()), (&json!(["0.4.0", "1.0.0"]), 2));
    fs::remove_file(node.path().with_file_name("barewire").join("mesh.conf")).unwrap();
    // An older plugin of ours beside a newer daemon.
    node.install(OWN_PLUGIN, "\"0.4.0\",\"1.0.0\"");
    assert!(publisher.look(None));
    assert_eq!((&node.list()["cniVersions"], &node.list()["cniVersion"]), (&json!(["0.4.0", "1.0.0"]), &json!("1.0.0")));
}

#[test]
fn a_missing_plugin_keeps_the_list_away_until_it_is_there_and_never_takes_it_away() {
    let node = Node::new();
    let mut publisher = node.publisher("{ type = \"portmap\" }", false);
    assert!(!publisher.look(None));
    let (reason, message) = node.condition(Kind::PluginUnusable).unwrap();
    assert!(reason == "NotFound" && message.contains("portmap"), "{message}");
    assert!(node.condition(Kind::NoNetworkList).unwrap().1.contains("portmap"));
    node.install("portmap", DEBIAN);
    assert!(publisher.look(None) && node.conditions.all().is_empty());
    let list = node.list();
    fs::remove_file(node.home.path().join("bin/portmap")).unwrap();
    assert!(publisher.look(None), "running pods are well");
    assert_eq!((node.list(), node.condition(Kind::PluginUnusable).unwrap().0), (list, "NotFound"));
    fs::remove_file(node.path()).unwrap();
    assert!(publisher.look(None), "it is back even so");
    assert_eq!(node.types(), ["barewire-cni", "portmap"]);
}

#[test]
fn without_a_common_version_there_is_nothing_to_offer() {
    let node = Node::new();
    node.install("new", "\"2.0.0\"");
    let mut publisher = node.publisher("{ type = \"new\" }", false);
    assert!(!publisher.look(None) && !node.path().exists());
    let (_, message) = node.condition(Kind::NoCommonVersion).unwrap();
    assert!(message.contains("new speaks 2.0.0") && message.contains("barewire-cni speaks 0.3.1"), "{message}");
}

#[test]
fn what_is_removed_or_damaged_is_back_with_what_others_appended() {
    let node = Node::new();
    node.install("istio-cni", DEBIAN);
    let mut publisher = node.publisher("", false);
    assert!(publisher.look(None));
    node.append(&node.path(), json!({ "type": "istio-cni", "log_level": "info" }));
    assert!(publisher.look(None));
    assert_eq!(node.list()["cniVersions"], json!(["0.3.1", "0.4.0", "1.0.0"]), "it has a say in the versions");
    assert_eq!(node.types(), ["barewire-cni", "istio-cni"]);
    fs::remove_file(node.path()).unwrap();
    assert!(publisher.look(Some("no address is free")), "a full node is no broken one");
    assert_eq!(node.types(), ["barewire-cni", "istio-cni"]);
    let before = node.list();
    for nonsense in ["", "{", "[]", "{\"plugins\":[]}", "{\"name\":\"x\",\"plugins\":[{\"type\":\"bridge\"}]}"] {
        fs::write(node.path(), nonsense).unwrap();
        assert!(publisher.look(None));
        assert_eq!(fs::read_to_string(node.path()).unwrap(), nonsense, "somebody may be writing it");
        assert!(publisher.look(None));
        assert_eq!(node.list(), before);
    }
    let aside = node.path().with_file_name("00-barewire.conflist.damaged");
    assert!(fs::read_to_string(aside).unwrap().contains("bridge"), "what was damaged last can be looked at");
}

#[test]
fn what_somebody_writes_while_we_look_is_not_overwritten() {
    let node = Node::new();
    let mut publisher = node.publisher("", false);
    assert!(publisher.look(None));
    let seen = file::read(&node.path()).unwrap();
    node.append(&node.path(), json!({ "type": "istio-cni" }));
    let ours = render(&publisher.config, &cni_spec::Version::ALL, &[], None);
    publisher.write(&ours, seen.as_ref()).unwrap();
    assert_eq!(node.types(), ["barewire-cni", "istio-cni"]);
}

#[test]
fn our_own_part_follows_the_configuration_and_theirs_stays() {
    let node = Node::new();
    for plugin in ["portmap", "tuning", "linkerd-cni"] {
        node.install(plugin, EVERY);
    }
    assert!(node.publisher("{ type = \"portmap\" }, { type = \"tuning\" }", false).look(None));
    node.append(&node.path(), json!({ "type": "linkerd-cni" }));
    assert!(node.publisher("{ type = \"portmap\", snat = false }", true).look(None));
    assert_eq!(node.types(), ["barewire-cni", "portmap", "linkerd-cni"]);
    assert_eq!(node.list()["plugins"][1]["snat"], false);
    let mut edited = node.list();
    edited["plugins"][1] = json!({ "type": "portmap", "snat": true });
    fs::write(node.path(), edited.to_string()).unwrap();
    assert!(node.publisher("{ type = \"portmap\", snat = false }", true).look(None));
    assert_eq!(node.list()["plugins"][1]["snat"], false, "our part is the configuration's");
}

#[test]
fn a_list_of_an_earlier_version_or_boot_hands_over_what_is_installed() {
    for has_stood in [false, true] {
        let node = Node::new();
        node.install("istio-cni", EVERY);
        let earlier = node.path().with_file_name("10-barewire.conflist");
        fs::create_dir(earlier.parent().unwrap()).unwrap();
        let old = json!({ "cniVersion": "1.0.0", "name": "barewire", "plugins": [{ "type": "barewire-cni" }, { "type": "gone" }] });
        fs::write(&earlier, old.to_string()).unwrap();
        node.append(&earlier, json!({ "type": "istio-cni" }));
        assert!(node.publisher("", has_stood).look(None));
        assert!(!earlier.exists() && node.types() == ["barewire-cni", "istio-cni"], "{:?}", node.types());
        file::withdraw_of_earlier_boot(&node.path()).unwrap();
        assert!(!node.path().exists());
        assert!(node.publisher("", false).look(None));
        assert_eq!(node.types(), ["barewire-cni", "istio-cni"]);
        assert_eq!(fs::read_dir(node.path().parent().unwrap()).unwrap().count(), 1);
    }
}

#[test]
fn other_configurations_and_a_bandwidth_plugin_are_conditions() {
    let node = Node::new();
    node.install("bandwidth", EVERY);
    let mut publisher = node.publisher("", false);
    assert!(publisher.look(None));
    fs::write(node.path().with_file_name("10-calico.conflist"), "{}").unwrap();
    node.append(&node.path(), json!({ "type": "bandwidth" }));
    assert!(publisher.look(None));
    let (reason, message) = node.condition(Kind::OtherNetworkList).unwrap();
    assert!(reason == "SortsBehind" && message.contains("10-calico.conflist; the runtime takes 00-barewire.conflist"), "{message}");
    assert!(node.condition(Kind::BandwidthChained).is_some());
    fs::write(node.path().with_file_name("00-a.conf"), "{}").unwrap();
    assert!(publisher.look(None));
    let (reason, message) = node.condition(Kind::OtherNetworkList).unwrap();
    assert!(reason == "SortsBefore" && message.contains("the runtime takes 00-a.conf"), "{message}");
    fs::copy(node.path(), node.path().with_file_name("00-a.conf")).unwrap();
    assert!(publisher.look(None));
    assert_eq!(node.condition(Kind::OtherNetworkList).unwrap().0, "WrapsOurs", "as Istio's own list, or Multus's");
    for name in ["10-calico.conflist", "00-a.conf"] {
        fs::remove_file(node.path().with_file_name(name)).unwrap();
    }
    assert!(publisher.look(None) && node.condition(Kind::OtherNetworkList).is_none());
}

#[test]
fn a_directory_in_its_place_is_a_condition_and_no_end() {
    let node = Node::new();
    fs::create_dir_all(node.path()).unwrap();
    let mut publisher = node.publisher("", false);
    for _ in 0..2 {
        assert!(!publisher.look(None));
        assert!(node.condition(Kind::NetworkListNotWritable).is_some());
    }
    fs::remove_dir(node.path()).unwrap();
    assert!(publisher.look(None) && node.conditions.all().is_empty(), "{:?}", node.conditions.all());
}
