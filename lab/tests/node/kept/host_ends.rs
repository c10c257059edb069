//! The host ends of pods' links: the links themselves, the host's way to the pods, and the programs on them.

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use lab::host::Settings;

use super::{Cuts, Kept, kept, on_kept_node};

/// The link as `ip` tells it.
fn link(kept: &Kept<'_>) -> Result<String> {
    kept.run(&format!("ip -o -details link show dev {}", kept.host_end))
}

/// The host's way to the pod.
fn way(kept: &Kept<'_>) -> Result<String> {
    let end = &kept.host_end;
    let [v4, v6] = ["-4", "-6"].map(|family| kept.run(&format!("ip {family} route show proto 179 dev {end}")));
    let neighbours = kept.run(&format!("ip neigh show dev {end} nud permanent"))?;
    let mut neighbours: Vec<_> = neighbours.lines().collect();
    neighbours.sort_unstable();
    Ok([v4?, v6?, neighbours.join("\n")].concat())
}

fn alter(what: &str, cuts: Cuts, commands: &[&str], state: fn(&Kept<'_>) -> Result<String>) -> Result<()> {
    kept(|kept| {
        let [v4, v6] = &kept.addresses[..] else { anyhow::bail!("not two addresses: {:?}", kept.addresses) };
        let line = |command: &&str| command.replace("END", &kept.host_end).replace("V4", v4).replace("V6", v6);
        let alter = || commands.iter().map(line).try_for_each(|line| kept.run(&line).map(drop));
        kept.comes_back(what, cuts, &["pod_link"], alter, || state(kept))
    })
}

#[test]
fn a_pods_route_that_was_deleted() -> Result<()> {
    alter("the routes", Cuts::Pods, &["ip route del V4", "ip -6 route del V6"], way)
}

#[test]
fn a_pods_route_that_was_led_elsewhere() -> Result<()> {
    alter("the route", Cuts::Pods, &["ip route replace V4 dev eth1"], way)
}

#[test]
fn permanent_neighbours_that_were_deleted() -> Result<()> {
    alter("the neighbours", Cuts::Pods, &["ip neigh del V4 dev END", "ip neigh del V6 dev END"], way)
}

#[test]
fn a_neighbour_with_another_address() -> Result<()> {
    alter("the neighbour", Cuts::Pods, &["ip neigh replace V4 dev END lladdr 02:00:00:00:00:99 nud permanent"], way)
}

#[test]
fn a_host_end_that_was_set_down() -> Result<()> {
    alter("the link", Cuts::Pods, &["ip link set END down"], |kept| Ok(link(kept)? + &way(kept)?))
}

#[test]
fn a_host_end_with_another_mtu() -> Result<()> {
    alter("the MTU", Cuts::Nothing, &["ip link set END mtu 1280"], link)
}

#[test]
fn a_host_end_with_another_mac_address() -> Result<()> {
    alter("the MAC address", Cuts::Pods, &["ip link set END address 02:00:00:00:00:98"], link)
}

#[test]
fn a_host_end_with_another_name() -> Result<()> {
    alter("the name", Cuts::Nothing, &["ip link set END name renamed0"], |kept| {
        let links = kept.run("ip -o link show group 179")?;
        Ok(links.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect::<Vec<_>>().join(" "))
    })
}

#[test]
fn a_host_end_that_does_not_forward() -> Result<()> {
    alter("forwarding", Cuts::Pods, &["sysctl -q -w net.ipv4.conf.END.forwarding=0"], |kept| {
        kept.sysctl(&format!("net.ipv4.conf.{}.forwarding", kept.host_end))
    })
}

#[test]
fn a_new_pod_is_forwarded_for_where_new_interfaces_are_not() -> Result<()> {
    kept(|kept| {
        kept.run("sysctl -q -w net.ipv4.conf.default.forwarding=0")?;
        let (_pod, result) = kept.host.attached()?;
        let end = result["interfaces"][0]["name"].as_str().context("a host end")?;
        ensure!(kept.sysctl(&format!("net.ipv4.conf.{end}.forwarding"))? == "1");
        Ok(())
    })
}

#[test]
fn a_host_end_that_was_removed_is_told_until_its_pod_is_deleted() -> Result<()> {
    kept(|kept| {
        kept.run(&format!("ip link del {}", kept.host_end))?;
        kept.daemon.wait_for_condition("PodLinkGone", "LinkRemoved", &[&kept.host_end, "delete these pods"])?;
        kept.host.call_for("DEL", &kept.pods[0]).run()?.silence()?;
        kept.daemon.wait_for_end_of("PodLinkGone")
    })
}

/// Runs a test on a node with the kernel programs.
pub(super) fn with_programs(test: impl FnOnce(&Kept<'_>) -> Result<()>) -> Result<()> {
    on_kept_node(Settings::default().with_fast_path(true), "", "", test)
}

fn filters(kept: &Kept<'_>) -> Result<String> {
    let of = |hook| kept.run(&format!("tc filter show dev {} {hook}", kept.host_end));
    Ok(of("ingress")? + &of("egress")?)
}

#[test]
fn a_filter_that_was_removed() -> Result<()> {
    with_programs(|kept| {
        // One of classic BPF that matches nothing.
        let line = format!("tc filter add dev {} egress prio 7 protocol all bpf bytecode 1,6^0^0^0 flowid 1:1", kept.host_end);
        let words: Vec<_> = line.split(' ').map(|word| word.replace('^', " ")).collect();
        kept.host.run(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        kept.daemon.wait_for_condition("FilterOnPodLink", "SlowPath", &["priority 7"])?;
        for hook in ["ingress", "egress"] {
            let alter = || kept.run(&format!("tc filter del dev {} {hook} prio 45824", kept.host_end)).map(drop);
            kept.comes_back("the filter", Cuts::Nothing, &["pod_hook"], alter, || filters(kept))?;
        }
        ensure!(filters(kept)?.contains("pref 7"), "another's filter is gone");
        kept.run(&format!("tc filter del dev {} egress prio 7", kept.host_end))?;
        kept.daemon.wait_for_end_of("FilterOnPodLink")
    })
}

#[test]
fn a_qdisc_that_was_removed() -> Result<()> {
    with_programs(|kept| {
        let alter = || kept.run(&format!("tc qdisc del dev {} clsact", kept.host_end)).map(drop);
        kept.comes_back("the qdisc", Cuts::AndAgain, &["pod_hook"], alter, || filters(kept))
    })
}

/// A map of the daemon's.
pub(super) fn map(kept: &Kept<'_>, name: &str) -> Result<MapData> {
    let daemons = std::fs::read_dir(kept.host.path("bpf/barewire"))?;
    let daemon = daemons.last().context("no pins")??.path();
    let layouts = std::fs::read_dir(&daemon)?.filter_map(|entry| Some(entry.ok()?.path()));
    let maps = layouts.into_iter().find(|path| path.join(name).exists()).with_context(|| format!("no {name} in {}", daemon.display()))?;
    Ok(MapData::from_pin(maps.join(name))?)
}

#[test]
fn a_map_entry_that_was_removed() -> Result<()> {
    with_programs(|kept| {
        let address: std::net::Ipv4Addr = kept.addresses[0].parse()?;
        let slots = || Ok::<HashMap<_, [u8; 4], u32>, anyhow::Error>(HashMap::try_from(Map::HashMap(map(kept, "SLOTS4")?))?);
        let alter = || Ok(slots()?.remove(&address.octets())?);
        kept.comes_back("the entry", Cuts::Nothing, &["endpoint"], alter, || Ok(format!("{:?}", slots()?.get(&address.octets(), 0).ok())))
    })
}

#[test]
fn an_endpoint_that_was_overwritten() -> Result<()> {
    /// `ebpf::layout::Endpoint`, as bytes.
    type Endpoint = [u8; 40];
    with_programs(|kept| {
        let endpoints = || Ok::<Array<_, Endpoint>, anyhow::Error>(Array::try_from(Map::Array(map(kept, "ENDPOINTS")?))?);
        let alter = || Ok(endpoints()?.set(0, [0; 40], 0)?);
        // Carried again once what the stack has had of it meanwhile is noted.
        kept.comes_back("the endpoint", Cuts::Pods, &["endpoint"], alter, || Ok(format!("{:?}", &endpoints()?.get(&0, 0)?[..4])))
    })
}
