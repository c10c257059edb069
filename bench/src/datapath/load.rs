//! The load of the datapath benchmark: a server and a client, each a process of its own in the network namespace it is
//! started in, as the two ends of a connection are in real life.
//!
//! A server prints its port once it listens, serves until its stdin ends, and then prints what it received. A client
//! works for a given time and prints what it achieved as one line of JSON ([`Outcome`]). Both are bounded by an alarm and
//! end with the process that started them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, process};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, alarm};
use serde_json::{Value, json};

use crate::datapath::cluster::Ends;
use crate::noise::BusyTime;
use crate::samples::Samples;

/// What the two ends do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Load {
    /// One byte there and one back, on one TCP connection.
    PingPong,
    /// A TCP connection for each byte there and back; the server closes first, so that the client's ports are free again.
    Connect,
    /// The same, [`PACE`] of them a second.
    Paced,
    /// As much as goes through TCP connections in one direction.
    Stream,
    /// Small UDP packets in one direction.
    Packets,
}

/// What a client achieved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Ping-pong: half a round trip in µs (the median). Connect and paced: connections a second. Stream: Gbit/s. Packets: received a
    /// second.
    pub value: f64,
    /// CPU seconds of the whole machine meanwhile, by gigabyte (10⁹ bytes); streams only.
    pub cpu_seconds_per_gb: Option<f64>,
}

/// Which processors the ends may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinning {
    /// Both on one: then latency is what the path costs, not how long a sleeping processor takes to wake.
    Together,
    /// Both on one, which is not that of [`Self::Together`]: for a load beside another.
    Beside,
    /// Each on its own.
    Apart,
    /// Wherever the scheduler puts them.
    Free,
}

/// Connections a second of [`Load::Paced`].
pub const PACE: u32 = 300;

/// Round trips and connections before anything counts.
const WARM_UP: u32 = 200;
/// Beyond its time, a load takes this long at most, to set up and to come to an end.
const GRACE: Duration = Duration::from_secs(10);
const IO_LIMIT: Duration = Duration::from_secs(5);
const STREAM_BUFFER: usize = 128 * 1_024;
/// A DNS question with its headers is about this long.
const PACKET: [u8; 64] = [0x5a; 64];

/// A load on one pair of ends: starts a server and a client, and waits for both.
///
/// # Errors
/// When an end fails or does not come to an end.
pub fn run(load: Load, ends: Ends<'_>, streams: usize, pinning: Pinning, time: Duration) -> Result<Outcome> {
    let last = thread::available_parallelism().map_or(1, std::num::NonZero::get) - 1;
    let (client_cpu, server_cpu) = match pinning {
        Pinning::Together => (Some(last), Some(last)),
        Pinning::Beside => (Some(0), Some(0)),
        Pinning::Apart => (Some(0), Some(last)),
        Pinning::Free => (None, None),
    };
    let limit = time + GRACE;
    let server = {
        let _home = ends.server.enter()?;
        Server::start(load, SocketAddr::new(ends.address, ends.port), server_cpu, limit)?
    };
    let told = {
        let _home = ends.client.enter()?;
        command("drive", load, SocketAddr::new(ends.service.unwrap_or(ends.address), server.port), client_cpu, limit)?
            .args(["--streams", &streams.to_string(), "--millis", &time.as_millis().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .and_then(Child::wait_with_output)
            .context("cannot run the client of a load")?
    };
    if !told.status.success() {
        bail!("the client of a load failed: {}", told.status);
    }
    let received = server.finish()?;
    outcome(&serde_json::from_slice(&told.stdout).context("the client of a load did not answer with JSON")?, received, load)
}

fn outcome(told: &Value, received: u64, load: Load) -> Result<Outcome> {
    let number = |key: &str| told[key].as_f64().with_context(|| format!("the client of a load told no {key}: {told}"));
    let value = if load == Load::Packets { as_f64(received) / number("seconds")? } else { number("value")? };
    if value <= 0.0 || !value.is_finite() {
        bail!("a load came to {value}: nothing went through");
    }
    Ok(Outcome { value, cpu_seconds_per_gb: told["cpu_seconds_per_gb"].as_f64() })
}

fn command(end: &str, load: Load, address: SocketAddr, cpu: Option<usize>, limit: Duration) -> Result<Command> {
    let name = load.to_possible_value().context("a load has no name")?;
    let mut command = Command::new(env::current_exe().context("cannot tell where this program is")?);
    command.args(["load", end, "--load", name.get_name(), "--address", &address.to_string()]);
    command.args(["--limit-seconds", &limit.as_secs().to_string()]);
    if let Some(cpu) = cpu {
        command.args(["--cpu", &cpu.to_string()]);
    }
    Ok(command)
}

#[derive(Debug)]
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(load: Load, address: SocketAddr, cpu: Option<usize>, limit: Duration) -> Result<Self> {
        let child = command("serve", load, address, cpu, limit)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run the server of a load")?;
        let mut server = Self { child, port: 0 };
        server.port = u16::try_from(server.read_number()?)?;
        Ok(server)
    }

    fn read_number(&mut self) -> Result<u64> {
        let mut line = String::new();
        // It prints a line at a time and waits between, so nothing of the next line is lost with the buffer.
        BufReader::new(self.child.stdout.as_mut().context("the server of a load has no stdout")?).read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("the server of a load said {line:?}"))
    }

    fn finish(mut self) -> Result<u64> {
        drop(self.child.stdin.take());
        self.read_number()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After an error it may still serve.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Binds this process to its parent's life, to `limit_seconds`, and to a processor.
///
/// # Errors
/// When there is no such processor.
pub fn prepare(cpu: Option<usize>, limit_seconds: u32) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("cannot tie a load to its parent")?;
    alarm::set(limit_seconds);
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on processor {cpu}"))?;
    }
    Ok(())
}

/// Serves until stdin ends. Returns what was received: packets, bytes or connections.
///
/// # Errors
/// When it cannot listen.
pub fn serve(load: Load, address: SocketAddr, mut out: impl Write) -> Result<()> {
    let received = Arc::new(AtomicU64::new(0));
    let port = match load {
        Load::Packets => {
            let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
            let port = socket.local_addr()?.port();
            let received = Arc::clone(&received);
            thread::spawn(move || count_packets(&socket, &received));
            port
        }
        Load::PingPong | Load::Connect | Load::Paced | Load::Stream => {
            let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
            let port = listener.local_addr()?.port();
            let received = Arc::clone(&received);
            thread::spawn(move || accept(load, &listener, &received));
            port
        }
    };
    writeln!(out, "{port}")?;
    out.flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    writeln!(out, "{}", received.load(Ordering::Relaxed))?;
    out.flush()?;
    process::exit(0);
}

fn count_packets(socket: &UdpSocket, received: &AtomicU64) {
    let mut buffer = [0; 2_048];
    while socket.recv(&mut buffer).is_ok() {
        received.fetch_add(1, Ordering::Relaxed);
    }
}

fn accept(load: Load, listener: &TcpListener, received: &Arc<AtomicU64>) {
    for connection in listener.incoming().map_while(Result::ok) {
        match load {
            Load::Stream => {
                let received = Arc::clone(received);
                thread::spawn(move || drain(connection, &received));
            }
            // A client that leaves in the middle says so itself.
            Load::PingPong => drop(answer(connection, u64::MAX, received)),
            Load::Connect | Load::Paced | Load::Packets => drop(answer(connection, 1, received)),
        }
    }
}

fn answer(mut connection: TcpStream, times: u64, received: &AtomicU64) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut byte = [0];
    for _ in 0..times {
        connection.read_exact(&mut byte)?;
        connection.write_all(&byte)?;
        received.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn drain(mut connection: TcpStream, received: &AtomicU64) {
    let mut buffer = vec![0; STREAM_BUFFER];
    while let Ok(length) = connection.read(&mut buffer) {
        if length == 0 {
            break;
        }
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
    // The client waits for this: everything has arrived.
    let _gone = connection.write_all(&[0]);
}

/// Works against the server at `address` for `time`.
///
/// # Errors
/// When the server does not answer.
pub fn drive(load: Load, address: SocketAddr, streams: usize, time: Duration) -> Result<Value> {
    match load {
        Load::PingPong => ping_pong(address, time),
        Load::Connect => connect_repeatedly(address, time, None),
        Load::Paced => connect_repeatedly(address, time, Some(PACE)),
        Load::Stream => stream(address, streams, time),
        Load::Packets => send_packets(address, time),
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&address, IO_LIMIT).with_context(|| format!("cannot connect to {address}"))?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(IO_LIMIT))?;
    connection.set_write_timeout(Some(IO_LIMIT))?;
    Ok(connection)
}

fn ping_pong(address: SocketAddr, time: Duration) -> Result<Value> {
    let mut connection = connect(address)?;
    let mut byte = [0x5a];
    let mut samples = Samples::default();
    for _ in 0..WARM_UP {
        connection.write_all(&byte)?;
        connection.read_exact(&mut byte)?;
    }
    let started = Instant::now();
    let mut before = started;
    while before - started < time {
        connection.write_all(&byte)?;
        connection.read_exact(&mut byte)?;
        let now = Instant::now();
        samples.push(now - before);
        before = now;
    }
    let half = |percent| samples.percentile(percent).map(|trip| trip.as_secs_f64() * 1e6 / 2.0);
    Ok(json!({"value": half(50), "p99": half(99)}))
}

/// As fast as it goes, or at most at this pace.
fn connect_repeatedly(address: SocketAddr, time: Duration, pace: Option<u32>) -> Result<Value> {
    let once = || -> Result<()> {
        let mut connection = connect(address)?;
        let mut byte = [0x5a];
        connection.write_all(&byte)?;
        connection.read_exact(&mut byte)?;
        if connection.read(&mut byte)? != 0 {
            bail!("the server did not close");
        }
        Ok(())
    };
    if pace.is_none() {
        for _ in 0..WARM_UP {
            once()?;
        }
    }
    let started = Instant::now();
    let mut count = 0_u64;
    while started.elapsed() < time {
        once()?;
        count += 1;
        if let Some(pace) = pace {
            let due = Duration::from_secs(1) * u32::try_from(count)? / pace;
            thread::sleep(due.saturating_sub(started.elapsed()));
        }
    }
    Ok(json!({"value": as_f64(count) / started.elapsed().as_secs_f64()}))
}

fn stream(address: SocketAddr, streams: usize, time: Duration) -> Result<Value> {
    let connections = (0..streams).map(|_| connect(address)).collect::<Result<Vec<_>>>()?;
    let busy = BusyTime::read()?;
    let started = Instant::now();
    let sent = thread::scope(|scope| {
        let senders: Vec<_> = connections
            .into_iter()
            .map(|mut connection| {
                scope.spawn(move || -> Result<u64> {
                    let buffer = vec![0x5a; STREAM_BUFFER];
                    let mut sent = 0;
                    while started.elapsed() < time {
                        connection.write_all(&buffer)?;
                        sent += STREAM_BUFFER as u64;
                    }
                    connection.shutdown(Shutdown::Write)?;
                    connection.read_exact(&mut [0])?;
                    Ok(sent)
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().map_err(|_panic| anyhow::anyhow!("a sender panicked"))?).sum::<Result<u64>>()
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu_seconds = BusyTime::read()?.since(busy);
    Ok(json!({
        "value": as_f64(sent) * 8.0 / 1e9 / seconds,
        "cpu_seconds_per_gb": cpu_seconds / (as_f64(sent) / 1e9),
    }))
}

fn send_packets(address: SocketAddr, time: Duration) -> Result<Value> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(address)?;
    let started = Instant::now();
    while started.elapsed() < time {
        // A full queue is part of the measurement: what counts is what arrives.
        let _dropped = socket.send(&PACKET);
    }
    Ok(json!({"seconds": started.elapsed().as_secs_f64()}))
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_counts_for_packets_and_what_the_client_saw_for_all_else() {
        let told = json!({"value": 7.0, "seconds": 2.0, "cpu_seconds_per_gb": 0.5});
        assert_eq!(outcome(&told, 10, Load::Packets).unwrap(), Outcome { value: 5.0, cpu_seconds_per_gb: Some(0.5) });
        assert_eq!(outcome(&told, 10, Load::Stream).unwrap().value.to_bits(), 7.0_f64.to_bits());
    }

    #[test]
    fn a_load_that_got_nothing_through_is_an_error() {
        assert!(outcome(&json!({"seconds": 1.0}), 0, Load::Packets).is_err());
        assert!(outcome(&json!({}), 5, Load::PingPong).is_err());
    }
}
