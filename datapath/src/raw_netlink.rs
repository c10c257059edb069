//! Dumps of netlink families that nobody has types for: messages as bytes, attributes by number (netlink(7)).

use std::io;
use std::os::fd::AsFd;

use netlink_sys::Socket as RawSocket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::calls::Call;
use crate::netlink::NetlinkError;

const ANSWER_TIMEOUT_SECONDS: i64 = 10;
/// A dump is begun again when its table changed under it.
const DUMP_ATTEMPTS: u32 = 10;
const RECEIVE_BUFFER: usize = 256 * 1024;
const HEADER: usize = 16;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A socket of one family.
pub(crate) struct Dumps {
    raw: RawSocket,
    sequence: u32,
    incoming: Vec<u8>,
}

/// The head of a message, and what follows.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

fn failed(step: &'static str, source: impl Into<io::Error>) -> NetlinkError {
    NetlinkError { step, source: source.into(), kernel_says: String::new() }
}

impl Dumps {
    /// Opens a socket in the calling thread's network namespace; `None` where the kernel does not have the family.
    pub(crate) fn open(step: &'static str, protocol: isize) -> Result<Option<Self>, NetlinkError> {
        let raw = match RawSocket::new(protocol) {
            Ok(raw) => raw,
            Err(error) if error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) => return Ok(None),
            Err(error) => return Err(failed(step, error)),
        };
        setsockopt(&raw.as_fd(), sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_TIMEOUT_SECONDS))
            .map_err(|errno| failed(step, errno))?;
        Ok(Some(Self { raw, sequence: 0, incoming: Vec::with_capacity(RECEIVE_BUFFER) }))
    }

    /// Opens a route-netlink socket whose dumps the kernel filters by what their requests say (`NETLINK_GET_STRICT_CHK`, Linux 4.20). An
    /// older kernel tells all, so that who asks has to look all the same.
    pub(crate) fn open_strict(step: &'static str) -> Result<Self, NetlinkError> {
        let dumps = Self::open(step, NETLINK_ROUTE)?.ok_or_else(|| failed(step, Errno::EPROTONOSUPPORT))?;
        // In vain on an older kernel.
        let _ = dumps.raw.set_netlink_get_strict_chk(true);
        Ok(dumps)
    }

    /// Asks for a whole table, and keeps what `pick` makes of each message: its type and its payload.
    pub(crate) fn dump<T>(
        &mut self,
        step: &'static str,
        kind: u16,
        payload: &[u8],
        mut pick: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(picked) = self.ask(step, (kind, REQUEST | DUMP), payload, &mut pick)? {
                return Ok(picked);
            }
        }
        Err(failed(step, io::Error::other("the table changed under every attempt to read it")))
    }

    /// Asks for one message.
    pub(crate) fn get<T>(
        &mut self,
        step: &'static str,
        kind: u16,
        payload: &[u8],
        pick: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, NetlinkError> {
        let told = self.ask(step, (kind, REQUEST), payload, &mut |_, payload| pick(payload))?;
        Ok(told.and_then(|told| told.into_iter().next()))
    }

    /// `None` where a change has interrupted the answer.
    fn ask<T>(
        &mut self,
        step: &'static str,
        (kind, flags): (u16, u16),
        payload: &[u8],
        pick: &mut impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes().into_iter().chain(flags.to_ne_bytes()).chain(self.sequence.to_ne_bytes()).chain([0; 4]));
        request.extend(payload);
        let call = Call::begin();
        self.raw.send(&request, 0).map_err(|error| failed(step, error))?;
        drop(call);
        let (mut picked, mut interrupted, is_dump) = (Vec::new(), false, flags & DUMP == DUMP);
        loop {
            self.incoming.clear();
            let call = Call::begin();
            let length = match self.raw.recv(&mut self.incoming, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome.map_err(|error| failed(step, error))?,
            };
            drop(call);
            for message in messages(&self.incoming[..length.min(self.incoming.len())]) {
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    ERROR => match number(message.payload).cast_signed() {
                        0 => return Ok(Some(picked)),
                        code => return Err(failed(step, io::Error::from_raw_os_error(-code))),
                    },
                    DONE => return Ok((!interrupted).then_some(picked)),
                    kind => {
                        picked.extend(pick(kind, message.payload));
                        if !is_dump {
                            return Ok(Some(picked));
                        }
                    }
                }
            }
        }
    }
}

fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER)?;
        let length = number(header) as usize;
        let payload = rest.get(HEADER..length)?;
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let message = Message { kind: half(4), flags: half(6), sequence: number(&header[8..]), payload };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes of a message, by their numbers; flags in the number's highest bits are left out. What is cut short ends them.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const NUMBER: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let header = rest.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = rest.get(4..length)?;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NUMBER;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// One attribute, with its padding.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes: Vec<u8> = length.to_ne_bytes().into_iter().chain(kind.to_ne_bytes()).chain(value.iter().copied()).collect();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The first four bytes as a number of the host's order; 0 where there are fewer.
pub(crate) fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// The first four bytes as a number of the network's order; 0 where there are fewer.
pub(crate) fn network_number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_ends_a_list_and_nothing_else() {
        let whole = [attribute(1, b"abc"), attribute(0x8002, b"")].concat();
        assert_eq!(attributes(&whole).collect::<Vec<_>>(), [(1, &b"abc"[..]), (2, &b""[..])]);
        for length in 0..whole.len() {
            assert!(attributes(&whole[..length]).count() <= 2);
        }
        // A length of nothing, or beyond the end.
        assert_eq!(attributes(&[0, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0]).count(), 0);
        assert_eq!(messages(&[255; 20]).count(), 0);
        assert_eq!(messages(&[0; 40]).count(), 0);
    }
}
