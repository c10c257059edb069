//! Flannel itself: `flanneld` with its VXLAN backend on each node, and the etcd through which the nodes learn of each other.
//!
//! Its own CNI plugin only passes on to `bridge` and `host-local` what `flanneld` has written down; the benchmark does the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use lab::world;
use serde_json::json;

use crate::datapath::peers::etcd::{self, Etcd};
use crate::datapath::peers::program::Program;

/// Tells nodes the network of which each takes a part.
pub(in crate::datapath) fn configure(store: &mut Etcd, pods: &str, length_of_a_node: u8) -> Result<()> {
    let network = json!({"Network": pods, "SubnetLen": length_of_a_node, "Backend": {"Type": "vxlan"}});
    store.put("/coreos.com/network/config", &network.to_string())
}

/// `flanneld` on one node.
#[derive(Debug)]
pub(in crate::datapath) struct Flannel {
    daemon: Program,
    /// What its CNI plugin would read.
    subnet_file: PathBuf,
}

impl Flannel {
    /// Starts it in the network of the calling thread, where `store` is etcd's address, and waits for the node's part of the network:
    /// `range`, because a daemon takes again what its file names.
    pub(in crate::datapath) fn start(folder: &Path, store: &str, interface: &str, pods: &str, range: &str) -> Result<Self> {
        let subnet_file = folder.join("subnet.env");
        let before = format!("FLANNEL_NETWORK={pods}\nFLANNEL_SUBNET={range}\nFLANNEL_MTU=0\nFLANNEL_IPMASQ=true\n");
        fs::write(&subnet_file, before).with_context(|| format!("cannot write {}", subnet_file.display()))?;
        let daemon = Program::start(
            &world::program("flannel", "flanneld")?,
            &[
                &format!("-etcd-endpoints=http://{store}:{}", etcd::PORT),
                &format!("-iface={interface}"),
                &format!("-subnet-file={}", subnet_file.display()),
                "-ip-masq",
            ],
            folder.join("flanneld.log"),
        )?;
        let mut flannel = Self { daemon, subnet_file };
        let file = flannel.subnet_file.clone();
        flannel.daemon.wait_until("flanneld gets no subnet", || mtu_in(&file).is_some_and(|mtu| mtu > 0))?;
        Ok(flannel)
    }

    /// The largest packet of its pods.
    pub(in crate::datapath) fn mtu(&self) -> Result<u32> {
        mtu_in(&self.subnet_file).with_context(|| format!("{} has no FLANNEL_MTU", self.subnet_file.display()))
    }

    /// Waits until the node has a way to `range`, the other node's.
    pub(in crate::datapath) fn wait_for_route(&mut self, range: &str) -> Result<()> {
        self.daemon.wait_until(&format!("flanneld sets no route to {range}"), || {
            let routes = Command::new("ip").args(["route", "show", range, "dev", "flannel.1"]).output();
            routes.is_ok_and(|output| !output.stdout.is_empty())
        })
    }

    /// Has it stand still.
    pub(in crate::datapath) fn pause(&self) -> Result<()> {
        self.daemon.pause()
    }
}

fn mtu_in(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.lines().find_map(|line| line.strip_prefix("FLANNEL_MTU=")?.parse().ok())
}
