//! The uplink is renamed, goes down and comes up, gets another address, another gateway, or a rival.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map};
use lab::host::Settings;

use super::host_ends::{map, with_programs};
use super::routes::FURTHER;
use super::{BACK, Cuts, Kept, kept, on_kept_node};

fn rules(kept: &Kept<'_>) -> Result<String> {
    kept.run("nft -s list table inet barewire")
}

fn says(kept: &Kept<'_>, part: &str, not: &str) -> Result<()> {
    let rules = rules(kept)?;
    ensure!(rules.contains(part) && !rules.contains(not), "{part} and not {not}: {rules}");
    Ok(())
}

#[test]
fn an_uplink_with_another_name_is_followed() -> Result<()> {
    kept(|kept| {
        for (from, to) in [("eth1", "wan0"), ("wan0", "eth1")] {
            let alter = || kept.run(&format!("ip link set {from} name {to}")).map(drop);
            kept.is_followed(to, Cuts::Nothing, &[], alter, || says(kept, &format!("\"{to}\""), &format!("\"{from}\"")))?;
        }
        Ok(())
    })
}

#[test]
fn an_uplink_that_was_named_and_has_another_name_is_told() -> Result<()> {
    on_kept_node(Settings::default(), "[uplink]\ninterface = \"eth1\"\n", "", |kept| {
        kept.run("ip link set eth1 name wan0")?;
        kept.daemon.wait_for_condition("NoUplink", "NotFound", &["\"eth1\"", "wan0", "uplink.interface"])?;
        kept.run("ip link set wan0 name eth1")?;
        kept.daemon.wait_for_end_of("NoUplink")?;
        kept.daemon.wait_until_ready()
    })
}

#[test]
fn an_uplink_that_went_down_and_came_up() -> Result<()> {
    kept(|kept| {
        let state = || Ok([rules(kept)?, kept.run("ip route show proto 179")?, kept.run("ip neigh show proxy")?].concat());
        let alter = || {
            kept.run("ip link set eth1 down")?;
            kept.daemon.wait_for_condition("NoUplink", "NotFound", &["set uplink.interface or a default route"])?;
            // As who manages the interface does.
            kept.host.ip("link set eth1 up\naddress replace fd00:10::10/64 dev eth1 nodad\nroute replace default via 10.0.0.1 dev eth1\n\
                 route replace ::/0 via fd00:10::1 dev eth1\n")
        };
        // The node's own IPv6 address went with it.
        kept.comes_back("what hangs on the uplink", Cuts::Pods, &["route"], alter, state)?;
        kept.daemon.wait_for_end_of("NoUplink")?;
        kept.daemon.wait_until_ready()
    })
}

#[test]
fn an_uplink_with_another_address_is_followed() -> Result<()> {
    kept(|kept| {
        // Who speaks to the address that is gone hears nothing more, so nobody does.
        for (from, to) in [("10.0.0.10", "10.0.0.77"), ("10.0.0.77", "10.0.0.10")] {
            kept.host.ip(&format!(
                "address del {from}/24 dev eth1\naddress add {to}/24 dev eth1\nroute replace default via 10.0.0.1 dev eth1\n"
            ))?;
            let begun = Instant::now();
            kept.daemon.wait_until(to, || says(kept, &format!("snat ip to {to} "), &format!("snat ip to {from} ")))?;
            ensure!(begun.elapsed() < BACK, "{to} took {:?}", begun.elapsed());
        }
        // Rules may be as they should before all else is looked at.
        kept.daemon.wait_until_ready()?;
        kept.daemon.wait_for_end_of("NoUplink")
    })
}

#[test]
fn another_gateway_is_followed() -> Result<()> {
    /// `ebpf::layout::Uplink`, as bytes: its interface, its MTU, its IPv4 gateway.
    type Uplink = [u8; 28];
    with_programs(|kept| {
        let uplinks = || Ok::<Array<_, Uplink>, anyhow::Error>(Array::try_from(Map::Array(map(kept, "UPLINKS")?))?);
        let alter = || kept.run("ip route replace default via 10.0.0.2 dev eth1").map(drop);
        kept.is_followed("the gateway", Cuts::Nothing, &[], alter, || {
            let known = uplinks()?.get(&0, 0).context("the uplink")?;
            ensure!(known[8..12] == [10, 0, 0, 2], "{known:?}");
            Ok(())
        })
    })
}

#[test]
fn a_second_default_route_behind_the_first_changes_nothing() -> Result<()> {
    on_kept_node(Settings::default(), "", FURTHER, |kept| {
        let handle =
            || -> Result<String> { Ok(kept.run("nft -a list table inet barewire")?.lines().next().unwrap_or_default().to_owned()) };
        let before = handle()?;
        kept.comes_back(
            "the rules",
            Cuts::Nothing,
            &[],
            || kept.run("ip route add default via 10.0.0.1 dev eth2 metric 500").map(drop),
            || rules(kept),
        )?;
        let seen = kept.daemon.log().matches("uplinks changed uplinks=").count();
        ensure!(handle()? == before && seen == 1, "installed again: {before} became {}, {seen}", handle()?);
        Ok(())
    })
}

#[test]
fn rules_that_were_flushed_while_there_is_no_uplink() -> Result<()> {
    kept(|kept| {
        kept.run("ip link set eth1 down")?;
        kept.daemon.wait_for_condition("NoUplink", "NotFound", &["default route"])?;
        let state = || -> Result<String> { Ok(rules(kept)? + &kept.run("ip route show type unreachable proto 179")?) };
        let alter = || {
            kept.run("ip route del unreachable 10.0.1.0/24")?;
            kept.run("nft flush ruleset").map(drop)
        };
        // The node's address on the uplink is nobody's to answer for now.
        let before = state()?;
        alter()?;
        let begun = Instant::now();
        kept.daemon.wait_until("rules and route", || {
            let now = state()?;
            ensure!(now == before, "{now}\nis not\n{before}");
            Ok(())
        })?;
        ensure!(begun.elapsed() < BACK, "it took {:?}", begun.elapsed());
        kept.host.ip("link set eth1 up\naddress replace fd00:10::10/64 dev eth1 nodad\nroute replace default via 10.0.0.1 dev eth1\n\
             route replace ::/0 via fd00:10::1 dev eth1\n")?;
        kept.daemon.wait_for_end_of("NoUplink")?;
        kept.daemon.wait_until_ready()
    })
}
