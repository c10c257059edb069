//! What is read of EC2's replies. Element names are those of the EC2 API reference, version 2016-11-15.

use serde::Deserialize;

use super::super::xml::Items;

/// `<Response>` of any call that was refused.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorReply {
    #[serde(rename = "Errors")]
    pub(super) errors: Errors,
}

#[derive(Debug, Deserialize)]
pub(super) struct Errors {
    #[serde(rename = "Error")]
    pub(super) error: ErrorItem,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ErrorItem {
    pub(super) code: String,
    #[serde(default)]
    pub(super) message: String,
}

/// Of calls that answer nothing that matters.
#[derive(Debug, Deserialize)]
pub(super) struct Done {}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetworkInterfaces {
    pub(super) network_interface_set: Items<NetworkInterface>,
    pub(super) next_token: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetworkInterface {
    pub(super) network_interface_id: String,
    pub(super) subnet_id: String,
    pub(super) vpc_id: Option<String>,
    pub(super) mac_address: String,
    pub(super) attachment: Option<Attachment>,
    /// `interface` is the usual; a reply without it is of an API older than the others.
    pub(super) interface_type: Option<String>,
    #[serde(default)]
    pub(super) private_ip_addresses_set: Items<PrivateIpAddress>,
    #[serde(default)]
    pub(super) ipv4_prefix_set: Items<Ipv4Prefix>,
    #[serde(default)]
    pub(super) ipv6_addresses_set: Items<Ipv6Address>,
    #[serde(default)]
    pub(super) ipv6_prefix_set: Items<Ipv6Prefix>,
    #[serde(default)]
    pub(super) group_set: Items<Group>,
    #[serde(default)]
    pub(super) tag_set: Items<Tag>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attachment {
    pub(super) device_index: u32,
    #[serde(default)]
    pub(super) network_card_index: u32,
    pub(super) status: String,
    #[serde(default)]
    pub(super) attachment_id: String,
    #[serde(default)]
    pub(super) delete_on_termination: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PrivateIpAddress {
    pub(super) private_ip_address: String,
    #[serde(default)]
    pub(super) primary: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ipv4Prefix {
    pub(super) ipv4_prefix: String,
}

/// They are counted: no element of it matters.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Ipv6Address {}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ipv6Prefix {
    pub(super) ipv6_prefix: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Group {
    pub(super) group_id: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Tag {
    pub(super) key: String,
    #[serde(default)]
    pub(super) value: String,
}

impl NetworkInterface {
    /// The value of a tag.
    pub(super) fn tag(&self, key: &str) -> Option<&str> {
        self.tag_set.item.iter().find(|tag| tag.key == key).map(|tag| tag.value.as_str())
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AssignedIpv4 {
    #[serde(default)]
    pub(super) assigned_private_ip_addresses_set: Items<AssignedAddress>,
    #[serde(default)]
    pub(super) assigned_ipv4_prefix_set: Items<Ipv4Prefix>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AssignedAddress {
    pub(super) private_ip_address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AssignedIpv6 {
    #[serde(default)]
    pub(super) assigned_ipv6_prefix_set: Items<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedInterface {
    pub(super) network_interface: Created,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created {
    pub(super) network_interface_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AttachedInterface {
    pub(super) attachment_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Subnets {
    pub(super) subnet_set: Items<SubnetItem>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SubnetItem {
    pub(super) subnet_id: String,
    pub(super) cidr_block: Option<String>,
    pub(super) availability_zone: String,
    /// IPv4 addresses that nobody has, in whatever order they are.
    pub(super) available_ip_address_count: Option<u64>,
    #[serde(default)]
    pub(super) ipv6_cidr_block_association_set: Items<Ipv6Association>,
}

/// Of which it matters only that there is one.
#[derive(Debug, Deserialize)]
pub(super) struct Ipv6Association {}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InstanceTypes {
    pub(super) instance_type_set: Items<InstanceTypeItem>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InstanceTypeItem {
    pub(super) hypervisor: Option<String>,
    #[serde(default)]
    pub(super) bare_metal: bool,
    pub(super) network_info: NetworkInfo,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetworkInfo {
    pub(super) maximum_network_interfaces: u64,
    pub(super) ipv4_addresses_per_interface: u64,
    #[serde(default)]
    pub(super) ipv6_addresses_per_interface: u64,
    #[serde(default)]
    pub(super) network_cards: Items<NetworkCard>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetworkCard {
    pub(super) network_card_index: u32,
    pub(super) maximum_network_interfaces: u64,
}
