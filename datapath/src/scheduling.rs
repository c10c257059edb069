//! How the calling thread is scheduled (sched(7)): what pods wait for goes before what pods do.

use std::io;

use nix::errno::Errno;
use nix::libc;

/// Of `SCHED_RR` on Linux (sched(7)); a process that has `RLIMIT_RTPRIO` 1 may have it.
const LOWEST: i32 = 1;

/// Puts the calling thread before every thread of the ordinary class, whatever its cgroup and however nice it is: `SCHED_RR` at the
/// lowest priority, below the kernel's own threads. What this thread starts does not inherit it (`SCHED_RESET_ON_FORK`).
///
/// The kernel leaves the ordinary class a part of each processor all the same (`kernel.sched_rt_runtime_us`, or its fair server).
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE` and `RLIMIT_RTPRIO`; also in a cgroup with a controller `cpu` where the kernel groups real-time
/// threads (`CONFIG_RT_GROUP_SCHED`).
pub fn put_before_ordinary_threads() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: LOWEST };
    // SAFETY: the parameters are whole, and 0 is the calling thread.
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
    Ok(Errno::result(outcome).map(drop)?)
}

/// Gives the calling thread a larger share of its processor among those of its cgroup, down to −20; what it starts inherits it.
///
/// # Errors
/// `EACCES` without `CAP_SYS_NICE` and `RLIMIT_NICE`, where it would have less than now.
pub fn set_nice(value: i32) -> io::Result<()> {
    // SAFETY: it takes no pointer, and 0 is the calling thread (on Linux, not its process).
    let outcome = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) };
    Ok(Errno::result(outcome).map(drop)?)
}

/// How nice the calling thread is: −20 to 19, least is first.
///
/// # Errors
/// None on Linux, for a thread that exists.
pub fn nice() -> io::Result<i32> {
    // −1 is a value as well as a failure.
    Errno::clear();
    // SAFETY: it takes no pointer, and 0 is the calling thread.
    let value = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    match Errno::last() {
        Errno::UnknownErrno => Ok(value),
        errno => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    /// Fields 19 and 41 of proc_pid_stat(5): nice, and the policy.
    fn nice_and_policy(stat: &str) -> (i32, i32) {
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        (fields[16].parse().unwrap(), fields[38].parse().unwrap())
    }

    #[test]
    fn a_thread_is_put_before_others_and_what_it_starts_is_not() {
        // Threads of their own: the others of this program keep what they have.
        let ours = std::thread::spawn(|| {
            if let Err(refused) = put_before_ordinary_threads() {
                // Without the right, or in such a cgroup, that is the answer and nothing has changed.
                assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{refused}");
                return None;
            }
            let itself = nice_and_policy(&fs::read_to_string("/proc/thread-self/stat").unwrap()).1;
            let child = Command::new("cat").arg("/proc/self/stat").output().unwrap().stdout;
            Some((itself, nice_and_policy(&String::from_utf8(child).unwrap()).1))
        });
        assert!([None, Some((libc::SCHED_RR, libc::SCHED_OTHER))].contains(&ours.join().unwrap()));
    }

    #[test]
    fn only_the_calling_thread_becomes_nicer() {
        let of_this = || nice_and_policy(&fs::read_to_string("/proc/thread-self/stat").unwrap()).0;
        let before = of_this();
        let other = std::thread::spawn(move || set_nice(before + 1).map(|()| of_this()));
        assert_eq!((other.join().unwrap().unwrap(), of_this()), (before + 1, before));
        assert_eq!(nice().unwrap(), before);
    }
}
