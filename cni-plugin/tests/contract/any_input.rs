//! Anything at all as environment and standard input: a result or an error result, within its time, and never a crash.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use crate::shipped::Call;

/// None of these waits for a daemon.
const AT_ONCE: Duration = Duration::from_secs(8);

fn any_value() -> impl Strategy<Value = OsString> {
    let bytes = prop::collection::vec(1..=255_u8, 0..60).prop_map(OsString::from_vec);
    let likely = prop::sample::select(vec![
        "",
        "c1",
        "eth0",
        "/proc/self/ns/net",
        "/proc/1/ns/net",
        "/dev/null",
        "/",
        "IgnoreUnknown=1;K8S_POD_NAME=p",
        "IP=10.0.0.1",
        "a=b;c",
        "..",
    ]);
    prop_oneof![bytes, likely.prop_map(OsString::from)]
}

fn any_environment() -> impl Strategy<Value = Vec<(OsString, OsString)>> {
    let key = prop_oneof![
        4 => prop::sample::select(vec!["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", "CNI_NETNS_OVERRIDE"]).prop_map(OsString::from),
        1 => "[A-Z_]{1,12}".prop_filter("a command of its own", |key| key != "CNI_COMMAND").prop_map(OsString::from),
    ];
    prop::collection::vec((key, any_value()), 0..6)
}

/// What follows the socket: nothing that fits, nearly JSON, or bytes.
fn any_rest() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\u0000",
        "\\ud800",
        "1e999",
        "-0",
        "null",
        "true",
        "\"cniVersion\"",
        "\"1.0.0\"",
        "\"name\"",
        "\"pods\"",
        "\"prevResult\"",
        "\"ips\"",
        "\"address\"",
        "\"10.0.0.1/24\"",
        "\"runtimeConfig\"",
        "\"mac\"",
        "\"cni.dev/valid-attachments\"",
        "\u{e9}",
    ]);
    let tokens = prop::collection::vec(token, 0..60).prop_map(|tokens| tokens.concat().into_bytes());
    let deep = (1..3000_usize, prop::sample::select(vec!["[", "{\"a\":", "[[{\"prevResult\":"]))
        .prop_map(|(depth, open)| format!(",\"prevResult\":{}", open.repeat(depth)).into_bytes());
    prop_oneof![tokens, deep, prop::collection::vec(any::<u8>(), 0..300)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_answer_is_a_result_or_an_error_result(
        verb in prop_oneof![
            6 => prop::sample::select(vec!["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]).prop_map(str::to_owned),
            1 => "[^\0]{0,8}",
        ],
        environment in any_environment(),
        rest in any_rest(),
    ) {
        let home = tempfile::tempdir().unwrap();
        // A path at which nobody can ever listen, and nothing be queued. First, so that it is found whatever follows.
        std::fs::write(home.path().join("file"), "").unwrap();
        let mut stdin = format!(r#"{{"socket":{}"#, json!(home.path().join("file/s"))).into_bytes();
        stdin.extend(rest);

        let begun = Instant::now();
        let ended = Call::new(&verb).variables(&environment).run(&stdin);
        prop_assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        prop_assert!(!ended.stderr.contains("fault"), "{:?}", ended);
        if let Ok(result) = ended.outcome() {
            prop_assert!(result.is_empty() || serde_json::from_str::<serde_json::Value>(&result).is_ok(), "{}", result);
        }
    }
}
