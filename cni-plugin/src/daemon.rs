//! What the daemon is asked, and how long it is waited for.
//!
//! A daemon that is being restarted is away for some 0.1 s, and a second more where it crashed (`RestartSec`). Without
//! patience each restart that meets kubelet's question makes the node NotReady, and each that meets a pod's start costs the
//! pod kubelet's back-off of ten seconds.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use node_api::{ClientError, Receipt, Reply, Request, call, call_for_receipt};

const SENDER: &str = concat!("barewire-cni ", env!("CARGO_PKG_VERSION"));

/// How long a daemon that does not listen is waited for, and all that STATUS may take.
///
/// kubelet asks its runtime every five seconds after the last answer (`updateRuntimeUp`), with a deadline of two minutes
/// (`runtimeRequestTimeout`); neither go-cni nor ocicni has a deadline of its own. But an answer that is 30 s old is "container runtime
/// is down" to kubelet (`maxWaitForContainerRuntime`), and the node NotReady. Two questions of this length fit in there.
/// While go-cni waits it holds its lock for reading: with a change of the configuration list that waits for it, all ADDs and
/// DELs wait too.
const RESTART: Duration = Duration::from_secs(10);
/// Well under kubelet's two minutes for a runtime request, so that the runtime can still clean up.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);
/// Short beside a restart; 200 attempts in all at most, some microseconds each.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks once.
pub(crate) fn ask(socket: &Path, request: &Request, netns: Option<BorrowedFd<'_>>) -> Result<Reply, ClientError> {
    call(socket, SENDER, request, netns, ANSWER)
}

/// Asks, and waits for a daemon that does not listen yet. One that took the request and broke off is not asked again: what
/// crashed it would crash it again.
pub(crate) fn ask_through_restart(socket: &Path, request: &Request, netns: Option<BorrowedFd<'_>>) -> Result<Reply, ClientError> {
    patiently(ANSWER, ClientError::nobody_listens, |limit| call(socket, SENDER, request, netns, limit))
}

/// Likewise, for a reply that the daemon takes back where it does not arrive.
pub(crate) fn ask_for_receipt(socket: &Path, request: &Request, netns: BorrowedFd<'_>) -> Result<(Reply, Receipt), ClientError> {
    patiently(ANSWER, ClientError::nobody_listens, |limit| call_for_receipt(socket, SENDER, request, Some(netns), limit))
}

/// Asks for the status: within [`RESTART`] in all, and again where the daemon ended with the question in its hands.
pub(crate) fn ask_status(socket: &Path) -> Result<Reply, ClientError> {
    let passes = |error: &ClientError| error.nobody_listens() || error.hung_up();
    patiently(RESTART, passes, |limit| call(socket, SENDER, &Request::Status, None, limit))
}

fn patiently<T>(
    limit: Duration,
    passes: impl Fn(&ClientError) -> bool,
    attempt: impl Fn(Duration) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let begun = Instant::now();
    loop {
        match attempt(limit.saturating_sub(begun.elapsed())) {
            Err(away) if passes(&away) && begun.elapsed() + PAUSE < RESTART => std::thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}
