//! Whatever of ours somebody removes or alters is back within ten seconds, or a condition says why not and what to do. Nothing foreign is
//! touched, and what pods send meanwhile is lost by the alteration alone, where at all: never by the repair.

mod crash_points;
mod docker;
mod files;
mod firewalld;
mod hooks;
mod host_ends;
mod idle;
mod room;
mod routes;
mod rules;
mod services;
mod sysctls;
mod uplinks;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use lab::host::{Daemon, Host, Pod, Settings, Start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{NODE, addresses, on_host};

/// The promise.
const BACK: Duration = Duration::from_secs(10);
/// Echo requests that may be answered and not be told of yet.
const ON_THEIR_WAY: u64 = 2;
/// The rules that the kernel keeps of others.
const FOREIGN: [&str; 6] = [
    "nft add table inet foreign",
    "nft add chain inet foreign forward { type filter hook forward priority 10 ; }",
    "nft add rule inet foreign forward ip saddr 192.0.2.7 counter accept",
    "ip rule add pref 179 from 192.0.2.0/24 lookup 100",
    "ip route add 198.51.100.0/24 dev lo table 100",
    "ip route add unreachable 203.0.113.0/24",
];

/// Whether an alteration cuts a pod off until it is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cuts {
    Nothing,
    Pods,
    /// And once more for some milliseconds when it is undone, of which the kernel leaves no choice.
    AndAgain,
}

/// A node with two pods that talk to each other and to the node all the time.
struct Kept<'a> {
    host: &'a Host,
    daemon: &'a Daemon<'a>,
    pods: [Pod; 2],
    /// Of the first pod.
    addresses: Vec<String>,
    /// Its host end.
    host_end: String,
}

/// Runs a test on a node of its own, `keys` being more of its configuration.
fn on_kept_node(settings: Settings, keys: &str, prepare: &str, test: impl FnOnce(&Kept<'_>) -> Result<()>) -> Result<()> {
    on_host(settings, |host| {
        host.ip(prepare)?;
        keep(host, keys, test)
    })
}

/// Runs a test on a node that is prepared.
fn keep(host: &Host, keys: &str, test: impl FnOnce(&Kept<'_>) -> Result<()>) -> Result<()> {
    for line in FOREIGN {
        host.run(&line.split(' ').collect::<Vec<_>>())?;
    }
    let daemon = host.spawn_with(Start { keys, ..Start::default() })?;
    daemon.wait_until_ready()?;
    let ((first, result), (second, _)) = (host.attached()?, host.attached()?);
    let host_end = result["interfaces"][0]["name"].as_str().context("a host end")?.to_owned();
    // The pods' IPv6 gateway comes a moment after the ADD.
    daemon.wait_until("the pods' gateways", || {
        let told = host.run(&["ip", "-6", "-o", "address", "show", "to", "fe80::1"])?;
        ensure!(result["ips"].as_array().is_none_or(|ips| ips.len() == 1) || told.lines().count() == 2, "{told}");
        Ok(())
    })?;
    let kept = Kept { host, daemon: &daemon, pods: [first, second], addresses: addresses(&result), host_end };
    test(&kept).with_context(|| daemon.end_of_log())?;
    ensure!(daemon.conditions()?.is_empty(), "{:?}", daemon.conditions()?);
    daemon.stop()
}

/// The same, plainly.
fn kept(test: impl FnOnce(&Kept<'_>) -> Result<()>) -> Result<()> {
    on_kept_node(Settings::default(), "", "", test)
}

impl Kept<'_> {
    /// A line of words in the node.
    fn run(&self, line: &str) -> Result<String> {
        self.host.run(&line.split_whitespace().collect::<Vec<_>>()).with_context(|| line.to_owned())
    }

    /// A file of the node's, as the node's processes see it: `/proc/sys/net` is a namespace's.
    fn sysctl(&self, name: &str) -> Result<String> {
        Ok(self.run(&format!("sysctl -n {name}"))?.trim().to_owned())
    }

    /// What the kernel has of others.
    fn foreign(&self) -> Result<String> {
        let tables = self.run("nft list tables")?;
        let table = if tables.contains("inet foreign") { self.run("nft -s list table inet foreign")? } else { String::new() };
        let rules = self.run("ip rule show pref 179")?;
        let rules: Vec<_> = rules.lines().filter(|rule| rule.contains("192.0.2.0/24")).collect();
        Ok([table, rules.join("\n"), self.run("ip route show table 100")?, self.run("ip route show 203.0.113.0/24")?].join("\n"))
    }

    /// How often each kind of thing was repaired.
    fn repairs(&self) -> Result<BTreeMap<String, u64>> {
        let page = self.daemon.get("/metrics")?;
        let of = |line: &str| {
            let (kind, count) = line.strip_prefix("barewire_repairs_total{kind=\"")?.split_once("\"} ")?;
            Some((kind.to_owned(), count.parse().ok()?))
        };
        let repairs: BTreeMap<_, _> = page.lines().filter_map(of).collect();
        ensure!(!repairs.is_empty(), "no repairs are counted: {page}");
        Ok(repairs)
    }

    /// A pod speaks to the node, and another to it, by each of its addresses.
    fn conversations(&self) -> Result<Vec<Stream>> {
        let mut streams = Vec::new();
        for (own, node) in self.addresses.iter().zip(NODE) {
            streams.push(Stream::start(self.host, &self.pods[0], node)?);
            streams.push(Stream::start(self.host, &self.pods[1], own)?);
        }
        streams.iter().try_for_each(Stream::runs)?;
        Ok(streams)
    }

    /// Alters something and waits until it is as it was: `state` tells how that is, and must tell the same again in time.
    fn comes_back(
        &self,
        what: &str,
        cuts: Cuts,
        repaired: &[&str],
        alter: impl FnOnce() -> Result<()>,
        state: impl Fn() -> Result<String>,
    ) -> Result<()> {
        let before = state()?;
        ensure!(!before.trim().is_empty(), "{what}: there is nothing to alter");
        self.is_followed(what, cuts, repaired, alter, || {
            let now = state()?;
            ensure!(now == before, "{now}\nis not\n{before}");
            Ok(())
        })
    }

    /// Alters something and waits until `holds`, in time. Repairs of the kinds `repaired` are counted, each once at least, and no others.
    fn is_followed(
        &self,
        what: &str,
        cuts: Cuts,
        repaired: &[&str],
        alter: impl FnOnce() -> Result<()>,
        holds: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let counted = self.repairs()?;
        let streams = self.conversations()?;
        alter().context("alter")?;
        let altered = streams.iter().map(Stream::last).collect::<Result<Vec<_>>>()?;
        let (begun, foreign) = (Instant::now(), self.foreign()?);
        wait_until(what, BACK, || holds().map_err(|error| format!("{error:#}"))).with_context(|| self.daemon.end_of_log())?;
        println!("{what}: after {:?}", begun.elapsed());
        let repaired: BTreeSet<_> = repaired.iter().map(|kind| (*kind).to_owned()).collect();
        self.daemon.wait_until("the repairs to be counted", || {
            let mut now = self.repairs()?;
            now.retain(|kind, count| counted.get(kind).is_none_or(|before| before < count));
            // Pods' links forward with the host, and whoever looks first has it so again.
            let told: BTreeSet<_> = now.into_keys().filter(|kind| kind != "pod_link" || !repaired.contains("sysctl")).collect();
            ensure!(told == repaired, "{what}: repairs of {repaired:?} were to be counted, and {told:?} were");
            Ok(())
        })?;
        for (stream, altered) in streams.into_iter().zip(altered) {
            stream.end(cuts, altered).with_context(|| what.to_owned())?;
        }
        let now = self.foreign()?;
        ensure!(now == foreign, "{what}: of others there was\n{foreign}\nand is\n{now}");
        Ok(())
    }
}

/// Echo requests of a pod, twenty a second.
struct Stream {
    to: String,
    ping: Child,
    told: PathBuf,
}

impl Stream {
    fn start(host: &Host, from: &Pod, to: &str) -> Result<Self> {
        let told = host.path(&format!("stream-{}-{to}", from.id));
        let out = File::create(&told)?;
        let _inside = from.netns.enter()?;
        let ping = Command::new("ping").args(["-n", "-i", "0.05", to]).stdin(Stdio::null()).stdout(out).spawn().context("execute ping")?;
        Ok(Self { to: to.to_owned(), ping, told })
    }

    fn answered(&self) -> Result<Vec<u64>> {
        let text = fs::read_to_string(&self.told)?;
        let number = |line: &str| line.split_once("icmp_seq=")?.1.split_whitespace().next()?.parse().ok();
        Ok(text.lines().filter(|line| line.contains(" bytes from ")).filter_map(number).collect())
    }

    /// Waits until some more were answered.
    fn runs(&self) -> Result<()> {
        let before = self.answered()?.len();
        Ok(wait_until(&format!("answers of {}", self.to), BACK, || match self.answered() {
            Ok(now) if now.len() > before + 3 => Ok(()),
            now => Err(format!("{now:?}")),
        })?)
    }

    /// The last that was answered.
    fn last(&self) -> Result<u64> {
        Ok(self.answered()?.into_iter().max().unwrap_or_default())
    }

    /// Ends it a moment later. Of what was sent all is answered, but for one gap where the alteration cuts. That has steps (`ip route flush`
    /// goes in rounds until nothing is left), and what is repaired between two of them is cut again: `altered`, the last that was answered
    /// when the alteration was done, tells which gaps are all one.
    fn end(mut self, cuts: Cuts, altered: u64) -> Result<()> {
        self.runs()?;
        kill(Pid::from_raw(i32::try_from(self.ping.id())?), Signal::SIGINT)?;
        self.ping.wait()?;
        let answered = self.answered()?;
        let gaps: Vec<_> = answered.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
        let during = gaps.iter().filter(|pair| pair[0] <= altered + ON_THEIR_WAY).count();
        let count = during.min(1) + gaps.len() - during;
        let most = match cuts {
            Cuts::Nothing => 0,
            Cuts::Pods => 1,
            Cuts::AndAgain => 2,
        };
        ensure!(answered.first() == Some(&1) && count <= most, "{}: lost between {gaps:?}; altered by {altered}", self.to);
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.ping.kill();
        let _ = self.ping.wait();
    }
}
