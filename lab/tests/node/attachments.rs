//! ADD and DEL out of order, repeated, and with wishes (`runtimeConfig`).

use anyhow::{Result, ensure};
use lab::host::Settings;
use serde_json::json;

use crate::{Footprint, addresses, on_node};

const INVALID_CONFIG: u64 = 7;
const TRY_AGAIN_LATER: u64 = 11;
const ALREADY_ATTACHED: u64 = 101;

#[test]
fn the_same_add_twice_has_one_answer_and_one_link() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let (pod, first) = host.attached()?;
        let before = Footprint::of(host, daemon, &pod)?;
        let second = host.call_for("ADD", &pod).run()?.result()?;
        ensure!(first == second, "{first}\nthen {second}");
        before.unchanged(host, daemon, &pod)?;
        ensure!(before.host_ends.len() == 1);
        Ok(())
    })
}

#[test]
fn an_attachment_is_not_moved_to_another_namespace() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let (pod, result) = host.attached()?;
        let other = host.pod()?;
        let before = Footprint::of(host, daemon, &other)?;
        let answer = host.call_for("ADD", &pod).with("CNI_NETNS", other.netns.path()).run()?;
        answer.refused(ALREADY_ATTACHED, &[&pod.id, "another network namespace", "DEL it first"])?;
        before.unchanged(host, daemon, &other)?;
        host.call_for("CHECK", &pod).conf("prevResult", result).run()?.silence()
    })
}

#[test]
fn del_succeeds_before_add_twice_and_without_a_namespace() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let pod = host.pod()?;
        let before = Footprint::of(host, daemon, &pod)?;
        host.call_for("DEL", &pod).run()?.silence()?;
        before.unchanged(host, daemon, &pod)?;

        host.call_for("ADD", &pod).run()?.result()?;
        host.call_for("DEL", &pod).run()?.silence()?;
        host.call_for("DEL", &pod).run()?.silence()?;
        host.wait_for_host_ends(0)?;
        before.unchanged(host, daemon, &pod)?;

        for without_variable in [false, true] {
            let (pod, _) = host.attached()?;
            pod.netns.vanish();
            let del = host.call_for("DEL", &pod);
            let del = if without_variable { del.without("CNI_NETNS") } else { del };
            del.run()?.silence()?;
            host.wait_for_host_ends(0)?;
            ensure!(daemon.pool()? == before.pool);
        }
        Ok(())
    })
}

#[test]
fn a_name_can_be_attached_again_right_after_its_del() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        let pod = host.pod()?;
        for _ in 0..5 {
            let result = host.call_for("ADD", &pod).run()?.result()?;
            host.call_for("CHECK", &pod).conf("prevResult", result).run()?.silence()?;
            host.call_for("DEL", &pod).run()?.silence()?;
        }
        host.wait_for_host_ends(0)
    })
}

#[test]
fn addresses_asked_for_are_given_or_refused_with_their_reason() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let wish = |ips: &[&str]| json!({ "ips": ips });
        let pod = host.pod()?;
        let result = host.call_for("ADD", &pod).conf("runtimeConfig", wish(&["10.0.1.77/24", "fd00:10:0:1::77"])).run()?.result()?;
        ensure!(addresses(&result) == ["10.0.1.77", "fd00:10:0:1::77"], "{result}");

        let other = host.pod()?;
        let before = Footprint::of(host, daemon, &other)?;
        for (ips, code, parts) in [
            (&["10.0.1.77"][..], TRY_AGAIN_LATER, ["10.0.1.77 is in use", "try again later"]),
            (&["10.9.9.9"], INVALID_CONFIG, ["10.9.9.9 is in none of this node's ranges", "ask for another"]),
            (&["10.0.1.80", "fd00:10:0:1::77"], TRY_AGAIN_LATER, ["fd00:10:0:1::77 is in use", "try again later"]),
            (&["10.0.1.80", "10.0.1.81"], INVALID_CONFIG, ["10.0.1.81 is a second IPv4", "one of each family"]),
        ] {
            host.call_for("ADD", &other).conf("runtimeConfig", wish(ips)).run()?.refused(code, &parts)?;
            before.unchanged(host, daemon, &other)?;
        }
        // What was taken on the way to a refusal is free again.
        let result = host.call_for("ADD", &other).conf("runtimeConfig", wish(&["10.0.1.80"])).run()?.result()?;
        ensure!(addresses(&result)[0] == "10.0.1.80", "{result}");
        Ok(())
    })
}

#[test]
fn a_mac_address_asked_for_is_given() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        let pod = host.pod()?;
        let mac = "0a:58:0a:00:01:11";
        let result = host.call_for("ADD", &pod).conf("runtimeConfig", json!({ "mac": mac })).run()?.result()?;
        ensure!(result["interfaces"][1]["mac"] == mac, "{result}");
        ensure!(pod.link("eth0")?.is_some_and(|link| link.mac == mac));
        Ok(())
    })
}
