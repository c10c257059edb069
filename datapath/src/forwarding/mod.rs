//! What other people's packet filters do to forwarded packets: firewalls, NetworkPolicy engines, kube-proxy. The programs pass those rules
//! by, so they carry nothing that a rule may drop, queue or translate; and where rules drop all that is forwarded, ours let pods' packets pass.
//!
//! Observed as plain data ([`Ruleset`]), judged by a pure function ([`judge`]), applied where rules of ours are missing.

mod accept;
mod class;
mod decode;
mod judge;
mod legacy;
mod nftables;
mod ruleset;

pub use judge::{Judgement, judge};
pub use ruleset::Ruleset;

use std::time::{Duration, Instant};

use crate::netlink::NetlinkError;
use crate::nft_kept;
use ruleset::Family;

/// A ruleset that changes while it is read is read again.
const ATTEMPTS: usize = 5;

/// While firewalld reloads, its rules are not there, and others in their place drop what is new. It takes a fraction of a second. What it said
/// before holds for so long: packets that the programs carry are known to no connection tracking, and would be dropped as new.
const RELOAD_LASTS: Duration = Duration::from_secs(5);

/// Reads other people's rules, and only when they have changed: nftables has a number for that, and the older tables are printed.
#[derive(Debug, Default)]
pub struct Observer {
    read: Option<(Option<u32>, Printed)>,
    ruleset: Ruleset,
    reload: Reload,
}

/// Since when rules have been seen that stand in for others.
#[derive(Debug, Default)]
struct Reload(Option<Instant>);

impl Reload {
    /// Whether what was said before holds still. Pure.
    fn is_under_way(&mut self, is_seen: bool, now: Instant) -> bool {
        if !is_seen {
            self.0 = None;
        }
        is_seen && now.duration_since(*self.0.get_or_insert(now)) < RELOAD_LASTS
    }
}

type Printed = Vec<(Family, Result<String, String>)>;

impl Observer {
    /// The rules as they are now.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn look(&mut self) -> Result<&Ruleset, NetlinkError> {
        let mut now = (nft_kept::generation()?, legacy::print());
        for _ in 0..ATTEMPTS {
            if self.read.as_ref() == Some(&now) {
                break;
            }
            let mut ruleset = Ruleset::default();
            nftables::read(&mut ruleset)?;
            for (family, printed) in &now.1 {
                match printed {
                    Ok(text) => legacy::read(*family, text, &mut ruleset),
                    Err(why) => ruleset.unread.push((*family, why.clone())),
                }
            }
            // A start that comes in the middle of it has nothing to go by but what there is.
            if self.reload.is_under_way(ruleset.is_being_reloaded(), Instant::now()) && self.read.is_some() {
                break;
            }
            self.ruleset = ruleset;
            self.read = Some(now);
            now = (nft_kept::generation()?, self.read.as_ref().map(|(_, printed)| printed.clone()).unwrap_or_default());
        }
        Ok(&self.ruleset)
    }
}

impl Judgement {
    /// Sets the rules that let pods' packets pass as they should be; whether anything was changed.
    ///
    /// # Errors
    /// Why it could not be, in words.
    pub fn accept(&self) -> Result<bool, String> {
        let mut is_changed = false;
        for accept in self.accepts.iter().filter(|accept| !accept.stands()) {
            accept.apply()?;
            is_changed = true;
        }
        Ok(is_changed)
    }
}

/// The older tables that have a chain of that name, in words. Where they cannot be printed, none.
pub(crate) fn legacy_tables_with(chain: &str) -> Vec<String> {
    let printed = legacy::print().into_iter().filter_map(|(family, text)| Some((family, text.ok()?)));
    let has_it = |(_, text): &(Family, String)| {
        text.lines().any(|line| line.strip_prefix(':').is_some_and(|rest| rest.split(' ').next() == Some(chain)))
    };
    printed.filter(has_it).map(|(family, _)| format!("chain {chain} of iptables-legacy ({})", family.keyword())).collect()
}

/// Takes all rules of ours out of other people's chains.
///
/// # Errors
/// Why not, in words.
pub fn remove_accepts() -> Result<(), String> {
    let mut observer = Observer::default();
    let ruleset = observer.look().map_err(|error| error.to_string())?;
    let all = [true, false].into_iter().flat_map(|ipv4| accept::none_wanted(ruleset, ipv4));
    all.filter(|accept| !accept.stands()).try_for_each(|accept| accept.apply())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_that_does_not_end_is_none() {
        let (mut reload, begun) = (Reload::default(), Instant::now());
        assert!(!reload.is_under_way(false, begun));
        assert!(reload.is_under_way(true, begun) && reload.is_under_way(true, begun + RELOAD_LASTS / 2));
        assert!(!reload.is_under_way(true, begun + RELOAD_LASTS));
        assert!(!reload.is_under_way(true, begun + RELOAD_LASTS * 2), "it stays so");
        assert!(!reload.is_under_way(false, begun + RELOAD_LASTS * 3));
        assert!(reload.is_under_way(true, begun + RELOAD_LASTS * 4), "another");
    }
}
