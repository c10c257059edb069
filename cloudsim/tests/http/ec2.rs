//! The EC2 Query API.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use cloudsim::cloud::{Interface, InterfaceId};
use cloudsim::fabric::Fabric;
use cloudsim::faults::{Interval, Latency, Refusal, Storm};
use cloudsim::time::Millis;
use ipnetwork::IpNetwork;

use super::client::{Lab, query, send};

#[test]
fn an_interface_lives_from_create_to_delete() {
    let lab = Lab::new();
    let (subnet, instance) = (lab.subnet.to_string(), lab.instance.to_string());
    let created = lab.query(&[
        ("Action", "CreateNetworkInterface"),
        ("SubnetId", &subnet),
        ("Description", "of <node> & more"),
        ("ClientToken", "once"),
        ("Ipv4PrefixCount", "1"),
        ("TagSpecification.1.ResourceType", "network-interface"),
        ("TagSpecification.1.Tag.1.Key", "node"),
        ("TagSpecification.1.Tag.1.Value", "one"),
    ]);
    assert_eq!((created.status, created.header("content-type")), (200, "text/xml;charset=UTF-8"), "{created:?}");
    assert!(created.body.contains("<CreateNetworkInterfaceResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">"));
    assert_eq!(created.element("requestId").map(|id| id.len()), Some(36));
    assert_eq!(created.element("description").as_deref(), Some("of <node> & more"));
    assert_eq!(created.element("clientToken").as_deref(), Some("once"));
    assert!(created.element("ipv4Prefix").is_some_and(|prefix| prefix.ends_with("/28")));
    let interface = created.element("networkInterfaceId").unwrap();

    let attach =
        [("Action", "AttachNetworkInterface"), ("NetworkInterfaceId", &interface), ("InstanceId", &instance), ("DeviceIndex", "1")];
    let attachment = lab.query(&attach).element("attachmentId").unwrap();
    let modify = [
        ("Action", "ModifyNetworkInterfaceAttribute"),
        ("NetworkInterfaceId", interface.as_str()),
        ("Attachment.AttachmentId", &attachment),
        ("Attachment.DeleteOnTermination", "true"),
    ];
    assert_eq!(lab.query(&modify).element("return").as_deref(), Some("true"));
    let assign = [("Action", "AssignPrivateIpAddresses"), ("NetworkInterfaceId", &interface), ("Ipv4PrefixCount", "1")];
    let prefix = lab.query(&assign).element("ipv4Prefix").unwrap();
    let assign = [("Action", "AssignIpv6Addresses"), ("NetworkInterfaceId", &interface), ("Ipv6PrefixCount", "1")];
    assert!(lab.query(&assign).body.contains("/80</item>"));

    let described = lab.query(&[
        ("Action", "DescribeNetworkInterfaces"),
        ("Filter.1.Name", "attachment.instance-id"),
        ("Filter.1.Value.1", &instance),
        ("Filter.2.Name", "tag:node"),
        ("Filter.2.Value.1", "o*"),
    ]);
    assert_eq!(described.element("networkInterfaceId").as_ref(), Some(&interface));
    assert_eq!(described.element("deleteOnTermination").as_deref(), Some("true"));
    assert!(described.body.contains(&prefix));
    let instances = lab.query(&[("Action", "DescribeInstances"), ("InstanceId.1", &instance)]);
    assert_eq!(instances.body.matches("<deviceIndex>").count(), 2);

    let unassign = [("Action", "UnassignPrivateIpAddresses"), ("NetworkInterfaceId", &interface), ("Ipv4Prefix.1", &prefix)];
    assert_eq!(lab.query(&unassign).element("return").as_deref(), Some("true"));
    assert_eq!(lab.query(&unassign).element("Code").as_deref(), Some("InvalidParameterValue"));
    assert_eq!(lab.query(&[("Action", "DetachNetworkInterface"), ("AttachmentId", &attachment)]).status, 200);
    assert_eq!(lab.query(&[("Action", "DeleteNetworkInterface"), ("NetworkInterfaceId", &interface)]).status, 200);
    let gone = lab.query(&[("Action", "DescribeNetworkInterfaces"), ("NetworkInterfaceId.1", &interface)]);
    assert_eq!((gone.status, gone.element("Code").as_deref()), (400, Some("InvalidNetworkInterfaceID.NotFound")));
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    let lab = Lab::new();
    let code = |parameters: &[(&str, &str)]| lab.query(parameters).element("Code").unwrap();
    assert_eq!(code(&[("Action", "RunInstances")]), "InvalidAction");
    assert_eq!(code(&[("Action", "DescribeSubnets"), ("Colour", "blue")]), "UnknownParameter");
    assert_eq!(code(&[("Action", "AttachNetworkInterface")]), "MissingParameter");
    assert_eq!(code(&[("Action", "DeleteNetworkInterface"), ("NetworkInterfaceId", "x")]), "InvalidNetworkInterfaceID.Malformed");
    assert_eq!(code(&[("Action", "DescribeSubnets"), ("MaxResults", "many")]), "InvalidParameterValue");
    assert_eq!(code(&[("Action", "DescribeSubnets"), ("DryRun", "true")]), "DryRunOperation");
    let interface = lab.interface().id.to_string();
    let both = [("Action", "AssignPrivateIpAddresses"), ("NetworkInterfaceId", interface.as_str())];
    assert_eq!(code(&both), "MissingParameter");
    let both = [both[0], both[1], ("Ipv4PrefixCount", "1"), ("SecondaryPrivateIpAddressCount", "1")];
    assert_eq!(code(&both), "InvalidParameterCombination");
    let foreign = query(&lab.api, "eu-west-1", &[("Action", "DescribeSubnets")]).unwrap();
    assert_eq!((foreign.status, foreign.element("Code").as_deref()), (401, Some("AuthFailure")));
    let unsigned = send("POST", &lab.api, &[], "Action=DescribeSubnets&Version=2016-11-15").unwrap();
    assert_eq!((unsigned.status, unsigned.element("Code").as_deref()), (403, Some("MissingAuthenticationToken")));
}

#[test]
fn faults_reach_the_wire() {
    let lab = Lab::new();
    let describe = [("Action", "DescribeSubnets")];
    let now = lab.server.with(|_, now| now);
    let always = Interval { from: Millis::ZERO, until: now + Millis::seconds(600) };
    lab.set_faults(|faults| faults.api.lost_replies = 1.0);
    assert!(query(&lab.api, "us-east-1", &describe).is_err());
    assert_eq!(lab.server.with(|cloud, _| cloud.calls().total().unheard), 1);
    lab.set_faults(|faults| (faults.api.lost_replies, faults.api.away) = (0.0, vec![always]));
    assert!(query(&lab.api, "us-east-1", &describe).is_err());
    lab.set_faults(|faults| {
        faults.api.away.clear();
        let storm = Storm { from: always.from, until: always.until, probability: 1.0, refusal: Refusal::TooManyRequests(3) };
        faults.api.storms = vec![storm];
    });
    let refused = lab.query(&describe);
    assert_eq!((refused.status, refused.header("retry-after")), (429, "3"));
    lab.set_faults(|faults| {
        faults.api.storms.clear();
        faults.api.latency = Latency::exactly(Millis(300));
    });
    let started = Instant::now();
    assert_eq!(lab.query(&describe).element("cidrBlock").as_deref(), Some("10.0.0.0/20"));
    assert!(started.elapsed().as_millis() >= 300);
}

/// Remembers what it is told.
struct Told(Arc<Mutex<Vec<String>>>);

impl Fabric for Told {
    fn attached(&mut self, interface: &Interface) {
        self.0.lock().unwrap().push(format!("attached {}", interface.device().unwrap().name));
    }
    fn detached(&mut self, interface: &Interface) {
        self.0.lock().unwrap().push(format!("detached {}", interface.device().unwrap().name));
    }
    fn assigned(&mut self, _interface: InterfaceId, network: IpNetwork) {
        self.0.lock().unwrap().push(format!("assigned {network}"));
    }
    fn unassigned(&mut self, _interface: InterfaceId, network: IpNetwork) {
        self.0.lock().unwrap().push(format!("unassigned {network}"));
    }
}

#[test]
fn the_fabric_knows_before_the_caller_does() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let lab = Lab::with(|_| {}, Box::new(Told(Arc::clone(&told))));
    let heard = || std::mem::take(&mut *told.lock().unwrap());
    assert_eq!(heard(), ["attached eth0"]);
    let interface = lab.interface().id.to_string();
    let assign = [("Action", "AssignPrivateIpAddresses"), ("NetworkInterfaceId", &interface), ("Ipv4PrefixCount", "1")];
    let prefix = lab.query(&assign).element("ipv4Prefix").unwrap();
    assert_eq!(heard(), [format!("assigned {prefix}")]);
    let unassign = [("Action", "UnassignPrivateIpAddresses"), ("NetworkInterfaceId", &interface), ("Ipv4Prefix.1", &prefix)];
    lab.query(&unassign);
    assert_eq!(heard(), [format!("unassigned {prefix}")]);
}

#[test]
fn what_is_late_happens_without_a_request() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let lab = Lab::with(|_| {}, Box::new(Told(Arc::clone(&told))));
    lab.set_faults(|faults| faults.devices.appearing = Latency::exactly(Millis(500)));
    let created = lab.query(&[("Action", "CreateNetworkInterface"), ("SubnetId", &lab.subnet.to_string())]);
    let interface = created.element("networkInterfaceId").unwrap();
    let instance = lab.instance.to_string();
    let asked = Instant::now();
    lab.query(&[("Action", "AttachNetworkInterface"), ("NetworkInterfaceId", &interface), ("InstanceId", &instance), ("DeviceIndex", "1")]);
    let appeared = || told.lock().unwrap().last().is_some_and(|last| last == "attached eth1");
    while !appeared() {
        assert!(asked.elapsed().as_secs() < 10, "{told:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // The cloud's clock counts whole milliseconds.
    assert!(asked.elapsed().as_millis() >= 499);
}
