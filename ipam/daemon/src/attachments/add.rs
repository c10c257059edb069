//! ADD.

use cni_spec::{AddResult, Code, Error};
use datapath::Ifindex;
use ipam_state::record::{AttachmentKey, Record};
use ipam_state::store::Change;
use node_api::{AddRequest, BootMillis};

use super::lock::AttachmentLock;
use super::result::result;
use super::{Attachments, link, owns};
use crate::cni_errors;
use crate::kernel::Kernel;
use crate::latencies::AddRefusal;

/// An attachment that its caller has still to be told of. Until this is dropped no other operation on it begins.
pub struct Attached<'a, K: Kernel> {
    /// What the caller is told.
    pub result: AddResult,
    attachments: &'a Attachments<K>,
    _lock: AttachmentLock<'a, K>,
    /// What this ADD has made; nothing where an earlier one was answered, and this one is answered alike.
    made: Option<Record>,
}

impl<K: Kernel> Attached<'_, K> {
    /// Says in the log what was made. Whoever asked has its answer by then: a line takes longer than some of the ADD's netlink requests.
    pub fn log(&self) {
        if let Some(Record { key, addresses, allowed, pod, .. }) = &self.made {
            tracing::info!(attachment = %key, ?addresses, ?allowed, namespace = pod.namespace, pod = pod.name, "attached");
        }
    }

    /// Undoes the ADD, whose answer has reached nobody. What an earlier ADD was answered for stays.
    pub fn undo(self, now: BootMillis) {
        if let Some(record) = &self.made {
            tracing::warn!(attachment = %record.key, "ADD abandoned by its caller, undone");
            self.attachments.release(record, now);
        }
    }
}

impl<K: Kernel> std::fmt::Debug for Attached<'_, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached").field("result", &self.result).field("made", &self.made).finish_non_exhaustive()
    }
}

impl<K: Kernel> Attachments<K> {
    /// Attaches a pod. An identical ADD that was answered before is answered alike. `awaited` says whether the caller still waits for the
    /// answer: it is asked before anything is done, and again before it is made durable.
    ///
    /// # Errors
    /// As the runtime is told; nothing is left behind.
    pub fn add(
        &self,
        request: &AddRequest,
        netns: &K::Netns,
        awaited: &dyn Fn() -> Result<(), Error>,
        now: BootMillis,
    ) -> Result<Attached<'_, K>, Error> {
        let outcome = self.try_add(request, netns, awaited, now);
        if let Err(error) = &outcome {
            self.metrics.refused_add(self.reason_of_refusal(error, now));
        }
        outcome
    }

    /// For the count of refused ADDs.
    fn reason_of_refusal(&self, error: &Error, now: BootMillis) -> AddRefusal {
        match error.code {
            Code::TryAgainLater => self.faults(now).iter().find_map(AddRefusal::of).unwrap_or(AddRefusal::Other),
            Code::IoFailure => AddRefusal::Store,
            Code::WiringFailed => AddRefusal::Wiring,
            _ => AddRefusal::Request,
        }
    }

    fn try_add(
        &self,
        request: &AddRequest,
        netns: &K::Netns,
        awaited: &dyn Fn() -> Result<(), Error>,
        now: BootMillis,
    ) -> Result<Attached<'_, K>, Error> {
        let key = AttachmentKey { container_id: request.container_id.clone(), ifname: request.ifname.clone() };
        let lock = self.lock(&key)?;
        let now = lock.since(now);
        let known = self.state().records.get(&key).cloned();
        if let Some(known) = known {
            if self.is_alive(&known, netns)? {
                let result = result(&self.looked_after(known), &request.netns_path);
                return Ok(Attached { result, attachments: self, _lock: lock, made: None });
            }
            // Its interface is gone: the ADD is a new one for a container that lost its network.
            self.release(&known, now);
        }
        self.make_way(&key, now)?;
        let mut reservation = self.reserve(request, key, now)?;
        awaited()?;
        reservation.wire(netns)?;
        awaited()?;
        let record =
            reservation.record(request, netns).ok_or_else(|| Error::new(Code::WiringFailed, "the pod's link was not made; try again"))?;
        self.commit(&Change::Attach(&record)).map_err(|error| cni_errors::store(&error))?;
        reservation.keep();
        self.state().records.insert(record.key.clone(), record.clone());
        self.kernel.open_account(&record);
        self.announce(&record);
        Ok(Attached { result: result(&record, &request.netns_path), attachments: self, _lock: lock, made: Some(record) })
    }

    /// Ends an attachment of this name that is not understood and whose interface is gone. One whose interface is there is somebody's.
    fn make_way(&self, key: &AttachmentKey, now: BootMillis) -> Result<(), Error> {
        let Some(later) = self.state().later.get(key).cloned() else { return Ok(()) };
        let links = self.kernel.links().map_err(|error| cni_errors::netlink(&error))?;
        if links.iter().any(|found| link::is_of(found, key)) {
            let msg = format!("{key} is attached, and its record is not understood ({}); DEL it first, or upgrade barewired", later.why);
            return Err(Error::new(Code::AlreadyAttached, msg));
        }
        self.release_later(&later, now);
        Ok(())
    }

    /// Whether the attachment is there as an ADD for this namespace would make it.
    fn is_alive(&self, known: &Record, netns: &K::Netns) -> Result<bool, Error> {
        if !link::is_in(known, self.kernel.netns_id(netns)) {
            let host = self.kernel.inspect_host_end(Ifindex(known.host_ifindex), &[]).map_err(|error| cni_errors::netlink(&error))?;
            if host.is_some_and(|host| owns(known, &host.link)) {
                let msg = format!("{} is attached in another network namespace; DEL it first", known.key);
                return Err(Error::new(Code::AlreadyAttached, msg));
            }
            return Ok(false);
        }
        let pod = self.kernel.inspect(netns, known.key.ifname.as_str(), &[]).map_err(|error| cni_errors::wiring(&error))?;
        Ok(pod.is_some_and(|pod| known.addresses.iter().all(|address| pod.addresses.contains(address))))
    }
}
