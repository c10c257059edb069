//! A start that is not all or nothing: what is not a pod's network does not end the daemon. Each fault is a condition with its remedy,
//! pods are served meanwhile, and it is over when its cause is.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::host::{Daemon, Host, Settings, Start};

use crate::on_host;

const LIMITED_CONNECTIVITY: u64 = 51;
/// Mounts `/proc/sys` read-only for what it executes.
const WITHOUT_SYSCTLS: [&str; 5] =
    ["unshare", "--mount", "sh", "-c", "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec \"$0\" \"$@\""];

/// Pods come and go.
fn serves_pods(host: &Host) -> Result<()> {
    let (pod, _) = host.attached()?;
    host.call_for("DEL", &pod).run()?.silence()
}

fn is_healthy(host: &Host, daemon: &Daemon<'_>) -> Result<()> {
    daemon.get("/readyz")?;
    host.call("STATUS").run()?.silence()?;
    serves_pods(host)
}

#[test]
fn a_telemetry_port_that_is_taken_costs_no_pod() -> Result<()> {
    on_host(Settings::default(), |host| {
        let other = {
            let _inside = host.netns().enter()?;
            TcpListener::bind("127.0.0.1:9807")?
        };
        let daemon = host.spawn()?;
        daemon.wait_until("the daemon says so", || {
            let log = daemon.log();
            ensure!(log.contains("TelemetryNotServed") && log.contains("AddressInUse") && log.contains("127.0.0.1:9807"), "{log}");
            Ok(())
        })?;
        daemon.wait_until("the list", || {
            ensure!(host.conflist().exists());
            Ok(())
        })?;
        serves_pods(host)?;
        drop(other);
        daemon.wait_until_ready()?;
        ensure!(daemon.conditions()?.is_empty(), "{:?}", daemon.conditions()?);
        ensure!(daemon.log().matches("metrics and health are not served").count() == 1, "it is said once: {}", daemon.log());
        Ok(())
    })
}

#[test]
fn a_node_without_nft_serves_pods_and_says_what_to_install() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.spawn_with(Start { by: &["env", "PATH=/nowhere"], ..Start::default() })?;
        daemon.wait_until_ready()?;
        daemon.wait_for_condition("RulesRefused", "NftMissing", &["there is no nft in PATH", "install the package nftables"])?;
        ensure!(daemon.metric("barewire_condition{type=\"RulesRefused\",reason=\"NftMissing\"}")? == 1.0);
        is_healthy(host, &daemon)?;
        daemon.stop()?;
        let daemon = host.start()?;
        ensure!(daemon.conditions()?.is_empty(), "{:?}", daemon.conditions()?);
        host.run(&["nft", "list", "table", "inet", "barewire"]).map(drop)
    })
}

#[test]
fn an_nft_that_fails_is_tried_again_until_it_does_not() -> Result<()> {
    on_host(Settings::default(), |host| {
        let directory = host.path("programs");
        std::fs::create_dir(&directory)?;
        let (broken, marker) = (directory.join("nft"), host.path("works"));
        let script = format!(
            "#!/bin/sh\n[ -e {} ] && exec /usr/sbin/nft \"$@\"\necho 'Error: netlink: cannot open' >&2; exit 1\n",
            marker.display()
        );
        std::fs::write(&broken, script)?;
        std::fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let path = format!("PATH={}:/usr/bin:/bin", directory.display());
        let daemon = host.spawn_with(Start { by: &["env", &path], ..Start::default() })?;
        daemon.wait_until_ready()?;
        daemon.wait_for_condition("RulesRefused", "NftFailed", &["netlink: cannot open"])?;
        is_healthy(host, &daemon)?;
        std::fs::write(marker, "")?;
        daemon.wait_for_end_of("RulesRefused")?;
        host.run(&["nft", "list", "table", "inet", "barewire"]).map(drop)
    })
}

#[test]
fn too_few_descriptors_are_not_a_missing_package() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let process = daemon.process().to_string();
        let limit = |descriptors: usize| {
            let soft = format!("--nofile={descriptors}:");
            host.run(&["prlimit", "--pid", &process, &soft]).map(drop)
        };
        // The fewest of some looks: those of a look at the kernel that is under way are closed again.
        let mut descriptors = usize::MAX;
        for _ in 0..20 {
            descriptors = descriptors.min(std::fs::read_dir(format!("/proc/{process}/fd"))?.count());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // Enough to look at the interfaces and to answer, too few for a program with three pipes.
        limit(descriptors + 4)?;
        host.ip("address add 10.0.0.99/32 dev eth1\n")?;
        daemon.wait_for_condition("RulesRefused", "NftFailed", &["cannot run nft: Too many open files"])?;
        ensure!(!daemon.log().contains("install the package nftables"), "the wrong remedy: {}", daemon.log());
        is_healthy(host, &daemon)?;
        limit(1024)?;
        daemon.wait_for_end_of("RulesRefused")
    })
}

#[test]
fn a_kernel_that_may_not_be_told_to_forward_is_a_broken_network_and_no_end() -> Result<()> {
    on_host(Settings::scarce("10.0.1.0/24", 0), |host| {
        host.run(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=0"])?;
        let daemon = host.spawn_with(Start { by: &WITHOUT_SYSCTLS, ..Start::default() })?;
        daemon.wait_for_condition("ForwardingRefused", "SysctlRefused", &["net/ipv4/ip_forward", "set it at boot"])?;
        ensure!(daemon.get("/readyz").is_err() && !host.conflist().exists(), "pods would reach nobody");
        host.call("STATUS").run()?.refused(LIMITED_CONNECTIVITY, &["does not forward", "ip_forward"])?;
        // Whoever may set it does, and that is all.
        host.run(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])?;
        daemon.wait_until_ready()?;
        ensure!(daemon.conditions()?.is_empty(), "{:?}", daemon.conditions()?);
        is_healthy(host, &daemon)
    })
}

/// A second uplink, with addresses of its own and a strict reverse-path filter.
const FURTHER: &str = "link add eth2 mtu 9001 type veth peer name fabric1 mtu 9001\nlink set fabric1 up\nlink set eth2 up\naddress add 10.0.0.20/24 dev eth2\n";
const WITH_FURTHER: &str =
    "[uplink]\ninterface = \"eth1\"\n[[uplink.secondary]]\ninterface = \"eth2\"\ngateways = [\"10.0.0.1\"]\nranges = [\"10.0.2.0/30\"]\n";

#[test]
fn a_setting_beside_forwarding_that_is_refused_is_told_and_pods_are_served() -> Result<()> {
    on_host(Settings::scarce("10.0.1.0/24", 0), |host| {
        host.ip(FURTHER)?;
        host.run(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.eth2.rp_filter=1"])?;
        let daemon = host.spawn_with(Start { by: &WITHOUT_SYSCTLS, keys: WITH_FURTHER })?;
        daemon.wait_until_ready()?;
        daemon.wait_for_condition("SysctlRefused", "SysctlRefused", &["net/ipv4/conf/eth2/rp_filter", "set it at boot"])?;
        is_healthy(host, &daemon)
    })
}

#[test]
fn a_further_uplink_that_is_down_closes_its_addresses_and_nothing_else() -> Result<()> {
    on_host(Settings::scarce("10.0.1.0/30", 0), |host| {
        host.ip(FURTHER)?;
        let daemon = host.spawn_with(Start { keys: WITH_FURTHER, ..Start::default() })?;
        daemon.wait_until_ready()?;
        ensure!(daemon.pool()?["ipv4 free"] == 8, "{:?}", daemon.pool()?);
        for (down, up) in [("link set eth2 down\n", "link set eth2 up\n"), ("link del eth2\n", FURTHER)] {
            host.ip(down)?;
            daemon.wait_for_condition("SecondaryUplinkDown", "NoCarrier", &["eth2", "bring it up"])?;
            ensure!(daemon.pool()?["ipv4 free"] == 4, "{:?}", daemon.pool()?);
            is_healthy(host, &daemon)?;
            host.ip(up)?;
            daemon.wait_for_end_of("SecondaryUplinkDown")?;
            ensure!(daemon.pool()?["ipv4 free"] == 8, "{:?}", daemon.pool()?);
        }
        daemon.stop()?;
        // Not there at a start.
        host.ip("link del eth2\n")?;
        let daemon = host.spawn_with(Start { keys: WITH_FURTHER, ..Start::default() })?;
        daemon.wait_until_ready()?;
        daemon.wait_for_condition("SecondaryUplinkDown", "NoCarrier", &["eth2"])?;
        is_healthy(host, &daemon)
    })
}

#[test]
fn a_directory_for_the_list_that_cannot_be_written_is_told() -> Result<()> {
    on_host(Settings::default(), |host| {
        let directory = host.conflist().parent().context("a directory")?.to_owned();
        std::fs::write(&directory, "not a directory")?;
        let daemon = host.spawn()?;
        daemon.wait_for_condition("NetworkListNotWritable", "ReadFailed", &["00-barewire.conflist", "Not a directory"])?;
        ensure!(daemon.get("/readyz").is_err_and(|error| format!("{error:#}").contains("00-barewire.conflist")), "no runtime would ask");
        serves_pods(host)?;
        std::fs::remove_file(directory)?;
        daemon.wait_until_ready()?;
        ensure!(daemon.conditions()?.is_empty(), "{:?}", daemon.conditions()?);
        Ok(())
    })
}

#[test]
fn kernel_programs_that_cannot_be_loaded_are_told() -> Result<()> {
    on_host(Settings::default(), |host| {
        let file = host.path("programs.o");
        std::fs::write(&file, "not an object")?;
        let config = host.write_configuration("")?;
        let text = std::fs::read_to_string(&config)?.replace("fast_path = \"off\"", "fast_path = \"auto\"");
        let text = text.replace("[paths]\n", &format!("[paths]\nkernel_programs = {file:?}\n"));
        std::fs::write(&config, text)?;
        let daemon = host.spawn_as_configured(&config)?;
        daemon.wait_until_ready()?;
        daemon.wait_for_condition("FastPathUnavailable", "LoadFailed", &["host's stack", "network.fast_path"])?;
        is_healthy(host, &daemon)
    })
}

#[test]
fn who_reads_status_changes_nothing_and_who_stays_silent_is_cut_off() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let commits = |daemon: &Daemon<'_>| daemon.metric("barewire_operations_total{operation=\"commit\"}");
        let before = (commits(&daemon)?, std::fs::metadata(host.run_dir().join("store.redb"))?.modified()?);
        let begun = Instant::now();
        for _ in 0..50 {
            daemon.get("/readyz")?;
            host.call("STATUS").run()?.silence()?;
        }
        let after = (commits(&daemon)?, std::fs::metadata(host.run_dir().join("store.redb"))?.modified()?);
        // The daemon itself tries every ten seconds whether it could commit; that is no operation.
        ensure!(before.0 == after.0 && (before.1 == after.1 || begun.elapsed() > Duration::from_secs(5)), "{before:?} became {after:?}");

        let mut silent = {
            let _inside = host.netns().enter()?;
            TcpStream::connect("127.0.0.1:9807")?
        };
        silent.write_all(b"GET /readyz HTTP/1.1\r\n")?;
        silent.set_read_timeout(Some(Duration::from_secs(15)))?;
        let mut rest = Vec::new();
        silent.read_to_end(&mut rest).context("the daemon waits for the rest of a request for ever")?;
        Ok(())
    })
}
