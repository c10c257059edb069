//! Checksums of the internet (RFC 1071) that take in a change (RFC 1624). Sums are of words as they lie in memory, which the order of
//! bytes does not matter to.

/// What turns one sum of words of 32 bits into another, as the kernel's helpers take it.
#[must_use]
#[inline(always)]
pub const fn difference(before: u64, after: u64) -> u32 {
    fold(fold(after) as u64 + !fold(before) as u64)
}

/// A checksum in a header, with a change of what it is over.
#[must_use]
#[inline(always)]
pub const fn updated(checksum: u16, difference: u32) -> u16 {
    !fold_more(fold_more((!checksum) as u32 + (difference & 0xffff) + (difference >> 16))) as u16
}

/// Two carries at most: sums are of a few words.
#[inline(always)]
const fn fold(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

#[inline(always)]
const fn fold_more(sum: u32) -> u32 {
    (sum & 0xffff) + (sum >> 16)
}
