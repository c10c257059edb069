//! The removal of links: many at the price of one.
//!
//! Removing a veth waits for the network stack to forget it (`synchronize_net`), 23 to 40 ms however many go at once. So
//! links to be removed are put into a link group of their own, and the group is removed by one request; a thread gathers
//! what falls due together. It is off the path of DEL: a pod's deletion does not wait for it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::Ifindex;
use crate::netlink::{NetlinkError, Request, Socket};

/// The link group of links about to go.
const DOOMED_GROUP: u32 = 0xB3DE;
/// How long the first link of a batch waits for company.
const GATHER: Duration = Duration::from_millis(20);
/// A netlink send must fit the socket's buffer; 256 requests are about 10 kB.
const BATCH_MAX: usize = 256;
const RETRY: Duration = Duration::from_millis(500);

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
    /// Remove all that was ordered before, then answer.
    Flush(Sender<()>),
}

/// The thread that removes links in batches.
#[derive(Debug)]
pub struct LinkRemover {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl LinkRemover {
    /// Starts the thread in the caller's network namespace. `removed` is told each link that is gone for good.
    ///
    /// # Errors
    /// Where the system has no thread or socket left.
    pub fn start(removed: impl Fn(&[Ifindex]) + Send + 'static) -> Result<Self, NetlinkError> {
        let socket = Socket::open()?;
        let (orders, inbox) = channel();
        let thread = std::thread::Builder::new()
            .name("link-remover".into())
            .spawn(move || work(&inbox, socket, removed))
            .map_err(|source| NetlinkError { step: "start the link remover", source, kernel_says: String::new() })?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Has a link removed soon.
    pub fn remove(&self, link: Ifindex) {
        if let Some(orders) = &self.orders {
            // The thread ends only when this sender is dropped.
            let _ = orders.send(Order::Remove(link));
        }
    }

    /// Waits until all links ordered so far are gone, at most `limit`. Tells whether they are.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        let (done, wait) = channel();
        let Some(orders) = &self.orders else { return false };
        orders.send(Order::Flush(done)).is_ok() && wait.recv_timeout(limit).is_ok()
    }
}

impl Drop for LinkRemover {
    /// Removes what is still due, then ends the thread.
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(inbox: &Receiver<Order>, mut socket: Socket, removed: impl Fn(&[Ifindex])) {
    while let Ok(first) = inbox.recv() {
        let (batch, waiting) = gather(inbox, first);
        if let Err(error) = remove_links(&mut socket, &batch) {
            tracing::warn!(%error, links = batch.len(), "links could not be removed; trying once more");
            std::thread::sleep(RETRY);
            if let Err(error) = remove_links(&mut socket, &batch) {
                // The sweep finds links without an owner and orders their removal again.
                tracing::error!(%error, links = batch.len(), "links could not be removed; leaving them to the next sweep");
                continue;
            }
        }
        removed(&batch);
        for done in waiting {
            let _ = done.send(());
        }
    }
}

/// Collects orders until the gathering time is over, the batch is full, or somebody waits.
fn gather(inbox: &Receiver<Order>, first: Order) -> (Vec<Ifindex>, Vec<Sender<()>>) {
    let (mut batch, mut waiting) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + GATHER;
    let mut next = Some(first);
    while let Some(order) = next {
        match order {
            Order::Remove(link) => batch.push(link),
            Order::Flush(done) => waiting.push(done),
        }
        if batch.len() >= BATCH_MAX || !waiting.is_empty() {
            break;
        }
        next = inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok();
    }
    (batch, waiting)
}
