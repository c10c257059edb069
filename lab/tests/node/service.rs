//! `barewire install` on a machine whose init is a real systemd: the unit with its sandbox, its capabilities and its watchdog, a restart of
//! systemd-networkd, and `barewire uninstall`, after which nothing is left.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use conformance_tests::rundir::RunDir;
use lab::command::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// In memory, as hosts' directories are.
const BASE: &str = "/dev/shm/barewire-machine";
/// An event of level INFO.
const READY_EVENT: &str = "node ready";
/// systemd starts in about a second here.
const BOOT: Duration = Duration::from_secs(30);
const SCRIPT: &str = include_str!("machine.sh");
const CONFIGURATION: &str = "\
[network]
native_cidrs = [\"10.0.0.0/16\"]
[source]
kind = \"fixed\"
ranges = [\"10.0.1.0/24\"]
";
/// An uplink, as a configuration of networkd: a restart of it is to find its own.
const UPLINK: &str = "\
set -e
mkdir -p /etc/systemd/network
printf '[Match]\\nName=eth1\\n[Network]\\nAddress=10.0.0.10/24\\nGateway=10.0.0.1\\nLinkLocalAddressing=no\\n[Link]\\nRequiredForOnline=no\\n' \
    >/etc/systemd/network/50-uplink.network
ip link set lo up
ip link add eth1 mtu 9001 type veth peer name fabric0 mtu 9001
ip link set fabric0 up
ip link set eth1 up
systemctl start systemd-networkd
";
/// What a node has that an installation must leave as it was; without link-local addresses, which come a while after their links.
const STATE: &str = "\
ip rule; ip -6 rule; ip route show table all | grep -v fe80; nft list ruleset; ip -o link | cut -d: -f2
find /etc /opt /usr/bin /usr/lib/barewire /sys/fs/bpf -newer /run/barewire-marker ! -type d 2>/dev/null
true";

/// The machine. It ends when this is dropped.
struct Machine {
    script: Child,
    init: i32,
    _folder: RunDir,
}

impl Machine {
    fn boot(programs: &Path) -> Result<Self> {
        let folder = RunDir::create(BASE.as_ref())?;
        let (script, root) = (folder.path().join("machine.sh"), folder.path().join("machine"));
        fs::write(&script, SCRIPT)?;
        fs::create_dir(&root)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--", "sh"]).arg(&script).arg(&root).arg(programs);
        let mut script = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("execute setpriv (util-linux)")?;
        let init = wait_until("a machine with systemd", BOOT, || {
            if let Ok(Some(status)) = script.try_wait() {
                return Err(format!("it ended with {status}"));
            }
            let init = descendant(script.id(), 3).ok_or("no init yet")?;
            let outcome = Command::new("nsenter").args(enter(init)).args(["systemctl", "is-system-running"]).output();
            let said = outcome.map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
            if ["running", "degraded"].contains(&said.as_str()) { Ok(init) } else { Err(said) }
        })?;
        Ok(Self { script, init, _folder: folder })
    }

    fn output(&self, line: &str) -> Result<Output> {
        let mut command = Command::new("nsenter");
        command.current_dir("/").args(enter(self.init)).args(["timeout", "--kill-after=5", "60", "sh", "-c", line]);
        command.output().context("execute nsenter (util-linux)")
    }

    /// Executes a line of shell, which must succeed.
    fn run(&self, line: &str) -> Result<String> {
        let Output { status, stdout, stderr } = self.output(line)?;
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        if !status.success() {
            let journal = self.output("journalctl --no-pager --lines 20 --output cat; systemctl status --no-pager barewired")?.stdout;
            bail!("{line}: {status}: {out}{err}\n{}", String::from_utf8_lossy(&journal));
        }
        Ok(out.into_owned())
    }

    fn plugin(&self, verb: &str) -> Result<String> {
        self.run(&format!(
            "echo '{{\"cniVersion\":\"1.0.0\",\"name\":\"barewire\",\"type\":\"barewire-cni\"}}' | CNI_COMMAND={verb} CNI_CONTAINERID=pod \
             CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/barewire-cni"
        ))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The kernel ends all of its namespace with it; the script takes away the cgroup, then ends.
        let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
        let _ = self.script.wait();
    }
}

/// Arguments of nsenter; the folder last, so that it is the machine's.
fn enter(init: i32) -> Vec<String> {
    let target = init.to_string();
    ["--target", &target, "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--root", "--wd=/", "--"].map(str::to_owned).into()
}

/// The only child of the only child, and so on.
fn descendant(of: u32, generations: usize) -> Option<i32> {
    let mut found = i32::try_from(of).ok()?;
    for _ in 1..generations {
        let children = fs::read_to_string(format!("/proc/{found}/task/{found}/children")).ok()?;
        found = children.split_whitespace().next()?.parse().ok()?;
    }
    Some(found)
}

#[test]
fn a_service_serves_pods_with_exactly_its_rights_and_leaves_nothing() -> Result<()> {
    let Some(programs) = crate::binaries() else { return Ok(()) };
    let machine = Machine::boot(&programs)?;
    machine.run(UPLINK)?;
    wait_until("an address of the uplink", BOOT, || {
        machine.run("ip -4 route show default | grep -q 10.0.0.1").map_err(|error| format!("{error:#}"))
    })?;
    machine.run("touch /run/barewire-marker")?;
    let before = machine.run(STATE)?;
    machine.run(&format!("printf '%s' '{CONFIGURATION}' >/run/node.toml"))?;

    // Another network's list: nothing is done.
    machine.run("mkdir -p /etc/cni/net.d && echo '{}' >/etc/cni/net.d/10-other.conflist")?;
    let install = "/run/barewire-bin/barewire install --config /run/node.toml --wait 30s";
    let refused = machine.output(install)?;
    let words = String::from_utf8_lossy(&refused.stdout).into_owned();
    ensure!(refused.status.code() == Some(1) && words.contains("10-other.conflist is another network's"), "{words}");
    ensure!(machine.run(STATE)? == before.clone() + "/etc/cni/net.d/10-other.conflist\n");
    machine.run("rm -r /etc/cni")?;

    machine.run(install)?;
    ensure!(machine.run(install)? == "nothing to do\n", "a second run changes nothing");
    machine.run("test -e /etc/cni/net.d/00-barewire.conflist")?;
    let properties = machine.run("systemctl show barewired -p ActiveState -p StatusText -p WatchdogUSec -p MainPID")?;
    for part in ["ActiveState=active", "StatusText=pods are served", "WatchdogUSec=1min"] {
        ensure!(properties.contains(part), "no {part} in {properties}");
    }
    // Lines have priorities: an event of level INFO is there, and is no warning.
    let journal = |priority: &str| machine.run(&format!("journalctl -u barewired --no-pager --output cat --priority {priority}"));
    ensure!(journal("info")?.contains(READY_EVENT) && !journal("warning")?.contains(READY_EVENT), "{}", journal("info")?);

    // NET_ADMIN and SYS_ADMIN are numbers 12 and 21, and no others.
    let capabilities = machine.run("grep CapBnd /proc/$(systemctl show barewired -p MainPID --value)/status")?;
    ensure!(capabilities.trim() == "CapBnd:\t0000000000201000", "{capabilities}");

    // Exposure 4.0 of 10 at most, in tenths.
    machine.run("systemd-analyze security --offline=true --no-pager --threshold=40 /etc/systemd/system/barewired.service")?;

    machine.run("ip netns add pod")?;
    ensure!(machine.plugin("ADD")?.contains("10.0.1."));
    machine.run("ip netns exec pod ping -n -c 1 -W 2 10.0.0.10")?;

    // The routes are compared: a networkd that manages foreign ones would take the pod's away.
    let routes = machine.run("ip route show table all | grep -v fe80; ip rule")?;
    machine.run("systemctl restart systemd-networkd")?;
    wait_until("the routes as they were", BOOT, || {
        let now = machine.run("ip route show table all | grep -v fe80; ip rule").map_err(|error| format!("{error:#}"))?;
        if now == routes { Ok(()) } else { Err(format!("{now}\ninstead of\n{routes}")) }
    })?;
    machine.run("ip netns exec pod ping -n -c 1 -W 2 10.0.0.10")?;

    // A daemon that hangs is ended by its watchdog only after a minute; one that is killed is there again after a second.
    let first = machine.run("systemctl show barewired -p MainPID --value")?;
    machine.run("systemctl kill --signal=KILL barewired")?;
    wait_until("another daemon", BOOT, || {
        let now = machine
            .run("systemctl is-active barewired; systemctl show barewired -p MainPID --value")
            .map_err(|error| format!("{error:#}"))?;
        if now.starts_with("active\n") && !now.ends_with(&first) { Ok(()) } else { Err(now) }
    })?;
    machine.run("ip netns exec pod ping -n -c 1 -W 2 10.0.0.10")?;

    let words = machine.output("barewire uninstall")?;
    ensure!(words.status.code() == Some(1) && String::from_utf8_lossy(&words.stdout).contains("1 pods run"), "{words:?}");
    machine.plugin("DEL")?;
    machine.run("ip netns del pod")?;
    wait_until("the end of the pod's link", BOOT, || {
        machine.run("! ip -o link show group 179 | grep .").map(drop).map_err(|error| format!("{error:#}"))
    })?;
    machine.run("barewire uninstall --purge")?;
    ensure!(machine.run(STATE)? == before, "before: {before}\nafter: {}", machine.run(STATE)?);
    machine.run("! systemctl cat barewired 2>/dev/null && test ! -e /run/barewire -a ! -e /etc/barewire").map(drop)
}

/// `deploy/container`, as its pod would run it: the node's process namespace, files of its own.
#[test]
fn an_installers_pod_leaves_a_service_behind() -> Result<()> {
    let Some(programs) = crate::binaries() else { return Ok(()) };
    let deployed = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/container").join(name));
    let manifests: Vec<serde_json::Value> = serde_saphyr::from_multiple(&deployed("daemonset.yaml")?)?;
    ensure!(manifests.len() == 2 && manifests[1]["spec"]["template"]["spec"]["hostPID"] == true, "{manifests:?}");

    let machine = Machine::boot(&programs)?;
    machine.run(UPLINK)?;
    machine.run(&format!("mkdir -p /tmp/image /tmp/config && printf '%s' '{CONFIGURATION}' >/tmp/config/barewired.toml"))?;
    machine.run(&format!("cat >/tmp/image/install.sh <<'END'\n{}\nEND\n", deployed("install.sh")?))?;
    machine.run(
        "setsid unshare --mount sh -c 'mkdir /release /config; mount --bind /run/barewire-bin /release; mount --bind /tmp/config /config; \
         mount -t tmpfs none /etc; exec sh /tmp/image/install.sh' >/tmp/log 2>&1 </dev/null &",
    )?;
    wait_until("a service", BOOT, || {
        machine
            .run("systemctl is-active barewired && test ! -e /run/barewire-release || { cat /tmp/log; false; }")
            .map_err(|error| format!("{error:#}"))
    })?;
    let list = machine.run("cat /etc/cni/net.d/00-barewire.conflist /etc/barewire/barewired.toml")?;
    ensure!(list.contains("barewire-cni") && list.contains("10.0.1.0/24"), "{list}");
    Ok(())
}
