//! Other tools' filters on pods' links.
//!
//! What the programs carry passes no filter behind ours, and none on the way into the pod. So a pod whose link has another's filter keeps
//! to the host's stack, where it is seen whole.

use std::collections::HashSet;

use std::collections::HashMap;

use aya::programs::{SchedClassifier, TcAttachType};

use super::uplink_hooks::Hook;
use super::{FastPath, FastPathError, clsact, slot, tables};
use crate::calls::Call;
use crate::netlink::Socket;
use crate::repairs::{self, Kind};
use crate::{Ifindex, host_ifname};

impl FastPath {
    /// Those of `links` whose pods are not carried by the programs, each with why.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn not_carried(&self, links: &[Ifindex]) -> Result<Vec<(Ifindex, &'static str)>, FastPathError> {
        let alone: HashSet<u32> = self.tables.for_the_stack_alone()?.into_iter().collect();
        let in_company = tables::lock(&self.in_company);
        let why = |link: Ifindex| match slot(link) {
            None => Some("the programs' tables have no room for its link's number"),
            Some(_) if in_company.contains_key(&link) => Some("another tool has a filter on its link"),
            Some(slot) if alone.contains(&slot) => Some("it ran before the programs did, and its flows are not known"),
            Some(_) => None,
        };
        Ok(links.iter().filter_map(|link| Some((*link, why(*link)?))).collect())
    }

    /// Looks at the links of some pods: has ours back where it is gone, and leaves pods to the stack on whose link there is another's
    /// filter. Tells all of `living` for which that is so, each with the filter's name. [`FastPath::heal`] lets pods be carried again whose
    /// link is ours alone.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn heed_others(&self, host: &mut Socket, some: &[Ifindex], living: &[Ifindex]) -> Result<Vec<(Ifindex, String)>, FastPathError> {
        let mut found = HashMap::new();
        for link in some.iter().filter(|link| slot(**link).is_some()) {
            let (hooks, other) = clsact::look_at_pod(host, *link)?;
            if hooks.iter().any(|hook| matches!(hook, Hook::Gone(_))) {
                self.restore_hooks(host, *link)?;
                repairs::note(Kind::PodHook, &host_ifname(*link));
            }
            found.extend(other.or_else(|| tcx_program(*link)).map(|name| (*link, name)));
        }
        for slot in found.keys().filter_map(|link| slot(*link)) {
            self.tables.keep_to_the_stack(slot)?;
        }
        let mut in_company = tables::lock(&self.in_company);
        in_company.retain(|link, _| living.contains(link) && !some.contains(link));
        in_company.extend(found);
        let mut told: Vec<_> = in_company.iter().map(|(link, name)| (*link, name.clone())).collect();
        told.sort_unstable();
        Ok(told)
    }

    /// Attaches the programs to a pod's link again. What the stack has had of the pod meanwhile is not noted, so it keeps to the stack until
    /// [`FastPath::heal`] has noted it.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn restore_hooks(&self, host: &mut Socket, link: Ifindex) -> Result<(), FastPathError> {
        let Some(slot) = slot(link) else { return Ok(()) };
        self.tables.keep_to_the_stack(slot)?;
        Ok(clsact::attach_pod(host, link, &self.from_pod, &self.to_pod)?)
    }
}

/// A program of the kind that has no filter. We have none on pods' links; a kernel without the kind has none either.
fn tcx_program(link: Ifindex) -> Option<String> {
    let _call = Call::begin();
    let on_hook = |hook| SchedClassifier::query_tcx(&host_ifname(link), hook).ok().map(|(_, programs)| programs);
    let programs = [TcAttachType::Ingress, TcAttachType::Egress].into_iter().filter_map(on_hook).flatten();
    programs.into_iter().next().map(|program| program.name_as_str().unwrap_or("a TCX program").to_owned())
}
