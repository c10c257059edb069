//! GC: section 2, "GC".

use serde_json::{Value, json};

use crate::{
    case::{Case, Stop, Verdict, ensure, fail, listed},
    stage::{Attachment, Stage},
    version::SpecVersion,
};

/// Keys of this prefix are the runtime's: section 1, "Reserved keys". The reference library has always sent the first; the
/// text of 1.1.0 named the second when it was published and was corrected later, and since then the library sends both.
/// So does this suite. <https://github.com/containernetworking/cni/pull/1103>
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

const fn gc(name: &'static str, requirement: &'static str, run: fn(&Stage<'_>) -> Verdict) -> Case {
    Case { name, requirement, since: SpecVersion::V1_1_0, run }
}

pub(super) const CASES: &[Case] = &[
    gc("2.gc.keeps-valid-attachments", "GC leaves the attachments alone that it is told are valid.", |stage| {
        let first = stage.attached()?;
        let second = stage.attached()?;
        collect(stage, json!([entry(&first), entry(&second)]))?;
        kept(stage, &first)?;
        kept(stage, &second)
    }),
    gc("2.gc.removes-others", "GC releases the resources of attachments that it is not told are valid.", |stage| {
        let valid = stage.attached()?;
        let stale = stage.attached()?;
        collect(stage, json!([entry(&valid)]))?;
        kept(stage, &valid)?;
        released(stage, &stale)
    }),
    gc("2.gc.tells-interfaces-apart", "GC tells the attachments of one container apart by their interface.", |stage| {
        let valid = stage.attached()?;
        let stale = stage.add(&valid.pod, "net1")?;
        collect(stage, json!([entry(&valid)]))?;
        kept(stage, &valid)?;
        released(stage, &stale)
    }),
    gc("2.gc.missing-list", "GC without a list of valid attachments removes none: it fails, or does nothing.", |stage| {
        let attachment = stage.attached()?;
        let answer = stage.call("GC").run()?;
        if !answer.succeeded() {
            answer.error()?;
        }
        kept(stage, &attachment)
    }),
    gc("2.gc.empty-list", "GC with an empty list is answered; the attachment can be deleted afterwards.", |stage| {
        let attachment = stage.attached()?;
        let answer = stage.call("GC").conf(&listing(stage, &json!([]))).run()?;
        if !answer.succeeded() {
            answer.error()?;
        }
        stage.del(&attachment)
    }),
    gc("2.gc.unknown-attachment", "A valid attachment that the plugin does not know is no error.", |stage| {
        collect(stage, json!([{ "containerID": "conform-unknown", "ifname": "eth0" }]))
    }),
    gc("2.gc.then-del", "DEL of an attachment that GC has removed succeeds.", |stage| {
        let valid = stage.attached()?;
        let stale = stage.attached()?;
        collect(stage, json!([entry(&valid)]))?;
        stage.del(&stale)
    }),
];

fn entry(attachment: &Attachment) -> Value {
    json!({ "containerID": attachment.pod.container, "ifname": attachment.interface })
}

/// The configuration with the list of valid attachments.
fn listing(stage: &Stage<'_>, valid: &Value) -> Value {
    let mut conf = stage.conf();
    for key in VALID_ATTACHMENTS {
        conf[key] = valid.clone();
    }
    conf
}

fn collect(stage: &Stage<'_>, valid: Value) -> Verdict {
    stage.call("GC").conf(&listing(stage, &valid)).run()?.success().map(|_| ())
}

/// The attachment is as ADD left it.
fn kept(stage: &Stage<'_>, attachment: &Attachment) -> Result<(), Stop> {
    let expected = attachment.addresses()?;
    let got = attachment.pod.kernel()?.addresses(&attachment.link()?)?;
    ensure(expected.iter().all(|address| got.contains(address)), || {
        format!("expected the attachment to keep {}, it has {}", listed(&expected), listed(&got))
    })?;
    match stage.call_again("CHECK", attachment).run()?.success() {
        Err(Stop::Fail(reason)) => fail(format!("CHECK of an attachment that GC must keep: {reason}")),
        other => other.map(|_| ()),
    }
}

/// The plugin may leave the interface to the end of its namespace, but must know the attachment no more.
fn released(stage: &Stage<'_>, attachment: &Attachment) -> Verdict {
    stage.settles("an attachment that is not valid to lose its interface, or to fail CHECK", || {
        if attachment.pod.kernel()?.link(&attachment.interface)?.is_none() {
            return Ok(true);
        }
        Ok(!stage.call_again("CHECK", attachment).run()?.succeeded())
    })
}
