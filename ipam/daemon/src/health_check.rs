//! The checks that there are, and what one says.

use std::time::Duration;

use serde::Serialize;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", content = "message", rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// Not so, and this was seen.
    Failed(String),
    /// It could not be told, and why. Neither good nor bad.
    Unknown(String),
}

impl Verdict {
    pub(crate) const RESULTS: [&'static str; 3] = ["ok", "failed", "unknown"];

    pub(crate) fn result(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed(_) => "failed",
            Self::Unknown(_) => "unknown",
        }
    }

    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Ok => "",
            Self::Failed(message) | Self::Unknown(message) => message,
        }
    }
}

/// What a verdict is made of: how often it has to be said before it is believed (`fleet_plans::health::About`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Basis {
    /// What the node sees of itself.
    Own,
    /// What others answer over the network.
    Probe,
    /// Likewise, and it is about them.
    Peer,
}

/// A check that the daemon makes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// Carrier of the uplinks.
    Uplink,
    /// Their speed, against the highest that was seen.
    UplinkSpeed,
    /// How often they have lost their carrier.
    UplinkFlaps,
    /// Packets with errors.
    UplinkErrors,
    /// The neighbour entry of the default gateway.
    Gateway,
    /// How full the table of tracked connections is.
    Conntrack,
    /// How full the tables of neighbours are.
    Neighbours,
    /// The kernel programs on the uplinks.
    Programs,
    /// What the daemon knows of the node's network that makes ADDs fail.
    Network,
    /// Whether the fleet is heard.
    Fleet,
    /// Whether something keeps the clock, and well.
    Clock,
    /// What kubelet hears of the API server.
    ApiServer,
    /// The host's name servers.
    Dns,
    /// What the cloud has announced to do to the machine.
    Maintenance,
    /// `/`.
    DiskRoot,
    /// `/var`.
    DiskVar,
    /// kubelet's `/healthz`.
    Kubelet,
    /// The container runtime's socket.
    Runtime,
    /// What the kernel has logged.
    KernelLog,
    /// A few other nodes.
    Peers,
}

impl Check {
    /// Each with its name.
    pub(crate) const ALL: [(Self, &'static str); 20] = [
        (Self::Uplink, "uplink"),
        (Self::UplinkSpeed, "uplink_speed"),
        (Self::UplinkFlaps, "uplink_flaps"),
        (Self::UplinkErrors, "uplink_errors"),
        (Self::Gateway, "gateway"),
        (Self::Conntrack, "conntrack"),
        (Self::Neighbours, "neighbours"),
        (Self::Programs, "programs"),
        (Self::Network, "network"),
        (Self::Fleet, "fleet"),
        (Self::Clock, "clock"),
        (Self::ApiServer, "api_server"),
        (Self::Dns, "dns"),
        (Self::Maintenance, "maintenance"),
        (Self::DiskRoot, "disk_root"),
        (Self::DiskVar, "disk_var"),
        (Self::Kubelet, "kubelet"),
        (Self::Runtime, "runtime"),
        (Self::KernelLog, "kernel_log"),
        (Self::Peers, "peers"),
    ];

    pub(crate) const fn basis(self) -> Basis {
        if matches!(self, Self::Gateway | Self::Peers | Self::ApiServer | Self::Dns) { Basis::Probe } else { Basis::Own }
    }

    /// Between two looks.
    pub(crate) const fn interval(self) -> Duration {
        Duration::from_secs(match self {
            Self::Uplink | Self::Gateway | Self::KernelLog | Self::Peers => 1,
            Self::Conntrack | Self::Neighbours | Self::Programs | Self::Network | Self::Kubelet | Self::Runtime | Self::Maintenance => 5,
            Self::UplinkSpeed | Self::UplinkFlaps | Self::UplinkErrors | Self::Fleet | Self::DiskRoot | Self::DiskVar => 10,
            Self::ApiServer | Self::Dns => 10,
            Self::Clock => 30,
        })
    }

    /// A look that takes longer is unknown until it comes back.
    pub(crate) const fn limit(self) -> Duration {
        Duration::from_secs(5)
    }
}
