//! One connection: frames in and out, and why it has ended.

use std::time::Duration;

use bytes::{Buf, Bytes};
use fleet_api::message::{FromFleet, ToFleet, ToNode};
use fleet_api::{Decoder, FrameError, Refusal, decode, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::BEGIN;
use super::SILENT;
use crate::identity::{IdentityError, OPERATORS};

/// Without a byte that the peer takes.
const STUCK: Duration = Duration::from_secs(60);
/// What a node that finds no place waits.
const FULL_RETRY: Duration = Duration::from_secs(10);

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("nothing more was said")]
    Closed,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no hello within {} s", BEGIN.as_secs())]
    NoHello,
    #[error("no byte was taken for {} s", STUCK.as_secs())]
    Stuck,
    #[error("{0}")]
    Identity(#[from] IdentityError),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("this replica has {0} nodes and takes no more")]
    Full(usize),
    #[error("this replica does not lead, or nobody hears reports here")]
    NotLeading,
    #[error("the certificate is of node {0:?}: how the fleet stands is told to replicas, and to people of the groups {groups}", groups = OPERATORS.join(", "))]
    MayNotKnow(String),
    #[error("the certificate is of {0:?}, a person: nodes alone are told what nodes are told")]
    NoNode(String),
    #[error("{0} replicas forward reports already")]
    Crowded(usize),
    #[error("nothing was heard for {} s", SILENT.as_secs())]
    Silent,
    #[error("the replica ends")]
    Drained,
    #[error("its certificate expires; it is to come back with the next")]
    Expired,
}

/// Frames of one connection.
pub(super) struct Conversation {
    stream: TlsStream<TcpStream>,
    decoder: Decoder,
}

impl Conversation {
    /// Of whom nothing larger is read than `limit`.
    pub(super) fn new(stream: TlsStream<TcpStream>, limit: usize) -> Self {
        Self { stream, decoder: Decoder::new(limit) }
    }

    /// From here on frames may be larger. What has come already stays.
    pub(super) fn allow(&mut self, limit: usize) {
        let mut decoder = Decoder::new(limit);
        decoder.push(self.decoder.buffer());
        self.decoder = decoder;
    }

    /// The next message. What has come of it is kept when the wait is given up.
    pub(super) async fn read(&mut self) -> Result<ToFleet, Ended> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(decode(&frame)?);
            }
            if self.stream.read_buf(self.decoder.buffer()).await? == 0 {
                return Err(Ended::Closed);
            }
        }
    }

    pub(super) async fn send(&mut self, frames: &[Bytes]) -> Result<u64, Ended> {
        // One record for many small frames.
        let mut bytes = if let [one] = frames { one.clone() } else { Bytes::from(frames.concat()) };
        let length = bytes.len() as u64;
        while bytes.has_remaining() {
            timeout(STUCK, self.stream.write_buf(&mut bytes)).await.map_err(|_| Ended::Stuck)??;
        }
        timeout(STUCK, self.stream.flush()).await.map_err(|_| Ended::Stuck)??;
        Ok(length)
    }

    /// Says why, and that it is the end.
    pub(super) async fn refuse(&mut self, reason: String, ended: Ended) -> Ended {
        let retry_after_millis = u64::try_from(FULL_RETRY.as_millis()).unwrap_or(u64::MAX);
        let refused = fleet_api::message::Refused { reason, retry_after_millis };
        let frame = encode(&FromFleet { message: Some(ToNode::Refused(refused)) });
        // Who does not listen is not waited for.
        if timeout(Duration::from_secs(1), self.send(&[frame])).await.is_ok() {
            self.end().await;
        }
        ended
    }

    /// Says that it is the end.
    pub(super) async fn end(&mut self) {
        drop(timeout(Duration::from_secs(1), self.stream.shutdown()).await);
    }
}
