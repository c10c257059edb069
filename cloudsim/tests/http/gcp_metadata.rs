//! Google Cloud's metadata server.

use std::time::{Duration, Instant};

use cloudsim::cloud::{Ipv4Wanted, Request};
use cloudsim::fabric::NoFabric;
use cloudsim::metadata::Service;
use serde_json::json;

use super::client::{Lab, Reply, send};

fn lab() -> Lab {
    Lab::with(
        |spec| {
            spec.instance_type = "n2-standard-4".to_owned();
            (spec.interfaces[0].ipv4_prefix_count, spec.interfaces[0].ipv4_prefix_length) = (1, 24);
        },
        Box::new(NoFabric),
    )
}

fn get(url: &str, path: &str) -> Reply {
    send("GET", &format!("{url}/computeMetadata/v1/{path}"), &[("Metadata-Flavor", "Google")], "").unwrap()
}

#[test]
fn alias_ranges_are_shown_in_json_and_as_folders() {
    let lab = lab();
    let (url, interface) = (lab.metadata(Service::Gcp), lab.interface());
    let range = interface.ipv4_prefixes[0].to_string();
    let recursive = get(&url, "instance/network-interfaces/?recursive=true");
    assert_eq!((recursive.header("metadata-flavor"), recursive.header("content-type")), ("Google", "application/json"));
    let nic = &recursive.json()[0];
    assert_eq!(nic["ipAliases"], json!([range]));
    assert_eq!((&nic["gateway"], &nic["subnetmask"], &nic["forwardedIps"]), (&json!("10.0.0.1"), &json!("255.255.240.0"), &json!([])));
    assert_eq!((&nic["ip"], &nic["mac"]), (&json!(interface.primary), &json!(interface.mac.to_string())));
    assert_eq!(get(&url, "instance/network-interfaces/").body, "0/\n");
    assert!(get(&url, "instance/network-interfaces/0/").body.contains("ip-aliases/\n"));
    assert_eq!(get(&url, "instance/network-interfaces/0/ip-aliases/0").body, range);
    assert_eq!(get(&url, "instance/network-interfaces/0/nothing").status, 404);
    let moved = get(&url, "instance/network-interfaces?recursive=true");
    assert_eq!((moved.status, moved.header("location")), (301, "/computeMetadata/v1/instance/network-interfaces/?recursive=true"));
    let bare = send("GET", &format!("{url}/computeMetadata/v1/instance/"), &[], "").unwrap();
    assert_eq!((bare.status, bare.header("metadata-flavor")), (403, "Google"));
}

#[test]
fn a_change_is_waited_for() {
    let lab = lab();
    let url = lab.metadata(Service::Gcp);
    let path = "instance/network-interfaces/?recursive=true";
    let before = get(&url, path);
    let waiting = format!("{path}&wait_for_change=true&last_etag={}", before.header("etag"));
    let started = Instant::now();
    let same = get(&url, &format!("{waiting}&timeout_sec=1"));
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!((same.header("etag"), &same.body), (before.header("etag"), &before.body));

    let (started, interface) = (Instant::now(), lab.interface().id);
    let changed = std::thread::scope(|scope| {
        let changed = scope.spawn(|| get(&url, &format!("{waiting}&timeout_sec=15")));
        std::thread::sleep(Duration::from_millis(300));
        lab.server.with(|cloud, now| {
            let wanted = Ipv4Wanted::Ipv4PrefixCount(1);
            cloud.apply(now, &Request::AssignPrivateIpAddresses { interface, wanted }).unwrap();
        });
        changed.join().unwrap()
    });
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(changed.json()[0]["ipAliases"].as_array().map(Vec::len), Some(2));
    assert_ne!(changed.header("etag"), before.header("etag"));
    let stale = get(&url, &format!("{waiting}&timeout_sec=15"));
    assert_eq!(stale.header("etag"), changed.header("etag"), "what has changed already is told at once");
}
