//! Measures with one other node: three connections, each for one thing.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use fleet_api::message::Measured;

use super::request::{LENGTH, Request};

/// The other may hear of it later than this node.
const PATIENCE: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_millis(500);
/// Without a byte.
const SILENT: Duration = Duration::from_secs(5);
/// Messages that go there and back.
const ECHOES: u64 = 100;
/// How long is sent each way: long enough for TCP to be at its speed, short for whoever else uses the link.
const SENDS: Duration = Duration::from_secs(1);
const BLOCK: usize = 256 << 10;

/// Tries until the other lets itself be measured, and not for ever.
pub(super) fn measure(to: SocketAddr) -> io::Result<Measured> {
    let begun = Instant::now();
    loop {
        match once(to, SILENT) {
            Err(_) if begun.elapsed() < PATIENCE => std::thread::sleep(AGAIN),
            outcome => return outcome,
        }
    }
}

/// One attempt.
pub(super) fn once(to: SocketAddr, silent: Duration) -> io::Result<Measured> {
    let round_trip = round_trip(ask(to, Request::Echo(ECHOES), silent)?)?;
    let received_mbit = receive(ask(to, Request::Send(SENDS), silent)?)?;
    let sent_mbit = send(ask(to, Request::Receive, silent)?)?;
    let round_trip_micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
    Ok(Measured { peer: String::new(), round_trip_micros, received_mbit, sent_mbit })
}

fn ask(to: SocketAddr, request: Request, silent: Duration) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, silent)?;
    stream.set_read_timeout(Some(silent))?;
    stream.set_write_timeout(Some(silent))?;
    stream.set_nodelay(true)?;
    stream.write_all(&request.encode())?;
    Ok(stream)
}

/// The median.
fn round_trip(mut stream: TcpStream) -> io::Result<Duration> {
    let (mut times, mut bytes) = (Vec::new(), [0; LENGTH]);
    for _ in 0..ECHOES {
        let begun = Instant::now();
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}

fn receive(mut stream: TcpStream) -> io::Result<u64> {
    let (received, took) = drain(&mut stream)?;
    Ok(mbit(received, took))
}

fn send(mut stream: TcpStream) -> io::Result<u64> {
    let (block, begun) = (vec![0; BLOCK], Instant::now());
    while begun.elapsed() < SENDS {
        stream.write_all(&block)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut said = [0; LENGTH];
    stream.read_exact(&mut said)?;
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Ok(mbit(number(&said[..8]), Duration::from_micros(number(&said[8..]))))
}

/// Reads to the end: how much that was, and how long it took from the first byte. Not longer than twice what is ever sent.
pub(super) fn drain(stream: &mut TcpStream) -> io::Result<(u64, Duration)> {
    let (mut block, mut received, mut begun) = (vec![0; BLOCK], 0, None);
    loop {
        match stream.read(&mut block)? {
            0 => return Ok((received, begun.map(|begun: Instant| begun.elapsed()).unwrap_or_default())),
            bytes => received += bytes as u64,
        }
        if begun.get_or_insert_with(Instant::now).elapsed() > SILENT {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it sends without an end"));
        }
    }
}

/// Bits of a microsecond are millions of bits a second.
fn mbit(bytes: u64, took: Duration) -> u64 {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(8) / micros
}
