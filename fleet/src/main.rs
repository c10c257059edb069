//! `barewire-fleet`: one replica.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use clap::{Args, Parser, Subcommand};
use fleet::admission::Limits;
use fleet::backoff::Backoff;
use fleet::hub::Hub;
use fleet::leader::{Elector, Timing};
use fleet::manifest;
use fleet::metrics::{self, Seen};
use fleet::server::Server;
use fleet::tls::{self, Credentials};
use fleet::watches::{self, Watch};
use fleet_api::{Kind, Replica};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// Nodes choose a moment of it to go to another replica.
const DRAIN: Duration = Duration::from_secs(30);
/// Between two looks at the files of the certificate.
const FILES: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
#[command(name = "barewire-fleet", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
/// Watch the API server for all nodes, and tell each what it needs
struct Cli {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    serve: Option<Serve>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Write what a cluster needs for the fleet: rights and a Deployment, as YAML
    Manifest {
        /// Where all of it is
        #[arg(long, default_value = "kube-system")]
        namespace: String,
        /// The container image
        #[arg(long, default_value = "barewire-fleet:latest")]
        image: String,
        /// How many
        #[arg(long, default_value_t = 3)]
        count: u32,
        /// All replicas as nodes reach them, host:port
        #[arg(long, value_delimiter = ',')]
        replicas: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct Serve {
    /// Only look: at the files, the API server and the rights there
    #[arg(long)]
    dry_run: bool,
    /// Where nodes connect
    #[arg(long, default_value = "0.0.0.0:7443")]
    listen: SocketAddr,
    /// Where /readyz and /metrics are; without authentication, so for loopback
    #[arg(long, default_value = "127.0.0.1:7444")]
    telemetry: SocketAddr,
    /// Who signs the nodes' certificates, PEM
    #[arg(long)]
    authority: PathBuf,
    /// What to show to nodes, PEM; its name is barewire-fleet
    #[arg(long)]
    certificate: PathBuf,
    /// Its key, PEM
    #[arg(long)]
    key: PathBuf,
    /// How to reach the API server [default: as a pod does]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Where nodes reach this replica, host:port
    #[arg(long)]
    advertise: Option<String>,
    /// All replicas as nodes reach them, host:port, this one included
    #[arg(long, value_delimiter = ',')]
    replicas: Vec<String>,
    /// Namespace of the Lease that says which replica leads
    #[arg(long, default_value = "kube-system")]
    lease_namespace: String,
    /// Its name
    #[arg(long, default_value = "barewire-fleet")]
    lease: String,
    /// Handshakes a second
    #[arg(long, default_value_t = Limits::default().handshakes_per_second)]
    handshakes: u32,
    /// Nodes at a time
    #[arg(long, default_value_t = Limits::default().nodes)]
    nodes: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BAREWIRE_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let Cli { task, serve } = Cli::parse();
    if let Some(Task::Manifest { namespace, image, count, replicas }) = task {
        let text = manifest::manifest(&manifest::Settings { namespace, image, replicas: count, addresses: replicas });
        return std::io::stdout().write_all(text.as_bytes()).context("standard output");
    }
    serve_nodes(serve.context("what to serve with is missing; see --help")?).await
}

impl Serve {
    fn credentials(&self) -> Result<Credentials> {
        let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
        Ok(Credentials { authority: read(&self.authority)?, certificate: read(&self.certificate)?, key: read(&self.key)? })
    }
}

/// Shows what is in the files, as they change. Never returns.
async fn follow_files(cli: Arc<Serve>, server: Arc<Server>, mut shown: Credentials) {
    loop {
        tokio::time::sleep(FILES).await;
        match cli.credentials().and_then(|found| Ok((tls::server(&found)?, found))) {
            Ok((_, found)) if found == shown => {}
            Ok((config, found)) => {
                tracing::info!(certificate = %cli.certificate.display(), "certificate replaced");
                server.show(config);
                shown = found;
            }
            // In the middle of a change, or for good: what was good is shown on.
            Err(error) => tracing::warn!(error = format!("{error:#}"), "certificate not replaced: its files cannot be read"),
        }
    }
}

async fn serve_nodes(cli: Serve) -> Result<()> {
    let credentials = cli.credentials()?;
    let tls = tls::server(&credentials)?;
    if cli.dry_run {
        return look(&client(cli.kubeconfig.as_deref()).await?, &cli).await;
    }
    let listener = TcpListener::bind(cli.listen).await.with_context(|| format!("listen at {}", cli.listen))?;
    let telemetry = TcpListener::bind(cli.telemetry).await.with_context(|| format!("listen at {}", cli.telemetry))?;
    let mut ends = signal(SignalKind::terminate())?;

    let client = client(cli.kubeconfig.as_deref()).await?;
    let cluster = tokio::select! {
        cluster = cluster(&client) => cluster,
        _ = ends.recv() => return Ok(()),
    };
    let hub = Arc::new(Hub::new(Replica::new(&cluster, cli.replicas.clone(), fleet_api::Limits::default())));
    let limits = Limits { handshakes_per_second: cli.handshakes, nodes: cli.nodes, ..Limits::default() };
    let server = Arc::new(Server::new(Arc::clone(&hub), limits));

    // None of these ends by itself: where one does, or panics, the whole program does, and is started anew.
    let mut tasks = JoinSet::new();
    for kind in Kind::ALL {
        tasks.spawn(named("a watch", Watch::new(kind, Arc::clone(&hub)).run(client.clone())));
    }
    let cli = Arc::new(cli);
    tasks.spawn(named("the look at files", follow_files(Arc::clone(&cli), Arc::clone(&server), credentials)));
    let teller = Arc::clone(&hub);
    tasks.spawn(named("telling", async move { teller.tell().await }));
    let serving = Arc::clone(&server);
    tasks.spawn(async move { serving.run(listener, tls).await.context("serve nodes") });
    let who = cli.advertise.clone().unwrap_or_else(|| cli.listen.to_string());
    let identity = format!("{who}_{:016x}", fastrand::u64(..));
    let elector = Elector::new(client, &cli.lease_namespace, &cli.lease, &identity, Timing::default());
    let (leads, (stop, stopped)) = (elector.leads(), watch::channel(false));
    let (given_up, gone) = oneshot::channel::<()>();
    tasks.spawn(async move {
        elector.run(stopped).await;
        drop(given_up);
        // The others are to end first.
        std::future::pending().await
    });
    let router = router(Arc::clone(&hub), Arc::clone(&server), leads);
    tasks.spawn(async move { axum::serve(telemetry, router).await.context("serve telemetry") });
    tokio::select! {
        ended = tasks.join_next() => match ended {
            Some(Ok(Err(error))) => Err(error),
            Some(Err(panic)) => bail!("{panic}"),
            _ => bail!("a task has ended"),
        },
        _ = ends.recv() => {
            stop.send_replace(true);
            drop(tokio::join!(drain(&server, &cli), gone));
            Ok(())
        }
    }
}

/// Whether the API server grants what is needed. All that is missing is said at once.
async fn look(client: &Client, cli: &Serve) -> Result<()> {
    let mut missing = Vec::new();
    let mut said = |what: &str, outcome: Result<(), kube::Error>| match outcome {
        Ok(()) => tracing::info!(permission = what, "granted"),
        Err(error) => missing.push(format!("{what}: {error}")),
    };
    said("get namespace kube-system", watches::cluster(client).await.map(drop));
    for watched in watches::ALL {
        said(&format!("list {}", watched.resource), watched.try_list(client).await);
    }
    let leases = kube::Api::<Lease>::namespaced(client.clone(), &cli.lease_namespace);
    said(&format!("get lease {}/{}", cli.lease_namespace, cli.lease), leases.get_opt(&cli.lease).await.map(drop));
    if missing.is_empty() { Ok(()) } else { bail!("{}", missing.join("\n")) }
}

async fn named(what: &'static str, task: impl Future<Output = ()>) -> Result<()> {
    task.await;
    bail!("{what} has ended")
}

async fn client(kubeconfig: Option<&Path>) -> Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).with_context(|| path.display().to_string())?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::incluster().context("neither --kubeconfig nor a pod's service account")?,
    };
    Ok(Client::try_from(config)?)
}

async fn cluster(client: &Client) -> String {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        match watches::cluster(client).await {
            Ok(cluster) => return cluster,
            Err(error) => {
                tracing::warn!(%error, "cluster not identified");
                tokio::time::sleep(backoff.next(fastrand::f64())).await;
            }
        }
    }
}

/// Sends the nodes to the other replicas; where there are none they find out by themselves.
async fn drain(server: &Server, cli: &Serve) {
    let others: Vec<_> = cli.replicas.iter().filter(|replica| Some(*replica) != cli.advertise.as_ref()).cloned().collect();
    if others.is_empty() {
        return;
    }
    tracing::info!(nodes = server.nodes().len(), replicas = ?others, "draining");
    server.drain(others, DRAIN);
    let gone = async {
        while !server.nodes().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    drop(tokio::time::timeout(DRAIN + Duration::from_secs(5), gone).await);
}

fn router(hub: Arc<Hub>, server: Arc<Server>, leads: watch::Receiver<bool>) -> Router {
    let readiness = Arc::clone(&hub);
    let ready = move || async move {
        if readiness.replica().is_ready() {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not all kinds have been listed\n")
        }
    };
    Router::new()
        .route("/readyz", get(ready))
        .route("/metrics", get(move || async move { metrics::text(&Seen { hub: &hub, server: &server, leads: *leads.borrow() }) }))
}
