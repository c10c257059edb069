use super::*;
use crate::contents::{EndedTraffic, TrafficRow};
use crate::record::{AttachmentKey, RECORD_FORMAT, Record};
use ipam_supply::memory::{CloudRecord, Known};
use ipnetwork::IpNetwork;
use node_api::BootMillis;

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
        bandwidth: None,
        internet_egress: None,
        allowed: Vec::new(),
    }
}

fn reopen(home: &Path) -> Contents {
    match Store::open(home, "boot-1").unwrap().1 {
        Found::Present(contents) => *contents,
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
    store.commit(&Change::Detach { key: &a.key, freed: &a.addresses, at: BootMillis(9) }).unwrap();
    drop(store);
    let contents = reopen(home.path());
    assert_eq!(contents.records, [b]);
    assert_eq!(contents.freed, [("10.0.0.1".parse().unwrap(), BootMillis(9))]);
}

#[test]
fn limits_are_there_after_a_restart_and_older_records_have_none() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(home.path(), "boot-1").unwrap();
    let bandwidth = cni_spec::Bandwidth { egress_rate: 10_000_000, ..cni_spec::Bandwidth::default() };
    let limited = Record { bandwidth: Some(bandwidth), internet_egress: Some(1_000), ..record("a", "10.0.0.1") };
    store.commit(&Change::Attach(&limited)).unwrap();
    drop(store);
    assert_eq!(reopen(home.path()).records, [limited]);
    // As a version without limits wrote it.
    let older = serde_json::to_value(record("b", "10.0.0.2")).unwrap();
    assert!(older.get("bandwidth").is_none() && older.get("internet_egress").is_none(), "{older}");
    assert_eq!(serde_json::from_value::<Record>(older).unwrap(), record("b", "10.0.0.2"));
}

#[test]
fn further_addresses_are_there_after_a_restart_and_records_without_them_are_understood() {
    let home = tempfile::tempdir().unwrap();
    let older = include_str!("../../tests/fixtures/record-before-allowed.json").trim();
    let rows = Rows { attachments: [("b/eth0".to_owned(), older.as_bytes().to_vec())].into(), ..Rows::default() };
    let store = Store::write(home.path().join(FILE), "boot-1", &rows).unwrap();
    let allowed = Record { allowed: vec!["10.0.50.7".parse().unwrap(), "fd00:50::7".parse().unwrap()], ..record("a", "10.0.0.1") };
    store.commit(&Change::Attach(&allowed)).unwrap();
    drop(store);
    let contents = reopen(home.path());
    assert!(contents.later.is_empty(), "{:?}", contents.later);
    let [read_a, read_b] = &contents.records[..] else { panic!("{:?}", contents.records) };
    assert_eq!((read_a, read_b.allowed.len(), read_b.internet_egress), (&allowed, 0, Some(1_000)));
    assert_eq!(serde_json::to_string(read_b).unwrap(), older, "what has none is written as before");
}

#[test]
fn what_is_given_back_is_known_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(home.path(), "boot-1").unwrap();
    let [a, b] = ["10.0.1.0/28", "fd00::/80"].map(|text| text.parse::<IpNetwork>().unwrap());
    store.commit(&Change::Release(a, BootMillis(5))).unwrap();
    store.commit(&Change::Release(b, BootMillis(6))).unwrap();
    store.commit(&Change::CancelRelease(a)).unwrap();
    drop(store);
    assert_eq!(reopen(home.path()).cloud.released, [(b, BootMillis(6))]);
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
    let traffic: TrafficRow = std::array::from_fn(|place| 100 * place as u64);
    let sums = EndedTraffic::from([("jobs".to_owned(), traffic), (String::new(), TrafficRow::default())]);
    store.commit(&Change::Ended(&EndedTraffic::from([("jobs".to_owned(), TrafficRow::default())]))).unwrap();
    store.commit(&Change::Ended(&sums)).unwrap();
    drop(store);
    assert_eq!(reopen(home.path()).ended, sums);
}

#[test]
fn an_address_in_use_is_not_freed() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(home.path(), "boot-1").unwrap();
    let a = record("a", "10.0.0.1");
    store.commit(&Change::Detach { key: &a.key, freed: &a.addresses, at: BootMillis(9) }).unwrap();
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
        let [later] = &contents.later[..] else { panic!("{contents:?}") };
        assert_eq!(later.key, Some(record("a", "10.0.0.1").key));
        assert_eq!((&later.addresses[..], later.host_ifindex), (&["10.0.0.1".parse().unwrap()][..], Some(7)));
    }
}

/// What an older program, or a newer one, says of the store's layout.
fn relabel(home: &Path, version: Option<&str>) {
    let database = open_database(&home.join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut meta = transaction.open_table(META).unwrap();
    match version {
        Some(version) => drop(meta.insert("schema", version).unwrap()),
        None => drop(meta.remove("schema").unwrap()),
    }
    drop(meta);
    transaction.commit().unwrap();
}

#[test]
fn i6_a_store_of_a_newer_schema_is_refused_in_words_and_not_touched() {
    let home = tempfile::tempdir().unwrap();
    drop(Store::open(home.path(), "boot-1").unwrap());
    relabel(home.path(), Some("7"));
    let before = std::fs::read(home.path().join(FILE)).unwrap();
    for _ in 0..2 {
        let error = Store::open(home.path(), "boot-1").unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StoreError::NewerSchema { found: 7, .. }), "{text}");
        assert!(text.contains("schema 7") && text.contains("up to 2") && text.contains("start the version that wrote it"), "{text}");
    }
    assert!(std::fs::read(home.path().join(FILE)).unwrap() == before, "the file was touched");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "nothing was moved aside");
    assert!(
        matches!(Store::open(home.path(), "boot-2").unwrap().1, Found::OfAnotherBoot(_)),
        "another boot's is history, whatever it says"
    );
}

#[test]
fn b5_a_store_that_another_process_has_is_not_damaged() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(home.path(), "boot-1").unwrap();
    store.commit(&Change::Attach(&record("a", "10.0.0.1"))).unwrap();
    let error = Store::open(home.path(), "boot-1").unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    drop(store);
    assert_eq!(reopen(home.path()).records.len(), 1);
}

#[test]
fn b5_a_store_that_cannot_be_read_is_not_damaged() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(FILE)).unwrap();
    let error = Store::open(home.path(), "boot-1").unwrap_err();
    assert!(matches!(error, StoreError::Unreadable { .. }), "{error}");
    assert!(home.path().join(FILE).is_dir());
}

#[test]
fn one_damaged_store_is_kept() {
    let home = tempfile::tempdir().unwrap();
    for noise in [b"one", b"two"] {
        std::fs::write(home.path().join(FILE), noise).unwrap();
        assert!(matches!(Store::open(home.path(), "boot-1").unwrap().1, Found::Damaged(..)));
    }
    assert_eq!(std::fs::read(home.path().join(DAMAGED)).unwrap(), b"two");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 2);
}

/// The layout of version 0.1.0, as that version wrote it: `tests/fixtures/README.md` says how.
mod version_1 {
    use super::*;

    const BOOT: &str = "boot-of-the-fixture";

    fn fixture(home: &Path) {
        std::fs::write(home.join(FILE), include_bytes!("../../tests/fixtures/schema-1.redb")).unwrap();
    }

    fn contents_of(home: &Path) -> Contents {
        match Store::open(home, BOOT).unwrap().1 {
            Found::Present(contents) => *contents,
            other => panic!("{other:?}"),
        }
    }

    fn assert_as_written(contents: &Contents) {
        let mut names: Vec<_> = contents.records.iter().map(|record| record.key.to_string()).collect();
        names.sort_unstable();
        assert_eq!(names, ["adopted/eth0", "dual/eth0", "plain/net1"]);
        let dual = contents.records.iter().find(|record| record.addresses.len() == 2).unwrap();
        assert_eq!(dual.addresses, ["10.0.1.7", "fd00::7"].map(|text| text.parse::<std::net::IpAddr>().unwrap()));
        assert_eq!((dual.mac, dual.netns, dual.host_ifindex), (Some([10, 1, 2, 3, 4, 5]), Some((4, 4_026_532_000)), 1 << 20));
        assert_eq!((dual.pod.namespace.as_str(), dual.pod.name.as_str()), ("jobs", "dual-0"));
        let [later] = &contents.later[..] else { panic!("{contents:?}") };
        assert_eq!((later.row.as_str(), &later.addresses[..]), ("later/eth0", &["10.0.1.9".parse().unwrap()][..]));
        assert_eq!(contents.freed, [("10.0.1.20".parse().unwrap(), BootMillis(9000))], "10.0.1.8 is held, and was freed as well");
        assert_eq!(contents.cloud.released, [("10.0.5.0/28".parse().unwrap(), BootMillis(8000))]);
        assert_eq!(contents.cloud.network.uplinks, [("eni-2".to_owned(), 3)].into());
        assert_eq!(contents.ended["jobs"], std::array::from_fn(|place| place as u64));
        assert!(contents.unreadable.is_empty(), "{:?}", contents.unreadable);
    }

    #[test]
    fn is_migrated() {
        let home = tempfile::tempdir().unwrap();
        fixture(home.path());
        for _ in 0..2 {
            assert_as_written(&contents_of(home.path()));
        }
        let database = open_database(&home.path().join(FILE)).unwrap();
        let transaction = database.begin_read().unwrap();
        assert_eq!(schema::label(&transaction).unwrap(), schema::Label { boot_id: Some(BOOT.to_owned()), version: Some(SCHEMA) });
    }

    /// Who goes back to version 0.1.0 and forth again has a store that says 2 and is of the form that 1 wrote; or one that says nothing.
    #[test]
    fn is_migrated_again_after_a_rollback() {
        let home = tempfile::tempdir().unwrap();
        fixture(home.path());
        contents_of(home.path());
        relabel(home.path(), None);
        assert_as_written(&contents_of(home.path()));
    }
}
