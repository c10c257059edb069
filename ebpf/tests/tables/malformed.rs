//! The committed corpus of malformed frames.

/// Each with its name.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    let lines = include_str!("../../../fuzz/corpus/malformed").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').unwrap()).map(|(name, hex)| (name, bytes(hex.trim_matches('-')))).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
