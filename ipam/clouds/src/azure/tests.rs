use ipam_pool::range::Family;

use super::super::test_server::{Answer, TestServer, nobody};
use super::*;

/// What a machine of a scale set answers, shortened.
const NETWORK: &str = r#"{"interface":[
    {"ipv4":{"ipAddress":[{"privateIpAddress":"10.240.0.35","publicIpAddress":""},
                          {"privateIpAddress":"10.240.0.36","publicIpAddress":""},
                          {"privateIpAddress":"10.240.0.37","publicIpAddress":""}],
             "subnet":[{"address":"10.240.0.0","prefix":"16"}]},
     "ipv6":{"ipAddress":[]},"macAddress":"000D3A51C490"},
    {"ipv4":{"ipAddress":[],"subnet":[]},"ipv6":{"ipAddress":[]},"macAddress":"000D3A51C491"}]}"#;
const INTERFACES: &str = r#"<Interfaces><Interface MacAddress="000D3A51C490" IsPrimary="true"><IPSubnet Prefix="10.240.0.0/16">
    <IPAddress Address="10.240.0.35" IsPrimary="true"/><IPAddress Address="10.240.0.36" IsPrimary="false"/>
    <IPAddress Address="10.240.0.37" IsPrimary="false"/></IPSubnet></Interface>
    <Interface MacAddress="000D3A51C491" IsPrimary="false"/></Interfaces>"#;

/// What both documents make of interfaces, where the wireserver was asked for the primaries.
fn both(network: &str, wire: &str) -> [Vec<Interface>; 2] {
    let wireserver = from_wireserver("u", wire).unwrap();
    let primaries: Primaries = wireserver.iter().map(|nic| (nic.mac, nic.primary)).collect();
    [from_metadata("u", network).unwrap(), wireserver].map(|nics| nics.into_iter().map(|nic| nic.interface(&primaries)).collect())
}

fn blocks<const N: usize>(texts: [&str; N]) -> BTreeSet<IpNetwork> {
    texts.map(|block| block.parse().unwrap()).into()
}

#[test]
fn both_documents_say_the_same() {
    let [metadata, wireserver] = both(NETWORK, INTERFACES);
    assert_eq!(metadata, wireserver);
    let first = &metadata[0];
    assert_eq!(first.id, "00:0d:3a:51:c4:90");
    assert_eq!(first.gateways, ["10.240.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!((first.address, &first.blocks), (Some("10.240.0.35".parse().unwrap()), &blocks(["10.240.0.36/32", "10.240.0.37/32"])));
    assert!(metadata[1].blocks.is_empty() && metadata[1].gateways.is_empty());
}

#[test]
fn the_primary_is_the_wireservers_in_whatever_order_they_are() {
    let swapped = |text: &str| text.replace("10.240.0.35", "-").replace("10.240.0.37", "10.240.0.35").replace('-', "10.240.0.37");
    // Metadata lists the primary last; the wireserver marks it wherever it is.
    let [metadata, wireserver] = both(&swapped(NETWORK), INTERFACES);
    assert_eq!(metadata, wireserver);
    assert_eq!(metadata[0].address, Some("10.240.0.35".parse().unwrap()));
    // Who lacks what is known to be primary may mean another: neither is a pod's.
    let [metadata, _] = both(&NETWORK.replace("10.240.0.35", "10.240.0.99"), INTERFACES);
    assert_eq!(metadata[0].blocks, blocks(["10.240.0.36/32", "10.240.0.37/32"]));
    // Without the wireserver's word the first counts.
    let nics = from_metadata("u", NETWORK).unwrap();
    assert_eq!(nics[0].clone().interface(&Primaries::new()).address, Some("10.240.0.35".parse().unwrap()));
}

#[test]
fn a_prefix_is_a_block_and_what_is_not_understood_is_left_alone() {
    let network = NETWORK.replace("10.240.0.36", "10.240.1.16/28").replace("10.240.0.37", "fd00::5");
    let wire = INTERFACES.replace("10.240.0.36", "10.240.1.16/28").replace("10.240.0.37", "fd00::5");
    let [metadata, wireserver] = both(&network, &wire);
    assert_eq!(metadata, wireserver);
    assert_eq!(metadata[0].blocks, blocks(["10.240.1.16/28"]));
    assert_eq!(from_metadata("u", &network).unwrap()[0].skipped, ["fd00::5"]);
    // A prefix is never the machine's own, not even where it is the first.
    let nics = from_metadata("u", &network.replace("10.240.0.35", "10.240.1.32/28")).unwrap();
    assert_eq!(nics[0].clone().interface(&Primaries::new()).address, None);
}

#[test]
fn what_is_something_else_is_an_error_that_shows_it() {
    let texts = ["", "null", "[]", "{}", "<html><body>Sign in</body></html>", "{\"interface\":[{\"macAddress\":\"x\"}]}"];
    for text in texts {
        let error = from_metadata("http://m/n", text).unwrap_err().to_string();
        assert!(error.starts_with("http://m/n answered "), "{error}");
        assert!(from_wireserver("u", text).is_err(), "{text}");
    }
    let bad = [("\"16\"", "\"33\""), ("000D3A51C490", "000D3A51C4")];
    for (good, bad) in bad {
        assert!(from_metadata("u", &NETWORK.replace(good, bad)).is_err(), "{bad}");
    }
    for (good, bad) in [("/16", "/33"), ("000D3A51C490", "000D3A51C4"), ("</Interfaces>", "")] {
        assert!(from_wireserver("u", &INTERFACES.replace(good, bad)).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_service_that_is_updated_is_asked_again() {
    let server = TestServer::start({
        let gone = std::sync::atomic::AtomicBool::new(true);
        move |asked| match asked.uri.path() {
            "/metadata/instance/network" if gone.swap(false, std::sync::atomic::Ordering::Relaxed) => Answer::status(410, ""),
            "/metadata/instance/network" => Answer::ok(NETWORK),
            _ => Answer::ok(INTERFACES),
        }
    })
    .await;
    let azure = Azure::new(AzureSettings { metadata: server.url(), wireserver: server.url() });
    for reader in [Reader::Metadata, Reader::Api, Reader::Metadata] {
        let Outcome::Read(reading) = azure.call(&Request::Read(reader)).await else { panic!("not read") };
        assert_eq!(reading.interfaces, both(NETWORK, INTERFACES)[0]);
    }
    let asked: Vec<_> = server.asked().iter().map(|asked| (asked.uri.to_string(), asked.headers["metadata"].clone())).collect();
    let (network, interfaces) =
        ("/metadata/instance/network?api-version=2021-12-13", "/machine/plugins?comp=nmagent&type=getinterfaceinfov1");
    // Twice, for it was gone; then for the primaries, once.
    assert_eq!(asked.iter().map(|(uri, _)| uri.as_str()).collect::<Vec<_>>(), [network, network, interfaces, interfaces, network]);
    assert!(asked.iter().all(|(_, header)| header == "true"));
}

/// The node's own address is nobody's, where only one document tells which it is.
#[tokio::test]
async fn while_the_wireserver_is_away_metadata_is_read_and_it_is_not_asked_each_time() {
    let server = TestServer::start(|asked| match asked.uri.path() {
        "/metadata/instance/network" => Answer::ok(NETWORK),
        _ => Answer::status(403, "no"),
    })
    .await;
    let azure = Azure::new(AzureSettings { metadata: server.url(), wireserver: server.url() });
    for _ in 0..3 {
        assert!(matches!(azure.call(&Request::Read(Reader::Metadata)).await, Outcome::Read(_)));
    }
    assert_eq!(server.asked().iter().filter(|asked| asked.uri.path() == "/machine/plugins").count(), 1);
}

#[tokio::test]
async fn nobody_there_and_nothing_to_assign() {
    let azure = Azure::new(AzureSettings { metadata: nobody().await, wireserver: nobody().await });
    for (reader, remedy) in [(Reader::Metadata, "169.254.169.254"), (Reader::Api, "168.63.129.16")] {
        let Outcome::Refused(Refusal::Other(why)) = azure.call(&Request::Read(reader)).await else { panic!("not refused") };
        assert!(why.contains("cannot connect") && why.contains(remedy), "{why}");
    }
    let request = Request::AddInterface { family: Family::V4, blocks: 1 };
    assert_eq!(azure.call(&request).await, Outcome::Refused(Refusal::Other(NOT_OURS.to_owned())));
}

#[test]
fn a_machine_without_an_interface_is_none() {
    for nics in [from_metadata("u", r#"{"interface":[]}"#), from_wireserver("u", "<Interfaces/>")] {
        assert!(nics.unwrap_err().to_string().contains("at least one"));
    }
}
