//! Certificates that are replaced: whoever connects is shown the new one, who is connected stays, and nobody outlives its own.

use std::sync::atomic::Ordering;
use std::time::Duration;

use fleet::admission::Limits;
use fleet::client::{Client, Config, Files, Identity};
use fleet::tls::{self, SERVER_NAME};
use tokio::sync::watch;

use crate::fixture::{Authority, Node, Running, SOON, in_namespace};

#[test]
fn another_authority_is_shown_to_who_comes_and_ends_no_connection() {
    in_namespace(|| async {
        let (old, new) = (Authority::new(), Authority::new());
        let replica = Running::start(&old, Limits::default()).await;
        replica.serve(2, "default/web", 80);
        let stays = Node::start(&old.node("a"), "a", &[replica.address], None);
        stays.sees("default/web", 80).await;
        replica.server.show(tls::server(&new.server(&[SERVER_NAME], SERVER_NAME)).unwrap());
        let comes = Node::start(&new.node("b"), "b", &[replica.address], None);
        comes.sees("default/web", 80).await;
        replica.serve(3, "default/web", 81);
        stays.sees("default/web", 81).await;
        assert_eq!(stays.client.status().attempts, 1);
        let late = Node::start(&old.node("c"), "c", &[replica.address], None);
        late.until("the old authority is no more", || late.client.status().attempts > 2).await;
        assert_eq!(late.client.status().replica, None);
        for node in [stays, comes, late] {
            node.stop().await;
        }
    });
}

#[test]
fn a_node_comes_back_with_its_next_certificate_before_the_last_has_expired() {
    in_namespace(|| async {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let replica = Running::start(&authority, Limits::default()).await;
        replica.serve(2, "default/web", 80);
        let path = |name: &str| folder.path().join(name);
        let write = |valid: Duration| {
            let shown = authority.node_for("a", valid);
            std::fs::write(path("ca.crt"), &shown.authority).unwrap();
            std::fs::write(path("kubelet.pem"), [shown.certificate, shown.key].concat()).unwrap();
        };
        write(Duration::from_secs(10));
        let client = Client::new(Config {
            identity: Identity::Files(Files { authority: path("ca.crt"), certificate: path("kubelet.pem"), key: path("kubelet.pem") }),
            replicas: vec![replica.address.to_string()],
            file: None,
            save_after: SOON,
            backoff: fleet::backoff::Backoff::new(Duration::from_millis(10), Duration::from_millis(100)),
            reports: None,
        });
        let (stop, stopped) = watch::channel(false);
        let (running, mut changes) = (client.clone(), client.changes());
        let task = tokio::spawn(async move { running.run(stopped).await });
        tokio::time::timeout(SOON, changes.wait_for(|state| state.is_complete())).await.unwrap().unwrap();
        let snapshots = replica.snapshots();
        // kubelet has its next one.
        write(Duration::from_secs(3_600));
        let accepted = || replica.server.counters().accepted.load(Ordering::Relaxed);
        let again = async {
            while accepted() < 2 || client.status().replica.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(SOON, again).await.is_ok(), "{:?}", client.status());
        assert_eq!((accepted(), replica.snapshots()), (2, snapshots), "it goes on where it was: {:?}", client.status());
        stop.send_replace(true);
        tokio::time::timeout(SOON, task).await.unwrap().unwrap();
    });
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_comes_late_is_used_at_once() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("ca.crt"), authority.node("a").authority).unwrap();
    let client = Client::new(Config {
        identity: Identity::Files(Files { authority: path("ca.crt"), certificate: path("kubelet.pem"), key: path("kubelet.pem") }),
        // With nobody to ask nothing is awaited but time.
        replicas: Vec::new(),
        file: None,
        save_after: Duration::from_secs(10),
        backoff: fleet::backoff::Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
        reports: None,
    });
    let (stop, stopped) = watch::channel(false);
    let running = client.clone();
    let task = tokio::spawn(async move { running.run(stopped).await });
    let error = || client.status().last_error.unwrap_or_default();
    for waited in [1, 10, 100, 600, 3_600] {
        tokio::time::sleep(Duration::from_secs(waited)).await;
        assert!(error().contains("kubelet.pem"), "{}", error());
        let shown = authority.node("a");
        std::fs::write(path("kubelet.pem"), [shown.certificate, shown.key].concat()).unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(error().contains("no replica is known"), "after {waited} s without a certificate: {}", error());
        std::fs::remove_file(path("kubelet.pem")).unwrap();
        // Whatever it waits for now, it has seen that.
        tokio::time::sleep(Duration::from_secs(120)).await;
    }
    stop.send_replace(true);
    task.await.unwrap();
}
