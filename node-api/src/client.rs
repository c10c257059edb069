//! The blocking client: one connection, one request, one response, each step with a bound.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::frame::{FrameError, read_frame, write_frame};
use crate::message::{Envelope, PROTOCOL_VERSION, Reply, Request, Response};

/// A full backlog makes connect(2) wait; then the daemon is hours behind or stopped.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Well under kubelet's two minutes for a runtime request, so that the runtime can still clean up.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the daemon is not installed, stopped or starting.
    #[error("barewired does not answer at {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The daemon was there, but the exchange broke off: it may or may not have acted.
    #[error("barewired broke off: {0}")]
    BrokenOff(#[from] FrameError),
    /// The daemon's own answer.
    #[error("{0}")]
    Refused(cni_spec::Error),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    sender: &'static str,
}

impl Client {
    /// Connects; `sender` names the program in the daemon's log.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`]
    pub fn connect(path: &Path, sender: &'static str) -> Result<Self, ClientError> {
        let unreachable = |source: std::io::Error| ClientError::Unreachable { path: path.to_owned(), source };
        let stream = connect_within(path, CONNECT_TIMEOUT).map_err(|errno| unreachable(errno.into()))?;
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT)).map_err(unreachable)?;
        Ok(Self { stream, sender })
    }

    /// Sends `request`, with the pod's network namespace where it needs one, and waits for the reply.
    ///
    /// # Errors
    /// [`ClientError::BrokenOff`] and [`ClientError::Refused`]
    pub fn call(mut self, request: Request, netns: Option<BorrowedFd<'_>>) -> Result<Reply, ClientError> {
        let envelope = Envelope { protocol: PROTOCOL_VERSION, sender: self.sender.to_owned(), request };
        write_frame(&mut self.stream, &envelope, netns)?;
        match read_frame(&mut self.stream)? {
            Response::Ok(reply) => Ok(reply),
            Response::Error(error) => Err(ClientError::Refused(error)),
        }
    }
}

/// The standard library's connect has no deadline; the socket's send timeout bounds connect(2) as well (socket(7)).
fn connect_within(path: &Path, timeout: Duration) -> nix::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX)))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}
