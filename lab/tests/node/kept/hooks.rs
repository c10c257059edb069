//! What the kernel programs hang on beside pods' links: uplinks, pins and the file system for them.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::host_ends::with_programs;
use super::{Cuts, Kept};

/// Every pin, and how the uplink carries the programs.
fn pins_and_hooks(kept: &Kept<'_>) -> Result<String> {
    let pins = kept.run(&format!("find {} -mindepth 1", kept.host.path("bpf").display()))?;
    let mut pins: Vec<_> = pins.lines().collect();
    pins.sort_unstable();
    let page: serde_json::Value = serde_json::from_str(&kept.daemon.get("/debug/fast_path")?)?;
    Ok(format!("{}\n{}", pins.join("\n"), page["uplinks"]))
}

#[test]
fn pins_that_were_removed() -> Result<()> {
    with_programs(|kept| {
        let page = kept.daemon.get("/debug/fast_path")?;
        ensure!(serde_json::from_str::<serde_json::Value>(&page)?["uplinks"][0]["open"] == true, "{page}");
        let alter = || kept.run(&format!("rm -r {}", kept.host.path("bpf/barewire").display())).map(drop);
        kept.comes_back("the pins", Cuts::Nothing, &["uplink_hook", "pin"], alter, || pins_and_hooks(kept))
    })
}

#[test]
fn a_pin_of_an_uplink_that_was_removed() -> Result<()> {
    with_programs(|kept| {
        let pins = kept.run(&format!("find {} -name ingress", kept.host.path("bpf").display()))?;
        // A kernel without TCX has filters instead.
        let alter = || match pins.lines().next() {
            Some(pin) => Ok(std::fs::remove_file(pin)?),
            None => kept.run("tc filter del dev eth1 ingress").map(drop),
        };
        kept.comes_back("the pin", Cuts::Nothing, &["uplink_hook"], alter, || pins_and_hooks(kept))
    })
}

#[test]
fn a_bpf_file_system_that_is_gone_is_told_and_found_again() -> Result<()> {
    with_programs(|kept| {
        // Only the daemon sees it, and only for a while: as if it were unmounted.
        let inside = |words: &str| kept.run(&format!("nsenter --mount --target {} {words}", kept.daemon.process()));
        inside("mount -t tmpfs none /sys/fs/bpf")?;
        // With the file system go the links that are pinned in it.
        let uplinks = kept.run(&format!("find {} -path */uplinks/*/*", kept.host.path("bpf").display()))?;
        uplinks.lines().filter(|pin| Path::new(pin).exists()).try_for_each(std::fs::remove_file)?;
        kept.daemon.wait_for_condition("UplinkHookLost", "HookLost", &["is no BPF file system", "mount -t bpf bpf"])?;
        let (_pod, _) = kept.host.attached().context("pods are served meanwhile")?;
        inside("umount /sys/fs/bpf")?;
        kept.daemon.wait_for_end_of("UplinkHookLost")?;
        let page: serde_json::Value = serde_json::from_str(&kept.daemon.get("/debug/fast_path")?)?;
        ensure!(page["uplinks"][0]["open"] == true, "{page}");
        Ok(())
    })
}
