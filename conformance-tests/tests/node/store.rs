//! A store that is another boot's, damaged or cut short: pods that run keep their addresses, whatever the store says.

use std::collections::HashSet;
use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use conformance_tests::host::{Host, Pod, Settings};
use ipam::record::{AttachmentKey, RECORD_FORMAT, Record};
use ipam::store::{Change, Store};
use node_api::BootMillis;
use serde_json::{Value, json};

use crate::{addresses, on_host};

fn files_of_store(host: &Host) -> Result<Vec<String>> {
    let names = fs::read_dir(host.run_dir())?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.filter(|name: &Result<String>| name.as_ref().is_ok_and(|name| name.starts_with("store."))).collect()
}

#[test]
fn a_store_of_another_boot_is_history() -> Result<()> {
    on_host(Settings::default(), |host| {
        fs::create_dir_all(host.run_dir())?;
        fs::create_dir_all(host.conflist().parent().context("a directory")?)?;
        fs::write(host.conflist(), "left by another boot")?;
        let record = Record {
            format: RECORD_FORMAT,
            key: AttachmentKey {
                container_id: "gone".parse().map_err(anyhow::Error::msg)?,
                ifname: "eth0".parse().map_err(anyhow::Error::msg)?,
            },
            network: "barewire".parse().map_err(anyhow::Error::msg)?,
            pod: Default::default(),
            netns: Some((4, 7)),
            host_ifname: "bw0000100000".into(),
            host_ifindex: 1 << 20,
            mtu: 9001,
            mac: Some([2; 6]),
            addresses: vec!["10.0.1.0".parse()?],
            attached_at: BootMillis(5),
        };
        let (store, _) = Store::open(&host.run_dir(), "another-boot")?;
        store.commit(&Change::Attach(&record))?;
        drop(store);

        let daemon = host.start()?;
        let pool = daemon.pool()?;
        ensure!(pool["attachments"] == 0 && pool["ipv4 held"] == 0, "{pool:?}");
        ensure!(files_of_store(host)?.contains(&"store.other-boot.redb".to_owned()), "it is kept aside");
        serde_json::from_slice::<Value>(&fs::read(host.conflist())?).context("the list is this boot's")?;
        let (_, result) = host.attached()?;
        ensure!(addresses(&result)[0] == "10.0.1.0", "{result}");
        Ok(())
    })
}

/// Cuts the store to a part of its length.
fn cut(host: &Host, part: u64) -> Result<()> {
    let store = File::options().write(true).open(host.run_dir().join("store.redb"))?;
    let length = store.metadata()?.len();
    Ok(store.set_len(length * part / 100)?)
}

#[test]
fn pods_outlive_a_store_that_is_cut_short() -> Result<()> {
    on_host(Settings::default(), |host| {
        for percent in [0, 1, 50, 90] {
            let daemon = host.start()?;
            let pods = [host.attached()?, host.attached()?, host.attached()?];
            let before = daemon.pool()?;
            daemon.kill()?;
            cut(host, percent)?;

            let daemon = host.start()?;
            survived(host, &pods).with_context(|| format!("cut to {percent} %; {}", daemon.end_of_log()))?;
            ensure!(before == daemon.pool()?, "{percent} %: {before:?} became {:?}", daemon.pool()?);
            for (pod, _) in &pods {
                host.call_for("DEL", pod).run()?.silence()?;
            }
            host.wait_for_host_ends(0)?;
            let pool = daemon.pool()?;
            ensure!(pool["attachments"] == 0 && pool["ipv4 held"] == 0, "{pool:?}");
            daemon.stop()?;
        }
        Ok(())
    })
}

fn survived(host: &Host, pods: &[(Pod, Value)]) -> Result<()> {
    for (pod, result) in pods {
        host.call_for("CHECK", pod).conf("prevResult", result.clone()).run()?.silence()?;
        // A runtime that never got the first answer is told the same.
        let again = host.call_for("ADD", pod).run()?.result()?;
        ensure!(again == *result, "{result}\nbecame {again}");
    }
    let held: HashSet<_> = pods.iter().flat_map(|(_, result)| addresses(result)).collect();
    let (newcomer, result) = host.attached()?;
    ensure!(addresses(&result).iter().all(|address| !held.contains(address)), "an address was given out twice: {result}");
    host.call_for("DEL", &newcomer).run()?.silence()?;
    host.wait_for_host_ends(pods.len())
}

#[test]
fn a_record_of_a_later_form_is_left_alone_and_its_address_not_given_out() -> Result<()> {
    on_host(Settings::scarce("10.0.1.16-10.0.1.17", 0), |host| {
        let daemon = host.start()?;
        let (pod, result) = host.attached()?;
        daemon.stop()?;
        rewrite(host, &pod, |record| record["format"] = json!(RECORD_FORMAT + 1))?;

        let daemon = host.start()?;
        let pool = daemon.pool()?;
        ensure!(pool["ipv4 quarantined"] == 1, "{pool:?}; {}", daemon.end_of_log());
        ensure!(pod.link("eth0")?.is_some(), "the pod lost its interface");
        let (_, other) = host.attached()?;
        ensure!(addresses(&other) != addresses(&result), "{other}");
        Ok(())
    })
}

/// Changes a pod's record in the store as a later version may write it.
fn rewrite(host: &Host, pod: &Pod, change: impl FnOnce(&mut Value)) -> Result<()> {
    let boot_id = node_api::boot_id()?;
    let (store, found) = Store::open(&host.run_dir(), &boot_id)?;
    let ipam::store::Found::Present(contents) = found else { anyhow::bail!("no store: {found:?}") };
    let record = contents.records.into_iter().find(|record| record.key.container_id.as_str() == pod.id).context("the pod's record")?;
    let mut value = serde_json::to_value(record)?;
    change(&mut value);
    Ok(store.commit(&Change::Attach(&serde_json::from_value(value)?))?)
}
