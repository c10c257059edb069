//! Namespaces of pods, and nodes, whose settings somebody has hardened: `net.core.devconf_inherit_init_net`, a runtime's own, an image's.

use anyhow::{Context, Result, ensure};
use lab::host::{Host, Pod, Settings};

use crate::{addresses, both_paths, on_node, reaches_all};

/// What a new interface of the pod's gets, or all have.
const SETTINGS: [&[&str]; 25] = [
    &["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"],
    &["net.ipv6.conf.default.disable_ipv6=1"],
    &["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=0"],
    &["net.ipv6.conf.lo.disable_ipv6=1"],
    &["net.ipv6.conf.default.accept_dad=2"],
    &["net.ipv6.conf.default.accept_dad=0"],
    &["net.ipv6.conf.default.dad_transmits=5"],
    &["net.ipv6.conf.default.accept_ra=2"],
    &["net.ipv6.conf.default.accept_ra=0", "net.ipv6.conf.default.autoconf=0"],
    &["net.ipv6.conf.default.addr_gen_mode=1"],
    &["net.ipv6.conf.default.addr_gen_mode=3"],
    &["net.ipv6.conf.default.use_tempaddr=2"],
    &["net.ipv6.conf.default.ndisc_notify=1"],
    &["net.ipv6.conf.default.keep_addr_on_down=1"],
    &["net.ipv6.conf.default.drop_unsolicited_na=1"],
    &["net.ipv6.conf.all.forwarding=1"],
    &["net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1"],
    &["net.ipv4.conf.all.rp_filter=2", "net.ipv4.conf.default.rp_filter=2"],
    &["net.ipv4.conf.all.arp_ignore=2", "net.ipv4.conf.all.arp_announce=2"],
    &["net.ipv4.conf.all.arp_ignore=8"],
    &["net.ipv4.conf.all.arp_filter=1"],
    &["net.ipv4.conf.default.arp_accept=1", "net.ipv4.conf.default.arp_notify=1"],
    &["net.ipv4.ip_forward=1"],
    &["net.ipv4.conf.default.drop_unicast_in_l2_multicast=1", "net.ipv4.conf.default.drop_gratuitous_arp=1"],
    &["net.ipv4.conf.default.send_redirects=0", "net.ipv4.conf.default.accept_source_route=0", "net.ipv4.conf.all.log_martians=1"],
];

fn hardened_pod(host: &Host, settings: &[&str]) -> Result<Pod> {
    let pod = host.pod()?;
    pod.run("ip link set lo up")?;
    for setting in settings {
        pod.run(&format!("sysctl -q -w {setting}"))?;
    }
    Ok(pod)
}

#[test]
fn a_pod_is_wired_whatever_its_namespace_was_set_to() -> Result<()> {
    both_paths(|host, _| {
        let (other, others) = host.attached()?;
        for settings in SETTINGS {
            let whole = || -> Result<()> {
                let pod = hardened_pod(host, settings)?;
                let result = host.call_for("ADD", &pod).run()?.result()?;
                reaches_all(host, &pod, &addresses(&result), (&other, &addresses(&others)))?;
                host.call_for("CHECK", &pod).conf("prevResult", result).run()?.silence()?;
                host.call_for("DEL", &pod).run()?.silence()?;
                host.wait_for_host_ends(1)
            };
            whole().with_context(|| format!("{settings:?}"))?;
        }
        Ok(())
    })
}

#[test]
fn ipv6_is_switched_on_only_where_the_pod_gets_an_address_of_it() -> Result<()> {
    let off = SETTINGS[0];
    let disabled =
        |pod: &Pod, ifname: &str| Ok::<_, anyhow::Error>(pod.run(&format!("sysctl -n net.ipv6.conf.{ifname}.disable_ipv6"))?.trim() == "1");
    on_node(Settings::default(), |host, _| {
        let pod = hardened_pod(host, off)?;
        host.call_for("ADD", &pod).run()?.result()?;
        ensure!(!disabled(&pod, "eth0")? && !disabled(&pod, "lo")? && disabled(&pod, "default")?);
        Ok(())
    })?;
    on_node(Settings::scarce("10.0.1.0/28", 0), |host, _| {
        let pod = hardened_pod(host, off)?;
        host.call_for("ADD", &pod).run()?.result()?;
        ensure!(disabled(&pod, "eth0")? && disabled(&pod, "lo")?);
        Ok(())
    })
}

#[test]
fn a_node_on_which_ipv6_is_off_for_new_interfaces_gives_it_to_pods() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        host.run(&["sysctl", "-q", "-w", "net.ipv6.conf.default.disable_ipv6=1"])?;
        let (other, others) = host.attached()?;
        let (pod, result) = host.attached()?;
        reaches_all(host, &pod, &addresses(&result), (&other, &addresses(&others)))?;
        host.call_for("CHECK", &pod).conf("prevResult", result).run()?.silence()
    })
}
