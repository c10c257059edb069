//! `network.namespaces`: what the pods of a namespace are held to, and what they may ask for.

use std::collections::BTreeMap;

use ipam_pool::range::AddressRange;
use ipnetwork::IpNetwork;

use super::bit_rate::BitRate;
use super::reader::Reader;

const KEY: &str = "network.namespaces";
/// A label of DNS (RFC 1123).
const NAME_MAX: usize = 63;

/// By the namespace's name.
pub(super) struct Namespaces {
    pub(super) internet_egress: BTreeMap<String, BitRate>,
    pub(super) allowed_addresses: BTreeMap<String, Vec<IpNetwork>>,
}

pub(super) fn read(reader: &mut Reader, fast_path: bool) -> Namespaces {
    let mut found = Namespaces { internet_egress: BTreeMap::new(), allowed_addresses: BTreeMap::new() };
    for name in reader.tables(KEY) {
        let section = format!("{KEY}.{name}");
        let rate = reader.parsed::<BitRate>(&format!("{section}.pod_internet_egress"));
        let allowed = allowed_addresses(reader, &format!("{section}.allowed_addresses"));
        if !is_name(&name) {
            reader
                .fault(&section, &format!("{name:?} is no name of a namespace; write lower-case letters, digits and hyphens, 63 at most"));
            continue;
        }
        found.internet_egress.extend(rate.map(|rate| (name.clone(), rate)));
        found.allowed_addresses.extend((!allowed.is_empty()).then_some((name, allowed)));
    }
    if !found.internet_egress.is_empty() && !fast_path {
        let why = "needs the kernel programs, which network.fast_path = \"off\" keeps away; set that to \"auto\", or leave this key out";
        reader.fault(KEY, why);
    }
    found
}

/// What is no single host's, or means nothing beyond its link: no pod sends from it, whoever allows it.
const NO_POD_SENDS_FROM: [&str; 9] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    // The unspecified address and the loopback, and what is mapped from IPv4.
    "::/127",
    "::ffff:0:0/96",
    "fe80::/10",
    "ff00::/8",
];

fn allowed_addresses(reader: &mut Reader, key: &str) -> Vec<IpNetwork> {
    let cidrs = super::cidrs(reader, key);
    for cidr in &cidrs {
        let overlapped = NO_POD_SENDS_FROM.iter().find(|taken| taken.parse().is_ok_and(|taken| AddressRange::from(*cidr).overlaps(&taken)));
        if let Some(overlapped) = overlapped {
            reader
                .fault(key, &format!("{cidr} overlaps {overlapped}, which no pod may send from; name the addresses that pods are to use"));
        }
    }
    cidrs
}

/// What others have is not a pod's to ask for.
pub(super) fn refuse_what_is_taken(
    reader: &mut Reader,
    allowed: &BTreeMap<String, Vec<IpNetwork>>,
    pods: &[AddressRange],
    service: &[IpNetwork],
) {
    let service = service.iter().map(|cidr| ("network.service_cidrs", AddressRange::from(*cidr)));
    let taken: Vec<_> = pods.iter().map(|range| ("source.ranges", *range)).chain(service).collect();
    for (name, cidr) in allowed.iter().flat_map(|(name, cidrs)| cidrs.iter().map(move |cidr| (name, cidr))) {
        if let Some((of, range)) = taken.iter().find(|(_, range)| AddressRange::from(*cidr).overlaps(range)) {
            let why = format!("{cidr} overlaps {range} of {of}; name addresses that nobody else has");
            reader.fault(&format!("{KEY}.{name}.allowed_addresses"), &why);
        }
    }
}

fn is_name(text: &str) -> bool {
    let has_ends = !text.starts_with('-') && !text.ends_with('-');
    (1..=NAME_MAX).contains(&text.len())
        && has_ends
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
