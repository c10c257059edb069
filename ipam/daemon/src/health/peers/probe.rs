//! Asks peers, all at a time, and waits for their answers.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use fleet_api::message::Peers;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::datagram::{self, LENGTH};
use super::judge::{Judge, Probe};
use super::path_mtu;
use crate::health_check::Verdict;

/// What has not been answered by then is lost.
const PATIENCE: Duration = Duration::from_millis(400);

/// What is read of one socket before others have their turn.
const AT_ONCE: usize = 16;

/// The peers, each with a socket of its own: what the kernel hears of one way is said of that way alone.
#[derive(Debug, Default)]
pub(super) struct Prober(BTreeMap<String, Target>);

#[derive(Debug)]
struct Target {
    from: IpAddr,
    to: SocketAddr,
    socket: Option<UdpSocket>,
    judge: Judge,
    /// In this round, the short one first.
    asked: Vec<Asked>,
}

/// A packet that was sent.
#[derive(Debug)]
struct Asked {
    number: u64,
    /// Its length, with all headers, where it is as long as the way takes.
    mtu: Option<usize>,
    /// What has become of it, once that is known.
    came: Option<Probe>,
}

impl Prober {
    /// These are the peers from now on. What is known of those that stay where they are is kept.
    pub(super) fn ask(&mut self, peers: &Peers, port: u16) {
        let own: Vec<IpAddr> = Peers::addresses(&peers.own).collect();
        let mut before = std::mem::take(&mut self.0);
        for peer in &peers.targets {
            let from_to = |to: IpAddr| own.iter().find(|from| from.is_ipv4() == to.is_ipv4()).map(|from| (*from, to));
            let Some((from, to)) = Peers::addresses(&peer.addresses).find_map(from_to) else { continue };
            let to = SocketAddr::new(to, port);
            let known = before.remove(&peer.name).filter(|known| (known.from, known.to) == (from, to));
            let target = known.unwrap_or_else(|| Target { from, to, socket: None, judge: Judge::default(), asked: Vec::new() });
            self.0.insert(peer.name.clone(), target);
        }
    }

    /// Asks each once, by a short packet and by a long one; what is to be thought of them now, by name.
    pub(super) fn round(&mut self) -> Vec<(String, Verdict)> {
        let mut faults = BTreeMap::new();
        for (name, target) in &mut self.0 {
            if let Err(error) = target.begin() {
                faults.insert(name.clone(), Verdict::Unknown(format!("it cannot be asked: {error}")));
            }
        }
        self.wait();
        let verdict = |(name, target): (&String, &mut Target)| {
            let verdict = faults.remove(name).unwrap_or_else(|| match target.end() {
                Verdict::Failed(seen) => Verdict::Failed(format!("{seen} ({})", target.to.ip())),
                other => other,
            });
            (name.clone(), verdict)
        };
        self.0.iter_mut().map(verdict).collect()
    }

    /// Is the next round to be soon?
    pub(super) fn is_in_doubt(&self) -> bool {
        self.0.values().any(|target| target.judge.is_in_doubt())
    }

    /// Until all have answered, or for as long as is waited for an answer.
    fn wait(&mut self) {
        let begun = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let sockets: Vec<_> = self.0.values().filter(|target| target.waits()).filter_map(|target| target.socket.as_ref()).collect();
            let mut polled: Vec<_> = sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if polled.is_empty() || left.is_zero() || !matches!(poll(&mut polled, timeout), Ok(1..)) {
                return;
            }
            let after = begun.elapsed();
            self.0.values_mut().filter(|target| target.waits()).for_each(|target| target.hear(after));
        }
    }
}

impl Target {
    fn waits(&self) -> bool {
        self.asked.iter().any(|asked| asked.came.is_none())
    }

    /// Asks.
    fn begin(&mut self) -> io::Result<()> {
        self.asked.clear();
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(connect(self.from, self.to)?),
        };
        // What has come late, and what the kernel has to say of it.
        let mut bytes = [0; LENGTH];
        for _ in 0..AT_ONCE {
            if matches!(socket.recv(&mut bytes), Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
        }
        let number = fastrand::u64(..);
        let has_left = socket.send(&datagram::question(number)).is_ok();
        self.asked.push(Asked { number, mtu: None, came: (!has_left).then_some(Probe::Lost) });
        if !has_left {
            return Ok(());
        }
        let (mtu, number) = (path_mtu::of(socket, self.to)?, fastrand::u64(..));
        let long = datagram::long_question(number, mtu.saturating_sub(path_mtu::headers(self.to)));
        match socket.send(&long) {
            Ok(_) => self.asked.push(Asked { number, mtu: Some(mtu), came: None }),
            // Of the short one, which was faster.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.asked[0].came = Some(Probe::Answered(Duration::ZERO)),
            // The way takes less since a moment ago: the next round asks with that. Or there is no room, which says nothing of the way.
            Err(_) => {}
        }
        Ok(())
    }

    /// What has come of the round, so far.
    fn hear(&mut self, after: Duration) {
        let Some(socket) = &self.socket else { return };
        let mut bytes = [0; LENGTH + 1];
        for _ in 0..AT_ONCE {
            let open = self.asked.iter_mut().filter(|asked| asked.came.is_none());
            match socket.recv(&mut bytes) {
                Ok(length) => {
                    let answered = datagram::answered(&bytes[..length]);
                    // Or it is of another round.
                    open.filter(|asked| answered == Some(asked.number)).for_each(|asked| asked.came = Some(Probe::Answered(after)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody listens there: a daemon that is being restarted is no fault of the way. A kernel says so once for several.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    open.for_each(|asked| asked.came = Some(Probe::Answered(after)));
                }
                // A router says how much the way takes: that is how it should be.
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => self.asked.retain(|asked| asked.mtu.is_none()),
                Err(_) => open.for_each(|asked| asked.came = Some(Probe::Lost)),
            }
        }
    }

    /// What has come of it, and what is to be thought of the peer now.
    fn end(&mut self) -> Verdict {
        let mut has_answered = false;
        for Asked { mtu, came, .. } in self.asked.drain(..) {
            let probe = came.unwrap_or(Probe::Lost);
            match mtu {
                None => {
                    has_answered = probe != Probe::Lost;
                    self.judge.note(probe);
                }
                Some(mtu) if has_answered => self.judge.note_full(mtu, probe),
                // A way that loses both says nothing of lengths.
                Some(_) => {}
            }
        }
        self.judge.verdict()
    }
}

/// From the address by which the peer knows this node; from any where it does not have that.
fn connect(from: IpAddr, to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(from, 0)).or_else(|_| UdpSocket::bind(SocketAddr::new(any, 0)))?;
    path_mtu::forbid_fragments(&socket, to)?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
