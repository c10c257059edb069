//! `barewire trace`: what would become of a packet of a pod, step by step, and why. The daemon asks the programs' own decision library with
//! the node's tables; what the kernel's network stack would do then is asked of the kernel (`ip route get`). Nothing is sent.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::daemon::{AskError, Daemon};
use crate::execute::execute;
use crate::exit::Exit;
use crate::inventory::{self, PodEnd, Told};
use crate::reasons::meaning;

/// For `ip`.
const LIMIT: Duration = Duration::from_secs(5);

/// The packet that is asked for.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// The pod that sends: NAMESPACE/NAME or NAME, an address, a container, or a host interface
    #[arg(long, value_name = "POD")]
    from: String,
    /// Where it sends to: 10.0.2.7, 10.0.2.7:443, or fd00::7 in brackets before a port
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_to)]
    to: (IpAddr, Option<u16>),
    /// tcp where a port is named, icmp (an echo) where none is
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// The pod's port, for a connection that is there already
    #[arg(long, value_name = "PORT", default_value_t = 40_000)]
    from_port: u16,
    /// Of the packet, in bytes
    #[arg(long, default_value_t = 60)]
    size: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

impl Protocol {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

fn parse_to(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let whole = text.parse::<SocketAddr>().map(|to| (to.ip(), Some(to.port())));
    let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().map(|to| (to, None));
    whole.or_else(|_| bare(text)).map_err(|_| "write an address, with its port behind a colon: 10.0.2.7:443, [fd00::7]:443".to_owned())
}

impl Trace {
    /// What would become of it.
    pub(crate) fn ask(&self, daemon: Daemon) -> Result<Told, AskError> {
        let pods = inventory::ends(&daemon.json("/pods")?, &self.from);
        let pod = match &pods[..] {
            [pod] => pod,
            [] => return Ok(not_there(format!("no pod of this node is {}; `barewire pods` lists them\n", self.from))),
            many => {
                let names: Vec<_> = many.iter().map(|pod| pod.host_interface.as_str()).collect();
                return Ok(not_there(format!("{} is {} interfaces: name one of {}\n", self.from, many.len(), names.join(", "))));
            }
        };
        let (to, port) = self.to;
        let Some(from) = pod.addresses.iter().find(|from| from.is_ipv4() == to.is_ipv4()) else {
            let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
            return Ok(not_there(format!("{} has no {family} address to reach {to} from\n", pod.name)));
        };
        let protocol = self.protocol.unwrap_or(if port.is_some() { Protocol::Tcp } else { Protocol::Icmp });
        let page = format!(
            "/trace?link={}&from={from}&to={to}&protocol={}&from_port={}&to_port={}&size={}",
            pod.host_ifindex,
            protocol.name(),
            self.from_port,
            port.unwrap_or_default(),
            self.size,
        );
        let trace = daemon.json(&page)?;
        let next = next_of_stack(&trace, *from, to, pod);
        let neighbour = neighbour(&trace["request"]);
        let subject = match port {
            Some(port) if protocol != Protocol::Icmp => {
                let at = |address: IpAddr, port| SocketAddr::new(address, port);
                format!("{} {} -> {}", protocol.name(), at(*from, self.from_port), at(to, port))
            }
            _ => format!("{} {from} -> {to}", protocol.name()),
        };
        let text = text(&subject, pod, &trace, next.as_deref(), neighbour.as_deref());
        let exit = if trace["request"]["path"] == "dropped" { Exit::Degraded } else { Exit::Fine };
        Ok((text, json!({ "packet": subject, "trace": trace, "network_stack": next, "next_hop_mac": neighbour }), exit))
    }
}

fn not_there(text: String) -> Told {
    let why = text.trim_end().to_owned();
    (text, json!({ "error": why }), Exit::Degraded)
}

/// Where the kernel's network stack would send it, in the kernel's words.
fn next_of_stack(trace: &Value, from: IpAddr, to: IpAddr, pod: &PodEnd) -> Option<String> {
    if trace["request"]["path"] != "slow" {
        return None;
    }
    let mark = trace["mark"].as_u64().unwrap_or_default();
    let (from, to, mark) = (from.to_string(), to.to_string(), mark.to_string());
    let words = ["route", "get", &to, "from", &from, "iif", &pod.host_interface, "mark", &mark];
    match execute(Command::new("ip").args(words), LIMIT) {
        Ok(said) if said.succeeded => Some(said.stdout.lines().next().unwrap_or_default().trim().to_owned()),
        Ok(said) => Some(format!("no route: {}", said.stderr.trim())),
        Err(why) => Some(format!("not known: {why}")),
    }
}

/// The MAC address of the next hop that the programs send to, where the kernel knows it.
fn neighbour(step: &Value) -> Option<String> {
    let (hop, interface) = (step["next_hop"].as_str()?, step["interface"].as_str()?);
    let said = execute(Command::new("ip").args(["-j", "neigh", "show", hop, "dev", interface]), LIMIT).ok()?;
    let found: Value = serde_json::from_str(&said.stdout).ok()?;
    found[0]["lladdr"].as_str().map(str::to_owned)
}

fn word<'a>(step: &'a Value, key: &str) -> &'a str {
    step[key].as_str().unwrap_or_default()
}

/// Pure.
fn text(subject: &str, pod: &PodEnd, trace: &Value, next: Option<&str>, neighbour: Option<&str>) -> String {
    let request = &trace["request"];
    let mut steps = vec![format!("{} sends {subject} by {}", pod.name, pod.host_interface)];
    if !word(request, "scope").is_empty() {
        steps.push(format!("the other end is {}", scope(word(request, "scope"))));
    }
    if !word(request, "endpoint").is_empty() {
        let endpoint = word(request, "endpoint");
        steps.insert(1, format!("the kernel programs translate the service's address to an endpoint of it, for example {endpoint}"));
    }
    let reason = word(request, "reason");
    match word(request, "path") {
        "fast" if word(request, "next_hop").is_empty() => {
            steps.push(format!("the kernel programs hand it straight to the pod behind {}", word(request, "interface")));
        }
        "fast" => {
            let mac = neighbour.map_or_else(|| "whose MAC address the kernel asks for".to_owned(), |mac| format!("MAC address {mac}"));
            steps.push(format!(
                "the kernel programs send it out of {} to {}, {mac}",
                word(request, "interface"),
                word(request, "next_hop")
            ));
            steps.push("its source address stays the pod's".to_owned());
        }
        "dropped" => steps.push(format!("the kernel programs drop it ({reason}): {}", meaning(reason))),
        _ => {
            steps.push(format!("the kernel's network stack has it ({reason}): {}", meaning(reason)));
            if request["untracked"] == true {
                steps.push("connection tracking does not see it, as the programs carry its flow".to_owned());
            }
            if let Some(next) = next {
                steps.push(format!("routed: {next}"));
            }
            steps.push(match trace["masquerade"].as_bool() {
                Some(true) => {
                    "it leaves with the node's address (masquerade), unless a rule of somebody else's translates it before".to_owned()
                }
                _ => "its source address stays the pod's, unless a rule of somebody else's translates it".to_owned(),
            });
        }
    }
    let mut text = String::new();
    for (number, step) in (1..).zip(&steps) {
        let _ = writeln!(text, "{number}  {step}");
    }
    let _ = writeln!(text, "PATH   {}", word(request, "path"));
    let reply = &trace["reply"];
    if reply.is_object() {
        let reason = word(reply, "reason");
        let because = if reason.is_empty() { String::new() } else { format!(" ({reason}): {}", meaning(reason)) };
        let _ = writeln!(text, "REPLY  {}{because}", word(reply, "path"));
    }
    text
}

fn scope(name: &str) -> &str {
    match name {
        "same-node" => "a pod of this node",
        "vpc" => "in the cloud network, or what is reached as it is (vpc)",
        "service" => "a service: somebody's rules translate its address first",
        "node" => "this node itself",
        "internet" => "the internet",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(parse_to("10.0.2.7:443"), Ok((address("10.0.2.7"), Some(443))));
        assert_eq!(parse_to("10.0.2.7"), Ok((address("10.0.2.7"), None)));
        assert_eq!(parse_to("[fd00::7]:443"), Ok((address("fd00::7"), Some(443))));
        assert_eq!(parse_to("fd00::7"), Ok((address("fd00::7"), None)));
        assert_eq!(parse_to("[fd00::7]"), Ok((address("fd00::7"), None)));
        for wrong in ["", "pod", "10.0.2.7:99999", "10.0.2.7:"] {
            assert!(parse_to(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_step_is_told_with_its_reason() {
        let pod = PodEnd {
            name: "web/api".to_owned(),
            host_interface: "bw0000100000".to_owned(),
            host_ifindex: 1 << 20,
            interface: "eth0".to_owned(),
            netns: None,
            mac: None,
            addresses: vec!["10.0.1.1".parse().unwrap()],
        };
        let fast = json!({ "request": { "path": "fast", "scope": "vpc", "interface": "eth1", "next_hop": "10.0.0.1" }, "reply": { "path": "fast" } });
        let told = text("tcp a -> b", &pod, &fast, None, Some("02:00:00:00:00:01"));
        assert!(told.contains("out of eth1 to 10.0.0.1, MAC address 02:00") && told.ends_with("PATH   fast\nREPLY  fast\n"), "{told}");
        let slow = json!({ "request": { "path": "slow", "reason": "not_native", "scope": "internet" }, "reply": null, "masquerade": true });
        let told = text("tcp a -> b", &pod, &slow, Some("8.8.8.8 via 10.0.0.1 dev eth1"), None);
        assert!(told.contains("(not_native)") && told.contains("via 10.0.0.1") && told.contains("masquerade"), "{told}");
        assert!(told.ends_with("PATH   slow\n"), "{told}");
    }
}
