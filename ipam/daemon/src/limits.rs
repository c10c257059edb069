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

/// What was asked for where the programs hold a pod to this: the other way round, for a pod whose record is lost.
#[must_use]
pub fn asked(held_to: Limits) -> Asked {
    let Limits { sent, received, internet } = held_to;
    let bandwidth = Bandwidth {
        ingress_rate: received.rate * 8,
        ingress_burst: burst_asked(received),
        egress_rate: sent.rate * 8,
        egress_burst: burst_asked(sent),
    };
    Asked {
        bandwidth: Some(bandwidth).filter(|asked| asked.ingress_rate != 0 || asked.egress_rate != 0),
        internet_egress: Some(internet.rate * 8).filter(|rate| *rate != 0),
    }
}

/// In bits; 0 for the usual one.
fn burst_asked(limit: Limit) -> u64 {
    if limit == Limit::of(limit.rate) {
        return 0;
    }
    let bytes = (u128::from(limit.burst) * u128::from(limit.rate)).div_ceil(1_000_000_000);
    u64::try_from(bytes * 8).unwrap_or(BURST_UNASKED - 1).min(BURST_UNASKED - 1)
}

/// Which limits are above the speed of every uplink, in words: they hold nothing back that leaves the node. Speeds and rates are in bits a
/// second.
#[must_use]
pub fn above(speed: u64, of_node: &[(&str, u64)], records: &[Record]) -> Vec<String> {
    let told = |what: &str, rate: u64| format!("{what} ({})", bit_rate(rate));
    let of_node = of_node.iter().filter(|(_, rate)| *rate > speed).map(|(key, rate)| told(key, *rate));
    let of_pods = records.iter().filter_map(|record| {
        let asked = record.bandwidth.unwrap_or_default();
        let limits =
            [("egress", asked.egress_rate), ("ingress", asked.ingress_rate), ("internet egress", record.internet_egress.unwrap_or(0))];
        let above: Vec<_> = limits.iter().filter(|(_, rate)| *rate > speed).map(|(what, rate)| told(what, *rate)).collect();
        (!above.is_empty()).then(|| format!("{}/{}: {}", record.pod.namespace, record.pod.name, above.join(", ")))
    });
    of_node.chain(of_pods).collect()
}

/// As people write it.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a rate that people read")]
pub fn bit_rate(bits: u64) -> String {
    let (unit, name) = match bits {
        1_000_000_000.. => (1e9, "Gbit/s"),
        1_000_000.. => (1e6, "Mbit/s"),
        _ => (1e3, "kbit/s"),
    };
    format!("{} {name}", (bits as f64 / unit * 10.0).round() / 10.0)
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
    use cni_spec::PodIdentity;
    use ipam_state::record::{AttachmentKey, RECORD_FORMAT};
    use node_api::BootMillis;

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
        assert_eq!(sent(8).burst, 131_072_000);
    }

    #[test]
    fn what_was_asked_for_is_told_by_what_the_programs_hold() {
        let bursts = [0, BURST_UNASKED, 8, 8_000_000, BURST_UNASKED - 1];
        for rate in [1_000, 999_999, 10_000_000, 1_000_000_000, 5_000_000_000, BitRate::MOST] {
            for burst in bursts {
                let bandwidth = Bandwidth { ingress_rate: rate, ingress_burst: burst, egress_rate: 0, egress_burst: 0 };
                for (bandwidth, internet_egress) in
                    [(Some(bandwidth), None), (None, Some(rate)), (Some(bandwidth), Some(rate)), (None, None)]
                {
                    let held_to = limits(bandwidth, internet_egress);
                    let told = asked(held_to);
                    let again = limits(told.bandwidth, told.internet_egress);
                    assert_eq!((again.sent, again.internet), (held_to.sent, held_to.internet));
                    assert_eq!(again.received.rate, held_to.received.rate);
                    // A byte more, where the time is not a whole number of them.
                    let byte = 1_000_000_000_u64.checked_div(held_to.received.rate).unwrap_or(0) + 1;
                    assert!(
                        again.received.burst.abs_diff(held_to.received.burst) <= byte,
                        "{rate} with {burst}: {again:?} for {held_to:?}"
                    );
                    assert_eq!(told.bandwidth.is_some(), bandwidth.is_some());
                }
            }
        }
    }

    #[test]
    fn a_limit_that_no_uplink_can_reach_is_told_with_whose_it_is() {
        let record = |name: &str, bandwidth, internet_egress| Record {
            format: RECORD_FORMAT,
            key: AttachmentKey { container_id: name.parse().unwrap(), ifname: "eth0".parse().unwrap() },
            network: "barewire".parse().unwrap(),
            pod: PodIdentity { namespace: "web".to_owned(), name: name.to_owned(), uid: String::new() },
            netns: None,
            host_ifname: "bw1".to_owned(),
            host_ifindex: 1,
            mtu: 1500,
            mac: None,
            addresses: Vec::new(),
            attached_at: BootMillis(0),
            bandwidth,
            internet_egress,
            allowed: Vec::new(),
        };
        let records = [
            record("a", Some(Bandwidth { egress_rate: 40_000_000_000, ingress_rate: 25_000_000_000, ..NONE }), None),
            record("b", None, Some(25_000_000_001)),
            record("c", None, None),
        ];
        let told =
            above(25_000_000_000, &[("network.pod_internet_egress", 0), ("network.node_internet_egress", 100_000_000_000)], &records);
        assert_eq!(told, ["network.node_internet_egress (100 Gbit/s)", "web/a: egress (40 Gbit/s)", "web/b: internet egress (25 Gbit/s)"]);
        assert!(above(u64::MAX, &[("network.pod_internet_egress", u64::MAX)], &records).is_empty());
        assert_eq!([bit_rate(1_500), bit_rate(12_340_000)], ["1.5 kbit/s", "12.3 Mbit/s"]);
    }
}
