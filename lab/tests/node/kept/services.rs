//! What other people's services do when they are restarted or reloaded, each all at once, as their documentation and their users tell of it.

use anyhow::Result;

use super::routes::with_further;
use super::{Cuts, Kept, kept};

/// All routes and rules of ours.
fn ways(kept: &Kept<'_>) -> Result<String> {
    let of = |what: &str| kept.run(what).map(|text| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n");
    let routes = ["-4", "-6"].map(|family| of(&format!("ip {family} route show table all proto 179")));
    let [v4, v6] = routes;
    let mut routes: Vec<_> = [v4?, v6?].concat().lines().map(str::to_owned).collect();
    routes.sort_unstable();
    Ok(routes.join("\n") + &of("ip rule show fwmark 0x1/0xf")?)
}

/// Since version 248 it removes on its start what it takes for foreign (aws/amazon-vpc-cni-k8s#1600, flatcar/Flatcar#620).
#[test]
fn systemd_networkd_that_removes_foreign_routes_and_rules() -> Result<()> {
    with_further(|kept| {
        let alter = || {
            kept.run("ip rule del pref 179 fwmark 0x1/0xf")?;
            kept.run("ip route flush table all proto 179").map(drop)
        };
        kept.comes_back("routes and rules", Cuts::Pods, &["route", "pod_link"], alter, || ways(kept))
    })
}

/// An interface that it comes to manage is set down, emptied and set up.
#[test]
fn network_manager_that_takes_a_pods_link_for_its_own() -> Result<()> {
    kept(|kept| {
        let end = &kept.host_end;
        let alter = || {
            kept.host.ip(&format!(
                "link set {end} down\naddress flush dev {end}\nroute flush dev {end}\nlink set {end} mtu 1500\nlink set {end} up\n"
            ))
        };
        let state = || -> Result<String> {
            Ok(ways(kept)? + &kept.run(&format!("ip -o link show dev {end}"))? + &kept.run(&format!("ip -6 -o address show dev {end}"))?)
        };
        kept.comes_back("the link", Cuts::Pods, &["pod_link"], alter, state)
    })
}

/// `sysctl --system` after a package or an image has put a file of hardening settings in `sysctl.d`.
#[test]
fn settings_of_a_hardened_image() -> Result<()> {
    const SETTINGS: [&str; 4] =
        ["net.ipv4.ip_forward=0", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1", "net.ipv6.conf.all.forwarding=0"];
    kept(|kept| {
        let alter = || SETTINGS.iter().try_for_each(|setting| kept.run(&format!("sysctl -q -w {setting}")).map(drop));
        let state = || {
            let of_pods = format!("net.ipv4.conf.{}.forwarding", kept.host_end);
            let names = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.eth1.forwarding", &of_pods];
            Ok(names.iter().map(|name| kept.sysctl(name)).collect::<Result<Vec<_>>>()?.join(" "))
        };
        kept.comes_back("what is needed of them", Cuts::Pods, &["sysctl"], alter, state)
    })
}

/// `systemctl restart nftables` on Debian flushes the ruleset and loads a file; a reload of firewalld makes its own table anew.
#[test]
fn a_firewalls_reload() -> Result<()> {
    kept(|kept| {
        let alter = || {
            kept.run("nft flush ruleset")?;
            kept.run("nft add table inet firewalld")?;
            kept.run("nft add chain inet firewalld filter_FORWARD { type filter hook forward priority 10 ; policy accept ; }")?;
            kept.run("nft add rule inet firewalld filter_FORWARD ct state established,related accept").map(drop)
        };
        kept.comes_back("our tables", Cuts::Nothing, &["nftables"], alter, || {
            Ok(kept.run("nft -s list chain inet barewire postrouting")? + &kept.run("nft -s list chain inet barewire_stack prerouting")?)
        })
    })
}
