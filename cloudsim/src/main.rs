//! cloudsim: a cloud to test against, as a program. Everything beyond the first listeners is done over its control API.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the addresses it listens on are its result")]

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use clap::Parser;
use cloudsim::cloud::{Cloud, Settings};
use cloudsim::fabric::NoFabric;
use cloudsim::http::{Role, Server};
use ipnetwork::{Ipv4Network, Ipv6Network};
use tokio::signal::unix::{SignalKind, signal};

/// A simulated cloud: EC2 API, instance metadata of three clouds, and how they misbehave.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where the control API listens; it has no authentication.
    #[arg(long, default_value = "127.0.0.1:7070")]
    control: SocketAddr,
    /// Where the EC2 API listens.
    #[arg(long, default_value = "127.0.0.1:7071")]
    api: SocketAddr,
    /// The region, which requests must be signed for.
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// The account number.
    #[arg(long, default_value = "123456789012")]
    account: String,
    /// The source of all chance: the same seed and the same calls give the same answers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// An IPv4 block of the VPC (may be repeated) [default: those of its subnets]
    #[arg(long = "vpc-cidr")]
    vpc_cidrs: Vec<Ipv4Network>,
    /// An IPv6 block of the VPC (may be repeated) [default: those of its subnets]
    #[arg(long = "vpc-ipv6-cidr")]
    vpc_ipv6_cidrs: Vec<Ipv6Network>,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let Arguments { control, api, region, account, seed, vpc_cidrs, vpc_ipv6_cidrs } = Arguments::parse();
    let cloud = Cloud::new(Settings { account, region, seed, vpc_cidrs, vpc_ipv6_cidrs });
    let server = Server::start(cloud, Box::new(NoFabric)).context("cannot start")?;
    for (name, address, role) in [("control", control, Role::Control), ("api", api, Role::Api)] {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}: is another cloudsim running?"))?;
        println!("{name} {}", server.listen(listener, role)?);
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
