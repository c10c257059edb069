//! Which version of the protocol two peers speak.

use crate::message::Versions;

/// The oldest version that is spoken.
pub const OLDEST: u32 = 1;
/// The newest version that is spoken.
pub const NEWEST: u32 = 1;

/// The newest version that both speak; nothing where there is none.
#[must_use]
pub fn agree(ours: Versions, theirs: Versions) -> Option<u32> {
    let newest = ours.newest.min(theirs.newest);
    (newest >= ours.oldest.max(theirs.oldest).max(1)).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_agree_and_strangers_do_not() {
        let versions = |oldest, newest| Versions { oldest, newest };
        assert_eq!(agree(versions(1, 2), versions(2, 3)), Some(2));
        assert_eq!(agree(versions(1, 1), versions(1, 9)), Some(1));
        assert_eq!(agree(versions(1, 2), versions(3, 4)), None);
        assert_eq!(agree(versions(1, 1), versions(0, 0)), None, "a hello without versions");
    }
}
