//! Services, served by the daemon as a replica of the fleet tells: pods reach them, changes are followed, what somebody alters is back, and
//! neither a restart nor the change from kube-proxy and back costs a connection.

mod ends;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fleet_api::message::{Endpoint, Protocol, Service, ServicePort, SliceHead, SlicePort};
use fleet_api::{Change, EndpointsKey, Kind};
use lab::command::wait_until;
use lab::host::{Daemon, Host, Pod, Settings, Start};
use lab::kube_proxy::{self, KubeProxy};

use self::ends::{Asker, BACKEND, Backend, Conversation, Steady, page};
use crate::fleet::{Authority, Running, keys};
use crate::{NODE, addresses, on_host};

/// As the certificate has it.
const NAME: &str = "a.example";
const VIPS: [&str; 2] = ["10.96.0.10", "fd96::10"];
const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;
const HEALTH_PORT: u16 = 32_080;
/// The promise.
const BACK: Duration = Duration::from_secs(10);

/// A node that serves one service, with a client and two pods that can stand behind it.
struct Served<'a> {
    host: &'a Host,
    replica: Running,
    client: Pod,
    /// The client's addresses.
    own: Vec<String>,
    backends: [(Pod, Vec<IpAddr>); 2],
    _servers: Vec<Backend>,
}

fn start<'a>(host: &'a Host, mode: &str) -> Result<Daemon<'a>> {
    let keys = format!("{}[services]\nmode = {mode:?}\n", keys(host));
    let daemon = host.spawn_with(Start { keys: &keys, ..Start::default() })?;
    daemon.wait_until_ready()?;
    Ok(daemon)
}

impl<'a> Served<'a> {
    fn new(host: &'a Host) -> Result<(Self, Daemon<'a>)> {
        let authority = Authority::new()?;
        authority.write_node(host, NAME)?;
        let replica = Running::start(host, &authority, "cluster")?;
        let daemon = start(host, "on")?;
        let (client, result) = host.attached()?;
        let own = addresses(&result);
        let mut servers = Vec::new();
        let mut backend = |name| -> Result<_> {
            let (pod, result) = host.attached()?;
            let own: Vec<IpAddr> = addresses(&result).iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
            for address in &own {
                servers.push(Backend::start(&pod, *address, name)?);
            }
            Ok((pod, own))
        };
        let backends = [backend("first")?, backend("second")?];
        let served = Self { host, replica, client, own, backends, _servers: servers };
        served.tell_service(2);
        served.tell_endpoints(2, &[0]);
        Ok((served, daemon))
    }

    fn tell_service(&self, version: u64) {
        let port = |protocol: Protocol, name: &str, node_port| ServicePort {
            name: name.to_owned(),
            protocol: protocol.into(),
            port: PORT.into(),
            node_port,
        };
        let cluster_ips = VIPS.iter().map(|vip| match vip.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => address.octets().to_vec(),
            Ok(IpAddr::V6(address)) => address.octets().to_vec(),
            Err(_) => Vec::new(),
        });
        let service = Service {
            cluster_ips: cluster_ips.collect(),
            ports: vec![port(Protocol::Tcp, "http", NODE_PORT.into()), port(Protocol::Udp, "who", 0)],
            external_local: true,
            health_check_node_port: HEALTH_PORT.into(),
            ..Service::default()
        };
        self.replica.tell(version, Kind::Services, vec![Change::put("shop/web", &service)]);
    }

    /// These of the backends are the service's endpoints from now on.
    fn tell_endpoints(&self, version: u64, backends: &[usize]) {
        let mut changes = Vec::new();
        for (slice, is_v4) in [(1, true), (2, false)] {
            let uid = [slice; 16];
            let port =
                |name: &str, protocol: Protocol| SlicePort { name: name.to_owned(), protocol: protocol.into(), port: BACKEND.into() };
            let ports = vec![port("http", Protocol::Tcp), port("who", Protocol::Udp)];
            changes.push(Change::put(EndpointsKey::Slice(uid).encode(), &SliceHead { service: "shop/web".to_owned(), ports }));
            for (number, (_, own)) in self.backends.iter().enumerate() {
                for address in own.iter().filter(|address| address.is_ipv4() == is_v4) {
                    let key = EndpointsKey::Endpoint(uid, *address).encode();
                    let endpoint = Endpoint { ready: true, serving: true, node: NAME.to_owned(), ..Endpoint::default() };
                    changes.push(if backends.contains(&number) { Change::put(key, &endpoint) } else { Change::delete(key) });
                }
            }
        }
        self.replica.tell(version, Kind::Endpoints, changes);
    }

    /// The client's first.
    fn own_address(&self) -> Result<&str> {
        Ok(self.own.first().context("the client has no address")?)
    }

    fn vips() -> [SocketAddr; 2] {
        VIPS.map(|vip| SocketAddr::new(vip.parse().expect("an address"), PORT))
    }

    /// Waits until the client is led to this backend by each address of the service; how long that was.
    fn leads_to(&self, name: &str) -> Result<Duration> {
        let begun = Instant::now();
        for vip in Self::vips() {
            wait_until(&format!("{vip} leads to {name}"), BACK, || {
                let found = Conversation::begin(&self.client.netns, vip).map_err(|error| format!("{error:#}"))?;
                if found.name == name { Ok(()) } else { Err(format!("it leads to {}", found.name)) }
            })?;
        }
        Ok(begun.elapsed())
    }

    fn run(&self, line: &str) -> Result<String> {
        self.host.run(&line.split_whitespace().collect::<Vec<_>>()).with_context(|| line.to_owned())
    }

    /// All that the kernel has of ours; the order in which chains came is nobody's affair.
    fn tables(&self) -> Result<Vec<String>> {
        let text = self.run("nft -s list table ip barewire-services")? + &self.run("nft -s list table ip6 barewire-services")?;
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        Ok(lines)
    }
}

/// What translates for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Rules,
    /// The fast path carries, and knows no service's address.
    RulesBesideFastPath,
    Programs,
}

/// Runs a test on such a node, which is well at its end.
fn served(by: By, test: impl for<'a> FnOnce(&Served<'a>, Daemon<'a>) -> Result<()>) -> Result<()> {
    on_host(Settings::default().with_fast_path(by != By::Rules), |host| {
        if by == By::Programs {
            std::fs::create_dir_all(host.path("barewired.toml.d"))?;
            std::fs::write(host.path("barewired.toml.d/services.toml"), "[network]\nservice_cidrs = [\"10.96.0.0/16\", \"fd96::/64\"]\n")?;
        }
        let (served, daemon) = Served::new(host)?;
        if by == By::Programs {
            // TCP and UDP, of both families.
            wait_until("the programs translate", BACK, || match translated(&daemon) {
                Ok(4) => Ok(()),
                other => Err(format!("{other:?}")),
            })?;
        }
        let took = served.leads_to("first").with_context(|| daemon.end_of_log())?;
        println!("from the fleet to the first connection: {took:?}");
        test(&served, daemon)
    })
}

/// To how many ports the programs translate.
fn translated(daemon: &Daemon<'_>) -> Result<u64> {
    let status: serde_json::Value = serde_json::from_str(&daemon.get("/status")?)?;
    Ok(status["services"]["translated_ports"].as_u64().unwrap_or_default())
}

fn follows_a_change(by: By) -> Result<()> {
    served(by, |served, daemon| {
        let mut old = Vec::new();
        for vip in Served::vips() {
            let asker = Asker::new(&served.client.netns, vip)?;
            wait_until("an answer by UDP", BACK, || asker.ask().map_err(|error| format!("{error:#}")))?;
            old.push((Conversation::begin(&served.client.netns, vip)?, asker));
        }
        served.tell_endpoints(3, &[1]);
        println!("a change, by {by:?}: {:?}", served.leads_to("second")?);
        for (mut old, asker) in old {
            old.says("still there").context("a connection keeps its endpoint")?;
            // Its flow led to the first, and each of its packets would renew it.
            wait_until("the other endpoint answers the same socket", BACK, || match asker.ask() {
                Ok(name) if name == "second" => Ok(()),
                other => Err(format!("{other:?}")),
            })?;
        }
        // The node itself, by address and by node port.
        let node: IpAddr = NODE[0].parse()?;
        for to in [Served::vips()[0], SocketAddr::new(node, NODE_PORT)] {
            ensure!(Conversation::begin(served.host.netns(), to)?.name == "second", "{to}");
        }
        // Load balancers ask.
        let health = |port, path: &str| page(served.host.netns(), SocketAddr::new(node, port), path);
        wait_until("the health check", BACK, || match health(HEALTH_PORT, "/") {
            Ok(page) if page.contains("200 OK") && page.contains("\"localEndpoints\":1") => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        ensure!(health(10_256, "/healthz")?.contains("200 OK"));
        served.tell_endpoints(4, &[]);
        wait_until("no endpoint is left", BACK, || match health(HEALTH_PORT, "/") {
            Ok(page) if page.contains("503") && page.contains("weight: 0") => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        // Refused at once, not in silence.
        let error = Conversation::begin(&served.client.netns, Served::vips()[0]).err().context("it is refused")?;
        ensure!(format!("{error:#}").contains("refused"), "{error:#}");
        ensure!(daemon.metric("barewire_services")? == 1.0 && daemon.metric("barewire_services_applied")? == 1.0);
        ensure!(daemon.metric("barewire_service_udp_flows_forgotten_total")? >= 2.0);
        ensure!(daemon.conditions()?.is_empty(), "{:?}", daemon.conditions()?);
        daemon.stop()
    })
}

#[test]
fn pods_reach_services_and_follow_their_changes() -> Result<()> {
    follows_a_change(By::Rules)
}

#[test]
fn pods_reach_services_and_follow_their_changes_beside_the_fast_path() -> Result<()> {
    follows_a_change(By::RulesBesideFastPath)
}

#[test]
fn pods_reach_services_and_follow_their_changes_by_the_programs() -> Result<()> {
    follows_a_change(By::Programs)
}

/// What the client sends to the service is counted where it goes, and `barewire trace` says where that is.
#[test]
fn what_the_programs_translate_is_counted_and_traced_as_what_it_becomes() -> Result<()> {
    served(By::Programs, |served, daemon| {
        let sent = |scope: &str| -> Result<f64> {
            let page = daemon.get("/metrics")?;
            let of_scope = |line: &&str| {
                line.starts_with("barewire_packets_total{")
                    && line.contains(&format!("scope=\"{scope}\""))
                    && line.contains("direction=\"sent\"")
            };
            Ok(page.lines().filter(of_scope).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
        };
        let before = (sent("service")?, sent("same-node")?);
        let mut conversation = Conversation::begin(&served.client.netns, Served::vips()[0])?;
        for _ in 0..50 {
            conversation.says("hello")?;
        }
        let after = (sent("service")?, sent("same-node")?);
        ensure!(after.0 - before.0 < 10.0 && after.1 - before.1 >= 100.0, "{before:?}, then {after:?}");

        let pods: serde_json::Value = serde_json::from_str(&daemon.get("/pods")?)?;
        let text = pods.to_string();
        let link = pods.as_array().or_else(|| pods["pods"].as_array()).and_then(|pods| pods.first()).map(|pod| pod["host_ifindex"].clone());
        let (link, from) = (link.context(text)?, served.own_address()?);
        let trace = daemon.get(&format!("/trace?link={link}&from={from}&to={}&to_port={PORT}", VIPS[0]))?;
        ensure!(trace.contains(&format!("\"endpoint\":\"{}", served.backends[0].1[0])) && trace.contains("\"path\":\"fast\""), "{trace}");
        daemon.stop()
    })
}

#[test]
fn whatever_somebody_alters_is_back_within_ten_seconds() -> Result<()> {
    served(By::Rules, |served, daemon| {
        let before = served.tables()?;
        let steady = Steady::start(&served.client, Served::vips()[0])?;
        for line in [
            "nft delete element ip barewire-services cluster-ips { 10.96.0.10 }",
            "nft add rule ip6 barewire-services forward counter accept",
            "nft add set ip barewire-services mine { type ipv4_addr ; }",
        ] {
            served.run(line)?;
            let back = || if served.tables().is_ok_and(|now| now == before) { Ok(()) } else { Err("it is not".to_owned()) };
            wait_until(line, BACK, back).with_context(|| daemon.end_of_log())?;
        }
        println!("{} new connections meanwhile, none failed", steady.end()?);
        for line in ["nft flush chain ip barewire-services services", "nft flush ruleset", "nft delete table ip barewire-services"] {
            served.run(line)?;
            let begun = Instant::now();
            let back = || if served.tables().is_ok_and(|now| now == before) { Ok(()) } else { Err("it is not".to_owned()) };
            wait_until(line, BACK, back).with_context(|| daemon.end_of_log())?;
            println!("{line}: back after {:?}", begun.elapsed());
            served.leads_to("first")?;
        }
        ensure!(daemon.metric("barewire_repairs_total{kind=\"nftables\"}")? >= 6.0);
        wait_until("no condition is left", BACK, || match daemon.conditions() {
            Ok(all) if all.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        daemon.stop()
    })
}

#[test]
fn a_restart_interrupts_nothing() -> Result<()> {
    interrupts_nothing(By::Rules)
}

#[test]
fn a_restart_interrupts_nothing_of_what_the_programs_translate() -> Result<()> {
    interrupts_nothing(By::Programs)
}

fn interrupts_nothing(by: By) -> Result<()> {
    served(by, |served, mut daemon| {
        let steady = Steady::start(&served.client, Served::vips()[0])?;
        for is_kill in [false, true, false] {
            let before = steady.count();
            if is_kill {
                daemon.kill()?
            } else {
                daemon.stop()?
            }
            daemon = start(served.host, "on")?;
            steady.goes_on(before)?;
        }
        println!("{} new connections over three restarts, none failed", steady.end()?);
        daemon.stop()
    })
}

#[test]
fn the_change_from_kube_proxy_and_back_costs_no_connection() -> Result<()> {
    changes_over_and_back(By::Rules)
}

#[test]
fn the_change_from_the_programs_to_kube_proxy_and_back_costs_no_connection() -> Result<()> {
    changes_over_and_back(By::Programs)
}

/// From kube-proxy and back, as docs/services.md has it.
fn changes_over_and_back(by: By) -> Result<()> {
    served(by, |served, daemon| {
        let node: Vec<IpAddr> = NODE.iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
        let targets = served.backends[0].1.iter().map(|address| SocketAddr::new(*address, BACKEND));
        let services = [kube_proxy::Service {
            name: "shop/web".to_owned(),
            addresses: VIPS.iter().map(|vip| vip.parse()).collect::<Result<_, _>>()?,
            port: PORT,
            node_port: None,
            local_only: false,
            backends: targets.map(|target| kube_proxy::Backend { target, here: true }).collect(),
        }];
        let theirs =
            KubeProxy { node: &node, pods: &["10.0.1.0/24".parse()?, "fd00:10:0:1::/80".parse()?], services: &services }.nftables();
        let file = served.host.path("kube-proxy.nft");
        std::fs::write(&file, theirs)?;
        let begin = || served.run(&format!("nft -f {}", file.display()));
        let cleanup = || ["ip", "ip6"].iter().try_for_each(|family| served.run(&format!("nft delete table {family} kube-proxy")).map(drop));

        // Back: kube-proxy's rules first, then ours off.
        let steady = Steady::start(&served.client, Served::vips()[0])?;
        begin()?;
        daemon.wait_for_condition("KubeProxyBeside", "BothServe", &["table ip kube-proxy", "--cleanup"])?;
        daemon.stop()?;
        let daemon = start(served.host, "off")?;
        ensure!(!served.run("nft list tables")?.contains("barewire-services"), "the rules of services stay");
        ensure!(!daemon.conditions()?.contains_key("KubeProxyBeside"));
        let before = steady.count();
        steady.goes_on(before)?;
        daemon.stop()?;
        // Over: ours beside kube-proxy's, which then goes.
        let daemon = start(served.host, "on")?;
        daemon.wait_for_condition("KubeProxyBeside", "BothServe", &["table ip6 kube-proxy"])?;
        cleanup()?;
        daemon.wait_for_end_of("KubeProxyBeside")?;
        let before = steady.count();
        steady.goes_on(before)?;
        println!("{} new connections from one to the other and back, none failed", steady.end()?);
        daemon.stop()
    })
}
