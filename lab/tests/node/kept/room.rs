//! A room for other people's services beside a node: in its network namespace, with files and processes of their own. They are Debian's, as
//! people run them, and are restarted and reloaded by the commands that people use.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::command::{self, wait_until};
use lab::host::{Host, Pod, Settings};
use lab::world;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Kept, keep};
use crate::{on_host, ping};

const SCRIPT: &str = include_str!("room.sh");
/// They take less than a second on an idle machine.
const STARTED: Duration = Duration::from_secs(30);
const COMMAND: Duration = Duration::from_secs(60);
/// Who is asked for something by a name finds the bus here.
const BUS: &str = "dbus-daemon --session --nofork --nopidfile --nosyslog --address=unix:path=/run/dbus/system_bus_socket";

/// The room. Dropping it ends all that runs in it.
pub(super) struct Room<'a> {
    host: &'a Host,
    holder: Child,
    /// Process 1 of it.
    init: i32,
    bus: Option<Service>,
    /// What the uplink leads to.
    peer: Pod,
}

impl<'a> Room<'a> {
    fn open(host: &'a Host) -> Result<Self> {
        let (package, folder) = (world::unpacked("firewalld")?.join("package"), host.path("room"));
        fs::create_dir(&folder)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", SCRIPT, "room"]);
        let spawned = {
            let _inside = host.netns().enter()?;
            command.arg(folder).arg(package).stdin(Stdio::null()).stdout(Stdio::null()).spawn()
        };
        let holder = spawned.context("execute setpriv and unshare (util-linux)")?;
        let mut room = Self { host, holder, init: 0, bus: None, peer: peer(host)? };
        let id = room.holder.id();
        room.init = wait_until("the first process of a room", STARTED, || child_of(id).ok_or_else(|| "there is none".to_owned()))?;
        room.waits_for("a room", "test -d /run/room")?;
        room.bus = Some(room.start("dbus", BUS)?);
        room.waits_for("a bus", "test -S /run/dbus/system_bus_socket")?;
        Ok(room)
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.init.to_string();
        command.args(["--target", &target, "--mount", "--pid", "--net", "--root", "--wd=/", "--"]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command
    }

    /// Executes a line of words, which must succeed; what it printed.
    pub(super) fn run(&self, line: &str) -> Result<String> {
        Ok(command::run(self.enter().args(line.split_whitespace()), COMMAND)?.success()?)
    }

    /// Executes it until it succeeds.
    pub(super) fn waits_for(&self, what: &str, line: &str) -> Result<()> {
        Ok(wait_until(what, STARTED, || self.run(line).map(drop).map_err(|error| format!("{error:#}")))?)
    }

    /// Starts a program that goes on.
    pub(super) fn start(&self, name: &str, line: &str) -> Result<Service> {
        let log = self.host.path(&format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = self.enter();
        command.args(line.split_whitespace()).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Service { entered: RefCell::new(command.spawn().context("execute nsenter (util-linux)")?), log })
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        // The kernel ends the room's processes with its first, and that one with this. Both fail only where it has ended by itself.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A service in a room.
pub(super) struct Service {
    /// The program that has entered the room; its child is the service.
    entered: RefCell<Child>,
    log: PathBuf,
}

impl Service {
    /// Ends it as an init does, and waits until it is gone.
    pub(super) fn stop(self) -> Result<()> {
        let service = child_of(self.entered.borrow().id()).with_context(|| format!("it has ended: {}", self.said()))?;
        kill(Pid::from_raw(service), Signal::SIGTERM)?;
        wait_until("the end of a service", STARTED, || match self.entered.borrow_mut().try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}; {}", self.said())),
        })?;
        Ok(())
    }

    /// What it has said at last.
    pub(super) fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let entered = self.entered.get_mut();
        // These fail only where it has ended by itself.
        if let Some(service) = child_of(entered.id()) {
            let _ = kill(Pid::from_raw(service), Signal::SIGKILL);
        }
        let _ = entered.wait();
    }
}

/// The only child of a process.
fn child_of(process: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Has the uplink lead to somebody.
fn peer(host: &Host) -> Result<Pod> {
    let peer = host.pod()?;
    host.ip(&format!("link set fabric0 netns {}\n", peer.netns.path().display()))?;
    for line in [
        "ip link set fabric0 up",
        "ip address add 10.0.0.1/24 dev fabric0",
        "ip address add fd00:10::1/64 dev fabric0 nodad",
        "ip route add 10.0.1.0/24 via 10.0.0.10",
        "ip route add fd00:10:0:1::/80 via fd00:10::10",
    ] {
        peer.run(line)?;
    }
    Ok(peer)
}

/// Runs a test on a node beside services: those that `prepare` starts are there before the daemon.
pub(super) fn beside<T>(
    settings: Settings,
    prepare: impl FnOnce(&Room<'_>) -> Result<T>,
    test: impl FnOnce(&Kept<'_>, &Room<'_>, T) -> Result<()>,
) -> Result<()> {
    on_host(settings, |host| {
        let room = Room::open(host)?;
        let prepared = prepare(&room)?;
        keep(host, "", |kept| test(kept, &room, prepared))
    })
}

/// Conversations that begin now: between pods, and between a pod and who is beyond the uplink, either way.
pub(super) fn begins_anew(kept: &Kept<'_>, room: &Room<'_>) -> Result<()> {
    for (own, beyond) in kept.addresses.iter().zip(["10.0.0.1", "fd00:10::1"]) {
        ping(|line| kept.pods[1].run(line), own, "").context("from another pod")?;
        ping(|line| kept.pods[0].run(line), beyond, "").context("to the network")?;
        ping(|line| room.peer.run(line), own, "").context("from the network")?;
    }
    Ok(())
}

/// That none of these passes.
pub(super) fn none_begins(kept: &Kept<'_>, room: &Room<'_>, ipv4: bool) -> Result<()> {
    let at = usize::from(!ipv4);
    let (own, beyond) = (&kept.addresses[at], ["10.0.0.1", "fd00:10::1"][at]);
    for (pod, to) in [(&kept.pods[1], own.as_str()), (&kept.pods[0], beyond), (&room.peer, own)] {
        let answered = pod.run(&format!("ping -n -c 1 -W 1 {to}"));
        ensure!(answered.is_err(), "{to} is reached: {answered:?}");
    }
    Ok(())
}

/// What iptables' FORWARD chains say of one kind of rules, counters left out.
fn iptables(kept: &Kept<'_>, is_meant: impl Fn(&str) -> bool) -> Result<String> {
    let saved = ["iptables-save", "ip6tables-save"].map(|program| kept.run(program));
    let saved = saved.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let lines = saved.lines().filter(|line| !line.starts_with('#') && is_meant(line));
    Ok(lines.map(|line| line.split(" [").next().unwrap_or(line).to_owned() + "\n").collect())
}

const OUR_COMMENT: &str = "barewire: ";

/// Rules of ours, in tables of ours and of others.
pub(super) fn ours(kept: &Kept<'_>) -> Result<String> {
    Ok(kept.run("nft -s list table inet barewire")? + &iptables(kept, |line| line.contains(OUR_COMMENT))?)
}

/// Rules of others.
pub(super) fn others(kept: &Kept<'_>) -> Result<String> {
    let mut told = iptables(kept, |line| !line.contains(OUR_COMMENT))?;
    for table in kept.run("nft list tables inet")?.lines().filter(|table| !table.contains("barewire")) {
        told += &kept.run(&format!("nft -s list {table}"))?;
    }
    Ok(told)
}
