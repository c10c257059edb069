//! Which replica a node asks: rendezvous hashing, so that one that comes or goes moves only its own share of the nodes.

use twox_hash::XxHash3_64;

/// The replicas in the order in which `node` tries them.
#[must_use]
pub fn by_preference<'a>(node: &str, replicas: &'a [String]) -> Vec<&'a str> {
    let seed = XxHash3_64::oneshot(node.as_bytes());
    let mut order: Vec<_> =
        replicas.iter().map(|replica| (XxHash3_64::oneshot_with_seed(seed, replica.as_bytes()), replica.as_str())).collect();
    order.sort_unstable_by(|a, b| b.cmp(a));
    order.dedup();
    order.into_iter().map(|(_, replica)| replica).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_only_the_lost_replicas_nodes_move() {
        let three: Vec<String> = ["10.0.0.1:7443", "10.0.0.2:7443", "10.0.0.3:7443"].map(str::to_owned).to_vec();
        let two = &three[..2];
        let mut shares = [0; 3];
        for node in (0..7_500).map(|number| format!("node-{number}")) {
            let before = by_preference(&node, &three);
            let first = three.iter().position(|replica| replica == before[0]).unwrap();
            shares[first] += 1;
            let expected = if first == 2 { before[1] } else { before[0] };
            assert_eq!(by_preference(&node, two)[0], expected);
        }
        assert!(shares.iter().all(|share| (2_300..2_700).contains(share)), "{shares:?}");
    }
}
