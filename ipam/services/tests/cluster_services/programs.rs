//! The kernel programs in front of our rules (docs/adr/0040): they translate what pods send to most services, and the rules have the rest.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use conformance_tests::netns::Netns;
use datapath::fast_path::{FastPath, Fronts, Limits, Reason, Scope, TrafficOf};
use datapath::netlink::Socket;
use datapath::{Kept, NodeNetwork, PodLink, PodRange, Uplink};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use services::Services;

use crate::site::{MTU, NODE, OUTSIDE, PODS, SERVICES, UPLINK, host_end, inside_mac, pod, remote};

/// Where the loader looks for pins.
const BPF_FS: &str = "/sys/fs/bpf";

/// Gives this thread, and those that it starts, a BPF file system of their own: what is pinned goes with them.
pub(crate) fn own_pins() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("keep mounts private")?;
    mount(Some("bpf"), Path::new(BPF_FS), Some("bpf"), MsFlags::empty(), nothing).context("mount a BPF file system")
}

/// The object file, as it is shipped; `None`, with the reason printed, where nobody has said where it is.
pub(crate) fn object() -> Result<Option<PathBuf>> {
    let Some(folder) = std::env::var_os("BAREWIRE_BIN_DIR") else {
        ensure!(std::env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "set BAREWIRE_BIN_DIR to the folder of barewire-ebpf.o");
        println!("SKIP the kernel programs: BAREWIRE_BIN_DIR, the folder of barewire-ebpf.o, is not set");
        return Ok(None);
    };
    let path = PathBuf::from(folder).join("barewire-ebpf.o");
    ensure!(path.is_file(), "BAREWIRE_BIN_DIR: {} is missing", path.display());
    Ok(Some(path))
}

pub(crate) struct Programs<'a> {
    node: &'a Netns,
    fast_path: FastPath,
}

impl<'a> Programs<'a> {
    /// At the uplink and at the links of all pods, which are there already.
    pub(crate) fn attach(node: &'a Netns, object: &Path) -> Result<Self> {
        let _inside = node.enter()?;
        let (mut host, network) = (Socket::open()?, network()?);
        let fast_path = FastPath::load(object, Path::new("/run/differential"))?;
        fast_path.set_network(&network)?;
        fast_path.attach_uplinks(&mut host, &network.uplinks)?;
        let refused = network.apply(&mut host, Some(&fast_path), &mut Kept::default());
        ensure!(refused.is_empty(), "refused: {refused:?}");
        for number in 0..PODS {
            fast_path.adopt_endpoint(&mut host, &link(number), &network)?;
        }
        ensure!(fast_path.heal()? == usize::from(PODS), "a pod is left to the stack");
        Ok(Self { node, fast_path })
    }

    /// Has them translate to all that the rules serve; to how many ports of services.
    pub(crate) fn serve(&self, services: &Services) -> Result<usize> {
        let _inside = self.node.enter()?;
        Ok(self.fast_path.serve(&services.fronts())?)
    }

    /// Has them translate to nothing.
    pub(crate) fn leave_to_rules(&self) -> Result<()> {
        let _inside = self.node.enter()?;
        self.fast_path.serve(&Fronts::new())?;
        Ok(())
    }

    /// How many flows of UDP they have translated since this was asked last; they are forgotten.
    pub(crate) fn take_translated(&self) -> Result<usize> {
        Ok(self.fast_path.forget_translations(usize::MAX, &|_, _| true)?)
    }

    /// Packets that they had to drop because nobody knew of their translation any more.
    pub(crate) fn lost(&self) -> Result<u64> {
        let lost = self.fast_path.reasons()?.into_iter().find(|(reason, _)| *reason == Reason::NoTranslation);
        Ok(lost.map_or(0, |(_, packets)| packets))
    }

    /// Packets of pods to services that were left to the rules.
    pub(crate) fn by_rules(&self) -> Result<u64> {
        let sent =
            |number| -> Result<u64> { Ok(self.fast_path.traffic(TrafficOf::Pod(host_end(number)))?.sent[Scope::Service as usize].packets) };
        (0..PODS).map(sent).sum()
    }
}

fn network() -> Result<NodeNetwork> {
    let addresses = |texts: [&str; 2]| texts.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>();
    let range = |is_v4| PodRange { first: pod(0, is_v4), last: pod(PODS - 1, is_v4), uplink: 0 };
    let uplink = Uplink {
        index: 0,
        ifindex: UPLINK,
        ifname: "eth0".to_owned(),
        mtu: MTU,
        running: true,
        gateways: addresses(OUTSIDE)?,
        addresses: addresses(NODE)?,
    };
    Ok(NodeNetwork {
        uplinks: vec![uplink],
        node_addresses: addresses(NODE)?,
        pods: vec![range(true), range(false)],
        native: [pod(0, true), pod(0, false), remote(0, true), remote(0, false)]
            .into_iter()
            .map(|address| ipnetwork::IpNetwork::new(address, if address.is_ipv4() { 24 } else { 64 }))
            .collect::<Result<_, _>>()?,
        service: SERVICES.iter().map(|range| range.parse()).collect::<Result<_, _>>()?,
        ..NodeNetwork::default()
    })
}

fn link(number: u8) -> PodLink {
    PodLink {
        host_ifname: format!("bw{number}"),
        host_ifindex: host_end(number),
        pod_ifname: "eth0".to_owned(),
        pod_mac: inside_mac(number),
        mtu: MTU,
        container_id: format!("pod{number}"),
        addresses: vec![pod(number, true), pod(number, false)],
        namespace: String::new(),
        limits: Limits::default(),
        allowed: Vec::new(),
    }
}
