//! The blocking client: one connection, one request, one response, and one deadline for all of it.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::clock::BootMillis;
use crate::frame::{FrameError, read_frame, read_frame_but_a_byte, write_frame};
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
    reply(read_frame(&mut ask(path, sender, request, netns, limit)?)?)
}

/// As [`call`], for a reply that has to be passed on: the daemon undoes what nobody was told of. It learns that the reply has arrived
/// when [`Receipt::give`] is called, and that it has not when this process ends before.
///
/// # Errors
/// See [`ClientError`].
pub fn call_for_receipt(
    path: &Path,
    sender: &str,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    limit: Duration,
) -> Result<(Reply, Receipt), ClientError> {
    let mut stream = ask(path, sender, request, netns, limit)?;
    let reply = reply(read_frame_but_a_byte(&mut stream)?)?;
    Ok((reply, Receipt(stream)))
}

/// The end of an exchange whose reply has still to be passed on.
#[derive(Debug)]
pub struct Receipt(UnixStream);

impl Receipt {
    /// Tells the daemon that the reply has arrived where it belongs.
    pub fn give(mut self) {
        // A daemon that has ended meanwhile has made durable what it replied.
        let _ = self.0.read(&mut [0]);
    }
}

fn reply(response: Response) -> Result<Reply, ClientError> {
    match response {
        Response::Ok(reply) => Ok(reply),
        Response::Error(error) => Err(ClientError::Refused(error)),
    }
}

/// Sends a request, and waits for the answer to begin.
fn ask(path: &Path, sender: &str, request: &Request, netns: Option<BorrowedFd<'_>>, limit: Duration) -> Result<UnixStream, ClientError> {
    let begun = Instant::now();
    let deadline = Some(BootMillis::now().plus(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)));
    let unreachable = |source: std::io::Error| ClientError::Unreachable { path: path.to_owned(), source };
    let mut stream = connect_within(path, CONNECT_TIMEOUT.min(limit)).map_err(|errno| unreachable(errno.into()))?;
    stream.set_read_timeout(Some(limit.saturating_sub(begun.elapsed()).max(SHORTEST))).map_err(unreachable)?;
    let envelope = Envelope { protocol: PROTOCOL_VERSION, sender: sender.to_owned(), deadline, request };
    write_frame(&mut stream, &envelope, netns)?;
    wait_for_answer(&stream, limit.saturating_sub(begun.elapsed()))?;
    Ok(stream)
}

/// In poll(2), which the answer alone ends. recv(2) would wake as well when the daemon has read the request (`unix_write_space`,
/// net/unix/af_unix.c), for nothing: two switches here, and an interrupt of another processor in the daemon.
fn wait_for_answer(stream: &UnixStream, limit: Duration) -> Result<(), FrameError> {
    let limit = PollTimeout::try_from(limit.max(SHORTEST)).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], limit) {
        // What a socket's own time-out says.
        Ok(0) => Err(std::io::Error::from(Errno::EAGAIN).into()),
        // Interrupted, perhaps: reading waits too.
        Ok(_) | Err(_) => Ok(()),
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
