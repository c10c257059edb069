//! Hands a node over that nobody has mended: to a program of the operator's, which has the cloud end it, or a person look at it.
//!
//! It is told the node's name, and on standard input what was seen, a line each. That it succeeds means that it has taken the node over, not that
//! the node is gone: as long as it is there it is handed over again, an hour later, by whoever leads then.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use fleet_plans::health::Millis;
use fleet_plans::node::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::Part;
use super::carry::{Deed, Shared, carry_out};

/// It is killed after that.
const LIMIT: Duration = Duration::from_secs(300);
/// Bytes of what it says that are told.
const SAID_MAX: u64 = 500;

/// Hands `node` over, and tells what has come of it; returns its name.
pub(super) async fn hand_over(shared: Arc<Shared>, hook: PathBuf, node: Node, evidence: Vec<String>, at: Millis) -> String {
    let name = node.name.clone();
    let (reason, is_warning, said) = match execute(&hook, &name, &evidence, LIMIT).await {
        Ok(said) => ("NodeHandedOver", false, said),
        Err(why) => ("NodeHookFailed", true, why),
    };
    let evidence = vec![format!("{}: {said}", hook.display())];
    carry_out(shared, Deed { part: Part::Health, node, change: None, reason, is_warning, evidence, at }).await;
    name
}

/// What it has said; or why it has not taken the node over.
async fn execute(hook: &Path, node: &str, evidence: &[String], limit: Duration) -> Result<String, String> {
    let mut command = Command::new(hook);
    // Who leads no longer ends what it has begun.
    command.arg(node).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let talk = async {
        if let Some(mut stdin) = stdin {
            let lines: String = evidence.iter().map(|line| format!("{line}\n")).collect();
            // It need not read what it does not want to know.
            let _unread = stdin.write_all(lines.as_bytes()).await;
        }
        let mut said = Vec::new();
        if let Some(stdout) = stdout {
            let _unsaid = stdout.take(SAID_MAX).read_to_end(&mut said).await;
        }
        (child.wait().await, String::from_utf8_lossy(&said).split_whitespace().collect::<Vec<_>>().join(" "))
    };
    match tokio::time::timeout(limit, talk).await {
        Ok((Ok(status), said)) if status.success() => Ok(said),
        Ok((Ok(status), said)) => Err(format!("{status}: {said}")),
        Ok((Err(error), _)) => Err(error.to_string()),
        Err(_) => Err(format!("not at its end after {} s, and killed", limit.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    async fn run(script: &str, limit: Duration) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let hook = folder.path().join("hook");
        fs::write(&hook, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        execute(&hook, "n1", &["uplink: no carrier".to_owned(), "gateway: silent".to_owned()], limit).await
    }

    #[tokio::test]
    async fn it_is_told_the_node_and_what_was_seen_and_whatever_it_does_has_an_end() {
        let soon = Duration::from_secs(20);
        assert_eq!(run("echo ends \"$1\"; cat", soon).await.unwrap(), "ends n1 uplink: no carrier gateway: silent");
        assert_eq!(run("echo no such instance; exit 3", soon).await.unwrap_err(), "exit status: 3: no such instance");
        assert_eq!(run("exec sleep 1000", Duration::from_millis(300)).await.unwrap_err(), "not at its end after 0 s, and killed");
        // A gigabyte is not read, and not waited for.
        assert!(run("exec cat /dev/zero", soon).await.unwrap_err().starts_with("signal: 13"));
        assert!(execute(Path::new("/nowhere"), "n1", &[], soon).await.unwrap_err().contains("No such file"));
    }
}
