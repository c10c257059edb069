//! `network.namespaces`: limits of the pods of a namespace.

use std::collections::BTreeMap;

use super::bit_rate::BitRate;
use super::reader::Reader;

const KEY: &str = "network.namespaces";
/// A label of DNS (RFC 1123).
const NAME_MAX: usize = 63;

/// The limits, by the namespace's name.
pub(super) fn read(reader: &mut Reader, fast_path: bool) -> BTreeMap<String, BitRate> {
    let mut found = BTreeMap::new();
    for name in reader.tables(KEY) {
        let section = format!("{KEY}.{name}");
        let rate = reader.parsed::<BitRate>(&format!("{section}.pod_internet_egress"));
        if !is_name(&name) {
            reader
                .fault(&section, &format!("{name:?} is no name of a namespace; write lower-case letters, digits and hyphens, 63 at most"));
        } else if let Some(rate) = rate {
            found.insert(name, rate);
        }
    }
    if !found.is_empty() && !fast_path {
        let why = "needs the kernel programs, which network.fast_path = \"off\" keeps away; set that to \"auto\", or leave this key out";
        reader.fault(KEY, why);
    }
    found
}

fn is_name(text: &str) -> bool {
    let has_ends = !text.starts_with('-') && !text.ends_with('-');
    (1..=NAME_MAX).contains(&text.len())
        && has_ends
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
