//! `CNI_NETNS` that cannot be a container's, and `CNI_IFNAME` that is taken there: code 4, and nothing is left.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use conformance_tests::kernel::Kernel;
use lab::host::Settings;

use crate::{Footprint, on_node};

const INVALID_ENVIRONMENT: u64 = 4;
const REMEDY: &str = "give the path of the";

#[test]
fn a_path_that_is_no_containers_network_namespace_is_named() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        let gone = host.path("gone");
        for (path, why) in [
            (gone.as_path(), "cannot be opened"),
            (Path::new("/etc/hostname"), "not a network namespace"),
            (Path::new("/dev/shm"), "not a network namespace"),
            (Path::new("/proc/self/ns/mnt"), "not a network namespace"),
            (Path::new("/proc/self/ns/net"), "the host's own network namespace"),
            (host.netns().path(), "the host's own network namespace"),
        ] {
            let answer = host.call_for("ADD", &pod).with("CNI_NETNS", path).run()?;
            let named = path.display().to_string();
            answer.refused(INVALID_ENVIRONMENT, &["CNI_NETNS", &named, why, REMEDY]).with_context(|| named.clone())?;
        }
        before.unchanged(host, daemon, &pod)?;
        Ok(())
    })
}

#[test]
fn an_interface_that_the_pod_has_already_is_left_alone() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let mut kernel = Kernel::of(&pod.netns)?;
        kernel.add_veth("eth0", "foreign0")?;
        let foreign = pod.link("eth0")?;
        let before = Footprint::of(host, daemon, &pod)?;
        host.call_for("ADD", &pod).run()?.refused(INVALID_ENVIRONMENT, &["CNI_IFNAME", "\"eth0\"", "remove it or ask for another name"])?;
        before.unchanged(host, daemon, &pod)?;
        ensure!(foreign == pod.link("eth0")?, "somebody else's interface was touched");
        host.call_for("ADD", &pod).with("CNI_IFNAME", "net1").run()?.result().map(drop)
    })
}
