//! `cargo xtask scale` on a small cluster: every scenario, every promise that can be judged of so few nodes.

use simulation::scale::{Scale, report};

#[test]
fn a_small_cluster_keeps_what_a_large_one_promises() {
    let report = report::run(Scale { nodes: 150, pods: 4000, seed: 7 }, |_| {}).unwrap();
    assert!(!report.has_missed(), "\n{report}");
    let value = |key| report.value(key).unwrap();
    let ours = value("calls_per_node_hour");
    assert!(ours > 0.0, "nodes do grow\n{report}");
    assert!(ours < value("calls_per_node_hour_warm_eni") && ours < value("calls_per_node_hour_per_address"), "\n{report}");
    let line: serde_json::Value = serde_json::from_str(&report.json().to_string()).unwrap();
    assert_eq!(line["missed"], serde_json::json!([]));
    assert!(line["raw"]["outage"]["nodes_short"].as_u64() > Some(75), "an outage that nobody notices shows nothing\n{report}");
}
