//! Servers that say who they are and whom they see, and conversations with them that can go on for as long as a test likes.
//!
//! Promise: an answer that is late, missing, changed, from another server than before or from another address is an error, and the
//! first packet is not asked for twice.

mod server;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

pub use server::Server;

use super::network::Network;

/// A SYN that is lost is sent again after a second (RFC 6298, 2.1): to connect later than this is to have lost it.
const FIRST_PACKET: Duration = Duration::from_millis(950);
/// Limit of everything behind the first packet.
const ANSWER: Duration = Duration::from_secs(3);
/// What has not come by then, on top of that, does not come.
const MISSING: Duration = Duration::from_secs(12);
/// How long nobody answers where nobody should: a hundred times what an answer takes.
const SILENCE: Duration = Duration::from_millis(200);

/// A message of an exchange: it fits into every path's MTU.
const MESSAGE: usize = 1200;
/// What a transfer sends over TCP and gets back: more than a megabyte, so that the kernel sends segments of 64 kB (GSO).
const TCP_TRANSFER: usize = 1_200_000;
/// A datagram that no path's MTU has room for.
const FRAGMENTED: usize = 20_000;
/// More than any message with its greeting.
const ANSWER_BYTES: usize = 65_536;
/// What a transfer sends over UDP in one call, cut into messages by the kernel (`UDP_SEGMENT`).
const UDP_TRANSFER: usize = 40 * MESSAGE;

/// Which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// What a server says first: who it is, and whom it sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The server's name.
    pub server: String,
    /// The source address that it sees.
    pub source: IpAddr,
}

impl Greeting {
    fn line(server: &str, source: IpAddr) -> String {
        format!("{server} {}\n", source.to_canonical())
    }

    fn parse(line: &str) -> Result<Self> {
        let (server, source) = line.split_once(' ').with_context(|| format!("no greeting: {line:?}"))?;
        Ok(Self { server: server.to_owned(), source: source.parse()? })
    }
}

/// A conversation with a server.
#[derive(Debug)]
pub struct Conversation {
    socket: Socket,
    greeting: Greeting,
    /// Makes every message another one.
    said: u64,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Conversation {
    /// Begins a conversation from a network with a server.
    ///
    /// # Errors
    /// When the first packet is not answered.
    pub fn open(from: &Network, protocol: Protocol, to: SocketAddr) -> Result<Self> {
        Self::open_within(from, protocol, to, FIRST_PACKET)
    }

    /// That nobody answers.
    ///
    /// # Errors
    /// When somebody does.
    pub fn is_refused(from: &Network, protocol: Protocol, to: SocketAddr) -> Result<()> {
        match Self::open_within(from, protocol, to, SILENCE) {
            Ok(conversation) => bail!("{} answers {} at {to} over {protocol:?}", conversation.greeting.server, from.name()),
            Err(_) => Ok(()),
        }
    }

    fn open_within(from: &Network, protocol: Protocol, to: SocketAddr, limit: Duration) -> Result<Self> {
        let opened = match protocol {
            Protocol::Tcp => Self::open_tcp(from, to, limit),
            Protocol::Udp => Self::open_udp(from, to, limit),
        };
        opened.with_context(|| format!("{} to {to} over {protocol:?}", from.name()))
    }

    fn open_tcp(from: &Network, to: SocketAddr, limit: Duration) -> Result<Self> {
        let mut stream = connect(from, from.next_port(), to, limit)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte).context("its greeting")?;
            line.extend(byte);
        }
        let greeting = Greeting::parse(String::from_utf8(line)?.trim_end())?;
        Ok(Self { socket: Socket::Tcp(stream), greeting, said: 0 })
    }

    fn open_udp(from: &Network, to: SocketAddr, limit: Duration) -> Result<Self> {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = from.run(|| -> Result<_> {
            let socket = UdpSocket::bind((any, from.next_port()))?;
            socket.connect(to)?;
            Ok(socket)
        })?;
        socket.set_read_timeout(Some(limit))?;
        socket.send(&pattern(0, MESSAGE))?;
        let (greeting, echoed) = receive(&socket).context("the answer to its first packet")?;
        ensure!(echoed == pattern(0, MESSAGE), "its first packet came back changed");
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(Self { socket: Socket::Udp(socket), greeting, said: 1 })
    }

    /// What the server said of itself and of us.
    #[must_use]
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// One message and its echo.
    ///
    /// # Errors
    /// When it is not answered as before.
    pub fn exchange(&mut self) -> Result<()> {
        self.echo(MESSAGE)
    }

    /// Over UDP, one message that travels in fragments, and its echo; over TCP there is no such thing.
    ///
    /// # Errors
    /// When it is not answered as before.
    pub fn exchange_fragments(&mut self) -> Result<()> {
        match self.socket {
            Socket::Tcp(_) => Ok(()),
            Socket::Udp(_) => self.echo(FRAGMENTED).context("a datagram in fragments"),
        }
    }

    fn echo(&mut self, length: usize) -> Result<()> {
        let message = pattern(self.said, length);
        self.said += 1;
        let echoed = match &mut self.socket {
            Socket::Tcp(stream) => {
                stream.write_all(&message)?;
                read_echo(stream, message.len())?
            }
            Socket::Udp(socket) => {
                socket.send(&message)?;
                let (greeting, echoed) = receive(socket).context("an echo over UDP")?;
                ensure!(greeting == self.greeting, "it was {:?} and is {greeting:?}", self.greeting);
                echoed
            }
        };
        ensure!(echoed == message, "a message came back changed");
        Ok(())
    }

    /// Much at once, and its echo.
    ///
    /// # Errors
    /// When some of it is missing or changed.
    pub fn transfer(&mut self) -> Result<()> {
        let first = self.said;
        match &mut self.socket {
            Socket::Tcp(stream) => {
                let bytes = pattern(first, TCP_TRANSFER);
                let mut writer = stream.try_clone()?;
                let mut echoed = vec![0; bytes.len()];
                thread::scope(|scope| -> Result<()> {
                    let sent = scope.spawn(|| writer.write_all(&bytes));
                    let received = stream.read_exact(&mut echoed);
                    sent.join().map_err(|_| anyhow!("the writing thread panicked"))?.context("send a megabyte")?;
                    received.context("receive a megabyte")
                })?;
                ensure!(echoed == bytes, "a megabyte came back changed");
                self.said += 1;
            }
            Socket::Udp(socket) => {
                let count = UDP_TRANSFER / MESSAGE;
                let mut expected: Vec<_> = (0..count as u64).map(|index| pattern(first + index, MESSAGE)).collect();
                setsockopt(&socket.as_fd(), sockopt::UdpGsoSegment, &i32::try_from(MESSAGE)?)?;
                let sent = socket.send(&expected.concat());
                setsockopt(&socket.as_fd(), sockopt::UdpGsoSegment, &0)?;
                sent?;
                while !expected.is_empty() {
                    let (greeting, echoed) = receive(socket).with_context(|| format!("{} of {count} datagrams", expected.len()))?;
                    ensure!(greeting == self.greeting, "it was {:?} and is {greeting:?}", self.greeting);
                    let before = expected.len();
                    expected.retain(|message| *message != echoed);
                    ensure!(expected.len() < before, "a datagram came back changed or twice");
                }
                self.said += count as u64;
            }
        }
        Ok(())
    }
}

/// An echo over TCP. One that is not there in time is waited for some more, to tell a machine that is too busy from a packet that is lost
/// again and again: either is an error.
fn read_echo(stream: &mut TcpStream, length: usize) -> Result<Vec<u8>> {
    let begun = Instant::now();
    let mut echoed = vec![0; length];
    let mut there = 0;
    let mut late = None;
    while there < length {
        match stream.read(&mut echoed[there..]) {
            Ok(0) => bail!("an echo over TCP: the server has closed the connection"),
            Ok(more) => there += more,
            Err(error) if late.is_none() && matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                late = Some(error);
                stream.set_read_timeout(Some(MISSING))?;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("an echo over TCP: {there} of {length} bytes after {:?}", begun.elapsed()));
            }
        }
    }
    match late {
        Some(error) => Err(error).with_context(|| format!("an echo over TCP: it came late, after {:?}", begun.elapsed())),
        None => Ok(echoed),
    }
}

/// Connects from a certain port.
///
/// # Errors
/// Those of the kernel; [`ErrorKind::TimedOut`] past the limit.
pub fn connect(from: &Network, port: u16, to: SocketAddr, limit: Duration) -> Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = from.run(|| -> Result<_> { Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?) })?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::new(any, port))?;
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) => Ok(TcpStream::from(socket)),
        // So says the kernel where the limit has passed (socket(7), SO_SNDTIMEO).
        Err(Errno::INPROGRESS) => Err(std::io::Error::from(ErrorKind::TimedOut)).with_context(|| format!("{to} from port {port}")),
        Err(error) => Err(std::io::Error::from(error)).with_context(|| format!("{to} from port {port}")),
    }
}

/// One answer over UDP. The socket is connected: what comes from another address than was spoken to does not arrive here. As over TCP, what is
/// late is told from what is lost.
fn receive(socket: &UdpSocket) -> Result<(Greeting, Vec<u8>)> {
    let begun = Instant::now();
    let mut answer = vec![0; ANSWER_BYTES];
    let length = match socket.recv(&mut answer) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            let limit = socket.read_timeout()?;
            // Nobody waits for more where nobody may answer.
            let is_lost = limit < Some(FIRST_PACKET) || {
                socket.set_read_timeout(Some(MISSING))?;
                let late = socket.recv(&mut answer);
                socket.set_read_timeout(limit)?;
                late.is_err()
            };
            let became = if is_lost { "it has not come" } else { "it came late" };
            return Err(error).with_context(|| format!("{became}, after {:?}", begun.elapsed()));
        }
        received => received?,
    };
    let end = answer[..length].iter().position(|byte| *byte == b'\n').context("an answer without a greeting")?;
    Ok((Greeting::parse(std::str::from_utf8(&answer[..end])?)?, answer[end + 1..length].to_vec()))
}

/// Bytes that differ from place to place and from message to message (xorshift, Marsaglia 2003).
fn pattern(number: u64, length: usize) -> Vec<u8> {
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use super::*;

    fn here() -> Network {
        Network::at("here", Path::new("/proc/thread-self/ns/net")).unwrap()
    }

    #[test]
    fn a_server_says_whom_it_sees_and_what_it_heard() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        // To enter a namespace, even one's own, takes root.
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let _server = Server::start(&here(), port).unwrap();
        for protocol in Protocol::ALL {
            let mut conversation = Conversation::open(&here(), protocol, SocketAddr::new([127, 0, 0, 1].into(), port)).unwrap();
            assert_eq!(conversation.greeting(), &Greeting { server: "here".to_owned(), source: [127, 0, 0, 1].into() });
            conversation.exchange().unwrap();
            conversation.transfer().unwrap();
            conversation.exchange().unwrap();
        }
    }

    #[test]
    fn no_two_messages_are_alike() {
        assert_ne!(pattern(0, 64), pattern(1, 64));
        assert_eq!(pattern(7, 64), pattern(7, 100)[..64]);
    }
}
