use std::os::unix::fs::symlink;

use super::*;

/// A directory of plugins, each a shell script.
struct BinDir(tempfile::TempDir);

impl BinDir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, script: &str) {
        self.put_file(name, &format!("#!/bin/sh\n{script}\n"), 0o755);
    }

    /// By renaming, as installers do: a file that is open for writing cannot be executed.
    fn put_file(&self, name: &str, text: &str, mode: u32) {
        let draft = self.0.path().join(format!(".{name}"));
        fs::write(&draft, text).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(draft, self.0.path().join(name)).unwrap();
    }

    fn plugins(&self) -> Plugins {
        Plugins { limit: Duration::from_millis(500), ..Plugins::new(vec![self.0.path().to_owned()]) }
    }

    fn error(&self, name: &str) -> PluginError {
        self.plugins().ask(&[name]).remove(0).versions.unwrap_err()
    }
}

fn speaks(versions: &[&str]) -> String {
    format!("echo '{}'", serde_json::json!({ "cniVersion": "1.0.0", "supportedVersions": versions }))
}

fn answer(name: &str, versions: &[&str]) -> PluginAnswer {
    PluginAnswer { name: name.to_owned(), versions: Ok(versions.iter().map(|version| (*version).to_owned()).collect()) }
}

#[test]
fn what_all_speak_is_offered() {
    let ours = answer("barewire-cni", &["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    let debian = answer("portmap", &["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"]);
    let odd = answer("odd", &["0.4.0", "9.9.9"]);
    let names = |answers: &[PluginAnswer]| common_versions(answers).into_iter().map(Version::as_str).collect::<Vec<_>>();
    assert_eq!(names(std::slice::from_ref(&ours)), ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(names(&[ours.clone(), debian.clone()]), ["0.3.1", "0.4.0", "1.0.0"]);
    assert_eq!(names(&[ours.clone(), debian.clone(), odd]), ["0.4.0"]);
    assert!(names(&[]).is_empty());
    let new = answer("new", &["1.1.0"]);
    let offer = offer(&[ours, debian, new], None);
    let told = offer.no_common.as_ref().unwrap();
    assert!(offer.versions.is_empty() && told.message.contains("portmap speaks 0.1.0") && told.message.contains("new speaks 1.1.0"));
    assert!(!offer.is_usable());
}

#[test]
fn an_override_needs_the_plugins_and_not_their_answers() {
    let hangs = PluginAnswer { name: "x".into(), versions: Err(PluginError::TimedOut { path: "/x".into(), limit: ANSWER_LIMIT }) };
    let chosen = [Version::V0_4_0];
    assert_eq!(offer(std::slice::from_ref(&hangs), None).unusable.unwrap().reason, "NoAnswer");
    let with_override = offer(std::slice::from_ref(&hangs), Some(&chosen));
    assert!(with_override.is_usable() && with_override.versions == chosen);
    let missing = PluginAnswer { name: "y".into(), versions: Err(PluginError::NotFound { name: "y".into(), dirs: "/opt/cni/bin".into() }) };
    let told = offer(&[hangs, missing], Some(&chosen)).unusable.unwrap();
    assert_eq!((told.reason, told.message.as_str()), ("NotFound", "plugin \"y\" is not in /opt/cni/bin"));
}

#[test]
fn what_is_no_plugin_is_named_with_its_fault() {
    let bin = BinDir::new();
    fs::create_dir(bin.0.path().join("directory")).unwrap();
    bin.put_file("text", "[not a program]\n", 0o755);
    bin.put_file("unexecutable", "#!/bin/sh\n", 0o644);
    symlink("nowhere", bin.0.path().join("dangling")).unwrap();
    bin.put("silent", "");
    bin.put("garbage", "echo ']['");
    bin.put("listless", "echo '{\"cniVersion\":\"1.0.0\"}'");
    bin.put("empty", &speaks(&[]));
    bin.put("refuses", "echo '{\"cniVersion\":\"1.0.0\",\"code\":7,\"msg\":\"not today\"}'; exit 1");
    bin.put("broken", "echo 'cannot load libxyz.so' >&2; exit 127");
    bin.put("signalled", "kill -9 $$");
    bin.put("endless", "exec cat /dev/zero");
    for (name, reason, part) in [
        ("missing", "NotFound", "\"missing\" is not in"),
        ("dangling", "NotFound", "\"dangling\" is not in"),
        ("directory", "NotAProgram", "not a file"),
        ("text", "NotAProgram", "Exec format error"),
        ("unexecutable", "NotAProgram", "mode 644"),
        ("silent", "NotAnAnswer", "EOF"),
        ("garbage", "NotAnAnswer", "expected value"),
        ("listless", "NotAnAnswer", "supportedVersions"),
        ("empty", "NotAnAnswer", "supportedVersions is empty"),
        ("refuses", "Failed", "exit status: 1: not today"),
        ("broken", "Failed", "exit status: 127: cannot load libxyz.so"),
        ("signalled", "Failed", "signal: 9"),
        ("endless", "NotAnAnswer", "more than 65536 bytes"),
    ] {
        let error = bin.error(name);
        assert!(error.reason() == reason && error.to_string().contains(part), "{name}: {} {error}", error.reason());
        assert!(error.to_string().contains(name) && !error.remedy().is_empty(), "{error}");
    }
}

#[test]
fn a_plugin_that_hangs_is_ended_with_all_that_it_started() {
    let bin = BinDir::new();
    let pid = bin.0.path().join("pid");
    bin.put("hangs", &format!("sleep 600 & echo $! > {}; wait", pid.display()));
    let begun = Instant::now();
    let error = bin.error("hangs");
    assert_eq!((error.reason(), begun.elapsed() < Duration::from_secs(5)), ("NoAnswer", true), "{error}");
    let child = fs::read_to_string(pid).unwrap();
    // A zombie until its new parent takes notice, if it does at all.
    let gone = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        stat.map_or(true, |stat| stat.contains(") Z"))
    };
    let until = Instant::now() + Duration::from_secs(5);
    while !gone() {
        assert!(Instant::now() < until, "process {child} goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn one_that_answers_and_leaves_somebody_behind_has_answered() {
    let bin = BinDir::new();
    bin.put("leaves", &format!("sleep 600 & {}", speaks(&["1.0.0"])));
    let begun = Instant::now();
    assert_eq!(bin.plugins().ask(&["leaves"]).remove(0).versions, Ok(vec!["1.0.0".to_owned()]));
    assert!(begun.elapsed() < Duration::from_millis(450), "it was waited for: {:?}", begun.elapsed());
}

#[test]
fn a_plugin_is_asked_again_when_its_file_changes_and_not_before() {
    let bin = BinDir::new();
    let count = bin.0.path().join("count");
    let counting = |versions: &[&str]| format!("echo asked >> {}\n{}", count.display(), speaks(versions));
    let mut plugins = bin.plugins();
    let mut ask = || plugins.ask(&["plugin"]).remove(0).versions;
    assert_eq!(ask().unwrap_err().reason(), "NotFound");
    bin.put("plugin", &counting(&["1.0.0"]));
    for _ in 0..3 {
        assert_eq!(ask(), Ok(vec!["1.0.0".to_owned()]), "found without being told");
    }
    bin.put("plugin", &counting(&["1.1.0"]));
    assert_eq!(ask(), Ok(vec!["1.1.0".to_owned()]));
    assert_eq!(fs::read_to_string(&count).unwrap().lines().count(), 2);
    fs::remove_file(bin.0.path().join("plugin")).unwrap();
    assert_eq!(ask().unwrap_err().reason(), "NotFound");
}

#[test]
fn the_first_file_of_the_name_is_the_plugin() {
    let (first, second) = (BinDir::new(), BinDir::new());
    fs::create_dir(first.0.path().join("plugin")).unwrap();
    second.put("plugin", &speaks(&["0.4.0"]));
    let mut plugins = Plugins::new(vec!["/nowhere".into(), first.0.path().to_owned(), second.0.path().to_owned()]);
    assert_eq!(plugins.ask(&["plugin"]).remove(0).versions, Ok(vec!["0.4.0".to_owned()]));
}
