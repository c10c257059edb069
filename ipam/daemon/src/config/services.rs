//! `[services]`: whether barewired serves Services of Kubernetes.

use std::net::SocketAddr;

use ipnetwork::IpNetwork;

use super::reader::Reader;

/// Where kube-proxy tells load balancers how it is.
const HEALTH: &str = "0.0.0.0:10256";

/// How Services are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicesConfig {
    /// `services.node_port_addresses`: which of the node's addresses serve node ports; none: of each family the first of the uplink.
    pub node_port_addresses: Vec<IpNetwork>,
    /// `services.external_ips`: whether `spec.externalIPs` are served.
    pub external_ips: bool,
    /// `services.health_listen`: where load balancers ask about the node as a whole; `None` for `""`.
    pub health: Option<SocketAddr>,
}

/// Nothing with `services.mode = "off"`.
pub(super) fn read(reader: &mut Reader, hears_a_fleet: bool) -> Option<ServicesConfig> {
    let is_on = match reader.string("services.mode").as_deref() {
        None | Some("off") => false,
        Some("on") => true,
        Some(other) => {
            reader.fault("services.mode", &format!("{other:?} is unknown; use \"on\" or \"off\""));
            false
        }
    };
    if is_on && !hears_a_fleet {
        reader
            .fault("services.mode", "\"on\" needs the fleet, which tells of Services: name its replicas in fleet.replicas, or use \"off\"");
    }
    let node_port_addresses = super::cidrs(reader, "services.node_port_addresses");
    let external_ips = reader.boolean("services.external_ips").unwrap_or(false);
    let health = match reader.string("services.health_listen").as_deref().unwrap_or(HEALTH) {
        "" => None,
        text => {
            let parsed = text.parse();
            parsed.map_err(|_| reader.fault("services.health_listen", &format!("{text:?} is not an address and port like {HEALTH}"))).ok()
        }
    };
    is_on.then_some(ServicesConfig { node_port_addresses, external_ips, health })
}
