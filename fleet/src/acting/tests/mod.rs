//! The executor, over an API server that is a function, on a clock that does not wait.

mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fleet_plans::health::{self, About, Report, Verdict};
use fleet_plans::preflight::{self, KEY, Run, Said, State};
use fleet_plans::teams::{ASSIGNED, TEAM, Teams};
use serde_json::{Value, json};
use server::Server;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Counters, Executor, Heard, Mode, Nodes, Settings, TeamsFile};
use crate::watches::{Event, Target};

fn teams(count: u32) -> TeamsFile {
    let teams: Teams = serde_json::from_value(json!({
        "pools": [{ "name": "p", "matchLabels": { "pool": "p" } }],
        "teams": [{ "name": "ml", "namespaces": ["ml"], "lend": true, "nodes": [{ "pool": "p", "count": count, "min": 1 }] }],
    }))
    .unwrap();
    TeamsFile::of(teams)
}

/// A replica.
struct Replica {
    leads: watch::Sender<bool>,
    teams: watch::Sender<TeamsFile>,
    reports: mpsc::Sender<(String, Heard)>,
    nodes: Arc<Nodes>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
    _streams: watch::Sender<usize>,
}

impl Replica {
    fn start(server: &Arc<Server>, teams: TeamsFile, mode: Mode) -> Self {
        Self::start_with(server, teams, mode, |_| {})
    }

    fn start_with(server: &Arc<Server>, teams: TeamsFile, mode: Mode, change: impl FnOnce(&mut Settings)) -> Self {
        let health = health::Settings { dry_run: mode != Mode::Apply, ..health::Settings::default() };
        let every = Some(7 * 86_400_000);
        let preflight = preflight::Settings { dry_run: mode != Mode::Apply, every, ..preflight::Settings::default() };
        let mut settings = Settings {
            teams: mode,
            health,
            hook: None,
            preflight: Some(preflight),
            per_second: 5,
            identity: "r".to_owned(),
            lease: ("kube-system".to_owned(), "l".to_owned()),
        };
        change(&mut settings);
        let ((leads, led), (teams, file)) = (watch::channel(true), watch::channel(teams));
        let ((reports, heard), (_streams, streams)) = (mpsc::channel(100), watch::channel(0));
        let (mut nodes, counters) = (Arc::new(Nodes::default()), Arc::new(Counters::default()));
        let mut list = BTreeMap::new();
        server.nodes().into_values().for_each(|node| nodes.read(&mut list, Event::Applied(node)));
        nodes.listed(1, list);
        let executor = Executor::new(server.client(), Arc::clone(&nodes), Arc::clone(&counters), file, heard, streams, settings);
        Self { leads, teams, reports, nodes, counters, task: tokio::spawn(executor.run(led)), _streams }
    }

    /// The watch has something to say.
    fn hears(&mut self, server: &Server, name: &str) {
        self.nodes.changed(0, Some(Event::Applied(server.nodes()[name].clone())));
    }

    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        crate::metrics::write(&super::METRICS, &*self.counters, &mut text);
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("barewire_fleet_{name} "))).unwrap_or_else(|| panic!("{name}"));
        line.parse().unwrap()
    }
}

fn given(server: &Server) -> usize {
    server.nodes().values().filter(|node| node["metadata"]["annotations"][ASSIGNED] == "ml").count()
}

fn is_whole(node: &Value) -> bool {
    let has = |taint: &&Value| taint["key"] == TEAM && taint["value"] == "ml";
    node["spec"]["taints"].as_array().is_some_and(|taints| taints.iter().filter(has).count() == 1)
        && node["metadata"]["labels"][TEAM] == "ml"
}

#[tokio::test(start_paused = true)]
async fn nodes_are_given_at_a_rate_and_what_is_altered_is_put_right() {
    let server = Server::start(40);
    let mut replica = Replica::start(&server, teams(30), Mode::Apply);
    // For so long a new leader hears how many pods nodes have.
    sleep(Duration::from_millis(1_900)).await;
    assert_eq!(given(&server), 0);
    sleep(Duration::from_millis(2_100)).await;
    assert!((8..=16).contains(&given(&server)), "{} at five a second", given(&server));
    sleep(Duration::from_secs(8)).await;
    assert_eq!((given(&server), server.events("TeamAssigned"), replica.metric("teams_moves")), (30, 30, 0));
    assert!(server.nodes().values().filter(|node| node["metadata"]["annotations"][ASSIGNED] == "ml").all(is_whole));
    let written = server.written();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(server.written(), written, "nothing is left to do");

    let name = server.nodes().iter().find(|(_, node)| is_whole(node)).unwrap().0.clone();
    server.alter(&name, |node| {
        node["metadata"]["labels"][TEAM] = json!("other");
        node["spec"]["taints"] = json!([{ "key": "theirs", "effect": "NoSchedule" }]);
    });
    replica.hears(&server, &name);
    sleep(Duration::from_secs(2)).await;
    let node = &server.nodes()[&name];
    assert!(is_whole(node) && node["spec"]["taints"][0]["key"] == "theirs", "{node}");
    assert_eq!(server.events("TeamRestored"), 1);

    // Another file: the fewest moves.
    replica.teams.send_replace(teams(28));
    sleep(Duration::from_secs(5)).await;
    assert_eq!((given(&server), server.events("TeamReleased")), (28, 2));
    replica.task.abort();
}

#[tokio::test(start_paused = true)]
async fn the_emptiest_are_given_up_by_what_nodes_say_of_themselves() {
    let server = Server::start(10);
    let replica = Replica::start(&server, teams(10), Mode::Apply);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(given(&server), 10);
    for (number, pods) in [(0, 9), (1, 8), (2, 0), (3, 7), (4, 30), (5, 2), (6, 40), (7, 50)] {
        replica.reports.send((format!("n{number}"), Heard::Pods(pods))).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    let written = server.written();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(server.written(), written, "pods come and go, and no node for that");
    replica.teams.send_replace(teams(7));
    sleep(Duration::from_secs(10)).await;
    let left: Vec<_> =
        server.nodes().into_iter().filter(|(_, node)| node["metadata"]["annotations"][ASSIGNED] != "ml").map(|(name, _)| name).collect();
    assert_eq!(left, ["n2", "n3", "n5"]);
    replica.task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_writes_nothing_and_says_what_it_would() {
    let server = Server::start(10);
    let replica = Replica::start(&server, teams(4), Mode::DryRun);
    sleep(Duration::from_secs(60)).await;
    assert_eq!((server.asked(), replica.metric("teams_moves")), (0, 4));
    assert_eq!(replica.metric("acts_total{part=\"teams\",outcome=\"dry_run\"}"), 4, "each is said once");
    replica.task.abort();
}

#[tokio::test(start_paused = true)]
async fn who_leads_no_longer_stops_at_once_and_another_finishes() {
    let server = Server::start(40);
    let first = Replica::start(&server, teams(40), Mode::Apply);
    let end = async {
        while given(&server) < 12 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    end.await;
    // In the middle of a request, too.
    server.answer_late(Duration::from_secs(5));
    sleep(Duration::from_millis(500)).await;
    first.leads.send_replace(false);
    sleep(Duration::from_millis(1)).await;
    let asked = server.asked();
    sleep(Duration::from_secs(30)).await;
    assert!(server.asked() == asked && given(&server) < 40, "{} of 40", given(&server));
    assert_eq!(first.metric("teams_moves"), 0, "of the leader alone");
    server.answer_late(Duration::ZERO);
    let second = Replica::start(&server, teams(40), Mode::Apply);
    sleep(Duration::from_secs(15)).await;
    assert_eq!((given(&server), server.nodes().values().filter(|node| is_whole(node)).count()), (40, 40));
    first.task.abort();
    second.task.abort();
}

#[tokio::test(start_paused = true)]
async fn the_api_server_says_when_and_a_node_that_has_changed_is_read_again() {
    let server = Server::start(1);
    // Newer than what the replica knows.
    let replica = Replica::start(&server, TeamsFile::default(), Mode::Apply);
    server.alter("n0", |node| node["metadata"]["labels"]["else"] = json!("x"));
    server.refuse(429, Some(7), 2);
    // After the time in which a new leader makes no plan.
    sleep(Duration::from_secs(2)).await;
    replica.teams.send_replace(teams(1));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(server.asked(), 1);
    sleep(Duration::from_millis(5_900)).await;
    assert_eq!(server.asked(), 1, "not before its time");
    sleep(Duration::from_secs(7)).await;
    assert_eq!((server.asked(), replica.metric("acts_total{part=\"teams\",outcome=\"later\"}")), (2, 2));
    sleep(Duration::from_secs(12)).await;
    assert_eq!(replica.metric("acts_total{part=\"teams\",outcome=\"conflict\"}"), 1);
    assert!(is_whole(&server.nodes()["n0"]) && server.nodes()["n0"]["metadata"]["labels"]["else"] == "x");
    replica.task.abort();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_told_and_changes_nothing() {
    let server = Server::start(3);
    server.alter("n1", |node| node["spec"]["taints"] = json!([{ "key": TEAM, "value": "x", "effect": "NoSchedule" }]));
    let replica = Replica::start(&server, TeamsFile::default(), Mode::Apply);
    let mut impossible = teams(3);
    impossible.teams.as_mut().map(Arc::make_mut).unwrap().teams[0].nodes[0].min = Some(3);
    replica.teams.send_replace(impossible);
    sleep(Duration::from_secs(5)).await;
    assert_eq!((server.asked(), replica.counters.faults().len()), (0, 1), "{:?}", replica.counters.faults());
    replica.teams.send_replace(teams(3));
    sleep(Duration::from_secs(5)).await;
    assert_eq!((given(&server), replica.counters.faults().len(), replica.metric("teams_nodes_left_alone")), (2, 0, 1));
    assert_eq!(server.nodes()["n1"]["spec"]["taints"][0]["value"], "x", "what somebody else has put there stays");
    replica.task.abort();
}

const SICK: &str = "health.barewire.cloud/sick";

async fn complain(replica: &Replica, node: &str, seconds: u64) {
    for _ in 0..seconds * 2 {
        let verdict = Verdict::Bad("no carrier".to_owned());
        // What it calls itself is not believed.
        let report = Report { node: "n5".to_owned(), about: About::Own, check: "uplink".to_owned(), verdict };
        replica.reports.send((node.to_owned(), Heard::Verdict(report))).await.unwrap();
        sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_nobody_mends_is_handed_over_again_each_hour_and_only_where_there_is_a_hook() {
    for hook in [None, Some("/nowhere/hook".into())] {
        let server = Server::start(60);
        let is_there = hook.is_some();
        let replica = Replica::start_with(&server, TeamsFile::default(), Mode::Apply, |settings| {
            (settings.health.overdue_after, settings.health.force, settings.hook) = (60_000, hook.is_some(), hook);
        });
        // Quiet, tainted, drained, overdue.
        complain(&replica, "n3", 605 + 330 + 90).await;
        let told = || (server.events("NodeOverdue"), server.events("NodeForced"), server.events("NodeHookFailed"));
        assert_eq!(told(), if is_there { (1, 1, 1) } else { (1, 0, 0) });
        complain(&replica, "n3", 3_700).await;
        assert_eq!(told(), if is_there { (1, 1, 2) } else { (1, 0, 0) });
        // Mended in the end.
        let well = Report { node: String::new(), about: About::Own, check: "uplink".to_owned(), verdict: Verdict::Good };
        replica.reports.send(("n3".to_owned(), Heard::Verdict(well))).await.unwrap();
        sleep(Duration::from_secs(7_200)).await;
        assert_eq!((server.events("NodeReleased"), told().2), (1, if is_there { 2 } else { 0 }));
        replica.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_sick_node_is_tainted_after_the_quiet_time_then_drained_as_budgets_allow() {
    for mode in [Mode::DryRun, Mode::Apply] {
        let server = Server::start(60);
        server.pods("n3", 3);
        let replica = Replica::start(&server, TeamsFile::default(), mode);
        let tainted = || server.nodes().values().filter(|node| node["spec"]["taints"][0]["key"] == SICK).count();
        complain(&replica, "n3", 590).await;
        assert_eq!((server.asked(), tainted()), (0, 0), "quiet after a start");
        complain(&replica, "n3", 15).await;
        if mode == Mode::DryRun {
            assert_eq!((server.asked(), replica.metric("acts_total{part=\"health\",outcome=\"dry_run\"}")), (0, 1));
            // Nobody can say any more that it leads.
            drop((replica.leads, replica.reports));
            replica.task.await.unwrap();
            continue;
        }
        assert_eq!((tainted(), server.events("NodeTainted"), server.evicted()), (1, 1, 0));
        assert_eq!(server.nodes()["n3"]["spec"]["taints"][0]["key"], SICK, "the name of the certificate counts");
        // One pod is held back by its budget.
        server.hold("n3-0");
        complain(&replica, "n3", 330).await;
        assert_eq!((server.events("NodeDraining"), server.evicted()), (1, 2));
        server.hold("");
        complain(&replica, "n3", 10).await;
        assert_eq!(server.evicted(), 3);
        let well = Report { node: String::new(), about: About::Own, check: "uplink".to_owned(), verdict: Verdict::Good };
        replica.reports.send(("n3".to_owned(), Heard::Verdict(well))).await.unwrap();
        sleep(Duration::from_secs(70)).await;
        assert_eq!((tainted(), server.events("NodeReleased")), (0, 1));
        replica.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_storm_nothing_is_written_until_a_person_says_so() {
    let server = Server::start(60);
    let replica = Replica::start(&server, TeamsFile::default(), Mode::Apply);
    sleep(Duration::from_secs(601)).await;
    let storm = async || {
        for node in 0..6 {
            complain_at_once(&replica, &format!("n{node}")).await;
        }
    };
    for _ in 0..10 {
        storm().await;
        sleep(Duration::from_millis(500)).await;
    }
    assert_eq!((server.written(), replica.metric("health_breaker_tripped")), (0, 1));
    sleep(Duration::from_secs(20)).await;
    server.annotate_lease("now");
    sleep(Duration::from_secs(20)).await;
    assert_eq!((server.written(), replica.metric("health_breaker_tripped")), (0, 0));
    replica.task.abort();
}

async fn complain_at_once(replica: &Replica, node: &str) {
    let verdict = Verdict::Bad("no carrier".to_owned());
    let report = Report { node: node.to_owned(), about: About::Own, check: "uplink".to_owned(), verdict };
    replica.reports.send((node.to_owned(), Heard::Verdict(report))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_new_node_is_let_in_when_it_has_passed_and_kept_out_with_an_event_when_not() {
    for mode in [Mode::DryRun, Mode::Apply] {
        let server = Server::start(3);
        for name in ["n0", "n1"] {
            server.alter(name, |node| {
                node["spec"] = json!({ "taints": [{ "key": KEY, "effect": "NoSchedule" }] });
                node["status"]["nodeInfo"] = json!({ "bootID": "b1" });
            });
        }
        let tainted = || server.nodes().values().filter(|node| node["spec"]["taints"][0]["key"] == KEY).count();
        let replica = Replica::start(&server, TeamsFile::default(), mode);
        let say = async |node: &str, state, boot: &str| {
            let evidence = vec!["disk: slow".to_owned()];
            let said = Said { state, boot: boot.to_owned(), evidence, run: 0, hears: false };
            replica.reports.send((node.to_owned(), Heard::Preflight(said))).await.unwrap();
            sleep(Duration::from_secs(2)).await;
        };
        say("n0", State::Passed, "b0").await;
        say("n1", State::Running, "b1").await;
        assert_eq!((server.asked(), replica.metric("preflight_nodes_waiting"), tainted()), (0, 2, 2), "another boot's");
        say("n0", State::Passed, "b1").await;
        say("n1", State::Failed, "b1").await;
        say("n1", State::Failed, "b1").await;
        if mode == Mode::DryRun {
            assert_eq!((server.asked(), replica.metric("acts_total{part=\"preflight\",outcome=\"dry_run\"}")), (0, 2));
        } else {
            assert_eq!((tainted(), server.events("PreflightPassed"), server.events("PreflightFailed")), (1, 1, 1));
            assert_eq!((replica.metric("preflight_nodes_waiting"), replica.metric("preflight_nodes_failed")), (1, 1));
            assert_eq!(server.written(), 1);
        }
        replica.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_pods_is_checked_again_and_one_with_pods_is_left_alone() {
    let server = Server::start(2);
    server.pods("n0", 1);
    for name in ["n0", "n1"] {
        server.alter(name, |node| node["status"]["nodeInfo"] = json!({ "bootID": "b" }));
    }
    let mut replica = Replica::start(&server, TeamsFile::default(), Mode::Apply);
    let run = |name: &str| -> Option<Run> {
        serde_json::from_str(server.nodes()[name]["metadata"]["annotations"][preflight::RUN].as_str()?).unwrap()
    };
    let taints = |name: &str| server.nodes()[name]["spec"]["taints"].as_array().map_or(0, Vec::len);
    let say = |run| Said { state: State::Passed, boot: "b".to_owned(), evidence: Vec::new(), run, hears: true };
    for (name, pods) in [("n0", 1), ("n1", 0)] {
        replica.reports.send((name.to_owned(), Heard::Preflight(say(0)))).await.unwrap();
        replica.reports.send((name.to_owned(), Heard::Pods(pods))).await.unwrap();
    }
    sleep(Duration::from_secs(60)).await;
    let told = run("n1").unwrap();
    assert_eq!((told.by.as_str(), taints("n1"), run("n0"), taints("n0")), ("schedule", 1, None, 0));
    replica.hears(&server, "n1");
    replica.reports.send(("n1".to_owned(), Heard::Preflight(say(told.at)))).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert!(run("n1").unwrap().has_passed() && taints("n1") == 0, "{:?}", server.nodes()["n1"]);
    let written = server.written();
    sleep(Duration::from_secs(24 * 3_600)).await;
    assert_eq!(server.written(), written, "once in a while");
    replica.task.abort();
}
