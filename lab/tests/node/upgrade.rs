//! A node is upgraded from an earlier version with its pods running, and rolled back: no connection breaks, no count is lost in silence, and
//! no pod is left on the slow path.
//!
//! The earlier version is built from this project's history: see `xtask/src/earlier.rs`.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use conformance_tests::netns::Netns;
use lab::command::wait_until;
use lab::host::{Daemon, Host, Pod, Settings};

use crate::{addresses, binaries};

const PROGRAMS: [&str; 4] = ["barewired", "barewire-cni", "barewire-ebpf.o", "barewire"];
const IDLE: usize = 200;
/// Of the flow that goes on all the time.
const SECONDS: u64 = 30;
/// In seconds: what a machine with other work makes of a flow by itself, and less than a path that is lost.
const PAUSE_MAX: u64 = 3;
/// What was translated or tracked is learned again within ten seconds.
const FAST_AGAIN: Duration = Duration::from_secs(25);
const SOON: Duration = Duration::from_secs(10);

/// The binaries of v0.1.0; `None`, with the reason printed, where there are none.
fn earlier() -> Option<PathBuf> {
    if let Some(directory) = env::var_os("BAREWIRE_V0_1_0_BIN_DIR") {
        return Some(directory.into());
    }
    // A source without its history cannot have them, whatever is required.
    let missing = env::var("BAREWIRE_V0_1_0_MISSING");
    let reason = missing.as_deref().unwrap_or("needs the binaries of v0.1.0: run `cargo xtask test --tier node`");
    assert!(missing.is_ok() || env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "required, but {reason}");
    println!("SKIP {reason}");
    None
}

/// Puts programs where the node has them, as a package does: by renaming.
fn install(node: &Path, from: &Path) -> Result<()> {
    for name in PROGRAMS {
        let (draft, file) = (node.join("draft"), node.join(name));
        if from.join(name).exists() {
            symlink(from.join(name), &draft)?;
            fs::rename(&draft, &file).with_context(|| format!("install {name}"))?;
        }
    }
    Ok(())
}

/// Connections that say nothing until they are asked.
struct Idle(Vec<(TcpStream, TcpStream)>);

impl Idle {
    fn open(client: &Netns, server: &Netns, address: SocketAddr) -> Result<Self> {
        let listener = {
            let _inside = server.enter()?;
            TcpListener::bind(address).with_context(|| format!("listen at {address}"))?
        };
        let _inside = client.enter()?;
        let pair = |_| {
            let ours = TcpStream::connect_timeout(&address, SOON).with_context(|| format!("connect to {address}"))?;
            let (theirs, _) = listener.accept()?;
            for stream in [&ours, &theirs] {
                stream.set_read_timeout(Some(SOON))?;
            }
            Ok((ours, theirs))
        };
        (0..IDLE).map(pair).collect::<Result<Vec<_>>>().map(Self)
    }

    /// Each carries a byte, there and back.
    fn all_live(&mut self) -> Result<()> {
        for (at, (ours, theirs)) in self.0.iter_mut().enumerate() {
            let mut byte = [0];
            let turn =
                |from: &mut TcpStream, to: &mut TcpStream, byte: &mut [u8; 1]| from.write_all(&[7]).and_then(|()| to.read_exact(byte));
            turn(ours, theirs, &mut byte).and_then(|()| turn(theirs, ours, &mut byte)).with_context(|| format!("connection {at}"))?;
        }
        Ok(())
    }
}

/// How many packets the node's stack has forwarded: those that the programs carry are not among them.
fn forwarded(host: &Host) -> Result<u64> {
    let text = host.run(&["cat", "/proc/net/snmp"])?;
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let at = names.split(' ').position(|name| name == "ForwDatagrams").context("no ForwDatagrams")?;
    Ok(values.split(' ').nth(at).context("no value")?.parse()?)
}

/// Packets between the pods do not take the node's stack.
fn wait_until_fast(host: &Host, idle: &mut Idle) -> Result<()> {
    Ok(wait_until("the pods' packets to take the fast path", FAST_AGAIN, || {
        let mut measure = || {
            let before = forwarded(host)?;
            idle.all_live()?;
            Ok::<_, anyhow::Error>(forwarded(host)? - before)
        };
        // Each connection sends four packets and more; a few belong to others.
        match measure() {
            Ok(few) if few < IDLE as u64 / 2 => Ok(()),
            Ok(many) => Err(format!("{many} packets of {IDLE} connections took the stack")),
            Err(error) => Err(format!("{error:#}")),
        }
    })?)
}

/// Packets of the pods in the namespace `jobs`, those that have ended included, as the daemon counts them.
fn counted(daemon: &Daemon<'_>) -> Result<f64> {
    let page = daemon.get("/metrics")?;
    let is_ours = |line: &&str| line.starts_with("barewire_namespace_packets_total{") && line.contains("namespace=\"jobs\"");
    let values: Vec<f64> = page.lines().filter(is_ours).filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
    ensure!(!values.is_empty(), "nothing is counted for the namespace: {page}");
    Ok(values.iter().sum())
}

/// A flow that goes on all the time.
struct Flow {
    server: Child,
    client: Child,
}

impl Flow {
    fn begin(client: &Pod, server: &Pod, address: &str) -> Result<Self> {
        let start = |pod: &Pod, words: &[&str], output: Stdio| {
            let _inside = pod.netns.enter()?;
            Command::new("iperf3").args(words).stdin(Stdio::null()).stdout(output).stderr(Stdio::null()).spawn().context("iperf3")
        };
        let serving = start(server, &["--server", "--one-off", "--bind", address], Stdio::null())?;
        wait_until("iperf3 to listen", SOON, || {
            let listening = server.run("ss -Hltn sport = :5201").map_err(|error| format!("{error:#}"))?;
            if listening.is_empty() { Err("it does not yet".to_owned()) } else { Ok(()) }
        })?;
        let seconds = SECONDS.to_string();
        // At a rate that leaves the machine to the other tests.
        let client = start(client, &["--client", address, "--time", &seconds, "--bitrate", "20M", "--json"], Stdio::piped())?;
        Ok(Self { server: serving, client })
    }

    /// Waits for its end, and tells the longest time in which nothing of it arrived.
    fn end(mut self) -> Result<u64> {
        let mut report = String::new();
        self.client.stdout.take().context("its output")?.read_to_string(&mut report)?;
        ensure!(self.client.wait()?.success(), "iperf3: {report}");
        let report: serde_json::Value = serde_json::from_str(&report)?;
        let (mut silent, mut longest) = (0, 0);
        for interval in report["intervals"].as_array().context("no intervals")? {
            silent = if interval["sum"]["bytes"].as_u64() == Some(0) { silent + 1 } else { 0 };
            longest = longest.max(silent);
        }
        Ok(longest)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        for child in [&mut self.client, &mut self.server] {
            // Both fail where it has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn an_upgrade_and_a_rollback_with_pods_that_talk() -> Result<()> {
    let (Some(now), Some(then)) = (binaries(), earlier()) else { return Ok(()) };
    let node = tempfile::tempdir()?;
    install(node.path(), &now)?;
    install(node.path(), &then)?;
    let host = Host::with_uplink(node.path(), Settings::default().with_fast_path(true))?;
    let mut daemon = host.start().context("v0.1.0")?;
    let add = |pod: &Pod| host.call_for("ADD", pod).with("CNI_ARGS", "K8S_POD_NAMESPACE=jobs;K8S_POD_NAME=long").run()?.result();
    let (client, server) = (host.pod()?, host.pod()?);
    add(&client)?;
    let serving = addresses(&add(&server)?);
    let mut idle = serving
        .iter()
        .map(|address| Idle::open(&client.netns, &server.netns, SocketAddr::new(address.parse()?, 7000)))
        .collect::<Result<Vec<_>>>()?;
    idle.iter_mut().try_for_each(|idle| wait_until_fast(&host, idle)).context("at first")?;
    let flow = Flow::begin(&client, &server, &serving[0])?;

    for (to, from) in [("the upgrade", &now), ("the rollback", &then)] {
        let (before, told_before) = (counted(&daemon)?, daemon.log().len());
        daemon.stop().with_context(|| to.to_owned())?;
        install(node.path(), from)?;
        let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64().floor();
        daemon = host.start().with_context(|| to.to_owned())?;
        idle.iter_mut().try_for_each(Idle::all_live).with_context(|| format!("after {to}"))?;
        idle.iter_mut().try_for_each(|idle| wait_until_fast(&host, idle)).with_context(|| format!("after {to}"))?;
        let after = counted(&daemon)?;
        let said = daemon.log().split_off(told_before).contains("counters begin anew");
        ensure!(said || after >= before, "{before} packets were counted before {to}, {after} after it, and nobody said so");
        if from == &now {
            let since = daemon.metric("barewire_traffic_counted_since_timestamp_seconds")?;
            ensure!(said == (since >= begun), "it counts since {since}, and the upgrade began at {begun}");
        }
        println!("{to}: {before} packets before, {after} after; counters {}", if said { "began anew" } else { "went on" });
        // Whoever comes and goes does so as ever.
        let pod = host.pod()?;
        add(&pod).with_context(|| format!("after {to}"))?;
        host.call_for("CHECK", &client).run()?;
        host.call_for("DEL", &pod).run()?.silence()?;
    }
    let silent = flow.end()?;
    ensure!(silent <= PAUSE_MAX, "nothing of the flow arrived for {silent} s");
    idle.iter_mut().try_for_each(Idle::all_live)?;
    for pod in [&client, &server] {
        host.call_for("DEL", pod).run()?.silence()?;
    }
    host.wait_for_host_ends(0)?;
    daemon.stop()
}
