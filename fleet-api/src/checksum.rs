//! The checksum of a table: the sum of its entries' hashes, so that a change costs as much as what it changes.

use twox_hash::XxHash3_64;

/// The part of one entry. Lengths are in it: `("ab", "c")` is not `("a", "bc")`.
pub(crate) fn of_entry(key: &[u8], value: &[u8]) -> u64 {
    let seed = XxHash3_64::oneshot_with_seed(key.len() as u64, key);
    XxHash3_64::oneshot_with_seed(seed, value)
}

/// Of bytes, for instance of a file.
pub(crate) fn of_bytes(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_for_ever() {
        // Replicas and nodes of different versions compare these numbers.
        assert_eq!(of_bytes(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(of_entry(b"default/web", b"value"), 0xdef3_f24e_bd91_624e);
        assert_ne!(of_entry(b"ab", b"c"), of_entry(b"a", b"bc"));
    }
}
