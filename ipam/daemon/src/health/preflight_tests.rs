use fleet_api::message::PreflightState;

use super::super::board::Board;
use super::*;
use crate::config::PluginKind;
use crate::health_check::Basis;

fn sh(name: &str, script: &str) -> PluginConfig {
    PluginConfig {
        name: name.to_owned(),
        program: PathBuf::from("/bin/sh"),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        kind: PluginKind::Preflight,
        interval: Duration::from_secs(60),
        timeout: Duration::from_secs(20),
        failures: 1,
        memory: 256 << 20,
        cpu_seconds: 20,
    }
}

/// A run on a board, without a thread, of a node without a fleet.
fn run(board: &Arc<Board>, folder: &Path, plugins: Vec<PluginConfig>) -> Run {
    run_of("boot-1", board, folder, plugins, Arc::new(|| fleet_api::Preflight::Untold))
}

fn run_of(boot: &str, board: &Arc<Board>, folder: &Path, plugins: Vec<PluginConfig>, orders: Orders) -> Run {
    let writer = board.renew();
    plugins.iter().for_each(|plugin| writer.add_for_preflight(&check_name(plugin), plugin.timeout));
    writer.add("disk", Basis::Own, Duration::from_secs(5));
    let boot = Boot { id: boot.to_owned(), run_dir: folder.to_owned() };
    let plan = Plan { plugins, boot, orders, port: 7_445, expected: Expected::default() };
    Run::new(plan, writer, Arc::default(), Arc::default())
}

fn told(board: &Board) -> (PreflightState, Vec<String>) {
    let preflight = board.reports().borrow().preflight.clone().unwrap();
    assert_eq!(preflight.boot, "boot-1");
    assert!(preflight.since_seconds > 1_700_000_000);
    (preflight.state(), preflight.evidence)
}

#[test]
fn it_passes_when_all_is_well_once_in_a_boot() {
    let (folder, board) = (tempfile::tempdir().unwrap(), Board::new());
    let (file, runs) = (folder.path().join(FILE), folder.path().join("runs"));
    let count = || fs::read_to_string(&runs).unwrap_or_default().lines().count();
    let plugins = || vec![sh("burn-in", &format!("echo >> {}", runs.display()))];
    let mut first = run(&board, folder.path(), plugins());
    let now = Instant::now();
    first.step(now);
    assert_eq!(told(&board), (PreflightState::Running, vec![]));
    (0..3).for_each(|_| first.step(now));
    assert_eq!((told(&board).0, count()), (PreflightState::Running, 1), "the disk was not looked at");
    first.writer.end("disk", Verdict::Unknown("no disk".to_owned()));
    first.step(now);
    assert_eq!(told(&board), (PreflightState::Passed, vec![]));
    let is_listed = board.reports().borrow().findings.iter().any(|finding| finding.check == "plugin/burn-in");
    assert!(!is_listed && board.lines().len() == 2, "it is on the page, and makes no node sick");
    // What comes later is no matter of the preflight.
    first.writer.end("disk", Verdict::Failed("full".to_owned()));
    first.step(now + PATIENCE);
    assert_eq!(told(&board).0, PreflightState::Passed);
    // A daemon that restarts.
    let mut again = run(&board, folder.path(), plugins());
    again.step(now);
    again.step(now);
    assert_eq!((told(&board).0, count(), again.phase), (PreflightState::Passed, 1, Phase::Passed));
    // Another boot, and a file that is none.
    let mut next = run_of("boot-2", &board, folder.path(), plugins(), Arc::new(|| fleet_api::Preflight::Untold));
    next.step(now);
    assert_eq!((board.preflight(), next.phase), (Some(State::Running), Phase::Network));
    fs::write(&file, "{\"boot\"").unwrap();
    let mut torn = run(&board, folder.path(), plugins());
    torn.step(now);
    assert_eq!(told(&board).0, PreflightState::Running);
}

#[test]
fn a_plug_in_that_does_not_say_ok_stops_it_until_somebody_says_so() {
    let (folder, board) = (tempfile::tempdir().unwrap(), Board::new());
    let mended = folder.path().join("mended");
    let plugins = vec![
        sh("a", &format!("test -e {} && exit 0; echo no GPU; exit 1", mended.display())),
        sh("b", "exit 0"),
        sh("c", &format!("test -e {} && exit 0; exit 7", mended.display())),
    ];
    let mut run = run(&board, folder.path(), plugins);
    run.writer.end("disk", Verdict::Ok);
    let now = Instant::now();
    (0..5).for_each(|_| run.step(now));
    let evidence = vec!["plugin/a: no GPU".to_owned(), "plugin/c: exit code 7, which is neither 0 nor 1".to_owned()];
    assert_eq!(told(&board), (PreflightState::Failed, evidence));
    fs::write(&mended, "").unwrap();
    run.step(now + PATIENCE);
    assert_eq!(told(&board).0, PreflightState::Failed);
    run.told.store(true, Ordering::Relaxed);
    (0..4).for_each(|_| run.step(now));
    assert_eq!(told(&board), (PreflightState::Passed, vec![]));
}

#[test]
fn a_node_waits_for_the_fleets_word_and_makes_each_run_that_it_is_told_once() {
    use fleet_api::message::Order;
    let (folder, board, order) = (tempfile::tempdir().unwrap(), Board::new(), Arc::new(std::sync::Mutex::new(None::<Order>)));
    let orders = || -> Orders {
        let order = Arc::clone(&order);
        Arc::new(move || order.lock().unwrap().clone().map_or(fleet_api::Preflight::Expected, fleet_api::Preflight::Told))
    };
    let tell = |waits: bool, run: u64| *order.lock().unwrap() = Some(Order { waits, run, ..Order::default() });
    let runs = folder.path().join("runs");
    let count = || fs::read_to_string(&runs).unwrap_or_default().lines().count();
    let plugins = || vec![sh("burn-in", &format!("echo >> {}", runs.display()))];
    let mut run = run_of("boot-1", &board, folder.path(), plugins(), orders());
    run.writer.end("disk", Verdict::Ok);
    let now = Instant::now();
    let steps = |run: &mut Run| {
        (0..6).for_each(|_| run.step(now));
        let said = board.reports().borrow().preflight.clone().unwrap();
        assert!(said.hears);
        (said.state(), said.run, count())
    };
    assert_eq!(steps(&mut run), (PreflightState::Waiting, 0, 0));
    tell(true, 0);
    assert_eq!(steps(&mut run), (PreflightState::Waiting, 0, 0));
    tell(false, 7);
    assert_eq!(steps(&mut run), (PreflightState::Passed, 7, 1));
    tell(false, 0);
    assert_eq!(steps(&mut run), (PreflightState::Passed, 7, 1), "that a run has ended is no new one");
    tell(false, 9);
    assert_eq!(steps(&mut run), (PreflightState::Passed, 9, 2));
    // A daemon that is started anew while the leader has not heard of the end.
    let mut again = run_of("boot-1", &board, folder.path(), plugins(), orders());
    again.writer.end("disk", Verdict::Ok);
    assert_eq!(steps(&mut again), (PreflightState::Passed, 9, 2));
}

#[test]
fn a_check_that_fails_is_waited_for_a_while_and_passes_when_it_is_well() {
    let (folder, board) = (tempfile::tempdir().unwrap(), Board::new());
    let mut run = run(&board, folder.path(), Vec::new());
    run.writer.add("late", Basis::Own, Duration::ZERO);
    let now = Instant::now();
    (0..3).for_each(|_| run.step(now));
    let Phase::Checks(since) = run.phase else { panic!("{:?}", run.phase) };
    run.step(since + PATIENCE);
    assert_eq!(told(&board).0, PreflightState::Running, "nothing is known to be wrong");
    run.writer.end("disk", Verdict::Failed("full".to_owned()));
    run.writer.begin("late");
    std::thread::sleep(Duration::from_millis(1));
    run.step(since + PATIENCE / 2);
    assert_eq!(told(&board).0, PreflightState::Running, "what starts with the node may be away");
    run.step(since + PATIENCE);
    let evidence = vec!["disk: full".to_owned(), "late: has not come back within 0 s".to_owned()];
    assert_eq!(told(&board), (PreflightState::Failed, evidence));
    run.writer.end("disk", Verdict::Ok);
    run.writer.end("late", Verdict::Ok);
    run.step(since + PATIENCE);
    assert_eq!(told(&board).0, PreflightState::Passed);
}
