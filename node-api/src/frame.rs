//! Frames on a stream socket, one of them with a file descriptor on its first byte.
#![deny(unsafe_code)]

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recv, recvmsg, sendmsg};
use serde::Serialize;

/// The largest frame, in bytes. A GC that lists 1,000 containers takes a tenth of it.
pub const FRAME_MAX: usize = 1 << 20;
const HEADER: usize = size_of::<u32>();

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed, closed early or took longer than its deadline.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The peer announced a frame that is too large.
    #[error("a frame of {0} bytes; at most {FRAME_MAX} are allowed")]
    TooLarge(usize),
    /// The frame holds something else than was expected.
    #[error("not a message of this protocol: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes one frame, with `fd` attached where there is one.
///
/// # Errors
/// See [`FrameError`].
pub fn write_frame(stream: &mut UnixStream, message: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> Result<(), FrameError> {
    let body = serde_json::to_vec(message)?;
    let header = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_MAX).ok_or(FrameError::TooLarge(body.len()))?;
    let bytes = [&header.to_be_bytes()[..], &body].concat();
    let sent = match fd {
        None => 0,
        Some(fd) => {
            let fds = [fd.as_raw_fd()];
            sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&bytes)], &[ControlMessage::ScmRights(&fds)], MsgFlags::MSG_NOSIGNAL, None)
                .map_err(std::io::Error::from)?
        }
    };
    Ok(stream.write_all(&bytes[sent..])?)
}

/// Reads one frame that carries no file descriptor.
///
/// # Errors
/// See [`FrameError`].
pub fn read_frame<T: for<'de> serde::Deserialize<'de>>(stream: &mut UnixStream) -> Result<T, FrameError> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    Ok(serde_json::from_slice(&read_body(stream, header)?)?)
}

/// Reads one frame and leaves its last byte in the socket: a peer learns from what is unread when the socket is closed that what it sent
/// was lost (`unix_release_sock`, net/unix/af_unix.c: `ECONNRESET`).
pub(crate) fn read_frame_but_a_byte<T: for<'de> serde::Deserialize<'de>>(stream: &mut UnixStream) -> Result<T, FrameError> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let mut body = body_of(header)?;
    if let Some((last, rest)) = body.split_last_mut() {
        stream.read_exact(rest)?;
        peek(stream, last)?;
    }
    Ok(serde_json::from_slice(&body)?)
}

fn peek(stream: &UnixStream, byte: &mut u8) -> std::io::Result<()> {
    loop {
        match recv(stream.as_raw_fd(), std::slice::from_mut(byte), MsgFlags::MSG_PEEK) {
            Err(Errno::EINTR) => {}
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            outcome => return outcome.map(drop).map_err(Into::into),
        }
    }
}

/// Reads one frame as bytes, and the file descriptor that came with it, if one did.
///
/// # Errors
/// See [`FrameError`].
pub fn read_frame_with_fd(stream: &mut UnixStream) -> Result<(Vec<u8>, Option<OwnedFd>), FrameError> {
    let mut header = [0; HEADER];
    let (read, fd) = receive(stream, &mut header)?;
    if read == 0 {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    stream.read_exact(&mut header[read..])?;
    Ok((read_body(stream, header)?, fd))
}

fn read_body(stream: &mut UnixStream, header: [u8; HEADER]) -> Result<Vec<u8>, FrameError> {
    let mut body = body_of(header)?;
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn body_of(header: [u8; HEADER]) -> Result<Vec<u8>, FrameError> {
    let length = u32::from_be_bytes(header) as usize;
    if length > FRAME_MAX { Err(FrameError::TooLarge(length)) } else { Ok(vec![0; length]) }
}

fn receive(stream: &UnixStream, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>), FrameError> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).map_err(std::io::Error::from)?;
    let mut owned = None;
    for control in message.cmsgs().map_err(std::io::Error::from)? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            for fd in fds {
                // Room for one is all the kernel was given, but a second would have to be closed as well.
                owned = Some(adopt(fd));
            }
        }
    }
    Ok((message.bytes, owned))
}

#[expect(unsafe_code, reason = "SCM_RIGHTS hands over a bare number")]
fn adopt(fd: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for this process (unix(7), SCM_RIGHTS), and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_frame_arrives_whole_with_its_descriptor() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/proc/self/ns/net").unwrap();
        write_frame(&mut ours, &"hello", Some(file.as_fd())).unwrap();
        let (bytes, fd) = read_frame_with_fd(&mut theirs).unwrap();
        assert_eq!(bytes, b"\"hello\"");
        let same = |a: nix::libc::stat, b: nix::libc::stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        assert!(same(nix::sys::stat::fstat(&file).unwrap(), nix::sys::stat::fstat(fd.unwrap()).unwrap()));
    }

    #[test]
    fn whoever_sent_it_learns_whether_a_frame_was_taken() {
        for is_taken in [true, false] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            write_frame(&mut ours, &"hello", None).unwrap();
            assert_eq!(read_frame_but_a_byte::<String>(&mut theirs).unwrap(), "hello");
            if is_taken {
                assert_eq!(theirs.read(&mut [0; 8]).unwrap(), 1, "one byte is left");
            }
            drop(theirs);
            let told = ours.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(told, if is_taken { Ok(0) } else { Err(std::io::ErrorKind::ConnectionReset) });
        }
    }

    #[test]
    fn a_large_frame_without_descriptor_arrives() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let text = "x".repeat(FRAME_MAX - 2);
        std::thread::scope(|scope| {
            scope.spawn(|| write_frame(&mut ours, &text, None).unwrap());
            assert_eq!(read_frame::<String>(&mut theirs).unwrap(), text);
        });
    }

    #[test]
    fn too_large_is_refused_on_both_sides() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert!(matches!(write_frame(&mut ours, &"x".repeat(FRAME_MAX), None), Err(FrameError::TooLarge(_))));
        ours.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(matches!(read_frame_with_fd(&mut theirs), Err(FrameError::TooLarge(_))));
    }

    #[test]
    fn a_peer_that_leaves_early_is_an_error() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.write_all(&[0, 0]).unwrap();
        drop(ours);
        assert!(matches!(read_frame_with_fd(&mut theirs), Err(FrameError::Io(_))));
    }
}
