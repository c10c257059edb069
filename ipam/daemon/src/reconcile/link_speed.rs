//! Tells limits of bandwidth that are above the speed of every uplink: whoever set one believes that it holds something back.

use std::fs;
use std::path::Path;

use datapath::{NodeNetwork, Uplink};
use ipam_state::record::Record;

use crate::conditions::Finding;
use crate::limits::{above, bit_rate};

const LINKS: &str = "/sys/class/net";
/// How many limits a condition names.
const NAMED: usize = 5;

/// What is wrong with limits; nothing where an uplink does not tell its speed.
pub(super) fn judge(network: &NodeNetwork, records: &[Record]) -> Option<Finding> {
    let speeds: Option<Vec<_>> = network.uplinks.iter().map(|uplink| speed(Path::new(LINKS), uplink)).collect();
    finding(&speeds?, network, records)
}

/// Bits a second; `None` where the driver does not know.
fn speed(links: &Path, uplink: &Uplink) -> Option<u64> {
    let told = fs::read_to_string(links.join(&uplink.ifname).join("speed")).ok()?;
    // Megabits; −1 for unknown, which some kernels write as a number without a sign.
    let megabits = told.trim().parse::<u64>().ok().filter(|speed| (1..u64::from(u32::MAX)).contains(speed))?;
    Some(megabits * 1_000_000)
}

fn finding(speeds: &[u64], network: &NodeNetwork, records: &[Record]) -> Option<Finding> {
    let highest = *speeds.iter().max()?;
    let of_pods = [("network.pod_internet_egress".to_owned(), network.internet_egress)].into_iter().chain(
        network.internet_egress_of.iter().map(|(namespace, rate)| (format!("network.namespaces.{namespace}.pod_internet_egress"), *rate)),
    );
    let of_pods: Vec<_> = of_pods.map(|(key, bytes)| (key, bytes.saturating_mul(8))).collect();
    let of_pods: Vec<_> = of_pods.iter().map(|(key, bits)| (key.as_str(), *bits)).collect();
    // All pods together have all uplinks.
    let of_all = [("network.node_internet_egress", network.node_internet_egress.saturating_mul(8))];
    let told: Vec<_> = above(speeds.iter().sum(), &of_all, &[]).into_iter().chain(above(highest, &of_pods, records)).collect();
    let more = if told.len() > NAMED { " and others" } else { "" };
    let named = told[..told.len().min(NAMED)].join("; ");
    let message =
        format!("limits that hold back nothing that leaves the node, whose fastest uplink has {}: {named}{more}", bit_rate(highest));
    let remedy = "set a rate below the uplink's speed, or leave the limit out";
    (!told.is_empty()).then(|| Finding::new("FasterThanUplink", message, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_uplink_can_reach_is_told_and_what_all_can_reach_together_is_not() {
        const GBIT: u64 = 1_000_000_000;
        let network = |of_each: u64, of_all: u64| NodeNetwork {
            internet_egress: of_each / 8,
            internet_egress_of: [("batch".to_owned(), of_each / 4)].into(),
            node_internet_egress: of_all / 8,
            ..NodeNetwork::default()
        };
        let told = |speeds: &[u64], of_each, of_all| finding(speeds, &network(of_each, of_all), &[]).map(|finding| finding.message);
        assert_eq!(told(&[25 * GBIT], 12 * GBIT, 25 * GBIT), None);
        assert_eq!(told(&[25 * GBIT, 10 * GBIT], 12 * GBIT, 35 * GBIT), None);
        assert_eq!(told(&[], 100 * GBIT, 100 * GBIT), None, "no uplink, or one that does not tell");
        let message = told(&[25 * GBIT, 10 * GBIT], 20 * GBIT, 40 * GBIT).unwrap();
        for part in [
            "fastest uplink has 25 Gbit/s: ",
            "network.node_internet_egress (40 Gbit/s); ",
            "network.namespaces.batch.pod_internet_egress (40 Gbit/s)",
        ] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains("network.pod_internet_egress"), "{message}");
    }

    #[test]
    fn a_driver_that_does_not_know_its_speed_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let links = folder.path();
        fs::create_dir(links.join("eth9")).unwrap();
        let uplink = uplink("eth9");
        assert_eq!(speed(links, &uplink), None, "no file");
        for (text, expected) in [("-1\n", None), ("4294967295\n", None), ("0\n", None), ("25000\n", Some(25_000_000_000))] {
            fs::write(links.join("eth9/speed"), text).unwrap();
            assert_eq!(speed(links, &uplink), expected, "{text:?}");
        }
    }

    fn uplink(name: &str) -> Uplink {
        Uplink {
            index: 0,
            ifindex: datapath::Ifindex(2),
            ifname: name.to_owned(),
            mtu: 1500,
            running: true,
            gateways: Vec::new(),
            addresses: Vec::new(),
        }
    }
}
