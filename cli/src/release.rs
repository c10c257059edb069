//! `barewire addresses release`: the one thing that this command changes in a daemon. It goes over the daemon's own socket, which takes root
//! alone, not over HTTP, where anybody on the node may ask.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use node_api::{ClientError, Request, call};
use serde_json::json;

use crate::exit::Exit;
use crate::inventory::Told;

/// The daemon looks at the kernel's links, for which it may have to wait.
const LIMIT: Duration = Duration::from_secs(20);

/// Which address.
#[derive(Debug, Args)]
pub(crate) struct Release {
    #[arg(value_name = "ADDRESS")]
    address: IpAddr,
    /// That you have looked, and nobody has the address
    #[arg(long)]
    force: bool,
    /// The daemon's socket: cni.sock in its `paths.run_dir`
    #[arg(long, value_name = "FILE", default_value = node_api::DEFAULT_SOCKET)]
    socket: PathBuf,
}

impl Release {
    /// Asks the daemon; what it said.
    pub(crate) fn ask(&self) -> Told {
        let Self { address, force, socket } = self;
        if !force {
            let text = format!(
                "{address} was not released. It is quarantined because somebody may have it: see `barewire addresses --state quarantined` for why, \
                 look whether a pod or a machine answers to it, and say so with --force\n"
            );
            return (text, json!({ "address": address, "released": false }), Exit::Usage);
        }
        match call(socket, concat!("barewire ", env!("CARGO_PKG_VERSION")), &Request::ReleaseAddress(*address), None, LIMIT) {
            Ok(_) => (format!("{address} is free once it has cooled down\n"), json!({ "address": address, "released": true }), Exit::Fine),
            Err(error) => {
                let (why, exit) = match error {
                    ClientError::Refused(refusal) => (refusal.msg, Exit::Degraded),
                    away => (format!("{away}; run this as root, and see `systemctl status barewired`"), Exit::Unreachable),
                };
                (format!("{why}\n"), json!({ "address": address, "released": false, "error": why }), exit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_without_force_and_nobody_answers_where_nobody_is() {
        let folder = tempfile::tempdir().unwrap();
        let release = |force| Release { address: "10.0.1.19".parse().unwrap(), force, socket: folder.path().join("cni.sock") };
        let (text, json, exit) = release(false).ask();
        assert!(exit == Exit::Usage && text.contains("--force") && json["released"] == false, "{text}");
        let (text, json, exit) = release(true).ask();
        assert!(exit == Exit::Unreachable && text.contains("cni.sock") && json["released"] == false, "{text}");
    }
}
