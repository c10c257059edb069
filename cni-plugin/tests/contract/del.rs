//! DEL needs the socket and two names, and never refuses over anything else.

use std::path::Path;

use cni_spec::Code;
use node_api::{DelRequest, queue};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::run;
use crate::scripted::{Act, daemon};

fn queued(socket: &Path) -> Vec<DelRequest> {
    let entries = queue::read(&queue::directory_beside(socket)).unwrap();
    entries.into_iter().map(|entry| entry.content.unwrap().del).collect()
}

fn c1() -> DelRequest {
    DelRequest { container_id: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap() }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["0.3.1", "1.1.0", "9.9.9", "10.0.0.1/24", "eth0"]).prop_map(Value::from),
    ];
    let key = || {
        prop_oneof![
            prop::sample::select(vec!["interfaces", "ips", "routes", "dns", "address", "gateway", "name", "mac", "cniVersion"])
                .prop_map(str::to_owned),
            ".{0,8}",
        ]
    };
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A configuration of which only the socket can be relied on.
fn any_config() -> impl Strategy<Value = Map<String, Value>> {
    const KEYS: [&str; 8] =
        ["cniVersion", "name", "type", "prevResult", "runtimeConfig", "args", "cni.dev/valid-attachments", "capabilities"];
    prop::collection::vec((prop::sample::select(&KEYS[..]), any_json()), 0..6)
        .prop_map(|members| members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_else_is_given_a_del_is_queued_or_sent(
        config in any_config(),
        args in "[^\0]{0,40}",
        netns in "[^\0]{0,20}",
        served in any::<bool>(),
        cut in 0..40_usize,
    ) {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("s");
        // First, so that it is there in a text that is cut off as well.
        let mut text = format!(r#"{{"socket":{}"#, json!(socket));
        for (key, value) in &config {
            text += &format!(",{}:{value}", json!(key));
        }
        text.push('}');
        let mut bytes = text.into_bytes();
        let least = format!(r#"{{"socket":{}"#, json!(socket)).len();
        bytes.truncate(bytes.len().saturating_sub(cut).max(least));

        let more = [("CNI_ARGS", args.as_str()), ("CNI_NETNS", netns.as_str())];
        if served {
            let daemon = daemon(&socket, vec![Act::done()]);
            prop_assert_eq!(run("DEL", &more, &bytes), Ok(String::new()));
            let asked = daemon.join().unwrap();
            prop_assert_eq!(&asked[0]["request"]["del"], &json!({ "container_id": "c1", "ifname": "eth0" }));
        } else {
            prop_assert_eq!(run("DEL", &more, &bytes), Ok(String::new()));
            prop_assert_eq!(queued(&socket), [c1()]);
        }
    }
}

#[test]
fn the_names_are_needed() {
    for (key, value) in [("CNI_CONTAINERID", "a b"), ("CNI_IFNAME", "a/b")] {
        let error = run("DEL", &[(key, value)], b"").unwrap_err();
        assert!(error.code == Code::InvalidEnvironment && error.msg.contains(key), "{error}");
    }
}

#[test]
fn a_del_that_the_daemon_did_not_do_is_queued_and_one_that_it_refused_is_refused() {
    for (act, is_queued) in [
        (Act::done(), false),
        (Act::HangUp, true),
        // Try again later: that is what the queue does. Not understood: the daemon is of another version.
        (Act::refuse(11), true),
        (Act::refuse(6), true),
        // An answer of another version.
        (Act::Answer(json!({ "later": 1 })), true),
        (Act::Answer(json!({ "ok": { "detached": { "addresses": [] } } })), true),
    ] {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("s");
        let daemon = daemon(&socket, vec![act]);
        assert_eq!(run("DEL", &[], json!({ "socket": socket }).to_string().as_bytes()), Ok(String::new()));
        daemon.join().unwrap();
        assert_eq!(!queued(&socket).is_empty(), is_queued);
    }
    for code in [4, 103, 199] {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("s");
        let daemon = daemon(&socket, vec![Act::refuse(code)]);
        let error = run("DEL", &[], json!({ "socket": socket }).to_string().as_bytes()).unwrap_err();
        daemon.join().unwrap();
        assert_eq!((u32::from(error.code), queued(&socket)), (code, vec![]));
    }
}
