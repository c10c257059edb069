use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::super::metadata::{TIMEOUT, TRIES};
use super::super::super::test_server::{Answer, Asked, TestServer, nobody};
use super::*;

const MAC: &str = "02:29:96:8f:6a:2d";
const HTML: &str = "<html><body>Please sign in to the network</body></html>";

/// What an instance with one interface answers.
fn keys() -> BTreeMap<String, String> {
    let instance = [
        ("instance-id", "i-0123456789abcdef0"),
        ("instance-type", "m5.large"),
        ("placement/region", "eu-west-1"),
        ("placement/availability-zone", "eu-west-1a"),
        ("network/interfaces/macs/", "02:29:96:8f:6a:2d/\n"),
    ];
    let interface = [
        ("interface-id", "eni-0a"),
        ("device-number", "0"),
        ("subnet-id", "subnet-0b"),
        ("local-ipv4s", "10.0.0.12\n10.0.0.13\n10.0.0.14"),
        ("subnet-ipv4-cidr-block", "10.0.0.0/20"),
        ("ipv4-prefix", "10.0.1.16/28"),
        ("vpc-ipv4-cidr-blocks", "10.0.0.0/16\n100.64.0.0/16"),
    ];
    let interface = interface.map(|(key, value)| (format!("network/interfaces/macs/{MAC}/{key}"), value.to_owned()));
    instance.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().chain(interface).collect()
}

fn answer(keys: &BTreeMap<String, String>, asked: &Asked) -> Answer {
    if asked.method == Method::PUT {
        return Answer::ok("AQAEA-token==");
    }
    let value = asked.uri.path().strip_prefix("/latest/meta-data/").and_then(|key| keys.get(key));
    value.map_or_else(|| Answer::status(404, HTML), Answer::ok)
}

async fn serving(keys: BTreeMap<String, String>) -> (TestServer, Imds) {
    let server = TestServer::start(move |asked| answer(&keys, asked)).await;
    let imds = Imds::new(Client::plain(), server.url());
    (server, imds)
}

#[tokio::test]
async fn an_absent_key_is_none() {
    let (server, imds) = serving(keys()).await;
    let identity = imds.identity().await.unwrap();
    assert_eq!((identity.region.as_str(), identity.domain.as_str()), ("eu-west-1", "amazonaws.com"));
    let interfaces = imds.interfaces().await.unwrap();
    let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNetwork>>();
    let expected = MetadataInterface {
        id: "eni-0a".to_owned(),
        mac: [0x02, 0x29, 0x96, 0x8f, 0x6a, 0x2d],
        device: 0,
        subnet: "subnet-0b".to_owned(),
        subnet_cidr: Some("10.0.0.0/20".parse().unwrap()),
        has_ipv6_subnet: false,
        addresses: blocks(&["10.0.0.12", "10.0.0.13", "10.0.0.14"]),
        ipv6_addresses: 0,
        prefixes: blocks(&["10.0.1.16/28"]),
        vpc_cidrs: blocks(&["10.0.0.0/16", "100.64.0.0/16"]),
    };
    assert_eq!(interfaces, [expected]);
    let asked = server.asked();
    assert_eq!(asked.iter().filter(|asked| asked.method == Method::PUT).count(), 1, "one token does");
    assert_eq!(asked[0].headers[TTL_HEADER], "21600");
    assert!(asked[1..].iter().all(|asked| asked.headers[TOKEN_HEADER] == "AQAEA-token=="));
}

#[tokio::test]
async fn an_interface_that_is_going_is_left_out() {
    let mut keys = keys();
    keys.remove(&format!("network/interfaces/macs/{MAC}/interface-id"));
    assert_eq!(serving(keys).await.1.interfaces().await.unwrap(), []);
}

#[tokio::test]
async fn garbage_is_an_error_that_names_url_and_value() {
    let interface = |key: &str| format!("network/interfaces/macs/{MAC}/{key}");
    for (key, value) in [
        (interface("ipv4-prefix"), "10.0.1.17/28"),
        (interface("ipv4-prefix"), HTML),
        (interface("local-ipv4s"), "10.0.0"),
        (interface("device-number"), "-1"),
        (interface("interface-id"), HTML),
        (interface("vpc-ipv4-cidr-blocks"), "10.0.0.0/160"),
        (MACS.to_owned(), HTML),
    ] {
        let mut keys = keys();
        keys.insert(key.clone(), value.to_owned());
        let error = serving(keys).await.1.interfaces().await.unwrap_err().to_string();
        assert!(error.contains(&format!("/latest/meta-data/{key} answered {value:?}")), "{error}");
    }
    for key in ["instance-id", "instance-type", "placement/region", "placement/availability-zone"] {
        let mut keys = keys();
        keys.insert(key.to_owned(), HTML.to_owned());
        assert!(serving(keys.clone()).await.1.identity().await.is_err(), "{key}");
        keys.remove(key);
        let error = serving(keys).await.1.identity().await.unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("404"), "{error}");
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_renewed_once() {
    let tokens = AtomicUsize::new(0);
    let server = TestServer::start(move |asked| {
        if asked.method == Method::PUT {
            return Answer::ok(format!("token-{}", tokens.fetch_add(1, Ordering::Relaxed)));
        }
        if asked.headers[TOKEN_HEADER] == "token-1" { answer(&keys(), asked) } else { Answer::status(401, HTML) }
    })
    .await;
    let imds = Imds::new(Client::plain(), server.url());
    assert_eq!(imds.identity().await.unwrap().instance_type, "m5.large");

    let server = TestServer::start(|asked| if asked.method == Method::PUT { Answer::ok("t") } else { Answer::status(401, HTML) }).await;
    let error = Imds::new(Client::plain(), server.url()).identity().await.unwrap_err().to_string();
    assert!(error.contains("401"), "{error}");
    assert_eq!(server.asked().iter().map(|asked| asked.method.as_str()).collect::<Vec<_>>(), ["PUT", "GET", "PUT", "GET"]);
}

#[tokio::test]
async fn a_service_that_stumbles_is_asked_again() {
    let asked_before = AtomicUsize::new(0);
    let server = TestServer::start(move |asked| {
        if asked_before.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { Answer::status(503, "") } else { answer(&keys(), asked) }
    })
    .await;
    assert!(Imds::new(Client::plain(), server.url()).identity().await.is_ok());
}

#[tokio::test]
async fn a_hop_limit_that_is_too_low_is_said() {
    let server = TestServer::start(|_| Answer::Never).await;
    let began = Instant::now();
    let error = Imds::new(Client::plain(), server.url()).identity().await.unwrap_err().to_string();
    assert!(began.elapsed() < TIMEOUT * TRIES + Duration::from_secs(2), "{:?}", began.elapsed());
    for words in ["/latest/api/token", "nothing within 2 s", "HttpPutResponseHopLimit", "HttpEndpoint"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(server.asked().len(), TRIES as usize);
    let error = Imds::new(Client::plain(), nobody().await).identity().await.unwrap_err().to_string();
    assert!(error.contains("cannot connect") && error.contains("HttpEndpoint"), "{error}");
}

#[tokio::test]
async fn a_page_is_no_token() {
    let server = TestServer::start(|_| Answer::ok(HTML)).await;
    let error = Imds::new(Client::plain(), server.url()).identity().await.unwrap_err().to_string();
    assert!(error.contains("/latest/api/token answered \"<html><body>Please sign in"), "{error}");
}
