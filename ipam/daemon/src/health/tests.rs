use std::collections::BTreeMap;
use std::fs;

use fleet_api::message::Outcome;
use tokio::sync::watch;

use super::*;
use crate::health_check::Basis;

const SOON: Duration = Duration::from_secs(20);

fn config(checks: &[Check]) -> HealthConfig {
    let checks: BTreeMap<_, _> = checks.iter().map(|check| (*check, Duration::from_millis(5))).collect();
    HealthConfig { checks, kubelet: "127.0.0.1:1".parse().unwrap(), runtime_sockets: vec![PathBuf::from("/nowhere.sock")] }
}

fn sources(conditions: &Arc<NodeConditions>) -> Sources {
    Sources { conditions: Arc::clone(conditions), programs: Box::new(|| None), fleet: None }
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
    let _health = Health::start(&config(&all), &board, sources(&Arc::default())).unwrap();
    let report = until(&mut reports, "all have run", |_| board.lines().iter().all(|line| line.runs > 0));
    assert_eq!(report.findings.len(), Check::ALL.len());
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
    let mut looked = telling(Check::Conntrack, looked, Arc::clone(&conditions));
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
    board.add("hangs", Basis::Own, Duration::ZERO);
    board.add("works", Basis::Own, SOON);
    let checks = vec![
        keep_looking("hangs", AGAIN, hang, Arc::clone(&board)).unwrap(),
        keep_looking("works", Duration::from_millis(1), Box::new(|_| Verdict::Failed("x".to_owned())), Arc::clone(&board)).unwrap(),
    ];
    let mut reports = board.reports();
    let is_told = |report: &Report| {
        let seen = |check: &str| report.findings.iter().find(|finding| finding.check == check).map(|finding| finding.seen.clone());
        seen("hangs").is_some_and(|seen| seen.starts_with("has not come back")) && seen("works").is_some_and(|seen| seen == "x")
    };
    until(&mut reports, "the one is unknown, the other is told", is_told);
    let begun = Instant::now();
    let mut health = Health { checks };
    health.stop();
    drop(health);
    assert!(begun.elapsed() < SOON);
    drop(hold);
}
