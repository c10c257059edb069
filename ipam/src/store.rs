//! What survives a crash of the daemon: attachments, when which address was freed, and what is being given back to the cloud.
//!
//! One redb file in the run directory. Its lifetime is the kernel's: it bears the boot ID, and a store of another boot is
//! moved aside, for every veth that it speaks of is gone. A store that cannot be read is moved aside too, never deleted
//! (invariant I6), and the kernel, which keeps owner and addresses of every link, is asked instead (docs/adr/0004).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use datapath::fast_path::{Counter, Traffic};
use ipnetwork::IpNetwork;
use node_api::BootMillis;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::accounts::Ended;
use crate::cloud_record::{CloudMemory, CloudRecord};
use crate::record::{AttachmentKey, RECORD_FORMAT, Record};

const ATTACHMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("attachments");
/// Address to the moment it was freed, [`BootMillis`].
const FREED: TableDefinition<'_, &str, u64> = TableDefinition::new("freed");
/// Block of addresses to the moment it was given back, [`BootMillis`].
const GIVEN_BACK: TableDefinition<'_, &str, u64> = TableDefinition::new("given_back");
/// One row: what the cloud has told of the node's network, as JSON.
const CLOUD: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("cloud");
const NETWORK: &str = "network";
/// Namespace to the traffic of its pods that have ended, see [`row_of_traffic`].
const ENDED_TRAFFIC: TableDefinition<'_, &str, [u64; TRAFFIC_WORDS]> = TableDefinition::new("ended_traffic");
/// Packets and bytes, each scope, each direction.
const TRAFFIC_WORDS: usize = 20;
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
const BOOT_ID: &str = "boot_id";
const FILE: &str = "store.redb";
/// redb's default of a gigabyte is for data sets; this one is some kilobytes.
const CACHE_BYTES: usize = 1 << 20;

/// A read or write that failed.
#[derive(Debug, thiserror::Error)]
#[error("the store {}: {source}", path.display())]
pub struct StoreError {
    path: PathBuf,
    #[source]
    source: Box<redb::Error>,
}

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct Contents {
    /// Every attachment that this version understands.
    pub records: Vec<Record>,
    /// Keys of records that it does not understand, with the reason. They stay in the store.
    pub unreadable: Vec<(String, String)>,
    /// Freed addresses.
    pub freed: Vec<(IpAddr, BootMillis)>,
    /// What it says of the cloud.
    pub cloud: CloudMemory,
    /// Traffic of pods that have ended.
    pub ended: Ended,
}

/// How a store was found.
#[derive(Debug)]
pub enum Found {
    /// It is of this boot and whole.
    Present(Contents),
    /// There was none.
    Absent,
    /// It was of another boot and was moved to this file.
    OfAnotherBoot(PathBuf),
    /// It could not be read, was moved to this file, and this is why.
    Damaged(PathBuf, String),
}

/// A change to commit as one.
#[derive(Debug, Clone)]
pub enum Change<'a> {
    /// An ADD: its addresses are no longer free.
    Attach(&'a Record),
    /// A DEL: its addresses are free from this moment.
    Detach(&'a Record, BootMillis),
    /// A block is about to be given back: until it is surely gone or surely not, no pod gets an address of it.
    GiveBack(IpNetwork, BootMillis),
    /// The block stays after all, or was assigned again.
    Keep(IpNetwork),
    /// The cloud has told something else than before.
    Cloud(&'a CloudRecord),
    /// Pods have ended, and these are the sums of their namespaces now.
    Ended(&'a Ended),
}

/// The store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// `None` after a failed write: redb refuses all further work on such a handle, so it is opened anew.
    database: Mutex<Option<Database>>,
}

impl Store {
    /// Opens or makes the store in `run_dir`.
    ///
    /// # Errors
    /// Where the file system does not let us.
    pub fn open(run_dir: &Path, boot_id: &str) -> Result<(Self, Found), StoreError> {
        let path = run_dir.join(FILE);
        let fail = |source: redb::Error| StoreError { path: path.clone(), source: Box::new(source) };
        if !path.exists() {
            return Ok((Self::create(&path, boot_id).map_err(fail)?, Found::Absent));
        }
        let (aside, found) = match open_database(&path).and_then(|database| read(&database, boot_id).map(|contents| (database, contents))) {
            Ok((database, Some(contents))) => {
                let store = Self { path, database: Mutex::new(Some(database)) };
                return Ok((store, Found::Present(contents)));
            }
            Ok((_, None)) => {
                let aside = run_dir.join("store.other-boot.redb");
                (aside.clone(), Found::OfAnotherBoot(aside))
            }
            Err(why) => {
                let aside = run_dir.join(format!("store.damaged-{}.redb", BootMillis::now().unwrap_or_default().0));
                (aside.clone(), Found::Damaged(aside, why.to_string()))
            }
        };
        std::fs::rename(&path, aside).map_err(|error| fail(redb::Error::Io(error)))?;
        Ok((Self::create(&path, boot_id).map_err(fail)?, found))
    }

    fn create(path: &Path, boot_id: &str) -> Result<Self, redb::Error> {
        let database = open_database(path)?;
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert(BOOT_ID, boot_id)?;
        transaction.open_table(ATTACHMENTS)?;
        transaction.open_table(FREED)?;
        transaction.open_table(GIVEN_BACK)?;
        transaction.open_table(CLOUD)?;
        transaction.open_table(ENDED_TRAFFIC)?;
        transaction.commit()?;
        Ok(Self { path: path.to_owned(), database: Mutex::new(Some(database)) })
    }

    /// Makes a change durable. When it returns an error nothing of the change is in the store.
    ///
    /// # Errors
    /// A full disk, for instance; the next commit starts afresh.
    pub fn commit(&self, change: &Change<'_>) -> Result<(), StoreError> {
        self.transact(|transaction| apply(transaction, change))
    }

    /// Whether a commit would succeed: makes one that changes nothing.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn probe(&self) -> Result<(), StoreError> {
        self.transact(|transaction| {
            let boot_id = transaction.open_table(META)?.get(BOOT_ID)?.map(|found| found.value().to_owned());
            transaction.open_table(META)?.insert(BOOT_ID, boot_id.unwrap_or_default().as_str())?;
            Ok(())
        })
    }

    fn transact(&self, work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>) -> Result<(), StoreError> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = transact(&self.path, &mut slot, work);
        outcome.map_err(|source| {
            *slot = None;
            StoreError { path: self.path.clone(), source: Box::new(source) }
        })
    }
}

fn transact(
    path: &Path,
    slot: &mut Option<Database>,
    work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let database = match slot {
        Some(database) => database,
        None => slot.insert(open_database(path)?),
    };
    let transaction = database.begin_write()?;
    work(&transaction)?;
    Ok(transaction.commit()?)
}

fn apply(transaction: &WriteTransaction, change: &Change<'_>) -> Result<(), redb::Error> {
    let mut attachments = transaction.open_table(ATTACHMENTS)?;
    let mut freed = transaction.open_table(FREED)?;
    match change {
        Change::Attach(record) => {
            let bytes = serde_json::to_vec(record).map_err(|why| redb::Error::Io(why.into()))?;
            attachments.insert(row(&record.key).as_str(), bytes.as_slice())?;
            for address in &record.addresses {
                freed.remove(address.to_string().as_str())?;
            }
        }
        Change::Detach(record, at) => {
            attachments.remove(row(&record.key).as_str())?;
            for address in &record.addresses {
                freed.insert(address.to_string().as_str(), at.0)?;
            }
        }
        Change::GiveBack(block, at) => {
            transaction.open_table(GIVEN_BACK)?.insert(block.to_string().as_str(), at.0)?;
        }
        Change::Keep(block) => {
            transaction.open_table(GIVEN_BACK)?.remove(block.to_string().as_str())?;
        }
        Change::Cloud(record) => {
            let bytes = serde_json::to_vec(record).map_err(|why| redb::Error::Io(why.into()))?;
            transaction.open_table(CLOUD)?.insert(NETWORK, bytes.as_slice())?;
        }
        Change::Ended(sums) => {
            let mut table = transaction.open_table(ENDED_TRAFFIC)?;
            for (namespace, traffic) in *sums {
                table.insert(namespace.as_str(), row_of_traffic(traffic))?;
            }
        }
    }
    Ok(())
}

fn row_of_traffic(traffic: &Traffic) -> [u64; TRAFFIC_WORDS] {
    let mut row = [0; TRAFFIC_WORDS];
    for (place, counter) in row.chunks_exact_mut(2).zip(traffic.sent.iter().chain(&traffic.received)) {
        place.copy_from_slice(&[counter.packets, counter.bytes]);
    }
    row
}

fn traffic_of_row(row: &[u64; TRAFFIC_WORDS]) -> Traffic {
    let counter = |at: usize| Counter { packets: row[at * 2], bytes: row[at * 2 + 1] };
    Traffic { sent: std::array::from_fn(counter), received: std::array::from_fn(|scope| counter(scope + 5)) }
}

/// Neither part can contain a slash.
fn row(key: &AttachmentKey) -> String {
    key.to_string()
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    Ok(Database::builder().set_cache_size(CACHE_BYTES).create(path)?)
}

/// `None` where the store is of another boot.
fn read(database: &Database, boot_id: &str) -> Result<Option<Contents>, redb::Error> {
    let transaction = database.begin_read()?;
    if transaction.open_table(META)?.get(BOOT_ID)?.is_none_or(|found| found.value() != boot_id) {
        return Ok(None);
    }
    let mut contents = Contents::default();
    for entry in transaction.open_table(ATTACHMENTS)?.iter()? {
        let (key, value) = entry?;
        match understand(key.value(), value.value()) {
            Ok(record) => contents.records.push(record),
            Err(why) => contents.unreadable.push((key.value().to_owned(), why)),
        }
    }
    for entry in transaction.open_table(FREED)?.iter()? {
        let (address, at) = entry?;
        match address.value().parse() {
            Ok(parsed) => contents.freed.push((parsed, BootMillis(at.value()))),
            Err(_) => contents.unreadable.push((address.value().to_owned(), "is not an address".into())),
        }
    }
    if let Some(given_back) = if_there(transaction.open_table(GIVEN_BACK))? {
        for entry in given_back.iter()? {
            let (block, at) = entry?;
            match block.value().parse() {
                Ok(parsed) => contents.cloud.given_back.push((parsed, BootMillis(at.value()))),
                Err(_) => contents.unreadable.push((block.value().to_owned(), "is not a block of addresses".into())),
            }
        }
    }
    if let Some(cloud) = if_there(transaction.open_table(CLOUD))?
        && let Some(row) = cloud.get(NETWORK)?
    {
        match serde_json::from_slice(row.value()) {
            Ok(network) => contents.cloud.network = network,
            Err(why) => contents.unreadable.push(("cloud network".to_owned(), why.to_string())),
        }
    }
    if let Some(ended) = if_there(transaction.open_table(ENDED_TRAFFIC))? {
        for entry in ended.iter()? {
            let (namespace, row) = entry?;
            contents.ended.insert(namespace.value().to_owned(), traffic_of_row(&row.value()));
        }
    }
    Ok(Some(contents))
}

/// A store that an earlier version of this program has made may lack a table.
fn if_there<T>(opened: Result<T, redb::TableError>) -> Result<Option<T>, redb::TableError> {
    match opened {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        other => other.map(Some),
    }
}

fn understand(key: &str, bytes: &[u8]) -> Result<Record, String> {
    let record: Record = serde_json::from_slice(bytes).map_err(|why| why.to_string())?;
    if record.format != RECORD_FORMAT {
        return Err(format!("has format {}, this version reads {RECORD_FORMAT}", record.format));
    }
    if row(&record.key) != key {
        return Err(format!("is the record of {}", record.key));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud_record::Known;

    fn record(container: &str, address: &str) -> Record {
        Record {
            format: RECORD_FORMAT,
            key: AttachmentKey { container_id: container.parse().unwrap(), ifname: "eth0".parse().unwrap() },
            network: "barewire".parse().unwrap(),
            pod: cni_spec::PodIdentity::default(),
            netns: Some((4, 7)),
            host_ifname: "bw0".into(),
            host_ifindex: 7,
            mtu: 9001,
            mac: Some([2, 0, 0, 0, 0, 1]),
            addresses: vec![address.parse().unwrap()],
            attached_at: BootMillis(5),
        }
    }

    fn reopen(home: &Path) -> Contents {
        match Store::open(home, "boot-1").unwrap().1 {
            Found::Present(contents) => contents,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let (store, found) = Store::open(home.path(), "boot-1").unwrap();
        assert!(matches!(found, Found::Absent));
        let (a, b) = (record("a", "10.0.0.1"), record("b", "10.0.0.2"));
        store.commit(&Change::Attach(&a)).unwrap();
        store.commit(&Change::Attach(&b)).unwrap();
        store.commit(&Change::Detach(&a, BootMillis(9))).unwrap();
        drop(store);
        let contents = reopen(home.path());
        assert_eq!(contents.records, [b]);
        assert_eq!(contents.freed, [("10.0.0.1".parse().unwrap(), BootMillis(9))]);
    }

    #[test]
    fn what_is_given_back_is_known_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(home.path(), "boot-1").unwrap();
        let [a, b] = ["10.0.1.0/28", "fd00::/80"].map(|text| text.parse::<IpNetwork>().unwrap());
        store.commit(&Change::GiveBack(a, BootMillis(5))).unwrap();
        store.commit(&Change::GiveBack(b, BootMillis(6))).unwrap();
        store.commit(&Change::Keep(a)).unwrap();
        drop(store);
        assert_eq!(reopen(home.path()).cloud.given_back, [(b, BootMillis(6))]);
    }

    #[test]
    fn what_the_cloud_has_told_is_known_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(home.path(), "boot-1").unwrap();
        let blocks = vec![("10.0.1.0/28".parse().unwrap(), "eni-2".to_owned())];
        let known = Known { blocks, native: vec!["10.0.0.0/16".parse().unwrap()], ..Known::default() };
        let record = CloudRecord { known, uplinks: [("eni-2".to_owned(), 3)].into() };
        store.commit(&Change::Cloud(&CloudRecord::default())).unwrap();
        store.commit(&Change::Cloud(&record)).unwrap();
        drop(store);
        assert_eq!(reopen(home.path()).cloud.network, record);
    }

    #[test]
    fn what_ended_pods_have_used_is_known_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(home.path(), "boot-1").unwrap();
        let mut traffic = Traffic::default();
        for (number, counter) in traffic.sent.iter_mut().chain(&mut traffic.received).enumerate() {
            *counter = Counter { packets: number as u64, bytes: 100 * number as u64 };
        }
        let sums = Ended::from([("jobs".to_owned(), traffic), (String::new(), Traffic::default())]);
        store.commit(&Change::Ended(&Ended::from([("jobs".to_owned(), Traffic::default())]))).unwrap();
        store.commit(&Change::Ended(&sums)).unwrap();
        drop(store);
        assert_eq!(reopen(home.path()).ended, sums);
    }

    #[test]
    fn an_address_in_use_is_not_freed() {
        let home = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(home.path(), "boot-1").unwrap();
        let a = record("a", "10.0.0.1");
        store.commit(&Change::Detach(&a, BootMillis(9))).unwrap();
        store.commit(&Change::Attach(&a)).unwrap();
        drop(store);
        assert!(reopen(home.path()).freed.is_empty());
    }

    #[test]
    fn a_store_of_another_boot_is_history() {
        let home = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(home.path(), "boot-1").unwrap();
        store.commit(&Change::Attach(&record("a", "10.0.0.1"))).unwrap();
        drop(store);
        let (_store, found) = Store::open(home.path(), "boot-2").unwrap();
        let Found::OfAnotherBoot(aside) = found else { panic!("{found:?}") };
        assert!(aside.exists());
    }

    #[test]
    fn a_truncated_store_is_moved_aside_at_every_length() {
        let home = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(home.path(), "boot-1").unwrap();
        store.commit(&Change::Attach(&record("a", "10.0.0.1"))).unwrap();
        drop(store);
        let path = home.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 1, 64, 511, 4096, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (store, found) = Store::open(home.path(), "boot-1").unwrap();
            let Found::Damaged(aside, _) = found else { panic!("{length}: {found:?}") };
            // redb writes a header into an empty file before we can look.
            assert!(length == 0 || std::fs::read(aside).unwrap().len() == length);
            drop(store);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_record_of_a_later_form_stays() {
        let home = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(home.path(), "boot-1").unwrap();
        let mut later = record("a", "10.0.0.1");
        later.format = RECORD_FORMAT + 1;
        store.commit(&Change::Attach(&later)).unwrap();
        drop(store);
        for _ in 0..2 {
            let contents = reopen(home.path());
            assert!(contents.records.is_empty());
            assert_eq!(contents.unreadable[0].0, "a/eth0");
        }
    }
}
