//! Probes and who answers them. An answer names the endpoint and the client's address as the endpoint has seen it.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use conformance_tests::netns::Netns;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::site::{From, PORTS, Site};

/// No answer within this is none: nothing is farther than a veth.
const SILENCE: Duration = Duration::from_millis(900);
/// At once, from one place.
const AT_ONCE: usize = 128;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Probe {
    pub(crate) from: From,
    pub(crate) to: SocketAddr,
    pub(crate) is_udp: bool,
    /// Clients stay with an endpoint.
    pub(crate) stays: bool,
    /// What it is about, for people.
    pub(crate) about: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Answer { endpoint: SocketAddr, client: IpAddr },
    Refused,
    Failed(String),
    Silence,
}

/// What one place's servers are.
pub(crate) struct Servers {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

impl Servers {
    /// Answers on these addresses.
    pub(crate) fn start(netns: &Netns, addresses: Vec<IpAddr>) -> Result<Self> {
        let (end, ended) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel::<Result<()>>();
        let place = Netns::open(netns.path().to_owned())?;
        let thread = std::thread::spawn(move || {
            let serve = || -> Result<()> {
                let _inside = place.enter()?;
                runtime()?.block_on(async {
                    let mut tasks = JoinSet::new();
                    for at in addresses.iter().flat_map(|address| PORTS.map(|port| SocketAddr::new(*address, port))) {
                        let (streams, datagrams) = (TcpListener::bind(at).await?, UdpSocket::bind(at).await?);
                        tasks.spawn(async move {
                            while let Ok((mut stream, client)) = streams.accept().await {
                                // Whoever has gone has no use for an answer.
                                drop(stream.write_all(format!("{at} {}", client.ip()).as_bytes()).await);
                            }
                        });
                        tasks.spawn(async move {
                            let mut buffer = [0; 16];
                            loop {
                                // An error tells of an earlier answer that did not arrive.
                                if let Ok((_, client)) = datagrams.recv_from(&mut buffer).await {
                                    drop(datagrams.send_to(format!("{at} {}", client.ip()).as_bytes(), client).await);
                                }
                            }
                        });
                    }
                    drop(ready.send(Ok(())));
                    drop(ended.await);
                    Ok(())
                })
            };
            if let Err(error) = serve() {
                drop(ready.send(Err(error)));
            }
        });
        is_ready.recv().map_err(|_| anyhow!("servers did not start"))??;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.end.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Asks all at a site, a thread a place; answers in the order of the probes.
pub(crate) fn ask(site: &Site, probes: &[&Probe]) -> Result<Vec<Outcome>> {
    let mut outcomes = vec![Outcome::Silence; probes.len()];
    let places: BTreeSet<From> = probes.iter().map(|probe| probe.from).collect();
    std::thread::scope(|scope| -> Result<()> {
        let asked: Vec<_> = places
            .into_iter()
            .map(|from| {
                scope.spawn(move || -> Result<Vec<(usize, Outcome)>> {
                    let (netns, _) = site.place(from, true);
                    let _inside = netns.enter()?;
                    let mine: Vec<_> = probes.iter().enumerate().filter(|(_, probe)| probe.from == from).collect();
                    runtime()?.block_on(async {
                        let mut found = Vec::new();
                        for some in mine.chunks(AT_ONCE) {
                            let mut tasks = JoinSet::new();
                            for (number, probe) in some {
                                let (number, to, is_udp) = (*number, probe.to, probe.is_udp);
                                let (_, source) = site.place(from, to.is_ipv4());
                                tasks.spawn(async move { (number, one(source, to, is_udp).await) });
                            }
                            while let Some(outcome) = tasks.join_next().await {
                                found.push(outcome?);
                            }
                        }
                        Ok(found)
                    })
                })
            })
            .collect();
        for thread in asked {
            for (number, outcome) in thread.join().map_err(|_| anyhow!("a thread of probes panicked"))?? {
                outcomes[number] = outcome;
            }
        }
        Ok(())
    })?;
    Ok(outcomes)
}

async fn one(source: Option<IpAddr>, to: SocketAddr, is_udp: bool) -> Outcome {
    let asked = async { if is_udp { datagram(source, to).await } else { stream(source, to).await } };
    match tokio::time::timeout(SILENCE, asked).await {
        Err(_) => Outcome::Silence,
        Ok(Ok(answer)) => parse(&answer).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}: {answer:?}"))),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Outcome::Refused,
        Ok(Err(error)) => Outcome::Failed(error.kind().to_string()),
    }
}

async fn stream(source: Option<IpAddr>, to: SocketAddr) -> std::io::Result<String> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let mut answer = String::new();
    socket.connect(to).await?.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn datagram(source: Option<IpAddr>, to: SocketAddr) -> std::io::Result<String> {
    let any = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0u16; 8]) };
    let socket = UdpSocket::bind(SocketAddr::new(source.unwrap_or(any), 0)).await?;
    socket.connect(to).await?;
    socket.send(b"who").await?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer).await?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn parse(answer: &str) -> Result<Outcome> {
    let (endpoint, client) = answer.split_once(' ').context("no answer of ours")?;
    Ok(Outcome::Answer { endpoint: endpoint.parse()?, client: client.parse()? })
}
