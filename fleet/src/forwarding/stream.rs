//! One connection to the leader: all that nodes have said last, then what they say, the newest of each and nothing twice.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fleet_api::message::{Forwarded, FromFleet, FromNode, NodeReport, ToFleet, ToNode};
use fleet_api::{Decoder, FRAME_MAX, FrameError, decode, encode};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Forwarder, Reaching};
use crate::reports::Reader;
use crate::server::{SIGN, SILENT};
use crate::tls::SERVER_NAME;

/// From the connection to the welcome.
const BEGIN: Duration = Duration::from_secs(10);
/// Without a byte that the leader takes.
const STUCK: Duration = Duration::from_secs(10);

/// Why nothing is forwarded.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Files(String),
    #[error("{0}")]
    Io(std::io::Error),
    #[error("{0}; a replica's certificate needs the DNS name {SERVER_NAME}, and the usages of a server and of a client")]
    Tls(std::io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the leader refuses: {0}")]
    Refused(String),
    #[error("the leader has ended the connection")]
    Closed,
    #[error("the leader has not answered within {} s", BEGIN.as_secs())]
    Slow,
    #[error("nothing was heard of the leader for {} s", SILENT.as_secs())]
    Silent,
    #[error("the leader has taken nothing for {} s", STUCK.as_secs())]
    Stuck,
}

impl From<std::io::Error> for Broken {
    /// An alert of TLS comes after the handshake: the server judges certificates last.
    fn from(error: std::io::Error) -> Self {
        let is_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        if is_tls { Self::Tls(error) } else { Self::Io(error) }
    }
}

/// Frames to and from the leader.
struct Conversation {
    stream: TlsStream<TcpStream>,
    decoder: Decoder,
}

impl Conversation {
    async fn say(&mut self, frame: &[u8]) -> Result<(), Broken> {
        let said = async {
            self.stream.write_all(frame).await?;
            self.stream.flush().await
        };
        Ok(timeout(STUCK, said).await.map_err(|_| Broken::Stuck)??)
    }

    /// The next message. What has come of it is kept when the wait is given up.
    async fn read(&mut self) -> Result<Option<ToNode>, Broken> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return match decode::<FromFleet>(&frame)?.message {
                    Some(ToNode::Refused(refused)) => Err(Broken::Refused(refused.reason)),
                    message => Ok(message),
                };
            }
            if self.stream.read_buf(self.decoder.buffer()).await? == 0 {
                return Err(Broken::Closed);
            }
        }
    }
}

/// The reports that are there, or that come until `due`.
async fn gather(reader: &mut Reader, due: Instant) -> Vec<NodeReport> {
    let first = tokio::select! {
        next = reader.next() => next,
        () = sleep_until(due) => return Vec::new(),
    };
    let mut reports = Vec::new();
    let mut next = Some(first);
    while let Some((node, report)) = next {
        reports.push(NodeReport { node, report: Some(report) });
        next = if reports.len() < Forwarded::REPORTS_MAX { reader.try_next() } else { None };
    }
    reports
}

impl Forwarder {
    /// Until it breaks.
    pub(super) async fn forward(&self, leader: &str) -> Result<Infallible, Broken> {
        let mut conversation = timeout(BEGIN, self.connect(leader)).await.map_err(|_| Broken::Slow)??;
        tracing::info!(leader, "reports are forwarded");
        let _reaching = Reaching::begin(&self.counters);
        // What a connection before has taken and not delivered is told again: it begins with everything.
        let mut reader = self.server.reports().read();
        let (mut heard, mut due) = (Instant::now(), Instant::now());
        loop {
            let reports = tokio::select! {
                said = timeout_at(heard + SILENT, conversation.read()) => {
                    said.map_err(|_| Broken::Silent)??;
                    heard = Instant::now();
                    continue;
                }
                reports = gather(&mut reader, due) => reports,
            };
            let count = reports.len() as u64;
            let nodes = u32::try_from(self.server.connected()).unwrap_or(u32::MAX);
            let forwarded = ToFleet { message: Some(FromNode::Forwarded(Forwarded { nodes, reports })) };
            conversation.say(&encode(&forwarded)).await?;
            self.counters.forwarded.fetch_add(count, Ordering::Relaxed);
            due = Instant::now() + SIGN;
        }
    }

    async fn connect(&self, leader: &str) -> Result<Conversation, Broken> {
        let shown = (self.shown)().map_err(Broken::Files)?;
        let stream = TcpStream::connect(leader).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(|error| Broken::Files(error.to_string()))?;
        let stream = TlsConnector::from(shown).connect(name, stream).await?;
        let mut conversation = Conversation { stream, decoder: Decoder::new(FRAME_MAX) };
        let program = concat!("barewire-fleet ", env!("CARGO_PKG_VERSION"));
        conversation.say(&Forwarded::hello(&self.name, &self.cluster, program)).await?;
        while !matches!(conversation.read().await?, Some(ToNode::Welcome(_))) {}
        Ok(conversation)
    }
}
