//! The unix socket that plugin and command line speak to.
//!
//! Plain threads, each accepting for itself (`door`): the kernel's backlog is the queue, and an ADD never crosses an executor.
//! A peer that is slow, silent or not root is cut off. Who removes the socket's file finds it back.
//!
//! A thread that is held up in the kernel (see [`datapath::calls`]) is lost until the kernel lets it go. `ServedRequests::relieve` puts another
//! in its place, and answers who waits for it.

mod crew;
mod door;
mod exchange;

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cni_spec::{Code, Error};
use datapath::calls;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use node_api::{BootMillis, NotUnderstood, PROTOCOL_VERSION, Reply, Request, Response, Understood, read_frame_with_fd, write_frame};

use self::crew::{Crew, Presence};
use self::door::Door;
use self::exchange::{Exchange, Exchanges};
use crate::attachments::{Attached, Attachments};
use crate::cni_errors;
use crate::kernel::Kernel;
use crate::latencies::{Metrics, Operation};
use crate::scheduling::Scheduling;

/// Threads that work: more than the kernel lets wire at once (RTNL is one lock), fewer than would matter in memory.
const WORKERS: usize = 16;
/// A plugin sends its request at once; a peer that does not is broken.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A plugin that has the answer passes it on and ends.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(2);

/// The listening socket and its threads.
#[derive(Debug)]
pub struct Server {
    door: Arc<Door>,
    crew: Arc<Crew>,
    exchanges: Arc<Exchanges>,
}

/// The file that plugins find, for whoever keeps it.
#[derive(Debug)]
pub(crate) struct ServedSocket(Arc<Door>);

impl ServedSocket {
    /// Makes the socket again where it was removed or replaced, and gives it back its mode. Tells what was done; nothing, mostly.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn keep(&self) -> io::Result<Option<&'static str>> {
        self.0.keep()
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }
}

impl Server {
    /// Listens at `path`, mode 0600, in place of what is there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn start<K: Kernel>(
        path: &Path,
        attachments: &Arc<Attachments<K>>,
        metrics: &Arc<Metrics>,
        scheduling: Scheduling,
    ) -> io::Result<Self> {
        let (door, crew, exchanges) = (Arc::new(Door::open(path)?), Arc::new(Crew::new(WORKERS)), Arc::new(Exchanges::default()));
        fill(&crew, &door, &exchanges, attachments, metrics, scheduling)?;
        let relief = {
            // Not the attachments themselves, which keep this.
            let (crew, door, exchanges) = (Arc::clone(&crew), Arc::clone(&door), Arc::clone(&exchanges));
            let (attachments, metrics) = (Arc::downgrade(attachments), Arc::clone(metrics));
            move || {
                let Some(attachments) = attachments.upgrade() else { return };
                if let Err(error) = fill(&crew, &door, &exchanges, &attachments, &metrics, scheduling) {
                    tracing::warn!(%error, "no further thread serves while others wait");
                }
            }
        };
        attachments.relieve(relief);
        Ok(Self { crew, door, exchanges })
    }

    /// Removes the socket and accepts no more: a plugin that comes now does what it does without a daemon.
    pub fn close(&self) {
        self.door.close();
    }

    /// What sees to it that the socket stays there.
    pub(crate) fn socket(&self) -> ServedSocket {
        ServedSocket(Arc::clone(&self.door))
    }

    /// What answers in place of threads that are held up.
    pub(crate) fn relief(&self) -> ServedRequests {
        ServedRequests(Arc::clone(&self.exchanges))
    }

    /// Ends when what was accepted before [`Server::close`] is finished, or when it was waited for that long: then who still waits is
    /// told to try again, and what was begun is undone if ever it comes back.
    pub fn join(self, limit: Duration) {
        if self.crew.join(limit) {
            return;
        }
        let refused = self.exchanges.refuse_all(&Error::new(Code::TryAgainLater, cni_errors::held_up()));
        tracing::error!(
            requests = refused,
            "threads do not come back; one that the kernel does not let go keeps the process from being gone"
        );
    }
}

/// What is being served, for whoever looks after threads that are held up.
#[derive(Debug)]
pub(crate) struct ServedRequests(Arc<Exchanges>);

impl ServedRequests {
    /// Answers in place of threads that have been in the kernel for so long that nobody should wait for them, and sees to it that others
    /// serve meanwhile. Tells whether any thread is held up.
    pub(crate) fn relieve<K: Kernel>(&self, attachments: &Attachments<K>) -> bool {
        let held = attachments.kernel().held_up();
        if held.is_empty() && attachments.kernel().waiting() == 0 {
            return false;
        }
        attachments.call_relief();
        let overdue: Vec<_> = held.iter().filter(|(_, lasts)| *lasts >= calls::LIMIT).map(|(thread, _)| *thread).collect();
        let refused = self.0.refuse(&overdue, &Error::new(Code::TryAgainLater, cni_errors::held_up()));
        if refused > 0 {
            tracing::warn!(requests = refused, "refused requests whose threads are held up in the kernel");
        }
        true
    }
}

/// Starts as many threads as there should be now.
fn fill<K: Kernel>(
    crew: &Arc<Crew>,
    door: &Arc<Door>,
    exchanges: &Arc<Exchanges>,
    attachments: &Arc<Attachments<K>>,
    metrics: &Arc<Metrics>,
    scheduling: Scheduling,
) -> io::Result<()> {
    crew.fill(attachments.waiting(), |number, here| {
        let (crew, door, exchanges) = (Arc::clone(crew), Arc::clone(door), Arc::clone(exchanges));
        let (attachments, metrics) = (Arc::clone(attachments), Arc::clone(metrics));
        let thread = std::thread::Builder::new().name(format!("cni-{number}")).spawn(move || {
            scheduling.apply();
            work(&crew, &door, &exchanges, &attachments, &metrics);
            drop::<Presence>(here);
        });
        thread.map(drop)
    })
}

fn work<K: Kernel>(crew: &Crew, door: &Door, exchanges: &Exchanges, attachments: &Attachments<K>, metrics: &Metrics) {
    loop {
        match door.accept() {
            Ok(Some(stream)) => {
                serve(stream, exchanges, attachments, metrics);
                if crew.may_leave(attachments.waiting()) {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "accept");
                // Out of descriptors, for instance: do not spin.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn serve<K: Kernel>(mut stream: UnixStream, exchanges: &Exchanges, attachments: &Attachments<K>, metrics: &Metrics) {
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
    let exchange = match exchanges.open(&stream) {
        Ok(exchange) => exchange,
        Err(error) => {
            tracing::warn!(%error, "a request could not be taken");
            return;
        }
    };
    let now = BootMillis::now();
    let (operation, outcome) = match understand(&bytes) {
        Ok(Understood { deadline, request }) => {
            let caller = Caller { stream: &stream, exchange: &exchange, deadline };
            (operation(&request), answer(request, fd, &caller, attachments, now))
        }
        Err(error) => (Operation::Other, Err(error)),
    };
    metrics.record(operation, begun.elapsed(), outcome.is_ok());
    let (response, attached) = match outcome {
        Ok((reply, attached)) => (Response::Ok(reply), attached),
        Err(error) => {
            tracing::warn!(%error, "refused a request");
            (Response::Error(error), None)
        }
    };
    let is_sent = exchange.take()
        && write_frame(&mut stream, &response, None)
            .inspect_err(|error| tracing::warn!(%error, "an answer could not be delivered"))
            .is_ok();
    drop(exchange);
    if let Some(attached) = attached {
        attached.log();
        if !(is_sent && is_received(&mut stream)) {
            attached.undo(BootMillis::now());
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// Whether an answer that was sent was passed on. A peer that is killed before leaves some of it unread, and the kernel tells
/// (`unix_release_sock`, net/unix/af_unix.c). Of a peer that does nothing it is assumed.
fn is_received(stream: &mut UnixStream) -> bool {
    let _ = stream.set_read_timeout(Some(RECEIPT_TIMEOUT));
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            tracing::warn!("whoever asked has ended before it took the answer");
            false
        }
        _ => true,
    }
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

/// Who asks.
struct Caller<'a> {
    stream: &'a UnixStream,
    /// Where it may have been answered already.
    exchange: &'a Exchange,
    /// How long an answer is waited for.
    deadline: Option<BootMillis>,
}

impl Caller<'_> {
    /// For the log.
    fn name(&self) -> String {
        let peer = getsockopt(self.stream, sockopt::PeerCredentials);
        peer.map_or_else(|errno| format!("unknown ({errno})"), |peer| format!("process {} of user {}", peer.pid(), peer.uid()))
    }

    /// That an ADD's answer is waited for. Where it is not, its runtime has sent the DEL, which may have been done before
    /// this: then nothing would undo the ADD.
    fn waits(&self) -> Result<(), Error> {
        let mut peer = [PollFd::new(self.stream.as_fd(), PollFlags::POLLHUP)];
        let hung_up = poll(&mut peer, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        let is_late = || self.deadline.is_some_and(|deadline| deadline <= BootMillis::now());
        if hung_up || is_late() || self.exchange.is_answered() {
            return Err(Error::new(Code::TryAgainLater, "nobody waits for this ADD any more; it was left"));
        }
        Ok(())
    }
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
        Request::Check(_) | Request::Gc(_) | Request::Status | Request::ReleaseAddress(_) => Operation::Other,
    }
}

/// Does what is asked. An attachment that was made is the caller's only when the caller has been told.
fn answer<'a, K: Kernel>(
    request: Request,
    fd: Option<OwnedFd>,
    caller: &Caller<'_>,
    attachments: &'a Attachments<K>,
    now: BootMillis,
) -> Result<(Reply, Option<Attached<'a, K>>), Error> {
    let netns = |path: Option<&str>| {
        let fd = fd.ok_or_else(|| Error::new(Code::Undecodable, "the request came without its network namespace; upgrade barewire-cni"))?;
        attachments.kernel().open_netns(fd).map_err(|error| cni_errors::netns(path, &error))
    };
    let done = match request {
        Request::Add(request) => {
            caller.waits()?;
            let mut attached = attachments.add(&request, &netns(Some(&request.netns_path))?, &|| caller.waits(), now)?;
            return Ok((Reply::Attached(std::mem::take(&mut attached.result)), Some(attached)));
        }
        Request::Del(request) => attachments.del(&request, now),
        Request::Check(request) => attachments.check(&request, &netns(None)?),
        Request::Gc(request) => attachments.gc(&request, now),
        Request::Status => attachments.status(now),
        Request::ReleaseAddress(address) => attachments.release_address(address, &caller.name(), now),
    };
    done.map(|()| (Reply::Done, None))
}
