//! The server of the stream: a task and a place in the log for each node, and no queue; and what other replicas forward while this one leads;
//! and how the replica stands, for whom asks.

mod asked;
mod conversation;
mod replicas;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use conversation::{Conversation, Ended};
use fleet_api::message::{Forwarded, FromFleet, FromNode, Moved, Position, Report, ToNode};
use fleet_api::{HELLO_MAX, Session, encode};
use fleet_plans::bucket::Bucket;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use crate::admission::{Addresses, Limits};
use crate::hub::Hub;
use crate::identity::{self, Peer};
use crate::reports::Reports;

pub use asked::Standing;
pub use replicas::SIGN;

/// Without a sign of life: several of them.
pub const SILENT: Duration = Duration::from_secs(10);
/// From the connection to the hello.
const BEGIN: Duration = Duration::from_secs(10);
/// Handshakes and hellos that are under way. One address has fewer.
const BEGINNING: usize = 512;
/// Between two signs of life.
const CHECKPOINT: Duration = Duration::from_secs(30);
/// After a report nothing of the node is read for so long. Nodes keep [`Report::AGAIN`] between two, several times this.
const REPORT_GAP: Duration = Duration::from_millis(100);
/// What is sent before the node's own words are looked at again.
const BUDGET: usize = 64 << 10;

/// Where nodes go when this replica ends.
#[derive(Debug, Clone)]
struct Drain {
    replicas: Vec<String>,
    within: Duration,
}

/// What can be counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that were accepted.
    pub accepted: AtomicU64,
    /// Of these, without a handshake, as their address had too many.
    pub crowded: AtomicU64,
    /// Ended before they were served.
    pub refused: AtomicU64,
    /// Bytes of frames that were sent.
    pub sent_bytes: AtomicU64,
    /// Snapshots that were begun.
    pub snapshots: AtomicU64,
    /// Reports of nodes' health that were heard.
    pub reports: AtomicU64,
    /// Those that were of no use, and passed over.
    pub bad_reports: AtomicU64,
    /// Reports that other replicas have forwarded to this one.
    pub forwarded_reports: AtomicU64,
}

/// What is known of a node that is connected.
#[derive(Debug, Clone)]
pub struct Connected {
    /// From where.
    pub address: SocketAddr,
    /// Where it last said that it is.
    pub seen: Vec<Position>,
    /// When it said so.
    confirmed: Option<Instant>,
    since: Instant,
    sent: Arc<asked::Sent>,
    number: u64,
}

/// Serves the nodes of one replica.
#[derive(Debug)]
pub struct Server {
    hub: Arc<Hub>,
    limits: Limits,
    counters: Counters,
    addresses: Mutex<Addresses>,
    nodes: Mutex<HashMap<String, Connected>>,
    beginning: Semaphore,
    drain: watch::Sender<Option<Drain>>,
    /// Instead of what it was started with.
    tls: Mutex<Option<Arc<ServerConfig>>>,
    served: AtomicU64,
    reports: Arc<Reports>,
    replicas: Mutex<replicas::Replicas>,
    standing: OnceLock<Standing>,
}

/// Who has said hello, and was heard.
enum Begun<'a> {
    Node(Entered<'a>, Session),
    Replica(replicas::Forwards<'a>),
    /// Asks how the replica stands, and has been answered.
    Asked,
}

impl Server {
    /// Over a replica's state.
    #[must_use]
    pub fn new(hub: Arc<Hub>, limits: Limits) -> Self {
        Self {
            hub,
            limits,
            counters: Counters::default(),
            addresses: Mutex::default(),
            nodes: Mutex::default(),
            beginning: Semaphore::new(BEGINNING),
            drain: watch::Sender::new(None),
            tls: Mutex::default(),
            served: AtomicU64::new(0),
            reports: Arc::default(),
            replicas: Mutex::default(),
            standing: OnceLock::new(),
        }
    }

    /// Who this replica is among the others, for whom asks; said once.
    pub fn stands(&self, standing: Standing) {
        drop(self.standing.set(standing));
    }

    /// What nodes say of their health.
    #[must_use]
    pub fn reports(&self) -> &Arc<Reports> {
        &self.reports
    }

    /// Counted since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The nodes that are connected, by name.
    #[must_use]
    pub fn nodes(&self) -> HashMap<String, Connected> {
        lock(&self.nodes).clone()
    }

    /// How many nodes are connected.
    #[must_use]
    pub fn connected(&self) -> usize {
        lock(&self.nodes).len()
    }

    /// How many nodes are connected to the replicas that forward their reports to this one.
    #[must_use]
    pub fn connected_elsewhere(&self) -> usize {
        lock(&self.replicas).nodes()
    }

    /// How many replicas forward their nodes' reports to this one.
    #[must_use]
    pub fn forwarding(&self) -> usize {
        lock(&self.replicas).len()
    }

    /// Sends every node to one of `replicas` (or to any other) within a time.
    pub fn drain(&self, replicas: Vec<String>, within: Duration) {
        self.drain.send_replace(Some(Drain { replicas, within }));
    }

    /// What to show and whom to trust from now on. Connections that stand stay.
    pub fn show(&self, tls: Arc<ServerConfig>) {
        *lock(&self.tls) = Some(tls);
    }

    /// Accepts until it is dropped, or the listener fails.
    ///
    /// # Errors
    /// The listener's.
    pub async fn run(self: Arc<Self>, listener: TcpListener, tls: Arc<ServerConfig>) -> std::io::Result<()> {
        let mut bucket = Bucket::new(self.limits.handshakes_per_second);
        let mut connections = JoinSet::new();
        loop {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                // The peer's fault, or want of descriptors that ends with connections.
                Err(error) if is_passing(&error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            while connections.try_join_next().is_some() {}
            self.counters.accepted.fetch_add(1, Ordering::Relaxed);
            if !lock(&self.addresses).enter(address.ip(), self.limits.per_address) {
                self.counters.crowded.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%address, limit = self.limits.per_address, "connection closed: its address has too many");
                continue;
            }
            let wait = bucket.take(self.hub.now());
            if wait > 0 {
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            let shown = lock(&self.tls).clone().unwrap_or_else(|| Arc::clone(&tls));
            let (server, acceptor) = (Arc::clone(&self), TlsAcceptor::from(shown));
            connections.spawn(async move { server.connection(acceptor, stream, address).await });
        }
    }

    async fn connection(&self, acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr) {
        let _place = Place { server: self, address };
        let (begun, mut conversation, admitted) = match self.begin(acceptor, stream, address).await {
            Ok(begun) => begun,
            Err(ended) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%address, reason = %ended, "connection refused");
                return;
            }
        };
        match begun {
            Begun::Node(mut node, mut session) => {
                if let Err(ended) = self.converse(&mut conversation, &mut session, &mut node, admitted).await {
                    tracing::info!(%address, node = session.node(), reason = %ended, "node disconnected");
                }
            }
            Begun::Asked => conversation.end().await,
            Begun::Replica(replica) => {
                tracing::info!(%address, replica = replica.name(), "replica forwards reports");
                let ended = self.receive(&mut conversation, &replica, admitted).await;
                tracing::info!(%address, replica = replica.name(), reason = %ended, "replica forwards no more");
            }
        }
    }

    /// The handshake, the hello and the welcome.
    async fn begin(
        &self,
        acceptor: TlsAcceptor,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(Begun<'_>, Conversation, Instant), Ended> {
        let begun = timeout(BEGIN, async {
            let _turn = self.beginning.acquire().await;
            stream.set_nodelay(true)?;
            let stream = acceptor.accept(stream).await?;
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate = certificate.map_or(&[][..], AsRef::as_ref);
            let peer = identity::peer_of(certificate);
            let admitted = admitted_until(identity::valid_for(certificate, SystemTime::now()).unwrap_or_default());
            let mut conversation = Conversation::new(stream, HELLO_MAX);
            let peer = match peer {
                Ok(peer) => peer,
                Err(error) => return Err(conversation.refuse(error.to_string(), error.into()).await),
            };
            match conversation.read().await {
                Err(Ended::Frame(error)) => Err(conversation.refuse(error.to_string(), error.into()).await),
                first => Ok((peer, first?.message, conversation, admitted)),
            }
        });
        let (peer, first, mut conversation, admitted) = begun.await.map_err(|_| Ended::NoHello)??;
        let welcomed = match (peer, first) {
            (Peer::Replica | Peer::Operator(_), Some(FromNode::StatusRequest(asked))) => self.tell(asked),
            (Peer::Node(name), Some(FromNode::StatusRequest(_))) => Err(Ended::MayNotKnow(name)),
            (Peer::Node(certified), first) => self.welcome_node(first, &certified, address),
            (Peer::Replica, first) => self.welcome_replica(first),
            (Peer::Operator(name), _) => Err(Ended::NoNode(name)),
        };
        match welcomed {
            Ok((begun, frames)) => {
                self.send(&mut conversation, &frames).await?;
                Ok((begun, conversation, admitted))
            }
            Err(ended) => Err(conversation.refuse(ended.to_string(), ended).await),
        }
    }

    fn welcome_node(&self, first: Option<FromNode>, certified: &str, address: SocketAddr) -> Result<(Begun<'_>, Vec<Bytes>), Ended> {
        let (session, welcome) = Session::open(first, certified, &self.hub.replica())?;
        let entered = self.enter(session.node(), address).ok_or(Ended::Full(self.limits.nodes))?;
        Ok((Begun::Node(entered, session), vec![welcome]))
    }

    fn welcome_replica(&self, first: Option<FromNode>) -> Result<(Begun<'_>, Vec<Bytes>), Ended> {
        let (name, welcome) = Forwarded::open(first, &self.hub.replica())?;
        Ok((Begun::Replica(self.enter_replica(&name)?), vec![welcome]))
    }

    /// A second connection of one node takes the place of its first, which may be half open.
    fn enter(&self, node: &str, address: SocketAddr) -> Option<Entered<'_>> {
        let number = self.served.fetch_add(1, Ordering::Relaxed);
        let mut nodes = lock(&self.nodes);
        if nodes.len() >= self.limits.nodes && !nodes.contains_key(node) {
            return None;
        }
        let sent = Arc::<asked::Sent>::default();
        let connected = Connected { address, seen: Vec::new(), confirmed: None, since: Instant::now(), sent: Arc::clone(&sent), number };
        nodes.insert(node.to_owned(), connected);
        Some(Entered { server: self, node: node.to_owned(), number, sent })
    }

    async fn converse(
        &self,
        conversation: &mut Conversation,
        session: &mut Session,
        entered: &mut Entered<'_>,
        admitted: Instant,
    ) -> Result<(), Ended> {
        let mut expiry = std::pin::pin!(tokio::time::sleep_until(admitted));
        let mut tellings = self.hub.tellings();
        let mut drains = self.drain.subscribe();
        // Spread: nodes that came together are not told together.
        let first = CHECKPOINT.mul_f64(0.5 + fastrand::f64() / 2.0);
        let mut checkpoints = tokio::time::interval_at(Instant::now() + first, CHECKPOINT);
        drains.mark_changed();
        let mut listening = Instant::now();
        loop {
            // All that was next has been sent.
            entered.sent.note(session.places());
            tellings.mark_unchanged();
            let snapshots = session.snapshots();
            let frames = session.next(&mut self.hub.replica(), BUDGET);
            self.counters.snapshots.fetch_add(session.snapshots() - snapshots, Ordering::Relaxed);
            if !frames.is_empty() {
                self.send(conversation, &frames).await?;
                continue;
            }
            tokio::select! {
                told = tellings.changed() => told.map_err(|_| Ended::Drained)?,
                said = async {
                    tokio::time::sleep_until(listening).await;
                    conversation.read().await
                } => match said?.message {
                    Some(FromNode::Report(report)) => {
                        // Who says more than is asked for waits, and its words with it: nothing of it is kept here.
                        listening = Instant::now() + REPORT_GAP;
                        self.reported(session.node(), report);
                    }
                    other => {
                        session.hear(other, self.hub.now())?;
                        entered.seen(session.seen());
                    }
                },
                _ = checkpoints.tick() => {
                    let checkpoint = {
                        let replica = self.hub.replica();
                        session.stop_waiting(&replica);
                        session.checkpoint(&replica)
                    };
                    if !entered.is_current() {
                        return Err(Ended::Drained);
                    }
                    self.send(conversation, &[checkpoint]).await?;
                }
                () = &mut expiry => {
                    let moved = FromFleet { message: Some(ToNode::Moved(Moved::default())) };
                    self.send(conversation, &[encode(&moved)]).await?;
                    return Err(Ended::Expired);
                }
                _ = drains.changed() => {
                    let drain = drains.borrow_and_update().clone();
                    if let Some(drain) = drain {
                        let replica = fleet_api::by_preference(session.node(), &drain.replicas).first().map_or_else(String::new, |it| (*it).to_owned());
                        let within_millis = u64::try_from(drain.within.as_millis()).unwrap_or(u64::MAX);
                        let moved = FromFleet { message: Some(ToNode::Moved(Moved { replica, within_millis })) };
                        self.send(conversation, &[encode(&moved)]).await?;
                    }
                }
            }
        }
    }

    /// A node whose report is of no use is served all the same: its Services have nothing to do with it.
    fn reported(&self, node: &str, report: Report) {
        if let Err(fault) = report.judge() {
            self.counters.bad_reports.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(node, %fault, "report of a node's health passed over");
            return;
        }
        self.reports.put(node, report);
        self.counters.reports.fetch_add(1, Ordering::Relaxed);
    }

    async fn send(&self, conversation: &mut Conversation, frames: &[Bytes]) -> Result<(), Ended> {
        let sent = conversation.send(frames).await?;
        self.counters.sent_bytes.fetch_add(sent, Ordering::Relaxed);
        Ok(())
    }
}

/// Until when a node is served that shows a certificate of so long: a moment of its last tenth, by when kubelet has the next, and not the
/// same for nodes whose certificates are of the same minute.
fn admitted_until(valid_for: Duration) -> Instant {
    Instant::now() + valid_for.mul_f64(0.9 + 0.1 * fastrand::f64())
}

fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    // EMFILE, ENFILE.
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) || matches!(error.raw_os_error(), Some(23 | 24))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection's part of its address' number.
struct Place<'a> {
    server: &'a Server,
    address: SocketAddr,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.server.addresses).leave(self.address.ip());
    }
}

/// A node's entry among those that are connected.
struct Entered<'a> {
    server: &'a Server,
    node: String,
    number: u64,
    sent: Arc<asked::Sent>,
}

impl Entered<'_> {
    fn seen(&self, positions: &[Position]) {
        if let Some(connected) = lock(&self.server.nodes).get_mut(&self.node).filter(|it| it.number == self.number) {
            (connected.seen, connected.confirmed) = (positions.to_vec(), Some(Instant::now()));
        }
    }

    fn is_current(&self) -> bool {
        lock(&self.server.nodes).get(&self.node).is_some_and(|it| it.number == self.number)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut nodes = lock(&self.server.nodes);
        if nodes.get(&self.node).is_some_and(|it| it.number == self.number) {
            nodes.remove(&self.node);
            self.server.reports.left(&self.node);
        }
    }
}
