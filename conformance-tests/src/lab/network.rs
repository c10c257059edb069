//! A network namespace of the lab, to make sockets in: a socket stays where it was made, whoever uses it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::error::{Context, Error, Result};
use super::node::Node;

/// The network of a node or a pod. It outlives neither: sockets of a namespace that is gone go nowhere.
#[derive(Debug, Clone)]
pub struct Network {
    name: String,
    namespace: Arc<File>,
}

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
        Ok(Self { name: name.to_owned(), namespace: Arc::new(namespace) })
    }

    /// Whose it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
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
