//! The layout of a store: its tables, its version, and what makes an older layout the present one (docs/adr/0019).
//!
//! | version | layout |
//! |---|---|
//! | 1 | five tables and `meta` with the boot ID; it says of itself no version. An address may be held and freed at once |
//! | 2 | `meta` says the version; an address that an attachment has is not among the freed ones |
//!
//! A version that an older program can still read and write (both of these) is no obstacle to going back.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};

use crate::contents::{EndedTraffic, TrafficRow};

/// The version that this program writes.
pub const SCHEMA: u32 = 2;

pub(crate) const ATTACHMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("attachments");
/// Address to the moment it was freed, in milliseconds since boot.
pub(crate) const FREED: TableDefinition<'_, &str, u64> = TableDefinition::new("freed");
/// Block of addresses to the moment it was given back, in milliseconds since boot.
pub(crate) const GIVEN_BACK: TableDefinition<'_, &str, u64> = TableDefinition::new("given_back");
/// One row: what the cloud has told of the node's network, as JSON.
pub(crate) const CLOUD: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("cloud");
pub(crate) const CLOUD_NETWORK: &str = "network";
/// Namespace to the traffic of its pods that have ended.
pub(crate) const ENDED_TRAFFIC: TableDefinition<'_, &str, TrafficRow> = TableDefinition::new("ended_traffic");
/// What the store says of itself. Every version has it, with these keys.
pub(crate) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
pub(crate) const BOOT_ID: &str = "boot_id";
const VERSION: &str = "schema";

/// The rows of a store, before anybody has asked what they mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Attachments as JSON, by name.
    pub attachments: BTreeMap<String, Vec<u8>>,
    /// When an address was freed.
    pub freed: BTreeMap<String, u64>,
    /// When a block was given back.
    pub released: BTreeMap<String, u64>,
    /// What the cloud has told, as JSON.
    pub cloud: BTreeMap<String, Vec<u8>>,
    /// Traffic of pods that have ended.
    pub ended: EndedTraffic,
}

/// What makes version n, the place in the list plus one, version n + 1.
const MIGRATIONS: [fn(Rows) -> Rows; SCHEMA as usize - 1] = [held_is_not_freed];

/// The rows of an older version as those of this one.
#[must_use]
pub fn migrate(from: u32, rows: Rows) -> Rows {
    MIGRATIONS.iter().skip((from as usize).saturating_sub(1)).fold(rows, |rows, step| step(rows))
}

/// Version 1 freed an address with the attachment that ended, though it was another's as well.
fn held_is_not_freed(mut rows: Rows) -> Rows {
    for bytes in rows.attachments.values() {
        let record = serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_default();
        for address in record["addresses"].as_array().into_iter().flatten().filter_map(|address| address.as_str()) {
            rows.freed.remove(address);
        }
    }
    rows
}

/// What a store says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) boot_id: Option<String>,
    /// `None` where it says something that is no number.
    pub(crate) version: Option<u32>,
}

pub(crate) fn label(transaction: &ReadTransaction) -> Result<Label, redb::Error> {
    let Some(meta) = if_there(transaction.open_table(META))? else { return Ok(Label { boot_id: None, version: None }) };
    let text = |key| -> Result<Option<String>, redb::Error> { Ok(meta.get(key)?.map(|found| found.value().to_owned())) };
    let version = text(VERSION)?.map_or(Some(1), |version| version.parse().ok());
    Ok(Label { boot_id: text(BOOT_ID)?, version })
}

pub(crate) fn read(transaction: &ReadTransaction) -> Result<Rows, redb::Error> {
    let mut rows = Rows::default();
    for entry in transaction.open_table(ATTACHMENTS)?.iter()? {
        let (key, value) = entry?;
        rows.attachments.insert(key.value().to_owned(), value.value().to_owned());
    }
    for (table, moments) in [(FREED, &mut rows.freed), (GIVEN_BACK, &mut rows.released)] {
        let Some(table) = if_there(transaction.open_table(table))? else { continue };
        for entry in table.iter()? {
            let (key, at) = entry?;
            moments.insert(key.value().to_owned(), at.value());
        }
    }
    if let Some(cloud) = if_there(transaction.open_table(CLOUD))? {
        for entry in cloud.iter()? {
            let (key, value) = entry?;
            rows.cloud.insert(key.value().to_owned(), value.value().to_owned());
        }
    }
    if let Some(ended) = if_there(transaction.open_table(ENDED_TRAFFIC))? {
        for entry in ended.iter()? {
            let (namespace, traffic) = entry?;
            rows.ended.insert(namespace.value().to_owned(), traffic.value());
        }
    }
    Ok(rows)
}

/// Writes all rows anew, with this program's version.
pub(crate) fn write(transaction: &WriteTransaction, boot_id: &str, rows: &Rows) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    meta.insert(BOOT_ID, boot_id)?;
    meta.insert(VERSION, SCHEMA.to_string().as_str())?;
    for (definition, rows) in [(ATTACHMENTS, &rows.attachments), (CLOUD, &rows.cloud)] {
        let mut table = transaction.open_table(definition)?;
        table.retain(|row, _| rows.contains_key(row))?;
        for (row, bytes) in rows {
            table.insert(row.as_str(), bytes.as_slice())?;
        }
    }
    for (definition, rows) in [(FREED, &rows.freed), (GIVEN_BACK, &rows.released)] {
        let mut table = transaction.open_table(definition)?;
        table.retain(|row, _| rows.contains_key(row))?;
        for (row, at) in rows {
            table.insert(row.as_str(), *at)?;
        }
    }
    let mut ended = transaction.open_table(ENDED_TRAFFIC)?;
    ended.retain(|row, _| rows.ended.contains_key(row))?;
    for (namespace, traffic) in &rows.ended {
        ended.insert(namespace.as_str(), *traffic)?;
    }
    Ok(())
}

/// A store of an earlier version may lack a table.
fn if_there<T>(opened: Result<T, TableError>) -> Result<Option<T>, TableError> {
    match opened {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        other => other.map(Some),
    }
}
