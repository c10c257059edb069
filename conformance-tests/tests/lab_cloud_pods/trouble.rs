//! What clouds do to nodes.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cloudsim::cloud::Request;
use cloudsim::faults::{ApiFaults, Faults, MetadataFaults, ReadFaults, Refusal, Storm};
use cloudsim::time::Millis;

use crate::growth::crowd_reaches_second_interface;
use crate::site::{SETTLES, Site};

/// How long the cloud misbehaves.
const TROUBLE: Duration = Duration::from_secs(12);

/// An interface goes while pods of it and of another one talk: the others lose nothing, and nobody gets an address of it.
pub(crate) fn detached(site: &mut Site) -> Result<()> {
    if site.interfaces()?.len() < 2 {
        site.attach_another()?;
    }
    crowd_reaches_second_interface(site)?;
    let lost_pod = site.start_pod_within(SETTLES)?;
    let lost = site.interfaces()?.into_iter().nth(1).context("no second interface")?;
    let is_on_it = |site: &Site, address| Ok::<_, anyhow::Error>(site.device_index_of(address)? == 1);
    ensure!(is_on_it(site, lost_pod.v4().context("an IPv4 address")?)?, "{:?} is not on the second interface", lost_pod.addresses);

    let staying: Vec<_> =
        site.pods.iter().filter(|pod| pod.v4().is_some_and(|address| !is_on_it(site, address).unwrap_or(true))).cloned().collect();
    ensure!(!staying.is_empty(), "no pod is on the first interface");
    let streams = staying.iter().map(|pod| site.stream(pod, 4)).collect::<Result<Vec<_>>>()?;
    thread::sleep(Duration::from_millis(500));
    let attachment = lost.attachment.as_ref().context("it is not attached")?.id;
    site.apply(&Request::DetachNetworkInterface { attachment, force: false })?;
    site.wait_until_quarantined(lost_pod.v4().context("an IPv4 address")?)?;
    for stream in streams {
        stream.ends_unbroken()?;
    }
    let gone = |address| lost.networks().any(|network| network.contains(address));
    for _ in 0..2 {
        let pod = site.start_pod_within(SETTLES)?;
        ensure!(!pod.addresses.iter().copied().any(gone), "{:?} is of an interface that is gone", pod.addresses);
    }
    // Pods of it are somebody's to replace.
    for index in (0..site.pods.len()).rev() {
        if site.pods[index].addresses.iter().copied().any(gone) {
            site.remove_pod(index)?;
        }
    }
    site.disperse()?;
    site.apply(&Request::DeleteNetworkInterface { interface: lost.id })?;
    site.every_pod_pings()
}

/// Pods come and go while every kind of fault is on.
pub(crate) fn misbehaviour(site: &mut Site) -> Result<()> {
    site.cloud.server.with(|cloud, now| cloud.set_faults(faults(now)));
    let until = Instant::now() + TROUBLE;
    let streams = site.pods.iter().map(|pod| site.stream(pod, TROUBLE.as_secs() as u32)).collect::<Result<Vec<_>>>()?;
    let (mut started, mut refused) = (0, 0);
    while Instant::now() < until {
        match site.join() {
            Ok(_) => started += 1,
            Err(_) => refused += 1,
        }
        if site.crowd.len() > 30 {
            site.disperse()?;
        }
        if let Ok(pod) = site.start_pod().cloned() {
            let index = site.pods.iter().position(|other| other.name == pod.name).context("it was just started")?;
            site.remove_pod(index)?;
        }
    }
    site.cloud.server.with(|cloud, _| cloud.set_faults(Faults::default()));
    for stream in streams {
        stream.ends_unbroken()?;
    }
    ensure!(started > 0, "no pod was started, {refused} were refused");
    site.start_pod_within(2 * SETTLES)?;
    site.every_pod_pings()?;
    site.disperse()?;
    let interfaces: BTreeSet<_> = site.interfaces()?.into_iter().map(|interface| interface.id).collect();
    let strays = site.cloud.server.with(|cloud, _| {
        let of_nobody = cloud.interfaces().filter(|interface| interface.attachment.is_none() && !interface.tags.is_empty());
        of_nobody.map(|interface| interface.id.to_string()).collect::<Vec<_>>()
    });
    ensure!(interfaces.len() <= 3, "{interfaces:?}");
    ensure!(strays.is_empty(), "{strays:?}");
    Ok(())
}

fn faults(now: Millis) -> Faults {
    let storm = |seconds: u64, refusal| Storm {
        from: now + Millis::seconds(seconds),
        until: now + Millis::seconds(seconds + 2),
        probability: 0.9,
        refusal,
    };
    let refusals = [Refusal::TooManyRequests(1), Refusal::InternalError, Refusal::Unavailable, Refusal::RequestLimitExceeded];
    let metadata = MetadataFaults {
        refused: 0.3,
        additions_late: Millis::seconds(2),
        removals_late: Millis::seconds(2),
        omissions: 0.2,
        ..MetadataFaults::default()
    };
    Faults {
        api: ApiFaults {
            storms: (0..).step_by(3).zip(refusals).map(|(second, refusal)| storm(second, refusal)).collect(),
            lost_replies: 0.3,
            failed_replies: 0.1,
            duplicates: 0.2,
            partial: 0.3,
            ..ApiFaults::default()
        },
        reads: ReadFaults { lag: Millis::seconds(3), back_in_time: 0.2, omissions: 0.2 },
        wireserver: metadata.clone(),
        metadata,
        ..Faults::default()
    }
}
