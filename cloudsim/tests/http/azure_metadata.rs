//! Azure's instance metadata service and its wireserver.

use cloudsim::fabric::NoFabric;
use cloudsim::metadata::Service;
use serde_json::json;

use super::client::{Lab, Reply, send};

fn lab() -> Lab {
    Lab::with(
        |spec| {
            spec.instance_type = "Standard_D4s_v5".to_owned();
            (spec.interfaces[0].secondary_count, spec.interfaces[0].ipv6_count) = (30, 1);
        },
        Box::new(NoFabric),
    )
}

#[test]
fn ip_configurations_are_the_addresses_of_the_nic() {
    let lab = lab();
    let url = lab.metadata(Service::Azure);
    let get = |path: &str| send("GET", &format!("{url}{path}"), &[("Metadata", "true")], "").unwrap();
    let interface = lab.interface();
    let document = get("/metadata/instance/network?api-version=2021-02-01").json();
    let nic = &document["interface"][0];
    let addresses: Vec<_> = interface.ipv4().map(|address| json!({ "privateIpAddress": address, "publicIpAddress": "" })).collect();
    assert_eq!(addresses.len(), 31);
    assert_eq!(nic["ipv4"]["ipAddress"], json!(addresses));
    assert_eq!(nic["ipv4"]["subnet"], json!([{ "address": "10.0.0.0", "prefix": "20" }]));
    assert_eq!(nic["ipv6"]["ipAddress"], json!([{ "privateIpAddress": interface.ipv6[0] }]));
    assert_eq!(nic["macAddress"], json!(interface.mac.to_string().replace(':', "").to_uppercase()));
    let whole = get("/metadata/instance?api-version=2021-02-01").json();
    assert_eq!((&whole["network"], &whole["compute"]["vmSize"]), (&document, &json!("Standard_D4s_v5")));
    let first = "/metadata/instance/network/interface/0/ipv4/ipAddress/0/privateIpAddress?api-version=2017-08-01&format=text";
    assert_eq!(get(first).body, interface.primary.to_string());
}

#[test]
fn requests_must_be_meant_for_it() {
    let lab = lab();
    let url = lab.metadata(Service::Azure);
    let status = |path: &str, headers: &[(&str, &str)]| send("GET", &format!("{url}{path}"), headers, "").unwrap().status;
    assert_eq!(status("/metadata/instance?api-version=2021-02-01", &[]), 400);
    assert_eq!(status("/metadata/instance", &[("Metadata", "true")]), 400);
    assert_eq!(status("/metadata/instance?api-version=new", &[("Metadata", "true")]), 400);
    assert_eq!(status("/metadata/instance?api-version=2021-02-01", &[("Metadata", "true"), ("X-Forwarded-For", "1.2.3.4")]), 400);
    assert_eq!(status("/metadata/instance/disk?api-version=2021-02-01", &[("Metadata", "true")]), 404);
    assert_eq!(status("/metadata/instance?api-version=2021-02-01", &[("Metadata", "True")]), 200);
}

/// An interface of the wireserver's document.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mac: String,
    is_primary: bool,
    subnet: String,
    addresses: Vec<(String, bool)>,
}

fn interfaces(reply: &Reply) -> Vec<Seen> {
    let document = roxmltree::Document::parse(&reply.body).unwrap();
    let attribute = |node: roxmltree::Node<'_, '_>, name: &str| node.attribute(name).unwrap().to_owned();
    let seen = |interface: roxmltree::Node<'_, '_>| {
        let subnet = interface.first_element_child().unwrap();
        let addresses = subnet.children().map(|address| (attribute(address, "Address"), attribute(address, "IsPrimary") == "true"));
        Seen {
            mac: attribute(interface, "MacAddress"),
            is_primary: attribute(interface, "IsPrimary") == "true",
            subnet: attribute(subnet, "Prefix"),
            addresses: addresses.collect(),
        }
    };
    document.root_element().children().map(seen).collect()
}

#[test]
fn the_wireserver_is_a_second_opinion_with_a_mind_of_its_own() {
    let lab = lab();
    let url = lab.metadata(Service::Wireserver);
    let get = |path: &str| send("GET", &format!("{url}{path}"), &[], "").unwrap();
    let path = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1";
    let found = interfaces(&get(path));
    let interface = lab.interface();
    let addresses: Vec<_> = interface.ipv4().map(|address| (address.to_string(), address == interface.primary)).collect();
    let expected = Seen { mac: interface.mac.bare(), is_primary: true, subnet: "10.0.0.0/20".to_owned(), addresses };
    assert_eq!(found, [expected]);
    assert_eq!(get("/machine/plugins?comp=nmagent").status, 404);
    lab.set_faults(|faults| faults.metadata.off = true);
    assert_eq!(get(path).status, 200, "it has faults of its own");
    lab.set_faults(|faults| faults.wireserver.omissions = 1.0);
    assert_eq!(interfaces(&get(path))[0].addresses.len(), 30);
}
