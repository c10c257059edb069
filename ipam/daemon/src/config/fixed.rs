//! `source.kind = "fixed"`: uplinks and pod addresses as the file names them.

use std::net::IpAddr;

use cni_spec::IfName;
use datapath::{UplinkChoice, UplinkName};
use ipam_pool::range::AddressRange;
use ipnetwork::IpNetwork;

use super::reader::Reader;

/// As many as a packet's mark tells apart.
const UPLINKS_MAX: usize = 16;

/// Addresses that belong to one uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkRange {
    /// The addresses.
    pub range: AddressRange,
    /// Index of the uplink.
    pub uplink: u16,
}

/// The uplinks, and what ranges further ones name as theirs: each with the key it came by.
fn uplinks(reader: &mut Reader) -> (Vec<UplinkChoice>, Vec<(String, UplinkRange)>) {
    let first = UplinkChoice { index: 0, interface: interface(reader, "uplink"), gateways: gateways(reader, "uplink") };
    let (mut uplinks, mut owned) = (vec![first], Vec::new());
    for section in reader.sections("uplink.secondary") {
        let index = u16::try_from(uplinks.len()).unwrap_or(u16::MAX);
        let choice = UplinkChoice { index, interface: interface(reader, &section), gateways: gateways(reader, &section) };
        if choice.interface == UplinkName::DefaultRoute {
            reader.fault(&format!("{section}.interface"), "is missing or wrong; name the interface");
        } else if uplinks.iter().any(|other| other.interface == choice.interface) {
            reader.fault(&format!("{section}.interface"), "is an uplink already");
        } else if uplinks[0].interface == UplinkName::DefaultRoute {
            reader.fault("uplink.interface", "is missing; with secondary uplinks, name the node's own");
        }
        for (text, range) in ranges_or_empty(reader, &format!("{section}.ranges")) {
            owned.push((text, UplinkRange { range, uplink: index }));
        }
        uplinks.push(choice);
    }
    if uplinks.len() > UPLINKS_MAX {
        reader.fault("uplink.secondary", &format!("are {}; {} fit", uplinks.len() - 1, UPLINKS_MAX - 1));
    }
    (uplinks, owned)
}

fn interface(reader: &mut Reader, section: &str) -> UplinkName {
    let name = reader.parsed::<IfName>(&format!("{section}.interface"));
    name.map_or(UplinkName::DefaultRoute, |name| UplinkName::Interface(name.to_string()))
}

/// At most one of each family.
fn gateways(reader: &mut Reader, section: &str) -> Vec<IpAddr> {
    let key = format!("{section}.gateways");
    let mut gateways: Vec<IpAddr> = Vec::new();
    for (index, text) in reader.strings(&key).unwrap_or_default().iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) if gateways.iter().any(|other| other.is_ipv4() == address.is_ipv4()) => {
                reader.fault(&format!("{key}[{index}]"), &format!("{text:?} is a second one of its family"));
            }
            Ok(address) => gateways.push(address),
            Err(_) => reader.fault(&format!("{key}[{index}]"), &format!("{text:?} is not an IP address")),
        }
    }
    gateways
}

/// The node's uplinks, and the ranges of all of them with exclusions taken out.
pub(super) fn read(reader: &mut Reader) -> (Vec<UplinkChoice>, Option<Vec<UplinkRange>>) {
    let (uplinks, further) = uplinks(reader);
    (uplinks, pod_ranges(reader, further))
}

fn pod_ranges(reader: &mut Reader, further: Vec<(String, UplinkRange)>) -> Option<Vec<UplinkRange>> {
    let own = ranges(reader, "source.ranges");
    let holes = ranges_or_empty(reader, "source.exclude");
    let Some(own) = own else {
        reader.fault("source.ranges", "is missing; give at least one range, like [\"10.0.1.16/28\"]");
        return None;
    };
    let own = own.into_iter().map(|(text, range)| (text, UplinkRange { range, uplink: 0 }));
    let ranges: Vec<_> = own.chain(further).collect();
    for (index, (text, owned)) in ranges.iter().enumerate() {
        if let Some((earlier, _)) = ranges[..index].iter().find(|(_, earlier)| earlier.range.overlaps(&owned.range)) {
            reader.fault("source.ranges", &format!("{text:?} overlaps {earlier:?}"));
        }
    }
    for (text, hole) in &holes {
        if !ranges.iter().any(|(_, owned)| owned.range.overlaps(hole)) {
            reader.fault("source.exclude", &format!("{text:?} excludes nothing; it is in none of source.ranges"));
        }
    }
    let mut left: Vec<_> = ranges.into_iter().map(|(_, owned)| owned).collect();
    for (_, hole) in &holes {
        let without = |owned: UplinkRange| owned.range.without(hole).into_iter().map(move |range| UplinkRange { range, ..owned });
        left = left.into_iter().flat_map(without).collect();
    }
    if left.is_empty() {
        reader.fault("source.ranges", "leave no address for pods once source.exclude is taken out");
    }
    Some(left)
}

fn ranges(reader: &mut Reader, key: &str) -> Option<Vec<(String, AddressRange)>> {
    let texts = reader.strings(key)?;
    let mut ranges = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        match text.parse::<AddressRange>() {
            Ok(range) => ranges.push((text, range)),
            Err(why) => reader.fault(&format!("{key}[{index}]"), &why),
        }
    }
    Some(ranges)
}

pub(super) fn ranges_or_empty(reader: &mut Reader, key: &str) -> Vec<(String, AddressRange)> {
    ranges(reader, key).unwrap_or_default()
}

/// A pod whose own range is not native would be masqueraded on its way to the next node: never what is meant.
pub(super) fn require_native(reader: &mut Reader, ranges: &[UplinkRange], native: &[IpNetwork]) {
    let native: Vec<AddressRange> = native.iter().copied().map(AddressRange::from).collect();
    for owned in ranges {
        let mut rest = vec![owned.range];
        for hole in &native {
            rest = rest.into_iter().flat_map(|part| part.without(hole)).collect();
        }
        if let Some(part) = rest.first() {
            reader.fault(
                "network.native_cidrs",
                &format!("do not cover {part} of source.ranges; add its network, or set network.masquerade = false"),
            );
        }
    }
}
