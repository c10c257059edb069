//! What is remembered of a flow ends with the flow.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::bare::BarePod;
use lab::command::wait_until;
use lab::echo::{Server, connect};
use lab::kube_proxy::Family;
use lab::network::Network;
use lab::node::Node;
use lab::services;

use super::{is_carried, meanwhile};
use crate::site::{End, SERVED, Site, speak_freely};

const LIMIT: Duration = Duration::from_secs(2);
/// Conntrack forgets a closed connection after a second, so that a port can be used again.
const SOON: &str = "sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=1 net.netfilter.nf_conntrack_tcp_timeout_close=1";
const USUAL: &str = "sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=120 net.netfilter.nf_conntrack_tcp_timeout_close=10";

/// A connection from a certain port; a message and its echo.
pub(super) fn speak(from: &Network, port: u16, to: SocketAddr) -> Result<TcpStream> {
    let mut stream = connect(from, port, to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"echo\n")?;
    let mut heard = Vec::new();
    while heard.iter().filter(|byte| **byte == b'\n').count() < 2 {
        let mut bytes = [0; 256];
        let length = stream.read(&mut bytes).with_context(|| format!("an echo of {to} from port {port}"))?;
        ensure!(length > 0, "{to} closed the connection");
        heard.extend_from_slice(&bytes[..length]);
    }
    Ok(stream)
}

/// How many flows over IPv4 a node has noted.
fn noted(node: &Node) -> Result<usize> {
    Ok(crate::notes::all(node)?.len())
}

/// Connections through a service that are closed are forgotten before long.
pub(super) fn end_with_their_flows(site: &mut Site) -> Result<()> {
    const CONNECTIONS: u16 = 200;
    const FORGOTTEN: Duration = Duration::from_secs(45);
    if !is_carried(site) {
        return Ok(());
    }
    let node = &site.sides[0].node;
    let before = noted(node)?;
    let to = SocketAddr::new(services::To::First.address(Family::V4), services::PORT);
    meanwhile(node, &[SOON], &[USUAL], || {
        (0..CONNECTIONS).try_for_each(|number| speak(site.network(End::A1), 21_000 + number, to).map(drop))?;
        let most = noted(node)?;
        ensure!(most >= before + usize::from(CONNECTIONS) / 2, "{most} flows are noted after {CONNECTIONS} connections, {before} before");
        wait_until("the notes of closed connections to end", FORGOTTEN, || {
            let left = noted(node).map_err(|error| error.to_string())?;
            if left < before + usize::from(CONNECTIONS) / 10 { Ok(()) } else { Err(format!("{left} are left, {before} were there before")) }
        })?;
        Ok(())
    })
}

/// Waits until conntrack has forgotten a port of a client.
fn forgotten(node: &Node, port: u16) -> Result<()> {
    wait_until(&format!("the end of connections from port {port}"), Duration::from_secs(10), || {
        let said = node.run(&["conntrack", "-L", "-p", "tcp", "--sport", &port.to_string()]).map_err(|error| error.to_string())?;
        if said.trim().is_empty() { Ok(()) } else { Err(said) }
    })
    .map_err(Into::into)
}

/// Ports are used again. Whoever learns addresses by a service and goes on without it (databases, queues) meets this all day.
pub(super) fn port_used_before(site: &mut Site) -> Result<()> {
    let node = &site.sides[0].node;
    meanwhile(node, &[SOON], &[USUAL], || {
        super::in_families(|family| {
            for (number, (service, server)) in [(services::To::First, End::A2), (services::To::Second, End::B1)].into_iter().enumerate() {
                let port = 20_005 + u16::try_from(number)?;
                let through = SocketAddr::new(service.address(family), services::PORT);
                speak(site.network(End::A1), port, through).context("through the service")?;
                forgotten(node, port)?;
                let direct = SocketAddr::new(site.address(server, family)?, SERVED);
                speak(site.network(End::A1), port, direct).context("directly, from the same port")?;
            }
            Ok(())
        })
    })
}

/// A port is one connection's for each destination: that of a service, and that of the pod behind it. Two connections of one client may have
/// the same, and once the service is translated, the same ends. Conntrack gives the second another port; the first may not notice.
pub(super) fn port_in_use(site: &mut Site) -> Result<()> {
    const PORT: u16 = 20_205;
    super::in_families(|family| {
        for (number, (service, server)) in [(services::To::First, End::A2), (services::To::Second, End::B1)].into_iter().enumerate() {
            let port = PORT + u16::try_from(number)?;
            let direct = SocketAddr::new(site.address(server, family)?, SERVED);
            let mut first = speak(site.network(End::A1), port, direct).context("directly")?;
            let through = SocketAddr::new(service.address(family), services::PORT);
            let second = speak(site.network(End::A1), port, through).context("through the service, from the same port");
            first.write_all(b"more")?;
            first.read_exact(&mut [0; 4]).with_context(|| format!("an echo of {}, directly, beside the service", server.name()))?;
            second?;
        }
        Ok(())
    })
}

/// A service leads to a pod that is deleted; another gets its address, and is asked from the same port.
pub(super) fn address_used_before(site: &mut Site) -> Result<()> {
    const PORT: u16 = 20_105;
    const ADDRESSES: [&str; 2] = ["10.0.1.20", "fd00:10:0:1::20"];
    let node = site.sides[0].node.clone();
    let rules = "table inet once { chain prerouting { type nat hook prerouting priority -101; \
                 ip daddr 10.96.9.9 tcp dport 80 dnat ip to 10.0.1.20:8080; \
                 ip6 daddr fd00:96::909 tcp dport 80 dnat ip6 to [fd00:10:0:1::20]:8080; }; }";
    let client = site.network(End::A1).clone();
    let pod = |name: &str| -> Result<(BarePod, Server)> {
        let pod = BarePod::start_with(&node, name, &ADDRESSES)?;
        pod.network.run(speak_freely)?;
        let server = Server::start(&pod.network, SERVED)?;
        Ok((pod, server))
    };
    let services = ["10.96.9.9:80", "[fd00:96::909]:80"];
    meanwhile(&node, &[SOON, &format!("nft '{rules}'")], &[USUAL, "nft delete table inet once"], || {
        let (first, server) = pod("first")?;
        let through = services.iter().try_for_each(|service| speak(&client, PORT, service.parse()?).map(drop));
        drop(server);
        first.remove(&node)?;
        through.context("through the service")?;
        forgotten(&node, PORT)?;
        let (second, server) = pod("second")?;
        // From then on its packets are looked up among the noted flows.
        let again = services.iter().try_for_each(|service| speak(&client, PORT + 1, service.parse()?).map(drop));
        let direct = second.addresses.iter().try_for_each(|address| speak(&client, PORT, SocketAddr::new(*address, SERVED)).map(drop));
        drop(server);
        second.remove(&node)?;
        again.context("through the service, once more")?;
        direct.context("the pod that has the address now")
    })
}
