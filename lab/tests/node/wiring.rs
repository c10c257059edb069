//! How a pod is wired: what the kernel shows on both sides, asked with iproute2.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use conformance_tests::netns::Netns;
use lab::command::{Running, wait_until};
use lab::host::{Settings, UPLINK_MTU};
use serde_json::Value;

use crate::{addresses, on_node};

const LIMIT: Duration = Duration::from_secs(10);
const HOST_MAC: &str = "0a:42:57:00:00:01";
const LINK_GROUP: u64 = 0xB3;

/// What `ip -json` tells in a namespace.
fn ip(netns: &Netns, arguments: &str) -> Result<Vec<Value>> {
    let running = {
        let _inside = netns.enter()?;
        Running::start(Command::new("ip").args(["-json", "-details"]).args(arguments.split(' ')), Stdio::null())?
    };
    let text = running.wait(LIMIT)?.success()?;
    let rows: Vec<Value> = serde_json::from_str(&text).with_context(|| format!("ip {arguments}: {text}"))?;
    // ip leaves an empty object for each row that a filter hides.
    Ok(rows.into_iter().filter(|row| row.as_object().is_some_and(|row| !row.is_empty())).collect())
}

#[test]
fn the_pods_side() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        let (pod, result) = host.attached()?;
        let link = ip(&pod.netns, "address show dev eth0")?.pop().context("eth0")?;
        ensure!(link["mtu"] == UPLINK_MTU && link["operstate"] == "UP", "{link}");
        let given: Vec<_> = link["addr_info"].as_array().context("addresses")?.iter().filter(|row| row["scope"] == "global").collect();
        let told: Vec<_> = given.iter().map(|row| row["local"].as_str().unwrap_or_default()).collect();
        ensure!(told == addresses(&result), "{given:?}, but {result}");
        ensure!(given[0]["prefixlen"] == 32 && given[1]["prefixlen"] == 128, "{given:?}");
        ensure!(given[1]["nodad"] == true && given[1]["tentative"].is_null(), "{}", given[1]);

        let neighbours = ip(&pod.netns, "neighbour show dev eth0 nud permanent")?;
        for gateway in ["169.254.1.1", "fe80::1"] {
            let known = neighbours.iter().any(|row| row["dst"] == gateway && row["lladdr"] == HOST_MAC);
            ensure!(known, "no permanent neighbour {gateway}: {neighbours:?}");
        }
        for (family, gateway) in [("-4", "169.254.1.1"), ("-6", "fe80::1")] {
            let routes = ip(&pod.netns, &format!("{family} route show default"))?;
            ensure!(routes.len() == 1 && routes[0]["gateway"] == gateway && routes[0]["dev"] == "eth0", "{routes:?}");
        }
        // Beside the default route one to the gateway, so that who copies them needs no flags; and none to a neighbour.
        let routes = ip(&pod.netns, "-4 route show")?;
        let to_gateway = routes.iter().find(|row| row["dst"] == "169.254.1.1").context("no route to the gateway")?;
        ensure!(to_gateway["scope"] == "link" && to_gateway["dev"] == "eth0" && routes.len() == 2, "{routes:?}");
        ensure!(routes.iter().all(|row| row["flags"].as_array().is_none_or(Vec::is_empty)), "{routes:?}");
        Ok(())
    })
}

#[test]
fn the_hosts_side() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        let (pod, result) = host.attached()?;
        let name = host.host_ends()?.pop().context("a host end")?;
        let link = ip(host.netns(), &format!("link show dev {name}"))?.pop().context("the host end")?;
        ensure!(result["interfaces"][0]["name"] == name.as_str() && result["interfaces"][0]["mac"] == HOST_MAC, "{result}");
        ensure!(link["mtu"] == UPLINK_MTU && link["operstate"] == "UP" && link["address"] == HOST_MAC, "{link}");
        ensure!(link["ifalias"] == format!("barewire {} eth0", pod.id), "{link}");
        ensure!(link["group"] == format!("{LINK_GROUP}").as_str(), "{link}");
        ensure!(name == format!("bw{:010x}", link["ifindex"].as_u64().unwrap_or_default()), "{link}");
        let inside = pod.link("eth0")?.context("eth0")?;
        ensure!(link["link_index"] == inside.index, "the peer has number {}: {link}", inside.index);

        let neighbours = ip(host.netns(), &format!("neighbour show dev {name} nud permanent"))?;
        for (family, address) in ["-4", "-6"].into_iter().zip(addresses(&result)) {
            let known = neighbours.iter().any(|row| row["dst"] == address.as_str() && row["lladdr"] == inside.mac.as_str());
            ensure!(known, "no permanent neighbour {address}: {neighbours:?}");
            let mut routes = ip(host.netns(), &format!("{family} route show proto {LINK_GROUP}"))?;
            // The host's own way to the pods' gateway, which no packet takes, and what it says of addresses that no pod has.
            routes.retain(|row| row["dst"] != "169.254.1.1" && row["type"] != "unreachable");
            ensure!(routes.len() == 1 && routes[0]["dst"] == address.as_str() && routes[0]["dev"] == name.as_str(), "{routes:?}");
        }
        Ok(())
    })
}

/// How many sockets of a namespace hear news of rtnetlink (`netlink_native_seq_show`, net/netlink/af_netlink.c).
fn listeners(netns: &Netns) -> Result<usize> {
    const ROUTE: &str = "0";
    const NO_GROUPS: &str = "00000000";
    let sockets = {
        let _inside = netns.enter()?;
        std::fs::read_to_string("/proc/thread-self/net/netlink")?
    };
    let columns = sockets.lines().map(|socket| socket.split_whitespace().collect::<Vec<_>>());
    Ok(columns.filter(|columns| columns.len() > 3 && columns[1] == ROUTE && columns[3] != NO_GROUPS).count())
}

#[test]
fn the_pods_end_was_never_in_the_host() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        let others = listeners(host.netns())?;
        let monitor = {
            let _inside = host.netns().enter()?;
            Running::start(Command::new("timeout").args(["3", "ip", "-oneline", "monitor", "link"]), Stdio::null())?
        };
        wait_until("the monitor listens", LIMIT, || match listeners(host.netns()) {
            Ok(count) if count > others => Ok(()),
            Ok(_) => Err("it does not yet".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        })?;
        let _attached = host.attached()?;
        let events = monitor.wait(LIMIT)?.stdout;
        ensure!(events.contains(": bw"), "the monitor has seen nothing of the ADD: {events:?}");
        // A veth that is moved is announced with its peer in the same namespace, and as deleted when it leaves.
        let foreign = events.lines().find(|line| line.contains("Deleted") || line.contains("eth0") || !line.contains(": bw"));
        ensure!(foreign.is_none(), "{events}");
        Ok(())
    })
}

#[test]
fn new_pods_follow_the_uplinks_mtu() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let (old, _) = host.attached()?;
        host.ip("link set fabric0 mtu 1400\nlink set eth1 mtu 1400\n")?;
        daemon.wait_until("a pod with the new MTU", || {
            let (pod, result) = host.attached()?;
            let inside = pod.link("eth0")?.context("eth0")?.mtu;
            ensure!(inside == 1400 && result["interfaces"][1]["mtu"] == 1400, "{inside}: {result}");
            Ok(())
        })?;
        ensure!(old.link("eth0")?.is_some_and(|link| link.mtu == UPLINK_MTU));
        Ok(())
    })
}

#[test]
fn pods_of_one_node_reach_each_other_and_their_node_with_full_packets() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        let ((first, _), (_second, result)) = (host.attached()?, host.attached()?);
        for (target, payload) in addresses(&result).into_iter().zip([UPLINK_MTU - 28, UPLINK_MTU - 48]) {
            let ping = format!("ping -c 1 -W 5 -M do -s {payload} {target}");
            let running = {
                let _inside = first.netns.enter()?;
                Running::start(Command::new("sh").args(["-c", &ping]), Stdio::null())?
            };
            running.wait(LIMIT)?.success().with_context(|| ping.clone())?;
        }
        Ok(())
    })
}
