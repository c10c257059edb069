//! Other tools' filters on pods' links.
//!
//! What the programs carry passes no filter behind ours, and none on the way into the pod. So a pod whose link has another's filter keeps
//! to the host's stack, where it is seen whole.

use std::collections::HashSet;
use std::sync::PoisonError;

use aya::programs::{SchedClassifier, TcAttachType};

use super::uplink_hooks::Hook;
use super::{FastPath, FastPathError, clsact, slot};
use crate::netlink::Socket;
use crate::{Ifindex, host_ifname};

impl FastPath {
    /// Looks at the links of pods: has ours back where it is gone, and leaves pods to the stack on whose link there is another's filter.
    /// Tells these, each with the filter's name. [`FastPath::heal`] lets pods be carried again whose link is ours alone.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn heed_others(&self, host: &mut Socket, links: &[Ifindex]) -> Result<Vec<(Ifindex, String)>, FastPathError> {
        let mut found = Vec::new();
        for link in links.iter().filter(|link| slot(**link).is_some()) {
            let (hooks, other) = clsact::look_at_pod(host, *link)?;
            if hooks.iter().any(|hook| matches!(hook, Hook::Gone(_))) {
                clsact::attach_pod(host, *link, &self.from_pod, &self.to_pod)?;
            }
            found.extend(other.or_else(|| tcx_program(*link)).map(|name| (*link, name)));
        }
        let slots: HashSet<u32> = found.iter().filter_map(|(link, _)| slot(*link)).collect();
        for slot in &slots {
            self.tables.keep_to_the_stack(*slot)?;
        }
        *self.in_company.lock().unwrap_or_else(PoisonError::into_inner) = slots;
        Ok(found)
    }
}

/// A program of the kind that has no filter. We have none on pods' links; a kernel without the kind has none either.
fn tcx_program(link: Ifindex) -> Option<String> {
    let on_hook = |hook| SchedClassifier::query_tcx(&host_ifname(link), hook).ok().map(|(_, programs)| programs);
    let programs = [TcAttachType::Ingress, TcAttachType::Egress].into_iter().filter_map(on_hook).flatten();
    programs.into_iter().next().map(|program| program.name_as_str().unwrap_or("a TCX program").to_owned())
}
