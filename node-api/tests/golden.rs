//! Plugin and daemon are upgraded in either order: requests of the version before and after ours are understood, a DEL of
//! any, and a refusal with a code of any.

use cni_spec::Code;
use node_api::{BootMillis, DelRequest, Envelope, NotUnderstood, PROTOCOL_VERSION, Request, Response, accepts, understand};

#[test]
fn requests_of_neighbouring_versions_are_understood() {
    for (version, text) in [
        (0, include_str!("golden/request-v0.json")),
        (1, include_str!("golden/request-v1.json")),
        (2, include_str!("golden/request-v2.json")),
    ] {
        let envelope: Envelope = serde_json::from_str(text).unwrap();
        assert_eq!(envelope.protocol, version);
        assert!(accepts(version), "{version}");
        let Request::Add(add) = understand(text.as_bytes()).unwrap().request else { panic!("not an ADD") };
        assert_eq!((add.container_id.as_str(), add.ifname.as_str()), ("c1", "eth0"));
    }
}

#[test]
fn our_own_request_is_written_as_the_golden_one() {
    for text in [
        include_str!("golden/request-v1.json"),
        include_str!("golden/request-v1-deadline.json"),
        include_str!("golden/request-v1-limits.json"),
        include_str!("golden/request-v1-allowed.json"),
        include_str!("golden/del-v1.json"),
    ] {
        let envelope: Envelope = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&envelope).unwrap(), text.trim());
    }
}

#[test]
fn a_plugin_that_knows_no_limits_asks_for_none() {
    let limits = |text: &str| {
        let Request::Add(add) = understand(text.as_bytes()).unwrap().request else { panic!("not an ADD") };
        (add.bandwidth.map(|asked| asked.ingress_rate), add.internet_egress)
    };
    assert_eq!(limits(include_str!("golden/request-v1.json")), (None, None));
    assert_eq!(limits(include_str!("golden/request-v1-limits.json")), (Some(10_000_000), Some("10M".to_owned())));
}

#[test]
fn a_plugin_that_knows_no_further_addresses_asks_for_none() {
    let allowed = |text: &str| {
        let Request::Add(add) = understand(text.as_bytes()).unwrap().request else { panic!("not an ADD") };
        add.allowed_addresses
    };
    assert_eq!(allowed(include_str!("golden/request-v1-limits.json")), None);
    assert_eq!(allowed(include_str!("golden/request-v1-allowed.json")).as_deref(), Some("10.0.50.7, fd00:50::/126"));
}

#[test]
fn a_deadline_is_read_where_there_is_one() {
    let deadline = |text: &str| understand(text.as_bytes()).unwrap().deadline;
    assert_eq!(deadline(include_str!("golden/request-v1.json")), None);
    assert_eq!(deadline(include_str!("golden/request-v1-deadline.json")), Some(BootMillis(123_456)));
}

#[test]
fn versions_further_away_are_refused() {
    assert!(!accepts(PROTOCOL_VERSION + 2));
    let text = include_str!("golden/request-v2.json").replace("\"protocol\":2", "\"protocol\":99");
    assert!(matches!(understand(text.as_bytes()), Err(NotUnderstood::Protocol(99))));
}

#[test]
fn a_del_of_any_version_is_understood() {
    let del = DelRequest { container_id: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap() };
    for text in [
        include_str!("golden/del-v0.json"),
        include_str!("golden/del-v1.json"),
        include_str!("golden/del-v2.json"),
        include_str!("golden/del-v99.json"),
        include_str!("golden/del-other.json"),
    ] {
        assert_eq!(understand(text.as_bytes()).unwrap().request, Request::Del(del.clone()), "{text}");
    }
    for nonsense in ["", "{", "7", r#"{"request":{"del":{"container_id":"c1"}}}"#, r#"{"protocol":1,"request":"later"}"#] {
        assert!(matches!(understand(nonsense.as_bytes()), Err(NotUnderstood::Form(_))), "{nonsense}");
    }
}

#[test]
fn a_refusal_with_a_later_code_is_a_refusal() {
    let response: Response = serde_json::from_str(include_str!("golden/response-later.json")).unwrap();
    let Response::Error(error) = response else { panic!("not an error") };
    assert_eq!((error.code, error.msg.as_str()), (Code::Other(199), "a refusal of a later version"));
}
