//! Links: veth pairs whose two ends are born in the nodes they belong to, never moved.

use std::collections::BTreeMap;

use super::command::{CONFIGURE, run};
use super::error::{Error, Result};
use super::node::Node;
use super::topology::LinkSpec;

/// Makes a link and sets both ends, and both loopbacks, up.
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
        node.run(&["ip", "link", "set", "lo", "up"])?;
        node.run(&["ip", "link", "set", interface, "up"])?;
    }
    Ok(())
}
