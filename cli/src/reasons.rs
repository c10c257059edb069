//! Why packets are dropped or take the kernel's network stack: what the reasons' names in metrics mean to somebody who has not read the programs.

/// In words.
pub(crate) fn meaning(reason: &str) -> &'static str {
    match reason {
        "no_programs" => "no programs are in use on this node",
        "no_endpoint" => "the programs know no pod behind this link",
        "spoofed_address" => "the source address is not the pod's",
        "spoofed_mac" => "the source MAC address is not the pod's",
        "spoofed_neighbour" => "it claims an address or a MAC address that is not the pod's",
        "vlan_tag" => "it has a VLAN tag",
        "malformed" => "its headers are cut short or nonsense",
        "not_ip" => "it is neither IPv4, IPv6 nor ARP",
        "flow_table_full" => "its flow must be noted, and the pod has as many as it may have",
        "internet_egress_limit" => {
            "it is beyond what the pod may send to the internet (barewire.io/internet-egress, network.pod_internet_egress)"
        }
        "node_internet_egress_limit" => {
            "it is beyond the pod's share of what all pods of the node may send to the internet (network.node_internet_egress)"
        }
        "no_translation" => "it comes back from a service's endpoint, and nobody knows any more which service it was",
        "egress_limit" => "it is beyond what the pod may send (kubernetes.io/egress-bandwidth)",
        "ingress_limit" => "it is beyond what the pod may be sent (kubernetes.io/ingress-bandwidth)",
        "fragment" => "it is a piece of a packet",
        "options" => "it has IPv4 options or IPv6 extension headers",
        "hop_limit" => "its hop limit is used up",
        "too_large" => "it is larger than the way out takes",
        "unusual" => "it is neither TCP nor UDP nor an echo",
        "pinned_flow" => "this flow began in the network stack, and a flow takes one path",
        "slow_path_only" => "not all flows of the pod, or to this destination, are known yet",
        "family_on_slow_path" => "rules of this node may treat packets of this family otherwise",
        "not_native" => "the destination is not native (network.native_cidrs), or the host has another way to it",
        "link_local" => "the address means something on one link alone, or is a group's",
        "no_such_pod" => "the address is in the pods' ranges, and no pod of this node has it",
        "no_uplink" => "the pod's uplink is not open to the programs, or its gateway is not known",
        "" => "it is the host's own",
        _ => "see docs/fast-path.md",
    }
}

/// Whether packets are dropped for it; otherwise they take the network stack.
pub(crate) fn drops(reason: &str) -> bool {
    const DROPS: [&str; 13] = [
        "no_endpoint",
        "spoofed_address",
        "spoofed_mac",
        "spoofed_neighbour",
        "vlan_tag",
        "malformed",
        "not_ip",
        "flow_table_full",
        "internet_egress_limit",
        "node_internet_egress_limit",
        "egress_limit",
        "ingress_limit",
        "no_translation",
    ];
    DROPS.contains(&reason)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Of a metric, as docs/metrics.md has them from the programs' own list.
    fn reasons(metric: &str) -> Vec<String> {
        let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")).unwrap();
        let begin = format!("| `{metric}` | `reason` | ");
        let row = page.lines().find_map(|line| line.strip_prefix(&begin)).unwrap_or_else(|| panic!("{metric} is not in docs/metrics.md"));
        row.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn each_reason_of_the_programs_has_a_meaning() {
        for (metric, dropped) in [("barewire_fast_path_dropped_total", true), ("barewire_fast_path_passed_to_stack_total", false)] {
            for reason in reasons(metric) {
                assert_ne!(meaning(&reason), meaning("nobody's"), "{reason}");
                assert_eq!(drops(&reason), dropped, "{reason}");
            }
        }
    }
}
