//! Standard input and output as a caller may have left them: closed, never ending, full, without a reader.
//!
//! The standard library would do two things before `main` that are done here (poll(2) and SIGPIPE), and knows no deadline.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::Mode;
use nix::unistd::{read, write};

/// A caller that has not written its configuration by then, or not read the answer, has stopped: kubelet's patience with its runtime
/// is two minutes, and a busy node gives each program its turn within seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a pipe that poll(2) calls writable takes at once (`PIPE_BUF`); more could wait for ever in write(2).
const AT_ONCE: usize = 4096;

const STDIN: i32 = 0;
const STDOUT: i32 = 1;
const STDERR: i32 = 2;

/// Input, answer, and words to people.
#[derive(Debug)]
pub(crate) struct Streams {
    has_input: bool,
    has_output: bool,
    begun: Instant,
}

impl Streams {
    /// Looks at the three. In the place of each that is closed `/dev/null` is opened: else the next thing that is opened, the daemon's
    /// socket perhaps, would be standard output.
    pub(crate) fn take() -> Self {
        // A caller that does not read is an error of write(2), as any other, and not our death.
        // SAFETY: no handler is installed that could interrupt anything.
        let _only_fails_for_signals_that_are_not = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
        let mut all = [STDIN, STDOUT, STDERR].map(|fd| PollFd::new(standard(fd), PollFlags::empty()));
        let looked = poll(&mut all, PollTimeout::ZERO);
        let is_open = |fd: &PollFd| looked.is_err() || !fd.revents().is_some_and(|events| events.contains(PollFlags::POLLNVAL));
        let [has_input, has_output, has_words] = all.each_ref().map(is_open);
        for _closed in [has_input, has_output, has_words].iter().filter(|open| !**open) {
            // The lowest number that is free is taken.
            if let Ok(null) = open("/dev/null", OFlag::O_RDWR, Mode::empty()) {
                std::mem::forget(null);
            }
        }
        Self { has_input, has_output, begun: Instant::now() }
    }

    /// Whether an answer could be given at all.
    pub(crate) const fn has_output(&self) -> bool {
        self.has_output
    }

    /// Writes the answer, all of it.
    ///
    /// # Errors
    /// Where nobody takes it.
    pub(crate) fn answer(&self, text: &str) -> io::Result<()> {
        if !self.has_output && !text.is_empty() {
            return Err(Errno::EBADF.into());
        }
        write_all(STDOUT, text.as_bytes(), PATIENCE)
    }
}

/// Standard input, [`PATIENCE`] in all.
impl Read for Streams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.has_input {
            return Err(Errno::EBADF.into());
        }
        loop {
            wait_for(STDIN, PollFlags::POLLIN, PATIENCE.saturating_sub(self.begun.elapsed()))?;
            match read(standard(STDIN), buffer) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                outcome => return Ok(outcome?),
            }
        }
    }
}

/// Says something to people, where somebody listens.
pub(crate) fn say(words: fmt::Arguments<'_>) {
    let _nobody_else_to_tell = write_all(STDERR, format!("barewire-cni: {words}\n").as_bytes(), Duration::ZERO);
}

/// Ends the process with an error result. Allocates nothing.
pub(crate) fn end_with(error: &str) -> ! {
    let _no_way_to_tell = write_all(STDOUT, error.as_bytes(), PATIENCE);
    std::process::exit(1)
}

fn write_all(fd: i32, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
    let begun = Instant::now();
    while !bytes.is_empty() {
        wait_for(fd, PollFlags::POLLOUT, patience.saturating_sub(begun.elapsed()))?;
        match write(standard(fd), &bytes[..bytes.len().min(AT_ONCE)]) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Waits until `fd` is ready; what else there is to say of it, the next call says.
fn wait_for(fd: i32, events: PollFlags, patience: Duration) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        let left = PollTimeout::try_from(patience.saturating_sub(begun.elapsed())).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(standard(fd), events)], left) {
            Ok(0) => return Err(ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// One of the three that every process begins with.
fn standard<'a>(fd: i32) -> BorrowedFd<'a> {
    // SAFETY: nothing here closes one of them, and each number is a descriptor or answers EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
