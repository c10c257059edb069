//! `barewire addresses release` and `barewire support-bundle` with a real daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use lab::host::Settings;

use super::says;
use crate::addresses;

#[test]
fn an_address_of_nobody_is_released_and_one_of_a_pod_is_not() -> Result<()> {
    crate::on_host(Settings::scarce("10.0.1.16-10.0.1.17", 0), |host| {
        let daemon = host.start()?;
        let (_pod, result) = host.attached()?;
        let address = addresses(&result).first().context("no address")?.clone();
        let release = format!("addresses release {address} --socket {}", host.socket().display());
        ensure!(says(host, &release, 64)?.contains("--force"));
        let told = says(host, &format!("{release} --force"), 1)?;
        ensure!(told.contains(&address) && told.contains("has it"), "{told}");

        // Its link has lost its owner's name, and the store is lost: nobody knows whose it is.
        daemon.stop()?;
        let link = host.host_ends()?.first().context("no link")?.clone();
        host.ip(&format!("link set dev {link} alias nobody"))?;
        fs::remove_file(host.run_dir().join("store.redb"))?;
        let daemon = host.start()?;
        ensure!(says(host, "addresses --state quarantined", 0)?.contains(&address));
        let told = says(host, &format!("{release} --force"), 1)?;
        ensure!(told.contains(&link), "{told}");

        host.ip(&format!("link delete dev {link}"))?;
        let told = says(host, &format!("{release} --force"), 0)?;
        ensure!(told.contains("cooled down"), "{told}");
        ensure!(says(host, &format!("{release} --force"), 1)?.contains("not quarantined"));
        ensure!(daemon.log().contains("quarantined address released by an operator"), "not in the log");
        let given = [host.attached()?, host.attached()?].map(|(_, result)| addresses(&result)).concat();
        ensure!(given.contains(&address), "not given again: {given:?}");
        daemon.stop()
    })
}

#[test]
fn a_support_bundle_has_what_the_daemon_says_and_is_its_owners_alone() -> Result<()> {
    crate::on_host(Settings::default(), |host| {
        let _daemon = host.start()?;
        let (pod, _) = host.attached()?;
        let file = host.path("bundle.tar.gz");
        let told = says(host, &format!("support-bundle --write {}", file.display()), 0)?;
        ensure!(told.contains("bundle.tar.gz"), "{told}");
        ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600);
        let list = host.run(&["tar", "-xzOf", &file.display().to_string(), "barewire-support/pods.json"])?;
        ensure!(list.contains(&pod.id), "{list}");
        says(host, &format!("support-bundle --write {}", file.display()), 1).map(drop)
    })
}
