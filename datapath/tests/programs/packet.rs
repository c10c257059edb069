//! Frames, field by field.

use std::net::IpAddr;

use crate::loaded::MAC;

/// What stands behind the network header.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload {
    /// Ports.
    Tcp(u16, u16),
    /// Ports.
    Udp(u16, u16),
    /// An echo request of the address family's ICMP, by its identifier.
    Echo(u16),
    /// "Destination unreachable" of the address family's ICMP, about a UDP packet with these addresses and ports.
    Unreachable(IpAddr, IpAddr, u16, u16),
    /// The same without the packet that it is about.
    Quoteless,
    /// A neighbour solicitation (135) or advertisement (136), or another message of that kind: its type, its target, and the MAC address in
    /// its option.
    Discovery(u8, IpAddr, [u8; 6]),
    /// Another protocol.
    Protocol(u8),
}

/// A piece of a packet that was cut into several.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Piece {
    First,
    Later,
}

/// A frame to be.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    source: IpAddr,
    destination: IpAddr,
    payload: Payload,
    source_mac: [u8; 6],
    ethertype: Option<u16>,
    vlan: Option<u16>,
    options: bool,
    piece: Option<Piece>,
    version: Option<u8>,
    length: Option<usize>,
    hop_limit: u8,
    sent_to: [u8; 6],
    arp: Option<(IpAddr, [u8; 6])>,
}

impl Packet {
    /// Between two addresses of one family, from a locally administered MAC address that is nobody's.
    pub(crate) fn new(source: IpAddr, destination: IpAddr, payload: Payload) -> Self {
        Self {
            source,
            destination,
            payload,
            source_mac: [0x0e; 6],
            ethertype: None,
            vlan: None,
            options: false,
            piece: None,
            version: None,
            length: None,
            hop_limit: 64,
            sent_to: MAC,
            arp: None,
        }
    }

    pub(crate) fn sent_by(self, source_mac: [u8; 6]) -> Self {
        Self { source_mac, ..self }
    }

    /// To this MAC address.
    pub(crate) fn sent_to(self, sent_to: [u8; 6]) -> Self {
        Self { sent_to, ..self }
    }

    pub(crate) fn hop_limit(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    /// ARP instead, which claims this address with this MAC address.
    pub(crate) fn arp(self, sender: IpAddr, mac: [u8; 6]) -> Self {
        Self { arp: Some((sender, mac)), ..self }
    }

    /// Of this type whatever it holds.
    pub(crate) fn ethertype(self, ethertype: u16) -> Self {
        Self { ethertype: Some(ethertype), ..self }
    }

    /// With an IEEE 802.1Q tag in the frame.
    pub(crate) fn vlan(self, id: u16) -> Self {
        Self { vlan: Some(id), ..self }
    }

    /// With an IPv4 option (router alert) or an IPv6 hop-by-hop header.
    pub(crate) fn options(self) -> Self {
        Self { options: true, ..self }
    }

    pub(crate) fn piece(self, piece: Piece) -> Self {
        Self { piece: Some(piece), ..self }
    }

    /// That claims another version of IP than its type says.
    pub(crate) fn version(self, version: u8) -> Self {
        Self { version: Some(version), ..self }
    }

    /// Cut off after so many bytes.
    pub(crate) fn truncated(self, length: usize) -> Self {
        Self { length: Some(length), ..self }
    }

    /// Since Linux 6.18 `BPF_PROG_TEST_RUN` refuses a frame that ends before its network header does.
    pub(crate) fn can_be_run(&self) -> bool {
        let headers = if self.source.is_ipv4() { 14 + 20 } else { 14 + 40 };
        self.length.is_none_or(|length| length >= headers)
    }

    /// Not cut off.
    pub(crate) fn is_whole(&self) -> bool {
        self.length.is_none()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut frame = self.sent_to.to_vec();
        frame.extend(self.source_mac);
        if let Some((IpAddr::V4(sender), mac)) = self.arp {
            frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(mac);
            frame.extend(sender.octets());
            frame.extend([0; 6]);
            frame.extend([169, 254, 1, 1]);
            return frame;
        }
        if let Some(id) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(id.to_be_bytes());
        }
        frame.extend(self.ethertype.unwrap_or(if self.source.is_ipv4() { 0x0800 } else { 0x86dd }).to_be_bytes());
        let network = frame.len();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.v4(&mut frame, source.octets(), destination.octets()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.v6(&mut frame, source.octets(), destination.octets()),
            mixed => panic!("two families in one packet: {mixed:?}"),
        }
        if let Some(version) = self.version {
            frame[network] = (version << 4) | (frame[network] & 0x0f);
        }
        frame.truncate(self.length.unwrap_or(frame.len()));
        frame
    }

    fn v4(&self, frame: &mut Vec<u8>, source: [u8; 4], destination: [u8; 4]) {
        let options: &[u8] = if self.options { &[0x94, 4, 0, 0] } else { &[] };
        let transport = self.transport();
        let header = u8::try_from(20 + options.len()).unwrap();
        let total = u16::from(header) + u16::try_from(transport.len()).unwrap();
        let fragment = match self.piece {
            None => [0x40, 0],
            Some(Piece::First) => [0x20, 0],
            Some(Piece::Later) => [0, 9],
        };
        frame.extend([0x40 | (header / 4), 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(fragment);
        frame.extend([self.hop_limit, self.protocol(), 0, 0]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(options);
        frame.extend(transport);
    }

    fn v6(&self, frame: &mut Vec<u8>, source: [u8; 16], destination: [u8; 16]) {
        const HOP_BY_HOP: u8 = 0;
        const FRAGMENT: u8 = 44;
        let (next, extension) = match (self.options, self.piece) {
            // PadN over the rest of eight bytes (RFC 8200, 4.2).
            (true, _) => (HOP_BY_HOP, vec![self.protocol(), 0, 1, 4, 0, 0, 0, 0]),
            (false, Some(Piece::First)) => (FRAGMENT, vec![self.protocol(), 0, 0, 1, 0, 0, 0, 7]),
            (false, Some(Piece::Later)) => (FRAGMENT, vec![self.protocol(), 0, 0, 0x48, 0, 0, 0, 7]),
            (false, None) => (self.protocol(), Vec::new()),
        };
        let transport = self.transport();
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(u16::try_from(extension.len() + transport.len()).unwrap().to_be_bytes());
        frame.extend([next, self.hop_limit]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(extension);
        frame.extend(transport);
    }

    pub(crate) fn protocol(&self) -> u8 {
        match self.payload {
            Payload::Tcp(..) => 6,
            Payload::Udp(..) => 17,
            Payload::Echo(_) | Payload::Unreachable(..) | Payload::Quoteless | Payload::Discovery(..) => {
                if self.source.is_ipv4() {
                    1
                } else {
                    58
                }
            }
            Payload::Protocol(number) => number,
        }
    }

    fn transport(&self) -> Vec<u8> {
        let v4 = self.source.is_ipv4();
        match self.payload {
            Payload::Tcp(source, destination) => {
                let mut header = [source.to_be_bytes(), destination.to_be_bytes()].concat();
                header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0]);
                header
            }
            Payload::Udp(source, destination) => {
                let mut header = [source.to_be_bytes(), destination.to_be_bytes()].concat();
                header.extend([0, 12, 0, 0, b'p', b'i', b'n', b'g']);
                header
            }
            Payload::Echo(identifier) => {
                let mut header = vec![if v4 { 8 } else { 128 }, 0, 0, 0];
                header.extend(identifier.to_be_bytes());
                header.extend([0, 1]);
                header
            }
            Payload::Quoteless => vec![if v4 { 3 } else { 1 }, 0, 0, 0, 0, 0, 0, 0],
            Payload::Unreachable(source, destination, from, to) => {
                let quoted = Self::new(source, destination, Payload::Udp(from, to)).bytes();
                [&[if v4 { 3 } else { 1 }, 3, 0, 0, 0, 0, 0, 0], &quoted[14..]].concat()
            }
            Payload::Discovery(kind, target, mac) => {
                let IpAddr::V6(target) = target else { panic!("discovery of {target}") };
                let option = if kind == 136 { 2 } else { 1 };
                [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[option, 1], &mac].concat()
            }
            Payload::Protocol(_) => vec![0; 16],
        }
    }
}
