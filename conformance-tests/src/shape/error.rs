//! The error result.

use serde_json::Value;

use super::{Violations, is_text, is_uint, optional, require, required};
use crate::version::SpecVersion;

/// Whether the specification gives `code` a meaning in `version`, among the codes 1 to 99 that it keeps for itself.
#[must_use]
pub fn is_reserved(version: SpecVersion, code: u64) -> bool {
    matches!(code, 1..=7 | 11) || (version >= SpecVersion::V1_1_0 && matches!(code, 50 | 51))
}

/// Judges an error result. Its `cniVersion` is a case of its own, since a plugin cannot always know it.
#[must_use]
pub fn error_result(version: SpecVersion, result: &Value) -> Violations {
    let mut violations = Violations::new();
    if !result.is_object() {
        return vec![format!("expected an object with \"code\" and \"msg\", got {result}")];
    }
    required(&mut violations, result, "", "code", "an unsigned number", is_uint);
    if let Some(code) = result.get("code").and_then(Value::as_u64) {
        require(&mut violations, code != 0, || "code: expected the code of an error, got 0".to_owned());
        require(&mut violations, code == 0 || code >= 100 || is_reserved(version, code), || {
            format!("code: expected one that CNI {version} defines, or 100 and above for the plugin's own; got {code}")
        });
    }
    required(&mut violations, result, "", "msg", "a short message", is_text);
    optional(&mut violations, result, "", "details", "a string", Value::is_string);
    optional(&mut violations, result, "", "cniVersion", "a string", Value::is_string);
    violations
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn codes_below_100_belong_to_the_specification() {
        for version in SpecVersion::ALL {
            for code in [1, 2, 3, 4, 5, 6, 7, 11, 100, 999] {
                assert_eq!(error_result(version, &json!({ "code": code, "msg": "no" })), Violations::new(), "{version} {code}");
            }
            for code in [0, 8, 10, 12, 49, 52, 99] {
                assert_eq!(error_result(version, &json!({ "code": code, "msg": "no" })).len(), 1, "{version} {code}");
            }
        }
        assert!(is_reserved(SpecVersion::V1_1_0, 50) && !is_reserved(SpecVersion::V1_0_0, 50));
    }

    #[test]
    fn an_error_result_needs_code_and_message() {
        for broken in [
            json!({ "msg": "no" }),
            json!({ "code": 4 }),
            json!({ "code": "4", "msg": "no" }),
            json!({ "code": -4, "msg": "no" }),
            json!({ "code": 4, "msg": "" }),
            json!({ "code": 4, "msg": "no", "details": 1 }),
            json!({ "code": 4, "msg": "no", "cniVersion": 1 }),
            json!("no"),
        ] {
            assert_eq!(error_result(SpecVersion::V1_1_0, &broken).len(), 1, "{broken}");
        }
    }
}
