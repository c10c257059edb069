//! Plugin and daemon are upgraded in either order: requests of the version before and after ours are understood.

use node_api::{Envelope, PROTOCOL_VERSION, Request, accepts};

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
        let Request::Add(add) = envelope.request else { panic!("not an ADD") };
        assert_eq!((add.container_id.as_str(), add.ifname.as_str()), ("c1", "eth0"));
    }
}

#[test]
fn our_own_request_is_written_as_the_golden_one() {
    let text = include_str!("golden/request-v1.json").trim();
    let envelope: Envelope = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&envelope).unwrap(), text);
}

#[test]
fn versions_further_away_are_refused() {
    assert!(!accepts(PROTOCOL_VERSION + 2));
}
