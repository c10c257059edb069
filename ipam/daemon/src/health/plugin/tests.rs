use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::config::PluginKind;

/// A real program: `sh` with this script.
pub(super) fn sh(script: &str) -> PluginConfig {
    PluginConfig {
        name: "test".to_owned(),
        program: PathBuf::from("/bin/sh"),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        kind: PluginKind::Passive,
        interval: Duration::from_secs(60),
        timeout: Duration::from_secs(20),
        failures: 1,
        memory: 256 << 20,
        cpu_seconds: 20,
    }
}

pub(super) fn ran(plugin: &PluginConfig) -> Verdict {
    run(plugin, &Places::default())
}

/// Gone, or dead and only not taken note of by its parent.
fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn exit_codes_and_words_of_real_programs() {
    assert_eq!(ran(&sh("exit 0")), Verdict::Ok);
    assert_eq!(ran(&sh("echo '{\"message\": \"port down\"}'; exit 1")), Verdict::Failed("port down".to_owned()));
    assert_eq!(ran(&sh("printf 'a\\377b'; exit 1")), Verdict::Failed("a\u{fffd}b".to_owned()));
    assert!(ran(&sh("exit 255")).message().starts_with("exit code 255"));
    let missing = PluginConfig { program: PathBuf::from("/nowhere/check"), ..sh("") };
    assert!(ran(&missing).message().contains("install it there"));
    // Of the daemon's environment it has nothing.
    assert_eq!(ran(&sh("test \"$(env | grep -v -e ^PATH= -e ^LC_ALL= -e ^PWD= -e ^_= -e ^SHLVL=)\" = ''")), Verdict::Ok);
}

#[test]
fn one_that_hangs_is_killed_with_all_that_it_has_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let script = format!("(sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; sleep 1000)", file.display());
    let begun = Instant::now();
    let verdict = ran(&PluginConfig { timeout: Duration::from_secs(1), ..sh(&script) });
    assert_eq!(verdict, Verdict::Unknown("has not ended within 1 s, and was killed".to_owned()));
    assert!(begun.elapsed() < Duration::from_secs(15));
    let pid = fs::read_to_string(&file).unwrap();
    until("the child is gone", || is_gone(pid.trim()));
}

#[test]
fn children_that_hold_its_pipes_do_not_outlive_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let begun = Instant::now();
    let verdict = ran(&sh(&format!("sleep 1000 & echo $! > {}; echo broken; exit 1", file.display())));
    assert_eq!(verdict, Verdict::Failed("broken".to_owned()));
    assert!(begun.elapsed() < Duration::from_secs(15), "its child was waited for");
    let pid = fs::read_to_string(&file).unwrap();
    until("the child is gone", || is_gone(pid.trim()));
}

#[test]
fn a_gigabyte_is_not_read() {
    let begun = Instant::now();
    assert!(ran(&sh("exec head -c 1000000000 /dev/zero")).message().starts_with("has printed more than 65536 bytes"));
    assert!(begun.elapsed() < Duration::from_secs(15));
    // Complaints are read and forgotten.
    assert!(ran(&sh("head -c 10000000 /dev/zero >&2; exit 1")).result() == "failed");
}

#[test]
fn memory_and_processor_are_bounded() {
    let much = PluginConfig { memory: 16 << 20, ..sh("x=$(head -c 100000000 /dev/zero | tr '\\0' x); exit 0") };
    assert_eq!(ran(&much).result(), "unknown", "it could not have so much");
    let busy = PluginConfig { cpu_seconds: 1, ..sh("while :; do :; done") };
    assert!(ran(&busy).message().starts_with("was ended by signal"), "{:?}", ran(&busy));
}

#[test]
fn a_few_run_at_a_time() {
    let (places, folder) = (Arc::new(Places::default()), tempfile::tempdir().unwrap());
    let go = folder.path().join("go");
    let script = format!("touch {}/$$; while ! test -e {}; do sleep 0.01; done", folder.path().display(), go.display());
    let threads: Vec<_> = (0..2 * Places::MOST)
        .map(|_| {
            let (places, plugin) = (Arc::clone(&places), sh(&script));
            std::thread::spawn(move || run(&plugin, &places))
        })
        .collect();
    let started = || fs::read_dir(folder.path()).unwrap().count();
    until("as many as may have begun", || started() == Places::MOST);
    assert!(*places.free.lock().unwrap() == 0);
    fs::write(&go, "").unwrap();
    let verdicts: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Ok), "{verdicts:?}");
    assert_eq!(started(), 2 * Places::MOST + 1);
}

#[test]
fn when_it_ends_what_runs_is_killed_and_nothing_is_started() {
    let (places, folder) = (Arc::new(Places::default()), tempfile::tempdir().unwrap());
    let file = folder.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; sleep 1000", file.display());
    let plugin = PluginConfig { timeout: Duration::from_secs(1_000), ..sh(&script) };
    let running = std::thread::spawn({
        let (places, plugin) = (Arc::clone(&places), plugin.clone());
        move || run(&plugin, &places)
    });
    until("it runs", || file.exists());
    places.stop();
    let stopped = Verdict::Unknown("was killed, as it is asked no more".to_owned());
    assert_eq!(running.join().unwrap(), stopped);
    let pid = fs::read_to_string(&file).unwrap();
    until("the child is gone", || is_gone(pid.trim()));
    fs::remove_file(&file).unwrap();
    assert_eq!(run(&plugin, &places), stopped);
    assert!(!file.exists());
}

#[test]
fn a_failure_is_believed_when_it_comes_again() {
    let (mut judge, begun) = (Judge::new(Duration::from_secs(60), 2), Instant::now());
    assert!(judge.is_due(begun));
    let failed = || Verdict::Failed("bad".to_owned());
    let unknown = || Verdict::Unknown("late".to_owned());
    let mut now = begun;
    for (ran, held, pause) in [
        (failed(), "unknown", 1),
        (failed(), "failed", 60),
        (unknown(), "unknown", 60),
        (failed(), "failed", 60),
        (Verdict::Ok, "ok", 60),
        (failed(), "ok", 1),
        (Verdict::Ok, "ok", 60),
        (failed(), "ok", 1),
        (failed(), "failed", 60),
    ] {
        judge.note(now, ran);
        assert_eq!(judge.held().result(), held);
        assert_eq!(judge.left(now), Duration::from_secs(pause));
        assert!(!judge.is_due(now));
        now += judge.left(now);
        assert!(judge.is_due(now));
    }
}
