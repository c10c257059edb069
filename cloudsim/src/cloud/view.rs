//! How readers see interfaces: late, and now and then with a gap.

use std::sync::Arc;

use super::Cloud;
use super::history::History;
use super::id::{InstanceId, InterfaceId};
use super::interface::Interface;
use crate::faults::MetadataFaults;
use crate::time::Millis;

impl Cloud {
    /// How far behind readers of an interface are: drawn once for each, and always the same.
    pub(super) fn lag_of(&self, id: InterfaceId) -> Millis {
        let lag = self.faults.reads.lag.0;
        if lag == 0 { Millis::ZERO } else { Millis(scatter(id.0 ^ self.settings.seed) % (lag + 1)) }
    }

    /// The interface as a describe at `now` shows it.
    pub(super) fn seen(&mut self, now: Millis, id: InterfaceId) -> Option<Arc<Interface>> {
        let mut lag = self.lag_of(id);
        if !self.went_back.contains(&id) && self.chance(self.faults.reads.back_in_time) {
            self.went_back.insert(id);
            lag = self.faults.reads.lag;
        }
        let interface = Arc::clone(self.interfaces.get(&id)?.at(now - lag)?);
        Some(self.with_gap(interface, self.faults.reads.omissions))
    }

    /// The interfaces of an instance as its metadata shows them at `now`, by hardware address.
    pub(crate) fn shown_by_metadata(&mut self, now: Millis, instance: InstanceId, faults: &MetadataFaults) -> Vec<Arc<Interface>> {
        let Some(listed) = self.instances.get(&instance).map(|instance| &instance.interfaces) else { return Vec::new() };
        let histories = listed.iter().filter_map(|id| self.interfaces.get(id));
        let shown: Vec<_> = histories.filter_map(|history| shown(history, now, instance, faults)).collect();
        let mut interfaces: Vec<_> = shown.into_iter().map(|interface| self.with_gap(interface, faults.omissions)).collect();
        interfaces.sort_by_key(|interface| interface.mac);
        interfaces
    }

    fn with_gap(&mut self, mut interface: Arc<Interface>, omissions: f64) -> Arc<Interface> {
        let extras = interface.extras();
        if extras > 0 && self.chance(omissions) {
            let number = self.random.usize(..extras);
            Arc::make_mut(&mut interface).omit(number);
        }
        interface
    }
}

/// An interface whose additions and removals show late. An interface that comes or goes does so as a whole.
fn shown(history: &History<Interface>, now: Millis, instance: InstanceId, faults: &MetadataFaults) -> Option<Arc<Interface>> {
    let at = |time| {
        let then: &Arc<Interface> = history.at(time)?;
        let attachment = then.attachment.as_ref()?;
        (attachment.instance == instance && attachment.device.is_some()).then_some(then)
    };
    let (early, late) = (at(now - faults.additions_late), at(now - faults.removals_late));
    let Some(present) = at(now) else { return late.cloned() };
    let early = early?;
    let late = late.unwrap_or(present);
    if Arc::ptr_eq(early, present) && Arc::ptr_eq(late, present) {
        return Some(Arc::clone(present));
    }
    let mut interface = present.as_ref().clone();
    interface.secondary = merged(&present.secondary, &early.secondary, &late.secondary);
    interface.ipv4_prefixes = merged(&present.ipv4_prefixes, &early.ipv4_prefixes, &late.ipv4_prefixes);
    interface.ipv6 = merged(&present.ipv6, &early.ipv6, &late.ipv6);
    interface.ipv6_prefixes = merged(&present.ipv6_prefixes, &early.ipv6_prefixes, &late.ipv6_prefixes);
    Some(Arc::new(interface))
}

/// What is there and was there already at the early time, and what was there at the late time and is gone.
fn merged<T: PartialEq + Clone>(present: &[T], early: &[T], late: &[T]) -> Vec<T> {
    let settled = present.iter().filter(|one| early.contains(one));
    settled.chain(late.iter().filter(|one| !present.contains(one))).cloned().collect()
}

/// The finalizer of SplitMix64.
pub(crate) const fn scatter(value: u64) -> u64 {
    let mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
