//! Services with real connections: a pod speaks to a service's address, one of its endpoints hears it, and the answer is the service's. The
//! namespace forwards nothing, so what arrives was translated and carried by the programs.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datapath::fast_path::{Fronts, Reason, Scope, Timeouts, apart};
use datapath::netlink::Socket;
use datapath::{Kept, Netns, NodeNetwork};

use crate::carried::{FAMILIES, LIMIT, LOOPBACK, Node, address, network, pod_link, uplink};
use crate::{object, private};

const SERVICES: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
const PORT: u16 = 80;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// More than goes into a packet, and than an interface takes at once.
const LARGE: usize = 300_000;

#[test]
fn an_endpoint_hears_the_pod_and_the_service_answers() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        node.fast_path.set_network(&with_services()?)?;
        for (family, service) in FAMILIES.into_iter().zip(SERVICES) {
            let [a, b, remote, ..] = family;
            let service: IpAddr = service.parse()?;
            for (there, at) in [(&node.fabric, remote), (&node.pods[1], b)] {
                let at: IpAddr = at.parse()?;
                let before = node.counts()?;
                let far = there.run(|| UdpSocket::bind((at, 0)))??;
                let listener = there.run(|| TcpListener::bind((at, 0)))??;
                node.fast_path.serve(&fronts(service, &[(UDP, far.local_addr()?), (TCP, listener.local_addr()?)]))?;

                let near = client(&node.pods[0], service)?;
                let client_port = near.local_addr()?.port();
                near.send(b"question")?;
                let (length, from) = receive(&far)?;
                ensure!(length == 8 && from == SocketAddr::new(a.parse()?, apart(client_port)), "{from} has asked");
                far.send_to(b"answer", from)?;
                ensure!(near.recv(&mut [0; 64])? == 6, "an answer");

                stream(&node.pods[0], SocketAddr::new(service, PORT), &listener).with_context(|| format!("{service} at {at}"))?;
                let after = node.counts()?;
                ensure!(after.sent[Scope::Service as usize] == before.sent[Scope::Service as usize], "counted as a service's");
            }
        }
        let translated = node.fast_path.sweep_notes(&Timeouts::of_conntrack())?.total;
        ensure!(translated == 8, "{translated} flows are noted");
        Ok(())
    })
}

/// Nobody listens there: the client is told, of the address that it knows. Path MTU goes the same way.
#[test]
fn errors_reach_the_client() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        node.fast_path.set_network(&with_services()?)?;
        for (family, service) in FAMILIES.into_iter().zip(SERVICES) {
            let [_, b, remote, ..] = family;
            for at in [remote, b] {
                let service: IpAddr = service.parse()?;
                node.fast_path.serve(&fronts(service, &[(UDP, SocketAddr::new(at.parse()?, 9))]))?;
                let near = client(&node.pods[0], service)?;
                near.send(b"is anybody there?")?;
                let told = near.recv(&mut [0; 64]).err().context("somebody has answered")?;
                ensure!(told.kind() == std::io::ErrorKind::ConnectionRefused, "{service} at {at}: {told}");
            }
        }
        Ok(())
    })
}

/// Pieces are the stack's to forward, once they have their addresses.
#[test]
fn datagrams_in_pieces_go_there_and_come_back() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        if std::process::Command::new("nft").arg("--version").output().is_err() {
            println!("SKIP needs nft");
            return Ok(());
        }
        let node = Node::build(&object)?;
        let mut host = Socket::open()?;
        let described = NodeNetwork { uplinks: vec![uplink()?], masquerade: true, ..with_services()? };
        let refused = described.apply(&mut host, Some(&node.fast_path), &mut Kept::default());
        ensure!(refused.is_empty(), "refused: {refused:?}");
        for (family, service) in FAMILIES.into_iter().zip(SERVICES) {
            let [_, b, ..] = family;
            let service: IpAddr = service.parse()?;
            let far = node.pods[1].run(|| UdpSocket::bind((b, 0)))??;
            node.fast_path.serve(&fronts(service, &[(UDP, far.local_addr()?)]))?;
            let near = client(&node.pods[0], service)?;
            for size in [8, 4000] {
                near.send(&vec![7; size])?;
                let (length, from) = receive(&far).with_context(|| format!("{size} bytes to {service}"))?;
                ensure!(length == size, "{length} of {size} bytes");
                far.send_to(&vec![8; size], from)?;
                let length = near.recv(&mut [0; 8192]).with_context(|| format!("{size} bytes from {service}"))?;
                ensure!(length == size, "{length} of {size} bytes");
            }
        }
        Ok(())
    })
}

/// UDP goes elsewhere with its next packet, a connection stays where it is.
#[test]
fn an_endpoint_that_goes_takes_its_datagrams_with_it_and_no_connection() -> Result<()> {
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        node.fast_path.set_network(&with_services()?)?;
        let [_, b, remote, ..] = FAMILIES[0];
        let (b, remote, service): (IpAddr, IpAddr, IpAddr) = (b.parse()?, remote.parse()?, SERVICES[0].parse()?);
        let old = node.fabric.run(|| UdpSocket::bind((remote, 7000)))??;
        let old_listener = node.fabric.run(|| TcpListener::bind((remote, 7000)))??;
        let new = node.pods[1].run(|| UdpSocket::bind((b, 7000)))??;
        let both = |at: IpAddr| fronts(service, &[(UDP, SocketAddr::new(at, 7000)), (TCP, SocketAddr::new(at, 7000))]);
        node.fast_path.serve(&both(remote))?;

        let near = client(&node.pods[0], service)?;
        near.send(b"one")?;
        receive(&old)?;
        let mut connection = node.pods[0].run(|| TcpStream::connect_timeout(&SocketAddr::new(service, PORT), LIMIT))??;
        let (mut accepted, _) = old_listener.accept()?;
        accepted.set_read_timeout(Some(LIMIT))?;

        node.fast_path.serve(&both(b))?;
        near.send(b"two")?;
        receive(&old).context("nobody has said that its flow is stale")?;
        let is_stale = |to: SocketAddr, from: SocketAddr| to == SocketAddr::new(service, PORT) && from == SocketAddr::new(remote, 7000);
        let forgotten = node.fast_path.forget_translations(10, &is_stale)?;
        ensure!(forgotten == 1, "{forgotten} flows were forgotten");
        near.send(b"three")?;
        receive(&new)?;
        connection.write_all(b"still here")?;
        accepted.read_exact(&mut [0; 10])?;

        // Switched off, what is translated goes on, and nothing else is.
        node.fast_path.serve(&Fronts::new())?;
        connection.write_all(b"still here")?;
        accepted.read_exact(&mut [0; 10])?;
        let refused = node.pods[0].run(|| TcpStream::connect_timeout(&SocketAddr::new(service, PORT), Duration::from_millis(300)))?;
        ensure!(refused.is_err(), "translated although services are off");
        Ok(())
    })
}

/// Endpoints are chosen alike; and a pod that ends takes its translations with it.
#[test]
fn all_endpoints_are_used_and_nothing_stays_of_a_pod() -> Result<()> {
    const FLOWS: usize = 64;
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        node.fast_path.set_network(&with_services()?)?;
        let service: IpAddr = SERVICES[0].parse()?;
        let mut endpoints = Vec::new();
        for last in 41..=44 {
            let at = IpAddr::from([10, 0, 1, last]);
            node.fabric.run(|| Socket::open()?.execute(vec![address(LOOPBACK, at, 32)]).map_err(anyhow::Error::from))??;
            let socket = node.fabric.run(|| UdpSocket::bind((at, 7000)))??;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            endpoints.push(socket);
        }
        let ends = endpoints.iter().map(|end| Ok(end.local_addr()?)).collect::<Result<Vec<_>>>()?;
        node.fast_path.serve(&Fronts::from([((service, UDP, PORT), ends)]))?;
        for _ in 0..FLOWS {
            client(&node.pods[0], service)?.send(b"hello")?;
        }
        let mut heard = Vec::new();
        for endpoint in &endpoints {
            let mut clients = BTreeSet::new();
            while let Ok((_, from)) = endpoint.recv_from(&mut [0; 64]) {
                clients.insert(from);
            }
            heard.push(clients.len());
        }
        ensure!(heard.iter().sum::<usize>() == FLOWS && heard.iter().all(|flows| *flows >= 4), "{heard:?}");
        let noted = node.fast_path.sweep_notes(&Timeouts::of_conntrack())?.total;
        ensure!(noted == FLOWS, "{noted} flows are noted");
        node.fast_path.remove_endpoint(pod_link(0)?.host_ifindex)?;
        let noted = node.fast_path.sweep_notes(&Timeouts::of_conntrack())?.total;
        ensure!(noted == 0, "{noted} flows of a pod that is gone are noted");
        // All translations went with their notes.
        ensure!(node.fast_path.forget_translations(1000, &|_, _| true)? == 0, "translations of a pod that is gone stay");
        Ok(())
    })
}

/// A packet is on its way from program to program when services are switched off or on, as each start of a daemon does that serves none: it
/// reaches the endpoint or the stack, whichever, but is not lost.
#[test]
fn no_packet_is_lost_while_services_are_switched() -> Result<()> {
    const SWITCHES: usize = 40;
    let Some(object) = object() else { return Ok(()) };
    private::run(|| {
        let node = Node::build(&object)?;
        node.fast_path.set_network(&with_services()?)?;
        let service: IpAddr = SERVICES[0].parse()?;
        // Of a port that none of the services has: each datagram may begin a flow.
        let near = client(&node.pods[0], service)?;
        near.connect((service, PORT + 1))?;
        let others = fronts(service, &[(UDP, SocketAddr::new(FAMILIES[0][2].parse()?, 7000))]);
        let is_over = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| -> Result<u64> {
            let talk = scope.spawn(|| {
                let mut sent = 0;
                while !is_over.load(Ordering::Relaxed) {
                    // What the stack does not forward it says so: an error of an earlier datagram.
                    sent += u64::from(near.send(b"hello").is_ok());
                }
                sent
            });
            let switched = (0..SWITCHES).try_for_each(|switch| {
                let wanted = if switch % 2 == 0 { &others } else { &Fronts::new() };
                node.fast_path.serve(wanted).map(|_served| ())
            });
            is_over.store(true, Ordering::Relaxed);
            let sent = talk.join().map_err(|_panic| anyhow::anyhow!("the client panicked"))?;
            switched?;
            Ok(sent)
        })?;
        let lost = node.fast_path.reasons()?.into_iter().find(|(reason, _)| *reason == Reason::NoTranslation).map_or(0, |(_, lost)| lost);
        ensure!(sent > 0 && lost == 0, "{lost} of {sent} packets were lost in {SWITCHES} switches");
        Ok(())
    })
}

fn with_services() -> Result<NodeNetwork> {
    Ok(NodeNetwork { service: vec!["10.96.0.0/16".parse()?, "fd00:96::/64".parse()?], ..network()? })
}

fn fronts(service: IpAddr, endpoints: &[(u8, SocketAddr)]) -> Fronts {
    endpoints.iter().map(|(protocol, endpoint)| ((service, *protocol, PORT), vec![*endpoint])).collect()
}

/// A socket that takes packets of the service alone.
fn client(pod: &Netns, service: IpAddr) -> Result<UdpSocket> {
    let any: IpAddr = if service.is_ipv4() { "0.0.0.0".parse()? } else { "::".parse()? };
    let socket = pod.run(|| UdpSocket::bind((any, 0)))??;
    socket.set_read_timeout(Some(LIMIT))?;
    pod.run(|| socket.connect((service, PORT)))??;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> Result<(usize, SocketAddr)> {
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket.recv_from(&mut [0; 8192])?)
}

/// Much in both directions over one connection: segments that are still to be cut, whose checksums are still to be made.
fn stream(pod: &Netns, to: SocketAddr, listener: &TcpListener) -> Result<()> {
    let begun = Instant::now();
    let mut near = pod.run(|| TcpStream::connect_timeout(&to, LIMIT))??;
    let (mut far, _) = listener.accept()?;
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
    }
    let data: Vec<u8> = (0..LARGE).map(|at| (at % 251) as u8).collect();
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || -> Result<()> {
            let mut heard = vec![0; LARGE];
            far.read_exact(&mut heard)?;
            far.write_all(&heard)?;
            Ok(())
        });
        near.write_all(&data)?;
        let mut echoed = vec![0; LARGE];
        near.read_exact(&mut echoed).with_context(|| format!("after {:?}", begun.elapsed()))?;
        ensure!(echoed == data, "something else came back");
        echo.join().map_err(|_panic| anyhow::anyhow!("the endpoint panicked"))?
    })
}
