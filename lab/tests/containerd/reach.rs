//! Who reaches whom, over IPv4 and IPv6.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::cri::pod::Pod;
use lab::node::Node;
use lab::vpc;
use lab::worker::Worker;
use nix::sched::{CloneFlags, setns};

use crate::suite::{COMMAND, Case, Cluster, INTERNET, ping};

/// Bytes of an IPv4 and an IPv6 header, each with ICMP's eight.
const PING_HEADERS: [(bool, u32); 2] = [(false, 28), (true, 48)];

/// MTU of the fabric.
const MTU: u32 = 9001;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::any("addresses_are_of_the_nodes_ranges_one_of_each_family", addresses),
        Case::any("pod_to_pod_on_the_same_node", same_node),
        Case::any("pod_to_pod_across_nodes", across_nodes),
        Case::any("pod_to_its_own_and_to_a_remote_node", pod_to_nodes),
        Case::any("node_to_its_own_and_to_a_remote_pod", nodes_to_pods),
        Case::any("the_internet_sees_the_nodes_address", masquerade),
        Case::any("remote_pods_and_nodes_see_the_pods_own_address", no_masquerade),
        Case::any("host_port_leads_to_the_pod_from_the_other_node", host_port),
        Case::any("full_mtu_with_dont_fragment", full_mtu),
        Case::any("the_fabric_refuses_a_source_that_is_not_assigned", spoofed_source),
    ]
}

fn addresses(cluster: &mut Cluster) -> Result<()> {
    let pods = [(&cluster.a, &cluster.a1), (&cluster.a, &cluster.a2), (&cluster.b, &cluster.b1)];
    for (worker, pod) in pods {
        ensure!(pod.v4().is_some() && pod.v6().is_some(), "{}: {:?}", pod.name, pod.addresses);
        ensure!(pod.addresses.len() == 2, "{}: {:?}", pod.name, pod.addresses);
        ensure!(pod.addresses[0].is_ipv4(), "{}: the primary address is not IPv4: {:?}", pod.name, pod.addresses);
        for address in &pod.addresses {
            ensure!(worker.plan.owns(*address), "{}: {address} is none of {:?}", pod.name, worker.plan.pods);
        }
        let inside = worker.exec_ok(pod, &["ip", "addr", "show", "dev", "eth0"])?;
        for address in &pod.addresses {
            ensure!(inside.contains(&address.to_string()), "{}: {address} is not on its eth0:\n{inside}", pod.name);
        }
    }
    ensure!(pods[0].1.addresses.iter().all(|address| !pods[1].1.addresses.contains(address)), "two pods share an address");
    Ok(())
}

fn same_node(cluster: &mut Cluster) -> Result<()> {
    cluster.all_reached(&cluster.a, &cluster.a1, &cluster.a2.addresses)?;
    cluster.all_reached(&cluster.a, &cluster.a2, &cluster.a1.addresses)
}

fn across_nodes(cluster: &mut Cluster) -> Result<()> {
    cluster.all_reached(&cluster.a, &cluster.a1, &cluster.b1.addresses)?;
    cluster.all_reached(&cluster.b, &cluster.b1, &cluster.a2.addresses)
}

fn pod_to_nodes(cluster: &mut Cluster) -> Result<()> {
    for worker in [&cluster.a, &cluster.b] {
        cluster.all_reached(&cluster.a, &cluster.a1, &[worker.primary_v4()?, worker.primary_v6()?])?;
    }
    Ok(())
}

fn nodes_to_pods(cluster: &mut Cluster) -> Result<()> {
    for worker in [&cluster.a, &cluster.b] {
        for address in &cluster.a1.addresses {
            worker
                .node
                .run(&["ping", "-c", "1", "-W", "5", &address.to_string()])
                .with_context(|| format!("{} to {address}", worker.node.name()))?;
        }
    }
    Ok(())
}

/// Two megabytes, more than one segment of the pod's MTU, so that the way out's smaller MTU must be learned through the translation.
const UPLOAD: &str = "dd if=/dev/zero bs=65536 count=32 2>/dev/null | nc -w 10";

fn masquerade(cluster: &mut Cluster) -> Result<()> {
    let internet = cluster.lab.node("internet")?.clone();
    for (address, node) in INTERNET.into_iter().zip([cluster.a.primary_v4()?, cluster.a.primary_v6()?]) {
        let address: IpAddr = address.parse()?;
        cluster.all_reached(&cluster.a, &cluster.a1, &[address])?;
        let seen = uploaded(&internet, address, &cluster.a, &cluster.a1)?;
        ensure!(seen == node, "the internet sees {seen}, not the node's {node}");
    }
    Ok(())
}

fn no_masquerade(cluster: &mut Cluster) -> Result<()> {
    let node = cluster.b.node.clone();
    for (address, own) in [(cluster.b.primary_v4()?, cluster.a1.v4()), (cluster.b.primary_v6()?, cluster.a1.v6())] {
        let seen = uploaded(&node, address, &cluster.a, &cluster.a1)?;
        ensure!(Some(seen) == own, "{} sees {seen}, not the pod's {own:?}", node.name());
    }
    Ok(())
}

/// Has a pod send two megabytes to a listener at `address` of `node`, and answers the source that the listener saw.
fn uploaded(node: &Node, address: IpAddr, worker: &Worker, pod: &Pod) -> Result<IpAddr> {
    let listener = listen_in(node, address)?;
    let local = listener.local_addr()?;
    let receiver = thread::spawn(move || receive(&listener));
    let send = format!("{UPLOAD} {} {}", local.ip(), local.port());
    worker.exec_ok(pod, &["sh", "-c", &send])?;
    let (peer, bytes) = receiver.join().map_err(|_| anyhow!("the receiving thread panicked"))??;
    ensure!(bytes == 32 * 65536, "{bytes} bytes arrived at {address}");
    Ok(peer.ip())
}

fn listen_in(node: &Node, address: IpAddr) -> Result<TcpListener> {
    let listener = in_network_of(node, move || TcpListener::bind((address, 0)))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Makes a socket in the network namespace of a node, on a thread of its own that ends there: a socket stays where it was made.
fn in_network_of<S: Send + 'static>(node: &Node, make: impl FnOnce() -> std::io::Result<S> + Send + 'static) -> Result<S> {
    let namespace = File::open(format!("/proc/{}/ns/net", node.init().pid))?;
    let made = thread::spawn(move || -> Result<S> {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(make()?)
    });
    made.join().map_err(|_| anyhow!("the thread in {}'s network panicked", node.name()))?
}

fn receive(listener: &TcpListener) -> Result<(SocketAddr, usize)> {
    let deadline = Instant::now() + COMMAND;
    let (mut stream, peer) = loop {
        match listener.accept() {
            Ok(accepted) => break accepted,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(Instant::now() < deadline, "nobody connected");
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(COMMAND))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok((peer, bytes.len()))
}

fn host_port(cluster: &mut Cluster) -> Result<()> {
    let pod = cluster.a.run_pod_with_ports("web", &[(8080, 80)])?;
    let outcome = host_port_of(cluster, &pod);
    cluster.a.remove_pod(&pod)?;
    outcome?;
    // With the pod gone, so is its port.
    let address = SocketAddr::new(cluster.a.primary_v4()?, 8080);
    ensure!(fetch_from(&cluster.b.node, address).is_err(), "{address} still answers");
    Ok(())
}

fn host_port_of(cluster: &Cluster, pod: &Pod) -> Result<()> {
    cluster.a.exec_ok(pod, &["httpd", "-p", "80", "-h", "/etc"])?;
    for node in [cluster.a.primary_v4()?, cluster.a.primary_v6()?] {
        let address = SocketAddr::new(node, 8080);
        let from_node = fetch_from(&cluster.b.node, address).with_context(|| format!("node2 to {address}"))?;
        // Not busybox' wget: linked statically, it dies in the C library's name resolution.
        let ask = format!("printf 'GET /passwd HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {node} 8080");
        let from_pod = cluster.b.exec_ok(&cluster.b1, &["sh", "-c", &ask])?;
        for (who, got) in [("node2", from_node), ("a pod of node2", from_pod)] {
            ensure!(got.contains("root:x:0:0"), "{who} got {got:?} from {address}");
        }
    }
    Ok(())
}

/// Asks a web server for the file that the pods' image has, from a node.
fn fetch_from(node: &Node, address: SocketAddr) -> Result<String> {
    let limit = Duration::from_secs(3);
    let mut stream = in_network_of(node, move || TcpStream::connect_timeout(&address, limit))?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET /passwd HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn full_mtu(cluster: &mut Cluster) -> Result<()> {
    let from = (&cluster.a, &cluster.a1);
    for to in [&cluster.a2, &cluster.b1] {
        for (v6, headers) in PING_HEADERS {
            let address = if v6 { to.v6() } else { to.v4() }.context("an address of each family")?.to_string();
            let with_payload = |bytes: u32| {
                let size = bytes.to_string();
                ping(from.0, from.1, &["-c", "1", "-W", "1", "-M", "do", "-s", &size, &address])
            };
            let full = with_payload(MTU - headers)?;
            ensure!(full.status.success(), "{MTU} bytes to {address}: {}{}", full.stdout, full.stderr);
            let more = with_payload(MTU - headers + 1)?;
            ensure!(!more.status.success(), "{} bytes to {address} went through", MTU + 1);
        }
    }
    Ok(())
}

fn spoofed_source(cluster: &mut Cluster) -> Result<()> {
    let fabric = cluster.lab.node("vpc")?.clone();
    let thief = cluster.a.node.clone();
    for (victim, target) in [(cluster.b1.v4(), cluster.b.primary_v4()?), (cluster.b1.v6(), cluster.b.primary_v6()?)] {
        let victim = victim.context("an address of each family")?;
        let length = if victim.is_ipv6() { 128 } else { 32 };
        let stolen = format!("{victim}/{length}");
        let before = vpc::refused(&fabric)?;
        thief.run(&["ip", "address", "add", &stolen, "dev", "lo"])?;
        let said = thief.try_run(&["ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", &victim.to_string(), &target.to_string()], COMMAND);
        thief.run(&["ip", "address", "del", &stolen, "dev", "lo"])?;
        ensure!(!said?.status.success(), "{target} answered {victim} at the wrong node");
        let refused = vpc::refused(&fabric)?.spoofed_source - before.spoofed_source;
        ensure!(refused >= 2, "the fabric refused {refused} of 2 packets from {victim}");
    }
    Ok(())
}
