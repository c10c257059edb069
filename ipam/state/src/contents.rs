//! What a store holds, as it is understood.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipam_supply::memory::CloudMemory;
use node_api::BootMillis;

use crate::record::{LaterRecord, RECORD_FORMAT, Record};
use crate::schema::{CLOUD_NETWORK, Rows};

/// What was counted of pods: packets and bytes of each scope that they sent to, then of each that they received from.
pub type TrafficRow = [u64; 20];

/// Traffic of pods that have ended, by namespace.
pub type EndedTraffic = BTreeMap<String, TrafficRow>;

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct Contents {
    /// Every attachment that this version understands.
    pub records: Vec<Record>,
    /// Attachments that it does not understand. They stay in the store.
    pub later: Vec<LaterRecord>,
    /// Other rows that it does not understand, with the reason. They stay in the store.
    pub unreadable: Vec<(String, String)>,
    /// Freed addresses.
    pub freed: Vec<(IpAddr, BootMillis)>,
    /// What it says of the cloud.
    pub cloud: CloudMemory,
    /// Traffic of pods that have ended.
    pub ended: EndedTraffic,
}

impl From<Rows> for Contents {
    fn from(rows: Rows) -> Self {
        let mut contents = Self { ended: rows.ended, ..Self::default() };
        for (row, bytes) in &rows.attachments {
            match understand(row, bytes) {
                Ok(record) => contents.records.push(record),
                Err(why) => contents.later.push(LaterRecord::of(row, bytes, why)),
            }
        }
        for (address, at) in rows.freed {
            match address.parse() {
                Ok(parsed) => contents.freed.push((parsed, BootMillis(at))),
                Err(_) => contents.unreadable.push((address, "is not an address".to_owned())),
            }
        }
        for (block, at) in rows.released {
            match block.parse() {
                Ok(parsed) => contents.cloud.released.push((parsed, BootMillis(at))),
                Err(_) => contents.unreadable.push((block, "is not a block of addresses".to_owned())),
            }
        }
        if let Some(bytes) = rows.cloud.get(CLOUD_NETWORK) {
            match serde_json::from_slice(bytes) {
                Ok(network) => contents.cloud.network = network,
                Err(why) => contents.unreadable.push(("cloud network".to_owned(), why.to_string())),
            }
        }
        contents
    }
}

fn understand(row: &str, bytes: &[u8]) -> Result<Record, String> {
    let form = serde_json::from_slice::<serde_json::Value>(bytes).map_err(|why| why.to_string())?["format"].as_u64();
    if form.is_some_and(|form| form != u64::from(RECORD_FORMAT)) {
        return Err(format!("it has format {}, this version reads {RECORD_FORMAT}", form.unwrap_or_default()));
    }
    let record: Record = serde_json::from_slice(bytes).map_err(|why| why.to_string())?;
    if record.key.to_string() != row {
        return Err(format!("it is the record of {}", record.key));
    }
    Ok(record)
}
