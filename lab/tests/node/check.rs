//! CHECK looks at everything that makes a pod reachable, and names what is not as it was made.

use anyhow::{Context, Result};
use lab::host::{Host, Pod};
use serde_json::Value;

use crate::{addresses, both_paths};

const CHANGED: u64 = 102;

/// Where a change is made.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Pod,
    Host,
}

/// A change with `ip` (or `tc`), `{4}` and `{6}` the pod's addresses and `{bw}` its host end; and what CHECK says of it.
const CHANGES: [(At, &str, &str); 20] = [
    (At::Pod, "ip link set eth0 down", "eth0 is down"),
    (At::Pod, "ip link set eth0 address 02:00:00:00:00:01", "02:00:00:00:00:01 instead of"),
    (At::Pod, "ip link set eth0 mtu 9100", "eth0 has an MTU of 9100 instead of 9001"),
    (At::Pod, "ip address del {4}/32 dev eth0", "eth0 lacks the address {4}"),
    (At::Pod, "ip address del {6}/128 dev eth0", "eth0 lacks the address {6}"),
    (At::Pod, "ip route del default", "eth0 lacks the default route by 169.254.1.1 for {4}"),
    (At::Pod, "ip -6 route del default", "eth0 lacks the default route by fe80::1 for {6}"),
    (At::Pod, "ip route replace default via 169.254.1.9 dev eth0 onlink", "eth0 lacks the default route by 169.254.1.1 for {4}"),
    (At::Pod, "ip rule add from {4} unreachable", "eth0 lacks the default route by 169.254.1.1 for {4}"),
    (At::Pod, "ip route del 169.254.1.1", "eth0 lacks the route to the gateway 169.254.1.1"),
    (
        At::Pod,
        "ip neigh replace 169.254.1.1 lladdr 02:00:00:00:00:02 dev eth0",
        "02:00:00:00:00:02 as the MAC address of the gateway 169.254.1.1",
    ),
    (At::Pod, "ip neigh replace fe80::1 lladdr 02:00:00:00:00:02 dev eth0", "02:00:00:00:00:02 as the MAC address of the gateway fe80::1"),
    (At::Host, "ip link set {bw} down", "the host end {bw} is down"),
    (At::Host, "ip link set {bw} mtu 1400", "the host end {bw} has an MTU of 1400 instead of 9001"),
    (At::Host, "ip route del {4}", "the host has no route to {4}"),
    (At::Host, "ip -6 route del {6}", "the host has no route to {6}"),
    (At::Host, "ip route add {4} dev eth1 metric 0 table 77", ""),
    (At::Host, "ip neigh del {4} dev {bw}", "the host has no neighbour entry for {4}"),
    (At::Host, "ip neigh replace {6} lladdr 02:00:00:00:00:03 dev {bw}", "the host has 02:00:00:00:00:03 as the MAC address of {6}"),
    (At::Host, "ip link del {bw}", "the container has no interface eth0; the host end {bw} is gone"),
];

fn check(host: &Host, pod: &Pod, result: &Value) -> Result<lab::host::Answer> {
    host.call_for("CHECK", pod).conf("prevResult", result.clone()).run()
}

/// The daemon looks every few seconds at what it keeps, and may be ahead of a CHECK; not twice in a row.
fn unless_kept(is_named: impl Fn() -> Result<()>) -> Result<()> {
    is_named().or_else(|_| is_named())
}

#[test]
fn every_difference_is_named() -> Result<()> {
    both_paths(|host, _| {
        for (at, line, says) in CHANGES {
            let (pod, result) = host.attached()?;
            let end = result["interfaces"][0]["name"].as_str().context("a host end")?.to_owned();
            let own = addresses(&result);
            let filled = |text: &str| text.replace("{4}", &own[0]).replace("{6}", &own[1]).replace("{bw}", &end);
            check(host, &pod, &result)?.silence()?;
            let line = filled(line);
            let is_named = || {
                match at {
                    At::Pod => pod.run(&line)?,
                    At::Host => host.run(&line.split(' ').collect::<Vec<_>>())?,
                };
                let answer = check(host, &pod, &result)?;
                if says.is_empty() { answer.silence() } else { answer.refused(CHANGED, &[&filled(says), "delete the pod"]) }
            };
            unless_kept(is_named).with_context(|| line.clone())?;
            host.call_for("DEL", &pod).run()?.silence()?;
        }
        Ok(())
    })
}

/// What a sandbox or a plugin behind ours may do is no difference.
#[test]
fn what_others_may_do_is_no_difference() -> Result<()> {
    both_paths(|host, _| {
        for line in [
            "ip route add 198.51.100.0/24 via 169.254.1.1 dev eth0",
            "ip -6 route add 2001:db8:1::/48 via fe80::1 dev eth0",
            "ip address add 192.0.2.77/32 dev eth0",
            "ip link set eth0 mtu 1400",
            "ip link set eth0 promisc on",
            "ip neigh flush dev eth0 nud permanent",
            "ip link add dummy1 type veth peer name dummy2",
        ] {
            let (pod, mut result) = host.attached()?;
            pod.run(line)?;
            // A plugin that adds a route says so; routes are its own to check.
            result["routes"].as_array_mut().context("routes")?.push(serde_json::json!({ "dst": "203.0.113.0/24", "gw": "169.254.1.1" }));
            check(host, &pod, &result)?.silence().context(line)?;
        }
        Ok(())
    })
}

#[test]
fn programs_that_are_gone_are_named() -> Result<()> {
    crate::on_node(lab::host::Settings::default().with_fast_path(true), |host, _| {
        let (pod, result) = host.attached()?;
        let end = host.host_ends()?.pop().context("a host end")?;
        unless_kept(|| {
            host.run(&["tc", "qdisc", "del", "dev", &end, "clsact"])?;
            check(host, &pod, &result)?.refused(CHANGED, &["the host end lacks the kernel programs"])
        })?;
        let (pod, result) = host.attached()?;
        check(host, &pod, &result)?.silence()?;
        let end = result["interfaces"][0]["name"].as_str().context("a host end")?.to_owned();
        unless_kept(|| {
            host.run(&["tc", "filter", "del", "dev", &end, "ingress", "protocol", "all", "pref", "45824"])?;
            check(host, &pod, &result)?.refused(CHANGED, &["the host end lacks the kernel programs"])
        })
    })
}
