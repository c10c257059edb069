//! Work on an attachment beside the operations that runtimes ask for.

use ipam_state::record::Record;

use super::Attachments;
use crate::kernel::Kernel;

impl<K: Kernel> Attachments<K> {
    /// Works on the attachment that `known` was a copy of, as it is now; nothing where it is gone, or somebody else is at work on it: who
    /// is leaves it as it should be, or gone.
    pub(crate) fn while_it_lives<T>(&self, known: &Record, work: impl FnOnce(&Record) -> T) -> Option<T> {
        let _lock = self.try_lock(&known.key)?;
        let record = self.state().records.get(&known.key).cloned();
        record.filter(|record| record.attached_at == known.attached_at).map(|record| work(&record))
    }
}
