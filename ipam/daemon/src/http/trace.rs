//! `/trace?link=N&from=ADDRESS&to=ADDRESS[&protocol=tcp|udp|icmp][&from_port=N][&to_port=N][&size=N]`: what would become of a packet that the pod behind a
//! link sends, and of the answer. The programs' own decision is asked with their tables as they are; nothing is sent, counted or noted.

use std::net::{IpAddr, SocketAddr};

use datapath::Ifindex;
use datapath::fast_path::{FastPath, FastPathError, Scope, Traced, TracedWay, apart};
use ipam_state::record::Record;
use serde::Serialize;

use super::Watched;
use super::traffic::SCOPES;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// One of those that a kernel gives by itself.
const FROM_PORT: u16 = 40_000;
/// A router that the packet has passed has taken one off.
const HOP_LIMIT: u8 = 64;
const ETHERNET: usize = 14;
const SIZE: u16 = 60;

/// A packet that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    link: u32,
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    from_port: u16,
    to_port: u16,
    /// Of the IP packet, in bytes.
    size: u16,
}

impl Question {
    /// From a query string.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let value =
            |name: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value);
        fn number<T: std::str::FromStr>(name: &str, value: Option<&str>, default: T) -> Result<T, String> {
            value.map_or(Ok(default), |value| value.parse().map_err(|_| format!("{name}={value} is no number that it can be")))
        }
        let address = |name: &str| -> Result<IpAddr, String> {
            let value = value(name).ok_or_else(|| format!("{name}=ADDRESS is missing"))?;
            value.parse().map_err(|_| format!("{name}={value} is no address"))
        };
        let (from, to) = (address("from")?, address("to")?);
        if from.is_ipv4() != to.is_ipv4() {
            return Err(format!("{from} and {to} are of different families"));
        }
        let protocol = match value("protocol").unwrap_or("tcp") {
            "tcp" => TCP,
            "udp" => UDP,
            "icmp" if from.is_ipv4() => ICMP,
            "icmp" => ICMPV6,
            other => return Err(format!("protocol={other} is neither tcp, udp nor icmp")),
        };
        Ok(Self {
            link: number("link", value("link"), 0)?,
            from,
            to,
            protocol,
            from_port: number("from_port", value("from_port"), FROM_PORT)?,
            to_port: number("to_port", value("to_port"), 0)?,
            size: number("size", value("size"), SIZE)?.max(SIZE),
        })
    }

    /// As it is once the programs have translated it.
    const fn to_endpoint(self, endpoint: SocketAddr) -> Self {
        Self { to: endpoint.ip(), to_port: endpoint.port(), from_port: apart(self.from_port), ..self }
    }

    /// The answer to it.
    const fn turned(self) -> Self {
        Self { from: self.to, to: self.from, from_port: self.to_port, to_port: self.from_port, ..self }
    }

    /// The frame: a connection's first packet, or the answer to it. Checksums are nothing that a decision looks at.
    fn frame(&self, mac: [u8; 6], is_answer: bool) -> Vec<u8> {
        let mut frame = vec![0; 6];
        frame.extend(mac);
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([0x08, 0x00, 0x45, 0]);
                frame.extend(self.size.to_be_bytes());
                // Not to be cut.
                frame.extend([0, 0, 0x40, 0, HOP_LIMIT, self.protocol, 0, 0]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            (from, to) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(self.size.saturating_sub(40).to_be_bytes());
                frame.extend([self.protocol, HOP_LIMIT]);
                for end in [from, to] {
                    if let IpAddr::V6(end) = end {
                        frame.extend(end.octets());
                    }
                }
            }
        }
        match self.protocol {
            TCP => {
                frame.extend(self.from_port.to_be_bytes());
                frame.extend(self.to_port.to_be_bytes());
                // Sequence numbers; a header of five words; SYN, or SYN and ACK.
                frame.extend([0, 0, 0, 1, 0, 0, 0, u8::from(is_answer), 0x50, if is_answer { 0x12 } else { 0x02 }, 0xff, 0xff, 0, 0, 0, 0]);
            }
            UDP => {
                frame.extend(self.from_port.to_be_bytes());
                frame.extend(self.to_port.to_be_bytes());
                frame.extend([0, 8, 0, 0]);
            }
            ICMP => {
                // The number of an echo is the same in both directions: that of the question's port.
                let id = if is_answer { self.to_port } else { self.from_port };
                frame.extend([if is_answer { 0 } else { 8 }, 0, 0, 0]);
                frame.extend(id.to_be_bytes());
                frame.extend([0, 1]);
            }
            _ => {
                let id = if is_answer { self.to_port } else { self.from_port };
                frame.extend([if is_answer { 129 } else { 128 }, 0, 0, 0]);
                frame.extend(id.to_be_bytes());
                frame.extend([0, 1]);
            }
        }
        frame.resize(ETHERNET + usize::from(self.size), 0);
        frame
    }
}

/// What would become of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Trace {
    /// Whether programs are in use at all.
    programs: bool,
    request: Step,
    /// Of what answers, where it comes back to this node's programs.
    reply: Option<Step>,
    /// Whether the network stack gives it the node's address.
    masquerade: bool,
    /// The mark by which the network stack routes it.
    mark: u32,
    /// The pod that it goes to, where it is one of this node: its host end.
    to_host_interface: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Step {
    /// `fast`, `slow` or `dropped`
    path: &'static str,
    /// Why it is not fast: a reason's name in metrics.
    reason: Option<&'static str>,
    /// Whether connection tracking sees it, where it is slow.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    untracked: bool,
    /// Where the other end is.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'static str>,
    /// The endpoint that the programs send it to in place of the service; for a flow that begins, one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    /// The interface that it leaves by, and the next hop there, where the programs send it.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_hop: Option<IpAddr>,
}

impl Step {
    fn of(Traced { way, scope }: Traced, name_of: impl Fn(Ifindex) -> Option<String>) -> Self {
        let scope = scope.map(name_of_scope);
        let plain = Self { path: "fast", reason: None, untracked: false, scope, endpoint: None, interface: None, next_hop: None };
        match way {
            TracedWay::Dropped(reason) => Self { path: "dropped", reason: Some(reason), ..plain },
            TracedWay::Stack { reason, untracked } => Self { path: "slow", reason: Some(reason), untracked, ..plain },
            TracedWay::Host => Self { path: "slow", ..plain },
            TracedWay::ToPod(link) => Self { interface: name_of(link), ..plain },
            TracedWay::ToUplink(link, gateway) => Self { interface: name_of(link), next_hop: Some(gateway), ..plain },
        }
    }
}

fn name_of_scope(scope: Scope) -> &'static str {
    SCOPES.get(scope as usize).copied().unwrap_or_default()
}

/// Reads maps of the kernel: not for a thread that others wait for.
pub(super) fn of(watched: &Watched, question: Question) -> Result<Trace, String> {
    let records = watched.attachments.records();
    let sender = records.iter().find(|record| record.host_ifindex == question.link);
    let sender =
        sender.ok_or_else(|| format!("link={} is no pod's; /pods tells the numbers of their links (host_ifindex)", question.link))?;
    let receiver = |to: IpAddr| records.iter().find(|record| record.addresses.contains(&to));
    let kernel = watched.attachments.kernel();
    let network = kernel.network();
    let name_of = |link: Ifindex| {
        let uplink = network.uplinks.iter().find(|uplink| uplink.ifindex == link).map(|uplink| uplink.ifname.clone());
        uplink.or_else(|| records.iter().find(|record| record.host_ifindex == link.0).map(|record| record.host_ifname.clone()))
    };
    let (programs, request, reply) = match kernel.fast_path() {
        None => {
            let scope = if receiver(question.to).is_some() { Some(Scope::SameNode) } else { network.scope_of(question.to) };
            let way = TracedWay::Stack { reason: "no_programs", untracked: false };
            (false, Step::of(Traced { way, scope }, name_of), None)
        }
        Some(programs) => {
            let (endpoint, request, reply) = ask(programs, question, sender, &records).map_err(|error| error.to_string())?;
            (true, Step { endpoint, ..Step::of(request, name_of) }, reply.map(|reply| Step::of(reply, name_of)))
        }
    };
    let masquerade = request.path == "slow" && network.masquerades(question.to);
    // What is masqueraded is answered to the node: the packet that comes is another one.
    let reply = reply.filter(|_| !masquerade && request.path != "dropped");
    let mark = network.mark_of(question.from, question.to);
    let to = request.endpoint.map_or(question.to, |endpoint| endpoint.ip());
    let to_host_interface = receiver(to).map(|record| record.host_ifname.clone());
    Ok(Trace { programs, request, reply, masquerade, mark, to_host_interface })
}

fn ask(
    programs: &FastPath,
    question: Question,
    sender: &Record,
    records: &[Record],
) -> Result<(Option<SocketAddr>, Traced, Option<Traced>), FastPathError> {
    let mac = |record: &Record| record.mac.unwrap_or_default();
    let link = Ifindex(sender.host_ifindex);
    // Once it is translated it is judged as a packet to the endpoint, and that is who answers.
    let endpoint = programs.trace_endpoint(link, &question.frame(mac(sender), false), [question.from, question.to])?;
    let question = endpoint.map_or(question, |endpoint| question.to_endpoint(endpoint));
    let receiver = records.iter().find(|record| record.addresses.contains(&question.to));
    let (ends, turned) = ([question.from, question.to], question.turned());
    let request = programs.trace_from_pod(link, &question.frame(mac(sender), false), ends)?;
    let reply = match receiver {
        Some(receiver) => programs.trace_from_pod(Ifindex(receiver.host_ifindex), &turned.frame(mac(receiver), true), ends)?,
        None => programs.trace_from_uplink(&turned.frame([0; 6], true), ends)?,
    };
    Ok((endpoint, request, Some(reply)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_understood_or_refused_in_words() {
        let question = Question::parse("link=7&from=10.0.1.1&to=10.0.2.2&to_port=80").unwrap();
        assert_eq!((question.protocol, question.from_port, question.to_port, question.size), (TCP, FROM_PORT, 80, SIZE));
        for (query, part) in [
            ("", "from=ADDRESS is missing"),
            ("from=10.0.1.1&to=x", "to=x is no address"),
            ("from=10.0.1.1&to=fd00::1", "different families"),
            ("from=10.0.1.1&to=10.0.2.2&protocol=sctp", "protocol=sctp"),
            ("from=10.0.1.1&to=10.0.2.2&to_port=70000", "to_port=70000"),
        ] {
            assert!(Question::parse(query).unwrap_err().contains(part), "{query}");
        }
    }

    #[test]
    fn frames_are_as_long_as_they_say() {
        for (from, to) in [("10.0.1.1", "10.0.2.2"), ("fd00::1", "fd00::2")] {
            for protocol in ["tcp", "udp", "icmp"] {
                let question = Question::parse(&format!("from={from}&to={to}&protocol={protocol}&to_port=80&size=1000")).unwrap();
                for is_answer in [false, true] {
                    assert_eq!(question.frame([2; 6], is_answer).len(), ETHERNET + 1000, "{question:?}");
                }
            }
        }
    }
}
