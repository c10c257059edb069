//! What pods have used stays in the sum of their namespace when they end.

use anyhow::{Result, ensure};
use lab::host::{Daemon, Host, Settings};

use crate::{addresses, ping};

/// Each packet that a pod of the test sends to the node.
const PINGS: f64 = 20.0;
const SENT: &str = r#"barewire_namespace_packets_total{namespace="jobs",direction="sent",scope="node"}"#;

/// A pod that lives for 20 pings, which no scrape sees.
fn short_job(host: &Host) -> Result<()> {
    let pod = host.pod()?;
    let identity = "K8S_POD_NAMESPACE=jobs;K8S_POD_NAME=short";
    let result = host.call_for("ADD", &pod).with("CNI_ARGS", identity).run()?.result()?;
    let to = format!("-I {}", addresses(&result)[0]);
    ping(|line| pod.run(line), "10.0.0.10", &to)?;
    pod.run(&format!("ping -n -c {} -i 0.01 -W 2 {to} 10.0.0.10", PINGS - 1.0))?;
    host.call_for("DEL", &pod).run()?.silence()
}

/// `jobs` of them are in the sum once their links are gone. A few packets may come on top: the first ping is tried until it is answered.
fn wait_for_sum(daemon: &Daemon<'_>, jobs: f64) -> Result<()> {
    daemon.wait_until("the sum of the namespace", || {
        let sent = daemon.metric(SENT)?;
        ensure!(sent >= jobs * PINGS && sent < jobs * PINGS + 10.0, "{sent} packets of {jobs} jobs");
        ensure!(!daemon.get("/metrics")?.contains("pod=\"short\""), "a pod that has ended has series of its own");
        Ok(())
    })
}

#[test]
fn jobs_shorter_than_a_scrape_interval_are_in_the_sum() -> Result<()> {
    crate::both_paths(|host, daemon| {
        for jobs in 1..=3 {
            short_job(host)?;
            wait_for_sum(daemon, f64::from(jobs))?;
        }
        Ok(())
    })
}

#[test]
fn the_sum_survives_the_daemon() -> Result<()> {
    for fast_path in [false, true] {
        crate::on_host(Settings::default().with_fast_path(fast_path), |host| {
            let daemon = host.start()?;
            short_job(host)?;
            wait_for_sum(&daemon, 1.0)?;
            // It is kept within a tick of the housekeeping; this daemon ends in good order, the next does not.
            daemon.stop()?;
            let daemon = host.start()?;
            wait_for_sum(&daemon, 1.0)?;
            short_job(host)?;
            wait_for_sum(&daemon, 2.0)?;
            daemon.wait_until("the sum to be on disk", || ensure_kept(&daemon))?;
            daemon.kill()?;
            wait_for_sum(&host.start()?, 2.0)
        })?;
    }
    Ok(())
}

/// Two commits of attachments, ADD and DEL, and one of the sum, since this daemon's start.
fn ensure_kept(daemon: &Daemon<'_>) -> Result<()> {
    let commits = daemon.metric(r#"barewire_operations_total{operation="commit"}"#)?;
    ensure!(commits >= 3.0, "{commits} commits");
    Ok(())
}
