//! What changes a packet.

/// What writes to a packet: helpers of the kernel, a vector in a test.
pub trait Writer {
    /// Puts bytes there.
    fn store<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Option<()>;
    /// Has the checksum there take in that what it is over has changed.
    fn checksum(&self, offset: usize, change: SumChange) -> Option<()>;
}

/// A change for a checksum of a transport header, or of ICMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SumChange {
    /// See [`crate::packet::checksum::difference`].
    pub difference: u32,
    /// It is of addresses that lie in front of what the checksum is over. Where an interface is to complete the checksum, it has these in
    /// it already, and nothing else.
    pub is_pseudo: bool,
    /// Of a header without checksums: IPv6.
    pub is_v6: bool,
    /// 0 stands for no checksum.
    pub is_optional: bool,
}
