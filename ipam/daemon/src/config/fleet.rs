//! `[fleet]`: who watches the API server for this node.

use std::path::{Path, PathBuf};

use fleet_client::client::Files;

use super::reader::Reader;

/// Where kubelet keeps its certificate with its key, as it rotates them.
const KUBELET: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
const STATE_FILE: &str = "/var/lib/barewire/fleet.state";

/// How the fleet is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetConfig {
    /// `fleet.replicas`: `host:port`, to begin with; what replicas tell of others is kept in the file.
    pub replicas: Vec<String>,
    /// `fleet.authority`, `fleet.certificate` and `fleet.key`, read anew for each connection.
    pub files: Files,
    /// `fleet.state_file`: what is known, for the next start.
    pub state_file: PathBuf,
}

/// Nothing without `fleet.replicas`: then nothing is heard and nothing is kept.
pub(super) fn read(reader: &mut Reader) -> Option<FleetConfig> {
    let replicas = reader.strings("fleet.replicas").unwrap_or_default();
    for (index, replica) in replicas.iter().enumerate() {
        let is_address =
            replica.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        if !is_address {
            reader.fault(&format!("fleet.replicas[{index}]"), &format!("{replica:?} is not a host and port like 10.0.0.1:7443"));
        }
    }
    let authority = reader.absolute_path("fleet.authority", "/etc/barewire/fleet-ca.crt");
    let certificate = reader.absolute_path("fleet.certificate", KUBELET);
    let beside = certificate.as_deref().unwrap_or(Path::new(KUBELET)).display().to_string();
    let key = reader.absolute_path("fleet.key", &beside);
    let state_file = reader.absolute_path("fleet.state_file", STATE_FILE);
    let files = Files { authority: authority?, certificate: certificate?, key: key? };
    let state_file = state_file?;
    (!replicas.is_empty()).then_some(FleetConfig { replicas, files, state_file })
}
