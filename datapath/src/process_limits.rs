//! What a program of somebody else's may use that the daemon executes (setrlimit(2), prctl(2)).

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;

/// To the kernel, which ends somebody when memory is out, such a program is worth less than any pod (proc(5), `oom_score_adj`).
const WORTH: &[u8] = b"1000";

/// What one process may use; what it starts may each use as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Bytes of memory that it writes to and no file backs (`RLIMIT_DATA`).
    pub memory: u64,
    /// Seconds of a processor's time (`RLIMIT_CPU`).
    pub cpu_seconds: u64,
}

impl ProcessLimits {
    /// Has `command` start its program within these limits, without a real-time priority, a core dump or new privileges; it ends when the
    /// thread ends that has started it.
    pub fn apply_to(self, command: &mut Command) {
        let limits =
            [(libc::RLIMIT_DATA, self.memory), (libc::RLIMIT_CPU, self.cpu_seconds), (libc::RLIMIT_CORE, 0), (libc::RLIMIT_RTPRIO, 0)];
        let set = move || limits.into_iter().try_for_each(|(what, most)| set_limit(what, most)).and_then(|()| give_up());
        // SAFETY: between fork and exec it only makes system calls, on what it has by value; it neither allocates nor takes a lock.
        unsafe {
            command.pre_exec(set);
        }
    }
}

fn set_limit(what: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the structure is whole.
    Ok(Errno::result(unsafe { libc::setrlimit(what, &raw const limit) }).map(drop)?)
}

fn give_up() -> io::Result<()> {
    // SAFETY: both take numbers alone.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // SAFETY: likewise.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // Where this cannot be written it is as dear as the daemon, which is no reason not to look.
    // SAFETY: the path ends with a zero.
    if let Ok(file) = Errno::result(unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) }) {
        // SAFETY: the bytes live as long as the program.
        unsafe { libc::write(file, WORTH.as_ptr().cast(), WORTH.len()) };
        // SAFETY: the descriptor is ours.
        unsafe { libc::close(file) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_the_limits_and_is_the_first_to_go() {
        let mut command = Command::new("/bin/cat");
        command.args(["/proc/self/limits", "/proc/self/oom_score_adj", "/proc/self/status"]);
        ProcessLimits { memory: 64 << 20, cpu_seconds: 7 }.apply_to(&mut command);
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let limit = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(limit("Max data size"), "67108864 67108864");
        assert_eq!(limit("Max cpu time"), "7 7");
        assert_eq!(limit("Max core file size"), "0 0");
        assert_eq!(limit("Max realtime priority"), "0 0");
        assert!(said.lines().any(|line| line == "1000") && said.contains("NoNewPrivs:\t1"), "{said}");
    }
}
