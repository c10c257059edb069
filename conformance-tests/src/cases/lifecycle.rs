//! How operations follow each other: section 3, "Lifecycle & Ordering".

use std::{collections::HashMap, thread};

use super::del::interface_goes;
use crate::{
    case::{Case, Stop, Verdict, ensure, skip},
    stage::{Attachment, Stage},
    version::SpecVersion,
};

/// As many pods as a node starts at once after a reboot, and few enough for a small pool.
const CONTAINERS: usize = 20;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "3.lifecycle.concurrent-containers",
        requirement: "A plugin is executed for many containers at once: all are attached, each with addresses of its own, and deleted.",
        since: SpecVersion::V0_3_1,
        run: concurrent_containers,
    },
    Case {
        name: "3.lifecycle.delete-in-another-version",
        requirement: "What was added in one version of the specification can be deleted in another, as after an upgrade of the configuration.",
        since: SpecVersion::V0_3_1,
        run: delete_in_another_version,
    },
];

fn concurrent_containers(stage: &Stage<'_>) -> Verdict {
    let pods = (0..CONTAINERS).map(|_| stage.pod()).collect::<Result<Vec<_>, _>>()?;
    let attachments: Vec<Attachment> = at_once(pods.iter().map(|pod| move || stage.add(pod, "eth0")))?;
    let mut owners = HashMap::new();
    for attachment in &attachments {
        for address in attachment.addresses()? {
            let former = owners.insert(address.ip(), &attachment.pod.container);
            ensure(former.is_none(), || format!("expected unique addresses, {} has two owners", address.ip()))?;
        }
        attachment.link()?;
    }
    at_once(attachments.iter().map(|attachment| move || stage.del(attachment)))?;
    attachments.iter().try_for_each(|attachment| interface_goes(stage, attachment))
}

/// Runs all of them, each on a thread of its own; the first failure is the verdict.
fn at_once<T: Send>(jobs: impl Iterator<Item = impl FnOnce() -> Result<T, Stop> + Send>) -> Result<Vec<T>, Stop> {
    thread::scope(|scope| {
        let threads: Vec<_> = jobs.map(|job| scope.spawn(job)).collect();
        let ends: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        ends.into_iter().map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

fn delete_in_another_version(stage: &Stage<'_>) -> Verdict {
    let others: Vec<_> = stage.spoken().iter().copied().filter(|version| *version != stage.version()).collect();
    if others.is_empty() {
        return skip("the plugin speaks one version only");
    }
    for version in others {
        let attachment = stage.attached()?;
        let conf = stage.conf_in(version);
        stage.call_for("DEL", &attachment.pod, &attachment.interface).conf(&conf).run()?.success()?;
        interface_goes(stage, &attachment)?;
    }
    Ok(())
}
