//! A process without a free descriptor: alone in its program, for the limit is the process's.

use ipam_state::store::{Found, Store, StoreError};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
fn b5_a_store_that_there_is_no_descriptor_for_is_not_damaged() {
    let home = tempfile::tempdir().unwrap();
    drop(Store::open(home.path(), "boot-1").unwrap());
    let before = std::fs::read(home.path().join("store.redb")).unwrap();

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    let outcome = Store::open(home.path(), "boot-1");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();

    let error = outcome.unwrap_err();
    assert!(matches!(error, StoreError::Unreadable { .. }) && error.to_string().contains("LimitNOFILE"), "{error}");
    assert!(std::fs::read(home.path().join("store.redb")).unwrap() == before, "the file was touched");
    assert!(matches!(Store::open(home.path(), "boot-1").unwrap().1, Found::Present(_)));
}
