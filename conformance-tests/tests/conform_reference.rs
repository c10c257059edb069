//! The suite against plugins whose conformance is known: the test of the tests.
//!
//! Green: the reference `bridge` and `ptp` pass but for what `known/` lists, and so does the bridge taught CNI 1.1.0.
//! Red: the same bridge with a fault is caught, by the case on the requirement that the fault breaks.

#![expect(clippy::print_stdout, reason = "says why it is skipped, and what it has counted")]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use conformance_tests::{
    invocation::Plugin,
    known::Known,
    netns::Netns,
    report::{Counts, Outcome, Record, Report},
    rundir::{self, RunDir},
    suite::Suite,
    version::SpecVersion,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const REFERENCE_PLUGINS: &str = "/usr/lib/cni";
/// Usable addresses of the reference configurations' subnet, 10.77.0.0/27: all but network, gateway and broadcast.
const POOL_SIZE: u32 = 29;
/// All namespaces of a machine share one lock on their links: beside other tests a call takes seconds.
const TIMEOUT: Duration = Duration::from_secs(120);
const UPGRADED_BRIDGE: &str = include_str!("conform_reference/upgraded-bridge.sh");

/// Says why these tests cannot run here, if so. Where all tiers are promised, that is a failure.
fn cannot_run() -> bool {
    let missing = ["bridge", "ptp", "host-local"].into_iter().find(|plugin| !Path::new(REFERENCE_PLUGINS).join(plugin).exists());
    let reason = if !geteuid().is_root() {
        "needs root for network namespaces".to_owned()
    } else if let Some(plugin) = missing {
        format!("needs {REFERENCE_PLUGINS}/{plugin}: install containernetworking-plugins")
    } else {
        return false;
    };
    assert!(env::var("BAREWIRE_REQUIRE_ALL").as_deref() != Ok("1"), "required, but {reason}");
    println!("SKIP {reason}");
    true
}

/// A plugin with its configuration and the folder where both keep their state.
struct Bench {
    plugin: PathBuf,
    conf: Value,
    folder: TempDir,
}

impl Bench {
    fn reference(plugin: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut conf = json!({
            "name": format!("conform-{plugin}"),
            "type": plugin,
            "ipam": {
                "type": "host-local",
                "dataDir": folder.path().join("leases"),
                "subnet": "10.77.0.0/27",
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
            "dns": { "nameservers": ["10.77.0.1"] },
        });
        if plugin == "bridge" {
            conf["bridge"] = json!("cni0");
            conf["isGateway"] = json!(true);
        }
        Ok(Self { plugin: Path::new(REFERENCE_PLUGINS).join(plugin), conf, folder })
    }

    /// The bridge that speaks CNI 1.1.0, with a fault or with `"none"`.
    fn upgraded(fault: &str) -> Result<Self> {
        let mut bench = Self::reference("bridge")?;
        let state = bench.folder.path().join("state");
        fs::create_dir(&state)?;
        let script = UPGRADED_BRIDGE.replace("@FAULT@", fault).replace("@STATE@", state.to_str().context("a path in UTF-8")?);
        bench.plugin = bench.folder.path().join("bridge");
        fs::write(&bench.plugin, script)?;
        fs::set_permissions(&bench.plugin, fs::Permissions::from_mode(0o755))?;
        // It delegates to plugins in its own folder, as any does.
        std::os::unix::fs::symlink(Path::new(REFERENCE_PLUGINS).join("host-local"), bench.folder.path().join("host-local"))?;
        Ok(bench)
    }

    fn suite(&self) -> Suite {
        Suite {
            plugin: Plugin { path: self.plugin.clone(), timeout: TIMEOUT, interrupted: Arc::new(AtomicBool::new(false)) },
            conf: self.conf.clone(),
            versions: SpecVersion::ALL.to_vec(),
            only: String::new(),
            host_netns: None,
            pool_size: Some(POOL_SIZE),
            known: Known::default(),
        }
    }

    /// The command line, with the configuration as a file.
    fn command(&self) -> Result<Command> {
        let conf = self.folder.path().join("conf.json");
        fs::write(&conf, self.conf.to_string())?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_conform"));
        command.arg("--plugin").arg(&self.plugin).arg("--conf").arg(conf).stdin(Stdio::null());
        Ok(command)
    }

    fn leases(&self) -> Result<Vec<String>> {
        let network = self.folder.path().join("leases").join(self.conf["name"].as_str().context("a name")?);
        let names = fs::read_dir(network)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.filter(|name: &Result<String>| name.as_ref().is_ok_and(|name| name.starts_with("10."))).collect()
    }
}

fn known(plugin: &str) -> Result<Known> {
    Ok(Known::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("known/reference-{plugin}.toml")))?)
}

fn unexpected(report: &Report) -> String {
    let records = report.cases.iter().filter(|record| !record.outcome.is_expected());
    records.map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn reference_passes(plugin: &str, known_failures: usize) -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let bench = Bench::reference(plugin)?;
    let report = Suite { known: known(plugin)?, ..bench.suite() }.run(|_| {})?;
    ensure!(report.is_success(), "{}", unexpected(&report));
    println!("{plugin}:\n{}", report.summary());

    let counts = report.counts(None);
    assert_eq!(counts.known_failure, known_failures, "a known failure that is not met is not known");
    assert!(counts.pass > 180, "{counts}");
    let newest = report.counts(Some(SpecVersion::V1_1_0));
    assert_eq!(newest, Counts { skip: newest.skip, ..Counts::default() }, "it does not speak 1.1.0");
    assert_eq!(bench.leases()?, Vec::<String>::new(), "the suite deletes what it has added");
    Ok(())
}

#[test]
fn the_reference_bridge_conforms_but_for_what_is_known() -> Result<()> {
    reference_passes("bridge", 14)
}

#[test]
fn the_reference_ptp_conforms_but_for_what_is_known() -> Result<()> {
    reference_passes("ptp", 17)
}

#[test]
fn a_plugin_of_the_newest_version_conforms() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let bench = Bench::upgraded("none")?;
    let known = Known::parse(
        r#"
        [[known]]
        case = "5.success.includes-prev-result"
        versions = ["1.0.0", "1.1.0"]
        reason = "the bridge underneath drops it"
        spec = "Section 5, Success."

        [[known]]
        case = "5.success.keeps-fields-of-prev-result"
        versions = ["1.1.0"]
        reason = "the bridge underneath drops it"
        spec = "Section 5, Success."
        "#,
    )?;
    let report = Suite { known, ..bench.suite() }.run(|_| {})?;
    ensure!(report.is_success(), "{}", unexpected(&report));
    println!("upgraded bridge:\n{}", report.summary());
    let newest = report.counts(Some(SpecVersion::V1_1_0));
    assert_eq!((newest.skip, newest.known_failure), (1, 2), "{newest}");
    assert_eq!(bench.leases()?, Vec::<String>::new());
    Ok(())
}

/// Each fault, and the case that must see it.
const FAULTS: [(&str, &str); 41] = [
    ("old-version", "5.version.echoes-cniversion"),
    ("wrong-code", "2.parameters.ifname-slash"),
    ("wrong-code", "2.parameters.containerid-empty"),
    ("exits-0", "5.error.unsupported-version"),
    ("exits-0", "1.configuration.name-missing"),
    ("reserved-code", "5.error.structure"),
    ("wrong-version", "5.error.echoes-cniversion"),
    ("wrong-version", "5.success.structure"),
    ("wrong-type", "5.success.structure"),
    ("wrong-sandbox", "5.success.lists-the-interface"),
    ("chatty", "5.success.nothing-else-on-stdout"),
    ("hangs", "2.add.creates-interface"),
    ("wrong-address", "2.add.configures-addresses"),
    ("wrong-address", "3.lifecycle.concurrent-containers"),
    ("wrong-address", "2.add.second-interface"),
    ("wrong-mac", "2.add.configures-mac"),
    ("wrong-route", "2.add.configures-routes"),
    ("leaves-things", "2.add.failure-leaves-nothing"),
    ("takes-over", "2.add.failure-leaves-nothing"),
    ("keeps-interface", "2.del.removes-interface"),
    ("fails-second-del", "2.del.idempotent"),
    ("fails-second-del", "2.del.without-add"),
    ("needs-netns", "2.del.netns-empty"),
    ("needs-netns", "2.del.netns-vanished"),
    ("wants-prev-result", "2.del.prev-result-null"),
    ("wants-lists", "2.del.prev-result-null"),
    ("knows-all-keys", "2.del.prev-result-foreign"),
    ("reads-prev-result", "2.del.prev-result-nonsense"),
    ("reads-arguments", "2.del.arguments-malformed"),
    ("wants-lists", "5.success.prev-result-null"),
    ("deletes-all", "2.del.keeps-other-attachments"),
    ("leaks-address", "2.del.releases-addresses"),
    ("blind", "2.check.address-gone"),
    ("blind", "2.check.default-route-gone"),
    ("talks", "2.check.succeeds-after-add"),
    ("says-ready", "2.status.ready"),
    ("never-ready", "2.status.ready"),
    ("collects-nothing", "2.gc.removes-others"),
    ("collects-all", "2.gc.keeps-valid-attachments"),
    ("ignores-interface", "2.gc.tells-interfaces-apart"),
    ("missing-is-empty", "2.gc.missing-list"),
];

#[test]
fn every_fault_is_caught_by_the_case_on_it() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    for (fault, case) in FAULTS {
        let bench = Bench::upgraded(fault)?;
        let mut suite = Suite { versions: vec![SpecVersion::V1_1_0], only: case.to_owned(), ..bench.suite() };
        // Faults that only a bound reveals are not worth waiting for.
        suite.plugin.timeout = match fault {
            "hangs" => Duration::from_secs(1),
            "keeps-interface" | "collects-nothing" | "ignores-interface" => Duration::from_secs(12),
            _ => TIMEOUT,
        };
        let report = suite.run(|_| {})?;
        let [record] = report.cases.as_slice() else {
            panic!("{case} is the name of {} cases", report.cases.len());
        };
        let Outcome::Fail { reason } = &record.outcome else {
            panic!("{fault} is not caught: {record}");
        };
        assert!(fault != "hangs" || reason.contains("killed"), "{reason}");
        assert!(!report.is_success());
        println!("{fault}: {case}: {reason}");
    }
    Ok(())
}

#[test]
fn every_case_can_fail() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let bench = Bench::reference("bridge")?;
    let judged = |plugin: &str| -> Result<Vec<Record>> {
        let mut suite = bench.suite();
        suite.plugin.path = plugin.into();
        Ok(suite.run(|_| {})?.cases)
    };
    // One plugin agrees with everything, the other with nothing: no case may be content with both.
    let (agrees, refuses) = (judged("/bin/true")?, judged("/bin/false")?);
    for (agreed, refused) in agrees.iter().zip(&refuses) {
        let content = agreed.outcome == Outcome::Pass && refused.outcome == Outcome::Pass;
        assert!(!content, "{} passes whatever the plugin does", agreed.case);
    }
    let failed = |records: &[Record]| records.iter().filter(|record| matches!(record.outcome, Outcome::Fail { .. })).count();
    assert!(failed(&agrees) > 100 && failed(&refuses) > 100);
    Ok(())
}

#[test]
fn a_panic_leaves_no_namespace() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let base = tempfile::tempdir()?;
    let end = std::panic::catch_unwind(|| -> Result<()> {
        let dir = RunDir::create(base.path())?;
        let _pod = Netns::create(dir.path().join("pod"))?;
        ensure!(mounts(base.path())? == 1);
        panic!("on purpose");
    });
    assert!(end.is_err(), "{end:?}");
    assert_eq!(mounts(base.path())?, 0);
    let left: Vec<_> = fs::read_dir(base.path())?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    assert_eq!(left, [".lock"]);
    Ok(())
}

#[test]
fn a_known_failure_that_passes_is_an_error() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let bench = Bench::reference("bridge")?;
    let known = Known::parse("[[known]]\ncase = \"2.del.idempotent\"\nreason = \"it was so once\"\nspec = \"Section 2, DEL.\"\n")?;
    let suite = Suite { versions: vec![SpecVersion::V1_0_0], only: "2.del.idempotent".to_owned(), known, ..bench.suite() };
    let report = suite.run(|_| {})?;
    assert!(matches!(report.cases[0].outcome, Outcome::UnexpectedPass { .. }));
    assert!(!report.is_success());
    Ok(())
}

#[test]
fn the_plugin_runs_in_the_namespace_that_it_is_given() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let bench = Bench::reference("bridge")?;
    let host = Netns::create(bench.folder.path().join("host"))?;
    let suite = Suite {
        versions: vec![SpecVersion::V1_0_0],
        only: "2.add.creates-interface".to_owned(),
        host_netns: Some(host.path().to_owned()),
        ..bench.suite()
    };
    ensure!(suite.run(|_| {})?.is_success());
    let links = conformance_tests::kernel::Kernel::of(&host)?.links()?;
    assert!(links.iter().any(|link| link.name == "cni0"), "the bridge stays in the host namespace: {links:?}");
    Ok(())
}

#[test]
fn the_program_tells_by_its_exit_status_and_as_json() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    let bench = Bench::reference("bridge")?;
    let good = bench.command()?.args(["--versions", "0.4.0,1.0.0", "--case", "2.add.creates", "--json"]).output()?;
    let document: Value = serde_json::from_slice(&good.stdout)?;
    assert_eq!((good.status.code(), &document["success"]), (Some(0), &json!(true)));
    assert_eq!(document["counts"], json!({ "pass": 2, "fail": 0, "skip": 0, "known_failure": 0, "unexpected_pass": 0 }));
    assert_eq!(document["cases"][1]["version"], "1.0.0");

    let bad = bench.command()?.args(["--versions", "1.0.0", "--case", "5.error.echoes"]).output()?;
    let text = String::from_utf8(bad.stdout)?;
    assert_eq!(bad.status.code(), Some(1));
    assert!(text.contains("FAIL  1.0.0 5.error.echoes-cniversion") && text.contains("expected cniVersion \"1.0.0\""), "{text}");

    let unjudged = bench.command()?.args(["--versions", "1.1.0", "--case", "2.status"]).output()?;
    assert_eq!(unjudged.status.code(), Some(1), "a run that judges nothing is no success");
    let unfinished = bench.command()?.args(["--case", "no-such-case"]).output()?;
    assert_eq!(unfinished.status.code(), Some(2));
    Ok(())
}

#[test]
fn an_interrupted_run_leaves_nothing_and_a_killed_one_is_cleaned_up_by_the_next() -> Result<()> {
    if cannot_run() {
        return Ok(());
    }
    for (signal, leaves) in [(Signal::SIGINT, false), (Signal::SIGTERM, false), (Signal::SIGKILL, true)] {
        // The plugin hangs in its first ADD, so that the signal meets a run with namespaces.
        let bench = Bench::upgraded("hangs")?;
        let mut run = bench.command()?.args(["--versions", "1.1.0", "--case", "2.add.creates"]).stdout(Stdio::null()).spawn()?;
        let dir = PathBuf::from(rundir::BASE).join(format!("{}-0", run.id()));
        let deadline = Instant::now() + Duration::from_secs(10);
        while mounts(&dir)? < 2 {
            ensure!(Instant::now() < deadline, "no pod in {}", dir.display());
            thread::sleep(Duration::from_millis(10));
        }
        kill(Pid::from_raw(i32::try_from(run.id())?), signal)?;
        let status = run.wait()?;
        assert!(!status.success());
        assert_eq!(dir.exists(), leaves, "{signal} leaves {}", dir.display());

        let next = Bench::reference("bridge")?.command()?.args(["--versions", "1.0.0", "--case", "2.version"]).output()?;
        assert!(next.status.success());
        assert!(!dir.exists(), "{} is still there", dir.display());
        assert_eq!(mounts(&dir)?, 0);
    }
    Ok(())
}

fn mounts(dir: &Path) -> Result<usize> {
    let dir = dir.to_str().context("a path in UTF-8")?;
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().filter(|line| line.contains(dir)).count())
}
