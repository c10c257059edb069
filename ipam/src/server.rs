//! The unix socket that plugin and command line speak to.
//!
//! Plain threads, each accepting for itself: the kernel's backlog is the queue, and an ADD never crosses an executor.
//! A peer that is slow, silent or not root is cut off.
//!
//! Idle threads wait on one epoll instance, not in accept(2): there the kernel wakes them in turn, here the one that began to wait
//! last (`ep_poll`, fs/eventpoll.c). Pods that come one by one are all served by one thread, whose memory is still in the caches.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cni_spec::{Code, Error};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{getsockopt, sockopt};
use node_api::{
    BootMillis, DelRequest, NotUnderstood, PROTOCOL_VERSION, Reply, Request, Response, Understood, read_frame_with_fd, write_frame,
};

use crate::attachments::Attachments;
use crate::failure;
use crate::kernel::Kernel;
use crate::metrics::{Metrics, Operation};

/// More than the kernel lets wire at once (RTNL is one lock), fewer than would matter in memory.
pub(crate) const WORKERS: usize = 16;
/// A plugin sends its request at once; a peer that does not is broken.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The listening socket and its threads.
#[derive(Debug)]
pub struct Server {
    door: Arc<Door>,
    workers: Vec<JoinHandle<()>>,
    path: PathBuf,
}

impl Server {
    /// Listens at `path`, mode 0600, in place of what is there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn start<K: Kernel>(path: &Path, attachments: &Arc<Attachments<K>>, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let door = Arc::new(Door::open(path)?);
        let workers = (0..WORKERS).map(|number| {
            let (door, attachments, metrics) = (Arc::clone(&door), Arc::clone(attachments), Arc::clone(metrics));
            std::thread::Builder::new().name(format!("cni-{number}")).spawn(move || work(&door, &attachments, &metrics))
        });
        Ok(Self { workers: workers.collect::<io::Result<_>>()?, door, path: path.to_owned() })
    }

    /// Removes the socket and accepts no more: a plugin that comes now does what it does without a daemon.
    pub fn close(&self) {
        let _ = fs::remove_file(&self.path);
        self.door.close();
    }

    /// Ends when what was accepted before [`Server::close`] is finished.
    pub fn join(self) {
        for worker in self.workers {
            let _ = worker.join();
        }
    }
}

/// The socket that listens, and where idle workers wait for it.
#[derive(Debug)]
struct Door {
    listener: UnixListener,
    epoll: Epoll,
    closed: AtomicBool,
}

impl Door {
    fn open(path: &Path) -> io::Result<Self> {
        let listener = listen(path)?;
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, Self::one_event())?;
        Ok(Self { listener, epoll, closed: AtomicBool::new(false) })
    }

    /// One worker is woken, and the next only when this one has accepted.
    fn one_event() -> EpollEvent {
        EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, 0)
    }

    /// Waits for a peer, without bound: it is what an idle worker does. `None` when the door is closed and nobody stands before it.
    fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            match self.epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            // Looked at before accept(2): what came before the closing is still served.
            let closed = self.closed.load(Ordering::Acquire);
            let accepted = self.listener.accept();
            self.epoll.modify(&self.listener, &mut Self::one_event())?;
            match accepted {
                Err(error) if closed && matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::InvalidInput) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome.map(|(stream, _)| Some(stream)),
            }
        }
    }

    /// Nobody can connect any more, and every idle worker wakes to see it: a socket that is shut down stays readable.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Err(errno) = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both) {
            tracing::warn!(%errno, "cannot shut the socket down");
        }
    }
}

/// Binds under another name, restricts, renames: nobody sees the socket with a mode other than its own, and a daemon that
/// starts again takes the name over without a moment in which it is missing.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let draft = path.with_extension("draft");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    fs::rename(&draft, path)?;
    Ok(listener)
}

fn work<K: Kernel>(door: &Door, attachments: &Attachments<K>, metrics: &Metrics) {
    loop {
        match door.accept() {
            Ok(Some(stream)) => serve(stream, attachments, metrics),
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "accept");
                // Out of descriptors, for instance: do not spin.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn serve<K: Kernel>(mut stream: UnixStream, attachments: &Attachments<K>, metrics: &Metrics) {
    if let Err(why) = admit(&stream) {
        tracing::warn!(why, "refused a connection");
        return;
    }
    let begun = Instant::now();
    let (bytes, fd) = match read_frame_with_fd(&mut stream) {
        Ok(frame) => frame,
        Err(error) => {
            tracing::warn!(%error, "a request could not be read");
            return;
        }
    };
    let now = BootMillis::now().unwrap_or_default();
    let (operation, undo, outcome) = match understand(&bytes) {
        Ok(Understood { deadline, request: Request::Add(add) }) => {
            let undo = DelRequest { container_id: add.container_id.clone(), ifname: add.ifname.clone() };
            let outcome = awaited(&stream, deadline, now).and_then(|()| answer(Request::Add(add), fd, attachments, now));
            (Operation::Add, Some(undo), outcome)
        }
        Ok(Understood { request, .. }) => (operation(&request), None, answer(request, fd, attachments, now)),
        Err(error) => (Operation::Other, None, Err(error)),
    };
    metrics.record(operation, begun.elapsed(), outcome.is_ok());
    let response = match outcome {
        Ok(reply) => Response::Ok(reply),
        Err(error) => {
            tracing::warn!(%error, "refused a request");
            Response::Error(error)
        }
    };
    if let Err(error) = write_frame(&mut stream, &response, None) {
        tracing::warn!(%error, "an answer could not be delivered");
        if let (Some(undo), Response::Ok(_)) = (undo, response) {
            tracing::warn!(container = %undo.container_id, "nobody knows of this ADD; undoing it");
            if let Err(error) = attachments.undo(&undo, now, BootMillis::now().unwrap_or(now)) {
                tracing::warn!(container = %undo.container_id, %error, "an ADD that nobody knows of could not be undone");
            }
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn admit(stream: &UnixStream) -> Result<(), String> {
    let peer = getsockopt(stream, sockopt::PeerCredentials).map_err(|errno| format!("peer credentials: {errno}"))?;
    let own = nix::unistd::geteuid().as_raw();
    if peer.uid() != 0 && peer.uid() != own {
        return Err(format!("process {} runs as user {}; only root may ask", peer.pid(), peer.uid()));
    }
    stream
        .set_read_timeout(Some(REQUEST_TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(REQUEST_TIMEOUT)))
        .map_err(|error| format!("socket deadlines: {error}"))
}

/// That somebody waits for an ADD's answer. Where nobody does, its runtime has sent the DEL, which may have been done before
/// this: then nothing would undo the ADD.
fn awaited(stream: &UnixStream, deadline: Option<BootMillis>, now: BootMillis) -> Result<(), Error> {
    let mut peer = [PollFd::new(stream.as_fd(), PollFlags::POLLHUP)];
    let hung_up = poll(&mut peer, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    if hung_up || deadline.is_some_and(|deadline| deadline <= now) {
        return Err(Error::new(Code::TryAgainLater, "nobody waits for this ADD any more; it was left"));
    }
    Ok(())
}

fn understand(bytes: &[u8]) -> Result<Understood, Error> {
    node_api::understand(bytes).map_err(|error| match error {
        NotUnderstood::Form(why) => Error::new(Code::Undecodable, format!("barewired does not understand the request: {why}")),
        NotUnderstood::Protocol(protocol) => {
            let remedy = if protocol > PROTOCOL_VERSION { "upgrade barewired" } else { "upgrade barewire-cni" };
            let msg = format!("the plugin speaks protocol {protocol}, barewired {PROTOCOL_VERSION}; {remedy}");
            Error::new(Code::TryAgainLater, msg)
        }
    })
}

fn operation(request: &Request) -> Operation {
    match request {
        Request::Add(_) => Operation::Add,
        Request::Del(_) => Operation::Del,
        Request::Check(_) | Request::Gc(_) | Request::Status => Operation::Other,
    }
}

fn answer<K: Kernel>(request: Request, fd: Option<OwnedFd>, attachments: &Attachments<K>, now: BootMillis) -> Result<Reply, Error> {
    let netns = |path: Option<&str>| {
        let fd = fd.ok_or_else(|| Error::new(Code::Undecodable, "the request came without its network namespace; upgrade barewire-cni"))?;
        attachments.kernel().open_netns(fd).map_err(|error| failure::netns(path, &error))
    };
    match request {
        Request::Add(request) => attachments.add(&request, &netns(Some(&request.netns_path))?, now).map(Reply::Attached),
        Request::Del(request) => attachments.del(&request, now).map(|()| Reply::Done),
        Request::Check(request) => attachments.check(&request, &netns(None)?).map(|()| Reply::Done),
        Request::Gc(request) => attachments.gc(&request, now).map(|()| Reply::Done),
        Request::Status => attachments.status(now).map(|()| Reply::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_door_wakes_every_idle_worker_after_the_last_peer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let door = Door::open(&path).unwrap();
        std::thread::scope(|scope| {
            let idle: Vec<_> = (0..4).map(|_| scope.spawn(|| std::iter::from_fn(|| door.accept().unwrap()).count())).collect();
            let _peers: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
            door.close();
            assert_eq!(idle.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>(), 3);
        });
    }
}
