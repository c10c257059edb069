//! Services, as pods, nodes and the internet see them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use lab::network::Network;
use serde_json::{Value, json};

use crate::http;
use crate::suite::{Case, NODES, PODS, Pod, Suite, container};

/// Where the servers listen.
const PORT: u16 = 8080;
/// Where they take datagrams.
const UDP_PORT: u16 = 8081;
/// The addresses of the node behind the fabric's way out.
const INTERNET: &str = "internet";
/// How long a proxy may take to have the rules of a service.
const RULES: Duration = Duration::from_secs(30);
/// Enough requests that of two servers each is met, but for one time in 2³⁹.
const ENOUGH: usize = 40;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::service("a service's address leads to all of its pods, from pods and nodes, both families", cluster_ip),
        Case::service("a node port leads to pods of all nodes, from pods, nodes and the internet", node_port_cluster),
        Case::service("a local node port shows the client and leads to the node's own pods only", node_port_local),
        Case::service("a headless service is the addresses of its pods", headless),
        Case::service("a client with affinity meets one server", affinity),
        Case::any("a host port leads to the pod, from pods, nodes and the internet", host_port).goes_by_itself(),
        Case::any("a pod on the host's network serves and is served", host_network).goes_by_itself(),
        Case::service("a service of datagrams answers", udp),
        Case::service("names of services and pods resolve in pods of both nodes", names),
    ]
}

/// Two servers, one on each node, and what is in front of them.
struct Servers<'a> {
    suite: &'a Suite,
    namespace: &'a str,
    pods: Vec<Pod>,
}

impl<'a> Servers<'a> {
    fn start(suite: &'a Suite, namespace: &'a str, service: &Value) -> Result<Self> {
        let labels = json!({ "app": "server" });
        let mut server = container("server", &["netexec", "--http-port=8080", "--udp-port=8081"]);
        server["readinessProbe"] = json!({ "httpGet": { "path": "/hostname", "port": PORT }, "periodSeconds": 1 });
        let spread = json!([{ "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": { "matchLabels": labels } }]);
        let mut objects =
            vec![json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "server", "namespace": namespace },
            "spec": { "replicas": 2, "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": {
                "topologySpreadConstraints": spread, "terminationGracePeriodSeconds": 0, "containers": [server] } } } })];
        if !service.is_null() {
            let mut spec = json!({ "selector": labels, "ipFamilyPolicy": "RequireDualStack", "ports": [
                { "name": "http", "port": 80, "targetPort": PORT }, { "name": "udp", "protocol": "UDP", "port": 81, "targetPort": UDP_PORT }] });
            for (key, value) in service.as_object().into_iter().flatten() {
                spec[key] = value.clone();
            }
            objects.push(
                json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "server", "namespace": namespace }, "spec": spec }),
            );
        }
        suite.apply(&objects)?;
        suite.rolled_out(namespace, "deployment/server")?;
        let pods = suite.pods(namespace, "app=server")?;
        ensure!(pods.len() == 2 && pods[0].node != pods[1].node, "not one on each node: {pods:?}");
        Ok(Self { suite, namespace, pods })
    }

    fn names(&self) -> BTreeSet<String> {
        self.pods.iter().map(|pod| pod.name.clone()).collect()
    }

    fn on(&self, node: &str) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.node == node).with_context(|| format!("no server on {node}"))
    }

    /// The port that the nodes have for the service's HTTP.
    fn node_port(&self) -> Result<u16> {
        let service = self.suite.cluster.kubectl.get(&["service", "server", "--namespace", self.namespace])?;
        let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("no node port")?;
        Ok(u16::try_from(port)?)
    }

    /// Waits until requests meet `expected`, all of them and nobody else.
    fn meets(&self, from: &Network, to: SocketAddr, expected: &BTreeSet<String>) -> Result<()> {
        leads_to(from, to, expected, || http::get_within(from, to, "/hostname", Duration::from_secs(2)))
    }
}

/// Waits until a round of requests meets `expected`, all of them and nobody else: the rules are there some time after the endpoints.
fn leads_to(from: &Network, to: SocketAddr, expected: &BTreeSet<String>, ask: impl Fn() -> Result<String>) -> Result<()> {
    let led = wait_until(&format!("{to} leads {} to {expected:?}", from.name()), RULES, || {
        let met = (0..ENOUGH).map(|_| ask()).collect::<Result<BTreeSet<_>>>().map_err(|error| format!("{error:#}"))?;
        if met == *expected { Ok(()) } else { Err(format!("{met:?}")) }
    });
    Ok(led?)
}

/// Waits until somebody answers.
fn answers(from: &Network, to: SocketAddr) -> Result<()> {
    let answered = wait_until(&format!("{} answers {}", to, from.name()), RULES, || {
        http::get_within(from, to, "/hostname", Duration::from_secs(1)).map(drop).map_err(|error| format!("{error:#}"))
    });
    Ok(answered?)
}

fn clients(suite: &Suite) -> Result<Vec<Network>> {
    NODES.iter().map(|node| suite.client(node)).collect()
}

fn cluster_ip(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("cluster-ip", |suite, namespace| {
        let servers = Servers::start(suite, namespace, &json!({}))?;
        let addresses = suite.cluster_ips(namespace, "server")?;
        ensure!(addresses.len() == 2, "not dual-stack: {addresses:?}");
        for from in clients(suite)?.into_iter().chain([suite.machine("node1")?, suite.machine("node2")?]) {
            for address in &addresses {
                servers.meets(&from, (*address, 80).into(), &servers.names())?;
            }
        }
        // A server that asks its own service meets itself as well.
        for pod in &servers.pods {
            let own = suite.network(namespace, &pod.name)?;
            for address in &addresses {
                servers.meets(&own, (*address, 80).into(), &servers.names())?;
            }
        }
        Ok(())
    })
}

fn node_port_cluster(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("node-port", |suite, namespace| {
        let servers = Servers::start(suite, namespace, &json!({ "type": "NodePort" }))?;
        let port = servers.node_port()?;
        let outside = [suite.machine(INTERNET)?, suite.machine("control")?];
        for from in
            clients(suite)?.into_iter().chain(NODES.iter().map(|node| suite.machine(node)).collect::<Result<Vec<_>>>()?).chain(outside)
        {
            for node in NODES {
                for address in suite.addresses(node)? {
                    servers.meets(&from, (address, port).into(), &servers.names())?;
                }
            }
        }
        Ok(())
    })
}

fn node_port_local(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("node-port-local", |suite, namespace| {
        let servers = Servers::start(suite, namespace, &json!({ "type": "NodePort", "externalTrafficPolicy": "Local" }))?;
        let port = servers.node_port()?;
        let outside = suite.machine(INTERNET)?;
        for node in NODES {
            for address in suite.addresses(node)? {
                let to = SocketAddr::from((address, port));
                servers.meets(&outside, to, &BTreeSet::from([servers.on(node)?.name.clone()]))?;
                let seen = http::client_of(&http::get(&outside, to, "/clientip")?)?;
                let own: IpAddr = if address.is_ipv4() { "203.0.113.10" } else { "2001:db8:113::10" }.parse()?;
                ensure!(seen == own, "the server sees {seen}, not the client's own {own}");
            }
        }
        // From inside the cluster the policy is no obstacle.
        for from in clients(suite)? {
            answers(&from, (suite.addresses("node1")?[0], port).into())?;
        }
        // A node without a server is silent to those outside.
        suite.kubectl(&["delete", "pod", "--namespace", namespace, &servers.on("node2")?.name, "--wait=false"])?;
        suite.kubectl(&["scale", "--namespace", namespace, "deployment/server", "--replicas=1"])?;
        suite.cluster.kubectl.wait_until("one server", PODS, &["pods", "--namespace", namespace, "--selector=app=server"], |list| {
            let count = list["items"].as_array().map_or(0, Vec::len);
            if count == 1 { Ok(()) } else { Err(format!("{count} pods")) }
        })?;
        suite.rolled_out(namespace, "deployment/server")?;
        let left = suite.pods(namespace, "app=server")?;
        let empty = NODES.into_iter().find(|node| *node != left[0].node).context("two nodes")?;
        for address in suite.addresses(empty)? {
            let silent = wait_until("a node without a server is silent", RULES, || {
                http::is_silent(&outside, (address, port).into()).map_err(|error| format!("{error:#}"))
            });
            silent?;
        }
        Ok(())
    })
}

fn headless(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("headless", |suite, namespace| {
        let servers = Servers::start(suite, namespace, &json!({ "clusterIP": "None" }))?;
        let mut expected: Vec<IpAddr> = servers.pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
        expected.sort();
        for node in NODES {
            let pod = format!("client-{node}");
            let name = format!("server.{namespace}.svc.cluster.local");
            let found = wait_until(&format!("{name} in {pod}"), RULES, || {
                let mut found: Vec<IpAddr> =
                    ["A", "AAAA"].iter().flat_map(|kind| dig(suite, &pod, &name, kind).unwrap_or_default()).collect();
                found.sort();
                if found == expected { Ok(()) } else { Err(format!("{found:?}, not {expected:?}")) }
            });
            found?;
            for address in &expected {
                http::get(&suite.client(node)?, (*address, PORT).into(), "/hostname")?;
            }
        }
        Ok(())
    })
}

/// The addresses that a name has in a client.
fn dig(suite: &Suite, pod: &str, name: &str, kind: &str) -> Result<Vec<IpAddr>> {
    let said =
        suite.cluster.kubectl.exec(crate::suite::NAMESPACE, pod, &["dig", "+short", "+search", "+time=2", "+tries=2", name, kind])?;
    Ok(said.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

fn affinity(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("affinity", |suite, namespace| {
        let servers = Servers::start(suite, namespace, &json!({ "sessionAffinity": "ClientIP" }))?;
        for from in clients(suite)? {
            for address in suite.cluster_ips(namespace, "server")? {
                let to = SocketAddr::from((address, 80));
                answers(&from, to)?;
                let met: BTreeSet<String> = (0..ENOUGH).map(|_| http::get(&from, to, "/hostname")).collect::<Result<_>>()?;
                ensure!(met.len() == 1 && met.is_subset(&servers.names()), "{}: {to} led to {met:?}", from.name());
            }
        }
        Ok(())
    })
}

fn host_port(suite: &mut Suite) -> Result<()> {
    const HOST_PORT: u16 = 8090;
    suite.in_namespace("host-port", |suite, namespace| {
        let mut server = container("server", &["netexec", "--http-port=8080"]);
        server["ports"] = json!([{ "containerPort": PORT, "hostPort": HOST_PORT }]);
        server["readinessProbe"] = json!({ "httpGet": { "path": "/hostname", "port": PORT }, "periodSeconds": 1 });
        let labels = json!({ "app": "server" });
        suite.apply(&[json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "server", "namespace": namespace },
            "spec": { "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels },
                "spec": { "terminationGracePeriodSeconds": 0, "containers": [server] } } } })])?;
        suite.rolled_out(namespace, "daemonset/server")?;
        let pods = suite.pods(namespace, "app=server")?;
        let froms = clients(suite)?.into_iter().chain([suite.machine("node1")?, suite.machine("node2")?, suite.machine(INTERNET)?]);
        for from in froms {
            for pod in &pods {
                for address in suite.addresses(&pod.node)? {
                    let met = http::get(&from, (address, HOST_PORT).into(), "/hostname")?;
                    ensure!(met == pod.name, "{}: port {HOST_PORT} of {address} leads to {met}, not to {}", from.name(), pod.name);
                }
            }
        }
        Ok(())
    })
}

fn host_network(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("host-network", |suite, namespace| {
        let servers = Servers::start(suite, namespace, &json!({}))?;
        let mut on_host = container("server", &["netexec", "--http-port=8095", "--udp-port=-1"]);
        on_host["readinessProbe"] = json!({ "httpGet": { "path": "/hostname", "port": 8095 }, "periodSeconds": 1 });
        let labels = json!({ "app": "on-host" });
        suite.apply(&[json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "on-host", "namespace": namespace },
            "spec": { "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": {
                "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet", "terminationGracePeriodSeconds": 0, "containers": [on_host] } } } })])?;
        suite.rolled_out(namespace, "daemonset/on-host")?;
        for pod in suite.pods(namespace, "app=on-host")? {
            let own = suite.addresses(&pod.node)?;
            ensure!(pod.addresses.iter().all(|address| own.contains(address)), "{pod:?} is not on its host's network");
            // It is served to pods of both nodes …
            for from in clients(suite)? {
                for address in own {
                    http::get(&from, (address, 8095).into(), "/hostname")?;
                }
            }
            // … and is a client of services.
            let inside = suite.machine(&pod.node)?;
            for address in suite.cluster_ips(namespace, "server")? {
                servers.meets(&inside, (address, 80).into(), &servers.names())?;
            }
        }
        Ok(())
    })
}

fn udp(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("udp", |suite, namespace| {
        let servers = Servers::start(suite, namespace, &json!({}))?;
        for from in clients(suite)?.into_iter().chain([suite.machine("node1")?]) {
            for address in suite.cluster_ips(namespace, "server")? {
                let to = SocketAddr::from((address, 81));
                leads_to(&from, to, &servers.names(), || http::ask_udp(&from, to, "hostname"))?;
            }
        }
        Ok(())
    })
}

fn names(suite: &mut Suite) -> Result<()> {
    suite.in_namespace("names", |suite, namespace| {
        let servers = Servers::start(suite, namespace, &json!({}))?;
        let addresses = suite.cluster_ips(namespace, "server")?;
        for node in NODES {
            let pod = format!("client-{node}");
            // By the search list, in full, and by TCP's question to the same server.
            for name in [format!("server.{namespace}"), format!("server.{namespace}.svc.cluster.local")] {
                for (kind, address) in ["A", "AAAA"].iter().zip(&addresses) {
                    let found = wait_until(&format!("{name} in {pod}"), RULES, || match dig(suite, &pod, &name, kind) {
                        Ok(found) if found == [*address] => Ok(()),
                        other => Err(format!("{other:?}, not {address}")),
                    });
                    found?;
                }
            }
            let url = format!("http://server.{namespace}/hostname");
            let met = suite.cluster.kubectl.exec(crate::suite::NAMESPACE, &pod, &["curl", "--silent", "--max-time", "10", &url])?;
            ensure!(servers.names().contains(met.trim()), "{url} leads to {met:?}");
        }
        Ok(())
    })
}
