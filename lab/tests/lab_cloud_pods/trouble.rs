//! What clouds do to nodes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cloudsim::cloud::Request;
use cloudsim::faults::{ApiFaults, Faults, MetadataFaults, ReadFaults, Refusal, Storm};
use cloudsim::time::Millis;
use lab::cri::pod::Pod;

use crate::growth::pod_on;
use crate::site::{Kind, SETTLES, Site, Stream};

/// How long the cloud misbehaves.
const TROUBLE: Duration = Duration::from_secs(12);
/// So many pods come before they go.
const CROWD: usize = 20;

/// An interface goes while pods of it and of another one talk: the others lose nothing, and nobody gets an address of it.
pub(crate) fn detached(site: &mut Site) -> Result<()> {
    if site.interfaces()?.len() < 2 {
        site.attach_another()?;
    }
    pod_on(site, |device_index| device_index != 1)?;
    site.disperse()?;
    let cut_off = pod_on(site, |device_index| device_index == 1)?.v4().context("an IPv4 address")?;
    site.disperse()?;
    let lost = site.interfaces()?.into_iter().nth(1).context("no second interface")?;
    let is_lost = |pod: &Pod| pod.addresses.iter().any(|address| lost.networks().any(|network| network.contains(*address)));
    let staying = site.pods.iter().filter(|pod| !is_lost(pod));
    let streams = staying.map(|pod| site.stream(pod, 4)).collect::<Result<Vec<_>>>()?;
    ensure!(!streams.is_empty(), "no pod is on another interface");
    thread::sleep(Duration::from_millis(500));
    let attachment = lost.attachment.as_ref().context("it is not attached")?.id;
    site.apply(&Request::DetachNetworkInterface { attachment, force: false })?;
    site.wait_until_quarantined(cut_off)?;
    for stream in streams {
        stream.ends_unbroken()?;
    }
    for _ in 0..2 {
        let pod = site.start_pod_within(SETTLES)?;
        ensure!(!is_lost(&pod), "{:?} is of an interface that is gone", pod.addresses);
    }
    // On AWS the node asks for others, which more pods need than it has addresses left.
    if site.kind == Kind::Aws {
        for _ in 0..=16 * site.blocks()? {
            let address = site.join_within(SETTLES)?;
            ensure!(!lost.networks().any(|network| network.contains(address)), "{address} is of an interface that is gone");
        }
        site.disperse()?;
    }
    // Pods of it are somebody's to replace.
    while let Some(index) = site.pods.iter().position(is_lost) {
        site.remove_pod(index)?;
    }
    site.apply(&Request::DeleteNetworkInterface { interface: lost.id })?;
    site.every_pod_pings()
}

/// Pods come and go while every kind of fault is on.
pub(crate) fn misbehaviour(site: &mut Site) -> Result<()> {
    site.set_faults(faults(site.cloud.server.with(|_, now| now)));
    let until = Instant::now() + TROUBLE;
    let streams = site.pods.iter().map(|pod| site.stream(pod, TROUBLE.as_secs() as u32)).collect::<Result<Vec<_>>>()?;
    let mut refused = Vec::new();
    let mut started = 0;
    while Instant::now() < until {
        match site.join() {
            Ok(_) => started += 1,
            Err(error) => refused.push(error.to_string()),
        }
        if site.crowd.len() > CROWD {
            site.disperse()?;
        }
        if site.start_pod().is_ok() {
            site.remove_pod(site.pods.len() - 1)?;
        }
    }
    site.set_faults(Faults::default());
    for stream in streams {
        stream.ends_unbroken()?;
    }
    ensure!(started > 0, "no pod was started: {refused:?}");
    site.every_pod_pings()?;
    site.disperse()?;
    site.start_pod_within(2 * SETTLES)?;
    site.every_pod_pings()
}

/// What can be wrong with a metadata service for long.
pub(crate) struct Ailment {
    pub(crate) name: &'static str,
    pub(crate) faults: fn(&mut MetadataFaults),
    /// In what a daemon that starts with it says.
    told: &'static str,
}

pub(crate) const AILMENTS: [Ailment; 2] = [
    Ailment { name: "metadata_that_is_off", faults: |metadata| metadata.off = true, told: "169.254.169.254" },
    Ailment {
        name: "metadata_of_a_sign_in_page",
        faults: |metadata| metadata.html = true,
        told: "is something else answering in its place?",
    },
];

/// Pods go on, a new one is served from what there is, and a daemon that starts now says what is wrong and serves from what it remembers.
pub(crate) fn ailing(site: &mut Site, ailment: &Ailment) -> Result<()> {
    let streams = site.pods.iter().map(|pod| site.stream(pod, 15)).collect::<Result<Vec<_>>>()?;
    site.start_pod().context("there are addresses")?;
    site.remove_pod(site.pods.len() - 1)?;
    let stopped = site.worker.daemon.take().context("it has no daemon")?.terminate()?;
    site.worker.daemon = Some(stopped.start().context("it remembers its addresses")?);
    site.wait_until_told(ailment.told)?;
    site.start_pod().context("it remembers addresses")?;
    site.every_pod_pings()?;
    site.remove_pod(site.pods.len() - 1)?;
    streams.into_iter().try_for_each(Stream::ends_unbroken)
}

/// A daemon that is started again finds everything as it was.
pub(crate) fn recovered(site: &mut Site) -> Result<()> {
    site.worker.ensure_daemon()?;
    site.wait_until_untroubled()?;
    site.start_pod_within(SETTLES)?;
    site.every_pod_pings()?;
    site.remove_pod(site.pods.len() - 1)
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
