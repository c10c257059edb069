//! `null` counts as absent. Plugins in Go write it for a list or a pointer that is nil, and runtimes hand it on; an address
//! that is nil they write as [`is_no_address`] has it.

use serde::{Deserialize, Deserializer};

/// What Go makes of an address that is not set: `net.IP` becomes an empty text, `net.IPNet` this one.
pub(crate) fn is_no_address(text: &str) -> bool {
    matches!(text, "" | "<nil>")
}

/// A field's default where it is `null`.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A list without what is `null` in it; an empty one where it is `null` itself.
pub(crate) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(or_default::<D, Vec<Option<T>>>(deserializer)?.into_iter().flatten().collect())
}
