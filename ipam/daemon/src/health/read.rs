//! Facts, read where the kernel and others tell them. Every path is below a root, so that a test can lay out a node of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::judge::{Disk, Link, Links};

/// A destination of all others, by a gateway or none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DefaultRoute {
    device: String,
    gateway: Option<Ipv4Addr>,
}

fn text(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn number(path: &Path) -> io::Result<u64> {
    let text = text(path)?;
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {:?} is no number", path.display(), text.trim())))
}

/// `None` where there is no such file.
fn if_there<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The file is written in the host's byte order, which is little-endian on all machines that are supported.
fn default_routes(root: &Path) -> io::Result<Vec<DefaultRoute>> {
    let listed = text(&root.join("proc/net/route"))?;
    let route = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [device, destination, gateway, _, _, _, _, mask, ..] = fields[..] else { return None };
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        let is_default = destination == "00000000" && mask == "00000000";
        let gateway = (gateway != 0).then(|| Ipv4Addr::from(gateway.to_le_bytes()));
        is_default.then(|| DefaultRoute { device: device.to_owned(), gateway })
    };
    Ok(listed.lines().skip(1).filter_map(route).collect())
}

/// Uplinks: devices of default routes of IPv4 or IPv6, those included that have lost them.
#[derive(Debug, Default)]
pub(super) struct UplinkReader {
    known: BTreeSet<String>,
}

impl UplinkReader {
    pub(super) fn read(&mut self, root: &Path) -> io::Result<Links> {
        self.known.extend(default_routes(root)?.into_iter().map(|route| route.device));
        self.known.extend(default_devices_v6(root)?);
        let mut links = Links::default();
        for name in &self.known {
            let folder = root.join("sys/class/net").join(name);
            if folder.exists() {
                links.there.push(link(&folder, name)?);
            } else {
                links.gone.insert(name.clone());
            }
        }
        Ok(links)
    }
}

fn default_devices_v6(root: &Path) -> io::Result<Vec<String>> {
    let listed = if_there(text(&root.join("proc/net/ipv6_route")))?.unwrap_or_default();
    let device = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [destination, length, .., device] = fields[..] else { return None };
        // The kernel's own route of last resort is by `lo`.
        (length == "00" && destination.bytes().all(|digit| digit == b'0') && device != "lo").then(|| device.to_owned())
    };
    Ok(listed.lines().filter_map(device).collect())
}

fn link(folder: &Path, name: &str) -> io::Result<Link> {
    let counter = |name: &str| number(&folder.join("statistics").join(name)).unwrap_or_default();
    Ok(Link {
        name: name.to_owned(),
        // A link that was taken down has none to tell (EINVAL).
        has_carrier: number(&folder.join("carrier")).is_ok_and(|carrier| carrier == 1),
        // −1, or an error, of drivers that do not know.
        speed: number(&folder.join("speed")).ok().filter(|speed| (1..u64::from(u32::MAX)).contains(speed)),
        carrier_changes: number(&folder.join("carrier_changes"))?,
        packets: counter("rx_packets").saturating_add(counter("tx_packets")),
        errors: counter("rx_errors").saturating_add(counter("tx_errors")),
    })
}

/// IPv4 gateways with a neighbour entry, and whether it is resolved; others say nothing.
pub(super) fn gateways(root: &Path) -> io::Result<Vec<(String, bool)>> {
    /// `ATF_COM`, linux/if_arp.h
    const COMPLETE: u32 = 0x2;
    let listed = text(&root.join("proc/net/arp"))?;
    let entries: Vec<_> = listed
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [address, _, flags, _, _, device] = fields[..] else { return None };
            let flags = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
            Some((address.parse::<Ipv4Addr>().ok()?, device, flags & COMPLETE != 0))
        })
        .collect();
    let answer = |DefaultRoute { device, gateway }: DefaultRoute| {
        let gateway = gateway?;
        let (_, _, is_resolved) = entries.iter().find(|(address, by, _)| *address == gateway && *by == device)?;
        Some((format!("{gateway} of {device}"), *is_resolved))
    };
    Ok(default_routes(root)?.into_iter().filter_map(answer).collect())
}

/// Tracked connections and their limit; nothing where the host tracks none.
pub(super) fn conntrack(root: &Path) -> io::Result<Option<(u64, u64)>> {
    let folder = root.join("proc/sys/net/netfilter");
    let count = if_there(number(&folder.join("nf_conntrack_count")))?;
    let most = if_there(number(&folder.join("nf_conntrack_max")))?;
    Ok(count.zip(most))
}

/// Neighbours of IPv4 and of IPv6, and their limits.
pub(super) fn neighbours(root: &Path) -> io::Result<Vec<(&'static str, u64, u64)>> {
    let mut tables = Vec::new();
    for (what, cache, family) in [("neighbours of IPv4", "arp_cache", "ipv4"), ("neighbours of IPv6", "ndisc_cache", "ipv6")] {
        let entries = if_there(text(&root.join("proc/net/stat").join(cache)))?;
        // A heading, then a line for each processor that begins with the number of all.
        let entries = entries.as_deref().and_then(|text| text.lines().nth(1)?.split_whitespace().next());
        let entries = entries.and_then(|entries| u64::from_str_radix(entries, 16).ok());
        let most = if_there(number(&root.join("proc/sys/net").join(family).join("neigh/default/gc_thresh3")))?;
        tables.extend(entries.zip(most).map(|(entries, most)| (what, entries, most)));
    }
    Ok(tables)
}

pub(super) fn disk(path: &Path) -> io::Result<Disk> {
    let found = statvfs(path)?;
    Ok(Disk {
        is_read_only: found.flags().contains(FsFlags::ST_RDONLY),
        blocks: found.blocks(),
        available: found.blocks_available(),
        inodes: found.files(),
        inodes_available: found.files_available(),
    })
}

/// Since boot.
pub(super) fn uptime(root: &Path) -> io::Result<Duration> {
    let path = root.join("proc/uptime");
    let seconds = text(&path)?.split_whitespace().next().and_then(|seconds| seconds.parse().ok());
    let seconds = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{}: no time", path.display())))
}

/// Whether an HTTP server on loopback says 200 to `/healthz`.
pub(super) fn healthz(address: SocketAddr) -> Result<(), String> {
    const LIMIT: Duration = Duration::from_secs(1);
    /// Enough for the first line.
    const ANSWER_MAX: u64 = 64;
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.write_all(format!("GET /healthz HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
        io::Result::Ok(answer)
    };
    let answer = ask().map_err(|error| format!("{address}/healthz: {error}"))?;
    let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    if line.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(format!("{address}/healthz says {line:?}")) }
}

/// TCP connections that are established with one of `peers`: how often each has sent the same bytes again, with no answer so far.
pub(super) fn connections(root: &Path, peers: &[SocketAddr]) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        // Line by line: a node may have a hundred thousand of them.
        let path = root.join("proc/net").join(table);
        let Some(file) = if_there(fs::File::open(&path))? else { continue };
        for line in io::BufReader::new(file).lines().skip(1) {
            found.extend(connection(&line?).filter(|(peer, _)| peers.contains(peer)).map(|(_, sent_again)| sent_again));
        }
    }
    Ok(found)
}

/// The other end and the retransmissions of an established connection, from a line of proc_net_tcp(5).
fn connection(line: &str) -> Option<(SocketAddr, u32)> {
    const ESTABLISHED: &str = "01";
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let [_, _, peer, ESTABLISHED, _, _, sent_again, ..] = fields[..] else { return None };
    let (address, port) = peer.split_once(':')?;
    // Words of 32 bits in the host's byte order, which is little-endian on all machines that are supported.
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_le_bytes);
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words: Option<Vec<_>> = (0..4).map(word).collect();
            let bytes: [u8; 16] = words?.concat().try_into().ok()?;
            IpAddr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?), u32::from_str_radix(sent_again, 16).ok()?))
}

/// Whether the first of `sockets` that is there takes connections.
pub(super) fn accepts(sockets: &[PathBuf]) -> Result<(), String> {
    let Some(socket) = sockets.iter().find(|socket| socket.exists()) else {
        let all: Vec<_> = sockets.iter().map(|socket| socket.display().to_string()).collect();
        return Err(format!("none of {} is there", all.join(", ")));
    };
    UnixStream::connect(socket).map(drop).map_err(|error| format!("{}: {error}", socket.display()))
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
