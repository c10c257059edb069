//! Routes, routing rules and neighbours that all pods share.

use anyhow::Result;
use lab::host::Settings;

use super::{Cuts, Kept, kept, on_kept_node};

/// A second uplink.
pub(super) const FURTHER: &str = "link add eth2 mtu 9001 type veth peer name fabric1 mtu 9001\nlink set fabric1 up\nlink set eth2 up\n\
                                  address add 10.0.0.20/24 dev eth2\n";
pub(super) const WITH_FURTHER: &str =
    "[uplink]\ninterface = \"eth1\"\n[[uplink.secondary]]\ninterface = \"eth2\"\ngateways = [\"10.0.0.1\"]\nranges = [\"10.0.2.0/30\"]\n";
/// The table of the first further uplink.
const TABLE: &str = "45825";

pub(super) fn with_further(test: impl FnOnce(&Kept<'_>) -> Result<()>) -> Result<()> {
    on_kept_node(Settings { ranges: vec!["10.0.1.0/24".to_owned()], ..Settings::default() }, WITH_FURTHER, FURTHER, test)
}

#[test]
fn a_routing_rule_that_was_deleted() -> Result<()> {
    with_further(|kept| {
        let alter = || kept.run("ip rule del pref 179 fwmark 0x1/0xf").map(drop);
        kept.comes_back("the rule", Cuts::Nothing, &["route"], alter, || kept.run("ip rule show fwmark 0x1/0xf"))
    })
}

#[test]
fn a_routing_rule_that_was_given_another_place() -> Result<()> {
    with_further(|kept| {
        let alter = || {
            kept.run("ip rule add pref 40000 fwmark 0x1/0xf lookup 45825 protocol 179")?;
            kept.run("ip rule del pref 179 fwmark 0x1/0xf").map(drop)
        };
        kept.comes_back("the rule", Cuts::Nothing, &["route"], alter, || kept.run("ip rule show fwmark 0x1/0xf"))
    })
}

#[test]
fn a_policy_route_that_was_deleted() -> Result<()> {
    with_further(|kept| {
        let alter = || kept.run(&format!("ip route flush table {TABLE}")).map(drop);
        kept.comes_back("the route", Cuts::Nothing, &["route"], alter, || kept.run(&format!("ip route show table {TABLE}")))
    })
}

#[test]
fn a_policy_route_that_went_with_a_flap_of_its_uplink() -> Result<()> {
    with_further(|kept| {
        let alter = || kept.host.ip("link set eth2 down\nlink set eth2 up\n");
        kept.comes_back("the route", Cuts::Nothing, &["route"], alter, || kept.run(&format!("ip route show table {TABLE}")))
    })
}

#[test]
fn a_policy_route_that_was_led_elsewhere() -> Result<()> {
    with_further(|kept| {
        let alter = || kept.run(&format!("ip route replace default via 10.0.0.1 dev eth1 table {TABLE} proto 179 onlink")).map(drop);
        kept.comes_back("the route", Cuts::Nothing, &["route"], alter, || kept.run(&format!("ip route show table {TABLE}")))
    })
}

#[test]
fn the_unreachable_route_of_a_pod_range_that_was_deleted() -> Result<()> {
    kept(|kept| {
        let alter = || {
            kept.run("ip route del unreachable 10.0.1.0/24")?;
            kept.run("ip -6 route del unreachable fd00:10:0:1::/80").map(drop)
        };
        kept.comes_back("the routes", Cuts::Nothing, &["route"], alter, || {
            Ok(kept.run("ip route show type unreachable proto 179")? + &kept.run("ip -6 route show type unreachable proto 179")?)
        })
    })
}

#[test]
fn the_answer_to_arp_for_the_gateway_that_was_deleted() -> Result<()> {
    kept(|kept| {
        let alter = || {
            kept.run("ip neigh del proxy 169.254.1.1")?;
            kept.run("ip route del 169.254.1.1").map(drop)
        };
        let state = || Ok(kept.run("ip neigh show proxy")? + &kept.run("ip route show 169.254.1.1")?);
        kept.comes_back("the proxy's entry", Cuts::Nothing, &["route"], alter, state)
    })
}
