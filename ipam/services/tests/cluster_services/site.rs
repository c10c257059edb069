//! A node with pods, and the world outside it, in network namespaces. Two such sites are alike to the last address.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use conformance_tests::netns::Netns;
use datapath::Ifindex;
use datapath::fast_path::FIRST_IFINDEX;

use crate::probe::Servers;

/// The ranges of services' addresses.
pub(crate) const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];
/// The node's addresses.
pub(crate) const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub(crate) const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// The node's interface to the outside, by its number.
pub(crate) const UPLINK: Ifindex = Ifindex(10);
/// Of every link.
pub(crate) const MTU: u32 = 1500;
/// Endpoints listen here.
pub(crate) const PORTS: [u16; 2] = [8080, 8081];

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum From {
    Pod(u8),
    Node,
    Outside,
    /// A pod of another node.
    Remote,
}

impl From {
    pub(crate) const ALL: [Self; 5] = [Self::Pod(0), Self::Pod(1), Self::Node, Self::Outside, Self::Remote];
}

/// An address of a pod of this node.
pub(crate) fn pod(number: u8, is_v4: bool) -> IpAddr {
    if is_v4 { [10, 1, 0, 10 + number].into() } else { [0xfd00, 1, 0, 0, 0, 0, 0, 10 + u16::from(number)].into() }
}

/// An address of a pod of another node.
pub(crate) fn remote(number: u8, is_v4: bool) -> IpAddr {
    if is_v4 { [10, 1, 1, 1 + number].into() } else { [0xfd00, 1, 1, 0, 0, 0, 0, 1 + u16::from(number)].into() }
}

/// A pod's link on the host: with a number that the kernel programs know pods by.
pub(crate) fn host_end(pod: u8) -> Ifindex {
    Ifindex(FIRST_IFINDEX + u32::from(pod))
}

/// A pod's MAC address.
pub(crate) fn inside_mac(pod: u8) -> [u8; 6] {
    [2, 0, 0, 0, 2, pod]
}

pub(crate) const PODS: u8 = 3;
pub(crate) const REMOTES: u8 = 4;

/// One node, its pods and what is outside.
pub(crate) struct Site {
    pub(crate) node: Netns,
    outside: Netns,
    pods: Vec<Netns>,
    _servers: Vec<Servers>,
}

/// Runs a shell's lines in a namespace.
fn run(netns: &Netns, lines: &str) -> Result<()> {
    let _inside = netns.enter()?;
    let output = Command::new("sh").args(["-ec", lines]).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{lines}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

impl Site {
    pub(crate) fn new(folder: &Path, name: &str) -> Result<Self> {
        let netns = |what: &str| Netns::create(folder.join(format!("{name}-{what}")));
        let (node, outside) = (netns("node")?, netns("outside")?);
        let pods: Vec<_> = (0..PODS).map(|number| netns(&format!("pod{number}"))).collect::<Result<_, _>>()?;
        let path = |netns: &Netns| netns.path().display().to_string();
        // What is refused must be told each time.
        run(
            &node,
            "ip link set lo up; cd /proc/sys/net; echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding; echo 0 >ipv4/conf/all/rp_filter
             echo 0 >ipv4/conf/default/rp_filter; echo 0 >ipv4/icmp_ratelimit; echo 0 >ipv6/icmp/ratelimit; echo 100000 >ipv4/icmp_msgs_per_sec || true",
        )?;
        run(&outside, "ip link set lo up; cd /proc/sys/net; echo 0 >ipv4/conf/all/rp_filter; echo 0 >ipv4/conf/default/rp_filter")?;
        // `ip` knows namespaces by a folder of names; a file descriptor's path does as well.
        run(
            &node,
            &format!(
                "ip link add name eth0 index {UPLINK} type veth peer name eth0 netns '{}'; ip addr add {}/24 dev eth0; ip addr add {}/64 dev eth0 nodad; ip link set eth0 up",
                path(&outside),
                NODE[0],
                NODE[1]
            ),
        )?;
        run(
            &outside,
            &format!("ip addr add {}/24 dev eth0; ip addr add {}/64 dev eth0 nodad; ip link set eth0 up", OUTSIDE[0], OUTSIDE[1]),
        )?;
        let remotes: String = (0..REMOTES)
            .map(|n| format!("ip addr add {}/32 dev lo; ip addr add {}/128 dev lo nodad; ", remote(n, true), remote(n, false)))
            .collect();
        run(&outside, &format!("{remotes} ip route add default via {}; ip -6 route add default via {}", NODE[0], NODE[1]))?;
        run(&node, &format!("ip route add default via {}; ip -6 route add default via {}", OUTSIDE[0], OUTSIDE[1]))?;
        for (number, netns) in (0..PODS).zip(&pods) {
            let (v4, v6) = (pod(number, true), pod(number, false));
            let (host, inside) = (format!("02:00:00:00:01:{number:02x}"), inside_mac(number).map(|byte| format!("{byte:02x}")).join(":"));
            let index = host_end(number);
            run(
                &node,
                &format!(
                    "ip link add name bw{number} index {index} address {host} type veth peer name eth0 address {inside} netns '{}'; ip link set bw{number} up
                     ip route add {v4} dev bw{number}; ip -6 route add {v6} dev bw{number}
                     ip neigh add {v4} lladdr {inside} dev bw{number} nud permanent; ip neigh add {v6} lladdr {inside} dev bw{number} nud permanent",
                    path(netns)
                ),
            )?;
            run(
                netns,
                &format!(
                    "ip link set lo up; ip addr add {v4}/32 dev eth0; ip addr add {v6}/128 dev eth0 nodad; ip link set eth0 up
                     ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1 dev eth0
                     ip -6 route add default via fe80::1 dev eth0
                     ip neigh add 169.254.1.1 lladdr {host} dev eth0 nud permanent; ip neigh add fe80::1 lladdr {host} dev eth0 nud permanent"
                ),
            )?;
        }
        let both = |address: &dyn Fn(bool) -> IpAddr| vec![address(true), address(false)];
        let mut servers = Vec::new();
        for (number, netns) in (0..PODS).zip(&pods) {
            servers.push(Servers::start(netns, both(&|is_v4| pod(number, is_v4)))?);
        }
        servers.push(Servers::start(&outside, (0..REMOTES).flat_map(|n| [remote(n, true), remote(n, false)]).collect())?);
        let of_node = NODE.map(|address| address.parse().context("an address"));
        servers.push(Servers::start(&node, of_node.into_iter().collect::<Result<_>>()?)?);
        Ok(Self { node, outside, pods, _servers: servers })
    }

    /// Where somebody asks from, and by which address where there are several.
    pub(crate) fn place(&self, from: From, is_v4: bool) -> (&Netns, Option<IpAddr>) {
        match from {
            From::Pod(number) => (&self.pods[usize::from(number)], None),
            From::Node => (&self.node, None),
            From::Outside => (&self.outside, OUTSIDE[usize::from(!is_v4)].parse().ok()),
            From::Remote => (&self.outside, Some(remote(0, is_v4))),
        }
    }

    /// Runs lines in the node.
    pub(crate) fn run(&self, lines: &str) -> Result<()> {
        run(&self.node, lines)
    }

    /// Gives `nft` a script in the node.
    pub(crate) fn nft(&self, script: &str) -> Result<()> {
        use std::io::Write;
        let _inside = self.node.enter()?;
        let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("a pipe")?.write_all(script.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let why: String = String::from_utf8_lossy(&output.stderr).chars().take(2_000).collect();
            bail!("nft refused: {why}");
        }
        Ok(())
    }

    /// Forgets which client stays with which endpoint, whoever remembers it.
    pub(crate) fn forget_affinity(&self) -> Result<()> {
        self.run("nft list sets | awk '/^table/ { t = $2 \" \" $3 } /set affinity-/ { print \"flush set \" t \" \" $2 }' | nft -f -")
    }
}
