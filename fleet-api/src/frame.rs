//! Frames on a stream: the length in four bytes, big-endian, then one message.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// The largest frame of a replica, in bytes. Snapshots come in pieces of a sixteenth of it, and a change that is larger is told by a snapshot.
pub const FRAME_MAX: usize = 1 << 20;
/// The largest frame of a node, in bytes: its hello takes a hundredth of it.
pub const HELLO_MAX: usize = 16 << 10;

const HEADER: usize = size_of::<u32>();

/// Why what came is no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It says that it is larger than any of ours.
    #[error("a frame of {length} bytes; at most {limit} are allowed")]
    TooLarge {
        /// What it says.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// It holds something else.
    #[error("not a message of this protocol: {0}")]
    Message(#[from] prost::DecodeError),
}

/// One frame with `message`.
#[must_use]
pub fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEADER + length);
    // A message is never near 4 GiB: what could be large is split before.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

/// The message of a frame without its length.
///
/// # Errors
/// Where it holds something else.
pub fn decode<M: Message + Default>(body: &[u8]) -> Result<M, FrameError> {
    Ok(M::decode(body)?)
}

/// Makes frames of bytes as they come.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    bytes: BytesMut,
}

impl Decoder {
    /// For frames of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, bytes: BytesMut::new() }
    }

    /// Takes what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Where a reader puts what comes next.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next whole frame, without its length.
    ///
    /// # Errors
    /// Where it announces more than the limit; told before any of it has come.
    pub fn next_frame(&mut self) -> Result<Option<BytesMut>, FrameError> {
        let Some(header) = self.bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if length > self.limit {
            return Err(FrameError::TooLarge { length, limit: self.limit });
        }
        if self.bytes.len() < HEADER + length {
            return Ok(None);
        }
        let mut frame = self.bytes.split_to(HEADER + length);
        // A buffer that one large frame has grown is given back.
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
        Ok(Some(frame.split_off(HEADER)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{FromFleet, FromNode, Hello, ToFleet};

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let message = ToFleet { message: Some(FromNode::Hello(Hello { node: "a".to_owned(), ..Hello::default() })) };
        let bytes = [encode(&message), encode(&message)].concat();
        for size in 1..bytes.len() {
            let (mut decoder, mut seen) = (Decoder::new(HELLO_MAX), 0);
            for part in bytes.chunks(size) {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    assert_eq!(decode::<ToFleet>(&frame).unwrap(), message);
                    seen += 1;
                }
            }
            assert_eq!(seen, 2, "cut into {size}");
        }
    }

    #[test]
    fn a_huge_frame_is_refused_by_its_first_four_bytes() {
        let mut decoder = Decoder::new(HELLO_MAX);
        decoder.push(b"GET ");
        assert_eq!(decoder.next_frame().unwrap_err(), FrameError::TooLarge { length: 0x4745_5420, limit: HELLO_MAX });
    }

    #[test]
    fn what_a_version_does_not_know_is_skipped() {
        // Field 99, a string: a message of a later version.
        let later = [0x9a, 0x06, 0x03, b'n', b'e', b'w'];
        assert_eq!(decode::<FromFleet>(&later).unwrap(), FromFleet { message: None });
        assert!(decode::<FromFleet>(&later[..4]).is_err());
    }
}
