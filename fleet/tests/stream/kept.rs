//! What arrives, what is kept, and where nodes go.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleet::admission::Limits;
use fleet::last;
use fleet_api::message::Directive;

use crate::fixture::{Authority, Node, Running, in_namespace, port_of};

#[test]
fn a_change_arrives_is_kept_and_is_not_sent_again() {
    in_namespace(|| async {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let file = folder.path().join("fleet.state");
        let replica = Running::start(&authority, Limits::default()).await;
        replica.serve(2, "default/web", 80);
        let credentials = authority.node("a");
        let node = Node::start(&credentials, "a", &[replica.address], Some(&file));
        node.sees("default/web", 80).await;
        replica.serve(3, "default/web", 81);
        node.sees("default/web", 81).await;
        assert!(node.client.status().age.unwrap() < Duration::from_secs(20));
        node.stop().await;
        let snapshots = replica.snapshots();

        // Nobody listens: what was known is served at once.
        let nowhere = "127.0.0.1:1".parse().unwrap();
        let alone = Node::start(&credentials, "a", &[nowhere], Some(&file));
        assert_eq!(alone.client.view(|state| port_of(state, "default/web")), Some(81));
        alone.until("an attempt", || alone.client.status().last_error.is_some()).await;
        let status = alone.client.status();
        assert!(status.replica.is_none() && status.age.is_some() && status.file_error.is_none(), "{status:?}");
        alone.stop().await;

        // The fleet again: what is missing, and no snapshot.
        replica.serve(4, "default/web", 82);
        let again = Node::start(&credentials, "a", &[nowhere, replica.address], Some(&file));
        again.sees("default/web", 82).await;
        assert_eq!(replica.snapshots(), snapshots);
        assert!(again.client.status().received_bytes < 300, "{:?}", again.client.status());
        again.stop().await;
    });
}

#[test]
fn a_drain_sends_nodes_on_and_they_resume_there() {
    in_namespace(|| async {
        let authority = Authority::new();
        let (one, other) = (Running::start(&authority, Limits::default()).await, Running::start(&authority, Limits::default()).await);
        for replica in [&one, &other] {
            replica.serve(2, "default/web", 80);
        }
        let node = Node::start(&authority.node("a"), "a", &[one.address], None);
        node.sees("default/web", 80).await;
        one.server.drain(vec![other.address.to_string()], Duration::from_millis(50));
        let there = other.address.to_string();
        node.until("the other replica", || node.client.status().replica.as_ref() == Some(&there)).await;
        other.serve(3, "default/web", 81);
        node.sees("default/web", 81).await;
        // Of slices there are none, and of none there is a snapshot.
        assert_eq!(other.snapshots(), 0);
        node.until("gone from the first", || one.server.nodes().is_empty()).await;
        node.stop().await;
    });
}

#[test]
fn a_replica_that_a_node_was_told_of_is_found_when_its_own_are_gone() {
    in_namespace(|| async {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let (credentials, file) = (authority.node("a"), folder.path().join("state"));
        let new = Running::start(&authority, Limits::default()).await;
        let there = new.address.to_string();
        let old = Running::telling(&authority, Limits::default(), vec![there.clone()]).await;
        for replica in [&old, &new] {
            replica.serve(2, "default/web", 80);
        }
        let configured = [old.address];
        let node = Node::start(&credentials, "a", &configured, Some(&file));
        node.sees("default/web", 80).await;
        assert_eq!(node.client.status().replica, Some(configured[0].to_string()));
        drop(old);
        node.until("the new replica", || node.client.status().replica.as_ref() == Some(&there)).await;
        new.serve(3, "default/web", 81);
        node.sees("default/web", 81).await;
        assert_eq!(new.snapshots(), 0);
        node.stop().await;

        // The next life has it from the file.
        new.serve(4, "default/web", 82);
        let again = Node::start(&credentials, "a", &configured, Some(&file));
        again.sees("default/web", 82).await;
        assert_eq!(again.client.status().attempts, 1);
        again.stop().await;
    });
}

#[test]
fn a_directive_reaches_its_node_alone() {
    in_namespace(|| async {
        let authority = Authority::new();
        let replica = Running::start(&authority, Limits::default()).await;
        let start = |name| Node::start(&authority.node(name), name, &[replica.address], None);
        let (a, b) = (start("a"), start("b"));
        replica.serve(2, "default/web", 80);
        a.sees("default/web", 80).await;
        b.sees("default/web", 80).await;
        replica.hub.change(|replica| {
            replica.direct("a", Directive { number: 1, cordon: true, ..Directive::default() });
            true
        });
        a.until("the directive", || a.client.view(|state| state.directive().is_some_and(|directive| directive.cordon))).await;
        replica.serve(3, "default/web", 81);
        b.sees("default/web", 81).await;
        assert_eq!(b.client.view(|state| state.directive().cloned()), None);
        a.stop().await;
        b.stop().await;
    });
}

#[test]
fn a_damaged_file_and_a_full_disk_are_told_and_survived() {
    in_namespace(|| async {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let replica = Running::start(&authority, Limits::default()).await;
        replica.serve(2, "default/web", 80);
        let file = folder.path().join("fleet.state");
        std::fs::write(&file, b"bwfleet\x01 and then nothing of sense").unwrap();
        let credentials = authority.node("a");
        let node = Node::start(&credentials, "a", &[replica.address], Some(&file));
        let error = node.client.status().file_error.unwrap();
        assert!(error.contains("fleet.state: it is damaged"), "{error}");
        node.sees("default/web", 80).await;
        node.stop().await;
        assert_eq!(last::load(&file).unwrap().map(|saved| port_of(&saved.state, "default/web")), Some(Some(80)));

        // A folder that is not there fails as a full disk does: each time, until it no longer does.
        let nowhere = folder.path().join("gone/fleet.state");
        let node = Node::start(&credentials, "a", &[replica.address], Some(&nowhere));
        node.sees("default/web", 80).await;
        node.until("the word of it", || node.client.status().file_error.is_some()).await;
        replica.serve(3, "default/web", 81);
        node.sees("default/web", 81).await;
        std::fs::create_dir(folder.path().join("gone")).unwrap();
        node.until("the end of it", || node.client.status().file_error.is_none()).await;
        node.stop().await;
        assert!(last::load(&nowhere).unwrap().is_some());
    });
}

#[test]
fn a_clock_that_is_an_hour_off_spoils_an_age_and_nothing_else() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fleet.state");
        let later = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(3_600);
        let bytes = fleet_api::Saved::encode(&fleet_api::NodeState::default(), u64::try_from(later.as_millis()).unwrap());
        std::fs::write(&file, bytes).unwrap();
        let node = Node::start(&Authority::new().node("a"), "a", &[], Some(&file));
        assert_eq!(node.client.status().age, Some(Duration::ZERO));
        node.until("no replica", || node.client.status().last_error.is_some_and(|error| error.contains("no replica is known"))).await;
        node.stop().await;
    });
}
