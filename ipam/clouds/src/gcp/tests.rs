use super::super::test_server::{Answer, TestServer};
use super::*;

const INTERFACES: &str = r#"[{"accessConfigs":[{"externalIp":"","type":"ONE_TO_ONE_NAT"}],"dnsServers":["169.254.169.254"],
    "forwardedIps":["10.128.0.99"],"gateway":"10.128.0.1","gatewayIpv6":"fe80::4001:aff:fe80:1","ip":"10.128.0.2",
    "ipAliases":["10.4.0.0/24","10.4.9.7/32"],"mac":"42:01:0a:80:00:02","mtu":1460,"network":"projects/1/networks/default",
    "subnetmask":"255.255.240.0","targetInstanceIps":[]},
    {"gateway":"","ip":"10.9.0.2","mac":"42:01:0a:09:00:02"}]"#;
const SIGNED: &[(&str, &str)] = &[("metadata-flavor", "Google")];

#[test]
fn alias_ranges_and_gateways() {
    let reading = parse("u", INTERFACES).unwrap();
    let first = &reading.interfaces[0];
    assert_eq!(first.id, "42:01:0a:80:00:02");
    assert_eq!(first.blocks, ["10.4.0.0/24", "10.4.9.7/32"].map(|block| block.parse().unwrap()).into());
    assert_eq!(first.gateways.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.128.0.1", "fe80::4001:aff:fe80:1"]);
    assert!(reading.interfaces[1].blocks.is_empty() && reading.interfaces[1].gateways.is_empty());
    assert!(!reading.interface_room);
}

#[test]
fn what_is_something_else_is_an_error_that_shows_it() {
    for text in ["", "{}", "null", "<html>Sign in</html>", "[{}]"] {
        assert!(parse("http://m/n", text).unwrap_err().to_string().starts_with("http://m/n answered "), "{text}");
    }
    for (good, bad) in [("10.4.0.0/24", "10.4.0.1/24"), ("10.4.9.7/32", "fd00::/96"), ("10.128.0.1", "here"), ("42:01:0a:80:00:02", "42")] {
        let error = parse("u", &INTERFACES.replace(good, bad)).unwrap_err().to_string();
        assert!(error.contains(&format!("{bad:?}")), "{error}");
    }
}

#[tokio::test]
async fn the_answer_has_to_be_googles() {
    let server = TestServer::start(|asked| {
        assert_eq!(asked.headers["metadata-flavor"], "Google");
        Answer::Reply(StatusCode::OK, SIGNED, INTERFACES.to_owned())
    })
    .await;
    let gcp = Gcp::new(GcpSettings { metadata: server.url(), ..GcpSettings::default() });
    let Outcome::Read(reading) = gcp.call(&Request::Read(Reader::Metadata)).await else { panic!("not read") };
    assert_eq!(reading.interfaces.len(), 2);
    assert_eq!(gcp.warnings(), [""; 0]);

    let server = TestServer::start(|_| Answer::ok(INTERFACES)).await;
    let gcp = Gcp::new(GcpSettings { metadata: server.url(), ..GcpSettings::default() });
    let Outcome::Refused(Refusal::Other(why)) = gcp.call(&Request::Read(Reader::Metadata)).await else { panic!("not refused") };
    assert!(why.contains("Metadata-Flavor"), "{why}");
}

#[tokio::test]
async fn a_page_in_its_place_is_shown() {
    let server = TestServer::start(|_| Answer::Reply(StatusCode::OK, SIGNED, "<html><body>Sign in</body></html>".to_owned())).await;
    let gcp = Gcp::new(GcpSettings { metadata: server.url(), ..GcpSettings::default() });
    let Outcome::Refused(Refusal::Other(why)) = gcp.call(&Request::Read(Reader::Metadata)).await else { panic!("not refused") };
    assert!(why.contains("<html><body>Sign in</body></html>"), "{why}");
}

#[test]
fn local_routes_of_alias_ranges_are_explained_and_others_left_alone() {
    let reading = parse("u", INTERFACES).unwrap();
    let routes = ["10.128.0.99/32", "10.4.0.0/24", "10.4.9.7/32", "10.4.0.0/24"].map(|route| route.parse().unwrap());
    let local = overlapping(routes.into(), &reading);
    assert_eq!(local.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.4.0.0/24", "10.4.9.7/32"]);
    let explanation = explanation(&local).unwrap();
    for words in
        ["10.4.0.0/24, 10.4.9.7/32", "ip_aliases = false", "[IpForwarding]", "ip_forwarding = false", "/etc/default/instance_configs.cfg"]
    {
        assert!(explanation.contains(words), "{words}: {explanation}");
    }
    assert_eq!(super::explanation(&[]), None);
}

#[test]
fn a_machine_without_an_interface_is_none() {
    assert!(parse("u", "[]").unwrap_err().to_string().contains("at least one"));
}
