//! The same requests to us and to moto, an implementation of the EC2 API that we did not write: the same elements, the same kinds of
//! values, the same errors. Where the two differ, `moto/deviations.toml` says why; a deviation that is no longer one is a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use cloudsim::cloud::INSTANCE_TYPES;
use cloudsim::fabric::NoFabric;
use roxmltree::{Document, Node};
use serde::Deserialize;

use super::client::{Lab, Reply, query};
use super::python;

mod server;

use server::MotoServer;

struct Moto(MotoServer);

impl Moto {
    /// `None` where there is none, and that is allowed.
    fn start() -> Option<Self> {
        python::program("python").map(|python| Self(MotoServer::start(&python)))
    }

    fn query(&self, parameters: &[(&str, &str)]) -> Reply {
        query(&self.0.url, "us-east-1", parameters).unwrap()
    }
}

/// One request to both. `{name}` in a value is what an earlier answer of the same side had in the element `name`.
struct Step {
    name: &'static str,
    parameters: &'static [(&'static str, &'static str)],
    /// Elements whose first text is remembered.
    keep: &'static [&'static str],
}

const fn step(name: &'static str, parameters: &'static [(&'static str, &'static str)], keep: &'static [&'static str]) -> Step {
    Step { name, parameters, keep }
}

const ABSENT: &str = "eni-0123456789abcdef0";

const STEPS: &[Step] = &[
    step("DescribeSubnets", &[("SubnetId.1", "{subnetId}")], &[]),
    step("DescribeSubnets of nothing", &[("SubnetId.1", "subnet-0123456789abcdef0")], &[]),
    step("DescribeInstances", &[("InstanceId.1", "{instanceId}")], &[]),
    step("DescribeInstances of nothing", &[("InstanceId.1", "i-0123456789abcdef0")], &[]),
    step("DescribeInstanceTypes", &[("InstanceType.1", "m5.large")], &[]),
    step("DescribeInstanceTypes of nothing", &[("InstanceType.1", "x9.nano")], &[]),
    step(
        "CreateNetworkInterface",
        &[
            ("SubnetId", "{subnetId}"),
            ("Description", "of a node"),
            ("TagSpecification.1.ResourceType", "network-interface"),
            ("TagSpecification.1.Tag.1.Key", "node"),
            ("TagSpecification.1.Tag.1.Value", "one"),
        ],
        &["networkInterfaceId"],
    ),
    step("CreateNetworkInterface nowhere", &[("SubnetId", "subnet-0123456789abcdef0")], &[]),
    step("DescribeNetworkInterfaces", &[("NetworkInterfaceId.1", "{networkInterfaceId}")], &[]),
    step("DescribeNetworkInterfaces of nothing", &[("NetworkInterfaceId.1", ABSENT)], &[]),
    step(
        "AttachNetworkInterface",
        &[("NetworkInterfaceId", "{networkInterfaceId}"), ("InstanceId", "{instanceId}"), ("DeviceIndex", "1")],
        &["attachmentId"],
    ),
    step("AttachNetworkInterface of nothing", &[("NetworkInterfaceId", ABSENT), ("InstanceId", "{instanceId}"), ("DeviceIndex", "2")], &[]),
    step(
        "DescribeNetworkInterfaces by instance",
        &[
            ("Filter.1.Name", "attachment.instance-id"),
            ("Filter.1.Value.1", "{instanceId}"),
            ("Filter.2.Name", "tag:node"),
            ("Filter.2.Value.1", "one"),
        ],
        &[],
    ),
    step(
        "AssignPrivateIpAddresses",
        &[("NetworkInterfaceId", "{networkInterfaceId}"), ("SecondaryPrivateIpAddressCount", "1")],
        &["privateIpAddress"],
    ),
    step("AssignPrivateIpAddresses of prefixes", &[("NetworkInterfaceId", "{networkInterfaceId}"), ("Ipv4PrefixCount", "2")], &[]),
    step("AssignPrivateIpAddresses to nothing", &[("NetworkInterfaceId", ABSENT), ("Ipv4PrefixCount", "1")], &[]),
    step("AssignIpv6Addresses", &[("NetworkInterfaceId", "{networkInterfaceId}"), ("Ipv6AddressCount", "1")], &[]),
    step("AssignIpv6Addresses of prefixes", &[("NetworkInterfaceId", "{networkInterfaceId}"), ("Ipv6PrefixCount", "1")], &[]),
    step("DescribeNetworkInterfaces with addresses", &[("NetworkInterfaceId.1", "{networkInterfaceId}")], &[]),
    step("DescribeInstances with addresses", &[("InstanceId.1", "{instanceId}")], &[]),
    step(
        "UnassignPrivateIpAddresses",
        &[("NetworkInterfaceId", "{networkInterfaceId}"), ("PrivateIpAddress.1", "{privateIpAddress}")],
        &[],
    ),
    step("CreateTags", &[("ResourceId.1", "{networkInterfaceId}"), ("Tag.1.Key", "colour"), ("Tag.1.Value", "blue")], &[]),
    step("ModifyNetworkInterfaceAttribute", &[("NetworkInterfaceId", "{networkInterfaceId}"), ("Description.Value", "of another")], &[]),
    step("DetachNetworkInterface", &[("AttachmentId", "{attachmentId}")], &[]),
    step("DetachNetworkInterface of nothing", &[("AttachmentId", "eni-attach-0123456789abcdef0")], &[]),
    step("DeleteNetworkInterface", &[("NetworkInterfaceId", "{networkInterfaceId}")], &[]),
    step("DeleteNetworkInterface of nothing", &[("NetworkInterfaceId", "{networkInterfaceId}")], &[]),
    step("CreateNetworkInterface again", &[("SubnetId", "{subnetId}")], &["networkInterfaceId"]),
    step(
        "AttachNetworkInterface again",
        &[("NetworkInterfaceId", "{networkInterfaceId}"), ("InstanceId", "{instanceId}"), ("DeviceIndex", "1")],
        &[],
    ),
    step("DeleteNetworkInterface in use", &[("NetworkInterfaceId", "{networkInterfaceId}")], &[]),
];

/// One side's answers, with what it remembers of earlier ones.
struct Side<F> {
    ask: F,
    kept: BTreeMap<&'static str, String>,
}

impl<F: Fn(&[(&str, &str)]) -> Reply> Side<F> {
    fn new(ask: F, subnet: String, instance: String) -> Self {
        Self { ask, kept: BTreeMap::from([("subnetId", subnet), ("instanceId", instance)]) }
    }

    fn take(&mut self, step: &Step) -> Shape {
        let action = step.name.split(' ').next().unwrap();
        let mut parameters = vec![("Action", action.to_owned())];
        for (name, value) in step.parameters {
            let kept = value.strip_prefix('{').and_then(|value| value.strip_suffix('}'));
            parameters.push((name, kept.map_or_else(|| (*value).to_owned(), |name| self.kept[name].clone())));
        }
        let borrowed: Vec<_> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reply = (self.ask)(&borrowed);
        for name in step.keep {
            let text = reply.element(name).unwrap_or_else(|| panic!("{}: no {name} in {}", step.name, reply.body));
            self.kept.insert(name, text);
        }
        Shape::of(&reply)
    }
}

/// Element paths, each with the kinds of values that are there.
#[derive(Debug)]
struct Shape(BTreeMap<String, BTreeSet<String>>);

impl Shape {
    fn of(reply: &Reply) -> Self {
        let document = Document::parse(&reply.body).unwrap_or_else(|error| panic!("{error}: {}", reply.body));
        let mut paths = BTreeMap::new();
        if reply.status == 200 {
            walk(document.root_element(), "", &mut paths);
        } else {
            let code = reply.element("Code").unwrap_or_default();
            paths.insert("error".to_owned(), BTreeSet::from([format!("{} {code}", reply.status)]));
        }
        Self(paths)
    }
}

fn walk(node: Node<'_, '_>, above: &str, paths: &mut BTreeMap<String, BTreeSet<String>>) {
    let is_leaf = node.children().all(|child| !child.is_element());
    if is_leaf && !above.is_empty() {
        let kinds = paths.entry(above.to_owned()).or_default();
        // An empty element says nothing of what would be in it.
        kinds.extend(node.text().map(str::trim).filter(|text| !text.is_empty()).map(kind));
    }
    for child in node.children().filter(Node::is_element) {
        let name = child.tag_name().name();
        let path = if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") };
        // Items of a list are one path.
        walk(child, path.trim_end_matches("/item"), paths);
    }
}

/// What sort of text it is; a word is itself.
fn kind(text: &str) -> String {
    let is_id = |id: &str| matches!(id.len(), 8 | 17) && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    if let Some((name, _)) = text.rsplit_once('-').filter(|(_, id)| is_id(id)) {
        return format!("{name}-ID");
    }
    if text.parse::<IpAddr>().is_ok() {
        return if text.contains(':') { "IPv6" } else { "IPv4" }.to_owned();
    }
    if let Some((_, length)) = text.split_once('/').filter(|(address, _)| address.parse::<IpAddr>().is_ok()) {
        return format!("PREFIX/{length}");
    }
    if text.len() == 17 && text.bytes().filter(|byte| *byte == b':').count() == 5 {
        return "MAC".to_owned();
    }
    if text.len() == 24 && text.ends_with('Z') && text.as_bytes()[10] == b'T' {
        return "TIME".to_owned();
    }
    if text.bytes().all(|digit| digit.is_ascii_digit()) {
        return "NUMBER".to_owned();
    }
    if text.starts_with("ip-") && text.ends_with(".internal") { "NAME".to_owned() } else { text.to_owned() }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deviations {
    deviation: Vec<Deviation>,
}

/// A difference that we know of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deviation {
    /// A step, an action (all of its steps), or `*`.
    call: String,
    /// Element paths; what is below one is meant as well. `error` is the status and the code of a refusal.
    paths: Vec<String>,
    /// What moto has there: kinds of values, or `nothing`. Anything where it is not said.
    moto: Option<String>,
    /// What we have there.
    cloudsim: Option<String>,
    /// Why.
    reason: String,
}

impl Deviation {
    /// The paths of this one that explain a difference.
    fn covering(&self, difference: &Difference) -> impl Iterator<Item = &str> {
        let Difference { step, path, ours, theirs } = difference;
        let is_call = self.call == "*" || self.call == *step || step.split(' ').next() == Some(&self.call);
        let is_value = |named: &Option<String>, value: &str| named.as_deref().is_none_or(|named| named == value);
        let is_meant = is_call && is_value(&self.moto, theirs) && is_value(&self.cloudsim, ours);
        let is_above = |above: &&String| path.strip_prefix(*above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.paths.iter().filter(move |above| is_meant && is_above(above)).map(String::as_str)
    }
}

#[derive(Debug)]
struct Difference {
    step: &'static str,
    path: String,
    ours: String,
    theirs: String,
}

fn differences(step: &'static str, ours: &Shape, theirs: &Shape) -> Vec<Difference> {
    let paths: BTreeSet<_> = ours.0.keys().chain(theirs.0.keys()).collect();
    let text = |shape: &Shape, path: &String| {
        let kinds = shape.0.get(path);
        kinds.map_or_else(|| "nothing".to_owned(), |kinds| kinds.iter().cloned().collect::<Vec<_>>().join(" "))
    };
    let all = paths.into_iter().map(|path| Difference { step, path: path.clone(), ours: text(ours, path), theirs: text(theirs, path) });
    // Where a value is on one side only, there is nothing to compare; that the element is there has been.
    all.filter(|found| found.ours != found.theirs && !found.ours.is_empty() && !found.theirs.is_empty()).collect()
}

#[test]
fn answers_have_the_shape_of_motos() {
    let Some(moto) = Moto::start() else { return };
    let lab = Lab::with(|spec| spec.instance_type = "m5.4xlarge".to_owned(), Box::new(NoFabric));
    let vpc = moto.query(&[("Action", "DescribeVpcs")]).element("vpcId").unwrap();
    let associate = [("Action", "AssociateVpcCidrBlock"), ("VpcId", &vpc), ("AmazonProvidedIpv6CidrBlock", "true")];
    let block = moto.query(&associate).element("ipv6CidrBlock").unwrap();
    let subnet = [
        ("Action", "CreateSubnet"),
        ("VpcId", &vpc),
        ("CidrBlock", "172.31.128.0/20"),
        ("Ipv6CidrBlock", &block.replace("/56", "/64")),
        ("AvailabilityZone", "us-east-1a"),
    ];
    let subnet = moto.query(&subnet).element("subnetId").unwrap();
    let tag = [("Action", "CreateTags"), ("ResourceId.1", &subnet), ("Tag.1.Key", "tier"), ("Tag.1.Value", "pods")];
    assert_eq!(moto.query(&tag).status, 200);
    let run = [
        ("Action", "RunInstances"),
        ("ImageId", "ami-12345678"),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("InstanceType", "m5.4xlarge"),
        ("SubnetId", &subnet),
    ];
    let instance = moto.query(&run).element("instanceId").unwrap();

    let mut theirs = Side::new(|parameters: &[(&str, &str)]| moto.query(parameters), subnet, instance);
    let mut ours = Side::new(|parameters: &[(&str, &str)]| lab.query(parameters), lab.subnet.to_string(), lab.instance.to_string());
    let known: Deviations = toml::from_str(include_str!("moto/deviations.toml")).unwrap();
    let rows = known.deviation.iter().enumerate();
    let mut unused: BTreeSet<_> = rows.flat_map(|(row, known)| known.paths.iter().map(move |path| (row, path.as_str()))).collect();
    let mut report = String::new();
    for step in STEPS {
        for found in differences(step.name, &ours.take(step), &theirs.take(step)) {
            let rows = known.deviation.iter().enumerate();
            let covering: Vec<_> = rows.flat_map(|(row, known)| known.covering(&found).map(move |path| (row, path))).collect();
            if covering.is_empty() {
                writeln!(report, "{}: {}: cloudsim has `{}`, moto `{}`", found.step, found.path, found.ours, found.theirs).unwrap();
            }
            unused.retain(|row| !covering.contains(row));
        }
    }
    for (row, path) in unused {
        writeln!(report, "no longer a deviation: {path} of {}: {}", known.deviation[row].call, known.deviation[row].reason).unwrap();
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn limits_of_instance_types_are_motos() {
    let Some(moto) = Moto::start() else { return };
    let mut wrong = String::new();
    // Azure's and Google's names have no dot.
    for known in INSTANCE_TYPES.iter().filter(|known| known.name.contains('.')) {
        let reply = moto.query(&[("Action", "DescribeInstanceTypes"), ("InstanceType.1", known.name)]);
        let figures =
            ["maximumNetworkInterfaces", "maximumNetworkCards", "ipv4AddressesPerInterface", "ipv6AddressesPerInterface", "defaultVCpus"];
        let theirs = figures.map(|figure| reply.element(figure).and_then(|text| text.parse().ok()));
        let ours = [known.interfaces(), known.cards, known.ipv4_per_interface, known.ipv6_per_interface, known.vcpus].map(Some);
        let is_nitro = reply.element("hypervisor").is_none_or(|hypervisor| hypervisor == "nitro");
        let is_arm = reply.body.contains("<item>arm64</item>");
        if theirs != ours || (is_nitro, is_arm) != (known.nitro, known.arm) {
            writeln!(wrong, "{}: ours {ours:?}, theirs {theirs:?}", known.name).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
