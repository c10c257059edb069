use std::net::Ipv4Addr;

use super::*;

fn network(native: &[String]) -> NodeNetwork {
    NodeNetwork {
        node_addresses: vec!["10.0.0.11".parse().unwrap()],
        pods: vec![PodRange { first: "10.0.1.16".parse().unwrap(), last: "10.0.1.31".parse().unwrap(), uplink: 0 }],
        native: native.iter().map(|text| text.parse().unwrap()).collect(),
        ..NodeNetwork::default()
    }
}

fn octets(text: &str) -> [u8; 4] {
    text.parse::<Ipv4Addr>().unwrap().octets()
}

#[test]
fn every_part_is_told() {
    let view = view(&network(&["10.0.0.0/16".to_owned(), "fd00:10::/32".to_owned()])).unwrap();
    assert_eq!(view.meaning4(octets("10.0.0.11")), Meaning::of(Scope::Node));
    assert_eq!(view.meaning4(octets("10.0.9.9")), Meaning::native(Scope::Vpc));
    assert_eq!([octets("10.0.1.16"), octets("10.0.1.31")].map(|address| view.meaning4(address)), [Meaning::local(); 2]);
    assert_eq!(view.meaning4(octets("10.1.0.0")), Meaning::NOWHERE);
    let address = "fd00:10::9".parse::<std::net::Ipv6Addr>().unwrap().octets();
    assert!(view.meaning6(halves(address)).is_native());
    assert_eq!((view.carry_v4, view.carry_v6), (1, 1));
}

#[test]
fn an_address_of_the_node_among_its_pods_is_the_nodes() {
    let mut own = network(&[]);
    own.node_addresses.push("10.0.1.20".parse().unwrap());
    let view = view(&own).unwrap();
    assert_eq!(view.meaning4(octets("10.0.1.20")), Meaning::of(Scope::Node));
    assert!(view.meaning4(octets("10.0.1.21")).is_local());
}

#[test]
fn many_networks_and_the_addresses_of_ipvs_find_room() {
    let many: Vec<_> = (0..200).map(|index| format!("10.{index}.0.0/16")).collect();
    let mut crowded = network(&many);
    crowded.service = vec!["10.250.0.0/16".parse().unwrap()];
    crowded.node_addresses.extend((0..40).map(|last| IpAddr::from([198, 18, 0, last])));
    crowded.node_addresses.extend((0..5_000_u16).map(|low| IpAddr::from([10, 250, low.to_be_bytes()[0], low.to_be_bytes()[1]])));
    let view = view(&crowded).unwrap();
    assert_eq!(view.meaning4(octets("10.0.0.11")), Meaning::of(Scope::Node));
    assert_eq!(view.meaning4(octets("198.18.0.39")), Meaning::of(Scope::Node));
    assert_eq!(view.meaning4(octets("10.250.0.7")), Meaning::of(Scope::Service), "and no interval of its own");
    assert!(view.meaning4(octets("10.199.9.9")).is_native());
}

#[test]
fn too_many_are_told() {
    let mut crowded = network(&[]);
    crowded.node_addresses =
        (0..600_u16).map(|low| (2 * low).to_be_bytes()).map(|[high, low]| IpAddr::from([172, 16, high, low])).collect();
    let told = view(&crowded).unwrap_err().to_string();
    assert!(told.contains("1203 intervals") && told.contains("1024"), "{told}");
}

/// Against the plain rule: the last row that has the address.
#[test]
fn intervals_say_what_the_rows_say() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: u64| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) % below
    };
    for round in 0..20_000 {
        // The last addresses of all are among them.
        let base = if round % 2 == 0 { 0 } else { u128::MAX - 63 };
        let rows: Vec<Row> = (0..next(12))
            .map(|_| {
                let (first, length) = (u128::from(next(64)), u128::from(next(20)));
                ((base + first, base.saturating_add(first + length).min(base + 63)), Meaning(u32::try_from(next(4)).unwrap()))
            })
            .collect();
        let intervals = flatten(&rows);
        assert!(intervals[0].0 == 0 && intervals.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1));
        for address in (0..64).map(|low| base + low) {
            let plain = rows.iter().rev().find(|((first, last), _)| *first <= address && address <= *last);
            let told = intervals.iter().rev().find(|(first, _)| *first <= address).unwrap().1;
            assert_eq!(told, plain.map_or(Meaning::NOWHERE, |(_, meaning)| *meaning), "{address} of {rows:?}");
        }
    }
}

/// Against the longest prefix, found one by one.
#[test]
fn the_longest_prefix_wins() {
    let mut nested = network(&["10.0.0.0/8".to_owned(), "10.64.0.0/10".to_owned(), "0.0.0.0/0".to_owned(), "10.96.7.0/24".to_owned()]);
    nested.service = vec!["10.96.0.0/12".parse().unwrap()];
    nested.internal = vec!["10.70.0.0/16".parse().unwrap(), "10.0.0.0/16".parse().unwrap()];
    let view = view(&nested).unwrap();
    let all = nested.destinations();
    for low in 0..=u16::MAX {
        let [second, third] = low.to_be_bytes();
        let address = Ipv4Addr::new(10, second, third, 9);
        let longest = all.iter().find(|row| row.cidr.contains(address.into())).unwrap();
        let told = view.meaning4(address.octets());
        if !told.is_local() {
            assert_eq!((told.scope(), told.is_native()), (longest.scope, longest.native), "{address}");
        }
    }
}

#[test]
fn only_what_becomes_native_is_held_back() {
    let native = |cidrs: &[&str]| view(&network(&cidrs.iter().map(|&cidr| cidr.to_owned()).collect::<Vec<_>>())).unwrap();
    let (before, after) = (native(&["10.0.0.0/16"]), native(&["10.0.0.0/16", "10.7.0.0/16", "fd00::/32"]));
    assert_eq!(held_back(&before, &before), None);
    assert_eq!(held_back(&before, &after), None, "less than before");
    assert_eq!(held_back(&after, &Network::default()), None, "nothing was carried");
    let held = held_back(&after, &before).unwrap();
    assert!(held.meaning4(octets("10.0.9.9")).is_carried());
    let fresh = held.meaning4(octets("10.7.0.1"));
    assert!(fresh.is_native() && !fresh.is_carried());
    assert!(!held.meaning6([0xfd00_0000_0000_0000, 1]).is_carried());
    let wider = held_back(&native(&["10.0.0.0/8"]), &before).unwrap();
    assert!(!wider.meaning4(octets("10.9.9.9")).is_carried() && wider.meaning4(octets("10.9.9.9")).is_native());
}
