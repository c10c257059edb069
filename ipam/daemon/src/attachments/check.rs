//! CHECK.

use cni_spec::{Code, Error};
use datapath::Ifindex;
use ipam_state::record::AttachmentKey;
use node_api::CheckRequest;

use super::Attachments;
use super::differences::{self, Found};
use super::link::pod_link;
use crate::cni_errors;
use crate::kernel::Kernel;

impl<K: Kernel> Attachments<K> {
    /// Compares an attachment with what was made of it.
    ///
    /// # Errors
    /// [`Code::UnknownContainer`] and [`Code::AttachmentChanged`]
    pub fn check(&self, request: &CheckRequest, netns: &K::Netns) -> Result<(), Error> {
        let key = AttachmentKey { container_id: request.container_id.clone(), ifname: request.ifname.clone() };
        let _lock = self.lock(&key)?;
        if let Some(later) = self.state().later.get(&key) {
            let msg = format!("{key} is attached, and its record is not understood ({}); upgrade barewired", later.why);
            return Err(Error::new(Code::TryAgainLater, msg));
        }
        let Some(record) = self.state().records.get(&key).cloned() else {
            return Err(Error::new(Code::UnknownContainer, format!("{key} is not attached; ADD it first")));
        };
        let record = self.looked_after(record);
        let pod = self.kernel.inspect(netns, key.ifname.as_str(), &record.addresses).map_err(|error| cni_errors::wiring(&error))?;
        let host = self.kernel.inspect_host_end(Ifindex(record.host_ifindex), &record.addresses);
        let host = host.map_err(|error| cni_errors::netlink(&error))?;
        let found = Found { netns: self.kernel.netns_id(netns), pod: pod.as_ref(), host: host.as_ref() };
        let mut changes = differences::of(&record, &request.expected, &found);
        if let Some(link) = pod_link(&record).filter(|_| host.is_some()) {
            let lacks = self.kernel.programs_lack(&link).map_err(|error| cni_errors::wiring(&error))?;
            changes.extend(lacks.into_iter().map(str::to_owned));
        }
        if changes.is_empty() {
            return Ok(());
        }
        Err(Error::new(Code::AttachmentChanged, format!("{key}: {}; delete the pod to have it attached anew", changes.join("; "))))
    }
}
