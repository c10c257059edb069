//! What is right for each kind of flow that has gone wrong somewhere, by name: what the host's stack alone would answer, or what a
//! standard says. All cases meet the same pair of labs, one after the other, and put back what they changed.

mod answers;
mod change;
mod firewall;
mod foreign;
mod frames;
mod host;
mod notes;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::cni::FastPath;
use lab::command::wait_until;
use lab::kube_proxy::Family;
use lab::node::Node;

use crate::probe::{Heard, Outcome, Probe};
use crate::site::{End, Site};
use crate::ways::{Asked, Way};

/// Within so long everything that has changed is followed (what is looked at each ten seconds, and a little).
const FOLLOWED: Duration = Duration::from_secs(13);

/// A case.
#[derive(Clone, Copy)]
pub(crate) struct Named {
    pub(crate) name: &'static str,
    /// With the fast path only: without, there is nothing that could be wrong.
    pub(crate) carried_only: bool,
    pub(crate) run: fn(&mut Site) -> Result<()>,
}

const fn both(name: &'static str, run: fn(&mut Site) -> Result<()>) -> Named {
    Named { name, carried_only: false, run }
}

const fn carried(name: &'static str, run: fn(&mut Site) -> Result<()>) -> Named {
    Named { name, carried_only: true, run }
}

/// All cases, in order.
pub(crate) const ALL: [Named; 38] = [
    // First: afterwards, pods may be left to the stack.
    both("connections_hear_their_end_after_the_fast_path_is_switched_off", change::end_is_heard),
    both("a_strict_host_takes_connections_up_after_the_fast_path_is_switched_off", change::strict),
    both("clients_that_are_not_native_reach_pods_and_are_seen_as_they_are", answers::not_native),
    both("a_closed_port_is_refused_at_once", answers::closed_port),
    both("a_narrow_way_is_told_and_a_transfer_goes_through", answers::narrow_way),
    both("a_last_hop_is_told", answers::last_hop),
    both("more_specific_routes_are_taken", answers::routes),
    both("an_ipsec_policy_blocks", answers::ipsec),
    carried("what_takes_the_slow_path_is_told", answers::told),
    both("an_address_that_nobody_has_is_told_and_nothing_leaves", answers::nobody),
    both("notes_end_with_their_flows", notes::end_with_their_flows),
    both("a_direct_connection_from_a_port_used_through_a_service", notes::port_used_before),
    both("a_direct_connection_goes_on_beside_one_through_a_service_from_its_port", notes::port_in_use),
    both("a_direct_connection_to_a_pod_that_got_the_address", notes::address_used_before),
    both("a_route_that_appears_is_taken_and_one_that_goes_is_left", host::route_appears),
    both("an_ipsec_policy_that_appears_blocks", host::policy_appears),
    carried("hooks_removed_from_the_uplink_cost_no_connection", host::hooks_removed),
    both("forty_addresses_leave_the_nodes_own_its_own", host::forty_addresses),
    both("an_uplink_that_becomes_narrow_is_told_to_pods_that_ran_before", host::narrow_uplink),
    both("masquerade_takes_random_ports_and_the_nodes_own_address", host::masquerade),
    both("a_second_address_of_the_host_is_given_to_no_pod", host::address_of_the_host),
    both("services_within_native_networks_are_reached", host::services_within_native),
    both("services_that_nobody_named_within_native_networks", host::services_unnamed_within_native),
    both("eighty_native_networks", host::many_native),
    both("scattered_addresses_are_carried", host::scattered),
    both("a_forward_policy_that_drops_leaves_pods_alone", firewall::accepted),
    both("without_forward_accept_the_policy_holds", firewall::not_accepted),
    both("a_rule_that_drops_holds", firewall::rule),
    both("an_nftables_policy_that_drops_holds", firewall::nftables),
    both("frames_that_enter_a_pod_are_addressed_to_it", foreign::addressed),
    both("a_bridge_inside_a_pod", foreign::bridge),
    both("another_tools_filter_on_a_pods_link_sees_packets", foreign::filter),
    both("tagged_frames_hide_no_source", frames::tagged),
    both("a_source_of_this_node_from_the_network_is_dropped", frames::from_the_network),
    both("frames_for_others_are_not_taken", frames::for_others),
    both("a_pod_claims_no_address_of_others", frames::claims),
    both("router_solicitations_teach_the_host_no_neighbours", frames::solicitations),
    both("an_index_that_a_pod_writes_is_no_mark_of_ours", foreign::index),
];

/// Whatever is said of both families.
fn in_families(check: impl Fn(Family) -> Result<()>) -> Result<()> {
    Family::ALL.into_iter().try_for_each(|family| check(family).with_context(|| format!("{family:?}")))
}

fn ask(site: &Site, from: End, asked: Asked, family: Family, probe: Probe) -> Result<Heard> {
    probe.send(site, &Way { name: "", from, asked }, family)
}

/// That `server` answers, and sees `seen` where it can tell.
fn is_answered(site: &Site, (from, asked): (End, Asked), family: Family, probe: Probe, server: &str, seen: Option<End>) -> Result<()> {
    let heard = ask(site, from, asked, family, probe)?;
    let what = || format!("{} asks {asked:?} by {probe:?}: {heard}", from.name());
    let Outcome::Answered(answer) = &heard.outcome else { anyhow::bail!(what()) };
    ensure!(answer.seen.is_none() || answer.server == server, what());
    if let (Some(expected), Some(found)) = (seen, answer.seen) {
        ensure!(found == site.address(expected, family)?, what());
    }
    ensure!(!heard.late, what());
    Ok(())
}

/// That the client is told something that has `words` in it, at once.
fn is_told(site: &Site, (from, asked): (End, Asked), family: Family, probe: Probe, words: &str) -> Result<()> {
    let heard = ask(site, from, asked, family, probe)?;
    let told = matches!(&heard.outcome, Outcome::Error(error) if error.contains(words)) && !heard.late;
    ensure!(told, "{} asks {asked:?} by {probe:?}: {heard}, not {words:?}", from.name());
    Ok(())
}

fn is_silent(site: &Site, (from, asked): (End, Asked), family: Family, probe: Probe) -> Result<()> {
    let heard = ask(site, from, asked, family, probe)?;
    ensure!(heard.outcome == Outcome::Silence, "{} asks {asked:?} by {probe:?}: {heard}, not silence", from.name());
    Ok(())
}

/// Waits until something is so that follows a change.
fn follows(what: &str, check: impl Fn() -> Result<()>) -> Result<()> {
    Ok(wait_until(what, FOLLOWED, || check().map_err(|error| format!("{error:#}")))?)
}

/// Runs `check` between two sets of commands; the second runs whatever the check says.
fn meanwhile(node: &Node, before: &[&str], after: &[&str], check: impl FnOnce() -> Result<()>) -> Result<()> {
    let all = |lines: &[&str]| lines.iter().try_for_each(|line| node.run(&["sh", "-c", line]).map(drop));
    let outcome = all(before).map_err(anyhow::Error::from).and_then(|()| check());
    all(after)?;
    outcome
}

/// Whether a site has what only the fast path has.
fn is_carried(site: &Site) -> bool {
    site.fast_path == FastPath::Auto
}
