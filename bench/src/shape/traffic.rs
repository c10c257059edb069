//! Traffic from one network to another, and how much of it arrives while it flows: neither its beginning nor its end counts.
//!
//! Both ends are threads of this process, with sockets that were opened in their networks: what is measured takes a second, and is
//! read off counters that both sides see.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use super::cells::{DATAGRAM, Protocol};
use crate::netns::Namespace;

/// Who waits for longer looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(200);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A sender of datagrams sends what is due, and sleeps for as long.
const PERIOD: Duration = Duration::from_millis(1);
/// A receiver that has no processor for a while loses nothing.
const RECEIVE_BUFFER: usize = 16 << 20;
const BUFFER: usize = 128 * 1_024;

/// From where to where.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// The sender's network.
    pub from: &'a Namespace,
    /// The receiver's network.
    pub to: &'a Namespace,
    /// The receiver's address.
    pub address: IpAddr,
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// How.
    pub protocol: Protocol,
    /// By how many at once.
    pub streams: usize,
    /// How much is sent by datagrams, all senders together, in bits a second; nothing for as much as can be.
    pub datagram_bits: Option<f64>,
}

/// Until the burst is used up and connections have found their rate.
pub const WARM_UP: Duration = Duration::from_millis(1_500);

/// Bits of payload a second that arrive, over `slot`, after [`WARM_UP`].
///
/// # Errors
/// When a connection fails, or nothing arrives.
pub fn goodput(way: Way<'_>, sent: Sent, slot: Duration) -> Result<f64> {
    let (arrived, stop) = (&AtomicU64::new(0), &AtomicBool::new(false));
    let goodput = thread::scope(|scope| {
        // Whatever happens, the threads are told to end before they are waited for.
        let _end = EndOnDrop(stop);
        for _ in 0..sent.streams {
            match sent.protocol {
                Protocol::Tcp => {
                    let (sender, receiver) = connect(way)?;
                    scope.spawn(move || write_all_the_time(sender, stop));
                    scope.spawn(move || read_all_the_time(receiver, arrived, stop));
                }
                Protocol::Udp => {
                    let (sender, receiver) = bind(way)?;
                    #[expect(clippy::cast_precision_loss, reason = "a few streams")]
                    let bytes = sent.datagram_bits.map(|bits| bits / 8.0 / sent.streams as f64);
                    scope.spawn(move || receive_all_the_time(&receiver, arrived, stop));
                    scope.spawn(move || send_at_pace(&sender, bytes, stop));
                }
            }
        }
        thread::sleep(WARM_UP);
        let (begun, before) = (Instant::now(), arrived.load(Ordering::Relaxed));
        thread::sleep(slot);
        let (took, bytes) = (begun.elapsed(), arrived.load(Ordering::Relaxed) - before);
        #[expect(clippy::cast_precision_loss, reason = "bytes of some seconds")]
        let bits = bytes as f64 * 8.0;
        Ok::<_, anyhow::Error>(bits / took.as_secs_f64())
    })?;
    ensure!(goodput > 0.0, "nothing arrived at {} by {:?}", way.address, sent.protocol);
    Ok(goodput)
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn connect(way: Way<'_>) -> Result<(TcpStream, TcpStream)> {
    let listener = {
        let _home = way.to.enter()?;
        TcpListener::bind((way.address, 0)).with_context(|| format!("cannot listen on {}", way.address))?
    };
    let sender = {
        let _home = way.from.enter()?;
        let address = listener.local_addr()?;
        TcpStream::connect_timeout(&address, CONNECT_LIMIT).with_context(|| format!("cannot connect to {address}"))?
    };
    let (receiver, _) = listener.accept().context("no connection to accept")?;
    sender.set_write_timeout(Some(PATIENCE))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    Ok((sender, receiver))
}

fn bind(way: Way<'_>) -> Result<(UdpSocket, UdpSocket)> {
    let receiver = {
        let _home = way.to.enter()?;
        UdpSocket::bind((way.address, 0)).with_context(|| format!("cannot bind {}", way.address))?
    };
    setsockopt(&receiver.as_fd(), sockopt::RcvBufForce, &RECEIVE_BUFFER).context("cannot have a large buffer")?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let sender = {
        let _home = way.from.enter()?;
        UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], 0))).context("cannot bind a sender")?
    };
    sender.connect(receiver.local_addr()?)?;
    sender.set_write_timeout(Some(PATIENCE))?;
    Ok((sender, receiver))
}

/// A write that was given up on is begun anew: how much there is of it is counted where it arrives.
fn write_all_the_time(mut sender: TcpStream, stop: &AtomicBool) {
    let buffer = vec![0x5a; BUFFER];
    while !stop.load(Ordering::Relaxed) {
        let _given_up = sender.write(&buffer);
    }
}

fn read_all_the_time(mut receiver: TcpStream, arrived: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = vec![0; BUFFER];
    while !stop.load(Ordering::Relaxed) {
        arrived.fetch_add(receiver.read(&mut buffer).unwrap_or(0) as u64, Ordering::Relaxed);
    }
}

fn receive_all_the_time(receiver: &UdpSocket, arrived: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = vec![0; DATAGRAM];
    while !stop.load(Ordering::Relaxed) {
        arrived.fetch_add(receiver.recv(&mut buffer).unwrap_or(0) as u64, Ordering::Relaxed);
    }
}

/// So many bytes a second, or as many as can be. What was not sent in time is sent later, but not more than a few periods' worth.
fn send_at_pace(sender: &UdpSocket, bytes_per_second: Option<f64>, stop: &AtomicBool) {
    let datagram = vec![0x5a; DATAGRAM];
    let gap = bytes_per_second.map(|rate| Duration::from_secs_f64(DATAGRAM as f64 / rate));
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if let Some(gap) = gap {
            let now = Instant::now();
            due = due.max(now.checked_sub(PERIOD * 20).unwrap_or(now));
            if due > now {
                thread::sleep((due - now).max(PERIOD));
                continue;
            }
            due += gap;
        }
        // A full queue is part of what is measured.
        let _dropped = sender.send(&datagram);
    }
}
