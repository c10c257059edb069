//! The oracle: the real kube-proxy in nftables mode beside ours. Two sites alike to the last address, one API server, the same objects; each
//! probe has the same outcomes at both: which endpoints answer, which client they see, and whether it is refused or silence. What pods ask is
//! asked once more with the kernel programs in front of our rules.
//!
//! `--worlds N` makes more of them (three is the default). Needs root, `nft` and the programs that `cargo xtask bootstrap` builds. Where it cannot
//! run it says `SKIP` and why; with `BAREWIRE_REQUIRE_ALL=1` that is a failure.
#![expect(clippy::print_stdout, reason = "it reports to whoever runs it")]

mod apiserver;
mod probe;
mod programs;
mod site;
mod world;

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use apiserver::{Cluster, until};
use fleet::objects;
use fleet_api::{Kind, Table};
use probe::{Outcome, Probe, ask};
use programs::Programs;
use serde_json::{Value, json};
use services::{Node, Script, Services};
use site::{From, NODE, SERVICES, Site};
use world::{NAMESPACE, NODE_NAME, ZONE};

const CASE: &str = "services_are_served_as_kube_proxy_serves_them";
const SERVICES_PER_WORLD: u8 = 60;
/// Which of several endpoints a probe gets is chance: what one site has seen and the other has not is asked again. One of four is missed
/// sixty times in a row once in thirty million.
const ROUNDS: usize = 60;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{CASE}: test");
        return ExitCode::SUCCESS;
    }
    let worlds = arguments.iter().position(|argument| argument == "--worlds").and_then(|place| arguments.get(place + 1)?.parse().ok());
    let began = Instant::now();
    let (passed, failed, skipped) = match run(worlds.unwrap_or(3)) {
        Ok(()) => (1, 0, 0),
        Err(error) if error.is::<lab::world::Missing>() && std::env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1") => {
            println!("SKIP {error}");
            (0, 0, 1)
        }
        Err(error) => {
            println!("{CASE}: {error:#}");
            (0, 1, 0)
        }
    };
    println!("{} s", began.elapsed().as_secs());
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Our side: the tables as the fleet would have them, and what `nft` has been told.
struct Ours {
    tables: [Table; 2],
    services: Services,
    script: Script,
    began: Instant,
}

impl Ours {
    fn new() -> Result<Self> {
        let node = Node {
            name: NODE_NAME.to_owned(),
            zone: Some(ZONE.to_owned()),
            addresses: NODE.iter().map(|address| address.parse()).collect::<Result<_, _>>()?,
            pod_interfaces: "bw".to_owned(),
            service_cidrs: SERVICES.iter().map(|range| range.parse()).collect::<Result<_, _>>()?,
            external_ips: true,
        };
        Ok(Self {
            tables: [Table::default(), Table::default()],
            services: Services::new(node),
            script: Script::default(),
            began: Instant::now(),
        })
    }

    fn install(&mut self, site: &Site) -> Result<()> {
        site.nft(&self.script.install(self.services.node(), self.services.ruleset()))
    }

    /// Has the site be as the API server's objects say.
    fn follow(&mut self, site: &Site, cluster: &Cluster) -> Result<()> {
        for (kind, name) in [(Kind::Services, "services"), (Kind::Endpoints, "endpointslices")] {
            let mut new = Table::default();
            for object in cluster.all(name)? {
                for change in objects::applied(kind, &new, object)? {
                    new.apply(change);
                }
            }
            let table = &mut self.tables[kind as usize - 1];
            self.services.change(kind, table.difference(&new));
            *table = new;
        }
        let now = u64::try_from(self.began.elapsed().as_millis())?;
        let swept = self.script.sweep(now);
        site.nft(&swept)?;
        let edit = self.script.edit(&self.services.render(), now);
        site.nft(&edit)?;
        let (problems, count) = self.services.problems(5);
        ensure!(count == 0, "the API server has let contradictions pass: {problems:?}");
        Ok(())
    }
}

fn list(items: &[Value]) -> String {
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

fn run(worlds: u8) -> Result<()> {
    programs::own_pins()?;
    let object = programs::object()?;
    let folder = tempfile::tempdir()?;
    let (theirs, ours) = (Site::new(folder.path(), "theirs")?, Site::new(folder.path(), "ours")?);
    let mut cluster = {
        let _inside = theirs.node.enter()?;
        Cluster::start(folder.path())?
    };
    let _inside = theirs.node.enter()?;
    let addresses: Vec<_> = NODE.iter().map(|address| json!({ "type": "InternalIP", "address": address })).collect();
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE_NAME, "labels": { "topology.kubernetes.io/zone": ZONE } },
        "status": { "addresses": addresses },
    });
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    cluster.kubectl(&["create", "-f", "-"], &list(&[namespace, node.clone()]))?;
    cluster.kubectl(&["replace", "--subresource=status", "-f", "-"], &node.to_string())?;
    cluster.start_proxy(NODE_NAME)?;
    let mut side = Ours::new()?;
    side.install(&ours)?;
    let programs = object.map(|object| Programs::attach(&ours.node, &object)).transpose()?;

    let (mut asked, mut tries, mut differences) = (0, 0, Vec::new());
    for number in 0..worlds {
        let mut rng = fastrand::Rng::with_seed(u64::from(number) + 1);
        let world = world::world(&mut rng, SERVICES_PER_WORLD);
        if number > 0 {
            cluster.kubectl(&["delete", "services,endpointslices", "--all", "--wait=false", "-n", NAMESPACE], "")?;
        }
        cluster.kubectl(&["create", "-f", "-"], &list(&world.objects))?;
        cluster.kubectl(&["replace", "--subresource=status", "-f", "-"], &list(&world.with_status))?;
        let (sentinel, ips) = world::sentinel(&format!("last-{number}"), number + 1);
        cluster.kubectl(&["create", "-f", "-"], &list(&sentinel))?;
        for (family, ip) in ["ip", "ip6"].into_iter().zip(&ips) {
            let element = format!("{{ {ip} . tcp . 80 }}");
            let is_there = || {
                let mut command = Command::new("nft");
                command.args(["get", "element", family, "kube-proxy", "service-ips", &element]);
                command.output().is_ok_and(|output| output.status.success())
            };
            until("kube-proxy has the objects", is_there).with_context(|| cluster.log("kube-proxy"))?;
        }
        side.follow(&ours, &cluster)?;
        let mut compare = |who: &str, probes: &[Probe]| -> Result<()> {
            for site in [&theirs, &ours] {
                site.run("conntrack -F 2>/dev/null")?;
                site.forget_affinity()?;
            }
            let outcome = compare([&theirs, &ours], probes)?;
            let count = outcome.differences.len();
            println!("world {number}, {who}: {} probes, {} tries at each site, {count} differences", probes.len(), outcome.tries);
            asked += probes.len();
            tries += outcome.tries;
            differences.extend(outcome.differences.into_iter().map(|difference| format!("{who}: {difference}")));
            Ok(())
        };
        compare("our rules", &world.probes)?;
        if let Some(programs) = &programs {
            let of_pods: Vec<Probe> = world.probes.iter().filter(|probe| matches!(probe.from, From::Pod(_))).cloned().collect();
            let (ports, before) = (programs.serve(&side.services)?, programs.by_rules()?);
            compare("our programs", &of_pods)?;
            let (by_rules, lost, translated) = (programs.by_rules()? - before, programs.lost()?, programs.take_translated()?);
            println!(
                "world {number}: {ports} ports of services; {translated} flows of UDP translated, {by_rules} packets of pods left to the rules"
            );
            ensure!(ports > 0 && translated > 0, "the programs have translated nothing");
            ensure!(lost == 0, "{lost} packets were lost among the programs");
            programs.leave_to_rules()?;
        }
    }
    cluster.stop_proxy();
    println!("{asked} probes, {tries} tries at each site, {} unexplained differences", differences.len());
    if !differences.is_empty() {
        bail!("{}", differences.iter().take(40).map(String::as_str).collect::<Vec<_>>().join("\n"));
    }
    Ok(())
}

struct Compared {
    tries: usize,
    differences: Vec<String>,
}

/// All outcomes of one probe at one site.
type Outcomes = BTreeSet<Outcome>;

/// Silence tells nothing where there was an answer before: a packet may be late on a busy machine.
fn agree(theirs: &Outcomes, ours: &Outcomes) -> bool {
    let told = |outcomes: &Outcomes| outcomes.iter().filter(|outcome| **outcome != Outcome::Silence).cloned().collect::<Outcomes>();
    told(theirs) == told(ours)
}

fn compare(sites: [&Site; 2], probes: &[Probe]) -> Result<Compared> {
    let mut seen: Vec<[Outcomes; 2]> = vec![[Outcomes::new(), Outcomes::new()]; probes.len()];
    let mut compared = Compared { tries: 0, differences: Vec::new() };
    let everybody_once = |which: &[usize], seen: &mut Vec<[Outcomes; 2]>| -> Result<Vec<[Outcome; 2]>> {
        let asked: Vec<_> = which.iter().map(|number| &probes[*number]).collect();
        let [theirs, ours] = std::thread::scope(|scope| {
            sites
                .map(|site| {
                    scope.spawn({
                        let asked = &asked;
                        move || ask(site, asked)
                    })
                })
                .map(|thread| thread.join())
        });
        let (theirs, ours) = (theirs.map_err(|_| anyhow::anyhow!("panicked"))??, ours.map_err(|_| anyhow::anyhow!("panicked"))??);
        let pairs: Vec<_> = theirs.into_iter().zip(ours).map(|(theirs, ours)| [theirs, ours]).collect();
        for (number, pair) in which.iter().zip(&pairs) {
            for (outcomes, outcome) in seen[*number].iter_mut().zip(pair) {
                outcomes.insert(outcome.clone());
            }
        }
        Ok(pairs)
    };
    let all: Vec<usize> = (0..probes.len()).collect();
    everybody_once(&all, &mut seen)?;
    compared.tries += all.len();
    // Whoever stays with an endpoint comes to the same one again. One client that asks by several of a service's addresses at once, as it
    // just did, may be sent to several endpoints, by either; from then on it is the first of them.
    let stay: Vec<usize> = all.iter().copied().filter(|number| probes[*number].stays).collect();
    let (first, again) = (everybody_once(&stay, &mut seen)?, everybody_once(&stay, &mut seen)?);
    compared.tries += 2 * stay.len();
    for ((number, first), again) in stay.iter().zip(&first).zip(&again) {
        for (who, (before, after)) in ["kube-proxy", "ours"].into_iter().zip(first.iter().zip(again)) {
            if before != after && *before != Outcome::Silence && *after != Outcome::Silence {
                compared.differences.push(format!("{:?}: {who} leads it to {before:?} and then to {after:?}", probes[*number]));
            }
        }
    }
    for _ in 0..ROUNDS {
        let differ: Vec<usize> = all.iter().copied().filter(|number| !agree(&seen[*number][0], &seen[*number][1])).collect();
        if differ.is_empty() {
            return Ok(compared);
        }
        for site in sites {
            site.forget_affinity()?;
        }
        everybody_once(&differ, &mut seen)?;
        compared.tries += differ.len();
    }
    for number in all {
        let [theirs, ours] = &seen[number];
        if !agree(theirs, ours) {
            compared.differences.push(format!("{:?}\n    kube-proxy: {theirs:?}\n    ours: {ours:?}", probes[number]));
        }
    }
    Ok(compared)
}
