//! Values of the maps that programs and daemon share. Fixed-width integers and byte arrays only, padding spelled out, sizes
//! asserted: the two sides are compiled by different compilers.
//!
//! [`LAYOUT_VERSION`] is part of the pins' path. A daemon that finds pins of another version does not read them.

/// Raised by any change in this file, of a key or value in [`crate::flow`] or [`crate::service`], or of [`crate::filter`].
pub const LAYOUT_VERSION: u32 = 9;

/// The interface number of the first host end. Those behind it follow, so that a table by host end is an array.
pub const FIRST_IFINDEX: u32 = 1 << 20;
/// The most pods a node can have on the fast path, and the size of every table by endpoint.
///
/// The per-CPU counters are the larger part: 160 bytes an endpoint and CPU.
pub const ENDPOINTS_MAX: u32 = 2048;
/// The most addresses of pods, of one family: their own, and what they may use besides.
pub const SLOTS_MAX: u32 = 2 * ENDPOINTS_MAX;
/// The most uplinks.
pub const UPLINKS_MAX: u32 = 16;
/// The most intervals of one family that the address space is cut into. A power of two: [`crate::scope`] masks with it.
pub const INTERVALS_MAX: usize = 1024;
/// The most flows noted as going through the host's stack, of one family.
pub const FLOWS_MAX: u32 = 1 << 18;
/// Bytes of the filter in front of the notes, of both families together. A power of two.
pub const NOTE_MARKS_MAX: usize = 1 << 18;
/// Bytes of it in one value of the map: the values lie one behind the other. A power of two.
pub const NOTE_MARKS_PAGE: usize = 1 << 12;
/// Words of the filter in front of the slots, of both families together, four hints each. A power of two.
pub const SLOT_WORDS_MAX: u32 = 1 << 13;
/// The most packets in pieces that are remembered at a time.
pub const PIECES_MAX: u32 = 4096;

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
    /// 1 where all its packets take the stack: not all of its flows that the stack has in its hands are noted yet.
    pub stack_only: u8,
    /// Which of its [`Limits`] hold: [`LIMIT_SENT`], [`LIMIT_RECEIVED`], [`LIMIT_INTERNET`].
    pub limits: u8,
    /// The largest packet that its interface takes, in bytes.
    pub mtu: u32,
}

/// [`Limits::sent`] holds.
pub const LIMIT_SENT: u8 = 1;
/// [`Limits::received`] holds.
pub const LIMIT_RECEIVED: u8 = 2;
/// [`Limits::internet`] holds, in place of [`Network::internet_egress`].
pub const LIMIT_INTERNET: u8 = 4;

/// A limit of rate, kept by a token bucket ([`crate::shape`]).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    /// Bytes a second; 0 for no limit.
    pub rate: u64,
    /// Nanoseconds that a burst may be ahead of the rate.
    pub burst: u64,
}

/// The limits of one endpoint. Looked at only where its [`Endpoint::limits`] says so.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Of all that the pod sends.
    pub sent: Limit,
    /// Of all that the pod is sent.
    pub received: Limit,
    /// Of what the pod sends to the internet.
    pub internet: Limit,
}

impl Limits {
    /// What [`Endpoint::limits`] says of these.
    #[must_use]
    pub const fn flags(&self) -> u8 {
        let mut flags = 0;
        if self.sent.rate != 0 {
            flags |= LIMIT_SENT;
        }
        if self.received.rate != 0 {
            flags |= LIMIT_RECEIVED;
        }
        if self.internet.rate != 0 {
            flags |= LIMIT_INTERNET;
        }
        flags
    }
}

/// The times up to which an endpoint's packets have paid, by limit, in nanoseconds of the kernel's monotonic clock.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Paid {
    /// See [`Limits::sent`].
    pub sent: u64,
    /// See [`Limits::received`].
    pub received: u64,
    /// See [`Limits::internet`].
    pub internet: u64,
    /// Of its share of [`Network::node_internet_egress`], by the clock of shares.
    pub share: u64,
    /// Bytes of its packets that wait for their departure, as a mean ([`crate::shape::mean`]).
    pub mean: u64,
}

/// What a node's pods have together of [`Network::node_internet_egress`]. Written by the programs.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeShare {
    /// The time up to which the packets of all of them have paid, in nanoseconds of the kernel's monotonic clock.
    pub paid: u64,
    /// The clock of shares, in nanoseconds: it goes the slower the more of the node's limit is in use (`pace` in [`crate::shape`]).
    pub clock: u64,
    /// When that was set last, by the kernel's monotonic clock.
    pub ticked: u64,
}

/// An interface to the cloud network, open: what is sent by it comes back to the programs.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uplink {
    /// Its interface number; 0 for no uplink.
    pub ifindex: u32,
    /// The largest packet that it takes, in bytes.
    pub mtu: u32,
    /// The IPv4 gateway in network order; all zero for none.
    pub gateway_v4: [u8; 4],
    /// The IPv6 gateway; all zero for none.
    pub gateway_v6: [u8; 16],
}

/// Addresses from this one to the next interval's first, and what they mean.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interval4 {
    /// The first address, as a number.
    pub first: u32,
    /// A [`crate::scope::Meaning`].
    pub meaning: u32,
}

/// Addresses from this one to the next interval's first, and what they mean.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interval6 {
    /// The first address: its upper and its lower half as numbers.
    pub first: [u64; 2],
    /// A [`crate::scope::Meaning`].
    pub meaning: u32,
    /// Zero.
    pub padding: u32,
}

/// What the programs know of the network. There are two, and an index of the one that counts: the other is written meanwhile.
///
/// The intervals of a family are sorted by their first address; the first of them begins at address 0.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// How many of `intervals4` are in use.
    pub intervals4_len: u32,
    /// How many of `intervals6` are in use.
    pub intervals6_len: u32,
    /// 1 where packets over IPv4 may be carried at all.
    pub carry_v4: u32,
    /// 1 where packets over IPv6 may be carried at all.
    pub carry_v6: u32,
    /// The bit of a packet's mark that has it pass conntrack by.
    pub untracked_mark: u32,
    /// How many packets of a flow the uplinks' queues hold until their departure times ([`crate::shape`]); 0 where they know of none.
    pub departure_packets: u32,
    /// Bytes a second that each pod without a limit of its own may send to the internet; 0 for no limit.
    pub internet_egress: u64,
    /// Bytes a second that all pods together may send to the internet, in fair shares; 0 for no limit.
    pub node_internet_egress: u64,
    /// What IPv4 addresses mean.
    pub intervals4: [Interval4; INTERVALS_MAX],
    /// What IPv6 addresses mean.
    pub intervals6: [Interval6; INTERVALS_MAX],
}

impl core::fmt::Debug for Network {
    /// Without the intervals that are not in use.
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            intervals4_len,
            intervals6_len,
            carry_v4,
            carry_v6,
            untracked_mark,
            departure_packets,
            internet_egress,
            node_internet_egress,
            intervals4,
            intervals6,
        } = self;
        out.debug_struct("Network")
            .field("carry", &[carry_v4, carry_v6])
            .field("untracked_mark", untracked_mark)
            .field("departure_packets", departure_packets)
            .field("internet_egress", &[internet_egress, node_internet_egress])
            .field("lengths", &[intervals4_len, intervals6_len])
            .field("intervals4", &intervals4.get(..*intervals4_len as usize))
            .field("intervals6", &intervals6.get(..*intervals6_len as usize))
            .finish()
    }
}

impl Default for Network {
    /// Nothing is known, and nothing carried.
    fn default() -> Self {
        Self {
            intervals4_len: 0,
            intervals6_len: 0,
            carry_v4: 0,
            carry_v6: 0,
            untracked_mark: 0,
            departure_packets: 0,
            internet_egress: 0,
            node_internet_egress: 0,
            intervals4: [Interval4::default(); INTERVALS_MAX],
            intervals6: [Interval6::default(); INTERVALS_MAX],
        }
    }
}

const _: () = {
    assert!(size_of::<Endpoint>() == 40);
    assert!(size_of::<Uplink>() == 28);
    assert!(size_of::<Limits>() == 48 && size_of::<Paid>() == 40 && size_of::<NodeShare>() == 24);
    assert!(size_of::<Interval6>() == 24);
    assert!(INTERVALS_MAX.is_power_of_two() && NOTE_MARKS_MAX.is_power_of_two() && SLOT_WORDS_MAX.is_power_of_two());
    assert!(size_of::<Network>() == 40 + (8 + 24) * INTERVALS_MAX);
};
