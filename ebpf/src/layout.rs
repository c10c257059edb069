//! Values of the maps that programs and daemon share. Fixed-width integers and byte arrays only, padding spelled out, sizes
//! asserted: the two sides are compiled by different compilers.
//!
//! [`LAYOUT_VERSION`] is part of the pins' path. A daemon that finds pins of another version does not read them.

/// Raised by any change in this file.
pub const LAYOUT_VERSION: u32 = 3;

/// The interface number of the first host end. Those behind it follow, so that a table by host end is an array.
pub const FIRST_IFINDEX: u32 = 1 << 20;
/// The most pods a node can have on the fast path, and the size of every table by endpoint.
///
/// The per-CPU counters are the larger part: 160 bytes an endpoint and CPU.
pub const ENDPOINTS_MAX: u32 = 2048;
/// The most uplinks.
pub const UPLINKS_MAX: u32 = 16;
/// The most ranges of pod addresses of this node, of one family.
pub const LOCAL_MAX: usize = 16;
/// The most CIDRs that have a scope, of one family.
pub const CIDRS_MAX: usize = 24;
/// The most flows noted as going through the host's stack, of one family.
pub const FLOWS_MAX: u32 = 1 << 18;

/// A pod's end, by the number of its host link less the first such number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// The host end's interface number; 0 for no endpoint.
    pub ifindex: u32,
    /// Index of the uplink that owns the pod's IPv4 address.
    pub uplink_v4: u16,
    /// Index of the uplink that owns the pod's IPv6 address.
    pub uplink_v6: u16,
    /// IPv4 address in network order; all zero for none.
    pub ipv4: [u8; 4],
    /// IPv6 address; all zero for none.
    pub ipv6: [u8; 16],
    /// The pod's MAC address.
    pub mac: [u8; 6],
    /// 1 once a flow of it was noted as going through the stack: only then is the table of flows looked at. A byte of its
    /// own, so that setting it is one store.
    pub has_flows: u8,
    /// 1 where all its packets take the stack: the table of flows was full, or it was attached before the programs.
    pub stack_only: u8,
}

/// An interface to the cloud network.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uplink {
    /// Its interface number; 0 for no uplink.
    pub ifindex: u32,
    /// The IPv4 gateway in network order; all zero for none.
    pub gateway_v4: [u8; 4],
    /// The IPv6 gateway; all zero for none.
    pub gateway_v6: [u8; 16],
}

/// Addresses from `first` to `last`, as numbers.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range4 {
    /// The first address.
    pub first: u32,
    /// The last address.
    pub last: u32,
}

/// Addresses from `first` to `last`; each is the upper and the lower half as numbers.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range6 {
    /// The first address.
    pub first: [u64; 2],
    /// The last address.
    pub last: [u64; 2],
}

/// A CIDR with what it means. The list is in order of falling prefix length: the first match is the longest.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cidr4 {
    /// The network's address.
    pub network: u32,
    /// Its netmask.
    pub mask: u32,
    /// A [`crate::scope::Scope`].
    pub scope: u32,
    /// 1 where packets to it leave by the uplink as they are.
    pub native: u32,
}

/// A CIDR with what it means; see [`Cidr4`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cidr6 {
    /// The network's address.
    pub network: [u64; 2],
    /// Its netmask.
    pub mask: [u64; 2],
    /// A [`crate::scope::Scope`].
    pub scope: u32,
    /// 1 where packets to it leave by the uplink as they are.
    pub native: u32,
}

/// What the programs know of the network. One value, replaced whole.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// How many of `local4` are in use.
    pub local4_len: u32,
    /// How many of `cidrs4` are in use.
    pub cidrs4_len: u32,
    /// How many of `local6` are in use.
    pub local6_len: u32,
    /// How many of `cidrs6` are in use.
    pub cidrs6_len: u32,
    /// Where this node's pod addresses come from.
    pub local4: [Range4; LOCAL_MAX],
    /// What has a scope.
    pub cidrs4: [Cidr4; CIDRS_MAX],
    /// Where this node's pod addresses come from.
    pub local6: [Range6; LOCAL_MAX],
    /// What has a scope.
    pub cidrs6: [Cidr6; CIDRS_MAX],
}

impl Default for Network {
    fn default() -> Self {
        Self {
            local4_len: 0,
            cidrs4_len: 0,
            local6_len: 0,
            cidrs6_len: 0,
            local4: [Range4::default(); LOCAL_MAX],
            cidrs4: [Cidr4::default(); CIDRS_MAX],
            local6: [Range6::default(); LOCAL_MAX],
            cidrs6: [Cidr6::default(); CIDRS_MAX],
        }
    }
}

const _: () = {
    assert!(size_of::<Endpoint>() == 36);
    assert!(size_of::<Uplink>() == 24);
    assert!(size_of::<Cidr6>() == 40);
    assert!(size_of::<Network>() == 16 + 8 * LOCAL_MAX + 16 * CIDRS_MAX + 32 * LOCAL_MAX + 40 * CIDRS_MAX);
};
