//! From facts to findings. Pure.

use super::facts::{Configuration, Expected, Facts, FileFound, Lists, PathOutcome};
use super::fix::Fix;
use super::network_tools;

/// How bad it is, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    Well,
    /// It could not be looked at.
    Unseen,
    /// It is well now, or for some; it may not stay so.
    Warning,
    /// Pods do not start, or are not reached.
    Failed,
}

impl Severity {
    pub(super) const fn sign(self) -> char {
        match self {
            Self::Well => '√',
            Self::Unseen => '?',
            Self::Warning => '‼',
            Self::Failed => '×',
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Unseen => "unseen",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) area: &'static str,
    pub(super) check: &'static str,
    pub(super) severity: Severity,
    pub(super) seen: String,
    pub(super) remedy: Option<String>,
    pub(super) fixes: Vec<Fix>,
}

/// Findings under construction.
struct Findings {
    area: &'static str,
    all: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, check: &'static str, severity: Severity, seen: impl Into<String>, remedy: Option<String>) -> &mut Finding {
        self.all.push(Finding { area: self.area, check, severity, seen: seen.into(), remedy, fixes: Vec::new() });
        let last = self.all.len() - 1;
        &mut self.all[last]
    }

    fn well(&mut self, check: &'static str, seen: impl Into<String>) {
        self.add(check, Severity::Well, seen, None);
    }

    fn warn(&mut self, check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> &mut Finding {
        self.add(check, Severity::Warning, seen, Some(remedy.into()))
    }

    fn fail(&mut self, check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> &mut Finding {
        self.add(check, Severity::Failed, seen, Some(remedy.into()))
    }

    fn unseen(&mut self, check: &'static str, why: impl Into<String>) {
        self.add(check, Severity::Unseen, why, None);
    }
}

/// Entries that a pod's traffic can make in the kernel's one table of neighbours, by family: in the pod and in the node, and as many again
/// while others age. The permanent ones are exempt (`neigh_alloc`, net/core/neighbour.c).
const NEIGHBOURS_OF_POD: i64 = 4;
/// What kubelet starts on a node unless it is told otherwise.
const PODS_EXPECTED: usize = 110;
/// Entries that the node has of its own.
const NEIGHBOURS_OF_NODE: i64 = 512;
/// Conntrack refuses new connections when it is full, so there is to be room.
const CONNTRACK_PERCENT_MAX: i64 = 80;

/// All that is found, area by area.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Findings { area: "kernel", all: Vec::new() };
    kernel(facts, &mut findings);
    sysctls(facts, &mut findings);
    clock(facts, &mut findings);
    findings.area = "network";
    mtu(facts, &mut findings);
    filters(facts, &mut findings);
    tools(facts, &mut findings);
    findings.area = "runtime";
    lists(facts, &mut findings);
    plugins(facts, &mut findings);
    files(facts, &mut findings);
    kube_proxy(facts, &mut findings);
    findings.area = "barewired";
    configuration(facts, &mut findings);
    daemon(facts, &mut findings);
    findings.all
}

fn configured(facts: &Facts) -> Option<&Configuration> {
    facts.configuration.as_ref()?.as_ref().ok()
}

fn kernel(facts: &Facts, findings: &mut Findings) {
    let release = &facts.kernel.release;
    let wants_fast_path = configured(facts).is_none_or(|configuration| configuration.fast_path);
    match version(release) {
        None => findings.unseen("kernel", format!("release {release:?} has no number")),
        Some(number) if number < (5, 11) => {
            findings.warn(
                "kernel",
                format!("{release} lacks what the kernel programs need: all packets take the kernel's network stack"),
                "start Linux 6.1 or later for the fast path; pods are served without it",
            );
        }
        Some(number) if number < (6, 1) => {
            findings.warn("kernel", format!("{release} is older than what Barewire is tested on"), "start Linux 6.1 or later");
        }
        Some(_) => findings.well("kernel", release),
    }
    if !wants_fast_path {
        return;
    }
    if facts.kernel.bpf_fs {
        findings.well("bpf-file-system", "mounted at /sys/fs/bpf");
    } else {
        findings.warn(
            "bpf-file-system",
            "/sys/fs/bpf is none: the kernel programs cannot be loaded, and all packets take the kernel's network stack",
            "mount -t bpf bpf /sys/fs/bpf, and at every boot",
        );
    }
    match facts.sysctls.get("net/core/bpf_jit_enable") {
        Some(0) => {
            let name = "net/core/bpf_jit_enable".to_owned();
            let finding = findings.warn("bpf-jit", "net.core.bpf_jit_enable is 0: kernel programs are interpreted", "set it to 1");
            finding.fixes.push(Fix::Sysctl { name, value: 1 });
        }
        Some(value) => findings.well("bpf-jit", format!("net.core.bpf_jit_enable is {value}")),
        // A kernel whose JIT cannot be turned off has no such setting in a further namespace.
        None => findings.unseen("bpf-jit", "net.core.bpf_jit_enable cannot be read"),
    }
}

/// Major and minor.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn sysctls(facts: &Facts, findings: &mut Findings) {
    let is_up = matches!(&facts.daemon, Some(Ok(_)));
    for (name, families) in [("net/ipv4/ip_forward", "IPv4"), ("net/ipv6/conf/all/forwarding", "IPv6")] {
        if families == "IPv6" && configured(facts).is_none_or(|configuration| !configuration.ipv6) {
            continue;
        }
        match facts.sysctls.get(name) {
            Some(0) if is_up => {
                let seen = format!("{name} is 0 while barewired runs: pods' packets over {families} are not forwarded");
                findings.fail("forwarding", seen, "set it to 1, and see the condition ForwardingRefused").fixes =
                    vec![Fix::Sysctl { name: name.to_owned(), value: 1 }];
            }
            Some(0) => findings.well("forwarding", format!("{name} is 0; barewired sets it when it starts")),
            Some(_) => findings.well("forwarding", format!("{name} is on")),
            None => findings.unseen("forwarding", format!("{name} cannot be read")),
        }
    }
    if configured(facts).is_some_and(|configuration| configuration.ipv6)
        && facts.sysctls.get("net/ipv6/conf/default/disable_ipv6") == Some(&1)
    {
        findings.fail(
            "ipv6",
            "net.ipv6.conf.default.disable_ipv6 is 1, and pods are to have IPv6 addresses",
            "set it to 0 before barewired starts, or take the IPv6 ranges out of the configuration",
        );
    }
    rp_filter(facts, findings);
    neighbours(facts, findings);
    if let (Some(count), Some(max)) =
        (facts.sysctls.get("net/netfilter/nf_conntrack_count"), facts.sysctls.get("net/netfilter/nf_conntrack_max"))
    {
        let percent = count.saturating_mul(100) / (*max).max(1);
        let seen = format!("{count} connections of {max}");
        if percent >= CONNTRACK_PERCENT_MAX {
            let remedy = format!("net.netfilter.nf_conntrack_max = {} or more; `conntrack -S` tells who is refused", max.saturating_mul(2));
            findings.warn("conntrack", seen, remedy);
        } else {
            findings.well("conntrack", seen);
        }
    }
}

/// The stricter of an interface's setting and that of all counts (Documentation/networking/ip-sysctl.rst). The node's own uplink may
/// be strict: its way back is the main table's.
fn rp_filter(facts: &Facts, findings: &mut Findings) {
    let Some(all) = facts.sysctls.get("net/ipv4/conf/all/rp_filter") else { return };
    let further = configured(facts).map(|configuration| configuration.further.as_slice()).unwrap_or_default();
    let mut strict = Vec::new();
    for name in further {
        let own = facts.sysctls.get(&format!("net/ipv4/conf/{name}/rp_filter")).copied().unwrap_or_default();
        if own.max(*all) == 1 {
            strict.push(format!("net/ipv4/conf/{name}/rp_filter"));
        }
    }
    if strict.is_empty() {
        findings.well("rp_filter", if further.is_empty() { "one uplink: any setting will do" } else { "loose on further uplinks" });
        return;
    }
    let seen = format!("strict on further uplinks ({}): packets to their pods are dropped", strict.join(", "));
    findings.fail("rp_filter", seen, "set it to 2, in /etc/sysctl.d too; barewired sets it where it may").fixes =
        strict.into_iter().map(|name| Fix::Sysctl { name, value: 2 }).collect();
}

fn neighbours(facts: &Facts, findings: &mut Findings) {
    let running = facts.links.iter().filter(|link| link.is_of_pod()).count();
    let pods = i64::try_from(running.max(PODS_EXPECTED)).unwrap_or(i64::MAX);
    let needed = NEIGHBOURS_OF_NODE.saturating_add(pods.saturating_mul(NEIGHBOURS_OF_POD));
    for family in ["ipv4", "ipv6"] {
        let name = format!("net/{family}/neigh/default/gc_thresh3");
        match facts.sysctls.get(&name) {
            Some(limit) if *limit < needed => {
                let value = needed.unsigned_abs().next_power_of_two() as i64;
                let seen = format!("{name} is {limit}: with {pods} pods the table of neighbours, one for all namespaces, may overflow");
                findings.warn("neighbours", seen, format!("set it to {value} or more, in /etc/sysctl.d too")).fixes =
                    vec![Fix::Sysctl { name, value }];
            }
            Some(limit) => findings.well("neighbours", format!("{name} is {limit}")),
            None => findings.unseen("neighbours", format!("{name} is the first network namespace's alone")),
        }
    }
}

fn clock(facts: &Facts, findings: &mut Findings) {
    let clock = &facts.clock;
    if clock.now_seconds < clock.not_before_seconds {
        findings.fail(
            "clock",
            format!(
                "it says a time {} s before this program was made: clouds refuse what is signed then",
                clock.not_before_seconds - clock.now_seconds
            ),
            "set it, and have chrony or systemd-timesyncd keep it",
        );
        return;
    }
    match (clock.kept_by, clock.synchronized) {
        (Some(by), Some(false)) => {
            findings.warn(
                "clock",
                format!("{by} runs and has not set it yet"),
                format!("see `systemctl status {by}`: clouds refuse what is signed five minutes off"),
            );
        }
        (Some(by), _) => findings.well("clock", format!("kept by {by}")),
        (None, _) => {
            findings.warn(
                "clock",
                "neither chrony, systemd-timesyncd nor ntpd keeps it",
                "run one, unless the hypervisor keeps it: clouds refuse what is signed five minutes off",
            );
        }
    }
}

fn mtu(facts: &Facts, findings: &mut Findings) {
    let Some((uplink, route_mtu)) = facts.default_routes.first() else {
        findings.warn(
            "uplink",
            "no default route over IPv4: barewired takes the interface of the default route for the uplink",
            "name uplink.interface, or set the route",
        );
        return;
    };
    let Some(mtu) = facts.links.iter().find(|link| link.name == *uplink).map(|link| link.mtu) else {
        findings.unseen("mtu", format!("there is no interface {uplink}"));
        return;
    };
    if let Some(narrow) = route_mtu.filter(|narrow| *narrow < mtu) {
        findings.warn(
            "mtu",
            format!("{uplink} takes {mtu} bytes, and its default route {narrow}: pods learn the smaller one packet by packet"),
            format!("give {uplink} the MTU {narrow}, or the route none"),
        );
    }
    let of_pods = || facts.links.iter().filter(|link| link.is_of_pod());
    let too_large: Vec<_> = of_pods().filter(|link| link.mtu > mtu).map(|link| link.name.as_str()).collect();
    if too_large.is_empty() {
        findings.well("mtu", format!("{uplink} takes {mtu} bytes, and no pod's link more"));
    } else {
        findings.warn(
            "mtu",
            format!("{} pods' links take more than the {mtu} bytes of {uplink}: {}", too_large.len(), too_large.join(", ")),
            "pods keep the MTU that the uplink had when they started: start them anew",
        );
    }
    for path in &facts.path_mtus {
        let (to, size) = (&path.to, path.size);
        match &path.outcome {
            PathOutcome::Answered => findings.well("path-mtu", format!("{to} answers {size} bytes")),
            PathOutcome::Narrower(narrow) => {
                findings.warn(
                    "path-mtu",
                    format!("the way to {to} takes {narrow} bytes, the uplink {size}"),
                    format!("where it is a node or peer of this network, give the uplink the MTU {narrow}"),
                );
            }
            PathOutcome::Swallowed => {
                findings.fail(
                    "path-mtu",
                    format!("{to} answers a small packet and not one of {size} bytes, and no router says why: connections hang once they carry much"),
                    "have security groups and firewalls let ICMP \"fragmentation needed\" and \"packet too big\" through, or lower the uplink's MTU",
                );
            }
            PathOutcome::Silent => {
                findings.warn(
                    "path-mtu",
                    format!("{to} does not answer echo requests"),
                    "name one that does: a security group may refuse ICMP",
                );
            }
            PathOutcome::Unseen(why) => findings.unseen("path-mtu", format!("{to}: {why}")),
        }
    }
}

fn filters(facts: &Facts, findings: &mut Findings) {
    match &facts.nft {
        Some(Ok(version)) => findings.well("nft", version),
        Some(Err(why)) => {
            findings.fail(
                "nft",
                format!("{why}: no masquerade, and pods of further uplinks leave by the wrong one"),
                "install the package nftables",
            );
        }
        None => {}
    }
    match &facts.forward_drops {
        Some(Ok(drops)) if drops.is_empty() => findings.well("forward", "no chain drops what is forwarded by its policy"),
        Some(Ok(drops)) => {
            for drop in drops {
                let chain = &drop.chain;
                if drop.accepts_pods {
                    findings.well("forward", format!("{chain} drops by policy, and barewired's rules in it accept pods"));
                } else if configured(facts).is_some_and(|configuration| !configuration.forward_accept) {
                    findings.fail(
                        "forward",
                        format!("{chain} drops what no rule accepts, and network.forward_accept is off"),
                        "accept the pods' ranges in it, or set network.forward_accept = true",
                    );
                } else {
                    findings.warn("forward", format!("{chain} drops what no rule accepts; pods need rules of their own"), "with network.forward_accept barewired sets them in iptables' FORWARD; in a chain of somebody else's accept the pods' ranges");
                }
            }
        }
        Some(Err(why)) => findings.unseen("forward", why),
        None => {}
    }
}

fn tools(facts: &Facts, findings: &mut Findings) {
    if let Some(networkd) = &facts.networkd {
        if networkd.keeps_foreign_routes && networkd.keeps_foreign_rules {
            findings.well("systemd-networkd", "it leaves others' routes and rules alone");
        } else {
            findings.warn(
                "systemd-networkd",
                "it takes away routes and rules that are not its own whenever it starts: pods lose theirs until barewired has set them again",
                "ManageForeignRoutes=no and ManageForeignRoutingPolicyRules=no in networkd.conf",
            )
            .fixes = vec![network_tools::networkd_keeps_routes()];
        }
        match &networkd.claims_pod_links {
            Some(file) => {
                findings
                    .fail(
                        "systemd-networkd",
                        format!("{} matches pods' links (bw…): it will configure them", file.display()),
                        "give pods' links a file of their own that sorts before it, with Unmanaged=yes",
                    )
                    .fixes = vec![network_tools::networkd_leaves_links()];
            }
            None => findings.well("systemd-networkd", "no file of its matches pods' links"),
        }
    }
    match facts.network_manager {
        Some(true) => findings.well("NetworkManager", "it leaves pods' links alone"),
        Some(false) => {
            findings
                .warn("NetworkManager", "it may configure pods' links (bw…)", "unmanaged-devices=interface-name:bw* in its configuration")
                .fixes = vec![network_tools::network_manager_leaves_links()];
        }
        None => {}
    }
    for agent in &facts.agents {
        let severity = if agent.severe { Severity::Failed } else { Severity::Warning };
        findings.add("agents", severity, format!("{} {}", agent.name, agent.does), Some(agent.remedy.to_owned()));
    }
    if facts.networkd.is_none() && facts.network_manager.is_none() && facts.agents.is_empty() {
        findings.well("agents", "no program that is known to configure others' links");
    }
}

fn lists(facts: &Facts, findings: &mut Findings) {
    let Lists { directory, ours, names, .. } = match &facts.lists {
        Some(Ok(lists)) => lists,
        Some(Err(why)) => return findings.unseen("network-list", why),
        None => return,
    };
    let directory = directory.display();
    match names.iter().position(|name| name == ours) {
        Some(0) => findings.well("network-list", format!("{directory}/{ours} is the first of {}", names.len())),
        Some(_) => {
            findings.fail(
                "network-list",
                format!("the runtime takes {directory}/{}, which sorts before {ours}: new pods are another network's", names[0]),
                "remove it, and have whoever installs it stop; or give paths.cni_conf_file a name that sorts first (docs/install.md)",
            );
        }
        None => {
            let first = names.first().map_or_else(|| "no list is there".to_owned(), |first| format!("the first list is {first}"));
            findings.fail(
                "network-list",
                format!("{directory} has no {ours}; {first}"),
                "barewired writes it when the node is ready: see `barewire status`",
            );
        }
    }
}

fn plugins(facts: &Facts, findings: &mut Findings) {
    let version = facts.lists.as_ref().and_then(|lists| lists.as_ref().ok()?.cni_version.as_deref());
    for plugin in &facts.plugins {
        let kind = &plugin.kind;
        match &plugin.found {
            None => {
                let searched: Vec<_> = plugin.searched.iter().map(|path| path.display().to_string()).collect();
                findings.fail(
                    "plugins",
                    format!("{kind} is in none of {}", searched.join(", ")),
                    "install it there, or name its directory in cni.bin_dirs and in the runtime's configuration",
                );
            }
            Some((path, Err(why))) => {
                let remedy = format!("CNI_COMMAND=VERSION {} must answer: install it for this machine", path.display());
                findings.fail("plugins", format!("{}: {why}", path.display()), remedy);
            }
            Some((path, Ok(versions))) => match version {
                Some(version) if !versions.iter().any(|one| one == version) => {
                    let seen = format!("{} speaks {}, and the list says {version}", path.display(), versions.join(", "));
                    findings.fail("plugins", seen, "install a newer one: barewired offers what all plugins of the chain speak");
                }
                _ => findings.well("plugins", format!("{} speaks {}", path.display(), versions.join(", "))),
            },
        }
    }
}

fn files(facts: &Facts, findings: &mut Findings) {
    let wrong: Vec<_> = facts.files.iter().filter_map(|file| Some((file, wrong_mode(file)?))).collect();
    if wrong.is_empty() && !facts.files.is_empty() {
        findings.well("file-modes", format!("{} files are root's, and others do not write them", facts.files.len()));
    }
    for (file, (why, mode)) in wrong {
        let path = file.path.display();
        let remedy = if file.uid == 0 { format!("chmod {mode:o} {path}") } else { format!("chown root {path}; chmod {mode:o} {path}") };
        findings.warn("file-modes", format!("{path} has mode {:o} and is user {}'s: {why}", file.mode, file.uid), remedy).fixes =
            if file.uid == 0 { vec![Fix::Mode { path: file.path.clone(), mode }] } else { Vec::new() };
    }
}

/// What is wrong with a file's mode, and the one it should have.
fn wrong_mode(file: &FileFound) -> Option<(&'static str, u32)> {
    let FileFound { mode, uid, expected, .. } = file;
    let (why, should) = match expected {
        Expected::OthersDoNotWrite => ("who may write it decides what the runtime executes as root", mode & !0o022),
        Expected::Private => ("who may connect has pods attached and removed", mode & !0o077),
        Expected::Program => ("the runtime executes it as root", mode & !0o022 | 0o111),
    };
    (should != *mode || *uid != 0).then_some((why, should))
}

fn kube_proxy(facts: &Facts, findings: &mut Findings) {
    let Some(words) = &facts.kube_proxy else { return };
    let value = |name: &str| {
        let at = words.iter().position(|word| word.split('=').next() == Some(name))?;
        words[at].split_once('=').map(|(_, value)| value).or_else(|| words.get(at + 1).map(String::as_str))
    };
    match (value("--detect-local-mode"), value("--cluster-cidr")) {
        (Some(mode), _) if mode != "ClusterCIDR" => findings.well("kube-proxy", format!("it knows pods by {mode}")),
        (_, Some(cidr)) if !cidr.is_empty() => {
            findings.warn(
                "kube-proxy",
                format!("it takes what is not of --cluster-cidr {cidr} for foreign, and masquerades what pods send to services"),
                "detectLocalMode: InterfaceNamePrefix and detectLocal.interfaceNamePrefix: bw (docs/kubernetes.md)",
            );
        }
        _ => findings.well("kube-proxy", "it runs, and has no --cluster-cidr on its command line"),
    }
}

fn configuration(facts: &Facts, findings: &mut Findings) {
    match &facts.configuration {
        None => {}
        Some(Ok(configuration)) => {
            findings.well("configuration", format!("{}, addresses from {}", configuration.path.display(), configuration.source));
        }
        Some(Err(why)) => {
            findings.fail("configuration", why, "barewire config check FILE tells every fault; --config names another file");
        }
    }
}

fn daemon(facts: &Facts, findings: &mut Findings) {
    let status = match &facts.daemon {
        None => return,
        Some(Err(why)) => {
            let mut lines = why.lines();
            let first = lines.next().unwrap_or_default().to_owned();
            let rest: Vec<_> = lines.collect();
            findings.fail("daemon", first, if rest.is_empty() { "see `barewire status`".to_owned() } else { rest.join("\n      ") });
            return;
        }
        Some(Ok(status)) => status,
    };
    let own = env!("CARGO_PKG_VERSION");
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    match status["version"].as_str() {
        Some(version) if version == own => findings.well("daemon", format!("barewired {version} answers")),
        Some(version) => {
            findings.warn("daemon", format!("barewired is {version}, this command {own}"), "install both of one version");
        }
        None => {
            findings.warn("daemon", "it does not say its version", "see who listens there: `ss -ltnp`");
        }
    }
    if status["ready"] == true {
        findings.well("ready", "an ADD would succeed");
    } else {
        findings.fail(
            "ready",
            format!("an ADD would fail: {}", word(&status["reason"])),
            "see the conditions below, and `barewire status`",
        );
    }
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let seen = format!("{} ({}): {}", word(&condition["type"]), word(&condition["reason"]), word(&condition["message"]));
        findings.warn("condition", seen, word(&condition["remedy"]));
    }
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
