//! The removal of links: many at the price of one.
//!
//! Removing a veth waits for the network stack to forget it (`synchronize_net`), 23 to 40 ms however many go at once. So
//! links to be removed are put into a link group of their own, and the group is removed by one request; a thread gathers
//! what falls due together. It is off the path of DEL: a pod's deletion does not wait for it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::Ifindex;
use crate::calls;
use crate::netlink::{NetlinkError, Request, Socket};

/// The link group of links about to go.
const DOOMED_GROUP: u32 = 0xB3DE;
/// How long the first link of a batch waits for company.
const GATHER: Duration = Duration::from_millis(20);
/// A netlink send must fit the socket's buffer; 256 requests are about 10 kB.
const BATCH_MAX: usize = 256;
/// Between attempts, doubled each time.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How long the end waits for what is still due: the next start removes links that nobody has.
const LAST: Duration = Duration::from_secs(3);

/// Removes links by number; one that is gone already counts as removed.
///
/// # Errors
/// Where the kernel refuses for another reason.
pub fn remove_links(host: &mut Socket, links: &[Ifindex]) -> Result<(), NetlinkError> {
    for batch in links.chunks(BATCH_MAX) {
        let requests = batch.iter().map(|ifindex| {
            let mut message = LinkMessage::default();
            message.header.index = ifindex.0;
            message.attributes = vec![LinkAttribute::Group(DOOMED_GROUP)];
            Request { step: "put the link into the group to be removed", message: RouteNetlinkMessage::SetLink(message), flags: 0 }
        });
        refusals_but_absence(host.execute_each(requests.collect())?)?;
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::Group(DOOMED_GROUP)];
        let request = Request { step: "remove the links", message: RouteNetlinkMessage::DelLink(message), flags: 0 };
        refusals_but_absence(host.execute_each(vec![request])?)?;
    }
    Ok(())
}

fn refusals_but_absence(refused: Vec<NetlinkError>) -> Result<(), NetlinkError> {
    use nix::errno::Errno;
    match refused.into_iter().find(|error| !error.is(Errno::ENODEV) && !error.is(Errno::EINVAL)) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

enum Order {
    Remove(Ifindex),
    /// Nothing more comes.
    End,
    /// Remove all that was ordered before, then answer.
    Flush(Sender<()>),
}

/// The thread that removes links in batches.
#[derive(Debug)]
pub struct LinkRemover {
    orders: Sender<Order>,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

impl LinkRemover {
    /// Starts the thread in the caller's network namespace; `begin` is what it does first. `removed` is told each link that is gone for good.
    ///
    /// # Errors
    /// Where the system has no thread or socket left.
    pub fn start(begin: impl FnOnce() + Send + 'static, removed: impl Fn(&[Ifindex]) + Send + 'static) -> Result<Self, NetlinkError> {
        let socket = Socket::open()?;
        let (orders, inbox) = channel();
        let (ends, ended) = channel();
        std::thread::Builder::new()
            .name("link-remover".into())
            .spawn(move || {
                begin();
                work(&inbox, socket, removed);
                drop::<Sender<()>>(ends);
            })
            .map_err(|source| NetlinkError { step: "start the link remover", source, kernel_says: String::new() })?;
        Ok(Self { orders, ended: Mutex::new(ended) })
    }

    /// Has a link removed soon.
    pub fn remove(&self, link: Ifindex) {
        // The thread ends only when it is told to.
        let _ = self.orders.send(Order::Remove(link));
    }

    /// Waits until all links ordered so far are gone, at most `limit`. Tells whether they are.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        let (done, wait) = channel();
        self.orders.send(Order::Flush(done)).is_ok() && wait.recv_timeout(limit).is_ok()
    }
}

impl Drop for LinkRemover {
    /// Removes what is still due, then ends the thread; not for ever, where somebody holds the kernel's lock.
    fn drop(&mut self) {
        let _ = self.orders.send(Order::End);
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(LAST);
    }
}

fn work(inbox: &Receiver<Order>, mut socket: Socket, removed: impl Fn(&[Ifindex])) {
    while let Ok(first) = inbox.recv() {
        let Batch { links, waiting, is_last } = gather(inbox, first);
        if !remove_in_the_end(&mut socket, &links, is_last) {
            return;
        }
        removed(&links);
        for done in waiting {
            let _ = done.send(());
        }
        if is_last {
            return;
        }
    }
}

/// Removes links, however often that takes: their numbers are nobody's until they are gone. Tells whether they are; not, where nothing more
/// comes and they cannot be removed now.
fn remove_in_the_end(socket: &mut Socket, links: &[Ifindex], is_last: bool) -> bool {
    let (mut pause, longest) = RETRY;
    let mut is_told = false;
    while !links.is_empty() {
        // Nobody waits for this, so it does not wait in the kernel where others do.
        let error = match calls::wait_for_others().map_err(NetlinkError::from).and_then(|()| remove_links(socket, links)) {
            Ok(()) => return true,
            Err(error) => error,
        };
        if !is_told {
            is_told = true;
            tracing::warn!(%error, links = links.len(), "links could not be removed; trying again until they are gone");
        }
        if is_last {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
        // An answer to what failed could still be on its way.
        if let Ok(another) = Socket::open() {
            *socket = another;
        }
    }
    true
}

/// What is done at once.
#[derive(Default)]
struct Batch {
    links: Vec<Ifindex>,
    waiting: Vec<Sender<()>>,
    is_last: bool,
}

/// Collects orders until the gathering time is over, the batch is full, or somebody waits.
fn gather(inbox: &Receiver<Order>, first: Order) -> Batch {
    let mut batch = Batch::default();
    let deadline = Instant::now() + GATHER;
    let mut next = Some(first);
    while let Some(order) = next {
        match order {
            Order::Remove(link) => batch.links.push(link),
            Order::Flush(done) => batch.waiting.push(done),
            Order::End => batch.is_last = true,
        }
        if batch.links.len() >= BATCH_MAX || !batch.waiting.is_empty() || batch.is_last {
            break;
        }
        next = inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok();
    }
    batch
}
