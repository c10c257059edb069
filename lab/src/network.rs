//! A network namespace of the lab, to make sockets in: a socket stays where it was made, whoever uses it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::error::{Context, Error, Result};
use super::node::Node;

/// The network of a node or a pod. It outlives neither: sockets of a namespace that is gone go nowhere.
#[derive(Debug, Clone)]
pub struct Network {
    name: String,
    namespace: Arc<File>,
    ports: Arc<AtomicU16>,
}

/// Below the kernel's own choice (`ip_local_port_range`), and as many as no suite needs.
const PORTS: std::ops::Range<u16> = 24_000..32_000;

impl Network {
    /// A node's own.
    ///
    /// # Errors
    /// When the node is gone.
    pub fn of(node: &Node) -> Result<Self> {
        Self::at(node.name(), Path::new(&format!("/proc/{}/ns/net", node.init().pid)))
    }

    /// The namespace at a path of the host; `name` is for messages.
    ///
    /// # Errors
    /// When there is none.
    pub fn at(name: &str, path: &Path) -> Result<Self> {
        let namespace = File::open(path).context(|| format!("open the network of {name}, {}", path.display()))?;
        Ok(Self { name: name.to_owned(), namespace: Arc::new(namespace), ports: Arc::new(AtomicU16::new(0)) })
    }

    /// Whose it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A port for a client, another than anybody had before. The kernel takes care of one destination at a time, and a service and its backend
    /// are two: connections to both may get the same port, by a chance that is too small for a test and too large for a suite.
    #[must_use]
    pub fn next_port(&self) -> u16 {
        PORTS.start + self.ports.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start)
    }

    /// Does some work in it, on a thread of its own that ends there. Programs that are started meanwhile are in it too.
    ///
    /// # Errors
    /// Those of the work, and when the namespace cannot be entered.
    pub fn run<T: Send, E: From<Error> + Send>(&self, work: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E> {
        let inside = || {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET).context(|| format!("enter the network of {}", self.name))?;
            work()
        };
        let outcome = thread::scope(|scope| scope.spawn(inside).join());
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
