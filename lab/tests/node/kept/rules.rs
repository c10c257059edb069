//! nftables' rules.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::host::Settings;

use super::{Cuts, Kept, kept, on_kept_node};

/// Both of them stand where there are no kernel programs.
fn tables(kept: &Kept<'_>) -> Result<String> {
    let listed = ["barewire", "barewire_stack"].map(|table| kept.run(&format!("nft -s list table inet {table}")));
    let listed = listed.into_iter().collect::<Result<Vec<_>>>()?;
    // What is counted by pod grows.
    Ok(listed.concat().lines().filter(|line| !line.contains("elements") && !line.contains("bw00")).collect::<Vec<_>>().join("\n"))
}

fn row(what: &str, command: &'static str) -> Result<()> {
    kept(|kept| kept.comes_back(what, Cuts::Nothing, &["nftables"], || kept.run(command).map(drop), || tables(kept)))
}

#[test]
fn a_ruleset_that_was_flushed() -> Result<()> {
    row("the ruleset", "nft flush ruleset")
}

#[test]
fn a_table_that_was_deleted() -> Result<()> {
    row("the table", "nft delete table inet barewire")
}

#[test]
fn the_accounts_table_that_was_deleted() -> Result<()> {
    row("the table", "nft delete table inet barewire_stack")
}

#[test]
fn a_chain_that_was_emptied() -> Result<()> {
    row("the chain", "nft flush chain inet barewire postrouting")
}

#[test]
fn a_rule_that_was_added_to_ours() -> Result<()> {
    row("the rules", "nft add rule inet barewire postrouting ip daddr 192.0.2.99 drop")
}

#[test]
fn a_table_that_was_put_to_sleep() -> Result<()> {
    row("the table", "nft add table inet barewire { flags dormant ; }")
}

#[test]
fn with_the_programs_a_ruleset_that_was_flushed() -> Result<()> {
    on_kept_node(Settings::default().with_fast_path(true), "", "", |kept| {
        kept.comes_back(
            "the ruleset",
            Cuts::Nothing,
            &["nftables"],
            || kept.run("nft flush ruleset").map(drop),
            || kept.run("nft -s list table inet barewire"),
        )
    })
}

#[test]
fn rules_of_others_that_change_all_the_time_have_ours_installed_once() -> Result<()> {
    kept(|kept| {
        let handle = || kept.run("nft -a list table inet barewire").map(|text| text.lines().next().unwrap_or_default().to_owned());
        let (before, begun) = (handle()?, Instant::now());
        while begun.elapsed() < Duration::from_secs(3) {
            kept.run("nft add rule inet foreign forward ip saddr 192.0.2.8 accept")?;
            kept.run("nft flush chain inet foreign forward")?;
        }
        ensure!(handle()? == before, "{before} became {}", handle()?);
        Ok(())
    })
}
