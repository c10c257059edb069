//! A blocking route-netlink socket and batches of requests on it.
//!
//! A batch is a pipeline, not a transaction: the kernel goes on behind a request that failed. Only the last request asks
//! for an acknowledgement; a failed one always answers (RFC 3549, 2.3.2.2), and answers come in order. So a batch of
//! n requests costs one send and one receive when all is well.

use std::io;
use std::os::fd::AsFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_ECHO, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket as RawSocket, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::calls::{Call, HeldUp};

/// For answers that do not come. The kernel executes a request while it is sent, and that nothing bounds: see [`crate::calls`].
const ANSWER_TIMEOUT_SECONDS: i64 = 10;
/// A dump is begun again when the table changed under it; ten times in a row is a storm, not an accident.
const DUMP_ATTEMPTS: u32 = 10;
/// Types below are netlink's own (`NLMSG_MIN_TYPE`).
const FIRST_ROW: u16 = 16;
/// What was being done where nothing was, because somebody holds the kernel's lock.
const HELD_UP: &str = "wait for the kernel's lock of network configuration (RTNL)";
/// `struct nlmsghdr`
const HEADER: usize = 16;
/// The kernel fills as much of a table into one datagram.
const TABLE: usize = 64 * 1024;
/// An acknowledgement is a datagram of its own, some hundred bytes; an object that is told of has a few kilobytes. A pod's socket lives
/// for one batch, so its memory should come cheap.
const ANSWERS: usize = 16 * 1024;

/// A request that the kernel refused, or a socket that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}{}{kernel_says}", if kernel_says.is_empty() { "" } else { ": " })]
pub struct NetlinkError {
    /// What was being done.
    pub step: &'static str,
    /// The errno.
    #[source]
    pub source: io::Error,
    /// The kernel's own words (extended acknowledgement), where it had some.
    pub kernel_says: String,
}

impl NetlinkError {
    fn new(step: &'static str, source: impl Into<io::Error>) -> Self {
        Self { step, source: source.into(), kernel_says: String::new() }
    }

    /// Whether nothing was done, because somebody has held the kernel's lock for long.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        self.step == HELD_UP
    }

    /// Whether the kernel answered with this errno.
    #[must_use]
    pub fn is(&self, errno: nix::errno::Errno) -> bool {
        self.source.raw_os_error() == Some(errno as i32)
    }

    /// Whether the kernel answered that there is no such thing.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        use nix::errno::Errno;
        [Errno::ENODEV, Errno::ENOENT, Errno::ESRCH].iter().any(|errno| self.is(*errno))
    }
}

impl From<HeldUp> for NetlinkError {
    fn from(HeldUp(lasts): HeldUp) -> Self {
        let kernel_says = format!("somebody has held it for {} s", lasts.as_secs());
        Self { step: HELD_UP, source: io::ErrorKind::TimedOut.into(), kernel_says }
    }
}

/// One request of a batch.
#[derive(Debug)]
pub struct Request {
    /// What it does, for the error message.
    pub step: &'static str,
    /// The message.
    pub message: RouteNetlinkMessage,
    /// `NLM_F_CREATE`, `NLM_F_EXCL`, `NLM_F_REPLACE`
    pub flags: u16,
}

/// A blocking route-netlink socket of the network namespace that the thread was in when it was opened.
pub struct Socket {
    raw: RawSocket,
    sequence: u32,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("raw", &self.raw).field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// Where the kernel has no descriptor or memory left.
    pub fn open() -> Result<Self, NetlinkError> {
        let fail = |source: io::Error| NetlinkError::new("open a netlink socket", source);
        let raw = RawSocket::new(NETLINK_ROUTE).map_err(fail)?;
        raw.set_ext_ack(true).map_err(fail)?;
        raw.set_cap_ack(true).map_err(fail)?;
        setsockopt(&raw.as_fd(), sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_TIMEOUT_SECONDS)).map_err(|errno| fail(errno.into()))?;
        Ok(Self { raw, sequence: 0, outgoing: Vec::with_capacity(2048), incoming: Vec::new() })
    }

    /// Sends all requests at once and waits until the last is answered.
    ///
    /// # Errors
    /// The first request that the kernel refused. Those behind it were executed none the less.
    pub fn execute(&mut self, requests: Vec<Request>) -> Result<(), NetlinkError> {
        match self.execute_each(requests)?.into_iter().next() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// Like [`Socket::execute`], but tells every request that was refused, in order.
    ///
    /// # Errors
    /// Only where the socket itself failed.
    pub fn execute_each(&mut self, requests: Vec<Request>) -> Result<Vec<NetlinkError>, NetlinkError> {
        let Some(last) = requests.len().checked_sub(1) else { return Ok(Vec::new()) };
        let steps: Vec<_> = requests.iter().map(|request| request.step).collect();
        let first_sequence = self.sequence.wrapping_add(1);
        self.outgoing.clear();
        for (position, request) in requests.into_iter().enumerate() {
            let ack = if position == last { NLM_F_ACK } else { 0 };
            self.append(request.message, NLM_F_REQUEST | ack | request.flags);
        }
        self.send(steps[0])?;
        let mut refused = Vec::new();
        loop {
            for message in self.receive(steps[last], ANSWERS, |kind, _| kind == NLMSG_ERROR)? {
                let position = message.header.sequence_number.wrapping_sub(first_sequence) as usize;
                let (NetlinkPayload::Error(answer), Some(step)) = (message.payload, steps.get(position)) else { continue };
                if answer.code.is_some() {
                    let kernel_says = extended_ack(message.header.flags, &answer.header);
                    refused.push(NetlinkError { step, source: answer.to_io(), kernel_says });
                }
                if position == last {
                    return Ok(refused);
                }
            }
        }
    }

    /// Asks about one object, without reading its table.
    ///
    /// # Errors
    /// Where the kernel refuses, or does not have it.
    pub fn ask(&mut self, step: &'static str, question: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, NetlinkError> {
        self.outgoing.clear();
        // An answer about a qdisc is a notification, and comes to who wants his echo (`nlmsg_notify`, net/netlink/af_netlink.c).
        self.append(question, NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO);
        self.send(step)?;
        let mut told = None;
        loop {
            for message in self.receive(step, TABLE, |_, _| true)? {
                match message.payload {
                    _ if message.header.sequence_number != self.sequence => {}
                    NetlinkPayload::InnerMessage(answer) => told = Some(answer),
                    NetlinkPayload::Error(answer) if answer.code.is_some() => {
                        let kernel_says = extended_ack(message.header.flags, &answer.header);
                        return Err(NetlinkError { step, source: answer.to_io(), kernel_says });
                    }
                    NetlinkPayload::Error(_) => return told.ok_or_else(|| NetlinkError::new(step, nix::errno::Errno::ENOENT)),
                    _ => {}
                }
            }
        }
    }

    /// Reads a whole table and keeps what `pick` makes of its rows. A thousand links are megabytes when decoded, so rows
    /// that are not picked are dropped at once.
    ///
    /// # Errors
    /// Where the kernel refuses, or the table never holds still.
    pub fn dump<T>(
        &mut self,
        step: &'static str,
        request: &RouteNetlinkMessage,
        pick: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.dump_where(step, request, |_| true, pick)
    }

    /// Likewise, but rows of which `is_wanted` says no, by their bytes behind the message's header, are not even decoded.
    ///
    /// # Errors
    /// As [`Socket::dump`].
    pub(crate) fn dump_where<T>(
        &mut self,
        step: &'static str,
        request: &RouteNetlinkMessage,
        is_wanted: impl Fn(&[u8]) -> bool,
        mut pick: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(picked) = self.dump_once(step, request, &is_wanted, &mut pick)? {
                return Ok(picked);
            }
        }
        Err(NetlinkError::new(step, io::Error::other("the table changed under every attempt to read it")))
    }

    /// `None` where the dump was interrupted by a change (`NLM_F_DUMP_INTR`).
    fn dump_once<T>(
        &mut self,
        step: &'static str,
        request: &RouteNetlinkMessage,
        is_wanted: &impl Fn(&[u8]) -> bool,
        pick: &mut impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Option<Vec<T>>, NetlinkError> {
        self.outgoing.clear();
        self.append(request.clone(), NLM_F_REQUEST | NLM_F_DUMP);
        self.send(step)?;
        let (mut picked, mut interrupted) = (Vec::new(), false);
        loop {
            // A table's end and an error are no rows.
            for message in self.receive(step, TABLE, |kind, row| kind < FIRST_ROW || is_wanted(row))? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(row) => picked.extend(pick(row)),
                    NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(picked)),
                    NetlinkPayload::Error(answer) if answer.code.is_some() => return Err(NetlinkError::new(step, answer.to_io())),
                    _ => {}
                }
            }
        }
    }

    fn append(&mut self, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let start = self.outgoing.len();
        // Lengths of netlink messages are multiples of four here: every attribute is padded (netlink(7)).
        self.outgoing.resize(start + packet.buffer_len().next_multiple_of(4), 0);
        packet.serialize(&mut self.outgoing[start..]);
    }

    fn send(&self, step: &'static str) -> Result<(), NetlinkError> {
        let _call = Call::begin();
        self.raw.send(&self.outgoing, 0).map(drop).map_err(|error| NetlinkError::new(step, error))
    }

    /// What has come, of the messages that are wanted by type and payload; others are not even decoded.
    fn receive(
        &mut self,
        step: &'static str,
        room: usize,
        is_wanted: impl Fn(u16, &[u8]) -> bool,
    ) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, NetlinkError> {
        self.incoming.clear();
        self.incoming.reserve(room);
        let call = Call::begin();
        let length = loop {
            match self.raw.recv(&mut self.incoming, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome.map_err(|error| NetlinkError::new(step, error))?,
            }
        };
        drop(call);
        let mut messages = Vec::new();
        let mut rest = &self.incoming[..length];
        let unreadable = |why: &dyn std::fmt::Display| NetlinkError::new(step, io::Error::new(io::ErrorKind::InvalidData, why.to_string()));
        while !rest.is_empty() {
            let header = NetlinkBuffer::new_checked(rest).map_err(|why| unreadable(&why))?;
            let taken = (header.length() as usize).next_multiple_of(4).min(rest.len());
            if is_wanted(header.message_type(), rest.get(HEADER..header.length() as usize).unwrap_or_default()) {
                messages.push(NetlinkMessage::deserialize(rest).map_err(|why| unreadable(&why))?);
            }
            rest = &rest[taken.max(1)..];
        }
        Ok(messages)
    }
}

/// The string of an extended acknowledgement: behind the echoed header (`cap_ack` keeps the payload away) stand
/// attributes, of which number 1 is the message (`NLMSGERR_ATTR_MSG`, linux/netlink.h).
fn extended_ack(flags: u16, echoed: &[u8]) -> String {
    const HEADER: usize = 16;
    const ATTRIBUTE_HEADER: usize = 4;
    const MESSAGE: u16 = 1;
    if flags & NLM_F_ACK_TLVS == 0 {
        return String::new();
    }
    let mut rest = echoed.get(HEADER..).unwrap_or_default();
    while let Some((head, _)) = rest.split_at_checked(ATTRIBUTE_HEADER) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]);
        let Some(value) = rest.get(ATTRIBUTE_HEADER..length) else { break };
        if kind == MESSAGE {
            return String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_found_behind_other_attributes() {
        let mut bytes = vec![0; 16];
        bytes.extend([8, 0, 2, 0, 9, 9, 9, 9]);
        bytes.extend([8, 0, 1, 0]);
        bytes.extend(b"bad\0");
        assert_eq!(extended_ack(NLM_F_ACK_TLVS, &bytes), "bad");
        assert_eq!(extended_ack(0, &bytes), "");
        assert_eq!(extended_ack(NLM_F_ACK_TLVS, &bytes[..18]), "");
    }
}
