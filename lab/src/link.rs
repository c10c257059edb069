//! Links: veth pairs whose two ends are born in the nodes they belong to. Only a node that is rebooted has its ends moved away and back.

use std::collections::BTreeMap;

use super::command::{CONFIGURE, run};
use super::error::{Error, Result};
use super::node::Node;
use super::topology::LinkSpec;

/// Makes a link and sets both ends up.
pub(super) fn create(nodes: &BTreeMap<String, Node>, link: &LinkSpec) -> Result<()> {
    let [near, far] = &link.ends;
    let node =
        |name: &str| nodes.get(name).ok_or_else(|| Error::Node { node: name.to_owned(), message: "it is on a link and not up".to_owned() });
    let (near_node, far_node) = (node(&near.node)?, node(&far.node)?);
    let mtu = link.mtu.to_string();
    let peer_netns = far_node.init().pid.to_string();
    // Only the network namespace is entered: `netns` takes a pid of the host's pid namespace.
    let mut add = near_node.network_command("ip");
    add.args(["link", "add", "name", &near.interface, "mtu", &mtu, "type", "veth"]);
    add.args(["peer", "name", &far.interface, "mtu", &mtu, "netns", &peer_netns]);
    run(&mut add, CONFIGURE)?.success()?;
    for (node, interface) in [(near_node, &near.interface), (far_node, &far.interface)] {
        node.run(&["ip", "link", "set", interface, "up"])?;
    }
    Ok(())
}

/// Name of an end while its node is down, in the node at the other end.
fn parked(link: &LinkSpec, node: &str) -> String {
    format!("down-{}", link.ends.iter().find(|end| end.node == node).map_or("", |end| end.interface.as_str()))
}

/// Moves the end of `node` into the node at the other end, so that the link outlives `node`.
pub(super) fn unplug(nodes: &BTreeMap<String, Node>, link: &LinkSpec, node: &str) -> Result<()> {
    let (own, other) = sides(nodes, link, node)?;
    let name = parked(link, node);
    let interface = &own.1;
    let netns = other.init().pid.to_string();
    run(own.0.network_command("ip").args(["link", "set", interface, "down"]), CONFIGURE)?.success()?;
    run(own.0.network_command("ip").args(["link", "set", interface, "name", &name, "netns", &netns]), CONFIGURE)?.success().map(drop)
}

/// Moves the end of `node` back and sets it up.
pub(super) fn plug_in(nodes: &BTreeMap<String, Node>, link: &LinkSpec, node: &str) -> Result<()> {
    let (own, other) = sides(nodes, link, node)?;
    let name = parked(link, node);
    let netns = own.0.init().pid.to_string();
    run(other.network_command("ip").args(["link", "set", &name, "name", &own.1, "netns", &netns]), CONFIGURE)?.success()?;
    own.0.run(&["ip", "link", "set", "lo", "up"])?;
    own.0.run(&["ip", "link", "set", &own.1, "up"]).map(drop)
}

/// The node with its interface, and the node at the other end.
fn sides<'a>(nodes: &'a BTreeMap<String, Node>, link: &LinkSpec, node: &str) -> Result<((&'a Node, String), &'a Node)> {
    let [near, far] = &link.ends;
    let (own, other) = if near.node == node { (near, far) } else { (far, near) };
    let find =
        |name: &str| nodes.get(name).ok_or_else(|| Error::Node { node: name.to_owned(), message: "it is on a link and not up".to_owned() });
    Ok(((find(&own.node)?, own.interface.clone()), find(&other.node)?))
}
