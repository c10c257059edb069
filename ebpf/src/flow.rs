//! Flows that go through the host's stack, and must come back through it.
//!
//! The stack may translate a flow (a service's address, a host port). Its replies must pass the stack again, or the
//! translation is never undone. So whatever the stack emits towards a pod, or from a pod to the network, is noted in the
//! direction of its replies; who would carry the reply looks here first.
//!
//! The tables are plain hashes, not LRU: an entry evicted too early breaks a connection, and nobody would know. The daemon
//! removes entries that have been idle for longer than conntrack keeps a connection. If a table is full none the less, the
//! endpoint is marked `stack_only`: slower, and correct (docs/adr/0007).

use crate::packet::Transport;

/// A flow over IPv4, in the direction of its replies.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flow4 {
    /// Source address, network order.
    pub source: [u8; 4],
    /// Destination address, network order.
    pub destination: [u8; 4],
    /// Source port or echo identifier.
    pub source_port: [u8; 2],
    /// Destination port or echo identifier.
    pub destination_port: [u8; 2],
    /// The protocol; the rest is zero.
    pub protocol: [u8; 4],
}

/// A flow over IPv6, in the direction of its replies.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flow6 {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port or echo identifier.
    pub source_port: [u8; 2],
    /// Destination port or echo identifier.
    pub destination_port: [u8; 2],
    /// The protocol; the rest is zero.
    pub protocol: [u8; 4],
}

/// What is known of a noted flow.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noted {
    /// When a packet of it, in either direction, was last seen: seconds since boot, suspended time not counted.
    pub seen_seconds: u32,
}

const _: () = assert!(size_of::<Flow4>() == 16 && size_of::<Flow6>() == 40 && size_of::<Noted>() == 4);

impl Flow4 {
    /// The flow of a packet, in the packet's direction.
    #[must_use]
    #[inline(always)]
    pub const fn new(source: [u8; 4], destination: [u8; 4], transport: Transport) -> Self {
        let Transport { protocol, source: source_port, destination: destination_port } = transport;
        Self { source, destination, source_port, destination_port, protocol: [protocol, 0, 0, 0] }
    }
}

impl Flow6 {
    /// The flow of a packet, in the packet's direction.
    #[must_use]
    #[inline(always)]
    pub const fn new(source: [u8; 16], destination: [u8; 16], transport: Transport) -> Self {
        let Transport { protocol, source: source_port, destination: destination_port } = transport;
        Self { source, destination, source_port, destination_port, protocol: [protocol, 0, 0, 0] }
    }
}
