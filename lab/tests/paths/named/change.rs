//! Connections at the moment of a change.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::cni::FastPath;
use lab::kube_proxy::Family;

use super::meanwhile;
use crate::site::{End, Site};

const LIMIT: Duration = Duration::from_secs(3);

/// An idle connection, both ends in our hands.
fn idle(site: &Site, from: End, to: End, family: Family) -> Result<(TcpStream, TcpStream)> {
    let address = SocketAddr::new(site.address(to, family)?, 0);
    let listener = site.network(to).run(|| Ok::<_, anyhow::Error>(TcpListener::bind(address)?))?;
    let at = listener.local_addr()?;
    let client = site.network(from).run(|| Ok::<_, anyhow::Error>(TcpStream::connect_timeout(&at, LIMIT)?))?;
    let (server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(LIMIT))?;
    }
    Ok((client, server))
}

/// The first that conntrack sees of such a connection is its end. Pools of connections are idle for hours, and learn of a server's end
/// by this alone.
pub(super) fn end_is_heard(site: &mut Site) -> Result<()> {
    switched_off(site, |client, server| {
        server.shutdown(Shutdown::Write)?;
        let length = client.read(&mut [0; 8]).context("the end of an idle connection")?;
        ensure!(length == 0, "{length} bytes instead of the end");
        Ok(())
    })
}

/// A hardened host takes up no connection whose beginning it has not seen.
pub(super) fn strict(site: &mut Site) -> Result<()> {
    let node = site.sides[0].node.clone();
    meanwhile(&node, &["sysctl -w net.netfilter.nf_conntrack_tcp_loose=0"], &["sysctl -w net.netfilter.nf_conntrack_tcp_loose=1"], || {
        switched_off(site, |client, server| {
            client.write_all(b"more")?;
            server.read_exact(&mut [0; 4]).context("data of an idle connection")?;
            server.write_all(b"even more")?;
            client.read_exact(&mut [0; 9]).context("the answer on an idle connection")?;
            Ok(())
        })
    })
}

fn switched_off(site: &mut Site, after: impl Fn(&mut TcpStream, &mut TcpStream) -> Result<()>) -> Result<()> {
    let mut connections = Vec::new();
    for family in Family::ALL {
        for (from, to) in [(End::A1, End::A2), (End::A1, End::B1), (End::B2, End::A2)] {
            let name = format!("{} to {}, {family:?}", from.name(), to.name());
            connections.push((idle(site, from, to, family).with_context(|| name.clone())?, name));
        }
    }
    let own = site.fast_path;
    site.restart_with(FastPath::Off, &[], |_| Ok(()))?;
    let outcome = connections.iter_mut().try_for_each(|((client, server), name)| after(client, server).context(name.clone()));
    site.restart_with(own, &[], |_| Ok(()))?;
    outcome
}
