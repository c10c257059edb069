//! Where one case is played in one version: a host namespace, pods, and the calls that a runtime would make.
//!
//! What was added on a stage is deleted when the stage goes, in whatever state the case left it.

mod attachment;
mod call;
mod trace;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

pub(super) use self::attachment::prefix;
pub use self::{
    attachment::{Attachment, Pod},
    call::{Answer, Call},
    trace::Execution,
};
use super::{
    case::{Broken, Stop, Verdict, fail},
    invocation::Plugin,
    kernel::Kernel,
    netns::Netns,
    version::SpecVersion,
};

/// The kernel may finish the deletion of a link after the call that asked for it: within five seconds where a call has
/// thirty, and longer where the user says that the machine is slow.
const SETTLES_IN_PART_OF_TIMEOUT: u32 = 6;
/// Nobody who has pressed Ctrl-C waits longer for a DEL that cleans up.
const CLEAN_UP_WHEN_INTERRUPTED: Duration = Duration::from_secs(10);

/// What a run is about; its stages share it.
#[derive(Debug)]
pub struct Subject {
    /// The plugin under test.
    pub plugin: Plugin,
    /// The network configuration: an object.
    pub conf: Value,
    /// The versions that the plugin claims to speak, among those that the suite knows.
    pub spoken: Vec<SpecVersion>,
    /// How many addresses the configuration's pool holds, if the user said so.
    pub pool_size: Option<u32>,
    /// Numbers pods, host namespaces and containers.
    pub serial: AtomicU32,
}

/// The stage of one case in one version.
pub struct Stage<'a> {
    subject: &'a Subject,
    version: SpecVersion,
    dir: &'a Path,
    host: Arc<Netns>,
    pods: Mutex<Vec<Arc<Netns>>>,
    owed: Mutex<Vec<Owed>>,
    trace: Mutex<Vec<Execution>>,
}

/// A DEL that the suite owes the plugin for an ADD, as a runtime does, also for one that failed.
#[derive(Clone)]
struct Owed {
    container: String,
    interface: String,
    netns: PathBuf,
    result: Option<Value>,
}

impl<'a> Stage<'a> {
    /// Sets a stage up; pods are mounted in `dir`. Without `host`, the plugin runs in a fresh namespace with only `lo`.
    pub fn new(subject: &'a Subject, version: SpecVersion, dir: &'a Path, host: Option<Arc<Netns>>) -> Result<Self, Broken> {
        let host = match host {
            Some(host) => host,
            None => Arc::new(private_host(dir, subject)?),
        };
        Ok(Self { subject, version, dir, host, pods: Mutex::default(), owed: Mutex::default(), trace: Mutex::default() })
    }

    /// The version that the case is played in.
    #[must_use]
    pub fn version(&self) -> SpecVersion {
        self.version
    }

    /// The versions that the plugin claims to speak.
    #[must_use]
    pub fn spoken(&self) -> &[SpecVersion] {
        &self.subject.spoken
    }

    /// How many addresses the pool holds, if the user said so.
    #[must_use]
    pub fn pool_size(&self) -> Option<u32> {
        self.subject.pool_size
    }

    /// The network configuration in the case's version.
    #[must_use]
    pub fn conf(&self) -> Value {
        self.conf_in(self.version)
    }

    /// The network configuration in another version.
    #[must_use]
    pub fn conf_in(&self, version: SpecVersion) -> Value {
        self.conf_with("cniVersion", json!(version.as_str()))
    }

    /// The network configuration in the case's version, with one more key.
    #[must_use]
    pub fn conf_with(&self, key: &str, value: Value) -> Value {
        let mut conf = self.subject.conf.clone();
        conf["cniVersion"] = json!(self.version.as_str());
        conf[key] = value;
        conf
    }

    /// A container with a namespace of its own, as a runtime makes it before it calls a plugin.
    pub fn pod(&self) -> Result<Pod, Stop> {
        let serial = self.subject.serial.fetch_add(1, Ordering::Relaxed);
        let netns = Arc::new(Netns::create(self.dir.join(format!("pod-{serial}")))?);
        lock(&self.pods).push(Arc::clone(&netns));
        Ok(Pod { container: self.container(serial), netns })
    }

    /// A window into the namespace that the plugin runs in.
    pub fn host(&self) -> Result<Kernel, Stop> {
        Ok(Kernel::of(&self.host)?)
    }

    /// A path that exists and is no network namespace.
    #[must_use]
    pub fn regular_file(&self) -> &Path {
        &self.subject.plugin.path
    }

    /// A path in the run's own directory that does not exist.
    #[must_use]
    pub fn no_such_path(&self) -> PathBuf {
        self.dir.join("no-such-netns")
    }

    /// A call of the plugin with the network configuration and no parameter but `CNI_COMMAND` and `CNI_PATH`.
    pub fn call(&self, command: &'static str) -> Call<'_> {
        Call::new(self, command)
    }

    /// A call for one attachment.
    pub fn call_for(&self, command: &'static str, pod: &Pod, interface: &str) -> Call<'_> {
        self.call(command).with("CNI_CONTAINERID", &pod.container).with("CNI_NETNS", pod.netns.path()).with("CNI_IFNAME", interface)
    }

    /// ADD, which must succeed.
    pub fn add(&self, pod: &Pod, interface: &str) -> Result<Attachment, Stop> {
        let result = self.call_for("ADD", pod, interface).run()?.result()?;
        Ok(Attachment::new(pod, interface, result))
    }

    /// ADD to a pod of its own, as `eth0`.
    pub fn attached(&self) -> Result<Attachment, Stop> {
        self.add(&self.pod()?, "eth0")
    }

    /// A later call for an attachment, with the result of its ADD as `prevResult`.
    pub fn call_again(&self, command: &'static str, attachment: &Attachment) -> Call<'_> {
        self.call_for(command, &attachment.pod, &attachment.interface).conf(&self.conf_with("prevResult", attachment.result.clone()))
    }

    /// DEL, which must succeed.
    pub fn del(&self, attachment: &Attachment) -> Verdict {
        self.call_again("DEL", attachment).run()?.success().map(|_| ())
    }

    /// Waits until `holds`; the case fails, for want of what is `expected`, if it does not in a sixth of a call's timeout.
    pub fn settles(&self, expected: &str, mut holds: impl FnMut() -> Result<bool, Stop>) -> Verdict {
        let bound = self.subject.plugin.timeout / SETTLES_IN_PART_OF_TIMEOUT;
        let deadline = Instant::now() + bound;
        while !holds()? {
            if Instant::now() >= deadline {
                return fail(format!("expected {expected} within {bound:?} of the call, it is not so"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// What was executed so far, in order.
    #[must_use]
    pub fn trace(&self) -> Vec<Execution> {
        lock(&self.trace).clone()
    }

    fn container(&self, serial: u32) -> String {
        format!("conform-{}-{serial}", std::process::id())
    }
}

impl Drop for Stage<'_> {
    /// Deletes what is still attached. Failures have no reader any more: cases on DEL are there to find them.
    fn drop(&mut self) {
        let mut plugin = self.subject.plugin.clone();
        if plugin.interrupted.load(Ordering::Relaxed) {
            plugin.timeout = plugin.timeout.min(CLEAN_UP_WHEN_INTERRUPTED);
        }
        for owed in std::mem::take(&mut *lock(&self.owed)) {
            let mut call = self
                .call("DEL")
                .with("CNI_CONTAINERID", &owed.container)
                .with("CNI_NETNS", &owed.netns)
                .with("CNI_IFNAME", &owed.interface);
            if let Some(result) = owed.result {
                call = call.conf(&self.conf_with("prevResult", result));
            }
            let _ = plugin.execute_to_end(&self.host, call.invocation());
        }
    }
}

fn private_host(dir: &Path, subject: &Subject) -> Result<Netns, Broken> {
    let serial = subject.serial.fetch_add(1, Ordering::Relaxed);
    let netns = Netns::create(dir.join(format!("host-{serial}")))?;
    let mut kernel = Kernel::of(&netns)?;
    if let Some(lo) = kernel.link("lo")? {
        kernel.set_up(&lo)?;
    }
    Ok(netns)
}

/// A case that panicked must not keep the stage from being cleared.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
