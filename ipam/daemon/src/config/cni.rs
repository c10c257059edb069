//! `[cni]`: what the runtime is told, and which plugins it runs behind ours.

use std::path::PathBuf;

use cni_spec::Version;
use toml::Value;

use super::reader::Reader;
use crate::readiness::StatusPolicy;

/// The plugin of our own.
pub(crate) const OWN_PLUGIN: &str = "barewire-cni";
/// Where distributions, kubeadm and containerd's default configuration expect plugins.
const DEFAULT_BIN_DIR: &str = "/opt/cni/bin";

/// What the runtime is told.
#[derive(Debug, Clone, PartialEq)]
pub struct CniConfig {
    /// `cni.chained_plugins`: plugins behind ours in the list.
    pub chained_plugins: Vec<serde_json::Value>,
    /// `cni.bin_dirs`: where the runtime looks for plugins, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// `cni.versions`: what the list offers, oldest first; nothing for what all plugins speak.
    pub versions: Option<Vec<Version>>,
    /// `cni.status`
    pub status: StatusPolicy,
}

pub(super) fn read(reader: &mut Reader) -> CniConfig {
    let chained_plugins = chained_plugins(reader);
    let status = match reader.string("cni.status").as_deref() {
        None | Some("lenient") => StatusPolicy::Lenient,
        Some("strict") => StatusPolicy::Strict,
        Some(other) => {
            reader.fault("cni.status", &format!("{other:?} is unknown; use \"lenient\" or \"strict\""));
            StatusPolicy::Lenient
        }
    };
    CniConfig { chained_plugins, bin_dirs: bin_dirs(reader), versions: versions(reader), status }
}

fn bin_dirs(reader: &mut Reader) -> Vec<PathBuf> {
    const KEY: &str = "cni.bin_dirs";
    let Some(texts) = reader.strings(KEY) else { return vec![PathBuf::from(DEFAULT_BIN_DIR)] };
    if texts.is_empty() {
        reader.fault(KEY, "is empty; name the directories that the runtime looks for plugins in, like [\"/opt/cni/bin\"]");
    }
    let directories: Vec<_> = texts.into_iter().map(PathBuf::from).collect();
    for (index, directory) in directories.iter().enumerate() {
        if !directory.is_absolute() {
            reader.fault(&format!("{KEY}[{index}]"), &format!("{:?} is not an absolute path", directory.display()));
        }
    }
    directories
}

fn versions(reader: &mut Reader) -> Option<Vec<Version>> {
    const KEY: &str = "cni.versions";
    let texts = reader.strings(KEY)?;
    if texts.is_empty() {
        reader.fault(KEY, "is empty; leave it out to have what all plugins of the chain speak");
    }
    let mut versions = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match text.parse::<Version>() {
            Ok(version) => versions.push(version),
            Err(error) => reader.fault(&format!("{KEY}[{index}]"), &error.msg),
        }
    }
    versions.sort_unstable();
    versions.dedup();
    Some(versions)
}

fn chained_plugins(reader: &mut Reader) -> Vec<serde_json::Value> {
    let Some(values) = reader.array("cni.chained_plugins") else { return Vec::new() };
    let mut plugins = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let key = format!("cni.chained_plugins[{index}]");
        match value.get("type").and_then(Value::as_str).map(unusable_type) {
            None => reader.fault(&key, "is not a plugin; write { type = \"portmap\", … }"),
            Some(Some(why)) => reader.fault(&key, &why),
            Some(None) => match serde_json::to_value(&value) {
                Ok(plugin) => plugins.push(plugin),
                Err(why) => reader.fault(&key, &format!("cannot be written as JSON: {why}")),
            },
        }
    }
    plugins
}

/// Why a plugin cannot stand behind ours.
fn unusable_type(name: &str) -> Option<String> {
    match name {
        "" => Some("has an empty type; write { type = \"portmap\", … }".to_owned()),
        OWN_PLUGIN => Some(format!("{name:?} is in the list already, as its first plugin; remove it")),
        BANDWIDTH => Some(format!("{name:?} {BANDWIDTH_WHY}; {BANDWIDTH_REMEDY}")),
        _ if name.contains('/') => Some(format!("{name:?} is a path; write the plugin's file name, and its directory in cni.bin_dirs")),
        _ => None,
    }
}

/// The reference plugin that limits by queues on the host end.
pub(crate) const BANDWIDTH: &str = "bandwidth";
/// What is wrong with it behind us.
pub(crate) const BANDWIDTH_WHY: &str = "does not work behind barewire-cni: a pod with an egress limit would not start (its queue cannot \
     stand beside the kernel programs on the pod's link), and an ingress limit would do nothing (packets from the network do not pass \
     the host end's queue)";
/// What to do about it.
const BANDWIDTH_REMEDY: &str =
    "remove it: barewire-cni itself keeps the limits of the annotations kubernetes.io/ingress-bandwidth and egress-bandwidth";
