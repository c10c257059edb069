//! Compression (zstd) of snapshots and of the file of the last state.

/// The largest snapshot, in bytes when it is unpacked. A hundred thousand endpoints take a twentieth of it.
pub(crate) const SNAPSHOT_MAX: u64 = 256 << 20;

pub(crate) fn pack(plain: &[u8], level: i32) -> Vec<u8> {
    // The buffer is as large as the worst case: only memory can be wanting, and that ends any Rust program.
    zstd::bulk::compress(plain, level).expect("memory for a compressed snapshot")
}

/// At most `length` bytes.
pub(crate) fn unpack(packed: &[u8], length: u64) -> Result<Vec<u8>, String> {
    let length = usize::try_from(length.min(SNAPSHOT_MAX)).unwrap_or(usize::MAX);
    zstd::bulk::decompress(packed, length).map_err(|error| error.to_string())
}
