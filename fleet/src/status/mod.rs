//! How the fleet stands: asked of its replicas themselves, over their listener for nodes, so that it is told while the API server is away.
//!
//! One replica is asked first; what it says of the others is asked of them.

mod ask;
mod shown;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet_api::Kind;
use fleet_api::message::Status;
use rustls::ClientConfig;
use serde::Serialize;
use tokio::task::JoinSet;

pub use ask::AskError;
pub use shown::{Shown, ShownError};
pub use text::table;

/// A node that has not said where it is for so long lags, whatever it has been sent: three signs of life.
const CONFIRM_MILLIS: u64 = 90_000;

/// One replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStanding {
    /// Where it was asked.
    pub replica: String,
    /// Why it has not answered; the rest is nothing then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The program and its version.
    pub program: String,
    /// It leads.
    pub leads: bool,
    /// It has listed all kinds.
    pub ready: bool,
    /// Nodes that are connected to it.
    pub nodes: usize,
    /// As of which `resourceVersion` its tables are, by kind.
    pub resource_versions: BTreeMap<&'static str, u64>,
}

/// One node that is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStanding {
    /// Its name.
    pub node: String,
    /// To which replica.
    pub replica: String,
    /// From where.
    pub address: String,
    /// For how long, in milliseconds.
    pub age_millis: u64,
    /// Changes that it has not been sent; nothing while it is sent whole tables.
    pub lag: Option<u64>,
    /// How long ago it has last said where it is, in milliseconds.
    pub confirmed_millis: Option<u64>,
}

impl NodeStanding {
    /// It has been sent all there is, and has said so lately, or has not been there long enough to.
    #[must_use]
    pub fn is_in_step(&self) -> bool {
        self.lag == Some(0) && self.confirmed_millis.unwrap_or(self.age_millis) < CONFIRM_MILLIS
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetStanding {
    /// The UID of the cluster.
    pub cluster: String,
    /// All replicas that are known of.
    pub replicas: Vec<ReplicaStanding>,
    /// How many nodes are connected, and how many of them are in step.
    pub connected: usize,
    /// Likewise.
    pub in_step: usize,
    /// Nodes, by name: those that lag, or all.
    pub nodes: Vec<NodeStanding>,
}

/// Asks one of `servers`, and then all that it knows of.
///
/// # Errors
/// Where none of them answers: why, of each.
pub async fn ask(servers: &[String], tls: &Arc<ClientConfig>, with_all: bool) -> Result<FleetStanding, AskError> {
    let mut errors = Vec::new();
    for server in servers {
        match ask::replica(server, Arc::clone(tls)).await {
            Ok(first) => return Ok(everything(server, first, tls, with_all).await),
            Err(error) => errors.push(format!("{server}: {error}")),
        }
    }
    Err(AskError::Nobody(errors.join("\n")))
}

async fn everything(server: &str, first: Status, tls: &Arc<ClientConfig>, with_all: bool) -> FleetStanding {
    // A replica that does not know where it is reached is where it was.
    let name = if first.replica.is_empty() { server } else { &first.replica }.to_owned();
    let mut asked = JoinSet::new();
    let leader = Some(&first.leader).filter(|leader| !leader.is_empty() && !first.replicas.contains(leader));
    for other in first.replicas.iter().chain(leader).filter(|other| **other != name) {
        let (other, tls) = (other.clone(), Arc::clone(tls));
        asked.spawn(async move {
            let status = ask::replica(&other, tls).await;
            (other, status)
        });
    }
    let mut heard: Vec<_> = asked.join_all().await;
    heard.push((name, Ok(first)));
    gather(heard, with_all)
}

/// Of what each has said. A node that has moved meanwhile, and is heard of twice, is where it came last.
fn gather(mut heard: Vec<(String, Result<Status, AskError>)>, with_all: bool) -> FleetStanding {
    heard.sort_by(|(a, _), (b, _)| a.cmp(b));
    let (mut cluster, mut replicas, mut nodes) = (String::new(), Vec::new(), BTreeMap::<String, NodeStanding>::new());
    for (replica, status) in heard {
        let (status, error) = match status {
            Ok(status) => (status, None),
            Err(error) => (Status::default(), Some(error.to_string())),
        };
        let Status { program, leads, ready, positions, nodes: of, .. } = status;
        if !status.cluster.is_empty() {
            cluster = status.cluster;
        }
        let named = |kind: Kind| positions.iter().find(|at| at.kind == kind.number()).map(|at| (name(kind), at.resource_version));
        let resource_versions = Kind::ALL.into_iter().filter_map(named).collect();
        replicas.push(ReplicaStanding { replica: replica.clone(), error, program, leads, ready, nodes: of.len(), resource_versions });
        for node in of {
            let standing = NodeStanding {
                node: node.name,
                replica: replica.clone(),
                address: node.address,
                age_millis: node.age_millis,
                lag: node.lag,
                confirmed_millis: node.confirmed_millis,
            };
            let is_newer = nodes.get(&standing.node).is_none_or(|known| standing.age_millis < known.age_millis);
            if is_newer {
                nodes.insert(standing.node.clone(), standing);
            }
        }
    }
    let (connected, in_step) = (nodes.len(), nodes.values().filter(|node| node.is_in_step()).count());
    let nodes = nodes.into_values().filter(|node| with_all || !node.is_in_step()).collect();
    FleetStanding { cluster, replicas, connected, in_step, nodes }
}

const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Services => "services",
        Kind::Endpoints => "endpoints",
    }
}

#[cfg(test)]
mod tests {
    use fleet_api::message::{ConnectedNode, Position};

    use super::*;

    fn node(name: &str, age: u64, lag: Option<u64>, confirmed: Option<u64>) -> ConnectedNode {
        let address = "10.0.0.9:4000".to_owned();
        ConnectedNode { name: name.to_owned(), address, age_millis: age * 1_000, lag, confirmed_millis: confirmed.map(|it| it * 1_000) }
    }

    fn two() -> Vec<(String, Result<Status, AskError>)> {
        let positions =
            vec![Position { kind: 1, resource_version: 7, checksum: 0 }, Position { kind: 99, resource_version: 8, checksum: 0 }];
        let nodes = vec![
            node("well", 7_300, Some(0), Some(12)),
            node("new", 3, Some(0), None),
            node("moved", 600, Some(0), Some(95)),
            node("behind", 600, Some(12), Some(20)),
            node("whole", 1, None, None),
        ];
        let b = Status { cluster: "c".to_owned(), program: "p 1".to_owned(), ready: true, positions, nodes, ..Status::default() };
        let a = Status { cluster: "c".to_owned(), leads: true, nodes: vec![node("moved", 2, Some(0), None)], ..Status::default() };
        let lost = Err(AskError::Slow);
        vec![("b:1".to_owned(), Ok(b)), ("c:1".to_owned(), lost), ("a:1".to_owned(), Ok(a))]
    }

    #[test]
    fn replicas_are_told_with_those_that_are_lost_and_nodes_once() {
        let all = gather(two(), true);
        assert_eq!((all.connected, all.in_step, &*all.cluster), (5, 3, "c"));
        let names: Vec<_> = all.nodes.iter().map(|node| (&*node.node, &*node.replica)).collect();
        assert_eq!(names, [("behind", "b:1"), ("moved", "a:1"), ("new", "b:1"), ("well", "b:1"), ("whole", "b:1")]);
        let lagging = gather(two(), false);
        assert_eq!((lagging.connected, lagging.nodes.len()), (5, 2));
        let replicas: Vec<_> = all.replicas.iter().map(|it| (&*it.replica, it.leads, it.ready, it.nodes, it.error.is_some())).collect();
        assert_eq!(replicas, [("a:1", true, false, 1, false), ("b:1", false, true, 5, false), ("c:1", false, false, 0, true)]);
        assert_eq!(all.replicas[1].resource_versions, BTreeMap::from([("services", 7)]), "kinds of the future are passed over");
    }

    #[test]
    fn people_read_replicas_then_who_lags() {
        let said = format!("c:1: {}\n", AskError::Slow);
        assert_eq!(
            table(&gather(two(), false)),
            format!(
                "REPLICA  LEADER  READY  NODES  SERVICES  ENDPOINTS  PROGRAM\n\
                 a:1      yes     no     1      -         -          -\n\
                 b:1      -       yes    5      7         -          p 1\n\
                 c:1      -       -      -      -         -          -\n\
                 {said}\
                 \n\
                 NODE    REPLICA  AGE  LAG    CONFIRMED  ADDRESS\n\
                 behind  b:1      10m  12     20s        10.0.0.9:4000\n\
                 whole   b:1      1s   whole  -          10.0.0.9:4000\n\
                 3 of 5 nodes that are connected are in step\n"
            )
        );
    }
}
