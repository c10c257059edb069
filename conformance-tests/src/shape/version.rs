//! The version result.

use serde_json::Value;

use super::{Violations, is_text, require, required};

/// Judges the result of VERSION.
#[must_use]
pub fn version_result(result: &Value) -> Violations {
    let mut violations = Violations::new();
    required(&mut violations, result, "", "cniVersion", "a version as string", is_text);
    required(&mut violations, result, "", "supportedVersions", "a list of version strings", |value| {
        value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(is_text))
    });
    require(&mut violations, result.is_object(), || format!("expected an object, got {result}"));
    violations
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_version_result_needs_both_keys() {
        assert!(version_result(&json!({ "cniVersion": "1.0.0", "supportedVersions": ["1.0.0"] })).is_empty());
        for broken in [
            json!({ "cniVersion": "1.0.0" }),
            json!({ "supportedVersions": ["1.0.0"] }),
            json!({ "cniVersion": 1, "supportedVersions": ["1.0.0"] }),
            json!({ "cniVersion": "1.0.0", "supportedVersions": [] }),
            json!({ "cniVersion": "1.0.0", "supportedVersions": "1.0.0" }),
            json!({ "cniVersion": "1.0.0", "supportedVersions": [1.0] }),
            json!(["1.0.0"]),
        ] {
            assert!(!version_result(&broken).is_empty(), "{broken}");
        }
    }
}
