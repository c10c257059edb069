//! What can be changed in a store, and how each change is written.

use std::net::IpAddr;

use ipam_supply::memory::CloudRecord;
use ipnetwork::IpNetwork;
use node_api::BootMillis;
use redb::WriteTransaction;

use crate::contents::EndedTraffic;
use crate::record::{AttachmentKey, Record};
use crate::schema::{ATTACHMENTS, CLOUD, CLOUD_NETWORK, ENDED_TRAFFIC, FREED, GIVEN_BACK};

/// A change to commit as one.
#[derive(Debug, Clone)]
pub enum Change<'a> {
    /// An ADD: its addresses are no longer free.
    Attach(&'a Record),
    /// A DEL.
    Detach {
        /// Which attachment ends.
        key: &'a AttachmentKey,
        /// Addresses that it had, and nobody has now.
        freed: &'a [IpAddr],
        /// When they were freed.
        at: BootMillis,
    },
    /// Addresses were freed of an attachment whose name another has by now.
    Free {
        /// Which ones.
        freed: &'a [IpAddr],
        /// When they were freed.
        at: BootMillis,
    },
    /// A block is about to be given back: until it is surely gone or surely not, no pod gets an address of it.
    Release(IpNetwork, BootMillis),
    /// The block stays after all, or was assigned again.
    CancelRelease(IpNetwork),
    /// The cloud has told something else than before.
    Cloud(&'a CloudRecord),
    /// Pods have ended, and these are the sums of their namespaces now.
    Ended(&'a EndedTraffic),
}

pub(crate) fn apply(transaction: &WriteTransaction, change: &Change<'_>) -> Result<(), redb::Error> {
    let free = |freed: &[IpAddr], at: BootMillis| -> Result<(), redb::Error> {
        let mut table = transaction.open_table(FREED)?;
        for address in freed {
            table.insert(address.to_string().as_str(), at.0)?;
        }
        Ok(())
    };
    match change {
        Change::Attach(record) => {
            let bytes = serde_json::to_vec(record).map_err(|why| redb::Error::Io(why.into()))?;
            transaction.open_table(ATTACHMENTS)?.insert(record.key.to_string().as_str(), bytes.as_slice())?;
            let mut freed = transaction.open_table(FREED)?;
            for address in &record.addresses {
                freed.remove(address.to_string().as_str())?;
            }
        }
        Change::Detach { key, freed, at } => {
            transaction.open_table(ATTACHMENTS)?.remove(key.to_string().as_str())?;
            free(freed, *at)?;
        }
        Change::Free { freed, at } => free(freed, *at)?,
        Change::Release(block, at) => {
            transaction.open_table(GIVEN_BACK)?.insert(block.to_string().as_str(), at.0)?;
        }
        Change::CancelRelease(block) => {
            transaction.open_table(GIVEN_BACK)?.remove(block.to_string().as_str())?;
        }
        Change::Cloud(record) => {
            let bytes = serde_json::to_vec(record).map_err(|why| redb::Error::Io(why.into()))?;
            transaction.open_table(CLOUD)?.insert(CLOUD_NETWORK, bytes.as_slice())?;
        }
        Change::Ended(sums) => {
            let mut table = transaction.open_table(ENDED_TRAFFIC)?;
            for (namespace, traffic) in *sums {
                table.insert(namespace.as_str(), *traffic)?;
            }
        }
    }
    Ok(())
}
