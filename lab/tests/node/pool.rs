//! A pool that runs dry says so, leaks nothing, and recovers by itself.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::command::wait_until;
use lab::host::Settings;

use crate::{Footprint, addresses, on_node};

const TRY_AGAIN_LATER: u64 = 11;
const COOLDOWN_SECONDS: u64 = 2;
const COOLED: Duration = Duration::from_secs(COOLDOWN_SECONDS + 3);

#[test]
fn an_exhausted_pool_asks_to_try_again_and_works_after_the_cooldown() -> Result<()> {
    on_node(Settings::scarce("10.0.1.16-10.0.1.18", COOLDOWN_SECONDS), |host, daemon| {
        let pods = [host.attached()?, host.attached()?, host.attached()?];
        let given: HashSet<_> = pods.iter().flat_map(|(_, result)| addresses(result)).collect();
        ensure!(given.len() == 3, "{given:?}");

        let late = host.pod()?;
        let before = Footprint::of(host, daemon, &late)?;
        let add = || host.call_for("ADD", &late).run();
        add()?.refused(TRY_AGAIN_LATER, &["no free IPv4 address", "3 in use", "of 3", "try again later"])?;
        host.call("STATUS").run()?.silence()?;
        before.unchanged(host, daemon, &late)?;

        let (freed, result) = &pods[1];
        host.call_for("DEL", freed).run()?.silence()?;
        add()?.refused(TRY_AGAIN_LATER, &["1 cooling down", "the next is free in", "try again later"])?;
        host.call("STATUS").run()?.silence()?;
        let again = wait_until("an address that has cooled down", COOLED, || {
            add().and_then(|answer| answer.result()).map_err(|error| format!("{error:#}"))
        })?;
        ensure!(addresses(&again) == addresses(result), "{again}");
        host.wait_for_host_ends(3)?;
        ensure!(daemon.pool()?["ipv4 held"] == 3);
        Ok(())
    })
}

#[test]
fn one_family_without_addresses_does_not_cost_the_other_any() -> Result<()> {
    let ranges = ["10.0.1.0/24", "fd00:10:0:1::1-fd00:10:0:1::2"].map(str::to_owned).to_vec();
    on_node(Settings { ranges, cooldown_seconds: 60, fast_path: false }, |host, daemon| {
        let _pods = [host.attached()?, host.attached()?];
        let late = host.pod()?;
        let before = Footprint::of(host, daemon, &late)?;
        for _ in 0..3 {
            host.call_for("ADD", &late).run()?.refused(TRY_AGAIN_LATER, &["no free IPv6 address"])?;
        }
        before.unchanged(host, daemon, &late)?;
        Ok(())
    })
}
