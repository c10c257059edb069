use std::collections::BTreeMap;
use std::fs;

use fleet_api::message::Outcome;
use tokio::sync::watch;

use super::*;
use crate::health_check::Basis;

const SOON: Duration = Duration::from_secs(20);

fn config(checks: &[Check]) -> HealthConfig {
    let checks: BTreeMap<_, _> = checks.iter().map(|check| (*check, Duration::from_millis(5))).collect();
    let runtime_sockets = vec![PathBuf::from("/nowhere.sock")];
    let kubelet = "127.0.0.1:1".parse().unwrap();
    HealthConfig {
        checks,
        kubelet,
        api_server: Vec::new(),
        runtime_sockets,
        peer_port: 7445,
        expected: crate::config::Expected::default(),
        plugins: Vec::new(),
    }
}

fn sources(conditions: &Arc<NodeConditions>, run_dir: &Path) -> Sources {
    let boot = Boot { id: "boot".to_owned(), run_dir: run_dir.to_owned() };
    let orders = Arc::new(|| fleet_api::Preflight::Untold);
    Sources {
        conditions: Arc::clone(conditions),
        programs: Arc::new(|| None),
        cloud: None,
        fleet: None,
        peers: Arc::new(|| None),
        orders,
        boot,
    }
}

fn sh(name: &str, kind: PluginKind, script: &str) -> PluginConfig {
    PluginConfig {
        name: name.to_owned(),
        program: PathBuf::from("/bin/sh"),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        kind,
        interval: Duration::from_secs(1),
        timeout: SOON,
        failures: 2,
        memory: 256 << 20,
        cpu_seconds: 20,
    }
}

/// Until the newest report is as it should be.
fn until(reports: &mut watch::Receiver<Report>, what: &str, is: impl FnMut(&Report) -> bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let found = runtime.block_on(async { tokio::time::timeout(SOON, reports.wait_for(is)).await.map(|report| report.unwrap().clone()) });
    found.unwrap_or_else(|_| panic!("{what}: {:?}", *reports.borrow()))
}

fn outcome(report: &Report, check: &str) -> Option<Outcome> {
    report.findings.iter().find(|finding| finding.check == check).map(fleet_api::message::Finding::outcome)
}

#[test]
fn every_check_runs_and_says_something() {
    let all: Vec<_> = Check::ALL.iter().map(|(check, _)| *check).collect();
    let board = Board::new();
    let mut reports = board.reports();
    let run_dir = tempfile::tempdir().unwrap();
    let _health = Health::start(Some(&config(&all)), &board, sources(&Arc::default(), run_dir.path())).unwrap();
    let report = until(&mut reports, "all have run", |_| board.lines().iter().all(|line| line.runs > 0));
    // What is found of peers is told, and not that there is a check of them.
    assert_eq!(report.findings.len(), Check::ALL.len() - 1);
    assert_eq!(report.judge(), Ok(()));
    for (name, outcome_expected) in [("kubelet", Outcome::Unknown), ("runtime", Outcome::Unknown), ("network", Outcome::Ok)] {
        assert_eq!(outcome(&report, name), Some(outcome_expected), "{name}: {report:?}");
    }
}

#[test]
fn what_breaks_the_network_for_pods_fails_and_a_full_node_does_not() {
    let conditions = Arc::new(NodeConditions::default());
    let mut look = look_at_network(Arc::clone(&conditions));
    assert_eq!(look(Duration::ZERO), Verdict::Ok);
    conditions.report(Kind::AddressesExhausted, Some(Finding::new("Full", "no address", "wait")));
    assert_eq!(look(Duration::ZERO), Verdict::Ok);
    conditions.report(Kind::ForwardingRefused, Some(Finding::new("Refused", "read-only /proc/sys", "allow it")));
    assert_eq!(look(Duration::from_secs(1)).result(), "unknown");
    assert_eq!(look(Duration::from_secs(31)), Verdict::Failed("ForwardingRefused: read-only /proc/sys".to_owned()));
}

#[test]
fn what_a_check_finds_of_the_network_is_a_condition_until_it_is_over() {
    let conditions = Arc::new(NodeConditions::default());
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("proc/sys/net/netfilter");
    fs::create_dir_all(&table).unwrap();
    fs::write(table.join("nf_conntrack_max"), "100").unwrap();
    let looked = look(Check::Conntrack, &config(&[]), folder.path().to_owned());
    let mut looked = telling(Check::Conntrack, looked, Arc::clone(&conditions), Board::new().renew());
    for (count, held) in [("99", 1), ("nonsense", 1), ("1", 0)] {
        fs::write(table.join("nf_conntrack_count"), count).unwrap();
        looked(Duration::ZERO);
        assert_eq!(conditions.all().len(), held, "with {count}: {:?}", conditions.all());
    }
}

#[test]
fn a_look_that_hangs_holds_up_no_other_and_not_the_end() {
    let board = Board::new();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let hang: Look = Box::new(move |_| {
        let _ = held.recv();
        Verdict::Ok
    });
    let (writer, run_dir) = (board.renew(), tempfile::tempdir().unwrap());
    writer.add("hangs", Basis::Own, Duration::ZERO);
    writer.add("works", Basis::Own, SOON);
    let works = paced(Box::new(|_| Verdict::Failed("x".to_owned())), Duration::from_millis(1));
    let checks = vec![
        keep_looking("hangs".to_owned(), paced(hang, AGAIN), writer.clone()).unwrap(),
        keep_looking("works".to_owned(), works, writer.clone()).unwrap(),
    ];
    let sources = sources(&Arc::default(), run_dir.path());
    let (boot, orders) = (sources.boot.clone(), Arc::clone(&sources.orders));
    let measured = measure::keep_being_measured(Arc::clone(&orders), 7_445).unwrap();
    let plan = Plan { plugins: Vec::new(), boot, orders, port: 7_445, expected: crate::config::Expected::default() };
    let preflight = Preflight::start(plan, writer, Arc::default()).unwrap();
    let mut reports = board.reports();
    let is_told = |report: &Report| {
        let seen = |check: &str| report.findings.iter().find(|finding| finding.check == check).map(|finding| finding.seen.clone());
        seen("hangs").is_some_and(|seen| seen.starts_with("has not come back")) && seen("works").is_some_and(|seen| seen == "x")
    };
    until(&mut reports, "the one is unknown, the other is told", is_told);
    let begun = Instant::now();
    let running = Some(Running { checks, answers: None, measured, preflight, places: Arc::default() });
    let mut health = Health { board, sources, config: None, running };
    health.stop();
    drop(health);
    assert!(begun.elapsed() < SOON);
    drop(hold);
}

#[test]
fn a_plug_in_is_a_check_that_is_said_to_have_failed_as_often_as_any() {
    let (folder, board) = (tempfile::tempdir().unwrap(), Board::new());
    let (runs, hangs) = (folder.path().join("runs"), folder.path().join("hangs"));
    let bad = sh("bad", PluginKind::Passive, &format!("echo >> {}; echo no link; exit 1", runs.display()));
    let bad = PluginConfig { interval: Duration::from_secs(3_600), ..bad };
    let hang = sh("hangs", PluginKind::Passive, &format!("touch {}; exec sleep 1000", hangs.display()));
    let good = sh("good", PluginKind::Passive, "exit 0");
    let config = HealthConfig { plugins: vec![bad, good, hang], ..config(&[]) };
    let mut reports = board.reports();
    let _health = Health::start(Some(&config), &board, sources(&Arc::default(), folder.path())).unwrap();
    let report = until(&mut reports, "it is said four times", |report| {
        let bad = report.findings.iter().find(|finding| finding.check == "plugin/bad");
        bad.is_some_and(|bad| bad.outcome() == Outcome::Failed && bad.seen == "no link" && bad.run >= 5)
    });
    assert_eq!((report.judge(), outcome(&report, "plugin/good")), (Ok(()), Some(Outcome::Ok)));
    assert_eq!(fs::read_to_string(&runs).unwrap().lines().count(), 2, "the program itself runs at its pace");
    assert!(hangs.exists(), "one that hangs holds up no other");
}

#[test]
fn other_settings_are_taken_while_it_runs() {
    let (folder, board) = (tempfile::tempdir().unwrap(), Board::new());
    let mut health = Health::start(None, &board, sources(&Arc::default(), folder.path())).unwrap();
    assert_eq!(board.page(), None);
    let mut reports = board.reports();
    let one = HealthConfig { plugins: vec![sh("one", PluginKind::Passive, "exit 0")], ..config(&[Check::Network]) };
    health.reload(Some(&one));
    until(&mut reports, "the plug-in is there", |report| outcome(report, "plugin/one") == Some(Outcome::Ok));
    health.reload(Some(&config(&[Check::Network])));
    until(&mut reports, "and gone", |report| outcome(report, "plugin/one").is_none() && outcome(report, "network") == Some(Outcome::Ok));
    let conditions = Arc::clone(&health.sources.conditions);
    conditions.report(Kind::ConntrackFull, Some(Finding::new("NearlyFull", "99 of 100", "raise it")));
    health.reload(Some(&config(&[Check::Conntrack, Check::Network])));
    health.reload(None);
    assert_eq!(conditions.all().len(), 0, "nobody would say that it is over");
    until(&mut reports, "nothing is looked at", |report| *report == Report::default());
    assert_eq!(board.page(), None);
}
