//! Looks at the node. Nothing here judges, and nothing changes anything; each look is bounded in time.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Doctor;
use super::facts::{
    Agent, Clock, Configuration, Expected, Facts, FileFound, ForwardDrop, Kernel, Link, Lists, Networkd, PathMtu, PathOutcome, Plugin, Seen,
};
use super::fix::below;
use super::network_tools;
use crate::config;
use crate::daemon::Daemon;
use crate::execute::{Executed, execute};

/// For one program.
const LIMIT: Duration = Duration::from_secs(5);
/// An Ethernet link's, where the uplink's is not known.
const MTU: u32 = 1500;
/// What an echo request has before its payload.
const ECHO_HEADERS: (u32, u32) = (28, 48);
const SMALL: u32 = 128;
const SYSCTLS: [&str; 10] = [
    "net/core/bpf_jit_enable",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/default/disable_ipv6",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv6/neigh/default/gc_thresh3",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "net/ipv4/conf/default/rp_filter",
];

/// All facts.
pub(super) fn facts(options: &Doctor, daemon: Daemon) -> Facts {
    let root = options.root.as_path();
    let configuration = configuration(root, &options.config);
    let configuration = if options.pre && configuration.is_err() { None } else { Some(configuration) };
    let known = configuration.as_ref().and_then(|configuration| configuration.as_ref().ok());
    let links = links();
    let default_routes = default_routes();
    let mtu = default_routes.first().and_then(|(name, _)| links.iter().find(|link| link.name == *name)).map_or(MTU, |link| link.mtu);
    let lists = known.filter(|_| !options.pre).map(|known| lists(root, &known.cni_conf_file));
    let plugins = match &lists {
        Some(Ok(found)) => plugins(root, found, known.map(|known| known.bin_dirs.as_slice()).unwrap_or_default()),
        _ => Vec::new(),
    };
    let further = known.map(|known| known.further.as_slice()).unwrap_or_default();
    Facts {
        kernel: kernel(),
        sysctls: sysctls(further),
        path_mtus: options.path_to.iter().map(|to| path_mtu(*to, mtu)).collect(),
        links,
        default_routes,
        nft: Some(nft_version()),
        forward_drops: Some(forward_drops()),
        networkd: networkd(root),
        network_manager: network_manager(root),
        agents: agents(root),
        files: known.map(|known| files(root, known, &plugins)).unwrap_or_default(),
        lists,
        plugins,
        clock: clock(root),
        daemon: if options.pre { None } else { Some(daemon.json("/status").map_err(|error| error.to_string())) },
        kube_proxy: kube_proxy(),
        configuration,
    }
}

fn kernel() -> Kernel {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let bpf_fs = mounts.lines().map(|line| line.split(' ').skip(1).take(2)).any(|fields| fields.eq(["/sys/fs/bpf", "bpf"]));
    Kernel { release, bpf_fs }
}

fn sysctls(further: &[String]) -> BTreeMap<String, i64> {
    let of_links = further.iter().map(|name| format!("net/ipv4/conf/{name}/rp_filter"));
    let read = |name: String| {
        let text = fs::read_to_string(Path::new("/proc/sys").join(&name)).ok()?;
        Some((name, text.trim().parse().ok()?))
    };
    SYSCTLS.map(str::to_owned).into_iter().chain(of_links).filter_map(read).collect()
}

fn configuration(root: &Path, file: &Path) -> Seen<Configuration> {
    let path = below(root, file);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", file.display()))?;
    let text = if config::drop_ins(&path).is_dir() { config::together(&path)? } else { text };
    let table: toml::Table = toml::from_str(&text).map_err(|error| format!("{}: {}", file.display(), error.message()))?;
    let key = |section: &str, key: &str| table.get(section).and_then(|section| section.get(key));
    let word = |section: &str, name: &str, default: &str| key(section, name).and_then(|value| value.as_str()).unwrap_or(default).to_owned();
    let words = |section: &str, name: &str| -> Vec<String> {
        let list = key(section, name).and_then(|value| value.as_array()).into_iter().flatten();
        list.filter_map(|value| value.as_str().map(str::to_owned)).collect()
    };
    let bin_dirs: Vec<_> = words("cni", "bin_dirs").into_iter().map(PathBuf::from).collect();
    let further = key("uplink", "secondary").or_else(|| key("uplink", "further")).and_then(|value| value.as_array()).into_iter().flatten();
    Ok(Configuration {
        path: file.to_owned(),
        run_dir: word("paths", "run_dir", "/run/barewire").into(),
        cni_conf_file: word("paths", "cni_conf_file", "/etc/cni/net.d/00-barewire.conflist").into(),
        bin_dirs: if bin_dirs.is_empty() { vec!["/opt/cni/bin".into()] } else { bin_dirs },
        ipv6: words("source", "ranges").iter().any(|range| range.contains(':'))
            || words("source", "families").iter().any(|family| family == "ipv6"),
        source: word("source", "kind", "nowhere: source.kind is not set"),
        fast_path: word("network", "fast_path", "auto") != "off",
        forward_accept: key("network", "forward_accept").and_then(|value| value.as_bool()).unwrap_or(true),
        further: further.filter_map(|one| one.get("interface")?.as_str().map(str::to_owned)).collect(),
    })
}

/// Of this network namespace: sysfs may be another's, so the kernel's list by socket is not asked for, but `/proc/net/dev`.
fn links() -> Vec<Link> {
    let listed = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names = listed.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned());
    // The MTU as a sysctl: `/proc/sys/net` is of the network namespace, whatever sysfs is mounted.
    let link = |name: String| {
        let mtu = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/mtu")).ok();
        let mtu = mtu.or_else(|| fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok())?;
        Some(Link { name, mtu: mtu.trim().parse().ok()? })
    };
    names.filter_map(link).collect()
}

/// As the kernel prefers them. `/proc/net/route` does not tell the MTU (its column of that name is the advertised segment size, and 40).
fn default_routes() -> Vec<(String, Option<u32>)> {
    let listed = execute(Command::new("ip").args(["-j", "-4", "route", "show", "default"]), LIMIT).map(|said| said.stdout);
    listed.map(|listed| routes(&listed)).unwrap_or_default()
}

/// Interface and MTU of each route that `ip` lists. Pure.
fn routes(listed: &str) -> Vec<(String, Option<u32>)> {
    let listed: Value = serde_json::from_str(listed).unwrap_or_default();
    let mtu = |route: &Value| {
        let mtu = route["metrics"].as_array()?.iter().find_map(|metric| metric["mtu"].as_u64())?;
        u32::try_from(mtu).ok()
    };
    let routes = listed.as_array().into_iter().flatten();
    routes.filter_map(|route| Some((route["dev"].as_str()?.to_owned(), mtu(route)))).collect()
}

fn path_mtu(to: IpAddr, size: u32) -> PathMtu {
    let headers = if to.is_ipv4() { ECHO_HEADERS.0 } else { ECHO_HEADERS.1 };
    let probe = |size: u32| {
        let payload = size.saturating_sub(headers).to_string();
        let to = to.to_string();
        execute(Command::new("ping").args(["-n", "-M", "do", "-c", "1", "-W", "1", "-s", &payload, &to]), LIMIT)
    };
    let outcome = match probe(size) {
        Err(error) => PathOutcome::Unseen(error),
        Ok(Executed { succeeded: true, .. }) => PathOutcome::Answered,
        Ok(refused) => match narrower(&(refused.stdout + &refused.stderr)) {
            Some(mtu) => PathOutcome::Narrower(mtu),
            None if probe(SMALL).is_ok_and(|answered| answered.succeeded) => PathOutcome::Swallowed,
            None => PathOutcome::Silent,
        },
    };
    PathMtu { to: to.to_string(), size, outcome }
}

/// What `ping` says of a router's word: `(mtu = 1400)`, `mtu=1400`. Pure.
fn narrower(said: &str) -> Option<u32> {
    let at = said.find("mtu")?;
    let number = said[at + 3..].trim_start_matches([' ', '=', ':']);
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn nft_version() -> Seen<String> {
    let said = execute(Command::new("nft").arg("--version"), LIMIT)?;
    Ok(said.stdout.lines().next().unwrap_or_default().trim().to_owned())
}

fn forward_drops() -> Seen<Vec<ForwardDrop>> {
    let listed = execute(Command::new("nft").args(["-j", "list", "chains"]), LIMIT)?.stdout_if_well("nft list chains")?;
    let mut drops = Vec::new();
    for [family, table, chain] in nft_drops(&listed)? {
        let rules = execute(Command::new("nft").args(["list", "chain", &family, &table, &chain]), LIMIT)?.stdout;
        drops.push(ForwardDrop {
            chain: format!("nft {family} {table} {chain}"),
            accepts_pods: rules.contains("barewire: network.forward_accept"),
        });
    }
    for (tables, program) in [("/proc/net/ip_tables_names", "iptables-legacy"), ("/proc/net/ip6_tables_names", "ip6tables-legacy")] {
        // iptables-legacy would make the table where it is not.
        if !fs::read_to_string(tables).unwrap_or_default().lines().any(|table| table == "filter") {
            continue;
        }
        let rules = execute(Command::new(program).args(["-w", "2", "-S", "FORWARD"]), LIMIT)?.stdout_if_well(program)?;
        if rules.lines().any(|line| line == "-P FORWARD DROP") {
            drops.push(ForwardDrop {
                chain: format!("{program} FORWARD"),
                accepts_pods: rules.contains("barewire: network.forward_accept"),
            });
        }
    }
    Ok(drops)
}

/// Family, table and name of chains that drop by policy what is forwarded. Pure.
fn nft_drops(listed: &str) -> Seen<Vec<[String; 3]>> {
    let listed: Value = serde_json::from_str(listed).map_err(|error| format!("what nft lists is no JSON: {error}"))?;
    let chains = listed["nftables"].as_array().into_iter().flatten().filter_map(|one| one.get("chain"));
    let drops = chains.filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop");
    Ok(drops.map(|chain| ["family", "table", "name"].map(|key| chain[key].as_str().unwrap_or_default().to_owned())).collect())
}

/// Files of these directories, those of the first winning over namesakes, by name; then their texts.
fn by_name(root: &Path, directories: &[&str], ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = BTreeMap::new();
    for directory in directories {
        let entries = fs::read_dir(below(root, Path::new(directory))).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.ends_with(ending)) {
            let path = Path::new(directory).join(&name);
            if let Ok(text) = fs::read_to_string(below(root, &path)) {
                found.entry(name).or_insert((path, text));
            }
        }
    }
    found.into_values().collect()
}

fn networkd(root: &Path) -> Option<Networkd> {
    // It makes the directory when it starts.
    if !below(root, Path::new("/run/systemd/netif")).is_dir() {
        return None;
    }
    let own = fs::read_to_string(below(root, Path::new("/etc/systemd/networkd.conf"))).unwrap_or_default();
    let dropped =
        by_name(root, &["/etc/systemd/networkd.conf.d", "/run/systemd/networkd.conf.d", "/usr/lib/systemd/networkd.conf.d"], ".conf");
    let texts: Vec<_> = [own].into_iter().chain(dropped.into_iter().map(|(_, text)| text)).collect();
    let (keeps_foreign_routes, keeps_foreign_rules) = network_tools::keeps_foreign(&texts);
    let networks = by_name(root, &["/etc/systemd/network", "/run/systemd/network", "/usr/lib/systemd/network"], ".network");
    let claims_pod_links = network_tools::claiming(&networks).map(Path::to_owned);
    Some(Networkd { keeps_foreign_routes, keeps_foreign_rules, claims_pod_links })
}

fn network_manager(root: &Path) -> Option<bool> {
    if !below(root, Path::new("/run/NetworkManager")).is_dir() {
        return None;
    }
    let own = fs::read_to_string(below(root, Path::new("/etc/NetworkManager/NetworkManager.conf"))).unwrap_or_default();
    let dropped = by_name(root, &["/etc/NetworkManager/conf.d", "/run/NetworkManager/conf.d", "/usr/lib/NetworkManager/conf.d"], ".conf");
    let texts: Vec<_> = [own].into_iter().chain(dropped.into_iter().map(|(_, text)| text)).collect();
    Some(network_tools::is_unmanaged_by_network_manager(&texts))
}

fn agents(root: &Path) -> Vec<Agent> {
    let is_there = |path: &str| below(root, Path::new(path)).exists();
    let text = |path: &str| fs::read_to_string(below(root, Path::new(path))).unwrap_or_default();
    let cloud_init: String = by_name(root, &["/etc/cloud/cloud.cfg.d"], ".cfg")
        .into_iter()
        .map(|(_, text)| text)
        .chain([text("/etc/cloud/cloud.cfg")])
        .collect();
    let says = |word: &str| cloud_init.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(word));
    let mut agents = Vec::new();
    if is_there("/usr/lib/udev/rules.d/99-vpc-policy-routes.rules") || is_there("/etc/udev/rules.d/53-ec2-network-interfaces.rules") {
        agents.push(Agent {
            name: "amazon-ec2-net-utils",
            does: "gives addresses and routing rules to each interface that is attached, those that barewired attaches included",
            remedy: "remove the package amazon-ec2-net-utils: barewired configures its interfaces",
            severe: false,
        });
    }
    if says("hotplug") {
        agents.push(Agent {
            name: "cloud-init",
            does: "configures interfaces that are attached while the node runs (updates.network.when: hotplug)",
            remedy: "take hotplug out of updates.network.when in /etc/cloud/cloud.cfg.d: barewired configures its interfaces",
            severe: false,
        });
    }
    if text("/run/cloud-init/cloud-id").trim() == "azure" && !says("apply_network_config: false") {
        agents.push(Agent {
            name: "cloud-init",
            does: "gives all addresses of the network interface to the host, pods' too (datasource.Azure.apply_network_config)",
            remedy: "datasource: {Azure: {apply_network_config: false}} in /etc/cloud/cloud.cfg.d, before the node boots",
            severe: true,
        });
    }
    if ["/usr/bin/google_guest_agent", "/usr/bin/google_guest_agent_manager"].into_iter().any(is_there)
        && !has_no_alias_routes(&text("/etc/default/instance_configs.cfg"))
    {
        agents.push(Agent {
            name: "google-guest-agent",
            does: "makes a local route of each alias range: the host keeps pods' packets for itself",
            remedy: "ip_aliases = false under [IpForwarding] in /etc/default/instance_configs.cfg, restart google-guest-agent, and reboot (docs/clouds.md)",
            severe: true,
        });
    }
    agents
}

fn has_no_alias_routes(text: &str) -> bool {
    let said = network_tools::assignments(text);
    said.iter().any(|(section, key, value)| *section == "IpForwarding" && *key == "ip_aliases" && value.eq_ignore_ascii_case("false"))
}

/// As libcni takes them: `.conf`, `.conflist` and `.json`, by name.
fn lists(root: &Path, ours: &Path) -> Seen<Lists> {
    let directory = ours.parent().unwrap_or(Path::new("/"));
    let entries = fs::read_dir(below(root, directory)).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| [".conf", ".conflist", ".json"].iter().any(|ending| name.ends_with(ending)));
    names.sort_unstable();
    let list = read_list(root, ours);
    let cni_version = list["cniVersion"].as_str().map(str::to_owned);
    let ours = ours.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Lists { directory: directory.to_owned(), ours, names, cni_version })
}

fn read_list(root: &Path, ours: &Path) -> Value {
    fs::read(below(root, ours)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn plugins(root: &Path, lists: &Lists, bin_dirs: &[PathBuf]) -> Vec<Plugin> {
    let list = read_list(root, &lists.directory.join(&lists.ours));
    let kinds = list["plugins"].as_array().into_iter().flatten().filter_map(|plugin| plugin["type"].as_str().map(str::to_owned));
    kinds
        .map(|kind| {
            // A type is a file's name and no path (CNI specification, section 2).
            let path =
                bin_dirs.iter().map(|directory| directory.join(&kind)).find(|path| !kind.contains('/') && below(root, path).is_file());
            let found = path.map(|path| {
                let versions = versions(&below(root, &path));
                (path, versions)
            });
            Plugin { kind, found, searched: bin_dirs.to_vec() }
        })
        .collect()
}

fn versions(plugin: &Path) -> Seen<Vec<String>> {
    let request = json!({ "cniVersion": "1.0.0" }).to_string();
    let mut command = Command::new(plugin);
    let variables =
        [("CNI_COMMAND", "VERSION"), ("CNI_CONTAINERID", "doctor"), ("CNI_NETNS", "/dev/null"), ("CNI_IFNAME", "eth0"), ("CNI_PATH", "/")];
    command.envs(variables);
    let said = crate::execute::execute_with(&mut command, request.as_bytes(), LIMIT)?;
    let answer: Value = serde_json::from_str(&said.stdout).map_err(|_| "it does not answer VERSION with JSON".to_owned())?;
    let versions: Vec<_> =
        answer["supportedVersions"].as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect();
    if versions.is_empty() { Err("it answers VERSION with no version".to_owned()) } else { Ok(versions) }
}

fn files(root: &Path, configuration: &Configuration, plugins: &[Plugin]) -> Vec<FileFound> {
    let programs = plugins.iter().filter_map(|plugin| Some((plugin.found.as_ref()?.0.clone(), Expected::Program)));
    let drop_ins = config::drop_ins(&configuration.path);
    let listed = fs::read_dir(below(root, &drop_ins)).into_iter().flatten().flatten();
    let of_drop_ins = listed.map(|entry| (drop_ins.join(entry.file_name()), Expected::OthersDoNotWrite));
    let own = [
        (configuration.path.clone(), Expected::OthersDoNotWrite),
        (drop_ins.clone(), Expected::OthersDoNotWrite),
        (configuration.cni_conf_file.clone(), Expected::OthersDoNotWrite),
        (configuration.run_dir.join("cni.sock"), Expected::Private),
        (configuration.run_dir.clone(), Expected::Private),
    ];
    let look = |(path, expected): (PathBuf, Expected)| {
        let found = fs::metadata(below(root, &path)).ok()?;
        Some(FileFound { path, mode: found.permissions().mode() & 0o7777, uid: found.uid(), expected })
    };
    own.into_iter().chain(of_drop_ins).chain(programs).filter_map(look).collect()
}

fn clock(root: &Path) -> Clock {
    let seconds = |time: SystemTime| match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    };
    let made = std::env::current_exe().and_then(fs::metadata).and_then(|file| file.modified()).map(seconds);
    let is_there = |path: &str| below(root, Path::new(path)).exists();
    let (kept_by, synchronized) = if is_there("/run/systemd/timesync") {
        (Some("systemd-timesyncd"), Some(is_there("/run/systemd/timesync/synchronized")))
    } else if is_there("/run/chrony") {
        (Some("chrony"), None)
    } else if is_there("/run/ntpd.pid") || is_there("/run/ntpsec") {
        (Some("ntpd"), None)
    } else {
        (None, None)
    };
    Clock { now_seconds: seconds(SystemTime::now()), not_before_seconds: made.unwrap_or_default(), kept_by, synchronized }
}

/// The words of its command line.
fn kube_proxy() -> Option<Vec<String>> {
    let processes =
        fs::read_dir("/proc").ok()?.flatten().filter(|entry| entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit));
    processes.into_iter().find_map(|process| {
        let comm = fs::read_to_string(process.path().join("comm")).ok()?;
        if comm.trim() != "kube-proxy" {
            return None;
        }
        let line = fs::read(process.path().join("cmdline")).ok()?;
        Some(line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_read() {
        let listed = r#"[{"dst":"default","gateway":"10.0.0.1","dev":"eth0","metric":100,"flags":[],"metrics":[{"mtu":1400}]},
                         {"dst":"default","dev":"eth1","metric":200,"flags":[]}]"#;
        assert_eq!(routes(listed), [("eth0".to_owned(), Some(1400)), ("eth1".to_owned(), None)]);
        assert_eq!(routes("nonsense"), []);
    }

    #[test]
    fn routers_words_are_read() {
        assert_eq!(narrower("From 10.0.0.1 icmp_seq=1 Frag needed and DF set (mtu = 1400)"), Some(1400));
        assert_eq!(narrower("ping: sendmsg: Message too long\nping: local error: message too long, mtu=1500"), Some(1500));
        assert_eq!(narrower("Packet too big: mtu 1280"), Some(1280));
        assert_eq!(narrower("1 packets transmitted, 0 received"), None);
    }

    #[test]
    fn chains_that_drop_by_policy() {
        let chain = |name: &str, hook: &str, policy: &str| json!({ "chain": { "family": "ip", "table": "filter", "name": name, "hook": hook, "policy": policy } });
        let listed = json!({ "nftables": [{ "metainfo": {} }, chain("FORWARD", "forward", "drop"), chain("INPUT", "input", "drop"), chain("F", "forward", "accept")] });
        assert_eq!(nft_drops(&listed.to_string()), Ok(vec![["ip", "filter", "FORWARD"].map(str::to_owned)]));
        assert!(nft_drops("no").is_err());
    }
}
