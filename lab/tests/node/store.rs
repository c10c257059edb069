//! A store that is another boot's, damaged or cut short: pods that run keep their addresses, whatever the store says.

use std::collections::HashSet;
use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use ipam_state::contents::Contents;
use ipam_state::record::{AttachmentKey, RECORD_FORMAT, Record};
use ipam_state::store::{Change, Store};
use lab::host::{Host, Pod, Settings};
use node_api::BootMillis;
use serde_json::Value;

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
            bandwidth: None,
            internet_egress: None,
            allowed: Vec::new(),
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

/// The pod has its interface with its address, and CHECK finds nothing.
fn is_well(host: &Host, (pod, result): &(Pod, Value)) -> Result<()> {
    host.call_for("CHECK", pod).conf("prevResult", result.clone()).run()?.silence().with_context(|| format!("{} and its {result}", pod.id))
}

#[test]
fn a_record_of_a_later_form_keeps_its_address_and_its_interface_until_a_del() -> Result<()> {
    on_host(Settings::scarce("10.0.1.16-10.0.1.17", 0), |host| {
        let daemon = host.start()?;
        let (pod, result) = host.attached()?;
        daemon.stop()?;
        later_form(host, &pod)?;

        let daemon = host.start()?;
        let pool = daemon.pool()?;
        ensure!(pool["ipv4 held"] == 1 && pool["attachments"] == 1, "{pool:?}; {}", daemon.end_of_log());
        ensure!(pod.link("eth0")?.is_some(), "the pod lost its interface");
        let other = host.attached()?;
        ensure!(addresses(&other.1) != addresses(&result), "{}", other.1);
        host.call_for("ADD", &host.pod()?).run()?.refused(TRY_AGAIN_LATER, &["no free IPv4 address"])?;
        host.call_for("CHECK", &pod)
            .conf("prevResult", result.clone())
            .run()?
            .refused(TRY_AGAIN_LATER, &["upgrade barewired", "format 2"])?;
        host.call_for("ADD", &pod).run()?.refused(ALREADY_ATTACHED, &["upgrade barewired", "format 2"])?;

        // The names are enough.
        host.call_for("DEL", &pod).run()?.silence()?;
        host.wait_for_host_ends(1)?;
        ensure!(pod.link("eth0")?.is_none(), "the DEL was answered");
        let third = host.attached()?;
        ensure!(addresses(&third.1) == addresses(&result), "{}", third.1);
        is_well(host, &other)
    })
}

/// A rollback and an upgrade: what the older version does not understand is as safe with it as what it does.
#[test]
fn a_rollback_and_an_upgrade_never_touch_a_living_pod() -> Result<()> {
    for del in [Some(Del::Answered), Some(Del::Queued), None] {
        on_host(Settings::scarce("10.0.1.16-10.0.1.18", 0), |host| {
            let daemon = host.start()?;
            let (old, _) = host.attached()?;
            daemon.stop()?;
            let record = later_form(host, &old)?;

            // The older version has it, and meanwhile the pod ends.
            if del == Some(Del::Queued) {
                host.call_for("DEL", &old).run()?.silence()?;
            }
            let daemon = host.start()?;
            old.run("ip link delete eth0").or_else(|error| if del == Some(Del::Queued) { Ok(String::new()) } else { Err(error) })?;
            if del == Some(Del::Answered) {
                host.call_for("DEL", &old).run()?.silence()?;
            }
            daemon.stop()?;
            let daemon = host.start()?;
            let living = host.attached()?;
            daemon.stop()?;

            // The newer version is back, and understands what is left.
            let is_left = as_it_was(host, &record)?;
            ensure!(is_left == del.is_none(), "{del:?}: a DEL that was answered takes the record with it");
            let daemon = host.start()?;
            is_well(host, &living)?;
            host.call_for("DEL", &old).run()?.silence()?;
            is_well(host, &living).with_context(|| format!("{del:?}; {}", daemon.end_of_log()))?;
            let third = host.attached()?;
            ensure!(addresses(&third.1) != addresses(&living.1), "{del:?}: {} has the address of a living pod", third.1);
            is_well(host, &living)?;
            host.wait_for_host_ends(2)
        })
        .with_context(|| format!("{del:?}"))?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Del {
    Answered,
    Queued,
}

/// Two records of one address and one interface number, as versions up to 0.1.0 have left them.
#[test]
fn i1_a_second_record_of_a_living_pods_address_frees_nothing() -> Result<()> {
    on_host(Settings::scarce("10.0.1.16-10.0.1.17", 0), |host| {
        let daemon = host.start()?;
        let living = host.attached()?;
        daemon.stop()?;
        let ghost = host.pod()?;
        change_store(host, |contents, store| {
            let record = contents.records.into_iter().next().context("the pod's record")?;
            let key = AttachmentKey { container_id: ghost.id.parse().map_err(anyhow::Error::msg)?, ..record.key.clone() };
            Ok(store.commit(&Change::Attach(&Record { key, ..record }))?)
        })?;

        let daemon = host.start()?;
        ensure!(daemon.log().contains("is on record for"), "{}", daemon.end_of_log());
        host.call_for("DEL", &ghost).run()?.silence()?;
        is_well(host, &living)?;
        let (_, other) = host.attached()?;
        ensure!(addresses(&other) != addresses(&living.1), "{other}");
        host.call_for("ADD", &host.pod()?).run()?.refused(TRY_AGAIN_LATER, &["no free IPv4 address"])?;
        is_well(host, &living)
    })
}

#[test]
fn b5_a_del_that_was_queued_is_applied_to_a_store_that_was_rebuilt() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let (pod, _) = host.attached()?;
        let stays = host.attached()?;
        daemon.stop()?;
        host.call_for("DEL", &pod).run()?.silence()?;
        cut(host, 50)?;

        let daemon = host.start()?;
        ensure!(daemon.log().contains("the store was damaged"), "{}", daemon.end_of_log());
        host.wait_for_host_ends(1)?;
        ensure!(daemon.pool()?["attachments"] == 1);
        is_well(host, &stays)
    })
}

/// A daemon that cannot start says why, and leaves the store as it is.
fn refuses_to_start(host: &Host, parts: &[&str]) -> Result<()> {
    let before = fs::read(host.run_dir().join("store.redb"))?;
    let daemon = host.spawn()?;
    let status = daemon.wait()?;
    ensure!(!status.success(), "it ended with {status}");
    ensure!(parts.iter().all(|part| daemon.log().contains(part)), "{}", daemon.log());
    ensure!(fs::read(host.run_dir().join("store.redb"))? == before, "the store was touched");
    ensure!(files_of_store(host)? == ["store.redb"], "{:?}", files_of_store(host)?);
    Ok(())
}

#[test]
fn b5_a_store_that_another_process_has_is_left_alone() -> Result<()> {
    on_host(Settings::default(), |host| {
        let daemon = host.start()?;
        let pod = host.attached()?;
        daemon.stop()?;
        change_store(host, |_, _| refuses_to_start(host, &["another process has the store", "fuser"]))?;
        let _daemon = host.start()?;
        is_well(host, &pod)
    })
}

const ALREADY_ATTACHED: u64 = 101;
const TRY_AGAIN_LATER: u64 = 11;

/// Works on the store while no daemon runs.
fn change_store<T>(host: &Host, change: impl FnOnce(Contents, &Store) -> Result<T>) -> Result<T> {
    let (store, found) = Store::open(&host.run_dir(), &node_api::boot_id()?)?;
    change(found.into_contents().context("a store of this boot")?, &store)
}

/// Writes a pod's record as a later version may; the record as it was.
fn later_form(host: &Host, pod: &Pod) -> Result<Record> {
    change_store(host, |contents, store| {
        let record = contents.records.into_iter().find(|record| record.key.container_id.as_str() == pod.id).context("the pod's record")?;
        store.commit(&Change::Attach(&Record { format: RECORD_FORMAT + 1, ..record.clone() }))?;
        Ok(record)
    })
}

/// Writes a record as it was, where it is still there in its later form; whether it was.
fn as_it_was(host: &Host, record: &Record) -> Result<bool> {
    change_store(host, |contents, store| {
        let is_left = contents.later.iter().any(|later| later.key.as_ref() == Some(&record.key));
        if is_left {
            store.commit(&Change::Attach(record))?;
        }
        Ok(is_left)
    })
}
