//! What the kernel's log says of the node: lines that a healthy machine does not have. Only the kernel's own lines count: what a process
//! writes to /dev/kmsg has another facility, and cannot make a node sick.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::libc;

use crate::health_check::Verdict;

/// So long a line counts: what has not come again since may have been once.
const HOLD: Duration = Duration::from_secs(600);
/// In one look; the rest is for the next.
const RECORDS: usize = 2_000;
/// The kernel's largest (`PRINTK_MESSAGE_MAX`).
const RECORD_MAX: usize = 8 << 10;
/// Of a line that is told.
const LINE_MAX: usize = 120;

/// How a line looks: it begins with one of the first where there are any, and holds all of the others.
struct Pattern {
    name: &'static str,
    begins: &'static [&'static str],
    holds: &'static [&'static str],
}

const fn pattern(name: &'static str, begins: &'static [&'static str], holds: &'static [&'static str]) -> Pattern {
    Pattern { name, begins, holds }
}

/// Names of tasks and devices are others' words: what can stand at the beginning is looked for there alone.
const PATTERNS: [Pattern; 19] = [
    pattern("hung task", &["INFO: task "], &[" blocked for more than ", " seconds"]),
    pattern("soft lockup", &["watchdog: BUG: soft lockup", "BUG: soft lockup"], &[]),
    pattern("hard lockup", &["watchdog: Watchdog detected hard LOCKUP", "Watchdog detected hard LOCKUP"], &[]),
    pattern("RCU stall", &["rcu: INFO: rcu_", "INFO: rcu_"], &["stall"]),
    pattern("oops", &["BUG: unable to handle", "BUG: kernel NULL pointer", "Oops: ", "general protection fault"], &[]),
    pattern("interface not released", &["unregister_netdevice: waiting for "], &[" to become free"]),
    pattern("ext4 error", &["EXT4-fs error "], &[]),
    pattern("file system became read-only", &["EXT4-fs (", "EXT4-fs error ("], &["Remounting filesystem read-only"]),
    pattern("XFS shut down", &["XFS ("], &["hutting down filesystem"]),
    pattern("XFS corruption", &["XFS ("], &["Corruption"]),
    pattern("XFS I/O error", &["XFS ("], &["metadata I/O error"]),
    pattern("Btrfs error", &["BTRFS error (device ", "BTRFS critical (device "], &[]),
    pattern("disk error", &["blk_update_request: critical medium error", "critical medium error, dev ", "Buffer I/O error on dev"], &[]),
    pattern("NVMe controller lost", &["nvme "], &["controller is down"]),
    pattern("machine check", &["mce: [Hardware Error]: "], &["Machine Check Exception"]),
    pattern("hardware error", &["{"], &["[Hardware Error]: event severity: fatal"]),
    pattern("memory error", &["Memory failure: "], &["recovery action"]),
    pattern("transmit queue stuck", &["NETDEV WATCHDOG: ", "net "], &["transmit queue", "timed out"]),
    pattern("network adapter failed", &["mlx5_core "], &["health compromised"]),
];

/// NVIDIA's codes of hardware that needs a reset or a person (docs.nvidia.com/deploy/xid-errors); others are an application's fault.
const XIDS: [u32; 10] = [48, 62, 64, 74, 79, 95, 119, 120, 140, 143];

/// What is wrong by a line of the kernel's.
fn recognise(line: &str) -> Option<String> {
    if let Some(rest) = line.strip_prefix("NVRM: Xid (") {
        let code: u32 = rest.split_once("): ")?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        return XIDS.contains(&code).then(|| format!("GPU error (Xid {code})"));
    }
    // Drivers say first which device speaks.
    let of_device = |begin: &&str| line.starts_with(begin);
    let fits = |pattern: &&Pattern| pattern.begins.iter().any(of_device) && pattern.holds.iter().all(|part| line.contains(part));
    PATTERNS.iter().find(fits).map(|pattern| pattern.name.to_owned())
}

/// A record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg): when since boot, and the line; nothing of what a process has written.
fn record(bytes: &[u8]) -> Option<(Duration, &str)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (prefix, message) = text.split_once(';')?;
    let mut fields = prefix.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let micros: u64 = fields.nth(1)?.parse().ok()?;
    // The facility is all but the lowest three bits; the kernel's is 0, which a process cannot write.
    (priority >> 3 == 0).then(|| (Duration::from_micros(micros), message.lines().next().unwrap_or_default()))
}

/// Lines that count, by what is wrong: when last, how often, and the last one.
#[derive(Debug, Default)]
struct Seen(BTreeMap<String, (Duration, u32, String)>);

impl Seen {
    /// Times are since boot.
    fn note(&mut self, bytes: &[u8]) {
        let Some((at, line)) = record(bytes) else { return };
        if let Some(what) = recognise(line) {
            let seen = self.0.entry(what).or_default();
            *seen = (at, seen.1.saturating_add(1), line.chars().take(LINE_MAX).collect());
        }
    }

    fn judge(&mut self, now: Duration) -> Verdict {
        self.0.retain(|_, (at, ..)| now.saturating_sub(*at) < HOLD);
        let parts: Vec<_> = self.0.iter().map(|(what, (_, times, line))| format!("{what} ({times} times): {line}")).collect();
        if parts.is_empty() { Verdict::Ok } else { Verdict::Failed(parts.join("; ")) }
    }
}

/// The log, read from its beginning, so that a daemon that is restarted knows what the last one did.
#[derive(Debug, Default)]
pub(super) struct KernelLog {
    file: Option<File>,
    seen: Seen,
}

impl KernelLog {
    /// Reads what has come, some of it where it is much. `now` is since boot.
    pub(super) fn look(&mut self, path: &Path, now: Duration) -> Verdict {
        match self.read(path) {
            Ok(()) => self.seen.judge(now),
            Err(error) => {
                self.file = None;
                Verdict::Unknown(format!("{}: {error}", path.display()))
            }
        }
    }

    fn read(&mut self, path: &Path) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?),
        };
        // One record a call; the kernel refuses a buffer that is too small for it.
        let mut buffer = vec![0; RECORD_MAX];
        for _ in 0..RECORDS {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.seen.note(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // EPIPE: records were overwritten before they were read; the next is the oldest that is left.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe || error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_sick_machines_are_recognised() {
        for (line, what) in [
            ("INFO: task kworker/u8:2:1234 blocked for more than 120 seconds.", "hung task"),
            ("INFO: task jbd2/nvme0n1p1-8:412 blocked for more than 122 seconds.", "hung task"),
            ("watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [stress:8812]", "soft lockup"),
            ("rcu: INFO: rcu_preempt self-detected stall on CPU", "RCU stall"),
            ("rcu: INFO: rcu_sched detected stalls on CPUs/tasks:", "RCU stall"),
            ("BUG: unable to handle page fault for address: ffffc90000e1d000", "oops"),
            ("Oops: 0002 [#1] SMP NOPTI", "oops"),
            ("unregister_netdevice: waiting for lo to become free. Usage count = 1", "interface not released"),
            ("EXT4-fs error (device sda1): ext4_find_entry:1463: inode #2: comm kubelet: reading directory lblock 0", "ext4 error"),
            ("EXT4-fs (sda1): Remounting filesystem read-only", "file system became read-only"),
            (
                "XFS (nvme1n1): xfs_do_force_shutdown(0x2) called from line 1211 of file fs/xfs/xfs_log.c. Shutting down filesystem.",
                "XFS shut down",
            ),
            ("XFS (dm-3): Corruption detected. Unmount and run xfs_repair", "XFS corruption"),
            ("XFS (sdb): metadata I/O error in \"xfs_buf_iodone\" at daddr 0x1 len 1 error 5", "XFS I/O error"),
            ("BTRFS error (device sda2): bdev /dev/sda2 errs: wr 1, rd 0, flush 0, corrupt 0, gen 0", "Btrfs error"),
            ("critical medium error, dev sda, sector 123456 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 0", "disk error"),
            ("Buffer I/O error on dev sdb1, logical block 0, lost sync page write", "disk error"),
            ("nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0xffff", "NVMe controller lost"),
            ("mce: [Hardware Error]: CPU 12: Machine Check Exception: 5 Bank 7: fe00000000800400", "machine check"),
            ("{1}[Hardware Error]: event severity: fatal", "hardware error"),
            ("Memory failure: 0x1f7b4c6: recovery action for dirty LRU page: Recovered", "memory error"),
            ("NETDEV WATCHDOG: eth0 (ixgbe): transmit queue 3 timed out", "transmit queue stuck"),
            ("NETDEV WATCHDOG: CPU: 4: transmit queue 7 timed out 5120 ms", "transmit queue stuck"),
            ("mlx5_core 0000:3b:00.0: poll_health:825:(pid 0): device's health compromised - reached miss count", "network adapter failed"),
            ("NVRM: Xid (PCI:0000:65:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", "GPU error (Xid 79)"),
            ("NVRM: Xid (PCI:0000:3b:00): 48, pid=1234, An uncorrectable double bit error (DBE) has been detected", "GPU error (Xid 48)"),
        ] {
            assert_eq!(recognise(line).as_deref(), Some(what), "{line}");
        }
    }

    #[test]
    fn lines_of_healthy_machines_and_of_applications_are_not() {
        for line in [
            "NVRM: Xid (PCI:0000:65:00): 13, pid=3241, Graphics SM Warp Exception on (GPC 0, TPC 0): Out Of Range Address",
            "NVRM: Xid (PCI:0000:65:00): 31, pid=3241, Ch 00000008, MMU Fault",
            "NVRM: Xid (PCI:0000:65:00): ",
            "mce: [Hardware Error]: Machine check events logged",
            "mce: CPU supports 10 MCE banks",
            "EXT4-fs (sda1): mounted filesystem with ordered data mode. Opts: (null)",
            "XFS (nvme1n1): Ending clean mount",
            "python3[812]: segfault at 0 ip 00007f1 sp 00007ffe error 4 in libc.so.6: EXT4-fs error (",
            "Memory cgroup out of memory: Killed process 4242 (INFO: task x blocked for more than 120 seconds)",
            "eth0: renamed from veth123",
            "mlx5_core 0000:3b:00.0: firmware version: 16.35.2000",
            "",
        ] {
            assert_eq!(recognise(line), None, "{line}");
        }
    }

    #[test]
    fn only_the_kernels_own_lines_count_and_they_age() {
        let mut seen = Seen::default();
        seen.note(b"12,880,100000000,-;EXT4-fs error (device sda1): forged by a process\n");
        seen.note(b"no record at all");
        seen.note(b"6,1,\xff,-;\xff");
        assert_eq!(seen.judge(Duration::from_secs(100)), Verdict::Ok);
        seen.note(b"2,881,100000000,-,caller=T1;EXT4-fs error (device sda1): ext4_lookup\n SUBSYSTEM=block\n");
        let said = seen.judge(Duration::from_secs(699));
        assert_eq!(said, Verdict::Failed("ext4 error (1 times): EXT4-fs error (device sda1): ext4_lookup".to_owned()));
        assert_eq!(seen.judge(Duration::from_secs(700)), Verdict::Ok);
    }

    #[test]
    fn a_log_that_cannot_be_read_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(KernelLog::default().look(&folder.path().join("kmsg"), Duration::ZERO).result(), "unknown");
        assert_eq!(KernelLog::default().look(folder.path(), Duration::ZERO).result(), "unknown");
    }
}
