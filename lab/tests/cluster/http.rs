//! Requests from inside a network of the lab, as plain as can be: what is tested is the network.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::network::Network;

/// Limit of a request in a cluster that has just started many pods on two processors. A lost SYN is seen by it: it costs a second more.
const ANSWER: Duration = Duration::from_secs(5);
/// How long nobody answers where nobody should.
pub(crate) const SILENCE: Duration = Duration::from_millis(1500);

/// The body of the answer to `GET path`.
pub(crate) fn get(from: &Network, to: SocketAddr, path: &str) -> Result<String> {
    get_within(from, to, path, ANSWER)
}

/// As [`get`], with a limit of each step.
pub(crate) fn get_within(from: &Network, to: SocketAddr, path: &str, limit: Duration) -> Result<String> {
    let asked = || format!("{}: GET http://{to}{path}", from.name());
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, limit).map_err(anyhow::Error::from)).with_context(asked)?;
    request(&mut stream, to, path, limit).with_context(asked)
}

/// One request on a connection that ends with it.
pub(crate) fn request(stream: &mut TcpStream, to: SocketAddr, path: &str, limit: Duration) -> Result<String> {
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer:?}"))?;
    ensure!(head.split_ascii_whitespace().nth(1) == Some("200"), "{}", head.lines().next().unwrap_or_default());
    Ok(body.trim().to_owned())
}

/// That nobody answers there.
pub(crate) fn is_silent(from: &Network, to: SocketAddr) -> Result<()> {
    let answered = from.run(|| Ok::<_, anyhow::Error>(TcpStream::connect_timeout(&to, SILENCE)))?;
    ensure!(answered.is_err(), "{}: somebody answers at {to}", from.name());
    Ok(())
}

/// The answer to one datagram. Asked three times at most: nobody promises that a datagram arrives.
pub(crate) fn ask_udp(from: &Network, to: SocketAddr, question: &str) -> Result<String> {
    let asked = || format!("{}: {question:?} to {to} by UDP", from.name());
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = from.run(|| UdpSocket::bind(any).map_err(anyhow::Error::from)).with_context(asked)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(to).with_context(asked)?;
    let mut answer = [0; 512];
    let mut outcome = Err(std::io::ErrorKind::TimedOut.into());
    for _ in 0..3 {
        socket.send(question.as_bytes()).with_context(asked)?;
        outcome = socket.recv(&mut answer);
        if outcome.is_ok() {
            break;
        }
    }
    let length = outcome.with_context(asked)?;
    Ok(String::from_utf8_lossy(&answer[..length]).trim().to_owned())
}

/// The address and the port of an `a.b.c.d:port` or `[a::b]:port`, as netexec's `/clientip` answers.
pub(crate) fn client_of(answer: &str) -> Result<IpAddr> {
    let address: SocketAddr = answer.parse().with_context(|| format!("not an address: {answer:?}"))?;
    Ok(address.ip().to_canonical())
}
