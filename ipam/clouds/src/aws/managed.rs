//! Which interfaces of an instance are managed: whose addresses pods get, and which become uplinks. All others belong to somebody else,
//! and are neither used nor changed in any way.
//!
//! Tags decide, and only the API tells them: metadata alone knows the primary interface, and what it has been told before.

use super::reply::NetworkInterface;

/// The tag of what barewired creates, with the instance it is for.
pub(super) const TAG_INSTANCE: &str = "barewire/instance";
/// The tag by which an operator has an interface managed (`true`) or not (`false`).
pub(super) const TAG_MANAGE: &str = "barewire/manage";
/// Kinds of interfaces that have a device in the guest which carries IP.
const CARRY_IP: [&str; 2] = ["interface", "efa"];

/// What is known of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Managed {
    /// It is the primary, or tagged as managed, or all are.
    Yes,
    /// It was created for this instance by barewired.
    CreatedHere,
    /// It carried pods before this process knew its tags.
    InUse,
    /// It is somebody else's.
    No,
}

impl Managed {
    /// Of an interface as the API describes it; `before` is what was known of it.
    pub(super) fn of(found: &NetworkInterface, instance: &str, all_interfaces: bool, before: Option<Self>) -> Self {
        let (card, device) = found.place().unwrap_or((0, 1));
        let carries_ip = found.interface_type.as_deref().is_none_or(|kind| CARRY_IP.contains(&kind));
        // The node's own uplink. Metadata knows nothing of tags and is read first, so that a tag could not take it away in time.
        if (card, device) == (0, 0) {
            return Self::Yes;
        }
        // A subnet may have IPv6 alone.
        let has_address = !found.private_ip_addresses_set.item.is_empty() || !found.ipv6_addresses_set.item.is_empty();
        if card != 0 || !carries_ip || !has_address || found.tag(TAG_MANAGE) == Some("false") {
            return Self::No;
        }
        if found.tag(TAG_INSTANCE) == Some(instance) {
            return Self::CreatedHere;
        }
        if all_interfaces || found.tag(TAG_MANAGE) == Some("true") {
            return Self::Yes;
        }
        if before == Some(Self::InUse) { Self::InUse } else { Self::No }
    }
}

/// Of an interface that metadata lists: `None` where only the API can tell.
pub(super) fn by_metadata(device: u32, has_address: bool, all_interfaces: bool, before: Option<Managed>) -> Option<Managed> {
    match before {
        Some(known) => Some(known),
        // Without an address of its own it is for RDMA alone.
        None if !has_address => Some(Managed::No),
        None if device == 0 || all_interfaces => Some(Managed::Yes),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(device: u32, card: u32, kind: &str, tags: &[(&str, &str)]) -> NetworkInterface {
        let tags: String = tags.iter().map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>")).collect();
        let text = format!(
            "<NetworkInterface><networkInterfaceId>eni-1</networkInterfaceId><subnetId>subnet-1</subnetId>\
             <macAddress>02:00:00:00:00:01</macAddress><interfaceType>{kind}</interfaceType><attachment><deviceIndex>{device}</deviceIndex>\
             <networkCardIndex>{card}</networkCardIndex><status>attached</status></attachment><privateIpAddressesSet><item>\
             <privateIpAddress>10.0.0.4</privateIpAddress><primary>true</primary></item></privateIpAddressesSet>\
             <tagSet>{tags}</tagSet></NetworkInterface>"
        );
        super::super::super::xml::parse("NetworkInterface", &text).unwrap()
    }

    #[test]
    fn only_the_primary_and_what_is_tagged_is_managed() {
        let of = |found: &NetworkInterface, all| Managed::of(found, "i-1", all, None);
        assert_eq!(of(&interface(0, 0, "interface", &[]), false), Managed::Yes);
        assert_eq!(of(&interface(1, 0, "interface", &[]), false), Managed::No);
        assert_eq!(of(&interface(1, 0, "interface", &[]), true), Managed::Yes);
        assert_eq!(of(&interface(1, 0, "interface", &[(TAG_MANAGE, "true")]), false), Managed::Yes);
        assert_eq!(of(&interface(1, 0, "interface", &[(TAG_INSTANCE, "i-1")]), false), Managed::CreatedHere);
        assert_eq!(of(&interface(1, 0, "interface", &[(TAG_INSTANCE, "i-2")]), false), Managed::No, "another instance's");
        assert_eq!(of(&interface(1, 0, "interface", &[(TAG_MANAGE, "false")]), true), Managed::No);
        assert_eq!(of(&interface(0, 0, "interface", &[(TAG_MANAGE, "false")]), true), Managed::Yes, "the node's own uplink, always");
        for kind in ["efa-only", "trunk", "branch", "lambda"] {
            assert_eq!(of(&interface(1, 0, kind, &[(TAG_MANAGE, "true")]), true), Managed::No, "{kind}");
        }
        assert_eq!(of(&interface(1, 0, "efa", &[(TAG_MANAGE, "true")]), false), Managed::Yes);
        assert_eq!(of(&interface(1, 1, "interface", &[]), true), Managed::No, "another network card");
        let mut bare = interface(1, 0, "interface", &[]);
        bare.private_ip_addresses_set.item.clear();
        assert_eq!(of(&bare, true), Managed::No);
        bare.ipv6_addresses_set = crate::xml::parse("Set", "<Set><item><ipv6Address>fd00::4</ipv6Address></item></Set>").unwrap();
        assert_eq!(of(&bare, true), Managed::Yes, "in a subnet of IPv6 alone");
    }

    #[test]
    fn what_carries_pods_stays_managed_unless_a_tag_says_no() {
        let of = |tags| Managed::of(&interface(1, 0, "interface", tags), "i-1", false, Some(Managed::InUse));
        assert_eq!((of(&[]), of(&[(TAG_MANAGE, "false")])), (Managed::InUse, Managed::No));
    }

    #[test]
    fn metadata_knows_the_primary_and_what_it_was_told() {
        assert_eq!(by_metadata(0, true, false, None), Some(Managed::Yes));
        assert_eq!(by_metadata(1, true, false, None), None);
        assert_eq!(by_metadata(1, true, true, None), Some(Managed::Yes));
        assert_eq!(by_metadata(1, false, true, None), Some(Managed::No));
        assert_eq!(by_metadata(1, true, false, Some(Managed::CreatedHere)), Some(Managed::CreatedHere));
        assert_eq!(by_metadata(1, true, true, Some(Managed::No)), Some(Managed::No));
    }
}
