//! `barewire capture`: the packets of one pod as pcapng, whichever path they take.
//!
//! What the kernel programs carry never passes the host end of a pod's link, so it is listened to in the pod's network namespace, where its
//! interface sends and receives all that it has. A packet socket is opened there; nothing in the pod is changed, no process is started in it,
//! and the interface is not made promiscuous. The capture ends by itself: after so many packets, or so long.

mod pcapng;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use serde_json::json;

use crate::daemon::{AskError, Daemon};
use crate::exit::Exit;
use crate::inventory::{self, PodEnd, Told};

/// The largest that an interface sends at once is cut by the network card later.
const FRAME_MAX: usize = 256 << 10;
/// How long the socket waits before the clock is looked at.
const TICK: Duration = Duration::from_millis(50);
/// What the kernel may keep while the disk is slow.
const BUFFER: usize = 8 << 20;

/// What to capture.
#[derive(Debug, Args)]
pub(crate) struct Capture {
    /// A pod (NAMESPACE/NAME or NAME), an address, a container, or a host interface
    #[arg(value_name = "POD")]
    pod: String,
    /// The file to make, which must not exist; without it standard output, for `| wireshark -k -i -`
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// End after so many packets
    #[arg(short, long, default_value_t = 10_000)]
    count: u64,
    /// End after so long
    #[arg(short, long, value_name = "TIME", default_value = "60s", value_parser = crate::parse_duration)]
    duration: Duration,
    /// Keep so many bytes of each packet
    #[arg(short, long, value_name = "BYTES", default_value_t = 262_144)]
    snap: u32,
}

impl Capture {
    /// Captures; what was captured.
    pub(crate) fn run(&self, daemon: Daemon) -> Result<Told, AskError> {
        let pods = inventory::ends(&daemon.json("/pods")?, &self.pod);
        Ok(match &pods[..] {
            [pod] => match self.of(pod) {
                Ok((packets, bytes)) => {
                    let file = self.write.as_ref().map(|file| file.display().to_string());
                    let json = json!({ "pod": pod.name, "packets": packets, "bytes": bytes, "file": file });
                    // Standard output is the capture's.
                    let text = file.map(|file| format!("{packets} packets of {} are in {file}\n", pod.name)).unwrap_or_default();
                    (text, json, Exit::Fine)
                }
                Err(why) => refused(format!("{}: {why}", pod.name)),
            },
            [] => refused(format!("no pod of this node is {}; `barewire pods` lists them", self.pod)),
            many => {
                let names: Vec<_> = many.iter().map(|pod| pod.host_interface.as_str()).collect();
                refused(format!("{} is {} interfaces: name one of {}", self.pod, many.len(), names.join(", ")))
            }
        })
    }

    /// Whether standard output is the file: then nothing else may be printed.
    pub(crate) const fn is_stream(&self) -> bool {
        self.write.is_none()
    }

    fn of(&self, pod: &PodEnd) -> Result<(u64, u64), String> {
        let number = pod.netns.ok_or("it has been found by its link, and its network namespace is not known")?;
        let netns = netns(number)
            .ok_or_else(|| format!("its network namespace (net:[{number}]) is not found; it needs root, in the host's PID namespace"))?;
        let file: Box<dyn Write> = match &self.write {
            None => Box::new(io::stdout()),
            Some(path) => {
                let made = OpenOptions::new().write(true).create_new(true).open(path);
                Box::new(made.map_err(|error| {
                    format!("{}: {error}; name a file that does not exist, in a directory that can be written to", path.display())
                })?)
            }
        };
        let socket = listen(&netns, &pod.interface)?;
        self.copy(pod, &socket, &mut BufWriter::new(file)).map_err(|error| format!("the capture cannot be written: {error}"))
    }

    fn copy(&self, pod: &PodEnd, (socket, ifindex): &(OwnedFd, usize), file: &mut impl Write) -> io::Result<(u64, u64)> {
        let snap = usize::try_from(self.snap).unwrap_or(usize::MAX);
        let comment = format!("pod {}, {} of {}", pod.name, pod.interface, pod.host_interface);
        file.write_all(&pcapng::header(&pod.interface, &comment, self.snap))?;
        file.flush()?;
        let until = Instant::now() + self.duration;
        let mut frame = vec![0; FRAME_MAX];
        let (mut packets, mut bytes) = (0, 0);
        while packets < self.count && Instant::now() < until {
            let (length, from) = match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) {
                Ok(received) => received,
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    // Whoever reads along sees it now.
                    file.flush()?;
                    continue;
                }
                Err(errno) => return Err(errno.into()),
            };
            if from.is_none_or(|from| from.ifindex() != *ifindex) {
                continue;
            }
            let before_1970 =
                |_| io::Error::other("the clock is before 1970, and packets have no time: set it (chrony, systemd-timesyncd)");
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(before_1970)?;
            let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
            file.write_all(&pcapng::packet(nanoseconds, &frame[..length.min(snap)], u32::try_from(length).unwrap_or(u32::MAX)))?;
            packets += 1;
            bytes += length as u64;
        }
        file.flush()?;
        Ok((packets, bytes))
    }
}

fn refused(why: String) -> Told {
    (String::new(), json!({ "error": why }), Exit::Degraded)
}

/// The network namespace of this number: where it is mounted, or by a process that is in it.
fn netns(number: u64) -> Option<File> {
    let is_it = |path: &Path| fs::metadata(path).is_ok_and(|found| found.ino() == number);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let root = format!("net:[{number}]");
    // Root of the mount and mount point are the fourth and the fifth field (proc(5)).
    let mounted = mounts.lines().map(|line| line.split(' ').skip(3)).find_map(|mut fields| {
        let (found, point) = (fields.next()?, fields.next()?);
        (found == root).then(|| PathBuf::from(point))
    });
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|process| process.path().join("ns/net"));
    let path = mounted.into_iter().chain(processes).find(|path| is_it(path))?;
    // It may have gone, and its name be another's.
    File::open(path).ok().filter(|file| file.metadata().is_ok_and(|found| found.ino() == number))
}

/// A socket in that namespace that sees all packets, and the number of the interface there. This process's one thread is back in its own
/// namespace afterwards.
fn listen(netns: &File, interface: &str) -> Result<(OwnedFd, usize), String> {
    let own = File::open("/proc/thread-self/ns/net").map_err(|error| format!("/proc: {error}"))?;
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(|errno| format!("its network namespace cannot be entered: {errno}; it needs root"))?;
    let opened = open(interface);
    setns(&own, CloneFlags::CLONE_NEWNET).map_err(|errno| format!("the way back is barred: {errno}"))?;
    opened
}

fn open(interface: &str) -> Result<(OwnedFd, usize), String> {
    let ifindex = nix::net::if_::if_nametoindex(interface).map_err(|errno| format!("it has no interface {interface}: {errno}"))?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        .map_err(|errno| format!("no packet socket is to be had: {errno}; it needs root"))?;
    let tick = TimeVal::new(0, TICK.subsec_micros().into());
    setsockopt(&socket, sockopt::ReceiveTimeout, &tick).map_err(|errno| format!("the socket takes no limit: {errno}"))?;
    // Where it is refused, the kernel's own measure must do.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
    Ok((socket, ifindex as usize))
}
