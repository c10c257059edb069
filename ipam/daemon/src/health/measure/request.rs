//! What is asked at the beginning of a connection: sixteen bytes, and nothing is answered to others.

use std::io::{self, Read};
use std::time::Duration;

/// Bytes of a request, and of each message that is sent back.
pub(super) const LENGTH: usize = 16;
const MAGIC: [u8; 7] = *b"bwmeas\x01";
/// Messages that are sent back, at most.
const ECHOES_MAX: u64 = 1_000;
/// How long is sent, at most.
const SENDS_MAX: Duration = Duration::from_secs(2);

/// What one connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// So many messages are sent back.
    Echo(u64),
    /// The other sends for so long.
    Send(Duration),
    /// The other receives until the end, and says how much that was and how long it took.
    Receive,
}

impl Request {
    pub(super) fn encode(self) -> [u8; LENGTH] {
        let (kind, number) = match self {
            Self::Echo(count) => (b'e', count),
            Self::Send(time) => (b's', u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            Self::Receive => (b'r', 0),
        };
        let mut bytes = [0; LENGTH];
        bytes[..7].copy_from_slice(&MAGIC);
        bytes[7] = kind;
        bytes[8..].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    /// What is asked for is bounded here.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut bytes = [0; LENGTH];
        from.read_exact(&mut bytes)?;
        let (head, number) = bytes.split_at(8);
        let number = number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match head.strip_prefix(&MAGIC) {
            Some(b"e") => Ok(Self::Echo(number.min(ECHOES_MAX))),
            Some(b"s") => Ok(Self::Send(Duration::from_millis(number).min(SENDS_MAX))),
            Some(b"r") => Ok(Self::Receive),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no request to measure")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_bounded_and_others_are_none() {
        let read = |request: Request| Request::read(&mut &request.encode()[..]).unwrap();
        for request in [Request::Echo(7), Request::Send(Duration::from_millis(9)), Request::Receive] {
            assert_eq!(read(request), request);
        }
        assert_eq!(read(Request::Echo(u64::MAX)), Request::Echo(ECHOES_MAX));
        assert_eq!(read(Request::Send(Duration::from_secs(60))), Request::Send(SENDS_MAX));
        for bad in [&[0; LENGTH][..], b"bwmeas\x01x........", b"GET / HTTP/1.1\r\n", b"bw"] {
            assert!(Request::read(&mut &*bad).is_err());
        }
    }
}
