//! The blocking client: one connection, one request, one response, and one deadline for all of it.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::clock::BootMillis;
use crate::frame::{FrameError, read_frame, write_frame};
use crate::message::{Envelope, PROTOCOL_VERSION, Reply, Request, Response};

/// A full backlog makes connect(2) wait; then the daemon is hours behind or stopped.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The kernel takes no time at all for no time-out.
const SHORTEST: Duration = Duration::from_millis(1);

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

impl ClientError {
    /// There is no socket, or nobody listens on it: what a daemon that is being restarted looks like. It knows nothing of
    /// the request.
    #[must_use]
    pub fn nobody_listens(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused))
    }

    /// The daemon ended, or was ended, with the request in its hands.
    #[must_use]
    pub fn hung_up(&self) -> bool {
        use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self, Self::BrokenOff(FrameError::Io(error)) if matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe))
    }
}

/// Sends `request` to the daemon that listens at `path`, with the pod's network namespace where it needs one, and waits for
/// the reply, `limit` at most. The request says so: a daemon that has not come to it by then leaves it. `sender` names the
/// program in the daemon's log.
///
/// # Errors
/// See [`ClientError`].
pub fn call(path: &Path, sender: &str, request: &Request, netns: Option<BorrowedFd<'_>>, limit: Duration) -> Result<Reply, ClientError> {
    let begun = Instant::now();
    let deadline = BootMillis::now().ok().map(|now| now.plus(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)));
    let unreachable = |source: std::io::Error| ClientError::Unreachable { path: path.to_owned(), source };
    let mut stream = connect_within(path, CONNECT_TIMEOUT.min(limit)).map_err(|errno| unreachable(errno.into()))?;
    stream.set_read_timeout(Some(limit.saturating_sub(begun.elapsed()).max(SHORTEST))).map_err(unreachable)?;
    let envelope = Envelope { protocol: PROTOCOL_VERSION, sender: sender.to_owned(), deadline, request };
    write_frame(&mut stream, &envelope, netns)?;
    match read_frame(&mut stream)? {
        Response::Ok(reply) => Ok(reply),
        Response::Error(error) => Err(ClientError::Refused(error)),
    }
}

/// The standard library's connect has no deadline; the socket's send timeout bounds connect(2) as well (socket(7)).
fn connect_within(path: &Path, timeout: Duration) -> nix::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let timeout = i64::try_from(timeout.max(SHORTEST).as_millis()).unwrap_or(i64::MAX);
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(timeout))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}
