//! Requests that go on while something is restarted, replaced or drained. One that fails is remembered with its time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::network::Network;

use crate::http;

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(30);
/// A load that is forgotten ends by itself.
const LONGEST: Duration = Duration::from_secs(300);

/// A client that connects anew for each request, and one that keeps a connection; both go on until they are stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Result<u64, String>>>,
}

impl Load {
    /// Starts a client in each of `from`, which asks `to` for its name.
    pub(crate) fn start(from: &[Network], to: &[SocketAddr]) -> Self {
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = Vec::new();
        for network in from {
            for to in to.iter().copied() {
                let (network, stop, requests) = (network.clone(), Arc::clone(&stop), Arc::clone(&requests));
                clients.push(thread::spawn(move || ask_until(&network, to, &stop, &requests)));
            }
        }
        Self { stop, requests, clients }
    }

    /// Beside the others, a connection to `to` that stays, over which a byte goes to and fro.
    pub(crate) fn keep(&mut self, from: &Network, to: SocketAddr) -> Result<()> {
        let stream = from.run(|| Ok::<_, anyhow::Error>(TcpStream::connect_timeout(&to, Duration::from_secs(5))?))?;
        let (name, stop) = (from.name().to_owned(), Arc::clone(&self.stop));
        self.clients.push(thread::spawn(move || talk_until(&name, stream, to, &stop)));
        Ok(())
    }

    /// Waits until so many requests more have been answered, or failed.
    pub(crate) fn go_on(&self, requests: u64) -> Result<()> {
        let (before, begun) = (self.requests.load(Ordering::Relaxed), Instant::now());
        while self.requests.load(Ordering::Relaxed) < before + requests {
            ensure!(begun.elapsed() < LONGEST, "no {requests} requests within {} s", LONGEST.as_secs());
            ensure!(self.clients.iter().any(|client| !client.is_finished()), "every client has ended");
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Ends all clients; none may have failed. Answers how many requests there were.
    pub(crate) fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answered = 0;
        let mut failures = Vec::new();
        for client in self.clients {
            match client.join().map_err(|_| anyhow::anyhow!("a client panicked"))? {
                Ok(count) => answered += count,
                Err(failure) => failures.push(failure),
            }
        }
        if !failures.is_empty() {
            bail!("{}", failures.join("; "));
        }
        Ok(answered)
    }
}

fn ask_until(network: &Network, to: SocketAddr, stop: &AtomicBool, requests: &AtomicU64) -> Result<u64, String> {
    let begun = Instant::now();
    let (mut answered, mut failures) = (0u64, Vec::new());
    while !stop.load(Ordering::Relaxed) && begun.elapsed() < LONGEST {
        match http::get(network, to, "/hostname") {
            Ok(_) => answered += 1,
            Err(error) if failures.len() < 3 => failures.push(format!("after {:.1} s {error:#}", begun.elapsed().as_secs_f32())),
            Err(_) => failures.push(String::new()),
        }
        requests.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    if failures.is_empty() {
        return Ok(answered);
    }
    let told: Vec<_> = failures.iter().filter(|failure| !failure.is_empty()).map(String::as_str).collect();
    Err(format!("{} of {} requests failed: {}", failures.len(), answered + failures.len() as u64, told.join("; ")))
}

/// Keep-alive requests on one connection.
fn talk_until(name: &str, mut stream: TcpStream, to: SocketAddr, stop: &AtomicBool) -> Result<u64, String> {
    let begun = Instant::now();
    let mut exchanged = 0;
    while !stop.load(Ordering::Relaxed) && begun.elapsed() < LONGEST {
        exchange(&mut stream, to)
            .with_context(|| format!("{name}: the connection to {to} broke after {:.1} s", begun.elapsed().as_secs_f32()))
            .map_err(|error| format!("{error:#}"))?;
        exchanged += 1;
        thread::sleep(PAUSE);
    }
    Ok(exchanged)
}

fn exchange(stream: &mut TcpStream, to: SocketAddr) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /hostname HTTP/1.1\r\nHost: {to}\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    // The answer is short and says its length; its end is the end of the host's name.
    loop {
        let length = stream.read(&mut part)?;
        ensure!(length > 0, "closed by the server");
        answer.extend_from_slice(&part[..length]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let announced = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            if announced.is_none_or(|length: usize| body.len() >= length) {
                return Ok(());
            }
        }
    }
}
