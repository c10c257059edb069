//! containerd in a node: its own root, state and socket under the default paths, and images imported.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::command::{CONFIGURE, Running, wait_until};
use super::error::{Context, Error, Result};
use super::node::{Node, Service};
use crate::cri::Cri;
use crate::image;
use crate::world;

/// Where the configuration is in a node.
const CONFIG_PATH: &str = "/etc/containerd/config.toml";

/// containerd's socket in a node.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// How long containerd may take to answer.
const READY: Duration = Duration::from_secs(30);

/// How long the import of an image may take, with everything else of a cluster starting beside it.
const IMPORT: Duration = Duration::from_secs(120);

/// Which release of somebody else's program: the two ends of what people run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian's package: containerd 1.6, reference plugins 1.1.1.
    Debian,
    /// What `world.toml` pins.
    Current,
}

impl Release {
    /// The configuration; that of Debian's is shared with the node image of containerlab.
    const fn config(self) -> &'static str {
        match self {
            Self::Debian => include_str!("../labs/image/containerd.toml"),
            Self::Current => include_str!("../labs/image/containerd-2.toml"),
        }
    }

    /// A program of containerd.
    fn program(self, name: &str) -> Result<PathBuf> {
        match self {
            Self::Debian => Ok(PathBuf::from(name)),
            Self::Current => Ok(world::program("containerd", name)?),
        }
    }
}

/// A containerd that answers.
#[derive(Debug)]
pub struct Containerd {
    node: Node,
    release: Release,
    service: Service,
}

impl Containerd {
    /// Starts Debian's containerd in `node` and imports the pods' image.
    ///
    /// # Errors
    /// When it does not answer in time; the end of its log is in the message.
    pub fn start(node: &Node) -> Result<(Self, Cri)> {
        Self::start_release(node, Release::Debian)
    }

    /// Starts a containerd in `node` and imports the pods' image.
    ///
    /// # Errors
    /// As [`Containerd::start`].
    pub fn start_release(node: &Node, release: Release) -> Result<(Self, Cri)> {
        let snapshotter = format!("snapshotter = \"{}\"", snapshotter(node)?);
        node.write(CONFIG_PATH, release.config().replace("snapshotter = \"overlayfs\"", &snapshotter))?;
        let service = launch(node, release)?;
        let cri = connect(node, &service)?;
        let containerd = Self { node: node.clone(), release, service };
        let tar = tempfile::NamedTempFile::new().context(|| "make a temporary file".to_owned())?;
        image::write(Path::new(image::BUSYBOX), tar.as_file()).map_err(|error| image_failed(node, &error))?;
        containerd.import(&cri, tar.path(), image::REFERENCE)?;
        Ok((containerd, cri))
    }

    /// Imports the images in `tar`, a file of the host, and waits until the runtime has `reference`.
    ///
    /// # Errors
    /// When containerd refuses it.
    pub fn import(&self, cri: &Cri, tar: &Path, reference: &str) -> Result<()> {
        let file = File::open(tar).context(|| format!("open {}", tar.display()))?;
        let mut import = self.node.command(self.release.program("ctr")?);
        import.args(["--namespace", "k8s.io", "images", "import", "-"]);
        Running::start(&mut import, Stdio::from(file))?.wait(IMPORT)?.success()?;
        // The CRI half of containerd learns of the image by an event.
        wait_until(&format!("image {reference} in {}", self.node.name()), READY, || match cri.has_image(reference) {
            Ok(true) => Ok(()),
            Ok(false) => Err("it is not there yet".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Stops containerd and starts it again. Pods run on: their shims are no children of it.
    ///
    /// # Errors
    /// When it does not end, or does not answer in time.
    pub fn restart(&mut self) -> Result<Cri> {
        self.service.process().terminate(READY)?;
        self.service = launch(&self.node, self.release)?;
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

fn launch(node: &Node, release: Release) -> Result<Service> {
    let program = release.program("containerd")?.to_string_lossy().into_owned();
    let argv = [&program, "--config", CONFIG_PATH];
    match release {
        Release::Debian => node.start_service("containerd", &argv),
        Release::Current => {
            // It looks its shim up in PATH, and Debian's is there.
            let own = world::directory("containerd")?;
            let path = format!("PATH={}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", own.display());
            node.start_service("containerd", &[&["env", &path][..], &argv].concat())
        }
    }
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

fn image_failed(node: &Node, error: &image::Error) -> Error {
    Error::Node { node: node.name().to_owned(), message: error.to_string() }
}
