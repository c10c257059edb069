//! The three structures that a plugin may print, judged by their JSON alone.
//!
//! Source: specification section 5, "Result Types". A checker returns every violation it finds, each a sentence that names
//! the key, what is expected there and what is there; an empty list means conformance. Keys that the specification does not
//! know are left alone.

mod error;
mod success;
mod version;

pub use error::{error_result, is_reserved};
pub use success::success_result;
pub use version::version_result;

use serde_json::Value;

/// What is wrong with a structure, one sentence each.
pub type Violations = Vec<String>;

/// Notes a violation unless `holds`.
fn require(violations: &mut Violations, holds: bool, sentence: impl FnOnce() -> String) {
    if !holds {
        violations.push(sentence());
    }
}

/// Judges `object[key]`, if there is such a key, by `holds`.
fn optional(violations: &mut Violations, object: &Value, at: &str, key: &str, expected: &str, holds: impl Fn(&Value) -> bool) {
    if let Some(value) = object.get(key) {
        require(violations, holds(value), || format!("{at}{key}: expected {expected}, got {value}"));
    }
}

/// Judges `object[key]` by `holds`; a missing key is a violation too.
fn required(violations: &mut Violations, object: &Value, at: &str, key: &str, expected: &str, holds: impl Fn(&Value) -> bool) {
    if object.get(key).is_none() {
        violations.push(format!("{at}{key}: expected {expected}, the key is missing"));
    }
    optional(violations, object, at, key, expected, holds);
}

fn is_uint(value: &Value) -> bool {
    value.as_u64().is_some()
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}
