//! The host ends of all pods as the kernel has them, and what of each is not as it was made.
//!
//! A few tables tell all of it, read as bytes: to look at a thousand pods costs some milliseconds. What is wrong with one is a pure
//! function of what was read and of how it was made.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::netlink::NetlinkError;
use crate::ours::{self, AF_INET, AF_INET6, Route, address};
use crate::pod_link::{GATEWAY_V6, GROUP, HOST_MAC};
use crate::raw_netlink::{Dumps, attributes, number};
use crate::{Ifindex, PodLink};

/// Something of a host end that is not as it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It is set down.
    Down,
    /// It has another MTU.
    Mtu,
    /// It has another MAC address than the one that every pod has for its gateway.
    Mac,
    /// It has another name.
    Name,
    /// What comes in by it is not forwarded (`net.ipv4.conf.*.forwarding`).
    NotForwarding,
    /// The host has no route to the pod's address.
    Route(IpAddr),
    /// A route of ours leads to it for an address that the pod may not use, or may use no more.
    Surplus(IpAddr),
    /// The host has not the pod's MAC address for its address, or not for good.
    Neighbour(IpAddr),
    /// It has not the address of the pod's IPv6 gateway, so that who asks for it is not answered.
    Ipv6Gateway,
}

/// All host ends, as they were read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostEnds {
    links: HashMap<Ifindex, Link>,
    /// Addresses that routes of ours lead to, by the link's number.
    routes: HashMap<u32, Vec<IpAddr>>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    /// Links that have the address of the pods' IPv6 gateway.
    gateways: HashSet<Ifindex>,
    /// Links that have a clsact qdisc.
    qdiscs: HashSet<Ifindex>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Link {
    up: bool,
    mtu: u32,
    mac: Vec<u8>,
    name: Vec<u8>,
    /// Nothing where the kernel does not say.
    forwards: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Neighbour {
    mac: [u8; 6],
    is_permanent: bool,
}

impl HostEnds {
    /// Reads them in the calling thread's network namespace.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub fn read() -> Result<Self, NetlinkError> {
        // Links first: what is made meanwhile is missing as a link, not in part.
        let mut dumps = Dumps::open_strict("read the pods' links")?;
        let links = links(&mut dumps)?;
        let mut routes: HashMap<_, Vec<_>> = HashMap::new();
        for (address, link) in ours::routes()?.into_iter().filter_map(to_pod) {
            routes.entry(link).or_default().push(address);
        }
        let (gateways, qdiscs) = (gateways(&mut dumps)?, qdiscs(&mut dumps)?);
        Ok(Self { links, routes, neighbours: neighbours(&mut dumps)?, gateways, qdiscs })
    }

    /// What of a pod's host end is not as it was made; nothing of a link that is not there, which no setting brings back. Pure.
    #[must_use]
    pub fn differences(&self, link: &PodLink) -> Vec<Difference> {
        let Some(found) = self.links.get(&link.host_ifindex) else { return Vec::new() };
        let is_v4 = link.addresses.iter().any(IpAddr::is_ipv4);
        let of_link = [
            (!found.up, Difference::Down),
            (found.mtu != link.mtu, Difference::Mtu),
            (found.mac != HOST_MAC, Difference::Mac),
            (found.name != link.host_ifname.as_bytes(), Difference::Name),
            (is_v4 && found.forwards == Some(false), Difference::NotForwarding),
        ];
        let mut differences: Vec<_> = of_link.into_iter().filter(|(differs, _)| *differs).map(|(_, difference)| difference).collect();
        let wanted = Neighbour { mac: link.pod_mac, is_permanent: true };
        let routes = self.routes.get(&link.host_ifindex.0).map_or(&[][..], Vec::as_slice);
        for address in link.leading_here() {
            if !routes.contains(&address) {
                differences.push(Difference::Route(address));
            }
            if self.neighbours.get(&(link.host_ifindex.0, address)) != Some(&wanted) {
                differences.push(Difference::Neighbour(address));
            }
        }
        let is_wanted = |address: &IpAddr| link.leading_here().any(|wanted| wanted == *address);
        differences.extend(routes.iter().filter(|address| !is_wanted(address)).map(|address| Difference::Surplus(*address)));
        if link.addresses.iter().any(IpAddr::is_ipv6) && !self.gateways.contains(&link.host_ifindex) {
            differences.push(Difference::Ipv6Gateway);
        }
        differences
    }

    /// Whether a link is there.
    #[must_use]
    pub fn has(&self, link: Ifindex) -> bool {
        self.links.contains_key(&link)
    }

    /// Whether a link is there and has no qdisc for programs to hang on.
    #[must_use]
    pub fn lacks_qdisc(&self, link: Ifindex) -> bool {
        self.links.contains_key(&link) && !self.qdiscs.contains(&link)
    }
}

/// A route of ours to one address on a link.
fn to_pod(route: Route) -> Option<(IpAddr, u32)> {
    let is_host = route.to.prefix() == if route.to.is_ipv4() { 32 } else { 128 };
    route.oif.filter(|_| is_host && !route.is_unreachable && !route.is_dead && route.gateway.is_none()).map(|oif| (route.to.network(), oif))
}

fn links(dumps: &mut Dumps) -> Result<HashMap<Ifindex, Link>, NetlinkError> {
    /// `RTM_GETLINK`, and `struct ifinfomsg`.
    const GET_LINK: u16 = 18;
    const HEADER: usize = 16;
    /// `IFLA_EXT_MASK`, and `RTEXT_FILTER_SKIP_STATS`: counters are most of a row.
    const EXT_MASK: u16 = 29;
    const SKIP_STATS: u32 = 8;
    let request = [&[0; HEADER][..], &crate::raw_netlink::attribute(EXT_MASK, &SKIP_STATS.to_ne_bytes())].concat();
    Ok(dumps.dump("read the pods' links", GET_LINK, &request, |_, row| link(row))?.into_iter().collect())
}

fn link(row: &[u8]) -> Option<(Ifindex, Link)> {
    const HEADER: usize = 16;
    const UP: u32 = 1;
    const MAC: u16 = 1;
    const NAME: u16 = 3;
    const MTU: u16 = 4;
    const FAMILIES: u16 = 26;
    const OF_GROUP: u16 = 27;
    let (header, rest) = row.split_at_checked(HEADER)?;
    let mut link = Link { up: number(&header[8..]) & UP != 0, ..Link::default() };
    let mut is_pods = false;
    for (kind, value) in attributes(rest) {
        match kind {
            MAC => link.mac = value.to_vec(),
            NAME => link.name = value.strip_suffix(&[0]).unwrap_or(value).to_vec(),
            MTU => link.mtu = number(value),
            FAMILIES => link.forwards = forwards(value),
            OF_GROUP => is_pods = number(value) == GROUP,
            _ => {}
        }
    }
    is_pods.then_some((Ifindex(number(&header[4..])), link))
}

/// `IFLA_AF_SPEC`: of IPv4, the array of the interface's settings, of which forwarding is the first (`IPV4_DEVCONF_FORWARDING`).
fn forwards(families: &[u8]) -> Option<bool> {
    const SETTINGS: u16 = 1;
    let of_ipv4 = attributes(families).find(|(kind, _)| *kind == u16::from(AF_INET))?.1;
    let settings = attributes(of_ipv4).find(|(kind, _)| *kind == SETTINGS)?.1;
    (settings.len() >= 4).then(|| number(settings) != 0)
}

fn neighbours(dumps: &mut Dumps) -> Result<HashMap<(u32, IpAddr), Neighbour>, NetlinkError> {
    /// `RTM_GETNEIGH`, and `struct ndmsg`.
    const GET_NEIGHBOUR: u16 = 30;
    const HEADER: usize = 12;
    const PERMANENT: u16 = 0x80;
    const DESTINATION: u16 = 1;
    const MAC: u16 = 2;
    let mut found = HashMap::new();
    for family in [AF_INET, AF_INET6] {
        let mut request = [0; HEADER];
        request[0] = family;
        let rows = dumps.dump("read the neighbours", GET_NEIGHBOUR, &request, |_, row| {
            let (header, rest) = row.split_at_checked(HEADER)?;
            let state = u16::from_ne_bytes([header[8], header[9]]);
            let (mut to, mut mac) = (None, None);
            for (kind, value) in attributes(rest) {
                match kind {
                    DESTINATION => to = address(value),
                    MAC => mac = <[u8; 6]>::try_from(value).ok(),
                    _ => {}
                }
            }
            Some(((number(&header[4..]), to?), Neighbour { mac: mac?, is_permanent: state & PERMANENT != 0 }))
        });
        found.extend(ours::unless_absent(rows)?);
    }
    Ok(found)
}

fn gateways(dumps: &mut Dumps) -> Result<HashSet<Ifindex>, NetlinkError> {
    /// `RTM_GETADDR`, and `struct ifaddrmsg`.
    const GET_ADDRESS: u16 = 22;
    const HEADER: usize = 8;
    const ADDRESS: u16 = 1;
    let rows = dumps.dump("read the pods' gateways", GET_ADDRESS, &[AF_INET6, 0, 0, 0, 0, 0, 0, 0], |_, row| {
        let (header, rest) = row.split_at_checked(HEADER)?;
        let is_gateway = attributes(rest).any(|(kind, value)| kind == ADDRESS && value == GATEWAY_V6.octets());
        is_gateway.then(|| Ifindex(number(&header[4..])))
    });
    Ok(ours::unless_absent(rows)?.into_iter().collect())
}

fn qdiscs(dumps: &mut Dumps) -> Result<HashSet<Ifindex>, NetlinkError> {
    /// `RTM_GETQDISC`, and `struct tcmsg`.
    const GET_QDISC: u16 = 38;
    const HEADER: usize = 20;
    const KIND: u16 = 1;
    let rows = dumps.dump("read the qdiscs", GET_QDISC, &[0; HEADER], |_, row| {
        let (header, rest) = row.split_at_checked(HEADER)?;
        let is_clsact = attributes(rest).any(|(kind, value)| kind == KIND && value == b"clsact\0");
        is_clsact.then(|| Ifindex(number(&header[4..])))
    })?;
    Ok(rows.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fast_path::Limits;

    const POD: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn made() -> PodLink {
        PodLink {
            host_ifname: "bw0000100000".to_owned(),
            host_ifindex: Ifindex(1 << 20),
            pod_ifname: "eth0".to_owned(),
            pod_mac: POD,
            mtu: 9001,
            container_id: "c".to_owned(),
            addresses: vec!["10.0.1.17".parse().unwrap(), "fd00::17".parse().unwrap()],
            namespace: String::new(),
            limits: Limits::default(),
            allowed: vec!["10.0.50.7".parse().unwrap()],
        }
    }

    fn whole() -> HostEnds {
        let made = made();
        let link =
            Link { up: true, mtu: made.mtu, mac: HOST_MAC.to_vec(), name: made.host_ifname.clone().into_bytes(), forwards: Some(true) };
        let neighbour = Neighbour { mac: POD, is_permanent: true };
        HostEnds {
            links: HashMap::from([(made.host_ifindex, link)]),
            routes: HashMap::from([(made.host_ifindex.0, made.leading_here().collect())]),
            neighbours: made.leading_here().map(|address| ((made.host_ifindex.0, address), neighbour)).collect(),
            gateways: HashSet::from([made.host_ifindex]),
            qdiscs: HashSet::from([made.host_ifindex]),
        }
    }

    #[test]
    fn each_alteration_is_one_difference() {
        let (made, ipv4) = (made(), "10.0.1.17".parse().unwrap());
        let altered = |alter: &dyn Fn(&mut HostEnds, &mut Link)| {
            let mut ends = whole();
            let mut link = ends.links.remove(&made.host_ifindex).unwrap();
            alter(&mut ends, &mut link);
            ends.links.insert(made.host_ifindex, link);
            ends.differences(&made)
        };
        let key = (made.host_ifindex.0, ipv4);
        assert_eq!(altered(&|_, _| ()), []);
        assert_eq!(altered(&|_, link| link.up = false), [Difference::Down]);
        assert_eq!(altered(&|_, link| link.mtu = 1500), [Difference::Mtu]);
        assert_eq!(altered(&|_, link| link.mac = POD.to_vec()), [Difference::Mac]);
        assert_eq!(altered(&|_, link| link.name = b"pod0".to_vec()), [Difference::Name]);
        assert_eq!(altered(&|_, link| link.forwards = Some(false)), [Difference::NotForwarding]);
        assert_eq!(altered(&|_, link| link.forwards = None), []);
        assert_eq!(
            altered(&|ends, _| {
                ends.routes.get_mut(&key.0).unwrap().retain(|address| *address != ipv4);
            }),
            [Difference::Route(ipv4)]
        );
        for another in ["10.0.50.8", "10.0.1.18"].map(|text| text.parse().unwrap()) {
            assert_eq!(altered(&|ends, _| ends.routes.get_mut(&key.0).unwrap().push(another)), [Difference::Surplus(another)]);
        }
        assert_eq!(
            altered(&|ends, _| {
                ends.neighbours.remove(&key);
            }),
            [Difference::Neighbour(ipv4)]
        );
        assert_eq!(altered(&|ends, _| ends.gateways.clear()), [Difference::Ipv6Gateway]);
        for wrong in [Neighbour { mac: POD, is_permanent: false }, Neighbour { mac: HOST_MAC, is_permanent: true }] {
            assert_eq!(
                altered(&|ends, _| {
                    ends.neighbours.insert(key, wrong);
                }),
                [Difference::Neighbour(ipv4)]
            );
        }
        assert_eq!(HostEnds::default().differences(&made), [], "a link that is gone is nobody's to set");
        assert!(!whole().lacks_qdisc(made.host_ifindex) && !HostEnds::default().lacks_qdisc(made.host_ifindex));
        assert!(HostEnds { qdiscs: HashSet::new(), ..whole() }.lacks_qdisc(made.host_ifindex));
    }

    #[test]
    fn a_link_is_read_as_the_kernel_tells_it() {
        let attribute = crate::raw_netlink::attribute;
        let settings = attribute(1, &[1_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat());
        let mut row = [&[0, 0, 1, 0][..], &7_u32.to_ne_bytes(), &0x1003_u32.to_ne_bytes(), &[0; 4]].concat();
        row.extend(attribute(3, b"bw0000000007\0"));
        row.extend(attribute(4, &9001_u32.to_ne_bytes()));
        row.extend(attribute(26, &attribute(2, &settings)));
        assert!(link(&row).is_none(), "of another group");
        row.extend(attribute(27, &GROUP.to_ne_bytes()));
        let (ifindex, told) = link(&row).unwrap();
        assert_eq!(ifindex, Ifindex(7));
        assert_eq!(told, Link { up: true, mtu: 9001, mac: Vec::new(), name: b"bw0000000007".to_vec(), forwards: Some(true) });
    }
}
