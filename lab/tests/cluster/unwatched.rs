//! Nodes that ask the API server nothing: the fleet tells them, and neither needs to be there for what runs.

use std::env;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fleet::backoff::Backoff;
use fleet::client::{Client, Config, Identity};
use fleet::tls::{self, Credentials};
use lab::command::{run, wait_until};
use lab::kubernetes::DNS;
use lab::kubernetes::audit::{Mark, Request, summary};
use lab::kubernetes::fleet::USER;
use lab::network::Network;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::http;
use crate::load::Load;
use crate::restarts::pods_are_back;
use crate::suite::{Case, NODES, PODS, Suite, container};
use crate::workloads::{deployment, load, served, service, two_hundred};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::unwatched(
            "nodes ask the API server nothing: not as they join, not at rest, not for pods, not when barewired restarts",
            nothing_is_asked,
        ),
        // What others have left is gone before: it would hide what 200 pods leave.
        Case {
            goes_by_itself: false,
            ..Case::unwatched("200 pods come and go without kube-proxy, nothing is left, and nodes ask nothing", two_hundred_unwatched)
        },
        Case::unwatched("an API server that is away is not missed, and is not stormed when it is back", control_plane_away),
        Case::unwatched("a fleet that is away is not missed, nor are both, by a node that has lost its rules", fleet_away),
    ]
}

/// How long nothing happens where nothing is asked.
const REST: Duration = Duration::from_secs(20);
/// After the return of an API server: how long requests are counted.
const RETURN: Duration = Duration::from_secs(30);
/// How soon a daemon that knows its services only from its file may serve them.
const FROM_FILE: Duration = Duration::from_secs(10);
/// How soon a change has to be in force once the API server is back: the fleet asks at least every 15 s, and twice where it has to list anew.
const CAUGHT_UP: Duration = Duration::from_secs(20);
/// The same once the fleet is back as well: nodes ask it at least once a minute.
const HEARD: Duration = Duration::from_secs(90);

/// For how long the API server is away.
fn outage() -> Result<Duration> {
    const VARIABLE: &str = "BAREWIRE_OUTAGE_SECONDS";
    let seconds = env::var(VARIABLE).unwrap_or_else(|_| "60".to_owned());
    Ok(Duration::from_secs(seconds.parse().with_context(|| format!("{VARIABLE}={seconds}: write a number of seconds"))?))
}

/// Whose requests the API server has had in a time.
#[derive(Default)]
struct Asked {
    /// Kubelets', who are known by their certificate, their name and where they are.
    kubelets: Vec<Request>,
    /// All else that came from a node itself or in a node's name, and whatever has our name and is not the fleet.
    nodes: Vec<Request>,
    fleet: Vec<Request>,
}

impl Asked {
    fn since(suite: &Suite, mark: Mark) -> Result<Self> {
        let machines: Vec<IpAddr> = NODES.map(|node| suite.addresses(node)).into_iter().collect::<Result<Vec<_>>>()?.concat();
        let mut asked = Self::default();
        for request in suite.cluster.audit()?.since(mark)? {
            let is_of_node = request.user.username.starts_with("system:node:");
            let has_our_name = [&request.user.username, &request.user_agent].iter().any(|name| name.contains("barewire"));
            if request.user.username == USER {
                asked.fleet.push(request);
            } else if is_of_node && request.user_agent.starts_with("kubelet/") {
                asked.kubelets.push(request);
            } else if is_of_node || has_our_name || request.sources.first().is_some_and(|source| machines.contains(source)) {
                asked.nodes.push(request);
            }
        }
        Ok(asked)
    }

    /// Of the fleet's requests those that are not for its Lease.
    fn watches(&self) -> Vec<&Request> {
        let is_lease = |request: &&Request| request.object_ref.as_ref().is_some_and(|object| object.resource == "leases");
        self.fleet.iter().filter(|request| !is_lease(request)).collect()
    }

    /// That nodes have asked nothing, and the fleet no more than its watches, `watches` at most, and its Lease take in that time.
    fn judge(&self, suite: &mut Suite, when: &str, took: Duration, watches: usize) -> Result<()> {
        let leases = self.fleet.len() - self.watches().len();
        suite.say(format!(
            "{when}, {:.0} s: nodes {}; fleet {}; kubelets {} requests",
            took.as_secs_f32(),
            summary(&self.nodes),
            summary(&self.fleet),
            self.kubelets.len()
        ));
        ensure!(self.nodes.is_empty(), "{when}: from nodes came {:?}", self.nodes);
        ensure!(self.watches().len() <= watches, "{when}: the fleet has asked for {}", summary(self.watches()));
        // It is read and written every two seconds, give or take a fifth.
        let most = usize::try_from(took.as_secs() * 5 / 4)? + 5;
        ensure!(leases <= most, "{when}: the fleet has asked {leases} times for its Lease in {} s", took.as_secs());
        Ok(())
    }
}

/// A stretch of time in which requests are counted.
struct Stretch {
    mark: Mark,
    begun: Instant,
}

impl Stretch {
    fn begin(suite: &Suite) -> Result<Self> {
        Ok(Self { mark: suite.cluster.audit()?.mark()?, begun: Instant::now() })
    }

    fn judge(self, suite: &mut Suite, when: &str, watches: usize) -> Result<()> {
        Asked::since(suite, self.mark)?.judge(suite, when, self.begun.elapsed(), watches)
    }
}

/// The fleet watches two kinds; where a watch goes on after its five minutes is no matter of what nodes do.
const GOES_ON: usize = 2;

fn nothing_is_asked(suite: &mut Suite) -> Result<()> {
    // Until here the cluster has come up, and this suite's other cases have run.
    let since_the_beginning = Asked::since(suite, Mark::BEGINNING)?;
    ensure!(!since_the_beginning.kubelets.is_empty() && !since_the_beginning.fleet.is_empty(), "the log does not tell who asks");
    let age = suite.begun.elapsed();
    let watches = 10 + GOES_ON * usize::try_from(age.as_secs() / 240)?;
    since_the_beginning.judge(suite, "since the cluster came up", age, watches)?;

    let rest = Stretch::begin(suite)?;
    std::thread::sleep(REST);
    rest.judge(suite, "at rest", GOES_ON)?;

    let join = Stretch::begin(suite)?;
    suite.cluster.reboot(NODES[1])?;
    suite.cluster.wait_until_ready(NODES[1])?;
    pods_are_back(suite, NODES[1])?;
    resolves(&suite.client(NODES[1])?, "kubernetes.default", FROM_FILE)?;
    join.judge(suite, "a node boots and joins", GOES_ON)?;

    suite.in_namespace("unwatched", |suite, namespace| {
        let pods = Stretch::begin(suite)?;
        suite.apply(&[deployment(namespace, 40), service(namespace)])?;
        suite.rolled_out(namespace, "deployment/server")?;
        served(suite, namespace)?;
        pods.judge(suite, "40 pods and a service", GOES_ON)?;

        let restart = Stretch::begin(suite)?;
        for node in NODES {
            suite.cluster.member(node)?.restart_daemon()?;
        }
        served(suite, namespace)?;
        restart.judge(suite, "barewired restarts on both nodes", GOES_ON)
    })?;

    more_nodes_connect(suite)?;
    a_request_would_be_seen(suite)
}

fn two_hundred_unwatched(suite: &mut Suite) -> Result<()> {
    let pods = Stretch::begin(suite)?;
    two_hundred(suite)?;
    // It takes some minutes: the fleet's watches go on once, or twice.
    pods.judge(suite, "200 pods come and go", 2 * GOES_ON)
}

/// Nodes without a kubelet, with the client that barewired has.
const MORE_NODES: u8 = 50;
/// How long they stay.
const CONNECTED: Duration = Duration::from_secs(5);

/// What the fleet asks for is the same for many nodes.
fn more_nodes_connect(suite: &mut Suite) -> Result<()> {
    // From one address a replica takes eight. The source of what a machine sends to its own address is that address.
    let addresses = format!("for n in $(seq {MORE_NODES}); do ip address \"$1\" 192.0.2.$n/32 dev lo || exit 1; done");
    let control = suite.cluster.lab.node("control")?.clone();
    control.run(&["sh", "-c", &addresses, "addresses", "add"])?;
    let clients = (1..=MORE_NODES).map(|number| client_of_fleet(suite, number)).collect::<Result<Vec<_>>>()?;
    let stretch = Stretch::begin(suite)?;
    suite.machine("control")?.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (_stop, stopped) = watch::channel(false);
            for client in &clients {
                let (running, stopped) = (client.clone(), stopped.clone());
                tokio::spawn(async move { running.run(stopped).await });
            }
            for client in &clients {
                let mut told = client.changes();
                let is_told = tokio::time::timeout(PODS, told.wait_for(|state| state.is_complete())).await;
                ensure!(matches!(is_told, Ok(Ok(_))), "a node was not told: {:?}", client.status());
            }
            // If it asked for them, it would by now.
            tokio::time::sleep(CONNECTED).await;
            anyhow::Ok(())
        })
    })?;
    stretch.judge(suite, &format!("{MORE_NODES} more nodes connect"), GOES_ON)?;
    control.run(&["sh", "-c", &addresses, "addresses", "del"])?;
    Ok(())
}

fn client_of_fleet(suite: &Suite, number: u8) -> Result<Client> {
    let node = format!("more-{number}");
    let [authority, certificate, key] = suite.cluster.node_credentials(&node)?.map(String::into_bytes);
    let tls = tls::client(&Credentials { authority, certificate, key })?;
    Ok(Client::new(Config {
        identity: Identity::Fixed { node, tls },
        replicas: vec![format!("192.0.2.{number}:7443")],
        file: None,
        save_after: PODS,
        backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(5)),
        reports: None,
    }))
}

/// Were it otherwise, all of these counts would be worth nothing.
fn a_request_would_be_seen(suite: &Suite) -> Result<()> {
    let mark = suite.cluster.audit()?.mark()?;
    let node = suite.cluster.lab.node(NODES[0])?;
    let file = |name: &str| format!("/etc/kubernetes/{name}");
    let credentials = ["--cacert", &file("ca.crt"), "--cert", &file("kubelet.client.crt"), "--key", &file("kubelet.client.key")];
    node.run(&[&["curl", "--silent", "--fail"], &credentials[..], &["https://10.0.0.10:6443/version"]].concat())?;
    let seen = Asked::since(suite, mark)?.nodes.len();
    ensure!(seen == 1, "a node's request was counted {seen} times");
    Ok(())
}

/// Waits until a pod finds a name of the cluster.
fn resolves(from: &Network, name: &str, limit: Duration) -> Result<()> {
    let name = format!("{name}.svc.cluster.local");
    let found = wait_until(&format!("{} resolves {name}", from.name()), limit, || {
        let mut dig = Command::new("dig");
        dig.args(["+short", "+time=2", "+tries=1", &format!("@{DNS}"), &name, "A"]);
        let said = from.run(|| run(&mut dig, Duration::from_secs(5))).map_err(|error| error.to_string())?;
        let found = said.stdout.lines().any(|line| line.trim().parse::<IpAddr>().is_ok());
        if found { Ok(()) } else { Err(format!("{}{}", said.stdout, said.stderr)) }
    });
    Ok(found?)
}

/// Waits until a service answers at both of its addresses, with nobody to ask where that is.
fn answers(from: &Network, addresses: &[SocketAddr], limit: Duration) -> Result<()> {
    for to in addresses {
        wait_until(&format!("{to} answers {}", from.name()), limit, || {
            http::get_within(from, *to, "/hostname", Duration::from_secs(1)).map_err(|error| format!("{error:#}"))
        })?;
    }
    Ok(())
}

/// Containers of all pods that were started more than once.
fn restarts(suite: &Suite) -> Result<u64> {
    let pods = suite.cluster.kubectl.get(&["pods", "--all-namespaces"])?;
    let statuses = pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["status"]["containerStatuses"].as_array()).flatten();
    Ok(statuses.filter_map(|status| status["restartCount"].as_u64()).sum())
}

/// That neither a daemon nor the fleet has ended of its own accord.
fn all_of_ours_run(suite: &mut Suite) -> Result<()> {
    for member in suite.cluster.members.values() {
        ensure!(member.daemon.as_ref().is_some_and(lab::cni::Daemon::is_running), "barewired of {} has ended", member.name());
    }
    ensure!(suite.cluster.fleet()?.is_running(), "the fleet has ended");
    Ok(())
}

fn control_plane_away(suite: &mut Suite) -> Result<()> {
    let outage = outage()?;
    suite.in_namespace("away", |suite, namespace| {
        suite.apply(&[deployment(namespace, 4), service(namespace)])?;
        suite.rolled_out(namespace, "deployment/server")?;
        let addresses = served(suite, namespace)?;
        let clients = NODES.map(|node| suite.client(node)).into_iter().collect::<Result<Vec<_>>>()?;
        let before = restarts(suite)?;
        // The name server watches for itself, and may wait half a minute after the last time that it had nobody to ask.
        clients.iter().try_for_each(|client| resolves(client, &format!("server.{namespace}"), PODS))?;
        let load = load(suite, namespace)?;
        suite.cluster.kill_control_plane()?;
        let begun = Instant::now();

        let outcome = without_an_api_server(suite, &clients, &addresses, namespace);
        let mut answered = load.stop()?;
        outcome?;
        while begun.elapsed() < outage {
            let load = Load::start(&clients, &addresses);
            load.go_on(400)?;
            answered += load.stop()?;
            clients.iter().try_for_each(|client| resolves(client, &format!("server.{namespace}"), FROM_FILE))?;
        }
        all_of_ours_run(suite)?;
        suite.say(format!("away for {:.0} s: {answered} requests to the service, none failed", begun.elapsed().as_secs_f32()));

        let back = Stretch::begin(suite)?;
        suite.cluster.start_control_plane()?;
        let load = Load::start(&clients, &addresses);
        while back.begun.elapsed() < RETURN {
            load.go_on(40)?;
        }
        load.stop()?;
        back.judge(suite, "the API server is back", 10)?;
        for node in NODES {
            suite.cluster.wait_until_ready(node)?;
        }
        // What changes now is told.
        let told = Instant::now();
        let mut later = service(namespace);
        later["metadata"]["name"] = json!("later");
        suite.apply(&[later])?;
        let later: Vec<SocketAddr> = suite.cluster_ips(namespace, "later")?.into_iter().map(|address| (address, 80).into()).collect();
        clients.iter().try_for_each(|client| answers(client, &later, CAUGHT_UP))?;
        suite.say(format!("a new service answers {:.1} s after it was made", told.elapsed().as_secs_f32()));
        all_of_ours_run(suite)?;
        ensure!(restarts(suite)? == before, "containers were restarted");
        Ok(())
    })
}

/// Names, a daemon that restarts, a pod that starts.
fn without_an_api_server(suite: &mut Suite, clients: &[Network], addresses: &[SocketAddr], namespace: &str) -> Result<()> {
    let name = format!("server.{namespace}");
    clients.iter().try_for_each(|client| resolves(client, &name, FROM_FILE))?;
    for node in NODES {
        suite.cluster.member(node)?.restart_daemon()?;
    }
    for node in NODES {
        let member = suite.cluster.member(node)?;
        member.add_static_pod("late", &late_pod())?;
        let pod = format!("late-{node}");
        let network = wait_until(&format!("{pod} runs"), PODS, || member.network_of("default", &pod).map_err(|error| error.to_string()))?;
        answers(&network, addresses, FROM_FILE)?;
        resolves(&network, &name, FROM_FILE)?;
        // It is reached as others are.
        for to in addresses {
            let own = own_address(&network, *to)?;
            for client in clients {
                wait_until(&format!("{pod} answers at {own}"), FROM_FILE, || {
                    http::get_within(client, (own, 8080).into(), "/hostname", Duration::from_secs(1)).map_err(|error| format!("{error:#}"))
                })?;
            }
        }
        member.remove_static_pod("late")?;
    }
    Ok(())
}

/// A pod that kubelet runs without having been told by an API server.
fn late_pod() -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "late", "namespace": "default" },
        "spec": { "terminationGracePeriodSeconds": 0, "enableServiceLinks": false, "containers": [container("server", &["netexec", "--http-port=8080"])] } })
}

/// The address that a pod sends to `to` from.
fn own_address(pod: &Network, to: SocketAddr) -> Result<IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = pod.run(|| UdpSocket::bind(any).map_err(anyhow::Error::from))?;
    socket.connect(to).with_context(|| format!("{}: no way to {to}", pod.name()))?;
    Ok(socket.local_addr()?.ip())
}

fn fleet_away(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("fleet-away", |suite, namespace| {
        suite.apply(&[deployment(namespace, 2), service(namespace)])?;
        suite.rolled_out(namespace, "deployment/server")?;
        let addresses = served(suite, namespace)?;
        let clients = NODES.map(|node| suite.client(node)).into_iter().collect::<Result<Vec<_>>>()?;
        clients.iter().try_for_each(|client| resolves(client, &format!("server.{namespace}"), PODS))?;
        let load = load(suite, namespace)?;
        suite.cluster.fleet()?.kill()?;
        // New pods start; that they are endpoints nobody tells the nodes yet.
        suite.kubectl(&["scale", "--namespace", namespace, "deployment/server", "--replicas=4"])?;
        suite.rolled_out(namespace, "deployment/server")?;
        suite.cluster.kill_control_plane()?;
        load.go_on(200)?;
        let answered = load.stop()?;

        for node in NODES {
            suite.cluster.member(node)?.restart_daemon_without_tables()?;
        }
        for client in &clients {
            answers(client, &addresses, FROM_FILE)?;
            resolves(client, &format!("server.{namespace}"), FROM_FILE)?;
        }
        suite.say(format!("{answered} requests to the service, none failed; and both nodes serve by their file alone"));

        let back = Stretch::begin(suite)?;
        suite.cluster.fleet()?.resume()?;
        suite.cluster.start_control_plane()?;
        let pods: Vec<String> = suite.pods(namespace, "app=server")?.into_iter().map(|pod| pod.name).collect();
        ensure!(pods.len() == 4, "{pods:?}");
        for client in &clients {
            wait_until(&format!("{} meets all of {pods:?}", client.name()), HEARD, || {
                let met = (0..60)
                    .map(|_| http::get(client, addresses[0], "/hostname"))
                    .collect::<Result<Vec<_>>>()
                    .map_err(|error| format!("{error:#}"))?;
                if pods.iter().all(|pod| met.contains(pod)) { Ok(()) } else { Err(format!("it meets {met:?}")) }
            })?;
        }
        back.judge(suite, "fleet and API server are back", 12)?;
        for node in NODES {
            suite.cluster.wait_until_ready(node)?;
        }
        all_of_ours_run(suite)
    })
}
