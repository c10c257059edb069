use super::super::test_server::{Answer, TestServer, nobody};
use super::*;
use crate::range::Family;

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

#[test]
fn both_documents_say_the_same() {
    let metadata = from_metadata("u", NETWORK).unwrap();
    let wireserver = from_wireserver("u", INTERFACES).unwrap();
    assert_eq!(metadata.interfaces, wireserver.interfaces);
    assert_eq!((metadata.reader, wireserver.reader), (Reader::Metadata, Reader::Api));
    let first = &metadata.interfaces[0];
    assert_eq!(first.id, "00:0d:3a:51:c4:90");
    assert_eq!(first.gateways, ["10.240.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(first.blocks, ["10.240.0.36/32", "10.240.0.37/32"].map(|block| block.parse().unwrap()).into());
    assert!(metadata.interfaces[1].blocks.is_empty() && metadata.interfaces[1].gateways.is_empty());
}

#[test]
fn what_is_something_else_is_an_error_that_shows_it() {
    let texts = ["", "null", "[]", "{}", "<html><body>Sign in</body></html>", "{\"interface\":[{\"macAddress\":\"x\"}]}"];
    for text in texts {
        let error = from_metadata("http://m/n", text).unwrap_err().to_string();
        assert!(error.starts_with("http://m/n answered "), "{error}");
        assert!(from_wireserver("u", text).is_err(), "{text}");
    }
    let bad = [("10.240.0.36", "10.240.0"), ("\"16\"", "\"33\""), ("000D3A51C490", "000D3A51C4")];
    for (good, bad) in bad {
        assert!(from_metadata("u", &NETWORK.replace(good, bad)).is_err(), "{bad}");
    }
    for (good, bad) in [("10.240.0.36", "::1"), ("/16", "/33"), ("000D3A51C490", "000D3A51C4"), ("</Interfaces>", "")] {
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
    let Outcome::Read(metadata) = azure.call(&Request::Read(Reader::Metadata)).await else { panic!("not read") };
    let Outcome::Read(wireserver) = azure.call(&Request::Read(Reader::Api)).await else { panic!("not read") };
    assert_eq!(metadata.interfaces, wireserver.interfaces);
    let asked: Vec<_> = server.asked().iter().map(|asked| (asked.uri.to_string(), asked.headers["metadata"].clone())).collect();
    assert_eq!(asked[0], asked[1]);
    assert_eq!(asked[1].0, "/metadata/instance/network?api-version=2021-12-13");
    assert_eq!(asked[2].0, "/machine/plugins?comp=nmagent&type=getinterfaceinfov1");
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
    for reading in [from_metadata("u", r#"{"interface":[]}"#), from_wireserver("u", "<Interfaces/>")] {
        assert!(reading.unwrap_err().to_string().contains("at least one"));
    }
}
