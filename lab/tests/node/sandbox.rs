//! Sandboxes with a network stack of their own (Kata, gVisor, KubeVirt): they copy the pod's addresses and routes as netlink tells them,
//! without flags, and its neighbours not at all.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use lab::host::{Host, Pod, Settings};

use crate::{addresses, both_paths, on_host, on_node, ping, reaches_all};

/// Takes all neighbours and routes away, and gives the routes back as they were shown, those without a gateway first.
fn copy_routes(pod: &Pod) -> Result<()> {
    for family in ["-4", "-6"] {
        let shown = pod.run(&format!("ip {family} route show dev eth0"))?;
        let mut routes: Vec<_> = shown.lines().filter(|line| !line.contains("proto kernel")).collect();
        pod.run(&format!("ip {family} neigh flush dev eth0 nud permanent"))?;
        for route in &routes {
            pod.run(&format!("ip {family} route del {route} dev eth0"))?;
        }
        routes.sort_by_key(|route| route.contains(" via "));
        for route in &routes {
            let plain = route.replace(" onlink", "").replace(" pref medium", "");
            pod.run(&format!("ip {family} route add {plain} dev eth0")).with_context(|| format!("copied from {shown:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn routes_can_be_copied_without_flags_and_neighbours() -> Result<()> {
    both_paths(|host, _| {
        let ((pod, result), (other, others)) = (host.attached()?, host.attached()?);
        copy_routes(&pod)?;
        reaches_all(host, &pod, &addresses(&result), (&other, &addresses(&others)))?;
        for gateway in ["169.254.1.1", "fe80::1"] {
            let known = pod.run(&format!("ip neigh show {gateway} dev eth0"))?;
            ensure!(known.contains("0a:42:57:00:00:01") && !known.contains("PERMANENT"), "{gateway}: {known:?}");
        }
        Ok(())
    })
}

#[test]
fn arp_is_answered_for_the_gateway_at_once_and_for_nothing_else() -> Result<()> {
    both_paths(|host, _| {
        let (pod, _) = host.attached()?;
        let (_, others) = host.attached()?;
        let said = pod.run("busybox arping -c 3 -w 5 -I eth0 169.254.1.1")?;
        ensure!(said.contains("0a:42:57:00:00:01") && said.contains("Received 3 response"), "{said}");
        // A proxy lets any time up to 0.8 s pass.
        let millis = said.lines().filter_map(|line| line.strip_suffix("ms")?.rsplit(' ').next()?.parse::<f64>().ok());
        let at_once = millis.filter(|millis| *millis < 100.0).count();
        ensure!(at_once >= 2, "{said}");
        for address in [addresses(&others)[0].as_str(), "10.0.0.1", "10.0.1.200", "198.51.100.1", "169.254.169.254", "169.254.1.2"] {
            let said = pod.run(&format!("busybox arping -c 1 -w 1 -I eth0 {address}"));
            ensure!(said.is_err(), "{address}: {said:?}");
        }
        Ok(())
    })
}

#[test]
fn arp_is_answered_on_a_node_without_a_default_route_and_no_more_after_uninstall() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let (pod, _) = host.attached()?;
        host.run(&["ip", "route", "del", "default"])?;
        pod.run("busybox arping -c 1 -w 2 -I eth0 169.254.1.1")?;
        daemon.stop()?;
        pod.run("busybox arping -c 1 -w 2 -I eth0 169.254.1.1").context("with the daemon away")?;
        let program = host.binary("barewired").display().to_string();
        let config = host.path("barewired.toml").display().to_string();
        host.run(&[&program, "--config", &config, "--uninstall"])?;
        let left = host.run(&["ip", "neighbour", "show", "proxy"])? + &host.run(&["ip", "route", "show", "169.254.1.1"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

#[test]
fn neighbour_solicitations_are_answered_for_the_gateway() -> Result<()> {
    both_paths(|host, _| {
        let (pod, result) = host.attached()?;
        pod.run("ip -6 neigh flush dev eth0 nud permanent")?;
        ping(|line| pod.run(line), "fd00:10::10", &format!("-I {}", addresses(&result)[1]))?;
        // And from the link-local address that the pod's kernel made, once it is sure of it. The host end has no route to that one: the
        // solicitation is answered, the echo request is not.
        wait_until("the pod's link-local address", Duration::from_secs(5), || {
            let told = pod.run("ip -6 -o address show dev eth0 scope link -tentative").map_err(|error| format!("{error:#}"))?;
            if told.is_empty() { Err("tentative".to_owned()) } else { Ok(()) }
        })?;
        pod.run("ip -6 neigh flush dev eth0")?;
        wait_until("the gateway's neighbour entry", Duration::from_secs(5), || {
            let _unanswered = pod.run("ping -n -c 1 -W 1 fe80::1%eth0");
            match pod.run("ip neigh show fe80::1 dev eth0") {
                Ok(known) if known.contains("0a:42:57:00:00:01") && !known.contains("PERMANENT") => Ok(()),
                known => Err(format!("{known:?}")),
            }
        })?;
        Ok(())
    })
}

/// The kernel reports multicast groups to a pod when its host end gets the gateway's address, and that is all that a pod hears of it.
#[test]
fn a_pod_that_does_not_ask_hears_nothing() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let (pod, _) = host.attached()?;
        daemon.wait_until("the host end is the gateway", || {
            let has_it = host.run(&["ip", "-6", "address", "show", "to", "fe80::1"])?;
            ensure!(!has_it.is_empty(), "not yet");
            Ok(())
        })?;
        let received = || -> Result<u64> {
            let link: serde_json::Value = serde_json::from_str(&pod.run("ip -json -stats link show dev eth0")?)?;
            link[0]["stats64"]["rx"]["packets"].as_u64().context("a count")
        };
        // Two rounds of the daemon's without a packet, while it still counts the pod as new.
        let quiet = || -> Result<()> {
            let before = received()?;
            pod.run("sleep 2.2")?;
            ensure!(received()? == before, "it hears something");
            Ok(())
        };
        Ok(wait_until("the pod is left alone", Duration::from_secs(7), || quiet().map_err(|error| format!("{error:#}")))?)
    })
}

/// What KubeVirt's bridge binding makes of a pod: the interface's addresses, routes and MAC address go to a machine that is bridged to it; the
/// interface itself gets another name and another MAC address.
fn bridged_machine(host: &Host, pod: &Pod, own: &[String]) -> Result<Pod> {
    let machine = host.pod()?;
    let mac = pod.link("eth0")?.context("eth0")?.mac;
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let shown = pod.run(&format!("ip {family} route show dev eth0"))?;
        let plain = |line: &str| format!("ip {family} route add {} dev eth0", line.replace(" pref medium", ""));
        routes.extend(shown.lines().filter(|line| !line.contains("proto kernel")).map(plain));
    }
    routes.sort_by_key(|route| route.contains(" via "));
    for line in [
        "ip link set eth0 down",
        "ip address flush dev eth0",
        "ip link set eth0 name eth0-nic",
        "ip link set eth0-nic address 02:00:00:00:00:99",
        "ip link add br0 type bridge",
        "ip link set br0 up",
        "ip link set eth0-nic master br0 up",
        &format!("ip link add tap0 type veth peer name inner address {mac}"),
        "ip link set tap0 master br0 up",
        &format!("ip link set inner netns {} name eth0", machine.netns.path().display()),
    ] {
        pod.run(line)?;
    }
    for own in own {
        machine.run(&format!("ip address add {own}/{} dev eth0", if own.contains(':') { "128 nodad" } else { "32" }))?;
    }
    machine.run("ip link set eth0 up")?;
    for route in routes {
        machine.run(&route)?;
    }
    Ok(machine)
}

/// On the fast path a packet of another pod keeps the MAC address that this one's sender gave it, and a bridge looks at that.
#[test]
fn a_bridged_machine_has_the_pods_network() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        let ((pod, result), (other, others)) = (host.attached()?, host.attached()?);
        let machine = bridged_machine(host, &pod, &addresses(&result))?;
        reaches_all(host, &machine, &addresses(&result), (&other, &addresses(&others)))?;
        // The daemon looks at the pod meanwhile, sees another MAC address, and leaves the machine alone.
        machine.run("ping -n -c 4 -i 1 -W 2 10.0.0.10")?;
        reaches_all(host, &machine, &addresses(&result), (&other, &addresses(&others)))
    })
}
