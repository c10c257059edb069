//! Rules of the host that drop what it forwards.

use anyhow::{Context, Result};

use super::{follows, in_families, is_answered, is_silent, meanwhile};
use crate::probe::Probe;
use crate::site::{End, Site};
use crate::ways::Asked::{Direct, Service};
use lab::services::To;

const DROP: [&str; 2] = ["iptables -P FORWARD DROP", "ip6tables -P FORWARD DROP"];
const ACCEPT: [&str; 2] = ["iptables -P FORWARD ACCEPT", "ip6tables -P FORWARD ACCEPT"];

/// Ways that the first node forwards.
fn ways() -> [(End, crate::ways::Asked, &'static str); 5] {
    [
        (End::A1, Direct(End::A2), "a2"),
        (End::A1, Direct(End::B1), "b1"),
        (End::B2, Direct(End::A2), "a2"),
        (End::A1, Service(To::First), "a2"),
        (End::A1, Direct(End::Internet), "internet"),
    ]
}

fn all_pass(site: &Site) -> Result<()> {
    in_families(|family| {
        ways().into_iter().try_for_each(|(from, asked, server)| is_answered(site, (from, asked), family, Probe::UdpSmall, server, None))
    })
}

fn none_passes(site: &Site) -> Result<()> {
    in_families(|family| {
        ways().into_iter().try_for_each(|(from, asked, _)| is_silent(site, (from, asked), family, Probe::UdpSmall))?;
        is_silent(site, (End::A1, Direct(End::B1)), family, Probe::TcpSmall)
    })
}

/// What Docker, ufw and firewalld do to a host. Accept rules for pods are there, as other plugins have them.
pub(super) fn accepted(site: &mut Site) -> Result<()> {
    meanwhile(&site.sides[0].node, &DROP, &ACCEPT, || follows("pods under a policy that drops", || all_pass(site)))
}

pub(super) fn not_accepted(site: &mut Site) -> Result<()> {
    let node = site.sides[0].node.clone();
    let fast_path = site.fast_path;
    let outcome = site
        .restart_with(fast_path, &[("forward_accept", "false".to_owned())], |_| Ok(()))
        .and_then(|()| meanwhile(&node, &DROP, &ACCEPT, || follows("a policy that drops to hold", || none_passes(site))));
    site.restart(|_| Ok(())).context("with the usual settings")?;
    outcome
}

pub(super) fn rule(site: &mut Site) -> Result<()> {
    let rules = ["iptables -I FORWARD -d 10.0.1.17 -j DROP", "ip6tables -I FORWARD -d fd00:10:0:1::17 -j DROP"];
    let gone = ["iptables -D FORWARD -d 10.0.1.17 -j DROP", "ip6tables -D FORWARD -d fd00:10:0:1::17 -j DROP"];
    meanwhile(&site.sides[0].node, &rules, &gone, || {
        follows("a rule that drops to hold", || {
            in_families(|family| {
                for from in [End::A1, End::B2, End::Peer] {
                    is_silent(site, (from, Direct(End::A2)), family, Probe::UdpSmall)?;
                }
                // The rule is about one pod.
                is_answered(site, (End::A1, Direct(End::B1)), family, Probe::UdpSmall, "b1", Some(End::A1))
            })
        })
    })?;
    follows("the ways without the rule", || all_pass(site))
}

/// No rule of ours can accept what a chain of somebody else drops.
pub(super) fn nftables(site: &mut Site) -> Result<()> {
    let before = ["nft 'table inet other { chain forward { type filter hook forward priority 10; policy drop; }; }'"];
    meanwhile(&site.sides[0].node, &before, &["nft delete table inet other"], || {
        follows("a policy of nftables to hold", || none_passes(site))
    })?;
    follows("the ways without the policy", || all_pass(site))
}
