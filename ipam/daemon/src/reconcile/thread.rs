//! The node's reconciler on a thread of its own: what looks at the kernel may wait there, and signals, telemetry and calls of the cloud do
//! not wait for it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;

use super::node::Reconciler;

/// How long the end waits for a look that is under way.
const LAST: Duration = Duration::from_secs(1);

enum Order {
    Look(oneshot::Sender<()>),
    Reload(oneshot::Sender<()>),
}

/// The thread. It ends when this is dropped, or is left behind where the kernel does not let it go.
pub(crate) struct ReconcilerThread {
    orders: Option<Sender<Order>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl ReconcilerThread {
    /// Starts it.
    ///
    /// # Errors
    /// Where the system has no thread left.
    pub(crate) fn start(mut reconciler: Reconciler) -> std::io::Result<Self> {
        let (orders, inbox) = channel();
        let (ends, ended) = channel::<()>();
        std::thread::Builder::new().name("node-network".into()).spawn(move || {
            for order in inbox {
                // Who has asked may be gone.
                let _ = match order {
                    Order::Look(done) => {
                        reconciler.look();
                        done.send(())
                    }
                    Order::Reload(done) => {
                        reconciler.reload();
                        done.send(())
                    }
                };
            }
            drop(ends);
        })?;
        Ok(Self { orders: Some(orders), ended })
    }

    /// Has it look, and ends when it has.
    pub(crate) async fn look(&self) {
        self.have_done(Order::Look).await;
    }

    /// Has it read the configuration again, and ends when it has.
    pub(crate) async fn reload(&self) {
        self.have_done(Order::Reload).await;
    }

    async fn have_done(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let (done, is_done) = oneshot::channel();
        if let Some(orders) = &self.orders {
            // A panic has ended the thread: there is nothing to wait for.
            let _ = orders.send(order(done));
        }
        let _ = is_done.await;
    }
}

impl Drop for ReconcilerThread {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.ended.recv_timeout(LAST);
    }
}
