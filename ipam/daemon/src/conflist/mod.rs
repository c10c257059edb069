//! The network configuration list that tells the runtime: this node has a network now.
//!
//! It appears when an ADD would first succeed in this boot and stays until `--uninstall`, also while the daemon is away:
//! containerd refuses even a DEL where it finds no list, and a pod could not be deleted (docs/adr/0005). Whoever removes or damages it
//! finds it back a moment later; what another agent has appended to it (a service mesh, for instance) stays. Here is what the list says;
//! [`file`] is how it is written, [`publisher`] when.

pub(crate) mod file;
pub(crate) mod publisher;

use std::path::Path;

use cni_spec::Version;
use serde_json::{Map, Value, json};

use crate::config::{Config, OWN_PLUGIN};

/// Names the plugins of the list that are ours, so that what others append can be told from what we once chained. Runtimes and agents
/// leave keys alone that they do not know.
const OURS: &str = "barewire/plugins";

/// What the file has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Present {
    /// A list with our plugin in it.
    Ours(Map<String, Value>),
    /// Something else, and why it is no list of ours.
    Damaged(String),
}

impl Present {
    pub(crate) fn parse(text: &str) -> Self {
        let list = match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(list)) => list,
            Ok(_) => return Self::Damaged("it is not an object".to_owned()),
            Err(why) => return Self::Damaged(format!("it is not JSON: {why}")),
        };
        match list.get("plugins").and_then(Value::as_array) {
            None => Self::Damaged("it has no list of plugins".to_owned()),
            Some(plugins) if plugins.iter().any(|plugin| plugin_type(plugin).is_none()) => {
                Self::Damaged("one of its plugins has no type".to_owned())
            }
            Some(plugins) if plugins.iter().any(|plugin| plugin_type(plugin) == Some(OWN_PLUGIN)) => Self::Ours(list),
            Some(_) => Self::Damaged(format!("{OWN_PLUGIN} is none of its plugins")),
        }
    }
}

pub(crate) fn plugin_type(plugin: &Value) -> Option<&str> {
    plugin.get("type").and_then(Value::as_str).filter(|kind| !kind.is_empty())
}

/// Our plugins: ours first, then those that the configuration chains.
fn own_plugins(config: &Config) -> Vec<Value> {
    let capabilities = json!({ "ips": true, "mac": true, "bandwidth": true, "io.kubernetes.cri.pod-annotations": true });
    let mut first = json!({ "type": OWN_PLUGIN, "capabilities": capabilities });
    let socket = config.run_dir.join("cni.sock");
    if socket != Path::new(node_api::DEFAULT_SOCKET) {
        first["socket"] = Value::from(socket.to_string_lossy());
    }
    std::iter::once(first).chain(config.cni.chained_plugins.iter().cloned()).collect()
}

/// What others have put into a list of ours, in their order: all but the first plugin of each type that is ours.
pub(crate) fn appended(list: &Map<String, Value>, config: &Config) -> Vec<Value> {
    let own = own_plugins(config);
    let own: Vec<&str> = own.iter().filter_map(plugin_type).collect();
    let named = list.get(OURS).and_then(Value::as_array).map(|names| names.iter().filter_map(Value::as_str).collect());
    // A list of an earlier version does not say.
    let mut written: Vec<&str> = named.unwrap_or_else(|| own.clone());
    let chained_since: Vec<&str> = own.iter().copied().filter(|kind| *kind == OWN_PLUGIN || !written.contains(kind)).collect();
    let mut others = Vec::new();
    for plugin in list.get("plugins").and_then(Value::as_array).into_iter().flatten() {
        let kind = plugin_type(plugin).unwrap_or_default();
        match written.iter().position(|ours| *ours == kind) {
            Some(position) => drop(written.remove(position)),
            // What the configuration chains by now is there once.
            None if chained_since.contains(&kind) => {}
            None => others.push(plugin.clone()),
        }
    }
    others
}

/// The plugins that a runtime executes for a list of ours, by type: those of the list, and those that are dropped in beside it.
pub(crate) fn chain(config: &Config, appended: &[Value]) -> Vec<String> {
    let of_list = own_plugins(config).into_iter().chain(appended.iter().cloned());
    let of_list = of_list.filter_map(|plugin| plugin_type(&plugin).map(str::to_owned));
    of_list.chain(file::drop_ins(&config.cni_conf_file, config.network.as_str())).collect()
}

/// The list. Keys of `present` that we do not set stay: whoever has set them wants them.
///
/// libcni before 1.2 (containerd 1.x) reads `cniVersion` alone and knows nothing newer than 1.0.0; later ones take the newest that they
/// know of `cniVersions` and `cniVersion`.
pub(crate) fn render(
    config: &Config,
    versions: &[Version],
    appended: &[Value],
    present: Option<&Map<String, Value>>,
) -> Map<String, Value> {
    let mut list = present.cloned().unwrap_or_default();
    let own = own_plugins(config);
    let for_old = versions.iter().rev().find(|version| **version <= Version::V1_0_0).or(versions.first());
    if let Some(version) = for_old {
        list.insert("cniVersion".into(), Value::from(version.as_str()));
    }
    if versions.len() > 1 {
        list.insert("cniVersions".into(), versions.iter().map(|version| version.as_str()).collect());
    } else {
        list.remove("cniVersions");
    }
    // libcni refuses a list where one of these is something else.
    for key in ["disableCheck", "disableGC", "loadOnlyInlinedPlugins"] {
        if list.get(key).is_some_and(|value| !value.is_boolean()) {
            list.remove(key);
        }
    }
    list.insert("name".into(), Value::from(config.network.as_str()));
    list.insert(OURS.into(), own.iter().filter_map(plugin_type).collect());
    list.insert("plugins".into(), own.into_iter().chain(appended.iter().cloned()).collect());
    list
}

/// As it is written.
pub(crate) fn text(list: &Map<String, Value>) -> String {
    format!("{:#}\n", Value::from(list.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(chained: &str) -> Config {
        let text = format!(
            "[source]\nkind = \"fixed\"\nranges = [\"10.0.1.16/28\"]\n[network]\nmasquerade = false\n[cni]\nchained_plugins = [{chained}]\n"
        );
        Config::from_toml(&text, "host").unwrap()
    }

    fn types(plugins: &[Value]) -> Vec<&str> {
        plugins.iter().filter_map(plugin_type).collect()
    }

    fn with_plugins(list: &Map<String, Value>, change: impl FnOnce(&mut Vec<Value>)) -> Map<String, Value> {
        let mut list = list.clone();
        change(list["plugins"].as_array_mut().unwrap());
        list
    }

    #[test]
    fn the_list_chains_what_was_configured_and_offers_what_all_speak() {
        let config = config("{ type = \"portmap\", capabilities = { portMappings = true } }");
        let list = render(&config, &Version::ALL, &[], None);
        assert_eq!(list["cniVersion"], "1.0.0");
        assert_eq!(list["cniVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
        assert_eq!(types(list["plugins"].as_array().unwrap()), ["barewire-cni", "portmap"]);
        assert_eq!(list["plugins"][1]["capabilities"]["portMappings"], true);
        assert_eq!(list["plugins"][0]["capabilities"]["bandwidth"], true);
        assert!(list["plugins"][0].get("socket").is_none());
        let Present::Ours(read) = Present::parse(&text(&list)) else { panic!("it is ours") };
        assert_eq!(read, list);
    }

    #[test]
    fn an_old_runtime_is_given_a_version_that_it_knows() {
        let version = |versions: &[Version]| {
            let list = render(&config(""), versions, &[], None);
            (list["cniVersion"].as_str().unwrap().to_owned(), list.get("cniVersions").map(|all| all.as_array().unwrap().len()))
        };
        assert_eq!(version(&[Version::V0_3_1, Version::V0_4_0]), ("0.4.0".to_owned(), Some(2)));
        assert_eq!(version(&[Version::V1_0_0]), ("1.0.0".to_owned(), None));
        assert_eq!(version(&[Version::V1_1_0]), ("1.1.0".to_owned(), None), "there is no other");
    }

    #[test]
    fn what_others_append_or_set_stays_and_what_we_chained_goes_with_the_configuration() {
        let before = config("{ type = \"portmap\" }, { type = \"tuning\", mtu = 1 }");
        let list = render(&before, &Version::ALL, &[], None);
        let istio = json!({ "type": "istio-cni", "kubernetes": { "kubeconfig": "/etc/cni/net.d/ZZZ-istio-cni-kubeconfig" } });
        let mesh = json!({ "type": "linkerd-cni" });
        let mut edited = with_plugins(&list, |plugins| {
            plugins.insert(1, mesh.clone());
            plugins.push(istio.clone());
        });
        edited.insert("disableGC".into(), Value::from(true));
        edited.insert("disableCheck".into(), Value::from("sometimes"));
        let others = appended(&edited, &before);
        assert_eq!(others, [mesh.clone(), istio.clone()]);
        let now = config("{ type = \"portmap\" }");
        let written = render(&now, &Version::ALL, &appended(&edited, &now), Some(&edited));
        assert_eq!(types(written["plugins"].as_array().unwrap()), ["barewire-cni", "portmap", "linkerd-cni", "istio-cni"]);
        assert!(written["disableGC"] == true && !written.contains_key("disableCheck"), "{written:?}");
        let again = render(&now, &Version::ALL, &appended(&written, &now), Some(&written));
        assert_eq!(again, written, "written once, it stays as it is");
        assert!(appended(&list, &before).is_empty());
    }

    #[test]
    fn what_others_appended_and_is_chained_by_now_is_there_once() {
        let list = render(&config(""), &Version::ALL, &[], None);
        let edited = with_plugins(&list, |plugins| plugins.push(json!({ "type": "istio-cni" })));
        let now = config("{ type = \"istio-cni\", mine = true }");
        assert!(appended(&edited, &now).is_empty());
        let doubled = with_plugins(&list, |plugins| plugins.push(plugins[0].clone()));
        assert!(appended(&doubled, &now).is_empty(), "ours is there once");
        let tuned = config("{ type = \"tuning\" }");
        let twice = with_plugins(&render(&tuned, &Version::ALL, &[], None), |plugins| plugins.push(json!({ "type": "tuning", "mtu": 9 })));
        assert_eq!(appended(&twice, &tuned), [json!({ "type": "tuning", "mtu": 9 })], "somebody else's of the same type");
    }

    #[test]
    fn a_list_of_an_earlier_version_does_not_say_what_was_chained() {
        let config = config("{ type = \"portmap\" }");
        let mut list = render(&config, &Version::ALL, &[json!({ "type": "istio-cni" })], None);
        list.remove(OURS);
        assert_eq!(types(&appended(&list, &config)), ["istio-cni"]);
    }

    #[test]
    fn nonsense_is_no_list_of_ours() {
        for (text, why) in [
            ("", "not JSON"),
            ("{\"cniVersion\": \"1.0.0\", \"plug", "not JSON"),
            ("[]", "not an object"),
            ("{}", "no list of plugins"),
            ("{\"plugins\": {}}", "no list of plugins"),
            ("{\"plugins\": []}", "none of its plugins"),
            ("{\"plugins\": [{\"type\": \"bridge\"}]}", "none of its plugins"),
            ("{\"plugins\": [{\"type\": \"barewire-cni\"}, {}]}", "no type"),
            ("{\"plugins\": [{\"type\": \"barewire-cni\"}, {\"type\": 7}]}", "no type"),
        ] {
            let Present::Damaged(told) = Present::parse(text) else { panic!("{text:?} is taken for a list") };
            assert!(told.contains(why), "{text:?}: {told}");
        }
    }
}
