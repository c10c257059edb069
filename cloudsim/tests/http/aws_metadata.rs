//! IMDSv2.

use std::collections::BTreeSet;

use cloudsim::fabric::NoFabric;
use cloudsim::faults::Refusal;
use cloudsim::http::{Asker, Role};
use cloudsim::metadata::Service;

use super::client::{Lab, Reply, send};

const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";

struct Imds {
    url: String,
    token: String,
}

impl Imds {
    fn of(lab: &Lab) -> Self {
        let url = lab.metadata(Service::Aws);
        let token = send("PUT", &format!("{url}/latest/api/token"), &[(TTL, "60")], "").unwrap().body;
        Self { url, token }
    }

    fn get(&self, path: &str) -> Reply {
        send("GET", &format!("{}{path}", self.url), &[("X-aws-ec2-metadata-token", &self.token)], "").unwrap()
    }

    fn lines(&self, path: &str) -> Vec<String> {
        let reply = self.get(path);
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        reply.body.lines().map(str::to_owned).collect()
    }
}

#[test]
fn nothing_is_said_without_a_token() {
    let lab = Lab::new();
    let imds = Imds::of(&lab);
    let get = |headers: &[(&str, &str)]| send("GET", &format!("{}/latest/meta-data/", imds.url), headers, "").unwrap().status;
    assert_eq!(get(&[]), 401);
    assert_eq!(get(&[("X-aws-ec2-metadata-token", "AQAEA00000000000000000000000000000000==")]), 401);
    assert_eq!(imds.get("/latest/meta-data/").status, 200);
    let put = |headers: &[(&str, &str)]| send("PUT", &format!("{}/latest/api/token", imds.url), headers, "").unwrap();
    assert_eq!(put(&[]).status, 400);
    assert_eq!(put(&[(TTL, "21601")]).status, 400);
    assert_eq!(put(&[(TTL, "60"), ("X-Forwarded-For", "10.0.0.1")]).status, 403);
    assert_eq!(put(&[(TTL, "60")]).header(TTL), "60");
    let short = put(&[(TTL, "1")]).body;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(get(&[("X-aws-ec2-metadata-token", &short)]), 401, "it has ended");
}

#[test]
fn interfaces_are_shown_with_what_they_have() {
    let lab = Lab::with(
        |spec| {
            let first = &mut spec.interfaces[0];
            (first.ipv4_prefix_count, first.secondary_count, first.ipv6_count, first.ipv6_prefix_count) = (2, 1, 1, 1);
            spec.interfaces.push(cloudsim::cloud::InterfaceSpec::new(spec.interfaces[0].subnet));
        },
        Box::new(NoFabric),
    );
    let (imds, interface) = (Imds::of(&lab), lab.interface());
    assert_eq!(imds.get("/latest/meta-data/instance-id").body, lab.instance.to_string());
    assert_eq!(imds.get("/latest/meta-data/instance-type").body, "m5.large");
    assert_eq!(imds.get("/latest/meta-data/placement/availability-zone").body, "us-east-1a");
    assert_eq!(imds.get("/2021-07-15/meta-data/placement/region").body, "us-east-1");
    let mac = imds.get("/latest/meta-data/mac").body;
    assert_eq!(mac, interface.mac.to_string());
    let macs = imds.lines("/latest/meta-data/network/interfaces/macs/");
    assert!(macs.len() == 2 && macs.contains(&format!("{mac}/")), "{macs:?}");
    let of = |key: &str| imds.lines(&format!("/latest/meta-data/network/interfaces/macs/{mac}/{key}"));
    let texts = |items: &[String]| items.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(of("device-number"), ["0"]);
    assert_eq!(of("interface-id"), [interface.id.to_string()]);
    assert_eq!(of("local-ipv4s"), [interface.primary.to_string(), interface.secondary[0].to_string()]);
    assert_eq!(of("ipv4-prefix"), interface.ipv4_prefixes.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(of("ipv6-prefix"), [interface.ipv6_prefixes[0].to_string()]);
    assert_eq!(of("ipv6s"), [interface.ipv6[0].to_string()]);
    assert_eq!(of("subnet-id"), [lab.subnet.to_string()]);
    assert_eq!(of("subnet-ipv4-cidr-block"), ["10.0.0.0/20"]);
    assert_eq!(of("vpc-ipv4-cidr-blocks"), ["10.0.0.0/20"]);
    assert_eq!(of("vpc-ipv6-cidr-blocks"), ["fd00:10::/64"]);
    assert_eq!(of("security-group-ids").len(), 1);
    let keys = texts(&of(""));
    assert!(keys.contains("ipv4-prefix") && keys.contains("ipv6-prefix"), "{keys:?}");
    let second = macs.iter().find(|name| **name != format!("{mac}/")).unwrap();
    assert_eq!(imds.get(&format!("/latest/meta-data/network/interfaces/macs/{second}ipv4-prefix")).status, 404, "it has none");
    assert_eq!(imds.get(&format!("/latest/meta-data/network/interfaces/macs/{second}device-number")).body, "1");
}

#[test]
fn the_instance_has_an_identity_and_credentials() {
    let lab = Lab::with(|spec| spec.role = Some("node".to_owned()), Box::new(NoFabric));
    let imds = Imds::of(&lab);
    let identity = imds.get("/latest/dynamic/instance-identity/document").json();
    assert_eq!((&identity["region"], &identity["instanceType"]), (&"us-east-1".into(), &"m5.large".into()));
    assert_eq!(imds.get("/latest/meta-data/iam/security-credentials/").body, "node");
    let credentials = imds.get("/latest/meta-data/iam/security-credentials/node").json();
    assert_eq!(credentials["Code"], "Success");
    assert!(credentials["AccessKeyId"].as_str().unwrap().starts_with("ASIA"));
    assert_eq!(Imds::of(&Lab::new()).get("/latest/meta-data/iam/security-credentials/").status, 404, "without a role");
}

#[test]
fn a_service_may_be_off_far_or_another() {
    let lab = Lab::new();
    let imds = Imds::of(&lab);
    let token = || send("PUT", &format!("{}/latest/api/token", imds.url), &[(TTL, "60")], "");
    lab.set_faults(|faults| faults.metadata.hops = 2);
    assert!(token().is_err(), "a token goes one hop");
    lab.set_faults(|faults| (faults.metadata.hops, faults.metadata.html) = (0, true));
    assert!(token().unwrap().body.contains("<html>"));
    lab.set_faults(|faults| {
        faults.metadata.html = false;
        (faults.metadata.refused, faults.metadata.refusal) = (1.0, Some(Refusal::TooManyRequests(2)));
    });
    let refused = token().unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (429, "2"));
    lab.set_faults(|faults| faults.metadata.off = true);
    assert!(token().is_err());
}

#[test]
fn whoever_asks_may_be_known_by_address() {
    let lab = Lab::with(|spec| spec.interfaces[0].ipv6 = Vec::new(), Box::new(NoFabric));
    let url = lab.listen(Role::Metadata(Service::Aws, Asker::Peer));
    assert!(send("PUT", &format!("{url}/latest/api/token"), &[(TTL, "60")], "").is_err(), "nobody has 127.0.0.1");
    // A subnet in which the loopback address can be held.
    lab.server.with(|cloud, now| {
        let spec = cloudsim::cloud::SubnetSpec {
            availability_zone: "us-east-1a".to_owned(),
            cidr: "127.0.0.0/20".parse().unwrap(),
            ipv6_cidr: None,
            tags: [].into(),
        };
        let subnet = cloud.create_subnet(spec).unwrap();
        let mut spec = cloudsim::cloud::LaunchSpec::new("m5.large", subnet);
        spec.interfaces[0].primary = Some("127.0.0.9".parse().unwrap());
        cloud.launch(now, &spec).unwrap();
    });
    let address = url.trim_start_matches("http://").to_owned();
    let status = put_token_from("127.0.0.9", &address);
    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
}

/// The status line of a token request that comes from `source`.
fn put_token_from(source: &str, address: &str) -> String {
    use std::io::{Read, Write};
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let source: std::net::SocketAddr = format!("{source}:0").parse().unwrap();
    socket.bind(&source.into()).unwrap();
    socket.connect(&address.parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let mut stream: std::net::TcpStream = socket.into();
    write!(stream, "PUT /latest/api/token HTTP/1.1\r\nHost: x\r\n{TTL}: 60\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.lines().next().unwrap_or_default().to_owned()
}
