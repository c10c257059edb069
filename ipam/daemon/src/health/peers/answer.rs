//! Answers those who look at this node: its witnesses, a bounded number of times a second, with no more bytes than they sent.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::datagram::{self, LENGTH};

/// A witness that is one no more may not have heard so.
const GRACE: Duration = Duration::from_secs(60);
/// Answers within a second, of all witnesses together: four ask twice a second at most, by two questions, and so do those of a moment ago.
const MOST: u32 = 100;

/// Who is answered, and how often. Pure.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    until: BTreeMap<IpAddr, Option<Instant>>,
    second: Option<(Instant, u32)>,
}

impl Witnesses {
    /// These are the witnesses from now on.
    pub(super) fn are(&mut self, now: Instant, addresses: impl Iterator<Item = IpAddr>) {
        self.until.values_mut().filter(|until| until.is_none()).for_each(|until| *until = Some(now + GRACE));
        self.until.extend(addresses.map(|address| (address, None)));
        self.until.retain(|_, until| until.is_none_or(|until| until > now));
    }

    pub(super) fn may_ask(&mut self, now: Instant, address: IpAddr) -> bool {
        let is_witness = self.until.get(&address.to_canonical()).is_some_and(|until| until.is_none_or(|until| until > now));
        if !is_witness {
            return false;
        }
        let (since, said) = self.second.filter(|(since, _)| now.duration_since(*since) < Duration::from_secs(1)).unwrap_or((now, 0));
        self.second = Some((since, said.saturating_add(1)));
        said < MOST
    }
}

/// The port that is answered at, on every address of the node.
///
/// # Errors
/// Where it is somebody else's.
pub(super) fn listen(port: u16, patience: Duration) -> io::Result<UdpSocket> {
    // One socket for both families, where there is IPv6 at all.
    let any = |address: IpAddr| UdpSocket::bind(SocketAddr::new(address, port));
    let socket = any(Ipv6Addr::UNSPECIFIED.into()).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Err(error),
        _ => any(Ipv4Addr::UNSPECIFIED.into()),
    })?;
    socket.set_read_timeout(Some(patience))?;
    Ok(socket)
}

/// Answers one question, or waits for none as long as the socket does.
pub(super) fn answer_one(socket: &UdpSocket, may_ask: impl FnOnce(IpAddr) -> bool) {
    // What follows only makes a question long.
    let mut bytes = [0; LENGTH];
    if let Ok((length, from)) = socket.recv_from(&mut bytes)
        && let Some(answer) = datagram::answer(&bytes[..length])
        && may_ask(from.ip())
    {
        // Who does not hear it asks again.
        drop(socket.send_to(&answer, from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn witnesses_are_answered_for_a_while_after_and_nobody_too_often() {
        let (mut witnesses, start) = (Witnesses::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let [a, b]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        witnesses.are(start, [a].into_iter());
        assert!(witnesses.may_ask(start, a) && !witnesses.may_ask(start, b));
        assert!(witnesses.may_ask(start, "::ffff:10.0.0.1".parse().unwrap()), "as a socket of both families has it");
        witnesses.are(at(1_000), [b].into_iter());
        assert!(witnesses.may_ask(at(30_000), a) && witnesses.may_ask(at(30_000), b));
        assert!(!witnesses.may_ask(at(61_001), a) && witnesses.may_ask(at(61_001), b));
        let answered = (0..500).filter(|number| witnesses.may_ask(at(70_000 + number), b)).count();
        assert_eq!(answered, 100);
        assert!(witnesses.may_ask(at(71_000), b));
        witnesses.are(at(80_000), [a].into_iter());
        witnesses.are(at(200_000), [].into_iter());
        assert!(!witnesses.may_ask(at(200_000), b));
    }
}
