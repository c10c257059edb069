//! The socket that listens, and the epoll instance on which idle threads wait for it.
//!
//! In accept(2) the kernel wakes waiting threads in turn; here the one that began to wait last (`ep_poll`, fs/eventpoll.c). Pods that come one
//! by one are all served by one thread, whose memory is still in the caches. Who comes while all are at work is served in the order of
//! coming: the kernel's backlog is the queue, and one thread at a time takes from it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Of the socket: only root, and who the daemon runs as.
const MODE: u32 = 0o600;
const ALL_BITS: u32 = 0o7777;

/// The socket that listens, and where idle workers wait for it.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) path: PathBuf,
    listeners: RwLock<Listeners>,
    epoll: Epoll,
    closed: AtomicBool,
}

/// The one at the path comes last. The one before it may have been connected to before it was replaced.
#[derive(Debug)]
struct Listeners {
    all: Vec<UnixListener>,
    /// Of the last: device and inode of its file.
    file: (u64, u64),
}

impl Door {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (listener, file) = listen(path)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, Self::one_event())?;
        let listeners = RwLock::new(Listeners { all: vec![listener], file });
        Ok(Self { path: path.to_owned(), listeners, epoll, closed: AtomicBool::new(false) })
    }

    /// One worker is woken, and the next only when this one has accepted.
    fn one_event() -> EpollEvent {
        EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, 0)
    }

    /// Waits for a peer, without bound: it is what an idle worker does. `None` when the door is closed and nobody stands before it.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            match self.epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            // Looked at before accept(2): what came before the closing is still served.
            let closed = self.closed.load(Ordering::Acquire);
            let is_nobody =
                |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock || closed && error.kind() == io::ErrorKind::InvalidInput;
            let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
            let accepted = listeners.all.iter().map(UnixListener::accept).find(|accepted| !accepted.as_ref().is_err_and(is_nobody));
            // Each: it is not known which of them has woken this one.
            for listener in &listeners.all {
                self.epoll.modify(listener, &mut Self::one_event())?;
            }
            match accepted {
                Some(outcome) => return outcome.map(|(stream, _)| Some(stream)),
                None if closed => return Ok(None),
                None => {}
            }
        }
    }

    pub(super) fn keep(&self) -> io::Result<Option<&'static str>> {
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Acquire) {
            return Ok(None);
        }
        match fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == listeners.file => {
                if found.permissions().mode() & ALL_BITS == MODE {
                    return Ok(None);
                }
                fs::set_permissions(&self.path, fs::Permissions::from_mode(MODE))?;
                return Ok(Some("its mode was changed"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (listener, file) = listen(&self.path)?;
        self.epoll.add(&listener, Self::one_event())?;
        let before = listeners.all.pop();
        *listeners = Listeners { all: before.into_iter().chain([listener]).collect(), file };
        Ok(Some("it was removed or replaced"))
    }

    /// Nobody can connect any more, and every idle worker wakes to see it: a socket that is shut down stays readable.
    pub(super) fn close(&self) {
        let listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        let _ = fs::remove_file(&self.path);
        self.closed.store(true, Ordering::Release);
        for listener in &listeners.all {
            if let Err(errno) = nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both) {
                tracing::warn!(%errno, "cannot shut the socket down");
            }
        }
    }
}

/// Binds under another name, restricts, renames: nobody sees the socket with a mode other than its own, and a daemon that
/// starts again takes the name over without a moment in which it is missing.
fn listen(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let draft = path.with_extension("draft");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&draft)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(MODE))?;
    let file = fs::symlink_metadata(&draft)?;
    fs::rename(&draft, path)?;
    Ok((listener, (file.dev(), file.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_removed_is_back_and_who_stood_before_it_is_served() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let door = Door::open(&path).unwrap();
        assert_eq!(door.keep().unwrap(), None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(door.keep().unwrap().is_some());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & ALL_BITS, MODE);
        for put_in_its_place in [None, Some("a file")] {
            let _before = UnixStream::connect(&path).unwrap();
            fs::remove_file(&path).unwrap();
            if let Some(text) = put_in_its_place {
                fs::write(&path, text).unwrap();
            }
            assert!(door.keep().unwrap().is_some());
            let _after = UnixStream::connect(&path).unwrap();
            let served = [door.accept().unwrap(), door.accept().unwrap()];
            assert!(served.iter().all(Option::is_some), "{served:?}");
            assert_eq!(door.keep().unwrap(), None);
        }
        door.close();
        assert!(!path.exists() && door.accept().unwrap().is_none());
        assert!(door.keep().unwrap().is_none() && !path.exists(), "a closed door stays closed");
    }

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

    #[test]
    fn who_comes_first_is_served_first() {
        use std::io::{Read, Write};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let door = Door::open(&path).unwrap();
        let peers: Vec<_> = (0..100_u8)
            .map(|number| {
                let mut peer = UnixStream::connect(&path).unwrap();
                peer.write_all(&[number]).unwrap();
                peer
            })
            .collect();
        let first_byte = |mut stream: UnixStream| {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            byte[0]
        };
        let served: Vec<_> = peers.iter().map(|_| first_byte(door.accept().unwrap().unwrap())).collect();
        assert!(served.into_iter().eq(0..100));
    }
}
