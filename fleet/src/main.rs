//! `barewire-fleet`: one replica.
#![forbid(unsafe_code)]

mod arguments;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use arguments::{Admission, Asked, By, Cli, NodeTask, Serve, Task};
use clap::Parser;
use fleet::acting::{self, Counters, Executor, Mode, Nodes, TeamsFile, TeamsObject};
use fleet::admission::Limits;
use fleet::backoff::Backoff;
use fleet::forwarding::{self, Forwarder};
use fleet::hub::Hub;
use fleet::leader::{Elector, Timing};
use fleet::manifest;
use fleet::nodes::{self, Reach};
use fleet::orders;
use fleet::peers;
use fleet::retry_after;
use fleet::rights;
use fleet::server::{Server, Standing};
use fleet::status::{self, Shown};
use fleet::telemetry::{self, Told};
use fleet::tls::{self, Credentials};
use fleet::top;
use fleet::watches::{self, Tables, Watch};
use fleet::webhook::{self, Webhook};
use fleet_api::{Kind, Replica};
use fleet_plans::health::{self, Quarantine};
use fleet_plans::preflight;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Nodes choose a moment of it to go to another replica.
const DRAIN: Duration = Duration::from_secs(30);
/// Reports of nodes that wait to be heard.
const REPORTS: usize = 4_096;
/// Milliseconds.
const SECOND: health::Millis = 1_000;
const DAY: health::Millis = 86_400 * SECOND;
/// Between two looks at the files of the certificate.
const FILES: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BAREWIRE_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let (task, serve) = Cli::parse().parts();
    let text = match task {
        None => return serve_nodes(serve.context("what to serve with is missing; see --help")?).await,
        Some(Task::Manifest { namespace, image, count, replicas, admission_listen, acts }) => {
            let teams = acts.teams.as_deref().map(manifest::Teams::read).transpose()?;
            let acting = acts.acting();
            if let Some(listen) = admission_listen {
                ensure!(
                    listen.ip().is_loopback(),
                    "--admission-listen {listen}: each API server asks the replica on its own machine, as 127.0.0.1:7445"
                );
                ensure!(acting.teams == Some(Mode::Apply), "--admission-listen needs --teams-mode apply: a webhook adds and refuses");
            }
            let teams_object = acts.teams_resource.clone();
            let preflight_taint = Some(acts.preflight_taint.clone()).filter(|key| key != preflight::KEY);
            manifest::manifest(&manifest::Settings {
                namespace,
                image,
                replicas: count,
                addresses: replicas,
                teams,
                teams_object,
                acting,
                preflight_taint,
                numbers: acts.numbers(),
                hook: acts.health_forced_hook.clone(),
                webhook: admission_listen,
            })
        }
        Some(Task::Nodes { all, output, by }) => asked(Asked::Nodes { all, output }, by).await?,
        Some(Task::Node { name, what: NodeTask::Explain { output, by } }) => asked(Asked::Explain { name, output }, by).await?,
        Some(Task::Node { name, what: NodeTask::Preflight { who, preflight_taint, by } }) => {
            asked(Asked::Preflight { name, by: person(who), taint: preflight_taint }, by).await?
        }
        Some(Task::Pardon { name, by }) => asked(Asked::Pardon { name }, by).await?,
        Some(Task::Quarantine { name, reason, who, by }) => asked(Asked::Quarantine { name, reason, by: person(who) }, by).await?,
        Some(Task::ResetBreaker { by }) => asked(Asked::ResetBreaker, by).await?,
        Some(Task::Status { all, output, server, files, by }) => {
            let shown = Shown::from(files).credentials(by.kubeconfig.as_deref())?;
            let servers = if server.is_empty() { vec![leader(by).await?] } else { server };
            let standing = status::ask(&servers, &tls::client(&shown)?, all).await?;
            output.print(&standing, || status::table(&standing))?
        }
        Some(Task::ApiserverTop { kubeconfig, samples, every, audit_log, lines, json }) => {
            let client = Client::try_from(config(kubeconfig.as_deref()).await?)?;
            let report = top::sample(&client, samples, Duration::from_secs(every), audit_log.as_deref()).await?;
            if json { format!("{:#}\n", report.json()) } else { report.text(lines) }
        }
    };
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}

fn person(who: Option<String>) -> String {
    who.or_else(|| std::env::var("USER").ok()).filter(|who| !who.is_empty()).unwrap_or_else(|| "person".to_owned())
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
        return look(&Client::try_from(config(cli.kubeconfig.as_deref()).await?)?, &cli).await;
    }
    let listener = TcpListener::bind(cli.listen).await.with_context(|| format!("listen at {}", cli.listen))?;
    let telemetry = TcpListener::bind(cli.telemetry).await.with_context(|| format!("listen at {}", cli.telemetry))?;
    let mut ends = signal(SignalKind::terminate())?;
    let names = cli.admission.admission_listen.map(|listen| cli.admission.names(listen)).transpose()?;

    let config = config(cli.kubeconfig.as_deref()).await?;
    let client = retry_after::client(config.clone())?;
    let cluster = tokio::select! {
        cluster = cluster(&client) => cluster,
        _ = ends.recv() => return Ok(()),
    };
    let hub = Arc::new(Hub::new(Replica::new(&cluster, cli.replicas.clone(), fleet_api::Limits::default())));
    let limits = Limits { handshakes_per_second: cli.handshakes, nodes: cli.nodes, ..Limits::default() };
    let server = Arc::new(Server::new(Arc::clone(&hub), limits));
    let gives_orders = cli.acts.preflight_mode == Some(Mode::Apply);
    if gives_orders {
        hub.replica().give_orders();
    }

    // None of these ends by itself: where one does, or panics, the whole program does, and is started anew.
    let mut tasks = JoinSet::new();
    for kind in Kind::ALL {
        tasks.spawn(named("a watch", Watch::new(Tables::new(kind, Arc::clone(&hub))).run(client.clone())));
    }
    let cli = Arc::new(cli);
    tasks.spawn(named("the look at files", follow_files(Arc::clone(&cli), Arc::clone(&server), credentials)));
    let teller = Arc::clone(&hub);
    tasks.spawn(named("telling", async move { teller.tell().await }));
    let serving = Arc::clone(&server);
    tasks.spawn(async move { serving.run(listener, tls).await.context("serve nodes") });
    let who = cli.advertise.clone().unwrap_or_else(|| cli.listen.to_string());
    let identity = format!("{who}_{:016x}", fastrand::u64(..));
    let mut elector = Elector::new(client.clone(), &cli.lease_namespace, &cli.lease, &identity, Timing::default());
    let (leads, leader, (stop, stopped)) = (elector.leads(), elector.leader(), watch::channel(false));
    let address = forwarding::address_of(&identity).unwrap_or_default().to_owned();
    server.stands(Standing { address, leads: leads.clone(), leader: leader.clone() });
    let (acts, forwarding) = (Arc::new(Counters::default()), Arc::new(forwarding::Counters::default()));
    let (told, teams) = watch::channel(TeamsFile::default());
    if cli.acts.acting().is_on() {
        let known = Arc::new(Nodes::default());
        tasks.spawn(named("the watch of nodes", Watch::new(Arc::clone(&known)).run(client.clone())));
        tasks.spawn(named("the choice of peers", peers::follow(Arc::clone(&known), Arc::clone(&hub))));
        if gives_orders {
            let taint = cli.acts.preflight_taint.clone();
            tasks.spawn(named("the orders of preflights", orders::follow(Arc::clone(&known), Arc::clone(&hub), taint)));
        }
        match (cli.acts.teams.clone(), &cli.acts.teams_resource) {
            (Some(path), _) => drop(tasks.spawn(named("the look at teams", acting::follow(path, told)))),
            (None, Some(name)) => {
                drop(tasks.spawn(named("the watch of teams", Watch::new(TeamsObject::new(name, told)).run(client.clone()))))
            }
            (None, None) => {}
        }
        let (said, reports) = mpsc::channel(REPORTS);
        if forwarding::address_of(&identity).is_none() {
            tracing::warn!("no --advertise: other replicas do not find this one while it leads, and what their nodes report is not heard");
        }
        let shown = Arc::clone(&cli);
        let shown = Box::new(move || shown.credentials().and_then(|found| Ok(tls::client(&found)?)).map_err(|error| format!("{error:#}")));
        let forwarder = Forwarder::new(Arc::clone(&server), &identity, &cluster, shown, Arc::clone(&forwarding));
        tasks.spawn(named("the hearing of reports", forwarder.run(leads.clone(), leader, said)));
        let (counted, streams) = watch::channel(0);
        tasks.spawn(named("the count of streams", count(Arc::clone(&server), counted)));
        // The executor decides itself what is tried again, and when.
        let mut config = config;
        config.default_retry = false;
        let acting_client = Client::try_from(config)?;
        cli.acts.judge_hook()?;
        let settings = settings(&cli, identity);
        let executor = Executor::new(acting_client, known, Arc::clone(&acts), teams.clone(), reports, streams, settings);
        elector = elector.noting(executor.note());
        tasks.spawn(named("the executor", executor.run(leads.clone())));
    }
    let (given_up, gone) = oneshot::channel::<()>();
    tasks.spawn(async move {
        elector.run(stopped).await;
        drop(given_up);
        // The others are to end first.
        std::future::pending().await
    });
    let admission = Arc::new(webhook::Counters::default());
    if let Some(listen) = cli.admission.admission_listen {
        let shows = match &cli.admission {
            Admission { admission_secret: Some(name), .. } => {
                let (names, leads) = (names.unwrap_or_default(), leads.clone());
                let (keeper, shows) = webhook::Keeper::new(client.clone(), &cli.lease_namespace, name, names, leads);
                tasks.spawn(named("the keeping of the webhook's certificate", keeper.run()));
                shows
            }
            Admission { admission_certificate: Some(certificate), admission_key: Some(key), .. } => {
                let (files, shows) = webhook::Files::read(certificate, key)?;
                tasks.spawn(named("the look at the webhook's certificate", files.follow()));
                shows
            }
            _ => bail!("--admission-listen {listen}: neither a certificate nor a Secret"),
        };
        let router = webhook::router(teams.clone(), Arc::clone(&admission));
        tasks.spawn(named("the webhook of admission", Webhook::bind(listen, shows).await?.run(router)));
    }
    let router = telemetry::router(Told { hub: Arc::clone(&hub), server: Arc::clone(&server), leads, acts, forwarding, teams, admission });
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

fn settings(cli: &Serve, identity: String) -> acting::Settings {
    let acting = cli.acts.acting();
    let preflight = acting.preflight.map(|mode| preflight::Settings {
        dry_run: mode != Mode::Apply,
        key: cli.acts.preflight_taint.clone(),
        every: Some(cli.acts.preflight_every.saturating_mul(DAY)).filter(|every| *every > 0),
        ..preflight::Settings::default()
    });
    acting::Settings {
        teams: acting.teams.unwrap_or_default(),
        health: health::Settings {
            dry_run: acting.health != Some(Mode::Apply),
            quiet: cli.acts.health_quiet.saturating_mul(SECOND),
            drain_after: cli.acts.health_drain_after.saturating_mul(SECOND),
            overdue_after: cli.acts.health_overdue_after.saturating_mul(SECOND),
            force: cli.acts.health_forced_hook.is_some(),
            ..health::Settings::default()
        },
        hook: cli.acts.health_forced_hook.clone(),
        preflight,
        per_second: cli.acts_per_second,
        identity,
        lease: (cli.lease_namespace.clone(), cli.lease.clone()),
    }
}

/// How many nodes are connected, here and to the replicas that forward reports, twice a second: many that go at once are no sick nodes. Never returns.
async fn count(server: Arc<Server>, counted: watch::Sender<usize>) {
    loop {
        counted.send_replace(server.connected() + server.connected_elsewhere());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Whether the API server grants what is needed. All that is missing is said at once.
async fn look(client: &Client, cli: &Serve) -> Result<()> {
    let mut missing = Vec::new();
    let told = |error: kube::Error| error.to_string();
    let mut said = |what: &str, outcome: Result<(), String>| match outcome {
        Ok(()) => tracing::info!(permission = what, "granted"),
        Err(error) => missing.push(format!("{what}: {error}")),
    };
    said("get namespace kube-system", watches::cluster(client).await.map(drop).map_err(told));
    for watched in watches::ALL {
        said(&format!("list {}", watched.resource), watched.try_list(client).await.map_err(told));
    }
    for right in rights::needed(cli.acts.acting()).into_iter().skip(watches::ALL.len()) {
        said(&format!("{} {}", right.verbs.join(", "), right.resource), right.granted(client).await.map_err(|missing| missing.to_string()));
    }
    if let Some(name) = &cli.admission.admission_secret {
        for (what, outcome) in webhook::look(client, &cli.lease_namespace, name).await {
            said(&what, outcome);
        }
    }
    let leases = kube::Api::<Lease>::namespaced(client.clone(), &cli.lease_namespace);
    said(&format!("get lease {}/{}", cli.lease_namespace, cli.lease), leases.get_opt(&cli.lease).await.map(drop).map_err(told));
    if missing.is_empty() { Ok(()) } else { bail!("{}", missing.join("\n")) }
}

async fn named(what: &'static str, task: impl Future<Output = ()>) -> Result<()> {
    task.await;
    bail!("{what} has ended")
}

/// The API server, as a person reaches it.
async fn reach(by: By) -> Result<Reach> {
    let mut config = match &by.kubeconfig {
        Some(path) => config(Some(path)).await?,
        None => kube::Config::infer().await.context("no kubeconfig: name one by --kubeconfig or KUBECONFIG")?,
    };
    config.default_retry = false;
    Ok(Reach { client: Client::try_from(config)?, lease: (by.lease_namespace, by.lease) })
}

/// The replica that leads, for whoever has named none.
async fn leader(by: By) -> Result<String> {
    let reach = reach(by).await?;
    nodes::leader(&reach).await.context("which replica to ask is not known; name one by --server HOST:PORT")
}

/// What a person asks.
async fn asked(what: Asked, by: By) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))?;
    let reach = reach(by).await?;
    Ok(match what {
        Asked::Nodes { all, output } => {
            let known = nodes::all(&reach).await?;
            let standings = nodes::standings(&known, now, all);
            output.print(&standings, || nodes::table(&standings, known.len(), now))?
        }
        Asked::Explain { name, output } => {
            let told = nodes::explained(&reach, &name, now).await?;
            output.print(&told, || nodes::explanation(&told, now))?
        }
        Asked::Pardon { name } => nodes::pardoned(&reach, &name).await?,
        Asked::Quarantine { name, reason, by } => nodes::quarantined(&reach, &name, &Quarantine::new(&by, &reason, now)?).await?,
        Asked::Preflight { name, by, taint } => nodes::told_to_check(&reach, &name, &taint, &by, now).await?,
        Asked::ResetBreaker => nodes::breaker_reset(&reach, now).await?,
    })
}

async fn config(kubeconfig: Option<&Path>) -> Result<kube::Config> {
    match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).with_context(|| path.display().to_string())?;
            Ok(kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
        }
        None => kube::Config::incluster().context("neither --kubeconfig nor a pod's service account"),
    }
}

async fn cluster(client: &Client) -> String {
    let mut backoff = Backoff::new(Duration::from_secs(1), watches::LONGEST);
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
