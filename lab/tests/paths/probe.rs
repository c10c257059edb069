//! Columns: what a client sends, and what it hears.

use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::echo::{Conversation, Protocol};
use lab::kube_proxy::Family;

use crate::datagram::{Datagram, Kind, Told};
use crate::site::Site;
use crate::ways::{Door, Way};

/// No answer on this machine takes so long, unless somebody had to ask twice.
const AT_ONCE: Duration = Duration::from_millis(800);
/// A megabyte both ways, beside others.
const TRANSFERRED: Duration = Duration::from_millis(2_500);

const SMALL: usize = 100;
/// With its headers and the server's greeting as much as the network carries at once, and more than the way to `far` and the internet do.
const FULL: usize = 8_850;
/// No path has room for it: it travels in fragments from the first packet on.
const PIECES: usize = 20_000;

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A connection and a message of 1,200 bytes.
    TcpSmall,
    /// A connection and more than a megabyte each way, in full packets.
    TcpLarge,
    TcpClosed,
    UdpSmall,
    /// As large as the pod's link, and not to be cut.
    UdpFull,
    UdpFragments,
    UdpClosed,
    /// May not be forwarded.
    UdpLastHop,
    EchoSmall,
    EchoFull,
    EchoFragments,
    EchoLastHop,
}

impl Probe {
    pub(crate) const ALL: [Self; 12] = [
        Self::TcpLarge,
        Self::TcpSmall,
        Self::TcpClosed,
        Self::UdpFragments,
        Self::UdpSmall,
        Self::UdpFull,
        Self::UdpClosed,
        Self::UdpLastHop,
        Self::EchoFragments,
        Self::EchoSmall,
        Self::EchoFull,
        Self::EchoLastHop,
    ];
    /// Those that ask again, as somebody new, after something has happened.
    pub(crate) const FRESH: [Self; 3] = [Self::TcpSmall, Self::UdpSmall, Self::EchoSmall];

    /// Sends it and listens.
    pub(crate) fn send(self, site: &Site, way: &Way, family: Family) -> Result<Heard> {
        let door = if matches!(self, Self::TcpClosed | Self::UdpClosed) { Door::Closed } else { Door::Open };
        let to = way.destination(site, family, door)?;
        let from = site.network(way.from);
        let datagram = |kind, length, whole, hops| Heard::of(AT_ONCE, || Datagram::open(from, kind, to, whole, hops)?.ask(length));
        Ok(match self {
            Self::TcpSmall | Self::TcpClosed => Heard::of(AT_ONCE, || talk(Conversation::open(from, Protocol::Tcp, to)?, false)),
            Self::TcpLarge => Heard::of(TRANSFERRED, || talk(Conversation::open(from, Protocol::Tcp, to)?, true)),
            Self::UdpSmall | Self::UdpClosed => datagram(Kind::Udp, SMALL, false, None),
            Self::UdpFull => datagram(Kind::Udp, FULL, true, None),
            Self::UdpFragments => datagram(Kind::Udp, PIECES, false, None),
            Self::UdpLastHop => datagram(Kind::Udp, SMALL, false, Some(1)),
            Self::EchoSmall => datagram(Kind::Echo, SMALL, false, None),
            Self::EchoFull => datagram(Kind::Echo, FULL, true, None),
            Self::EchoFragments => datagram(Kind::Echo, PIECES, false, None),
            Self::EchoLastHop => datagram(Kind::Echo, SMALL, false, Some(1)),
        })
    }
}

fn talk(mut conversation: Conversation, much: bool) -> Result<Answer> {
    let greeting = conversation.greeting().clone();
    if much { conversation.transfer() } else { conversation.exchange() }.map_err(|error| error.context("connected, then"))?;
    Ok(Answer { server: greeting.server, seen: Some(greeting.source) })
}

/// A conversation that is kept while things happen beside it.
pub(crate) enum Kept {
    Tcp(Box<Conversation>),
    Datagrams(Datagram),
}

impl Kept {
    pub(crate) fn open(probe: Probe, site: &Site, way: &Way, family: Family) -> Result<Self> {
        let to = way.destination(site, family, Door::Open)?;
        let from = site.network(way.from);
        let mut kept = match probe {
            Probe::UdpSmall => Self::Datagrams(Datagram::open(from, Kind::Udp, to, false, None)?),
            Probe::EchoSmall => Self::Datagrams(Datagram::open(from, Kind::Echo, to, false, None)?),
            _ => Self::Tcp(Box::new(Conversation::open(from, Protocol::Tcp, to)?)),
        };
        kept.say().map(|_| kept)
    }

    fn say(&mut self) -> Result<Answer> {
        match self {
            Self::Tcp(conversation) => {
                conversation.exchange()?;
                let greeting = conversation.greeting().clone();
                Ok(Answer { server: greeting.server, seen: Some(greeting.source) })
            }
            Self::Datagrams(datagram) => datagram.ask(SMALL),
        }
    }

    /// One message more.
    pub(crate) fn go_on(&mut self) -> Heard {
        Heard::of(AT_ONCE, || self.say())
    }
}

/// Who answered, and whom it saw, where the answer tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) server: String,
    pub(crate) seen: Option<IpAddr>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered(Answer),
    /// What the socket was told, and by which error message, if by one.
    Error(String),
    /// Nothing, until the client gave up.
    Silence,
    /// A connection that stands still.
    Stalled,
    /// Something else than was sent.
    Wrong(String),
}

/// What a client hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) outcome: Outcome,
    /// Whether it took so long that somebody must have asked twice.
    pub(crate) late: bool,
}

impl Heard {
    fn of(at_once: Duration, ask: impl FnOnce() -> Result<Answer>) -> Self {
        let begun = Instant::now();
        let outcome = match ask() {
            Ok(answer) => Outcome::Answered(answer),
            Err(error) => Outcome::of(&error),
        };
        let patient = matches!(outcome, Outcome::Silence | Outcome::Stalled);
        Self { late: !patient && begun.elapsed() > at_once, outcome }
    }

    /// Of a client that could not even ask.
    pub(crate) fn wrong(error: &anyhow::Error) -> Self {
        Self { outcome: Outcome::Wrong(format!("{error:#}")), late: false }
    }

    pub(crate) const fn is_answered(&self) -> bool {
        matches!(self.outcome, Outcome::Answered(_))
    }
}

impl Outcome {
    fn of(error: &anyhow::Error) -> Self {
        if let Some(told) = error.downcast_ref::<Told>() {
            return Self::Error(told.to_string());
        }
        let Some(cause) = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()) else {
            return Self::Wrong(format!("{error:#}"));
        };
        match cause.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock if error.chain().any(|cause| cause.to_string() == "connected, then") => {
                Self::Stalled
            }
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Silence,
            kind => Self::Error(kind.to_string()),
        }
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Answered(Answer { server, seen: Some(seen) }) => write!(out, "{server} answers {seen}")?,
            Outcome::Answered(Answer { server, seen: None }) => write!(out, "{server} answers")?,
            Outcome::Error(error) => write!(out, "{error}")?,
            Outcome::Silence => write!(out, "silence")?,
            Outcome::Stalled => write!(out, "connected, then silence")?,
            Outcome::Wrong(what) => write!(out, "{what}")?,
        }
        if self.late { write!(out, ", late") } else { Ok(()) }
    }
}
