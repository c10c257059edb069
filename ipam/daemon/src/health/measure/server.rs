//! Lets itself be measured by those that the fleet names, one at a time. Where there are none nobody listens.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use fleet_api::Preflight;
use fleet_api::message::Peers;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::client::drain;
use super::request::{LENGTH, Request};
use crate::clockwork::Clockwork;
use crate::health::orders::Orders;

/// Between two looks at what has been told.
const LOOK: Duration = Duration::from_millis(500);
/// Before a port that is taken is tried again.
const TAKEN: Duration = Duration::from_secs(5);
/// Without a byte.
const SILENT: Duration = Duration::from_secs(5);
const BLOCK: usize = 256 << 10;

/// Listens while somebody measures, until it is dropped.
pub(in crate::health) fn keep_being_measured(orders: Orders, port: u16) -> io::Result<Clockwork> {
    let mut listener: Option<TcpListener> = None;
    Clockwork::start_at_pace("health-measured", move |run| {
        if run == 0 {
            crate::health::be_nice();
        }
        let measured_by: Vec<IpAddr> = match orders() {
            Preflight::Told(order) => Peers::addresses(&order.measured_by).collect(),
            Preflight::Unheard | Preflight::Untold | Preflight::Expected => Vec::new(),
        };
        if measured_by.is_empty() {
            listener = None;
            return LOOK;
        }
        if listener.is_none() {
            match listen(port) {
                Ok(listening) => listener = Some(listening),
                Err(error) => {
                    tracing::warn!(port, %error, "other nodes cannot measure with this one; free the TCP port, or set health.peer_port on all nodes");
                    return TAKEN;
                }
            }
        }
        if let Some(listener) = &listener {
            accept(listener, &measured_by);
        }
        Duration::ZERO
    })
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let any = |address: IpAddr| TcpListener::bind(SocketAddr::new(address, port));
    let listener = any(Ipv6Addr::UNSPECIFIED.into()).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Err(error),
        _ => any(Ipv4Addr::UNSPECIFIED.into()),
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves who comes before the next look.
fn accept(listener: &TcpListener, measured_by: &[IpAddr]) {
    let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO);
    if !matches!(poll(&mut polled, timeout), Ok(1..)) {
        return;
    }
    let Ok((stream, from)) = listener.accept() else { return };
    if !measured_by.contains(&from.ip().to_canonical()) {
        tracing::debug!(%from, "connection closed: it was not told to measure with this node");
        return;
    }
    if let Err(error) = serve(stream) {
        tracing::debug!(%from, %error, "not measured to the end");
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SILENT))?;
    stream.set_write_timeout(Some(SILENT))?;
    stream.set_nodelay(true)?;
    let begun = Instant::now();
    match Request::read(&mut stream)? {
        Request::Echo(count) => {
            let mut bytes = [0; LENGTH];
            for _ in 0..count {
                if begun.elapsed() > SILENT {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "it takes too long"));
                }
                stream.read_exact(&mut bytes)?;
                stream.write_all(&bytes)?;
            }
            Ok(())
        }
        Request::Send(time) => {
            let block = vec![0; BLOCK];
            while begun.elapsed() < time {
                stream.write_all(&block)?;
            }
            stream.shutdown(Shutdown::Write)
        }
        Request::Receive => {
            let (received, took) = drain(&mut stream)?;
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            stream.write_all(&[received.to_be_bytes(), micros.to_be_bytes()].concat())
        }
    }
}
