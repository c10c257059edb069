//! GC removes exactly the complement of the valid set, and nothing by accident (invariant I5).

use anyhow::{Result, ensure};
use lab::host::{Host, Pod, Settings};
use serde_json::{Value, json};

use crate::on_node;

const KEY: &str = "cni.dev/valid-attachments";
const UNKNOWN_CONTAINER: u64 = 3;
const INVALID_CONFIG: u64 = 7;

fn entry(pod: &Pod) -> Value {
    json!({ "containerID": pod.id, "ifname": "eth0" })
}

fn assert_attached(host: &Host, (pod, result): &(Pod, Value)) -> Result<()> {
    host.call_for("CHECK", pod).conf("prevResult", result.clone()).run()?.silence()
}

#[test]
fn an_empty_null_or_missing_list_removes_no_running_pod() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        let pods = [host.attached()?, host.attached()?];
        host.call("GC").conf(KEY, json!([])).run()?.silence()?;
        host.call("GC").conf(KEY, json!(null)).run()?.silence()?;
        host.call("GC").run()?.silence()?;
        for wrong in [json!("all"), json!([{ "containerID": "a" }]), json!([{ "containerID": "a/b", "ifname": "eth0" }])] {
            host.call("GC").conf(KEY, wrong).run()?.refused(INVALID_CONFIG, &[KEY])?;
        }
        pods.iter().try_for_each(|pod| assert_attached(host, pod))
    })
}

#[test]
fn an_empty_list_removes_what_has_lost_its_namespace() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let (alive, dead) = (host.attached()?, host.attached()?);
        dead.0.netns.vanish();
        host.wait_for_host_ends(1)?;
        ensure!(daemon.pool()?["attachments"] == 2);
        host.call("GC").conf(KEY, json!([])).run()?.silence()?;
        ensure!(daemon.pool()?["attachments"] == 1);
        assert_attached(host, &alive)
    })
}

#[test]
fn what_is_not_in_the_list_is_removed() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let (valid, stale) = (host.attached()?, host.attached()?);
        let known_to_nobody = json!({ "containerID": "nobody", "ifname": "eth0" });
        host.call("GC").conf(KEY, json!([entry(&valid.0), known_to_nobody])).run()?.silence()?;
        assert_attached(host, &valid)?;
        let check = host.call_for("CHECK", &stale.0).conf("prevResult", stale.1.clone()).run()?;
        check.refused(UNKNOWN_CONTAINER, &[&stale.0.id, "ADD it first"])?;
        host.wait_for_host_ends(1)?;
        ensure!(daemon.pool()?["attachments"] == 1);
        host.call_for("DEL", &stale.0).run()?.silence()
    })
}

#[test]
fn the_key_of_the_specification_as_it_was_published_counts_as_well() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let (valid, _stale) = (host.attached()?, host.attached()?);
        host.call("GC").conf("cni.dev/attachments", json!([entry(&valid.0)])).run()?.silence()?;
        ensure!(daemon.pool()?["attachments"] == 1);
        assert_attached(host, &valid)
    })
}

#[test]
fn a_list_for_another_network_touches_nothing_of_ours() -> Result<()> {
    on_node(Settings::default(), |host, _| {
        let (ours, theirs) = (host.attached()?, host.pod()?);
        host.call("GC").conf("name", json!("another")).conf(KEY, json!([entry(&theirs)])).run()?.silence()?;
        assert_attached(host, &ours)
    })
}

/// A list is of one runtime, and says what is valid of a network's name: the specification knows no runtimes. So two of them on one node
/// need a name each (docs/install.md).
#[test]
fn two_runtimes_need_a_network_name_each() -> Result<()> {
    on_node(Settings::default(), |host, daemon| {
        let kubelets = host.attached()?;
        let others = host.pod()?;
        let call = |command: &str, pod: &Pod| host.call_for(command, pod).conf("name", json!("standalone"));
        let result = call("ADD", &others).run()?.result()?;
        // Each says what it knows, and takes nothing of the other's.
        host.call("GC").conf(KEY, json!([entry(&kubelets.0)])).run()?.silence()?;
        host.call("GC").conf("name", json!("standalone")).conf(KEY, json!([entry(&others)])).run()?.silence()?;
        assert_attached(host, &kubelets)?;
        call("CHECK", &others).conf("prevResult", result.clone()).run()?.silence()?;
        // Under one name the second's list is the whole truth, and the first's pods are not in it.
        let same = host.attached()?;
        host.call("GC").conf(KEY, json!([entry(&same.0)])).run()?.silence()?;
        assert_attached(host, &same)?;
        let gone = host.call_for("CHECK", &kubelets.0).conf("prevResult", kubelets.1.clone()).run()?;
        gone.refused(UNKNOWN_CONTAINER, &[&kubelets.0.id])?;
        call("CHECK", &others).conf("prevResult", result).run()?.silence()?;
        ensure!(daemon.pool()?["attachments"] == 2);
        Ok(())
    })
}
