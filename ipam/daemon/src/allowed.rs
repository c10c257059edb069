//! Addresses that a pod asks to use beside its own: what its annotation says, and whether the operator lets it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cni_spec::{ALLOWED_ADDRESSES, Code, Error};
use ipam_pool::range::Family;
use ipnetwork::IpNetwork;

/// What pods may ask for, by namespace: `network.namespaces.NAME.allowed_addresses`.
pub type Ranges = BTreeMap<String, Vec<IpNetwork>>;

/// The most that one pod may use: each has a route, a neighbour entry and a place in the programs' maps.
pub const OF_POD_MAX: usize = 16;
/// The most that a node's pods may use of one family: beside as many of their own, the programs' maps have room for no more.
pub const OF_NODE_MAX: usize = (datapath::fast_path::SLOTS_MAX - datapath::fast_path::ENDPOINTS_MAX) as usize;

/// What is told of an annotation that cannot be followed.
pub(crate) fn refusal(why: &str) -> Error {
    Error::new(Code::InvalidConfig, format!("the pod's annotation {ALLOWED_ADDRESSES}: {why}"))
}

/// Reads the annotation: addresses, and prefixes of few addresses, with commas between them. Each address once, in order.
///
/// # Errors
/// [`Code::InvalidConfig`] with what is wrong.
pub fn read(annotation: Option<&str>) -> Result<Vec<IpAddr>, Error> {
    let text = annotation.unwrap_or_default();
    let mut addresses = BTreeSet::new();
    for item in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
        let prefix = item.parse::<IpNetwork>().map_err(|_| refusal(&format!("{item:?} is neither an address nor a CIDR")))?;
        if prefix.network() != prefix.ip() {
            return Err(refusal(&format!("{item:?} has bits beyond its prefix; write {}/{}", prefix.network(), prefix.prefix())));
        }
        let bits = if prefix.is_ipv4() { 32 } else { 128 } - prefix.prefix();
        if u32::from(bits) > OF_POD_MAX.ilog2() {
            return Err(refusal(&format!("{item:?} is more than the {OF_POD_MAX} addresses that a pod may use beside its own")));
        }
        addresses.extend(prefix.iter());
    }
    if addresses.len() > OF_POD_MAX {
        let why = format!("it asks for {} addresses; a pod may use {OF_POD_MAX} beside its own", addresses.len());
        return Err(refusal(&why));
    }
    Ok(addresses.into_iter().collect())
}

/// Whether a pod of this namespace may use these addresses; `families` are those of which it has an address of its own.
///
/// # Errors
/// [`Code::InvalidConfig`] with the first that it may not, and who could let it.
pub fn judge(asked: &[IpAddr], namespace: &str, ranges: &Ranges, families: &[Family]) -> Result<(), Error> {
    let Some(of_namespace) = ranges.get(namespace) else {
        return if asked.is_empty() { Ok(()) } else { Err(refusal(&nothing_for(namespace))) };
    };
    for address in asked {
        if !of_namespace.iter().any(|range| range.contains(*address)) {
            let ranges: Vec<_> = of_namespace.iter().map(ToString::to_string).collect();
            let why = format!("{address} is not in network.namespaces.{namespace}.allowed_addresses ({})", ranges.join(", "));
            return Err(refusal(&format!("{why}; ask for another, or have the node's operator name it there")));
        }
        if !families.contains(&Family::of(*address)) {
            let family = Family::of(*address);
            return Err(refusal(&format!("{address} is {family}, and pods of this node have no {family} address; ask for none of it")));
        }
    }
    Ok(())
}

fn nothing_for(namespace: &str) -> String {
    if namespace.is_empty() {
        return "the runtime has not told the pod's namespace (K8S_POD_NAMESPACE), by which addresses are allowed".to_owned();
    }
    format!(
        "pods of namespace {namespace:?} may use no addresses beside their own; have the node's operator name them in \
         network.namespaces.{namespace}.allowed_addresses"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_and_small_prefixes_are_read() {
        assert!(read(None).unwrap().is_empty() && read(Some(" ")).unwrap().is_empty());
        assert_eq!(read(Some("10.0.50.8/31, fd00:50::7,10.0.50.9")).unwrap(), addresses(&["10.0.50.8", "10.0.50.9", "fd00:50::7"]));
    }

    #[test]
    fn nonsense_is_refused_with_what_is_wrong() {
        for (text, said) in [
            ("10.0.50.7,", "\"\" is neither"),
            ("[\"10.0.50.7\"]", "is neither an address nor a CIDR"),
            ("10.0.50.7-10.0.50.9", "is neither"),
            ("10.0.50.9/30", "write 10.0.50.8/30"),
            ("0.0.0.0/0", "\"0.0.0.0/0\" is more than the 16"),
            ("fd00:50::/64", "is more than the 16"),
            ("10.0.50.0/28, 10.0.51.1", "asks for 17 addresses; a pod may use 16"),
        ] {
            let error = read(Some(text)).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig);
            assert!(error.msg.contains(ALLOWED_ADDRESSES) && error.msg.contains(said), "{text}: {}", error.msg);
        }
    }

    #[test]
    fn a_pod_asks_within_what_its_namespace_has() {
        let ranges = Ranges::from([("edge".to_owned(), vec!["10.0.50.0/24".parse().unwrap(), "fd00:50::/64".parse().unwrap()])]);
        let judge = |address: &str, namespace: &str| judge(&addresses(&[address]), namespace, &ranges, &[Family::V4]);
        assert!(judge("10.0.50.7", "edge").is_ok());
        for (address, namespace, said) in [
            ("10.0.51.7", "edge", "10.0.51.7 is not in network.namespaces.edge.allowed_addresses (10.0.50.0/24, fd00:50::/64)"),
            ("10.0.50.7", "web", "network.namespaces.web.allowed_addresses"),
            ("10.0.50.7", "", "K8S_POD_NAMESPACE"),
            ("fd00:50::7", "edge", "fd00:50::7 is IPv6"),
        ] {
            let error = judge(address, namespace).unwrap_err();
            assert!(error.code == Code::InvalidConfig && error.msg.contains(said), "{}", error.msg);
        }
        assert!(super::judge(&[], "web", &ranges, &[]).is_ok());
    }

    /// Anything, and lists that are mostly right.
    fn annotations() -> impl Strategy<Value = String> {
        prop_oneof!["[0-9a-f.:/, ]{0,40}", r"(10\.0\.1?[0-9]\.1?[0-9](/3[012])?, ?){0,3}10\.0\.[0-9]\.1?[0-9]"]
    }

    proptest! {
        /// Whatever an annotation says, no more is read than a pod may use, and nothing is allowed that no range of its namespace has.
        #[test]
        fn no_annotation_has_more_than_was_granted(text in annotations(), third in 0_u8..20) {
            let range: IpNetwork = format!("10.0.{third}.0/24").parse().unwrap();
            let ranges = Ranges::from([("edge".to_owned(), vec![range])]);
            if let Ok(asked) = read(Some(&text)) {
                prop_assert!(asked.len() <= OF_POD_MAX);
                let granted = judge(&asked, "edge", &ranges, &Family::ALL).is_ok();
                prop_assert_eq!(granted, asked.iter().all(|address| range.contains(*address)));
                prop_assert_eq!(judge(&asked, "web", &ranges, &Family::ALL).is_ok(), asked.is_empty());
            }
        }
    }
}
