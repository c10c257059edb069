//! The clusters: one for all cases of a pass, once with kube-proxy in each of its modes, once without it, and once where the fleet acts on nodes;
//! taken down whatever happens.

use std::env;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::Options;
use lab::cni::{NodeCni, ReferencePlugin, barewire_binaries};
use lab::harness::{self, Ended, Harness};
use lab::image;
use lab::kubernetes::{Cluster, Plan, ProxyMode, conformance};
use lab::network::Network;
use lab::telemetry;
use lab::world;
use serde_json::{Value, json};

/// The namespace of what lives as long as the suite.
pub(crate) const NAMESPACE: &str = "lab";

/// The nodes.
pub(crate) const NODES: [&str; 2] = ["node1", "node2"];

/// How long pods may take to be as they are asked for.
pub(crate) const PODS: Duration = Duration::from_secs(120);

/// Which cluster it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Two nodes, and who serves services.
    Serving(ProxyMode),
    /// Three nodes, on which the fleet acts.
    Acting,
}

impl Pass {
    const fn name(self) -> &'static str {
        match self {
            Self::Serving(mode) => mode.value(),
            Self::Acting => "acting",
        }
    }

    fn plan(self, cni: NodeCni) -> Plan {
        match self {
            Self::Serving(mode) => Plan::mixed(mode, cni),
            Self::Acting => Plan::acting(),
        }
    }

    /// A reference plugin serves no services, and has no fleet.
    const fn is_of_barewire(self) -> bool {
        matches!(self, Self::Serving(ProxyMode::Barewired) | Self::Acting)
    }
}

/// A case by name.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs_barewire: bool,
    pub(crate) passes: &'static [Pass],
    /// Whether what it leaves may go while the next of its kind is running: half of its time is otherwise that.
    pub(crate) goes_by_itself: bool,
    pub(crate) run: fn(&mut Suite) -> Result<()>,
}

impl Case {
    /// A case that holds for every CNI.
    pub(crate) const fn any(name: &'static str, run: fn(&mut Suite) -> Result<()>) -> Self {
        Self { name, needs_barewire: false, passes: &KUBE_PROXY, goes_by_itself: false, run }
    }

    /// A case about services, whoever serves them.
    pub(crate) const fn service(name: &'static str, run: fn(&mut Suite) -> Result<()>) -> Self {
        Self { name, needs_barewire: false, passes: &SERVING, goes_by_itself: true, run }
    }

    /// A case about `barewired`.
    pub(crate) const fn barewire(name: &'static str, run: fn(&mut Suite) -> Result<()>) -> Self {
        Self { name, needs_barewire: true, passes: &KUBE_PROXY, goes_by_itself: false, run }
    }

    /// A case about a cluster whose nodes are told by the fleet.
    pub(crate) const fn unwatched(name: &'static str, run: fn(&mut Suite) -> Result<()>) -> Self {
        Self { name, needs_barewire: true, passes: &[Pass::Serving(ProxyMode::Barewired)], goes_by_itself: true, run }
    }

    /// A case about what the fleet does to nodes.
    pub(crate) const fn acting(name: &'static str, run: fn(&mut Suite) -> Result<()>) -> Self {
        Self { name, needs_barewire: true, passes: &[Pass::Acting], goes_by_itself: false, run }
    }

    /// Whoever serves services, it is the same: once is enough.
    pub(crate) const fn once(self) -> Self {
        Self { passes: &[Pass::Serving(ProxyMode::Nftables)], ..self }
    }

    /// What it leaves is in nobody's way.
    pub(crate) const fn goes_by_itself(self) -> Self {
        Self { goes_by_itself: true, ..self }
    }
}

/// A cluster with a client on each node.
pub(crate) struct Suite {
    pub(crate) cluster: Cluster,
    pub(crate) cni: NodeCni,
    /// When the cluster began to come up.
    pub(crate) begun: Instant,
    /// What the running case has to tell.
    said: Vec<String>,
    /// Whether the running case is one that waits for nothing to be gone.
    goes_by_itself: bool,
    /// Namespaces that are going.
    going: Vec<String>,
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Suite {
    fn up(pass: Pass, cni: NodeCni, say: &mut dyn FnMut(String)) -> Result<Self> {
        let options = Options { name: Some(format!("k8s-{}", pass.name())), ..Options::of_this_program()? };
        let plan = Plan { image_names: conformance::images()?, ..pass.plan(cni) };
        let begun = Instant::now();
        let cluster = Cluster::up(&plan, &options, say)?;
        let suite = Self { cluster, cni, begun, said: Vec::new(), goes_by_itself: false, going: Vec::new() };
        suite.make_namespace(NAMESPACE)?;
        let clients = NODES.map(|node| {
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": format!("client-{node}"), "namespace": NAMESPACE },
                "spec": { "nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container("client", &["pause"])] } })
        });
        suite.apply(&clients)?;
        suite.kubectl(&["wait", "--namespace", NAMESPACE, "pod", "--all", "--for=condition=Ready", "--timeout=60s"])?;
        Ok(suite)
    }

    /// A line that is printed beneath the case.
    pub(crate) fn say(&mut self, line: String) {
        self.said.push(line);
    }

    /// Runs kubectl, which must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let limit = PODS + Duration::from_secs(30);
        Ok(self.cluster.kubectl.try_run(arguments, limit)?.success()?)
    }

    /// Makes objects what they are said to be.
    pub(crate) fn apply(&self, objects: &[Value]) -> Result<()> {
        Ok(self.cluster.kubectl.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }))?)
    }

    fn make_namespace(&self, name: &str) -> Result<()> {
        self.apply(&[json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })])?;
        // Pods are refused until their service account is there.
        let there = |_: &Value| Ok(());
        Ok(self.cluster.kubectl.wait_until("service account", PODS, &["serviceaccount", "default", "--namespace", name], there)?)
    }

    /// Begins a case. All that others have left is gone then, unless it is one that does not mind.
    fn begin(&mut self, case: &Case) -> Result<()> {
        self.goes_by_itself = case.goes_by_itself;
        if case.goes_by_itself {
            return Ok(());
        }
        for name in std::mem::take(&mut self.going) {
            self.kubectl(&["wait", "--for=delete", "--timeout=90s", &format!("namespace/{name}")])?;
        }
        Ok(())
    }

    /// Does some work in a namespace of its own, which goes afterwards. It is gone before another case begins that minds.
    pub(crate) fn in_namespace(&mut self, name: &str, work: impl FnOnce(&mut Self, &str) -> Result<()>) -> Result<()> {
        self.make_namespace(name)?;
        let mut outcome = work(self, name);
        if outcome.is_err() {
            let pods = self.kubectl(&["get", "pods", "--namespace", name, "--output=wide"]).unwrap_or_default();
            let events = self.kubectl(&["get", "events", "--namespace", name, "--field-selector=type=Warning"]).unwrap_or_default();
            outcome = outcome.with_context(|| format!("\n{pods}\n{events}"));
        }
        let wait = if self.goes_by_itself { "--wait=false" } else { "--timeout=90s" };
        let gone = self.kubectl(&["delete", "namespace", name, wait]).map(drop);
        if self.goes_by_itself {
            self.going.push(name.to_owned());
        }
        outcome.and(gone)
    }

    /// The pods of a namespace that a label selects, in order of name.
    pub(crate) fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let list = self.cluster.kubectl.get(&["pods", "--namespace", namespace, "--selector", selector])?;
        let items = list["items"].as_array().context("a list without items")?;
        items.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).map(pod_of).collect()
    }

    /// A pod of a namespace.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Result<Pod> {
        pod_of(&self.cluster.kubectl.get(&["pod", name, "--namespace", namespace])?)
    }

    /// The network of a pod.
    pub(crate) fn network(&self, namespace: &str, pod: &str) -> Result<Network> {
        let node = self.pod(namespace, pod)?.node;
        let member = self.cluster.members.get(node.as_str()).with_context(|| format!("no node {node:?}"))?;
        Ok(member.network_of(namespace, pod)?)
    }

    /// The network of the client on a node.
    pub(crate) fn client(&self, node: &str) -> Result<Network> {
        self.network(NAMESPACE, &format!("client-{node}"))
    }

    /// The network of a node of the lab.
    pub(crate) fn machine(&self, node: &str) -> Result<Network> {
        Ok(Network::of(self.cluster.lab.node(node)?)?)
    }

    /// The addresses of a node, IPv4 first.
    pub(crate) fn addresses(&self, node: &str) -> Result<[IpAddr; 2]> {
        let member = self.cluster.members.get(node).with_context(|| format!("no node {node:?}"))?;
        Ok(member.addresses()?)
    }

    /// The cluster addresses of a service, IPv4 first.
    pub(crate) fn cluster_ips(&self, namespace: &str, service: &str) -> Result<Vec<IpAddr>> {
        let object = self.cluster.kubectl.get(&["service", service, "--namespace", namespace])?;
        let addresses = object["spec"]["clusterIPs"].as_array().context("a service without addresses")?;
        addresses.iter().map(|address| Ok(address.as_str().unwrap_or_default().parse()?)).collect()
    }

    /// Waits until a deployment runs as it is asked for.
    pub(crate) fn rolled_out(&self, namespace: &str, workload: &str) -> Result<()> {
        Ok(self.cluster.wait_for_rollout(namespace, workload, PODS)?)
    }

    /// How many attachments a node's daemon has.
    pub(crate) fn attachments(&self, node: &str) -> Result<u64> {
        let page = telemetry::get(&self.machine(node)?, "/metrics")?;
        let line = page.lines().find_map(|line| line.strip_prefix("barewire_attachments ")).context("no barewire_attachments")?;
        Ok(line.parse()?)
    }

    /// A case that failed may have left a node without a part.
    fn recover(&mut self) -> Result<()> {
        self.cluster.recover_control_plane()?;
        for member in self.cluster.members.values_mut() {
            member.ensure_daemon()?;
        }
        for node in NODES {
            self.kubectl(&["uncordon", node])?;
            self.cluster.wait_until_ready(node)?;
        }
        Ok(())
    }
}

fn pod_of(object: &Value) -> Result<Pod> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let addresses = object["status"]["podIPs"].as_array().into_iter().flatten();
    Ok(Pod {
        name: text(&object["metadata"]["name"]),
        node: text(&object["spec"]["nodeName"]),
        addresses: addresses.map(|address| Ok(text(&address["ip"]).parse()?)).collect::<Result<_>>()?,
    })
}

/// A container of the test image.
pub(crate) fn container(name: &str, arguments: &[&str]) -> Value {
    json!({ "name": name, "image": image::AGNHOST, "imagePullPolicy": "Never", "args": arguments })
}

/// Runs of cases on a cluster of their own, the longest first: the last of those that run side by side is not to end alone.
const PASSES: [Pass; 4] = [SERVING[1], SERVING[2], Pass::Acting, SERVING[0]];

/// Those where services are served in different ways.
const SERVING: [Pass; 3] = [KUBE_PROXY[0], KUBE_PROXY[1], Pass::Serving(ProxyMode::Barewired)];

/// Those with kube-proxy.
const KUBE_PROXY: [Pass; 2] = [Pass::Serving(ProxyMode::Iptables), Pass::Serving(ProxyMode::Nftables)];

fn name(pass: Pass, case: &Case) -> String {
    format!("{}/{}", pass.name(), case.name)
}

/// Lists cases.
pub(crate) fn list(cases: &[Case]) {
    for pass in PASSES {
        cases.iter().filter(|case| case.passes.contains(&pass)).for_each(|case| harness::list(&name(pass, case)));
    }
    harness::list(KUBERNETES);
}

/// Runs those of `cases` whose name contains `filter`.
pub(crate) fn run(harness: &mut Harness, cases: &[Case], filter: &str) {
    let is_chosen = |pass: Pass, case: &Case| case.passes.contains(&pass) && name(pass, case).contains(filter);
    let chosen = |pass: Pass| -> Vec<&Case> { cases.iter().filter(|case| is_chosen(pass, case)).collect() };
    let cni = match prerequisites() {
        Ok(cni) => cni,
        Err(reason) => {
            let count = PASSES.into_iter().map(|pass| chosen(pass).len()).sum();
            return harness.skip("cluster", &format!("{reason:#}"), count);
        }
    };
    let is_wanted = |pass: &Pass| !chosen(*pass).is_empty() || has_kubernetes(*pass, filter);
    let passes: Vec<_> = PASSES.into_iter().filter(is_wanted).collect();
    if passes.len() > 1 && env::var_os(ONE_PASS).is_none() {
        return side_by_side(harness, &passes, filter);
    }
    let is_asked = |pass: &Pass| env::var(ONE_PASS).map_or(true, |name| name == pass.name());
    for pass in passes.into_iter().filter(is_asked) {
        let cases = chosen(pass);
        if pass.is_of_barewire() && cni != NodeCni::Barewire {
            harness.skip(pass.name(), "a reference plugin serves no services, and has no fleet", cases.len());
            continue;
        }
        run_pass(harness, pass, cni, &cases, has_kubernetes(pass, filter));
    }
}

/// Names the pass that a process is to make, of several that it could.
const ONE_PASS: &str = "BAREWIRE_CLUSTER_PASS";

/// On two processors a cluster leaves two thirds of them idle: it waits for kubelets, most of the time.
const AT_ONCE: usize = 2;

/// Each pass by a process of its own.
fn side_by_side(harness: &mut Harness, passes: &[Pass], filter: &str) {
    let program = |pass: &Pass| -> Result<(String, Command)> {
        // It goes with us.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(env::current_exe()?).arg(filter).env(ONE_PASS, pass.name());
        Ok((pass.name().to_owned(), command))
    };
    match passes.iter().map(program).collect::<Result<_>>() {
        Ok(programs) => lab::side_by_side::run(harness, programs, AT_ONCE),
        Err(error) => harness.fail("cluster", &format!("{error:#}"), passes.len()),
    }
}

/// Whether Kubernetes' own tests are made in that pass.
fn has_kubernetes(pass: Pass, filter: &str) -> bool {
    pass == KUBE_PROXY[1] && KUBERNETES.contains(filter)
}

fn run_pass(harness: &mut Harness, pass: Pass, cni: NodeCni, cases: &[&Case], kubernetes: bool) {
    let (mut up, mut told) = (None, Vec::new());
    let is_up = harness.case(&format!("{}/the cluster comes up", pass.name()), || {
        up = Some(Suite::up(pass, cni, &mut |line| told.push(line))?);
        Ok(())
    });
    told.iter().for_each(|line| harness.note(line));
    let Some(mut suite) = up.filter(|_| is_up) else {
        return harness.fail("without a cluster", "see above", cases.len());
    };
    for case in cases {
        let name = name(pass, case);
        if case.needs_barewire && cni != NodeCni::Barewire {
            harness.skip(&name, "it is about barewired", 1);
            continue;
        }
        let passed = harness.case(&name, || suite.begin(case).and_then(|()| (case.run)(&mut suite)));
        std::mem::take(&mut suite.said).iter().for_each(|line| harness.note(line));
        if !passed {
            for member in suite.cluster.members.values() {
                member.complaints().iter().for_each(|line| harness.note(&line.chars().take(300).collect::<String>()));
            }
            if let Err(error) = suite.recover() {
                harness.note(&format!("FAIL recover from it: {error:#}"));
            }
        }
    }
    if kubernetes {
        kubernetes_own(harness, &suite);
    }
    if let Err(error) = suite.cluster.down() {
        harness.fail("take the cluster down", &format!("{error:#}"), 1);
    }
}

/// Kubernetes' own tests, each a case here. They take some three minutes, on one of the clusters.
const KUBERNETES: &str = "nftables/kubernetes";

/// How long they may take.
const KUBERNETES_LIMIT: Duration = Duration::from_secs(12 * 60);

fn kubernetes_own(harness: &mut Harness, suite: &Suite) {
    match conformance::run_tests(&suite.cluster, conformance::ALL, KUBERNETES_LIMIT) {
        Ok(verdicts) if verdicts.is_empty() => harness.fail(KUBERNETES, "no test matches", 1),
        Ok(verdicts) => {
            for verdict in verdicts {
                let outcome = match verdict.outcome {
                    conformance::Outcome::Passed => Ok(()),
                    conformance::Outcome::Failed(why) | conformance::Outcome::Skipped(why) => Err(anyhow::anyhow!(why)),
                };
                harness.ended(&format!("{KUBERNETES}: {}", verdict.name), Ended::after(verdict.took, outcome));
            }
        }
        Err(error) => harness.fail(KUBERNETES, &format!("{error:#}"), 1),
    }
}

fn prerequisites() -> Result<NodeCni> {
    harness::require_programs(&["containerd", "ctr", "runc", "ip", "nft", "nsenter", "iptables", "conntrack", "curl", "dig"])?;
    for module in ["kubernetes", "etcd", "containerd", "cni-plugins", "cnitool", "coredns"] {
        world::directory(module)?;
    }
    let cni = match env::var("BAREWIRE_E2E_CNI").as_deref() {
        Ok("ptp") => NodeCni::Reference(ReferencePlugin::Ptp),
        Ok("barewire") | Err(_) => {
            barewire_binaries()?;
            NodeCni::Barewire
        }
        Ok(other) => bail!("BAREWIRE_E2E_CNI={other}: set barewire or ptp"),
    };
    ensure!(std::path::Path::new(image::BUSYBOX).is_file(), "{} is not there", image::BUSYBOX);
    Ok(cni)
}
