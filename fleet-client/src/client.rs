//! A node's end of the stream: keeps what it knows on the disk, serves it at once and for ever, and says how old it is.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_api::message::{FromFleet, FromNode, Hello, Report, ToFleet, ToNode};
use fleet_api::{Decoder, FRAME_MAX, Fault, FrameError, Heard, NodeState, by_preference, decode, encode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::backoff::Backoff;
use crate::identity::{IdentityError, node_of};
use crate::last;
use crate::reporting::Reporting;
use crate::tls::{self, Credentials, SERVER_NAME, TlsError};

/// Until a replica has said welcome.
const BEGIN: Duration = Duration::from_secs(20);
/// Without a word of a replica: three signs of life.
const SILENT: Duration = Duration::from_secs(90);

/// A node, and what it hears the fleet with.
#[derive(Debug, Clone)]
pub struct Config {
    /// What it shows, and whom it trusts.
    pub identity: Identity,
    /// Replicas to begin with, `host:port`; what they tell of others is kept.
    pub replicas: Vec<String>,
    /// The file of what it knows; none: nothing is kept.
    pub file: Option<PathBuf>,
    /// How soon after a change the file is written.
    pub save_after: Duration,
    /// Between two attempts.
    pub backoff: Backoff,
    /// What the fleet is told of the node's health, if anything: the newest, when it is news and every so often. Who tells looks at others, too,
    /// and is told at whom ([`NodeState::peers`]).
    pub reports: Option<watch::Receiver<Report>>,
}

/// Where a node's certificate comes from.
#[derive(Debug, Clone)]
pub enum Identity {
    /// This one, for as long as the client runs.
    Fixed {
        /// The node's name, as in the certificate.
        node: String,
        /// What it shows and whom it trusts.
        tls: Arc<ClientConfig>,
    },
    /// What is in these files when a connection is begun: kubelet replaces its own, and a connection that stands stays. The node's name is
    /// the certificate's.
    Files(Files),
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Who signs the replicas.
    pub authority: PathBuf,
    /// What to show.
    pub certificate: PathBuf,
    /// Its key; kubelet has both in one file.
    pub key: PathBuf,
}

/// Why a node has nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFault {
    /// A file that cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that is of no use.
    #[error("{path}, or its authority or key: {source}", path = .path.display())]
    Tls {
        /// The certificate's.
        path: PathBuf,
        /// What is wrong.
        source: Box<TlsError>,
    },
    /// A certificate that is of no node.
    #[error("{path}: {source}", path = .path.display())]
    NoNode {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        source: IdentityError,
    },
}

impl Identity {
    fn load(&self) -> Result<(String, Arc<ClientConfig>), IdentityFault> {
        match self {
            Self::Fixed { node, tls } => Ok((node.clone(), Arc::clone(tls))),
            Self::Files(files) => files.load(),
        }
    }
}

impl Files {
    /// The name of the node that the certificate is of, whether or not it is valid still.
    ///
    /// # Errors
    /// Where the file cannot be read, or is of no node.
    pub fn node(&self) -> Result<String, IdentityFault> {
        let certificate =
            std::fs::read(&self.certificate).map_err(|source| IdentityFault::Io { path: self.certificate.clone(), source })?;
        let credentials = Credentials { authority: Vec::new(), certificate, key: Vec::new() };
        let of_tls = |source| IdentityFault::Tls { path: self.certificate.clone(), source: Box::new(source) };
        let certificate = tls::leaf(&credentials).map_err(of_tls)?;
        node_of(&certificate).map_err(|source| IdentityFault::NoNode { path: self.certificate.clone(), source })
    }

    fn load(&self) -> Result<(String, Arc<ClientConfig>), IdentityFault> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|source| IdentityFault::Io { path: path.clone(), source });
        let credentials = Credentials { authority: read(&self.authority)?, certificate: read(&self.certificate)?, key: read(&self.key)? };
        let of_tls = |source| IdentityFault::Tls { path: self.certificate.clone(), source: Box::new(source) };
        let config = tls::client(&credentials).map_err(of_tls)?;
        let certificate = tls::leaf(&credentials).map_err(of_tls)?;
        let node = node_of(&certificate).map_err(|source| IdentityFault::NoNode { path: self.certificate.clone(), source })?;
        Ok((node, config))
    }
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no replica is known: name one in the configuration")]
    NoReplicas,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("closed by the replica")]
    Closed,
    #[error("no welcome within {} s", BEGIN.as_secs())]
    NoWelcome,
    #[error("silent for {} s", SILENT.as_secs())]
    Silent,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("refused: {reason}")]
    Refused { reason: String, retry_after: Duration },
    #[error("sent on to {0:?}")]
    Moved(String),
}

/// How a node stands with the fleet.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The replica that it hears, if any.
    pub replica: Option<String>,
    /// Why it hears none, or why it ceased to hear the last one.
    pub last_error: Option<String>,
    /// What is wrong with the file.
    pub file_error: Option<String>,
    /// Attempts since the start.
    pub attempts: u64,
    /// Bytes of frames since the start.
    pub received_bytes: u64,
    /// How old what is known is: since a replica's last word, or since it was saved. Nothing: nothing is known.
    pub age: Option<Duration>,
}

#[derive(Debug)]
struct Shared {
    state: NodeState,
    status: Status,
    /// When the last word was heard, or the file's time.
    heard: Option<Instant>,
    saved_at: Option<u64>,
    is_saved: bool,
}

/// The client. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<Config>,
    shared: Arc<Mutex<Shared>>,
    told: Arc<watch::Sender<Arc<NodeState>>>,
}

impl Client {
    /// Reads the file. What is in it is served from here on, with or without the fleet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut shared = Shared { state: NodeState::default(), status: Status::default(), heard: None, saved_at: None, is_saved: true };
        match config.file.as_deref().map(last::load).transpose() {
            Ok(saved) => {
                if let Some(saved) = saved.flatten() {
                    (shared.state, shared.saved_at) = (saved.state, Some(saved.at));
                }
            }
            Err(error) => shared.status.file_error = Some(error.to_string()),
        }
        let told = Arc::new(watch::Sender::new(Arc::new(shared.state.clone())));
        Self { config: Arc::new(config), shared: Arc::new(Mutex::new(shared)), told }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is known.
    pub fn view<T>(&self, look: impl FnOnce(&NodeState) -> T) -> T {
        look(&self.lock().state)
    }

    /// What is known, at once and then with every change of it. Tables share what has not changed: a state that is held costs what has
    /// changed since, and [`Table::difference`](fleet_api::Table::difference) between two states looks at that alone.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<NodeState>> {
        self.told.subscribe()
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = self.lock();
        let of_file = || shared.saved_at.and_then(last::age);
        Status { age: shared.heard.map(|heard| heard.elapsed()).or_else(of_file), ..shared.status.clone() }
    }

    /// Hears the fleet until `stop` says so or its sender is gone; then saves.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.hear() => {}
            () = self.keep() => {}
        }
        self.save();
    }

    async fn keep(&self) {
        loop {
            tokio::time::sleep(self.config.save_after).await;
            self.save();
        }
    }

    fn save(&self) {
        let Some(file) = &self.config.file else { return };
        let state = {
            let mut shared = self.lock();
            if std::mem::replace(&mut shared.is_saved, true) {
                return;
            }
            shared.state.clone()
        };
        let error = last::save(file, &state).err().map(|error| error.to_string());
        let mut shared = self.lock();
        shared.is_saved &= error.is_none();
        shared.status.file_error = error;
    }

    async fn hear(&self) {
        let mut backoff = self.config.backoff;
        let mut hint = None;
        let mut turn = 0;
        loop {
            let (node, tls) = match self.config.identity.load() {
                Ok(identity) => identity,
                Err(fault) => {
                    self.lock().status.last_error = Some(fault.to_string());
                    // Nobody was asked, so nobody is spared by waiting longer: a new node's kubelet gets its certificate meanwhile.
                    tokio::time::sleep(self.config.backoff.shortest).await;
                    continue;
                }
            };
            let (ended, was_welcome) = match hint.take().or_else(|| self.choose(&node, turn)) {
                Some(replica) => self.connection(&replica, &node, tls).await,
                None => (Ended::NoReplicas, false),
            };
            // The preferred one again, after one that has served.
            turn = if was_welcome { 0 } else { turn + 1 };
            if was_welcome {
                backoff.reset();
            }
            {
                let mut shared = self.lock();
                shared.status.replica = None;
                shared.status.last_error = Some(ended.to_string());
            }
            let wait = backoff.next(fastrand::f64());
            match ended {
                Ended::Moved(replica) => hint = Some(replica).filter(|replica| !replica.is_empty()),
                Ended::Refused { retry_after, .. } => tokio::time::sleep(wait.max(retry_after.min(self.config.backoff.longest))).await,
                _ => tokio::time::sleep(wait).await,
            }
        }
    }

    fn choose(&self, node: &str, turn: usize) -> Option<String> {
        let known = self.lock().state.replicas().to_vec();
        // Those of the configuration come after: what replicas tell is newer, but may be wrong as a whole.
        let told = by_preference(node, &known);
        let configured = by_preference(node, &self.config.replicas);
        let all: Vec<_> = told.iter().chain(configured.iter().filter(|replica| !told.contains(replica))).collect();
        (!all.is_empty()).then(|| (*all[turn % all.len()]).to_owned())
    }

    async fn connection(&self, replica: &str, node: &str, tls: Arc<ClientConfig>) -> (Ended, bool) {
        self.lock().status.attempts += 1;
        let begun = timeout(BEGIN, self.begin(replica, node, tls)).await.unwrap_or(Err(Ended::NoWelcome));
        match begun {
            Ok(conversation) => {
                self.lock().status.replica = Some(replica.to_owned());
                (self.converse(conversation).await, true)
            }
            Err(ended) => (ended, false),
        }
    }

    async fn begin(&self, replica: &str, node: &str, tls: Arc<ClientConfig>) -> Result<Conversation, Ended> {
        let stream = TcpStream::connect(replica).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(tls).connect(name, stream).await?;
        let mut conversation = Conversation { stream, decoder: Decoder::new(FRAME_MAX) };
        let program = concat!("barewire ", env!("CARGO_PKG_VERSION"));
        let looks = self.config.reports.is_some();
        let hello = Hello { looks, ..self.lock().state.hello(node, program) };
        conversation.say(FromNode::Hello(hello)).await?;
        loop {
            match conversation.read(&self.shared).await? {
                Some(ToNode::Refused(refused)) => return Err(refused_by(refused)),
                Some(ToNode::Welcome(welcome)) => {
                    self.take(Some(ToNode::Welcome(welcome)))?;
                    return Ok(conversation);
                }
                _ => {}
            }
        }
    }

    async fn converse(&self, mut conversation: Conversation) -> Ended {
        let mut moved: Option<(Instant, String)> = None;
        let mut reporting = Reporting::new(self.config.reports.clone());
        let mut heard = Instant::now();
        loop {
            let until = moved.as_ref().map_or(heard + SILENT, |(at, _)| *at);
            let said = tokio::select! {
                said = timeout_at(until, conversation.read(&self.shared)) => said,
                report = reporting.next() => {
                    // A replica that takes nothing is one that says nothing, soon.
                    match timeout(SILENT, conversation.say(FromNode::Report(report))).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(ended)) => return ended,
                        Err(_) => return Ended::Silent,
                    }
                }
            };
            let said = match said {
                Ok(Ok(said)) => said,
                Ok(Err(ended)) => return ended,
                Err(_) => return moved.map_or(Ended::Silent, |(_, replica)| Ended::Moved(replica)),
            };
            heard = Instant::now();
            match said {
                Some(ToNode::Refused(refused)) => return refused_by(refused),
                Some(ToNode::Moved(to)) => {
                    let within = Duration::from_millis(to.within_millis).min(SILENT);
                    moved = Some((Instant::now() + within.mul_f64(fastrand::f64()), to.replica));
                }
                other => {
                    let answer = match self.take(other) {
                        Ok(Heard::Diverged(_, answer) | Heard::Checkpoint(answer)) => Some(answer),
                        Ok(_) => None,
                        Err(fault) => return fault.into(),
                    };
                    if let Some(answer) = answer
                        && let Err(ended) = conversation.say(answer).await
                    {
                        return ended;
                    }
                }
            }
        }
    }

    fn take(&self, message: Option<ToNode>) -> Result<Heard, Fault> {
        let mut shared = self.lock();
        let heard = shared.state.hear(message)?;
        shared.heard = Some(Instant::now());
        if !matches!(heard, Heard::Nothing | Heard::Acquainted) {
            shared.is_saved = false;
        }
        let is_change =
            matches!(heard, Heard::Changed(..) | Heard::Replaced(_) | Heard::Directed(_) | Heard::Diverged(..) | Heard::Acquainted);
        if is_change {
            // Under the lock: what is told last is what is known last.
            self.told.send_replace(Arc::new(shared.state.told()));
        }
        Ok(heard)
    }
}

fn refused_by(refused: fleet_api::message::Refused) -> Ended {
    Ended::Refused { reason: refused.reason, retry_after: Duration::from_millis(refused.retry_after_millis) }
}

struct Conversation {
    stream: TlsStream<TcpStream>,
    decoder: Decoder,
}

impl Conversation {
    async fn read(&mut self, shared: &Mutex<Shared>) -> Result<Option<ToNode>, Ended> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(decode::<FromFleet>(&frame)?.message);
            }
            let read = self.stream.read_buf(self.decoder.buffer()).await?;
            if read == 0 {
                return Err(Ended::Closed);
            }
            shared.lock().unwrap_or_else(PoisonError::into_inner).status.received_bytes += read as u64;
        }
    }

    async fn say(&mut self, message: FromNode) -> Result<(), Ended> {
        self.stream.write_all(&encode(&ToFleet { message: Some(message) })).await?;
        Ok(self.stream.flush().await?)
    }
}
