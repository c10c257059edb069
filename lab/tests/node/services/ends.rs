//! Both ends of a conversation with a service: pods that say who they are, and clients that ask.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use conformance_tests::netns::Netns;
use lab::command::wait_until;
use lab::host::Pod;

/// The port of every backend.
pub(crate) const BACKEND: u16 = 8080;
const LIMIT: Duration = Duration::from_secs(2);
/// Between two looks at whether a thread is to end.
const TICK: Duration = Duration::from_millis(100);

/// A pod that says its name to whoever connects or sends, and then each line again. Its threads end with it.
pub(crate) struct Backend {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Backend {
    pub(crate) fn start(pod: &Pod, address: IpAddr, name: &'static str) -> Result<Self> {
        let _inside = pod.netns.enter()?;
        let listener = TcpListener::bind((address, BACKEND))?;
        let socket = UdpSocket::bind((address, BACKEND))?;
        listener.set_nonblocking(true)?;
        socket.set_read_timeout(Some(TICK))?;
        let over = Arc::new(AtomicBool::new(false));
        let (ends, ends_too) = (Arc::clone(&over), Arc::clone(&over));
        let tcp = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(std::thread::spawn(move || echo(stream, name))),
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        let udp = std::thread::spawn(move || {
            let mut datagram = [0; 64];
            while !ends_too.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut datagram) {
                    // A client that has gone hears nothing.
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            }
        });
        Ok(Self { over, threads: vec![tcp, udp] })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Until the client has gone.
fn echo(mut stream: TcpStream, name: &str) {
    let _ = stream.set_nonblocking(false);
    let Ok(lines) = stream.try_clone() else { return };
    if writeln!(stream, "{name}").is_err() {
        return;
    }
    for line in BufReader::new(lines).lines() {
        let Ok(line) = line else { return };
        if writeln!(stream, "{line}").is_err() {
            return;
        }
    }
}

/// A connection that goes on.
pub(crate) struct Conversation {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
    /// Who answers.
    pub(crate) name: String,
}

impl Conversation {
    pub(crate) fn begin(from: &Netns, to: SocketAddr) -> Result<Self> {
        let stream = {
            let _inside = from.enter()?;
            TcpStream::connect_timeout(&to, LIMIT).with_context(|| format!("connect to {to}"))?
        };
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream.try_clone()?);
        let mut name = String::new();
        lines.read_line(&mut name)?;
        ensure!(!name.is_empty(), "{to} has said nothing");
        Ok(Self { stream, lines, name: name.trim_end().to_owned() })
    }

    pub(crate) fn says(&mut self, word: &str) -> Result<()> {
        writeln!(self.stream, "{word}")?;
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        ensure!(line.trim_end() == word, "{word:?} came back as {line:?}");
        Ok(())
    }
}

/// One socket that asks by UDP again and again.
pub(crate) struct Asker(UdpSocket);

impl Asker {
    pub(crate) fn new(from: &Netns, to: SocketAddr) -> Result<Self> {
        let _inside = from.enter()?;
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(TICK))?;
        Ok(Self(socket))
    }

    pub(crate) fn ask(&self) -> Result<String> {
        self.0.send(b"who?")?;
        let mut answer = [0; 64];
        let length = self.0.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }
}

/// What a page says, head and body.
pub(crate) fn page(from: &Netns, at: SocketAddr, path: &str) -> Result<String> {
    let mut stream = {
        let _inside = from.enter()?;
        TcpStream::connect_timeout(&at, LIMIT)?
    };
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A client that connects again and again, and talks by one connection all the time. Nothing may fail.
pub(crate) struct Steady {
    over: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: JoinHandle<Result<()>>,
}

impl Steady {
    pub(crate) fn start(from: &Pod, to: SocketAddr) -> Result<Self> {
        let (over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ends, counts, netns) = (Arc::clone(&over), Arc::clone(&count), Arc::clone(&from.netns));
        let mut old = Conversation::begin(&netns, to)?;
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                old.says("still there").context("a connection that stood")?;
                Conversation::begin(&netns, to)?.says("new").context("a new connection")?;
                counts.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        });
        Ok(Self { over, count, thread })
    }

    /// How often it has connected.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until it has connected some more times.
    pub(crate) fn goes_on(&self, before: usize) -> Result<()> {
        const MORE: usize = 20;
        let has = || if self.count() >= before + MORE { Ok(()) } else { Err(format!("{} after {before}", self.count())) };
        Ok(wait_until("connections go on", Duration::from_secs(10), has)?)
    }

    pub(crate) fn end(self) -> Result<usize> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        Ok(self.count.load(Ordering::Relaxed))
    }
}
