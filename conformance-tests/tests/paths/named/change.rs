//! Connections at the moment of a change.

use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use conformance_tests::kube_proxy::Family;
use conformance_tests::lab::cni::FastPath;

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

/// The first that conntrack sees of such a connection is its end; where the host is strict about beginnings
/// (`nf_conntrack_tcp_loose` = 0), it may be anything. Pools of connections are idle for hours, and learn of a server's end by this alone.
pub(super) fn switched(site: &mut Site) -> Result<()> {
    let node = site.sides[0].node.clone();
    meanwhile(&node, &["sysctl -w net.netfilter.nf_conntrack_tcp_loose=0"], &["sysctl -w net.netfilter.nf_conntrack_tcp_loose=1"], || {
        let mut connections = Vec::new();
        for family in Family::ALL {
            for (from, to) in [(End::A1, End::A2), (End::A1, End::B1), (End::B2, End::A2)] {
                let pair = idle(site, from, to, family).with_context(|| format!("{} to {}, {family:?}", from.name(), to.name()))?;
                connections.push((format!("{} to {}, {family:?}", from.name(), to.name()), pair));
            }
        }
        let own = site.fast_path;
        site.restart_with(FastPath::Off, &[], |_| Ok(()))?;
        let heard = connections.into_iter().try_for_each(|(name, (mut client, server))| -> Result<()> {
            server.shutdown(Shutdown::Write)?;
            let length = client.read(&mut [0; 8]).with_context(|| format!("{name}: the end of an idle connection"))?;
            ensure!(length == 0, "{name}: {length} bytes instead of the end");
            Ok(())
        });
        site.restart_with(own, &[], |_| Ok(()))?;
        heard
    })
}
