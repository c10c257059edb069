//! Kernel settings, of all interfaces and of one.

use anyhow::Result;

use super::routes::with_further;
use super::{Cuts, Kept, kept};

fn row(kept: &Kept<'_>, cuts: Cuts, setting: &str, value: &str) -> Result<()> {
    kept.comes_back(setting, cuts, &["sysctl"], || kept.run(&format!("sysctl -q -w {setting}={value}")).map(drop), || kept.sysctl(setting))
}

#[test]
fn forwarding_that_was_switched_off() -> Result<()> {
    kept(|kept| row(kept, Cuts::Pods, "net.ipv4.ip_forward", "0"))
}

#[test]
fn ipv6_forwarding_that_was_switched_off() -> Result<()> {
    kept(|kept| row(kept, Cuts::Pods, "net.ipv6.conf.all.forwarding", "0"))
}

#[test]
fn forwarding_that_was_switched_off_for_the_uplink() -> Result<()> {
    kept(|kept| row(kept, Cuts::Nothing, "net.ipv4.conf.eth1.forwarding", "0"))
}

#[test]
fn a_strict_reverse_path_filter_on_a_further_uplink() -> Result<()> {
    with_further(|kept| row(kept, Cuts::Nothing, "net.ipv4.conf.eth2.rp_filter", "1"))
}

#[test]
fn router_advertisements_that_forwarding_would_end() -> Result<()> {
    kept(|kept| {
        kept.run("sysctl -q -w net.ipv6.conf.eth1.accept_ra=1")?;
        let alter = || kept.run("sysctl -q -w net.ipv6.conf.eth1.accept_ra=1").map(drop);
        // From 1 it becomes 2, whenever it was set.
        kept.daemon.wait_until("it is taken", || {
            anyhow::ensure!(kept.sysctl("net.ipv6.conf.eth1.accept_ra")? == "2");
            Ok(())
        })?;
        kept.comes_back("accept_ra", Cuts::Nothing, &["sysctl"], alter, || kept.sysctl("net.ipv6.conf.eth1.accept_ra"))
    })
}
