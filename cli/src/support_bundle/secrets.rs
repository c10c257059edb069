//! Leaves secrets out of configurations: values whose key says what they are, and what stands before the host of a URL.
//!
//! Pure. Barewire's own configuration has none (keys and certificates are files), but chained plugins may be configured with anything.

use serde_json::Value as Json;
use toml::Value as Toml;

const LEFT_OUT: &str = "(left out)";
/// In any case, anywhere in a key.
const TELLING: [&str; 8] = ["secret", "token", "password", "passwd", "credential", "apikey", "api_key", "private"];

/// A TOML document without them.
pub(super) fn without_in_toml(text: &str) -> Result<String, String> {
    // Its own message quotes the line at fault.
    let mut table: toml::Table =
        text.parse().map_err(|_| "it is not TOML, so that secrets in it cannot be told; it is left out".to_owned())?;
    table.iter_mut().for_each(|(key, value)| of_toml(key, value));
    toml::to_string(&table).map_err(|error| error.to_string())
}

/// A JSON document without them.
pub(super) fn without_in_json(bytes: &[u8]) -> Result<String, String> {
    let mut value: Json =
        serde_json::from_slice(bytes).map_err(|_| "it is not JSON, so that secrets in it cannot be told; it is left out".to_owned())?;
    of_json("", &mut value);
    Ok(format!("{value:#}"))
}

fn of_toml(key: &str, value: &mut Toml) {
    match value {
        Toml::Table(table) => table.iter_mut().for_each(|(key, value)| of_toml(key, value)),
        Toml::Array(items) => items.iter_mut().for_each(|item| of_toml(key, item)),
        Toml::String(text) => *text = without(key, text),
        other if is_telling(key) => *other = Toml::String(LEFT_OUT.to_owned()),
        _ => {}
    }
}

fn of_json(key: &str, value: &mut Json) {
    match value {
        Json::Object(members) => members.iter_mut().for_each(|(key, value)| of_json(key, value)),
        Json::Array(items) => items.iter_mut().for_each(|item| of_json(key, item)),
        Json::String(text) => *text = without(key, text),
        Json::Null => {}
        other if is_telling(key) => *other = Json::from(LEFT_OUT),
        _ => {}
    }
}

fn without(key: &str, text: &str) -> String {
    if is_telling(key) {
        return LEFT_OUT.to_owned();
    }
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let host = rest.find('/').unwrap_or(rest.len());
    match rest[..host].rfind('@') {
        Some(at) => format!("{scheme}://{LEFT_OUT}{}", &rest[at..]),
        None => text.to_owned(),
    }
}

fn is_telling(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    TELLING.iter().any(|part| key.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let text = "[fleet]\nurl = \"https://me:pa55@fleet.example:9443/x@y\"\nkey = \"/etc/barewire/node.key\"\n\
                    [cni]\nchained_plugins = [{ type = \"x\", apiKey = \"k3y\", nested = { client_secret = 1234, list = [\"a\"] }, tokens = [\"t0ken\"] }]\n";
        let told = without_in_toml(text).unwrap();
        for gone in ["me:pa55", "k3y", "1234", "t0ken"] {
            assert!(!told.contains(gone), "{gone} in {told}");
        }
        for stays in ["fleet.example:9443/x@y", "/etc/barewire/node.key", "\"a\"", "type = \"x\""] {
            assert!(told.contains(stays), "{stays} not in {told}");
        }
        let told =
            without_in_json(br#"{"plugins":[{"type":"y","Token":"t0ken","policy":{"k8s_auth_token":null},"url":"http://u@h"}]}"#).unwrap();
        assert!(!told.contains("t0ken") && !told.contains("u@h") && told.contains("\"y\""), "{told}");
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        for told in [without_in_toml("password = hunter2"), without_in_json(b"{\"password\": hunter2")] {
            let why = told.unwrap_err();
            assert!(why.contains("left out") && !why.contains("hunter2"), "{why}");
        }
    }
}
