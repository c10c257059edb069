//! How the fleet stands: who is told, of whom, and what is said to who is not.

use std::net::SocketAddr;
use std::time::Duration;

use fleet::admission::Limits;
use fleet::server::Standing;
use fleet::status::{self, AskError, FleetStanding};
use fleet::tls::{self, Credentials};
use fleet_api::message::Service;
use fleet_api::{Change, Kind};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::fixture::{Authority, Node, Running, SOON, in_namespace};
use crate::health::connected;

async fn ask(server: SocketAddr, shown: &Credentials) -> Result<FleetStanding, AskError> {
    let tls = tls::client(shown).unwrap();
    timeout(SOON, status::ask(&[server.to_string()], &tls, true)).await.unwrap()
}

/// Asks until the answer is so.
async fn told(server: SocketAddr, shown: &Credentials, is: impl Fn(&FleetStanding) -> bool) -> FleetStanding {
    let seen = timeout(SOON, async {
        loop {
            let told = ask(server, shown).await.unwrap();
            if is(&told) {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    seen.await.unwrap()
}

fn stands(replica: &Running, leads: bool, leader: Option<&str>) {
    let address = replica.address.to_string();
    // Senders that are gone say nothing more: what was said stays.
    let (leads, leader) = (watch::Sender::new(leads).subscribe(), watch::Sender::new(leader.map(str::to_owned)).subscribe());
    replica.server.stands(Standing { address, leads, leader });
}

#[test]
fn any_replica_tells_people_of_all_replicas_and_their_nodes() {
    in_namespace(|| async {
        let authority = Authority::new();
        let other = Running::start(&authority, Limits::default()).await;
        // One that is not there.
        let lost = "127.0.0.1:9".to_owned();
        let replica = Running::telling(&authority, Limits::default(), vec![lost.clone(), other.address.to_string()]).await;
        stands(&other, true, None);
        stands(&replica, false, Some(&other.address.to_string()));
        replica.serve(2, "default/web", 80);
        let a = Node::start(&authority.node("a"), "a", &[replica.address], None);
        let b = Node::start(&authority.node("b"), "b", &[other.address], None);
        a.sees("default/web", 80).await;
        for shown in [authority.client("ann", "barewire:operators"), authority.client("admin", "system:masters"), authority.replica()] {
            let told = told(replica.address, &shown, |told| told.connected == 2 && told.in_step == 2).await;
            let nodes: Vec<_> = told.nodes.iter().map(|node| (&*node.node, node.replica.clone(), node.lag)).collect();
            assert_eq!(nodes, [("a", replica.address.to_string(), Some(0)), ("b", other.address.to_string(), Some(0))]);
            let of = |address: &str| told.replicas.iter().find(|it| it.replica == address).unwrap();
            assert_eq!(of(&replica.address.to_string()).resource_versions["services"], 2);
            assert!(of(&other.address.to_string()).leads && !of(&replica.address.to_string()).leads);
            assert!(of(&lost).error.as_ref().is_some_and(|error| error.contains("does barewire-fleet run there")), "{told:?}");
        }
        // Asked of the other, which knows of no list.
        assert_eq!(ask(other.address, &authority.replica()).await.unwrap().replicas.len(), 1);
        a.stop().await;
        b.stop().await;
        told(replica.address, &authority.replica(), |told| told.connected == 0).await;
    });
}

#[test]
fn who_may_not_know_is_told_what_it_takes() {
    in_namespace(|| async {
        let (authority, strange) = (Authority::new(), Authority::new());
        let replica = Running::start(&authority, Limits::default()).await;
        let ours = authority.node("a").authority;
        for (shown, words) in [
            (authority.node("a"), "the certificate is of node \"a\""),
            (authority.client("ann", "dev"), "a certificate of \"ann\" in the groups [\"dev\"]"),
            // Of another authority, and one that does not trust the replica.
            (Credentials { authority: ours, ..strange.client("ann", "barewire:operators") }, "no trust: "),
            (strange.client("ann", "barewire:operators"), "no trust: "),
        ] {
            let error = ask(replica.address, &shown).await.unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("--authority") | error.contains("barewire:operators"), "{error}");
        }
        let error = ask("127.0.0.1:9".parse().unwrap(), &authority.replica()).await.unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:9: not reached: ") && error.contains("--server"), "{error}");
        // A person is served nothing that is a node's.
        assert!(replica.server.nodes().is_empty());
    });
}

#[test]
fn a_node_that_takes_nothing_lags() {
    in_namespace(|| async {
        let authority = Authority::new();
        let replica = Running::start(&authority, Limits::default()).await;
        let stuck = connected(&authority.node("stuck"), "stuck", replica.address).await;
        let well = Node::start(&authority.node("well"), "well", &[replica.address], None);
        // More than buffers of sockets hold, and less than the log.
        for number in 0..60 {
            let ranges = vec!["x".repeat(200_000)];
            let change = Change::put(format!("default/{number}"), &Service { source_ranges: ranges, ..Service::default() });
            replica.hub.change(|state| state.log_mut(Kind::Services).record(2 + number, vec![change]));
        }
        replica.serve(100, "default/web", 80);
        well.sees("default/web", 80).await;
        let is_told = |told: &FleetStanding| told.nodes.len() == 2 && told.nodes[1].lag == Some(0);
        let told = told(replica.address, &authority.replica(), is_told).await;
        assert!(told.nodes[0].lag.is_some_and(|lag| lag > 0) && told.in_step == 1, "{told:?}");
        drop(stuck);
        well.stop().await;
    });
}
