//! Every type of condition, declared once: what holds, what it means for new pods and for STATUS. docs/configuration.md's table is
//! written from here.

/// What documentation says of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meaning {
    name: &'static str,
    fails_adds: bool,
    pub(crate) holds: &'static str,
    pub(crate) new_pods: &'static str,
    pub(crate) status: &'static str,
}

/// A runtime's ADD fails, or gives a pod no network.
const FAILS: bool = true;
/// ADDs go on.
const GOES: bool = false;

macro_rules! kinds {
    ($($kind:ident, $fails_adds:ident, $holds:literal, $new_pods:literal, $status:literal;)*) => {
        /// What a condition is about: its `type`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = $holds] $kind,)*
        }

        impl Kind {
            /// Every type.
            pub(crate) const ALL: &[Self] = &[$(Self::$kind),*];

            pub(crate) const fn meaning(self) -> Meaning {
                match self {
                    $(Self::$kind => Meaning {
                        name: stringify!($kind),
                        fails_adds: $fails_adds,
                        holds: $holds,
                        new_pods: $new_pods,
                        status: $status,
                    },)*
                }
            }
        }
    };
}

// The type; whether an ADD fails while it holds; what holds; what becomes of new pods; what STATUS says.
kinds! {
    NoUplink, FAILS, "the node's own uplink is not there, or not known yet", "fail", "fails, unless not known yet";
    UplinkDown, FAILS, "the node's own uplink has no carrier, or is set down", "fail", "fails";
    SecondaryUplinkDown, GOES, "one of `uplink.secondary` is not there or down", "get no address of it", "";
    UplinkNewsLost, GOES, "the kernel's news of interfaces are not to be had: they are looked for every seven seconds", "", "";
    ForwardingRefused, FAILS, "the kernel does not forward, and barewired may not change that", "get no network", "fails";
    SysctlRefused, GOES, "a setting beside forwarding was refused", "of it may be cut off", "";
    RulesRefused, GOES, "`nft` is missing or fails: no masquerade, no marks", "reach native networks alone", "";
    RoutesRefused, GOES, "a route of a further uplink, or the unreachable route of a pod range, was refused", "of it may be cut off", "";
    FastPathUnavailable, GOES, "the kernel programs are not (all) in use", "take the host's stack", "";
    UplinkHookLost, GOES,
        "an uplink lacks one of the programs, or another's is ahead of it; both directions take the host's stack",
        "take the host's stack", "";
    FamilyNotCarried, GOES,
        "somebody's rules may treat packets of a family otherwise, so nothing of it is carried ([fast-path.md](fast-path.md#what-the-host-would-treat-otherwise))",
        "take the host's stack", "";
    PodsNotForwarded, GOES, "the host's own rules drop packets of pods, in the chain that the message names", "are cut off in part", "";
    ForwardAcceptRefused, GOES, "the rules of `network.forward_accept` could not be set", "are cut off in part", "";
    HostRulesUnread, GOES, "routes or rules of the host cannot be read; nothing is carried before they were", "take the host's stack", "";
    ServicesNative, GOES, "addresses of services lie in native networks and not in `network.service_cidrs`", "", "";
    UplinkNotEthernet, GOES, "one of `uplink.secondary` is a tunnel or the like, without Ethernet frames", "get no address of it", "";
    FilterOnPodLink, GOES,
        "another tool has a tc filter or TCX program on a pod's link; it is to see all of the pod's packets",
        "that pod's take the host's stack", "";
    PodLinkGone, GOES, "somebody has removed the host end of a pod's link; its name is in the message", "that pod has no network", "";
    PodLinkNotRestored, GOES, "a pod's host end was altered, and the kernel refuses to have it back", "that pod may be cut off", "";
    AddressesOfHost, GOES,
        "an interface of the node has addresses of the pods' ranges: no pod gets them, and their block is not given back",
        "one that has such an address already is cut off in part", "";
    FlowTableFull, GOES,
        "a pod has as many connections by the host's stack as one may ([fast-path.md](fast-path.md#how-long-a-note-lives)); its name is in the message",
        "the pod's further ones are dropped", "";
    FlowsUnknown, GOES, "pods ran before the kernel programs did, and conntrack cannot be read", "those keep to the host's stack", "";
    AddressesExhausted, FAILS, "all addresses of a family are in use, cooling down or closed", "wait", "";
    KernelHeldUp, FAILS,
        "somebody holds the kernel's lock of network configuration (RTNL); [ADR 24](adr/0024-who-waits-in-the-kernel.md)",
        "fail", "";
    StoreNotWritable, FAILS, "an attachment could not be made durable", "fail", "";
    CloudDegraded, GOES, "calls of the cloud fail, or it has taken addresses back", "", "";
    PluginUnusable, FAILS, "a plugin of the chain is missing, is no program, or does not answer VERSION", "fail", "";
    NoCommonVersion, FAILS, "no CNI version is common to all plugins of the chain", "fail", "";
    BandwidthChained, GOES, "another agent has appended the plugin `bandwidth`", "those with limits fail", "";
    NoNetworkList, FAILS, "the network configuration list is not there (yet)", "are not asked for", "";
    NetworkListNotWritable, GOES, "the network configuration list cannot be read or written",
        "are not asked for, where it does not stand", "";
    OtherNetworkList, GOES, "another network's configuration is in the directory; the message says which one the runtime takes", "", "";
    TelemetryNotServed, GOES, "`telemetry.listen` is taken; to be found in the log, of course", "", "";
    SocketNotServed, FAILS, "the socket was removed and cannot be made again", "fail", "fails: nobody answers";
    RunDirectoryLost, GOES, "the store or the lock of the running daemon was removed", "are attached, and found again by their links", "";
    FleetNotHeard, GOES, "no replica of the fleet has been heard for a minute; the message says why", "find Services as they were", "";
    FleetStateNotKept, GOES, "`fleet.state_file` cannot be written, or was damaged", "", "";
    ServicesNotApplied, GOES,
        "Services are not served as the fleet tells ([services.md](services.md#what-is-wrong)): nothing was told yet, or the rules could not be set",
        "find Services as they were", "";
    KubeProxyBeside, GOES, "kube-proxy's rules are there beside ours, or alone", "", "";
    HealthChecksNotServed, GOES, "a port on which load balancers ask is taken or cannot be listened on", "", "";
    UplinkSlow, GOES, "an uplink has a lower speed than it has had since barewired's start", "have less bandwidth", "";
    LimitAboveLink, GOES, "a limit of bandwidth is above the speed of every uplink; the message says whose", "", "";
    UplinkFlapping, GOES, "an uplink has lost its carrier three times within ten minutes", "lose packets", "";
    UplinkErrors, GOES, "of an uplink's packets of half a minute one of a hundred had an error, and a hundred at least", "lose packets", "";
    GatewaySilent, GOES, "the neighbour entry of the default gateway has not been resolved for three seconds", "reach nobody beyond it", "";
    ConntrackFull, GOES, "nine tenths of `nf_conntrack_max` are taken", "lose new connections soon", "";
    NeighboursFull, GOES, "nine tenths of a `gc_thresh3` are taken", "reach no new neighbours soon", "";
}

impl Kind {
    /// The `type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.meaning().name
    }

    /// Whether a runtime's ADD fails, or gives a pod no network, while it holds.
    #[must_use]
    pub const fn fails_adds(self) -> bool {
        self.meaning().fails_adds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_new_pods_is_what_becomes_of_them() {
        for kind in Kind::ALL {
            let Meaning { new_pods, fails_adds, .. } = kind.meaning();
            let told = ["fail", "wait", "get no network", "are not asked for"].contains(&new_pods);
            assert_eq!(told, fails_adds, "{kind:?}: {new_pods:?}");
        }
    }
}
