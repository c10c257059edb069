use super::*;

const MINIMAL: &str = r#""cniVersion":"1.1.0","name":"x""#;

fn code_of<T: std::fmt::Debug>(outcome: Result<T, Error>) -> (Code, String) {
    let error = outcome.unwrap_err();
    (error.code, error.msg)
}

fn assert_refused<T: std::fmt::Debug>(read: fn(&[u8]) -> Result<T, Error>, cases: &[(&str, Code, &str)]) {
    for (json, code, part) in cases {
        let (got, msg) = code_of(read(json.as_bytes()));
        assert_eq!(got, *code, "{json}: {msg}");
        assert!(msg.contains(part), "{json}: {msg}");
    }
}

#[test]
fn unknown_fields_are_ignored_and_known_ones_read() {
    let config = AddConfig::from_json(
        br#"{"cniVersion":"1.1.0","cniVersions":["1.0.0","1.1.0"],"name":"pods","type":"barewire-cni","later":{"a":1},
            "runtimeConfig":{"ips":["10.0.1.17/24","fd00::1"],"mac":"0a:58:0a:00:01:11","portMappings":[]},"args":{}}"#,
    )
    .unwrap();
    assert_eq!(config.version, Version::V1_1_0);
    assert_eq!(config.runtime.ips, ["10.0.1.17".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    assert_eq!(config.runtime.mac, Some([0x0a, 0x58, 0x0a, 0, 1, 0x11]));
    assert!(config.prev_result.is_none() && config.socket.is_none());
}

#[test]
fn limits_are_read_as_each_runtime_writes_them() {
    let runtime = |runtime: &str| AddConfig::from_json(format!(r#"{{{MINIMAL},"runtimeConfig":{runtime}}}"#).as_bytes()).unwrap().runtime;
    let asked = Bandwidth { ingress_rate: 10_000_000, ingress_burst: 4_294_967_295, ..Bandwidth::default() };
    let containerd = r#"{"bandwidth":{"IngressRate":10000000,"IngressBurst":4294967295,"EgressRate":0,"EgressBurst":0}}"#;
    let crio = r#"{"bandwidth":{"ingressRate":10000000,"ingressBurst":4294967295}}"#;
    for text in [containerd, crio] {
        assert_eq!(runtime(text).bandwidth, Some(asked), "{text}");
    }
    for nothing in ["{}", r#"{"bandwidth":null}"#, r#"{"bandwidth":{}}"#, r#"{"bandwidth":{"ingressRate":0,"egressRate":null}}"#] {
        assert_eq!(runtime(nothing).bandwidth, None, "{nothing}");
    }
    let annotations = r#"{"io.kubernetes.cri.pod-annotations":{"barewire.io/internet-egress":"10M","barewire.io/allowed-addresses":"10.0.50.7","other":"x"}}"#;
    assert_eq!(runtime(annotations).internet_egress.as_deref(), Some("10M"));
    assert_eq!(runtime(annotations).allowed_addresses.as_deref(), Some("10.0.50.7"));
    assert_eq!(runtime(r#"{"io.kubernetes.cri.pod-annotations":{"other":"x"}}"#).internet_egress, None);
    assert_eq!(runtime(r#"{"io.kubernetes.cri.pod-annotations":null}"#).internet_egress, None);
}

#[test]
fn add_each_fault_has_its_code_and_names_the_field() {
    let long = format!(r#"{{"cniVersion":"1.0.0","name":"x","socket":"/{}"}}"#, "s".repeat(107));
    assert_refused(
        AddConfig::from_json,
        &[
            ("", Code::Undecodable, "empty"),
            (" \n", Code::Undecodable, "empty"),
            ("nope", Code::Undecodable, "not a network configuration"),
            ("[]", Code::Undecodable, "not a network configuration"),
            (r#"{"name":"x"}"#, Code::IncompatibleVersion, "cniVersion"),
            (r#"{"cniVersion":"9.9.9","name":"x"}"#, Code::IncompatibleVersion, "9.9.9"),
            (r#"{"cniVersion":"1.0.0"}"#, Code::InvalidConfig, "name"),
            (r#"{"cniVersion":"1.0.0","name":"a b"}"#, Code::InvalidConfig, "a b"),
            (r#"{"cniVersion":"1.0.0","name":"x","prevResult":7}"#, Code::InvalidConfig, "prevResult"),
            (r#"{"cniVersion":"1.0.0","name":"x","prevResult":[]}"#, Code::InvalidConfig, "prevResult"),
            (r#"{"cniVersion":"1.0.0","name":"x","prevResult":{"ips":7}}"#, Code::InvalidConfig, "ips is 7"),
            (r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"ips":["10.0.0.300"]}}"#, Code::InvalidConfig, "10.0.0.300"),
            (r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"mac":"01:00:5e:00:00:01"}}"#, Code::InvalidConfig, "group"),
            (r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"mac":"0a:58"}}"#, Code::InvalidConfig, "0a:58"),
            (
                r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"bandwidth":{"egressRate":-5}}}"#,
                Code::InvalidConfig,
                "runtimeConfig.bandwidth.egressRate: -5 is not",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"bandwidth":{"IngressBurst":1.5}}}"#,
                Code::InvalidConfig,
                "runtimeConfig.bandwidth.IngressBurst: 1.5 is not",
            ),
            (r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"bandwidth":"10M"}}"#, Code::InvalidConfig, "10M"),
            (
                r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"barewire.io/internet-egress":7}}}"#,
                Code::InvalidConfig,
                "barewire.io/internet-egress: 7 is not a string",
            ),
            (r#"{"cniVersion":"1.0.0","name":"x","socket":7}"#, Code::InvalidConfig, "socket"),
            (r#"{"cniVersion":"1.0.0","name":"x","socket":"cni.sock"}"#, Code::InvalidConfig, "\"cni.sock\" is not the absolute path"),
            (r#"{"cniVersion":"1.0.0","name":"x","socket":""}"#, Code::InvalidConfig, "socket"),
            (&long, Code::InvalidConfig, "107"),
        ],
    );
}

#[test]
fn null_counts_as_absent() {
    let config = AddConfig::from_json(
        br#"{"cniVersion":"1.1.0","name":"x","runtimeConfig":{"ips":null,"mac":null},"prevResult":null,"socket":null}"#,
    )
    .unwrap();
    assert_eq!(config.runtime, RuntimeConfig::default());
    assert!(config.prev_result.is_none() && config.socket.is_none());
    let config = AddConfig::from_json(br#"{"cniVersion":"1.1.0","name":"x","runtimeConfig":null}"#).unwrap();
    assert_eq!(config.runtime, RuntimeConfig::default());
    let config = AddConfig::from_json(br#"{"cniVersion":"1.1.0","name":"x","runtimeConfig":{"ips":[null,"10.0.1.17"]}}"#).unwrap();
    assert_eq!(config.runtime.ips.len(), 1);
}

#[test]
fn check_needs_a_version_that_has_it_and_a_result_and_no_more() {
    assert_refused(
        CheckConfig::from_json,
        &[
            (r#"{"prevResult":{}}"#, Code::IncompatibleVersion, "cniVersion is missing"),
            (r#"{"cniVersion":"0.3.1","prevResult":{}}"#, Code::IncompatibleVersion, "raise cniVersion"),
            (r#"{"cniVersion":"1.0.0"}"#, Code::InvalidConfig, "prevResult: is missing"),
            (r#"{"cniVersion":"1.0.0","prevResult":null}"#, Code::InvalidConfig, "prevResult: is missing"),
            (r#"{"cniVersion":"1.0.0","prevResult":"x"}"#, Code::InvalidConfig, "prevResult"),
        ],
    );
    let config = CheckConfig::from_json(br#"{"cniVersion":"1.0.0","prevResult":{"ips":null},"runtimeConfig":7,"name":7}"#).unwrap();
    assert_eq!(config.expected, AddResult::default());
}

#[test]
fn gc_needs_a_name_and_no_more() {
    let read = |extra: &str| GcConfig::from_json(format!("{{{MINIMAL}{extra}}}").as_bytes());
    let one = r#"[{"containerID":"c","ifname":"eth0"}]"#;
    for (extra, count) in [
        (String::new(), 0),
        (r#","cni.dev/valid-attachments":null"#.to_owned(), 0),
        (r#","cni.dev/valid-attachments":[]"#.to_owned(), 0),
        (r#","cni.dev/valid-attachments":[null]"#.to_owned(), 0),
        (format!(r#","cni.dev/valid-attachments":{one}"#), 1),
        (format!(r#","cni.dev/attachments":{one}"#), 1),
        (format!(r#","cni.dev/attachments":[],"cni.dev/valid-attachments":{one}"#), 1),
        (format!(r#","cni.dev/attachments":{one},"cni.dev/valid-attachments":null"#), 1),
        (format!(r#","cni.dev/valid-attachments":{one},"prevResult":7,"runtimeConfig":[]"#), 1),
    ] {
        assert_eq!(read(&extra).unwrap().valid.len(), count, "{extra}");
    }
    assert_eq!(GcConfig::from_json(br#"{"name":"x","cni.dev/valid-attachments":[]}"#).unwrap().valid.len(), 0);

    for extra in [r#","cni.dev/valid-attachments":"all""#, r#","cni.dev/valid-attachments":[{"containerID":"c"}]"#] {
        let (code, msg) = code_of(read(extra));
        assert!(code == Code::InvalidConfig && msg.contains("cni.dev/valid-attachments"), "{extra}: {msg}");
    }
    let (code, msg) = code_of(GcConfig::from_json(br#"{"cni.dev/valid-attachments":[]}"#));
    assert!(code == Code::InvalidConfig && msg.contains("name"), "{msg}");
}

#[test]
fn version_can_be_peeked_out_of_a_bad_configuration() {
    assert_eq!(version_asked(br#"{"cniVersion":"9.9.9"}"#).as_deref(), Some("9.9.9"));
    assert_eq!(version_asked(b"{"), None);
}

#[test]
fn a_socket_is_an_absolute_path_or_none() {
    let read = |json: &str| socket(json.as_bytes());
    assert_eq!(read(r#"{"socket":"/run/x/cni.sock"}"#).as_deref(), Some(Path::new("/run/x/cni.sock")));
    let long = format!(r#"{{"socket":"/{}"}}"#, "s".repeat(107));
    for json in [r#"{"socket":"cni.sock"}"#, r#"{"socket":""}"#, r#"{"socket":"/"}"#, r#"{"socket":"/a\u0000b"}"#, "{}", "", &long] {
        assert_eq!(read(json), None, "{json}");
    }
}
