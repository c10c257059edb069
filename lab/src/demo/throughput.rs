//! TCP throughput pod to pod beside node to node: runs interleaved, so that a noisy machine disturbs both alike; medians.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{CONFIGURE, Running, run, wait_until};
use crate::cri::pod::Pod;
use crate::worker::Worker;

/// Length of one run in seconds.
const SECONDS: &str = "3";

/// Runs of each kind.
const RUNS: usize = 3;

/// iperf3's port.
const PORT: &str = "5201";

/// Medians in Gbit/s.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) pod_gbps: f64,
    pub(super) node_gbps: f64,
}

/// Measures between two pods and between their nodes.
pub(super) fn measure(from: (&Worker, &Pod), to: (&Worker, &Pod)) -> Result<Measured> {
    let pod_address = to.1.v4().context("the receiving pod has no IPv4 address")?;
    let node_address = to.0.primary_v4()?;
    let (mut pods, mut nodes) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        pods.push(one_run(pod_address, |argv| Ok(from.0.in_pod(from.1, argv)?), |argv| Ok(to.0.in_pod(to.1, argv)?))?);
        nodes.push(one_run(node_address, |argv| in_node(from.0, argv), |argv| in_node(to.0, argv))?);
    }
    Ok(Measured { pod_gbps: median(pods), node_gbps: median(nodes) })
}

fn in_node(worker: &Worker, argv: &[&str]) -> Result<Command> {
    let mut command = worker.node.command(argv[0]);
    command.args(&argv[1..]);
    Ok(command)
}

fn one_run(
    server: IpAddr,
    client_side: impl Fn(&[&str]) -> Result<Command>,
    server_side: impl Fn(&[&str]) -> Result<Command>,
) -> Result<f64> {
    let address = server.to_string();
    let mut serve = server_side(&["iperf3", "--server", "--one-off", "--bind", &address, "--port", PORT])?;
    let serving = Running::start(&mut serve, Stdio::null())?;
    wait_until("iperf3's server", CONFIGURE, || {
        let mut list = server_side(&["ss", "-Hltn", &format!("sport = :{PORT}")]).map_err(|error| error.to_string())?;
        let listening = run(&mut list, CONFIGURE).map_err(|error| error.to_string())?.stdout;
        if listening.contains(PORT) { Ok(()) } else { Err("it does not listen yet".to_owned()) }
    })?;
    let limit = Duration::from_secs(30);
    let mut client = client_side(&["iperf3", "--client", &address, "--port", PORT, "--time", SECONDS, "--json"])?;
    let json = run(&mut client, limit)?.success()?;
    serving.wait(limit)?.success()?;
    let result: Value = serde_json::from_str(&json).context("read iperf3's report")?;
    let bits =
        result["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3's report has no end.sum_received.bits_per_second")?;
    Ok(bits / 1e9)
}

/// The middle one of an odd number of values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert!((median(vec![9.0, 1.0, 5.0]) - 5.0).abs() < f64::EPSILON);
    }
}
