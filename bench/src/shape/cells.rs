//! What is measured of a limit: which traffic, at which rate, and how far from the rate it came. Pure.

use std::time::Duration;

use crate::node::UPLINK_MTU;

/// How a pod sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// As fast as congestion control lets it.
    Tcp,
    /// [`HEADROOM`] times the limit, whatever becomes of it.
    Udp,
}

/// Traffic of one kind, held to one rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Its name in JSON.
    pub key: &'static str,
    /// What sends.
    pub protocol: Protocol,
    /// Connections or senders at once.
    pub streams: usize,
    /// Index of the rate in [`RATES`].
    pub rate: usize,
}

/// The rates of limits, in bits a second, and as annotations have them.
pub const RATES: [(f64, &str); 3] = [(1e7, "10M"), (1e9, "1G"), (5e9, "5G")];

/// Streams at once: one, and many.
pub const STREAMS: [usize; 2] = [1, 16];

const fn cell(key: &'static str, protocol: Protocol, streams: usize, rate: usize) -> Cell {
    Cell { key, protocol, streams, rate }
}

/// All of them, in the order of the table.
pub const CELLS: [Cell; 12] = [
    cell("tcp_10m_1_error_percent", Protocol::Tcp, STREAMS[0], 0),
    cell("tcp_10m_16_error_percent", Protocol::Tcp, STREAMS[1], 0),
    cell("tcp_1g_1_error_percent", Protocol::Tcp, STREAMS[0], 1),
    cell("tcp_1g_16_error_percent", Protocol::Tcp, STREAMS[1], 1),
    cell("tcp_5g_1_error_percent", Protocol::Tcp, STREAMS[0], 2),
    cell("tcp_5g_16_error_percent", Protocol::Tcp, STREAMS[1], 2),
    cell("udp_10m_1_error_percent", Protocol::Udp, STREAMS[0], 0),
    cell("udp_10m_16_error_percent", Protocol::Udp, STREAMS[1], 0),
    cell("udp_1g_1_error_percent", Protocol::Udp, STREAMS[0], 1),
    cell("udp_1g_16_error_percent", Protocol::Udp, STREAMS[1], 1),
    cell("udp_5g_1_error_percent", Protocol::Udp, STREAMS[0], 2),
    cell("udp_5g_16_error_percent", Protocol::Udp, STREAMS[1], 2),
];

/// Bytes of a datagram: as large as fits the uplink's packets.
pub const DATAGRAM: usize = UPLINK_MTU as usize - 28;

/// Without a limit a pod must send so many times the rate: else it would not be seen whether the limit held.
pub const HEADROOM: f64 = 1.3;

impl Protocol {
    /// The part of a frame that is payload, in frames as large as the uplink takes: of Ethernet 14 bytes, of IPv4 20, of UDP 8, of TCP with
    /// timestamps 32.
    #[must_use]
    pub fn payload_share(self) -> f64 {
        let mtu = f64::from(UPLINK_MTU);
        let headers = match self {
            Self::Tcp => 52.0,
            Self::Udp => 28.0,
        };
        (mtu - headers) / (mtu + 14.0)
    }
}

impl Cell {
    /// How far from the limit, in percent; less than 0 where less passed. A limit is of frames, so goodput is compared with the payload of as
    /// many frames as the limit lets pass.
    #[must_use]
    pub fn error_percent(&self, goodput_bits: f64) -> f64 {
        let (rate, _) = RATES[self.rate];
        (goodput_bits / (rate * self.protocol.payload_share()) - 1.0) * 100.0
    }

    /// What is sent by datagrams, in bits a second: clearly more than the limit, and no more than can be sent.
    #[must_use]
    pub fn datagram_bits(&self) -> f64 {
        RATES[self.rate].0 * HEADROOM
    }

    /// How long it is measured where others are for `slot`. At the least rate connections live from one timer of TCP's to the next, and a
    /// few of these more or less are to make no difference.
    #[must_use]
    pub fn slot(&self, slot: Duration) -> Duration {
        if self.rate == 0 { slot * 2 } else { slot }
    }

    /// Whether what passes without a limit is enough to see this one.
    #[must_use]
    pub fn is_within(&self, unlimited_bits: f64) -> bool {
        unlimited_bits >= RATES[self.rate].0 * HEADROOM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_what_is_measured() {
        for cell in CELLS {
            let protocol = if cell.protocol == Protocol::Tcp { "tcp" } else { "udp" };
            let rate = RATES[cell.rate].1.to_lowercase();
            assert_eq!(cell.key, format!("{protocol}_{rate}_{}_error_percent", cell.streams));
        }
    }

    #[test]
    fn frames_at_the_rate_are_no_error() {
        // 8,949 bytes of 9,015 are payload.
        let cell = CELLS[0];
        assert!(cell.error_percent(1e7 * 8_949.0 / 9_015.0).abs() < 1e-9);
        assert!((cell.error_percent(1e7 * 1.1 * 8_949.0 / 9_015.0) - 10.0).abs() < 1e-9);
        assert!(cell.error_percent(9e6) < -9.0);
    }

    #[test]
    fn a_limit_that_nobody_reaches_is_not_measured() {
        let five = CELLS.iter().find(|cell| cell.rate == 2).unwrap();
        assert!(five.is_within(6.5e9) && !five.is_within(6.4e9));
    }
}
