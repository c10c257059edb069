//! Which uplinks are open to what the programs carry.
//!
//! A way is open when both hooks of its uplink stand, and are first: a program that sees one direction of a flow alone leaves the host's
//! connection tracking with the other half. So a way is closed before its hooks are touched, opened after both were seen, and looked at again
//! and again. A hook that is gone is attached anew. One that another program went ahead of is put first again, twice; whoever goes ahead
//! a third time means it, and the way stays closed until that program is gone: two tools that push each other aside help nobody.

use serde::Serialize;

use super::uplink_hooks::{Hook, Kind, Programs};
use super::{FastPath, FastPathError, uplink_hooks};
use crate::netlink::Socket;
use crate::repairs;
use crate::{Ifindex, Uplink};

/// How often ours goes first again before the others have their way.
const PUSHES_MAX: u8 = 2;

/// What is known of one uplink's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    ifindex: Ifindex,
    ifname: String,
    kind: Kind,
    hooks: [Hook; 2],
    is_open: bool,
    /// Looks in a row at which another was ahead.
    pushes: u8,
    /// Why attaching failed last.
    refused: Option<String>,
}

/// All ways, and whether programs of this daemon's are what has to be there.
#[derive(Debug, Default)]
pub(super) struct Ways {
    ways: Vec<Way>,
    /// Why the programs know no network: then nothing is carried.
    pub(super) no_network: Option<String>,
}

/// How an uplink carries the programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UplinkHooks {
    /// Its name.
    pub uplink: String,
    /// `tcx` or `clsact`
    pub kind: &'static str,
    /// Whether the programs carry packets by it, in both directions.
    pub open: bool,
    /// `stands`, or what is wrong with the way in.
    pub ingress: String,
    /// Likewise of the way out.
    pub egress: String,
    /// Why it is not open.
    pub why: Option<String>,
}

/// What to do about the hooks as they were found. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Both stand.
    Nothing,
    /// Attach again what is gone.
    Attach,
    /// Take ours off and put it first.
    GoFirst,
    /// Another will be first.
    GiveWay,
}

fn step(hooks: &[Hook; 2], pushes: u8) -> Step {
    let is_behind = hooks.iter().any(|hook| matches!(hook, Hook::Behind(_)));
    match () {
        () if hooks.iter().any(|hook| matches!(hook, Hook::Gone(_))) => Step::Attach,
        () if !is_behind => Step::Nothing,
        () if pushes < PUSHES_MAX => Step::GoFirst,
        () => Step::GiveWay,
    }
}

fn stand(hooks: &[Hook; 2]) -> bool {
    hooks.iter().all(|hook| *hook == Hook::Stands)
}

impl FastPath {
    /// Sees to it that these uplinks carry the programs, and no others; opens those that do, each way at once, and closes the rest.
    /// To be called again and again: what somebody has taken off since is attached anew.
    ///
    /// # Errors
    /// Where an uplink does not carry the programs; it is closed, and so are all where the network is not known. The others are open.
    pub fn attach_uplinks(&self, host: &mut Socket, uplinks: &[Uplink]) -> Result<(), FastPathError> {
        // Without a place for pins nothing is attached.
        let unpinned = self.map_pins.restore().err();
        let folder = uplink_hooks::folder(&self.pins);
        // One at a time. Who wants to know of the ways does not wait for the kernel.
        let mut programs = self.lock_programs();
        let (before, may_open) = {
            let ways = self.lock_ways();
            (ways.ways.clone(), ways.no_network.is_none())
        };
        let mut first_refusal = None;
        let mut found = Vec::new();
        for uplink in uplinks {
            let known = before.iter().find(|way| way.ifindex == uplink.ifindex && way.refused.is_none());
            let whose = if known.is_some() { Programs::Ours } else { Programs::Any };
            let (kind, hooks) = match uplink_hooks::look(host, &programs, &folder, uplink, whose) {
                Ok(seen) => seen,
                Err(error) => {
                    let gone = || Hook::Gone("it could not be looked at".to_owned());
                    keep_first(&mut first_refusal, error);
                    (Kind::Clsact, [gone(), gone()])
                }
            };
            let pushes = before.iter().find(|way| way.ifindex == uplink.ifindex).map_or(0, |way| way.pushes);
            let is_open = stand(&hooks) && may_open;
            let pushes = if stand(&hooks) { 0 } else { pushes };
            let way = Way { ifindex: uplink.ifindex, ifname: uplink.ifname.clone(), kind, hooks, is_open, pushes, refused: None };
            found.push((uplink, way, whose));
        }
        // Closed before anything is attached, opened after it was seen.
        self.open(found.iter().map(|(uplink, way, _)| (*uplink, way)))?;
        for (uplink, way, whose) in &mut found {
            let step = match step(&way.hooks, way.pushes) {
                Step::Nothing if *whose == Programs::Any => Step::Attach,
                step => step,
            };
            if let Some(why) = unpinned.as_ref().filter(|_| matches!(step, Step::Attach | Step::GoFirst)) {
                way.refused = Some(why.to_string());
                way.is_open = false;
                continue;
            }
            let done = match step {
                Step::Nothing => continue,
                Step::GiveWay => Ok(()),
                Step::Attach => uplink_hooks::attach(host, &mut programs, &folder, uplink),
                Step::GoFirst => {
                    way.pushes += 1;
                    uplink_hooks::detach(host, &folder, uplink.ifindex)
                        .and_then(|()| uplink_hooks::attach(host, &mut programs, &folder, uplink))
                }
            };
            if done.is_ok() && *whose == Programs::Ours && matches!(step, Step::Attach | Step::GoFirst) {
                repairs::note(repairs::Kind::UplinkHook, &uplink.ifname);
            }
            let seen = done.and_then(|()| uplink_hooks::look(host, &programs, &folder, uplink, Programs::Ours));
            match seen {
                Ok((kind, hooks)) => (way.kind, way.hooks) = (kind, hooks),
                Err(error) => {
                    way.refused = Some(error.to_string());
                    keep_first(&mut first_refusal, error);
                }
            }
            way.is_open = way.refused.is_none() && stand(&way.hooks) && may_open;
        }
        self.open(found.iter().map(|(uplink, way, _)| (*uplink, way)))?;
        let found: Vec<_> = found.into_iter().map(|(_, way, _)| way).collect();
        found.clone_into(&mut self.lock_ways().ways);
        let ifindexes: Vec<_> = uplinks.iter().map(|uplink| uplink.ifindex).collect();
        let retained = uplink_hooks::retain(host, &folder, &ifindexes);
        let closed = found
            .iter()
            .find(|way| !way.is_open && may_open)
            .map(|way| FastPathError::Closed { name: way.ifname.clone(), why: why(way).unwrap_or_default() });
        first_refusal.or(unpinned).or(closed).map_or(retained, Err)
    }

    fn open<'a>(&self, ways: impl Iterator<Item = (&'a Uplink, &'a Way)>) -> Result<(), FastPathError> {
        let open: Vec<_> = ways.filter(|(_, way)| way.is_open).map(|(uplink, _)| uplink.clone()).collect();
        self.tables.set_uplinks(&open)
    }

    /// The uplinks, and how they carry the programs.
    #[must_use]
    pub fn uplink_hooks(&self) -> Vec<UplinkHooks> {
        let ways = self.lock_ways();
        let report = |way: &Way| {
            let [ingress, egress] = [0, 1].map(|at| told(&way.hooks[at]));
            let kind = if way.kind == Kind::Tcx { "tcx" } else { "clsact" };
            let why = ways.no_network.clone().or_else(|| why(way)).filter(|_| !way.is_open);
            UplinkHooks { uplink: way.ifname.clone(), kind, open: way.is_open, ingress, egress, why }
        };
        ways.ways.iter().map(report).collect()
    }
}

fn keep_first(first: &mut Option<FastPathError>, error: FastPathError) {
    if first.is_none() {
        *first = Some(error);
    }
}

fn told(hook: &Hook) -> String {
    match hook {
        Hook::Stands => "stands".to_owned(),
        Hook::Behind(who) => format!("behind {who}"),
        Hook::Gone(how) => how.clone(),
    }
}

fn why(way: &Way) -> Option<String> {
    let hook = || way.hooks.iter().zip(["ingress", "egress"]).find(|(hook, _)| **hook != Hook::Stands);
    way.refused.clone().or_else(|| hook().map(|(hook, name)| format!("{name}: {}", told(hook))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_attached_and_who_insists_on_being_first_is() {
        let (gone, behind) = (Hook::Gone(String::new()), Hook::Behind(String::new()));
        assert_eq!(step(&[Hook::Stands, Hook::Stands], 2), Step::Nothing);
        assert_eq!(step(&[Hook::Stands, gone.clone()], 0), Step::Attach);
        assert_eq!(step(&[behind.clone(), gone], 2), Step::Attach);
        assert_eq!(step(&[behind.clone(), Hook::Stands], 0), Step::GoFirst);
        assert_eq!(step(&[behind.clone(), behind.clone()], 1), Step::GoFirst);
        assert_eq!(step(&[Hook::Stands, behind], 2), Step::GiveWay);
    }
}
