//! One member of what may be no valid configuration at all.

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// The string that the outermost object of `json` has under `key`, whatever else is in it. Of a text that ends too early
/// or is damaged, as far as it goes; of a key that stands twice, the last, as the reference library reads it.
///
/// What is passed over is not kept: it may be nested as deeply, and be as large, as it likes.
pub(crate) fn peek(json: &[u8], key: &str) -> Option<String> {
    let mut found = None;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    // An error ends the search; what was found before it is what there is.
    let _ = Search { key, found: &mut found }.deserialize(&mut deserializer);
    found
}

struct Search<'a> {
    key: &'a str,
    found: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Search<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Search<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == self.key {
                match map.next_value()? {
                    Value::String(text) => *self.found = Some(text),
                    Value::Null => {}
                    _ => return Err(A::Error::custom("not a string")),
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_in_what_is_whole_damaged_or_cut_off() {
        let deep = format!(r#"{{"prevResult":{}1{},"socket":"/s"}}"#, "[".repeat(5000), "]".repeat(5000));
        for json in [
            r#"{"socket":"/s"}"#,
            r#" {"prevResult":7,"socket":"/s","name":null}"#,
            r#"{"socket":"/s","name":"half"#,
            r#"{"socket":"/s"} and more"#,
            r#"{"socket":"/other","socket":"/s"}"#,
            r#"{"socket":"/s","socket":null}"#,
            &deep,
        ] {
            assert_eq!(peek(json.as_bytes(), "socket").as_deref(), Some("/s"), "{json:.80}");
        }
        for json in ["", "nope", "[]", "7", r#"["socket"]"#, r#"{"socket":1}"#, r#"{"a":{"socket":"/s"}}"#, r#"{"socket":"/s"#] {
            assert_eq!(peek(json.as_bytes(), "socket"), None, "{json}");
        }
    }
}
