//! What a packet is, in a few words, by the front of its frame. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebpf::packet::{
    self, Bytes, Fragment, Frame, Header, ICMP, ICMPV6, Protocol, TCP, Transport, UDP, arp, discovery, is_discovery, source_mac,
};
use ebpf::scope::whole;

/// TCP's flags by their bits (RFC 9293, 3.1; RFC 3168 for the two of ECN).
const FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

/// A packet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PacketSummary {
    /// The source MAC address; `None` where the frame ends before.
    pub source_mac: Option<[u8; 6]>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `arp`, `vlan`, `protocol 132`, `ethertype 0x88cc`, or `cut short`.
    pub protocol: String,
    /// Source address; of ARP and neighbour discovery the one that is claimed.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: Option<IpAddr>,
    /// Source and destination port.
    pub ports: Option<(u16, u16)>,
    /// TCP's flags, what ICMP says, or that it is a piece of a packet.
    pub details: Option<String>,
}

impl PacketSummary {
    /// By as many bytes of the frame as there are.
    #[must_use]
    pub fn of(frame: &[u8]) -> Self {
        let bytes = Frame::new(frame);
        let plain = Self { source_mac: source_mac(&bytes), ..Self::default() };
        let read = match packet::protocol(&bytes) {
            None => None,
            Some(Protocol::Tagged) => Some(Self { protocol: "vlan".to_owned(), ..plain.clone() }),
            Some(Protocol::Arp) => arp(&bytes).map(|arp| Self {
                protocol: "arp".to_owned(),
                source: Some(Ipv4Addr::from(arp.sender).into()),
                details: Some(format!("claims to be {}", mac(arp.sender_mac))),
                ..plain.clone()
            }),
            Some(Protocol::Other) => {
                bytes.read(12).map(|[high, low]: [u8; 2]| Self { protocol: format!("ethertype 0x{high:02x}{low:02x}"), ..plain.clone() })
            }
            Some(Protocol::V4) => packet::ipv4(&bytes).map(|ip| {
                let ends = [Ipv4Addr::from(ip.source).into(), Ipv4Addr::from(ip.destination).into()];
                plain.clone().between(ends, &bytes, &ip.header)
            }),
            Some(Protocol::V6) => packet::ipv6(&bytes).map(|ip| {
                let ends = [ip.source, ip.destination].map(|end| Ipv6Addr::from(whole(end)).into());
                plain.clone().between(ends, &bytes, &ip.header)
            }),
        };
        read.unwrap_or(Self { protocol: "cut short".to_owned(), ..plain })
    }

    fn between(self, [source, destination]: [IpAddr; 2], bytes: &Frame<'_>, header: &Header) -> Self {
        let mut summary = Self { source: Some(source), destination: Some(destination), protocol: name(header.protocol), ..self };
        if header.fragment == Fragment::Later {
            summary.details = Some("fragment".to_owned());
            return summary;
        }
        let transport = packet::transport(bytes, header.protocol, header.transport);
        if let (TCP | UDP, Some(Transport { source, destination, .. })) = (header.protocol, transport) {
            summary.ports = Some((u16::from_be_bytes(source), u16::from_be_bytes(destination)));
        }
        let [kind, code] = bytes.read(header.transport).unwrap_or_default();
        let claimed = if is_discovery(bytes, header) { discovery(bytes, header) } else { None };
        summary.details = match header.protocol {
            TCP => bytes.read(header.transport + 12).map(|[_, bits]: [u8; 2]| flags(bits)),
            ICMP | ICMPV6 => Some(format!("type {kind} code {code}")),
            _ => None,
        };
        if let Some(found) = claimed.filter(|found| found.advertises) {
            summary.source = Some(Ipv6Addr::from(whole(found.target)).into());
            summary.details = Some(match found.link_layer {
                Some(claim) => format!("claims to be {}", mac(claim)),
                None => "neighbour advertisement".to_owned(),
            });
        }
        summary
    }
}

fn name(protocol: u8) -> String {
    match protocol {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        ICMP => "icmp".to_owned(),
        ICMPV6 => "icmpv6".to_owned(),
        other => format!("protocol {other}"),
    }
}

fn flags(bits: u8) -> String {
    let set = FLAGS.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| *name);
    set.collect::<Vec<_>>().join(",")
}

/// A MAC address as it is written.
fn mac(address: [u8; 6]) -> String {
    let octets = address.map(|octet| format!("{octet:02x}"));
    octets.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn frame(ethertype: [u8; 2], rest: &[u8]) -> Vec<u8> {
        [&[0x0a; 6][..], &FROM, &ethertype, rest].concat()
    }

    fn ipv4(protocol: u8, fragment: [u8; 2], transport: &[u8]) -> Vec<u8> {
        let header = [0x45, 0, 0, 40, 0, 1, fragment[0], fragment[1], 64, protocol, 0, 0, 10, 0, 9, 9, 10, 0, 7, 7];
        frame([8, 0], &[&header[..], transport].concat())
    }

    fn ipv6(protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut header = vec![0x60, 0, 0, 0, 0, 40, protocol, 255];
        header.extend("fe80::7".parse::<Ipv6Addr>().unwrap().octets());
        header.extend("ff02::1".parse::<Ipv6Addr>().unwrap().octets());
        header.extend(transport);
        frame([0x86, 0xdd], &header)
    }

    #[test]
    fn a_connections_first_packet_is_told_with_addresses_ports_and_flags() {
        let tcp = [0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
        let summary = PacketSummary::of(&ipv4(TCP, [0x40, 0], &tcp));
        let told = PacketSummary {
            source_mac: Some(FROM),
            protocol: "tcp".to_owned(),
            source: Some("10.0.9.9".parse().unwrap()),
            destination: Some("10.0.7.7".parse().unwrap()),
            ports: Some((40_000, 443)),
            details: Some("SYN".to_owned()),
        };
        assert_eq!(summary, told);
        // Reserved words are no flags, and what is cut off in the midst of a header is told as far as it goes.
        assert_eq!(flags(0b1101_0010), "SYN,ACK,ECE,CWR");
        let cut = PacketSummary::of(&ipv4(TCP, [0x40, 0], &tcp[..4]));
        assert_eq!((cut.ports, cut.details), (told.ports, None));
    }

    #[test]
    fn what_has_no_ports_is_told_by_what_it_has() {
        let told = |frame: Vec<u8>| {
            let PacketSummary { protocol, source, ports, details, .. } = PacketSummary::of(&frame);
            (protocol, source.map(|source| source.to_string()), ports, details)
        };
        let words = |protocol: &str, source: Option<&str>, details: Option<&str>| {
            (protocol.to_owned(), source.map(str::to_owned), None, details.map(str::to_owned))
        };
        assert_eq!(told(ipv4(UDP, [0, 100], &[7; 8])), words("udp", Some("10.0.9.9"), Some("fragment")));
        assert_eq!(told(ipv4(ICMP, [0, 0], &[8, 0, 0, 0, 0, 0, 0, 0])), words("icmp", Some("10.0.9.9"), Some("type 8 code 0")));
        assert_eq!(told(ipv4(132, [0, 0], &[0; 12])), words("protocol 132", Some("10.0.9.9"), None));
        assert_eq!(told(frame([0x88, 0xcc], &[0; 8])), words("ethertype 0x88cc", None, None));
        assert_eq!(told(frame([0x81, 0], &[0; 8])), words("vlan", None, None));
        assert_eq!(told(frame([8, 0], &[0x45])), words("cut short", None, None));
        assert_eq!(told(vec![1, 2, 3]), words("cut short", None, None));
        let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 1, 9, 0, 0, 0, 0, 0, 0, 10, 0, 1, 1];
        assert_eq!(told(frame([8, 6], &arp)), words("arp", Some("10.0.1.9"), Some("claims to be 02:00:00:00:00:09")));
        let mut advertisement = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
        advertisement.extend("fd00::9".parse::<Ipv6Addr>().unwrap().octets());
        advertisement.extend([2, 1, 2, 0, 0, 0, 0, 9]);
        assert_eq!(told(ipv6(ICMPV6, &advertisement)), words("icmpv6", Some("fd00::9"), Some("claims to be 02:00:00:00:00:09")));
        assert_eq!(told(ipv6(ICMPV6, &[133, 0, 0, 0, 0, 0, 0, 0])), words("icmpv6", Some("fe80::7"), Some("type 133 code 0")));
    }

    #[test]
    fn no_bytes_are_too_odd() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for length in (0..97).cycle().take(50_000) {
            let bytes: Vec<u8> = (0..length)
                .map(|at| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    // Mostly of a kind that is read further.
                    match at {
                        12 => 0x08 | (state as u8 & 0x80),
                        13 => [0, 0, 6, 0xdd][state as usize % 4],
                        14 => [0x45, 0x60][state as usize % 2],
                        _ => state as u8,
                    }
                })
                .collect();
            assert!(!PacketSummary::of(&bytes).protocol.is_empty());
        }
    }
}
