//! One replica, asked.

use std::sync::Arc;
use std::time::Duration;

use fleet_api::message::{FromFleet, Status, StatusRequest, ToNode};
use fleet_api::{Decoder, FRAME_MAX, FrameError, decode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::identity::OPERATORS;
use crate::tls::SERVER_NAME;

/// For all of it.
const LIMIT: Duration = Duration::from_secs(15);

/// Why nothing is told, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("not reached: {0}; does barewire-fleet run there, and may its port be reached from here? Name another by --server")]
    Away(std::io::Error),
    /// One of both does not trust the other.
    #[error(
        "no trust: {0}; --authority is to be what signs the replicas, and the certificate of one that is signed by what the replicas have as their --authority"
    )]
    Tls(std::io::Error),
    /// It does not tell us.
    #[error("refused: {0}; it takes a certificate of one of the groups {groups}, or a replica's own (--certificate, --key)", groups = OPERATORS.join(", "))]
    Refused(String),
    /// It has ended before it had told all.
    #[error("it has ended the connection: is it of a version that does not tell how it stands?")]
    Closed,
    /// It says something else.
    #[error("no answer of a replica: {0}")]
    Frame(#[from] FrameError),
    /// It does not answer.
    #[error("no answer within {} s: it hangs, or something on the way drops what is sent", LIMIT.as_secs())]
    Slow,
    /// None has answered.
    #[error("no replica has told how the fleet stands:\n{0}")]
    Nobody(String),
}

impl From<std::io::Error> for AskError {
    /// An alert of TLS comes after the handshake: the server judges certificates last.
    fn from(error: std::io::Error) -> Self {
        let is_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        if is_tls { Self::Tls(error) } else { Self::Away(error) }
    }
}

/// How the replica at `server` stands.
pub(super) async fn replica(server: &str, tls: Arc<ClientConfig>) -> Result<Status, AskError> {
    timeout(LIMIT, conversation(server, tls)).await.unwrap_or(Err(AskError::Slow))
}

async fn conversation(server: &str, tls: Arc<ClientConfig>) -> Result<Status, AskError> {
    let stream = TcpStream::connect(server).await?;
    let name = ServerName::try_from(SERVER_NAME).map_err(std::io::Error::other)?;
    let mut stream = TlsConnector::from(tls).connect(name, stream).await?;
    stream.write_all(&StatusRequest::frame()).await?;
    stream.flush().await?;
    let (mut decoder, mut status) = (Decoder::new(FRAME_MAX), Status::default());
    loop {
        while let Some(frame) = decoder.next_frame()? {
            match decode::<FromFleet>(&frame)?.message {
                Some(ToNode::Refused(refused)) => return Err(AskError::Refused(refused.reason)),
                Some(ToNode::Status(part)) if !status.add(part.clone()) => return Ok(status),
                _ => {}
            }
        }
        if stream.read_buf(decoder.buffer()).await? == 0 {
            return Err(AskError::Closed);
        }
    }
}
