//! The network configuration list that tells the runtime: this node has a network now.
//!
//! It appears when an ADD would first succeed in this boot and stays until `--uninstall`, also while the daemon is away:
//! containerd refuses even a DEL where it finds no list, and a pod could not be deleted (docs/adr/0005). A list left by an
//! earlier boot is removed at start. Whether an ADD would succeed at a given moment is what STATUS tells.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cni_spec::Version;
use serde_json::{Value, json};

use crate::config::Config;

/// The list as JSON text. `cniVersion` is what runtimes older than CNI 1.1 take; newer ones choose from `cniVersions`.
#[must_use]
pub fn render(config: &Config) -> String {
    let mut ours = json!({ "type": "barewire-cni", "capabilities": { "ips": true, "mac": true } });
    let socket = config.run_dir.join("cni.sock");
    if socket != Path::new(node_api::DEFAULT_SOCKET) {
        ours["socket"] = Value::from(socket.to_string_lossy());
    }
    let plugins: Vec<Value> = std::iter::once(ours).chain(config.chained_plugins.iter().cloned()).collect();
    let list = json!({
        "cniVersion": Version::V1_0_0.as_str(),
        "cniVersions": Version::ALL.map(Version::as_str),
        "name": config.network.as_str(),
        "plugins": plugins,
    });
    format!("{list:#}\n")
}

/// Writes the list so that a reader sees all of it or none.
///
/// # Errors
/// What the file system says.
pub fn publish(config: &Config) -> io::Result<()> {
    let path = &config.cni_conf_file;
    let text = render(config);
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    // Runtimes read *.conf, *.conflist and *.json; this name is none of them.
    let draft = path.with_extension("barewire-draft");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(directory)?.sync_all()
}

/// Removes the list.
///
/// # Errors
/// What the file system says; a list that is not there is no error.
pub fn withdraw(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &str) -> Config {
        let text = format!("[source]\nkind = \"fixed\"\nranges = [\"10.0.1.16/28\"]\n[network]\nmasquerade = false\n{extra}");
        Config::from_toml(&text, "host").unwrap()
    }

    #[test]
    fn the_list_offers_every_version_and_chains_what_was_configured() {
        let text = render(&config("[cni]\nchained_plugins = [{ type = \"portmap\", capabilities = { portMappings = true } }]"));
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(list["cniVersion"], "1.0.0");
        assert_eq!(list["cniVersions"].as_array().unwrap().len(), 4);
        assert_eq!(list["plugins"][0]["type"], "barewire-cni");
        assert_eq!(list["plugins"][1]["capabilities"]["portMappings"], true);
        assert!(list["plugins"][0].get("socket").is_none());
    }

    #[test]
    fn publish_is_atomic_and_repeatable() {
        let home = tempfile::tempdir().unwrap();
        let mut config = config("");
        config.cni_conf_file = home.path().join("net.d/10-barewire.conflist");
        for _ in 0..2 {
            publish(&config).unwrap();
        }
        let files: Vec<_> = fs::read_dir(home.path().join("net.d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["10-barewire.conflist"]);
        withdraw(&config.cni_conf_file).unwrap();
        withdraw(&config.cni_conf_file).unwrap();
    }
}
