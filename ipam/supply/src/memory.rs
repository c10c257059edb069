//! What the cloud has told of the node's network, as a restart must know it: pods keep their network whatever a reader omits then, and
//! also where no reader answers (docs/adr/0010).

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use node_api::BootMillis;
use serde::{Deserialize, Serialize};

use crate::Interface;

/// What the cloud has told of the node's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// All interfaces, the node's own first, without their blocks and room.
    pub interfaces: Vec<Interface>,
    /// Every block, with its interface's name.
    pub blocks: Vec<(IpNetwork, String)>,
    /// The cloud network's own blocks.
    pub native: Vec<IpNetwork>,
    /// Of the blocks those that were assigned at this node's request, and may be unassigned. A record of before this was kept has none.
    #[serde(default)]
    pub assigned_here: BTreeSet<IpNetwork>,
}

/// What the store has of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudRecord {
    /// What was told.
    pub known: Known,
    /// The number of each interface as an uplink.
    pub uplinks: BTreeMap<String, u16>,
}

/// What a start remembers of the cloud.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CloudMemory {
    /// Blocks that were given back, or were about to be, and when.
    pub released: Vec<(IpNetwork, BootMillis)>,
    /// The node's network as it was.
    pub network: CloudRecord,
}
