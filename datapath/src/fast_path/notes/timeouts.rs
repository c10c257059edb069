//! How long a note stays without a packet: longer than conntrack keeps the flow, by conntrack's own settings.

use std::path::Path;

use ebpf::flow::Stage;
use ebpf::packet::{ICMP, ICMPV6, TCP};

/// Longer than the time between two sweeps, and than a clock of whole seconds is off.
const MARGIN: u32 = 20;
/// What comes after a connection has ended on both sides: a lost acknowledgement, and the segment that asks for it again.
const CLOSING: u32 = 20;
/// IPVS keeps UDP for so long, whatever conntrack's settings (`net/netfilter/ipvs/ip_vs_proto_udp.c`).
const IPVS_UDP: u32 = 300;

/// In seconds, with the margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, packets in both directions.
    pub tcp: u32,
    /// TCP, packets in one direction: a SYN that nobody has answered.
    pub tcp_one_way: u32,
    /// TCP, after a reset or both FINs.
    pub tcp_closing: u32,
    /// UDP and the like, over more than an exchange.
    pub udp_stream: u32,
    /// UDP, one exchange or less.
    pub udp: u32,
    /// Echoes.
    pub icmp: u32,
}

impl Timeouts {
    /// As conntrack is set in the caller's network namespace; the kernel's defaults where it has none yet.
    #[must_use]
    pub fn of_conntrack() -> Self {
        Self::from(|name| {
            let text = std::fs::read_to_string(Path::new("/proc/sys/net/netfilter").join(format!("nf_conntrack_{name}")));
            text.ok()?.trim().parse().ok()
        })
    }

    /// The defaults are of Documentation/networking/nf_conntrack-sysctl.rst.
    fn from(read: impl Fn(&str) -> Option<u32>) -> Self {
        let longest = |settings: &[(&str, u32)]| {
            settings.iter().map(|(name, default)| read(name).unwrap_or(*default)).max().unwrap_or_default().saturating_add(MARGIN)
        };
        let udp = ("udp_timeout", 30);
        Self {
            tcp: longest(&[("tcp_timeout_established", 432_000)]),
            tcp_one_way: longest(&[("tcp_timeout_syn_sent", 120), ("tcp_timeout_syn_recv", 60), ("tcp_timeout_unacknowledged", 300)]),
            tcp_closing: CLOSING,
            udp_stream: longest(&[("udp_timeout_stream", 120), udp]).max(IPVS_UDP + MARGIN),
            udp: longest(&[udp]),
            icmp: longest(&[("icmp_timeout", 30), ("icmpv6_timeout", 30)]),
        }
    }

    pub(super) const fn of(&self, protocol: u8, stage: Stage) -> u32 {
        match (protocol, stage) {
            (TCP, Stage::Closing) => self.tcp_closing,
            (TCP, Stage::OneWay) => self.tcp_one_way,
            (TCP, Stage::BothWays | Stage::Stream) => self.tcp,
            (ICMP | ICMPV6, _) => self.icmp,
            (_, Stage::Stream) => self.udp_stream,
            (_, Stage::OneWay | Stage::BothWays | Stage::Closing) => self.udp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_stays_longer_than_conntrack_keeps_the_flow() {
        let set = Timeouts::from(|name| (name == "tcp_timeout_established").then_some(86_400));
        assert_eq!(set.of(TCP, Stage::BothWays), 86_420);
        assert_eq!(set.of(TCP, Stage::OneWay), 320);
        assert_eq!(set.of(TCP, Stage::Closing), 20);
        assert_eq!([set.of(17, Stage::OneWay), set.of(17, Stage::BothWays), set.of(17, Stage::Stream)], [50, 50, 320]);
        assert_eq!(set.of(ICMPV6, Stage::Stream), 50);
        let longer = Timeouts::from(|name| (name == "udp_timeout_stream").then_some(1_000));
        assert_eq!(longer.of(17, Stage::Stream), 1_020);
    }
}
