//! containerd in a node: its own root, state and socket under the default paths, and the pods' image imported.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::command::{CONFIGURE, wait_until};
use super::error::{Context, Error, Result};
use super::node::{Node, Service};
use crate::cri::Cri;
use crate::image;

/// The configuration, shared with the node image of containerlab.
const CONFIG: &str = include_str!("../../labs/image/containerd.toml");

/// Where it is in a node.
const CONFIG_PATH: &str = "/etc/containerd/config.toml";

/// containerd's socket in a node.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// How long containerd may take to answer.
const READY: Duration = Duration::from_secs(30);

/// A containerd that answers.
#[derive(Debug)]
pub struct Containerd {
    node: Node,
    service: Service,
}

impl Containerd {
    /// Starts containerd in `node` and imports the pods' image.
    ///
    /// # Errors
    /// When it does not answer in time; the end of its log is in the message.
    pub fn start(node: &Node) -> Result<(Self, Cri)> {
        let snapshotter = format!("snapshotter = \"{}\"", snapshotter(node)?);
        node.write(CONFIG_PATH, CONFIG.replace("snapshotter = \"overlayfs\"", &snapshotter))?;
        let service = launch(node)?;
        let cri = connect(node, &service)?;
        import_image(node, &cri)?;
        Ok((Self { node: node.clone(), service }, cri))
    }

    /// Stops containerd and starts it again. Pods run on: their shims are no children of it.
    ///
    /// # Errors
    /// When it does not end, or does not answer in time.
    pub fn restart(&mut self) -> Result<Cri> {
        self.service.process().terminate(READY)?;
        self.service = launch(&self.node)?;
        connect(&self.node, &self.service)
    }
}

/// Connects to the containerd of a node.
///
/// # Errors
/// When it does not answer.
pub fn cri_of(node: &Node) -> Result<Cri> {
    Ok(Cri::connect(&node.host_path(SOCKET))?)
}

fn launch(node: &Node) -> Result<Service> {
    node.start_service("containerd", &["containerd", "--config", CONFIG_PATH])
}

fn connect(node: &Node, service: &Service) -> Result<Cri> {
    let answered = wait_until(&format!("containerd of {}", node.name()), READY, || {
        let cri = cri_of(node).map_err(|error| error.to_string())?;
        cri.version().map_err(|error| error.to_string())?;
        Ok(cri)
    });
    answered.map_err(|error| Error::Node { node: node.name().to_owned(), message: format!("{error}\n{}", service.log_tail(10)) })
}

/// overlayfs where a layer can be mounted on the node's file system, else the one that copies.
fn snapshotter(node: &Node) -> Result<&'static str> {
    let probe = "d=$(mktemp -d -p /var/lib/containerd) && mkdir $d/l $d/u $d/w $d/m && \
                 mount -t overlay overlay -o lowerdir=$d/l,upperdir=$d/u,workdir=$d/w $d/m && umount $d/m && rm -r $d";
    let said = node.try_run(&["sh", "-c", probe], CONFIGURE)?;
    Ok(if said.status.success() { "overlayfs" } else { "native" })
}

fn import_image(node: &Node, cri: &Cri) -> Result<()> {
    let tar = "/tmp/pod-image.tar";
    let path = node.host_path(tar);
    let file = File::create(&path).context(|| format!("create {}", path.display()))?;
    image::write(Path::new(image::BUSYBOX), file)
        .map_err(|error| Error::Node { node: node.name().to_owned(), message: error.to_string() })?;
    node.try_run(&["ctr", "--namespace", "k8s.io", "images", "import", tar], READY)?.success()?;
    // The CRI half of containerd learns of the image by an event.
    wait_until(&format!("image {} in {}", image::REFERENCE, node.name()), READY, || match cri.has_image(image::REFERENCE) {
        Ok(true) => Ok(()),
        Ok(false) => Err("it is not there yet".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}
