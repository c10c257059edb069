//! What a pod may send and be sent: what was asked for, judged before anything is done, and as the kernel programs keep it.
//!
//! Pure. What runtimes pass is in bits; the programs count bytes.

use cni_spec::{Bandwidth, Code, Error, INTERNET_EGRESS};
use datapath::fast_path::{Limit, Limits};
use ipam_state::record::Record;

use crate::config::BitRate;

/// What runtimes write as burst where nobody has asked for one: the annotations of Kubernetes know none. containerd writes this many bits,
/// CRI-O eight times as many. Taken at its word, a pod limited to 10 Mbit/s would send without a limit for the first 512 MiB.
pub const BURST_UNASKED: u64 = u32::MAX as u64;

/// What an ADD asks for, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Nothing where no direction has a limit.
    pub bandwidth: Option<Bandwidth>,
    /// Bits a second.
    pub internet_egress: Option<u64>,
}

/// Judges what an ADD asks for.
///
/// # Errors
/// [`Code::InvalidConfig`] for what cannot be kept, with key and value.
pub fn judge(bandwidth: Option<Bandwidth>, internet_egress: Option<&str>) -> Result<Asked, Error> {
    let invalid = |what: String| Error::new(Code::InvalidConfig, what);
    if let Some(Bandwidth { ingress_rate, ingress_burst, egress_rate, egress_burst }) = bandwidth {
        for (direction, rate, burst) in [("ingress", ingress_rate, ingress_burst), ("egress", egress_rate, egress_burst)] {
            if rate == 0 && burst != 0 {
                let why = format!("runtimeConfig.bandwidth.{direction}Rate is 0 with a {direction}Burst of {burst} bits");
                return Err(invalid(format!("{why}; set a rate, or leave both out for no limit")));
            }
            if rate != 0 && !(BitRate::LEAST..=BitRate::MOST).contains(&rate) {
                let why = format!("runtimeConfig.bandwidth.{direction}Rate: {rate} bits a second is out of range");
                let remedy = format!("set the pod's annotation kubernetes.io/{direction}-bandwidth to a rate between 1k and 1P");
                return Err(invalid(format!("{why}; {remedy}")));
            }
        }
    }
    let internet_egress = match internet_egress {
        None => None,
        Some(text) => Some(text.parse::<BitRate>().map_err(|why| invalid(format!("the pod's annotation {INTERNET_EGRESS}: {why}")))?),
    };
    let bandwidth = bandwidth.filter(|asked| asked.ingress_rate != 0 || asked.egress_rate != 0);
    Ok(Asked { bandwidth, internet_egress: internet_egress.map(BitRate::bits) })
}

/// What the programs hold an attachment to, of its own.
#[must_use]
pub fn of(record: &Record) -> Limits {
    limits(record.bandwidth, record.internet_egress)
}

/// What the programs make of it.
#[must_use]
pub fn limits(bandwidth: Option<Bandwidth>, internet_egress: Option<u64>) -> Limits {
    let asked = bandwidth.unwrap_or_default();
    Limits {
        sent: limit(asked.egress_rate, asked.egress_burst),
        received: limit(asked.ingress_rate, asked.ingress_burst),
        internet: Limit::of(internet_egress.unwrap_or(0) / 8),
    }
}

/// A limit of so many bits a second. A burst that nobody has asked for is the usual one.
fn limit(rate: u64, burst: u64) -> Limit {
    match burst {
        0 => Limit::of(rate / 8),
        BURST_UNASKED.. => Limit::of(rate / 8),
        burst => Limit::with_burst(rate / 8, burst / 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Bandwidth = Bandwidth { ingress_rate: 0, ingress_burst: 0, egress_rate: 0, egress_burst: 0 };

    #[test]
    fn what_cannot_be_kept_is_told_with_key_and_value() {
        let cases = [
            (Bandwidth { ingress_rate: 999, ..NONE }, "runtimeConfig.bandwidth.ingressRate: 999 bits"),
            (Bandwidth { egress_rate: BitRate::MOST + 1, ..NONE }, "runtimeConfig.bandwidth.egressRate: 1000000000000001 bits"),
            (Bandwidth { egress_burst: 8, ..NONE }, "runtimeConfig.bandwidth.egressRate is 0 with a egressBurst of 8 bits"),
        ];
        for (asked, said) in cases {
            let error = judge(Some(asked), None).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig);
            assert!(error.msg.contains(said), "{}", error.msg);
        }
        for (text, said) in [("10x", "\"10x\" is not a rate"), ("0", "\"0\" would stop"), ("1P", "\"1P\"")] {
            let error = judge(None, Some(text)).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig);
            assert!(error.msg.contains("barewire.io/internet-egress") && error.msg.contains(said), "{}", error.msg);
        }
    }

    #[test]
    fn a_direction_without_a_limit_has_none() {
        // As containerd has it where one direction was annotated.
        let asked = Bandwidth { ingress_rate: 10_000_000, ingress_burst: BURST_UNASKED, ..NONE };
        let judged = judge(Some(asked), None).unwrap();
        assert_eq!(judged.bandwidth, Some(asked));
        let kept = limits(judged.bandwidth, judged.internet_egress);
        assert_eq!(kept, Limits { received: Limit::of(1_250_000), ..Limits::default() });
        assert_eq!(judge(Some(NONE), None).unwrap(), Asked::default());
        assert_eq!(limits(None, Some(8_000)).internet, Limit::of(1_000));
    }

    #[test]
    fn a_burst_is_what_was_asked_for_and_no_runtimes_placeholder() {
        let sent = |burst| limits(Some(Bandwidth { egress_rate: 8_000_000, egress_burst: burst, ..NONE }), None).sent;
        for placeholder in [0, BURST_UNASKED, BURST_UNASKED * 8] {
            assert_eq!(sent(placeholder), Limit::of(1_000_000), "{placeholder}");
        }
        // A megabyte at a megabyte a second; and never less than two large packets.
        assert_eq!(sent(8_000_000).burst, 1_000_000_000);
        assert_eq!(sent(8).burst, Limit::of(1_000_000).burst);
    }
}
