//! From an answer to the XML that EC2 would send. Element names are those of the EC2 API's own model.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::xml::Xml;
use crate::cloud::{Action, ApiError, Attachment, Cloud, DescribedInstance, DescribedSubnet, InstanceType, Interface, Response};

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

pub(super) fn write(cloud: &Cloud, action: Action, response: &Response, request_id: &str) -> String {
    let name = format!("{action}Response");
    let mut xml = Xml::default();
    xml.element_with(&format!("{name} xmlns=\"{NAMESPACE}\""), &name, |xml| {
        xml.text("requestId", request_id);
        content(xml, cloud, response);
    });
    xml.finish()
}

pub(super) fn write_error(error: &ApiError, request_id: &str) -> String {
    let mut xml = Xml::default();
    xml.element("Response", |xml| {
        xml.element("Errors", |xml| {
            xml.element("Error", |xml| {
                xml.text("Code", error.code);
                xml.text("Message", &error.message);
            });
        });
        xml.text("RequestID", request_id);
    });
    xml.finish()
}

fn content(xml: &mut Xml, cloud: &Cloud, response: &Response) {
    match response {
        Response::CreateNetworkInterface { interface: created, client_token } => {
            xml.element("networkInterface", |xml| interface(xml, cloud, created));
            optional(xml, "clientToken", client_token.as_ref());
        }
        Response::AttachNetworkInterface { attachment, network_card } => {
            xml.text("attachmentId", attachment);
            xml.text("networkCardIndex", network_card);
        }
        Response::AssignPrivateIpAddresses { interface, addresses, prefixes } => {
            xml.text("networkInterfaceId", interface);
            xml.set("assignedPrivateIpAddressesSet", addresses, |xml, address| xml.text("privateIpAddress", address));
            xml.set("assignedIpv4PrefixSet", prefixes, |xml, prefix| xml.text("ipv4Prefix", prefix));
            xml.text("return", true);
        }
        Response::AssignIpv6Addresses { interface, addresses, prefixes } => {
            xml.text("networkInterfaceId", interface);
            xml.element("assignedIpv6Addresses", |xml| addresses.iter().for_each(|address| xml.text("item", address)));
            xml.element("assignedIpv6PrefixSet", |xml| prefixes.iter().for_each(|prefix| xml.text("item", prefix)));
        }
        Response::UnassignIpv6Addresses { interface, addresses, prefixes } => {
            xml.text("networkInterfaceId", interface);
            xml.element("unassignedIpv6Addresses", |xml| addresses.iter().for_each(|address| xml.text("item", address)));
            xml.element("unassignedIpv6PrefixSet", |xml| prefixes.iter().for_each(|prefix| xml.text("item", prefix)));
        }
        Response::Done => xml.text("return", true),
        Response::DescribeNetworkInterfaces { interfaces, next_token } => {
            xml.set("networkInterfaceSet", interfaces, |xml, found| interface(xml, cloud, found));
            optional(xml, "nextToken", next_token.as_ref());
        }
        Response::DescribeInstances { instances, next_token } => {
            xml.set("reservationSet", instances, |xml, found| reservation(xml, cloud, found));
            optional(xml, "nextToken", next_token.as_ref());
        }
        Response::DescribeSubnets { subnets, next_token } => {
            xml.set("subnetSet", subnets, |xml, found| subnet(xml, cloud, found));
            optional(xml, "nextToken", next_token.as_ref());
        }
        Response::DescribeInstanceTypes { instance_types, next_token } => {
            xml.set("instanceTypeSet", instance_types, |xml, found| instance_type(xml, found));
            optional(xml, "nextToken", next_token.as_ref());
        }
    }
}

fn optional(xml: &mut Xml, name: &str, text: Option<&String>) {
    if let Some(text) = text {
        xml.text(name, text);
    }
}

fn tags(xml: &mut Xml, tags: &BTreeMap<String, String>) {
    xml.set("tagSet", tags, |xml, (key, value)| {
        xml.text("key", key);
        xml.text("value", value);
    });
}

fn groups(xml: &mut Xml, cloud: &Cloud, groups: &[String]) {
    let default = cloud.default_security_group();
    xml.set("groupSet", groups, |xml, group| {
        xml.text("groupId", group);
        xml.text("groupName", if *group == default { "default" } else { group });
    });
}

/// What an address is called inside of a region. us-east-1 has a name of its own.
fn private_dns_name(cloud: &Cloud, address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    match cloud.settings().region.as_str() {
        "us-east-1" => format!("ip-{a}-{b}-{c}-{d}.ec2.internal"),
        region => format!("ip-{a}-{b}-{c}-{d}.{region}.compute.internal"),
    }
}

fn zone_of(cloud: &Cloud, interface: &Interface) -> String {
    let subnet = cloud.subnets().find(|subnet| subnet.id == interface.subnet);
    subnet.map(|subnet| subnet.availability_zone).unwrap_or_default()
}

fn interface(xml: &mut Xml, cloud: &Cloud, interface: &Interface) {
    xml.text("networkInterfaceId", interface.id);
    xml.text("subnetId", interface.subnet);
    xml.text("vpcId", cloud.vpc());
    xml.text("availabilityZone", zone_of(cloud, interface));
    xml.text("description", &interface.description);
    xml.text("ownerId", &cloud.settings().account);
    xml.text("requesterManaged", false);
    xml.text("status", interface.status());
    xml.text("macAddress", interface.mac);
    xml.text("privateIpAddress", interface.primary);
    xml.text("privateDnsName", private_dns_name(cloud, interface.primary));
    xml.text("sourceDestCheck", true);
    groups(xml, cloud, &interface.security_groups);
    if let Some(held) = &interface.attachment {
        xml.element("attachment", |xml| attachment(xml, cloud, held));
    }
    tags(xml, &interface.tags);
    addresses(xml, cloud, interface);
    xml.text("interfaceType", "interface");
}

/// What `DescribeInstances` and `DescribeNetworkInterfaces` say alike.
fn addresses(xml: &mut Xml, cloud: &Cloud, interface: &Interface) {
    xml.set("privateIpAddressesSet", interface.ipv4(), |xml, address| {
        xml.text("privateIpAddress", address);
        xml.text("privateDnsName", private_dns_name(cloud, address));
        xml.text("primary", address == interface.primary);
    });
    xml.set("ipv6AddressesSet", &interface.ipv6, |xml, address| xml.text("ipv6Address", address));
    if !interface.ipv4_prefixes.is_empty() {
        xml.set("ipv4PrefixSet", &interface.ipv4_prefixes, |xml, prefix| xml.text("ipv4Prefix", prefix));
    }
    if !interface.ipv6_prefixes.is_empty() {
        xml.set("ipv6PrefixSet", &interface.ipv6_prefixes, |xml, prefix| xml.text("ipv6Prefix", prefix));
    }
}

fn attachment(xml: &mut Xml, cloud: &Cloud, attachment: &Attachment) {
    xml.text("attachmentId", attachment.id);
    xml.text("instanceId", attachment.instance);
    xml.text("instanceOwnerId", &cloud.settings().account);
    attachment_state(xml, attachment);
}

fn attachment_state(xml: &mut Xml, attachment: &Attachment) {
    xml.text("deviceIndex", attachment.device_index);
    xml.text("networkCardIndex", attachment.network_card);
    xml.text("status", attachment.status.as_str());
    xml.text("attachTime", attachment.attached_at.iso8601());
    xml.text("deleteOnTermination", attachment.delete_on_termination);
}

/// Each instance is launched alone, so it is a reservation of its own.
fn reservation(xml: &mut Xml, cloud: &Cloud, described: &DescribedInstance) {
    let DescribedInstance { instance, interfaces } = described;
    xml.text("reservationId", format!("r-0{:016x}", instance.id.0));
    xml.text("ownerId", &cloud.settings().account);
    xml.element("groupSet", |_| {});
    xml.element("instancesSet", |xml| {
        xml.element("item", |xml| {
            xml.text("instanceId", instance.id);
            xml.text("imageId", crate::metadata::IMAGE);
            xml.element("instanceState", |xml| {
                let (code, name) = if instance.is_running() { (16, "running") } else { (48, "terminated") };
                xml.text("code", code);
                xml.text("name", name);
            });
            xml.text("instanceType", &instance.instance_type);
            xml.text("launchTime", instance.launched_at.iso8601());
            xml.element("placement", |xml| {
                xml.text("availabilityZone", &instance.availability_zone);
                xml.text("tenancy", "default");
            });
            if let Some(primary) = interfaces.first() {
                xml.text("privateDnsName", private_dns_name(cloud, primary.primary));
                xml.text("privateIpAddress", primary.primary);
                xml.text("subnetId", primary.subnet);
                xml.text("vpcId", cloud.vpc());
                groups(xml, cloud, &primary.security_groups);
            }
            xml.text("architecture", if instance.limits().arm { "arm64" } else { "x86_64" });
            tags(xml, &instance.tags);
            xml.set("networkInterfaceSet", interfaces, |xml, interface| instance_interface(xml, cloud, interface));
            // EC2 says so of Nitro as well.
            xml.text("hypervisor", "xen");
        });
    });
}

fn instance_interface(xml: &mut Xml, cloud: &Cloud, interface: &Interface) {
    xml.text("networkInterfaceId", interface.id);
    xml.text("subnetId", interface.subnet);
    xml.text("vpcId", cloud.vpc());
    xml.text("description", &interface.description);
    xml.text("ownerId", &cloud.settings().account);
    xml.text("status", interface.status());
    xml.text("macAddress", interface.mac);
    xml.text("privateIpAddress", interface.primary);
    xml.text("privateDnsName", private_dns_name(cloud, interface.primary));
    xml.text("sourceDestCheck", true);
    groups(xml, cloud, &interface.security_groups);
    if let Some(held) = &interface.attachment {
        xml.element("attachment", |xml| {
            xml.text("attachmentId", held.id);
            attachment_state(xml, held);
        });
    }
    addresses(xml, cloud, interface);
    xml.text("interfaceType", "interface");
}

fn subnet(xml: &mut Xml, cloud: &Cloud, subnet: &DescribedSubnet) {
    xml.text("subnetId", subnet.id);
    xml.text("subnetArn", format!("arn:aws:ec2:{}:{}:subnet/{}", cloud.settings().region, cloud.settings().account, subnet.id));
    xml.text("state", "available");
    xml.text("ownerId", &cloud.settings().account);
    xml.text("vpcId", cloud.vpc());
    xml.text("cidrBlock", subnet.cidr);
    xml.set("ipv6CidrBlockAssociationSet", subnet.ipv6_cidr, |xml, cidr| {
        xml.text("associationId", format!("subnet-cidr-assoc-0{:016x}", subnet.id.0));
        xml.text("ipv6CidrBlock", cidr);
        xml.element("ipv6CidrBlockState", |xml| xml.text("state", "associated"));
    });
    xml.text("availableIpAddressCount", subnet.available);
    xml.text("availabilityZone", &subnet.availability_zone);
    xml.text("defaultForAz", false);
    xml.text("mapPublicIpOnLaunch", false);
    xml.text("assignIpv6AddressOnCreation", false);
    xml.text("ipv6Native", false);
    tags(xml, &subnet.tags);
}

fn instance_type(xml: &mut Xml, kind: &InstanceType) {
    xml.text("instanceType", kind.name);
    xml.text("hypervisor", if kind.nitro { "nitro" } else { "xen" });
    xml.element("processorInfo", |xml| {
        xml.element("supportedArchitectures", |xml| xml.text("item", if kind.arm { "arm64" } else { "x86_64" }));
    });
    xml.element("vCpuInfo", |xml| xml.text("defaultVCpus", kind.vcpus));
    xml.element("networkInfo", |xml| {
        xml.text("maximumNetworkInterfaces", kind.interfaces());
        xml.text("maximumNetworkCards", kind.cards);
        xml.text("defaultNetworkCardIndex", 0);
        xml.set("networkCards", 0..kind.cards, |xml, card| {
            xml.text("networkCardIndex", card);
            xml.text("maximumNetworkInterfaces", kind.interfaces_per_card);
        });
        xml.text("ipv4AddressesPerInterface", kind.ipv4_per_interface);
        xml.text("ipv6AddressesPerInterface", kind.ipv6_per_interface);
        xml.text("ipv6Supported", true);
    });
}
