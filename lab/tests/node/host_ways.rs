//! What the host's own routes, policies and packet filters say: seen within ten seconds, told in one line, followed when it changes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::host::{Daemon, Host, Settings, Start};
use lab::kube_proxy::{Backend, Family, KubeProxy, Service};
use serde_json::Value;

use crate::on_host;

const PROMISED: Duration = Duration::from_secs(15);

/// Runs a test on a node with the kernel programs.
fn on_node(keys: &str, test: impl FnOnce(&Host, &Daemon<'_>) -> Result<()>) -> Result<()> {
    on_host(Settings::default().with_fast_path(true), |host| {
        let daemon = host.spawn_with(Start { keys, ..Start::default() })?;
        daemon.wait_until_ready()?;
        wait_for(&daemon, "the programs carry packets", |page| page["attached"] == true)?;
        test(host, &daemon)?;
        daemon.stop()
    })
}

fn page(daemon: &Daemon<'_>) -> Result<Value> {
    Ok(serde_json::from_str(&daemon.get("/debug/fast_path")?)?)
}

fn wait_for(daemon: &Daemon<'_>, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
    daemon.wait_until(what, || {
        let page = page(daemon)?;
        ensure!(holds(&page), "{what}: {page}");
        Ok(())
    })
}

fn has_line(page: &Value, line: &str) -> bool {
    page["slow_path"].as_array().is_some_and(|lines| lines.iter().any(|told| told == line))
}

/// Something appears in the lines soon after it was done, and goes soon after it was undone.
fn is_followed(host: &Host, daemon: &Daemon<'_>, (make, line, undo): (&[&str], &str, &[&str])) -> Result<()> {
    host.run(make)?;
    let begun = Instant::now();
    wait_for(daemon, line, |page| has_line(page, line))?;
    ensure!(begun.elapsed() < PROMISED, "{line} took {:?}", begun.elapsed());
    host.run(undo)?;
    let begun = Instant::now();
    wait_for(daemon, "its end", |page| !has_line(page, line))?;
    ensure!(begun.elapsed() < PROMISED, "the end of {line} took {:?}", begun.elapsed());
    Ok(())
}

#[test]
fn routes_rules_and_policies_of_the_host_are_followed() -> Result<()> {
    on_node("", |host, daemon| {
        host.ip("link add eth9 type veth peer name far9\nlink set far9 up\nlink set eth9 up\naddress add 192.0.2.1/24 dev eth9\n")?;
        let connected = "10.0.0.0/24 takes the slow path: it is on the link of eth1";
        wait_for(daemon, connected, |page| has_line(page, connected))?;
        let rows: [(&str, &str, &str); 6] = [
            ("ip route add 10.0.50.0/24 dev eth9", "10.0.50.0/24 takes the slow path: route via eth9", "ip route del 10.0.50.0/24"),
            (
                "ip -6 route add fd00:10:50::/48 dev eth9",
                "fd00:10:50::/48 takes the slow path: route via eth9",
                "ip -6 route del fd00:10:50::/48",
            ),
            ("ip route add blackhole 10.0.51.0/24", "10.0.51.0/24 takes the slow path: blackhole route", "ip route del 10.0.51.0/24"),
            (
                "ip route add 10.0.52.0/24 via 10.0.0.99",
                "10.0.52.0/24 takes the slow path: route via 10.0.0.99 dev eth1",
                "ip route del 10.0.52.0/24",
            ),
            ("ip rule add to 10.0.53.0/24 prohibit", "10.0.53.0/24 takes the slow path: prohibit rule", "ip rule del to 10.0.53.0/24"),
            (
                "ip xfrm policy add src 10.0.1.0/24 dst 10.0.54.0/24 dir out action block",
                "10.0.54.0/24 takes the slow path: IPsec policy out 10.0.1.0/24 -> 10.0.54.0/24 (block)",
                "ip xfrm policy del src 10.0.1.0/24 dst 10.0.54.0/24 dir out",
            ),
        ];
        for (make, line, undo) in rows {
            let words = |text: &'static str| text.split(' ').collect::<Vec<_>>();
            is_followed(host, daemon, (&words(make), line, &words(undo)))?;
        }
        let gateways = "10.0.55.0/24";
        host.run(&["ip", "route", "add", gateways, "via", "10.0.0.1"])?;
        host.run(&["ip", "route", "add", "10.0.56.0/24", "dev", "eth9"])?;
        wait_for(daemon, "the other route", |page| has_line(page, "10.0.56.0/24 takes the slow path: route via eth9"))?;
        ensure!(!page(daemon)?.to_string().contains(gateways), "what leads to the gateway is carried: {}", page(daemon)?);
        Ok(())
    })
}

#[test]
fn neighbours_by_the_gateway_are_carried_where_it_is_said() -> Result<()> {
    on_node("[uplink]\non_link = \"gateway\"\n", |_, daemon| {
        ensure!(page(daemon)?["slow_path"].as_array().is_some_and(Vec::is_empty), "{}", page(daemon)?);
        Ok(())
    })
}

const DROP: &str = "IPv4 takes the slow path: chain FORWARD of ip filter drops by its policy";

fn accepts(host: &Host, program: &str) -> Result<usize> {
    Ok(host.run(&[program, "-S", "FORWARD"])?.lines().filter(|line| line.contains("barewire: network.forward_accept")).count())
}

#[test]
fn where_all_is_dropped_pods_are_accepted_and_carried() -> Result<()> {
    on_node("", |host, daemon| {
        for program in ["iptables-nft", "ip6tables-nft", "iptables-legacy"] {
            host.run(&[program, "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT"])?;
            host.run(&[program, "-P", "FORWARD", "DROP"])?;
            daemon.wait_until("rules of ours", || {
                ensure!(accepts(host, program)? == 2, "{program}: {}", host.run(&[program, "-S", "FORWARD"])?);
                Ok(())
            })?;
            let rules = host.run(&[program, "-S", "FORWARD"])?;
            let position = |part: &str| rules.lines().position(|line| line.contains(part)).context(part.to_owned());
            ensure!(position("docker0")? < position("barewire")?, "behind what is particular: {rules}");
            wait_for(daemon, "nothing is said", |page| !page.to_string().contains("drops"))?;
            ensure!(daemon.conditions()?.is_empty(), "{:?}", daemon.conditions()?);
            // Somebody flushes the chain.
            host.run(&[program, "-F", "FORWARD"])?;
            daemon.wait_until("they are back", || {
                ensure!(accepts(host, program)? == 2);
                Ok(())
            })?;
        }
        host.run(&["iptables-nft", "-P", "FORWARD", "ACCEPT"])?;
        daemon.wait_until("they go with the policy", || {
            ensure!(accepts(host, "iptables-nft")? == 0);
            Ok(())
        })
    })
}

#[test]
fn without_our_rules_a_policy_that_drops_is_told_with_its_remedy() -> Result<()> {
    on_host(Settings::default().with_fast_path(true), |host| {
        host.run(&["iptables-nft", "-P", "FORWARD", "DROP"])?;
        let config = host.write_configuration("")?;
        let text = std::fs::read_to_string(&config)?;
        std::fs::write(&config, text.replace("[network]\n", "[network]\nforward_accept = false\n"))?;
        let daemon = host.spawn_as_configured(&config)?;
        daemon.wait_until_ready()?;
        daemon.wait_for_condition(
            "PodsNotForwarded",
            "ForwardDrop",
            &["IPv4: chain FORWARD of ip filter", "network.forward_accept = true"],
        )?;
        daemon.wait_for_condition("FamilyNotCarried", "ForwardRules", &["IPv4"])?;
        wait_for(&daemon, DROP, |page| has_line(page, DROP))?;
        ensure!(accepts(host, "iptables-nft")? == 0);
        std::fs::write(&config, text)?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(daemon.process())?), nix::sys::signal::Signal::SIGHUP)?;
        daemon.wait_for_end_of("PodsNotForwarded")?;
        daemon.wait_for_end_of("FamilyNotCarried")?;
        ensure!(accepts(host, "iptables-nft")? == 2);
        daemon.stop()?;
        host.run(&["sh", "-c", &format!("{} --config {} --uninstall", host.binary("barewired").display(), config.display())])?;
        ensure!(accepts(host, "iptables-nft")? == 0, "{}", host.run(&["iptables-nft", "-S", "FORWARD"])?);
        ensure!(!host.run(&["ip", "route", "show"])?.contains("unreachable"), "{}", host.run(&["ip", "route", "show"])?);
        Ok(())
    })
}

#[test]
fn rules_of_other_programs_are_understood() -> Result<()> {
    on_node("", |host, daemon| {
        // As kube-proxy has it, and a firewall for others.
        for rule in [
            "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-N KUBE-SERVICES",
            "-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES",
            "-A KUBE-SERVICES -d 10.96.0.7/32 -p tcp -m tcp --dport 80 -j REJECT",
            "-A FORWARD -m addrtype --dst-type LOCAL -p tcp --dport 30080 -j REJECT",
            "-A FORWARD -m mark --mark 0x8000/0x8000 -j DROP",
            "-A FORWARD ! -i docker0 -o docker0 -j DROP",
        ] {
            host.run(&[&["iptables-nft"][..], &rule.split(' ').collect::<Vec<_>>()].concat())?;
        }
        host.run(&["iptables-nft", "-A", "FORWARD", "-d", "10.0.60.0/24", "-j", "DROP"])?;
        let line = "10.0.60.0/24 takes the slow path: rule 6 of chain FORWARD of ip filter may drop it";
        wait_for(daemon, line, |page| has_line(page, line))?;
        let told = page(daemon)?.to_string();
        ensure!(!told.contains("IPv4 takes") && !told.contains("10.96"), "kube-proxy switches nothing off: {told}");
        // nftables of somebody's own: sets, maps, prefixes.
        host.run(&["nft", "add table inet own; add chain inet own forwarded { type filter hook forward priority 0; policy drop; }"])?;
        let drops = "chain forwarded of inet own drops by its policy";
        wait_for(daemon, drops, |page| page.to_string().contains(drops))?;
        daemon.wait_for_condition("PodsNotForwarded", "ForwardDrop", &[drops])?;
        host.run(&["nft", "add rule inet own forwarded ct state vmap { established : accept, related : accept, invalid : drop }"])?;
        host.run(&["nft", "add rule inet own forwarded ip saddr { 10.0.1.0/24, 172.16.0.0/12 } accept"])?;
        host.run(&["nft", "add rule inet own forwarded ip daddr 10.0.1.0/24 accept"])?;
        host.run(&["nft", "add rule inet own forwarded iifname bw* accept; add rule inet own forwarded oifname bw* accept"])?;
        wait_for(daemon, "all is accepted", |page| !page.to_string().contains(drops))?;
        daemon.wait_for_end_of("PodsNotForwarded")?;
        host.run(&["nft", "insert rule inet own forwarded tcp dport 25 drop"])?;
        let port = "IPv6 takes the slow path: rule 1 of chain forwarded of inet own may drop it";
        wait_for(daemon, port, |page| has_line(page, port))?;
        host.run(&["nft", "delete table inet own"])?;
        wait_for(daemon, "its end", |page| !has_line(page, port))?;
        host.run(&["iptables-nft", "-N", "KUBE-ROUTER-FORWARD"])?;
        wait_for(daemon, "an engine", |page| {
            page.to_string().contains("IPv4 takes the slow path: chain KUBE-ROUTER-FORWARD of ip filter belongs to a NetworkPolicy engine")
        })?;
        daemon.wait_for_condition("FamilyNotCarried", "ForwardRules", &["KUBE-ROUTER-FORWARD"])
    })
}

/// Applies rules from a file.
fn restore(host: &Host, program: &str, rules: &str) -> Result<()> {
    let file = host.path("rules");
    std::fs::write(&file, rules)?;
    host.run(&["sh", "-c", &format!("{program} {}", file.display())]).map(drop)
}

#[test]
fn kube_proxys_rules_switch_nothing_off() -> Result<()> {
    on_node("", |host, daemon| {
        let backends = ["10.0.1.17:80", "10.0.2.17:80"].iter().map(|target| Ok(Backend { target: target.parse()?, here: false }));
        let backends: Vec<Backend> = backends.collect::<Result<_>>()?;
        let service = |name: &str, address: &str, backends: &[Backend]| {
            let (name, addresses, backends) = (name.to_owned(), vec![address.parse()?], backends.to_vec());
            Ok::<_, anyhow::Error>(Service { name, addresses, port: 80, node_port: Some(30080), local_only: false, backends })
        };
        let services = [service("well", "10.96.0.10", &backends)?, service("without", "10.96.0.11", &[])?];
        let (node, pods) = (["10.0.0.10".parse()?], ["10.0.1.0/24".parse()?]);
        let proxy = KubeProxy { node: &node, pods: &pods, services: &services };
        // A line that a look after the rules has made: until then nothing is known of them.
        let mut looks = 0;
        let mut says_nothing = |rules: &str| {
            looks += 1;
            // Not beside another, or the two would be told as one.
            let cidr = format!("10.0.{}.0/24", 200 + 2 * looks);
            host.run(&["ip", "route", "add", "blackhole", &cidr])?;
            let line = format!("{cidr} takes the slow path: blackhole route");
            wait_for(daemon, &line, |page| has_line(page, &line))?;
            let told = page(daemon)?.to_string();
            ensure!(!told.contains("IPv4 takes") && !told.contains("IPv6 takes") && !told.contains("10.96"), "{rules}: {told}");
            ensure!(daemon.conditions()?.is_empty(), "{rules}: {:?}", daemon.conditions()?);
            Ok::<_, anyhow::Error>(())
        };
        for kind in ["nft", "legacy"] {
            restore(host, &format!("iptables-{kind}-restore --noflush"), &KubeProxy::iptables_jumps())?;
            restore(host, &format!("iptables-{kind}-restore --noflush"), &proxy.iptables(Family::V4))?;
            says_nothing(kind)?;
        }
        restore(host, "nft -f", &proxy.nftables())?;
        says_nothing("nftables")
    })
}

#[test]
fn services_within_native_networks_are_told_and_left_to_the_stack() -> Result<()> {
    on_node("", |host, daemon| {
        for rule in
            ["-N KUBE-SERVICES", "-N KUBE-SVC-A", "-A PREROUTING -j KUBE-SERVICES", "-A KUBE-SERVICES -d 10.0.99.1/32 -p tcp -j KUBE-SVC-A"]
        {
            host.run(&[&["iptables-nft", "-t", "nat"][..], &rule.split(' ').collect::<Vec<_>>()].concat())?;
        }
        wait_for(daemon, "a line", |page| page.to_string().contains("10.0.99.1/32 takes the slow path"))?;
        daemon.wait_for_condition("ServicesNative", "ServicesNotListed", &["10.0.99.1", "network.service_cidrs"])?;
        let config = host.write_configuration("")?;
        let said = host.run(&["sh", "-c", &format!("{} --config {} --check", host.binary("barewired").display(), config.display())])?;
        ensure!(said.contains("10.0.99.1") && said.contains("network.service_cidrs"), "{said}");
        Ok(())
    })
}

#[test]
fn a_hook_that_is_gone_is_attached_anew() -> Result<()> {
    on_node("", |host, daemon| {
        for pin in ["ingress", "egress"] {
            let find = format!("find {} -name {pin}", host.path("bpf").display());
            let file = host.run(&["sh", "-c", &find])?;
            ensure!(!file.trim().is_empty(), "no pin {pin}");
            std::fs::remove_file(file.trim())?;
            daemon.wait_until("its pin is back", || {
                ensure!(std::fs::exists(file.trim())?, "{}", page(daemon)?);
                Ok(())
            })?;
            wait_for(daemon, "it is open", |page| page["attached"] == true && page["uplinks"][0][pin] == "stands")?;
        }
        Ok(())
    })
}

#[test]
fn an_address_that_nobody_has_is_unreachable_and_no_packet_leaves() -> Result<()> {
    for fast_path in [true, false] {
        on_host(Settings::scarce("10.0.1.16/28", 0).with_fast_path(fast_path), |host| {
            let daemon = host.start()?;
            let (pod, _) = host.attached()?;
            let routes = host.run(&["ip", "route", "show", "proto", "179"])?;
            ensure!(routes.contains("unreachable 10.0.1.16/28 metric 4278198272"), "{routes}");
            host.run(&["nft", "add table inet count; add chain inet count out { type filter hook postrouting priority 500; }"])?;
            host.run(&["nft", "add rule inet count out oifname eth1 ip daddr 10.0.1.16/28 counter"])?;
            let pinged = pod.run("ping -c 2 -W 1 10.0.1.25");
            ensure!(pinged.is_err(), "{pinged:?}");
            let counted = host.run(&["nft", "list", "chain", "inet", "count", "out"])?;
            ensure!(counted.contains("packets 0 bytes 0"), "{counted}");
            daemon.stop()
        })?;
    }
    Ok(())
}

#[test]
fn forty_addresses_on_the_node_cost_its_own_nothing() -> Result<()> {
    on_host(Settings::default().with_fast_path(true), |host| {
        let many: String = (1..=40).map(|last| format!("address add 9.96.0.{last}/32 dev lo\n")).collect();
        host.ip(&many)?;
        host.ip("link add kube-ipvs0 type veth peer name ipvs1\nlink set kube-ipvs0 up\n")?;
        host.ip(&(1..=40).map(|last| format!("address add 10.0.99.{last}/32 dev kube-ipvs0\n")).collect::<String>())?;
        let daemon = host.start()?;
        daemon.wait_for_condition("ServicesNative", "ServicesNotListed", &["10.0.99.1"])?;
        let (pod, _) = host.attached()?;
        pod.run("ping -c 1 -W 2 10.0.0.10")?;
        let counted = |scope: &str| {
            let series = daemon.get("/metrics")?;
            let of_pod =
                series.lines().filter(|line| line.starts_with("barewire_packets") && line.contains(&pod.id) && line.contains(scope));
            Ok::<_, anyhow::Error>(of_pod.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>())
        };
        ensure!(counted("scope=\"node\"")? >= 2.0 && counted("scope=\"vpc\"")? == 0.0, "{}", daemon.get("/metrics")?);
        daemon.stop()
    })
}

#[test]
fn an_uplink_without_ethernet_frames_is_refused_in_words() -> Result<()> {
    on_host(Settings::default().with_fast_path(true), |host| {
        host.ip("tuntap add dev tun0 mode tun\nlink set tun0 up\naddress add 10.0.8.1/24 dev tun0\n")?;
        let daemon = host.spawn_with(Start { keys: "[uplink]\ninterface = \"tun0\"\n", ..Start::default() })?;
        daemon.wait_for_condition("NoUplink", "NotFound", &["\"tun0\", which is no Ethernet device"])?;
        daemon.stop()
    })
}

#[test]
fn a_pods_address_does_not_come_from_the_network() -> Result<()> {
    for fast_path in [true, false] {
        on_host(Settings::scarce("10.0.1.16/28", 0).with_fast_path(fast_path), |host| {
            let daemon = host.start()?;
            let (_pod, _) = host.attached()?;
            // A namespace that stands for the network, with an address of its own and one of a pod.
            let network = host.pod()?;
            host.ip(&format!("link set fabric0 netns {}\n", network.netns.path().display()))?;
            for line in ["link set fabric0 up", "address add 10.0.0.99/24 dev fabric0", "address add 10.0.1.20/32 dev fabric0"] {
                network.run(&format!("ip {line}"))?;
            }
            daemon.wait_until("the network is there", || network.run("ping -c 1 -W 1 -I 10.0.0.99 10.0.0.10").map(drop))?;
            // A counter begins anew when the rules are set again, as they may be while the link settles.
            daemon.wait_until("it is dropped, and counted", || {
                ensure!(network.run("ping -c 1 -W 1 -I 10.0.1.20 10.0.0.10").is_err(), "a pod's address is answered");
                let counted = host.run(&["nft", "list", "chain", "inet", "barewire", "from_network"])?;
                let dropped = counted.lines().find(|line| line.contains("drop")).context("no rule drops")?;
                ensure!(!dropped.contains("packets 0 "), "{counted}");
                Ok(())
            })?;
            daemon.stop()
        })?;
    }
    Ok(())
}
