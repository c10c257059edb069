use std::fs::FileTimes;
use std::time::SystemTime;

use proptest::prelude::*;

use super::*;

fn named(container: &str, ifname: &str) -> DelRequest {
    DelRequest { container_id: container.parse().unwrap(), ifname: ifname.parse().unwrap() }
}

fn del(id: &str) -> DelRequest {
    named(id, "eth0")
}

fn dels(directory: &Path) -> Vec<DelRequest> {
    read(directory).unwrap().into_iter().map(|entry| entry.content.unwrap().del).collect()
}

#[test]
fn what_is_queued_is_read_once_each() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("queue");
    assert!(read(&directory).unwrap().is_empty());
    for id in ["a", "b", "a"] {
        enqueue(&directory, del(id)).unwrap();
    }
    let mut ids: Vec<_> = dels(&directory).into_iter().map(|del| del.container_id.to_string()).collect();
    ids.sort();
    assert_eq!(ids, ["a", "b"]);
}

#[test]
fn a_damaged_file_is_reported_and_does_not_hide_the_others() {
    let home = tempfile::tempdir().unwrap();
    enqueue(home.path(), del("a")).unwrap();
    std::fs::write(home.path().join("x.del"), "{").unwrap();
    std::fs::create_dir(home.path().join("y.del")).unwrap();
    std::fs::write(home.path().join(".draft.1"), "half").unwrap();
    let mut kinds: Vec<_> = read(home.path())
        .unwrap()
        .into_iter()
        .map(|entry| match entry.content {
            Ok(_) => "whole",
            Err(EntryError::NotUnderstood(_)) => "not understood",
            Err(EntryError::Unreadable(_)) => "unreadable",
        })
        .collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["not understood", "unreadable", "whole"]);
}

#[test]
fn a_file_of_any_version_is_read_whatever_its_name() {
    let home = tempfile::tempdir().unwrap();
    for (name, text) in [
        // As 0.1.0 named and wrote it.
        ("c1-eth0.del", include_str!("../../tests/golden/queued-v1.json")),
        ("c2:eth0.del", include_str!("../../tests/golden/queued-later.json")),
    ] {
        std::fs::write(home.path().join(name), text).unwrap();
    }
    let mut ids: Vec<_> = dels(home.path()).into_iter().map(|del| del.container_id.to_string()).collect();
    ids.sort();
    assert_eq!(ids, ["c1", "c2"]);
}

#[test]
fn our_own_file_is_written_as_the_golden_one() {
    let text = include_str!("../../tests/golden/queued-v1.json").trim();
    let queued: QueuedDel = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&queued).unwrap(), text);
}

#[test]
fn the_longest_names_fit() {
    let home = tempfile::tempdir().unwrap();
    let longest = named(&"c".repeat(200), "fifteen-bytes-x");
    enqueue(home.path(), longest.clone()).unwrap();
    assert_eq!(dels(home.path()), [longest]);
}

#[test]
fn only_old_drafts_are_removed() {
    let home = tempfile::tempdir().unwrap();
    remove_abandoned_drafts(&home.path().join("none")).unwrap();
    enqueue(home.path(), del("a")).unwrap();
    let aged = |name: &str, seconds: u64| {
        let file = File::create(home.path().join(name)).unwrap();
        let then = SystemTime::now() - Duration::from_secs(seconds);
        file.set_times(FileTimes::new().set_modified(then)).unwrap();
    };
    aged(".c1:eth0.77", 120);
    aged(".c1-eth0.78", 120);
    aged(".c1:eth0.79", 0);
    aged("old.del", 120);
    remove_abandoned_drafts(home.path()).unwrap();
    let mut left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, [".c1:eth0.79", "a:eth0.del", "old.del"]);
}

proptest! {
    // Each case makes files.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn distinct_attachments_have_distinct_files(text in "[a-b][-_.ab]{2,14}") {
        // All that one text can be taken apart to: whatever joins two names, these would meet.
        let apart = (1..text.len() - 1).map(|at| (&text[..at], &text[at + 1..])).chain((1..text.len()).map(|at| text.split_at(at)));
        let queued: Vec<DelRequest> =
            apart.filter(|(_, ifname)| !matches!(*ifname, "." | "..")).map(|(container, ifname)| named(container, ifname)).collect();
        let home = tempfile::tempdir().unwrap();
        for del in &queued {
            enqueue(home.path(), del.clone()).unwrap();
        }
        let found = dels(home.path());
        prop_assert_eq!(found.len(), queued.len());
        prop_assert!(queued.iter().all(|del| found.contains(del)));
        // Nothing is left of the writing.
        prop_assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), queued.len());
    }
}
