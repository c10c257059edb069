//! The daemon's configuration: every fault at once, each with its key.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::command::{Said, run};

use crate::binaries;

const LIMIT: Duration = Duration::from_secs(10);

/// Judges a configuration; `None` where the tests cannot run.
fn check(text: &str) -> Result<Option<Said>> {
    let Some(binaries) = binaries() else { return Ok(None) };
    let home = tempfile::tempdir()?;
    let file = home.path().join("barewired.toml");
    fs::write(&file, text)?;
    let said = run(Command::new(binaries.join("barewired")).arg("--check").arg("--config").arg(&file), LIMIT)?;
    ensure!(said.stderr.contains("barewired.toml"), "the file is not named: {}", said.stderr);
    Ok(Some(said))
}

#[test]
fn every_fault_is_told_at_once_with_its_key() -> Result<()> {
    let text = r#"
        [paths]
        run_dir = "relative"
        [uplink]
        interface = "much-too-long-name"
        [network]
        native_cidrs = ["10.0.0.1/16"]
        masquerade = "yes"
        [source]
        kind = "fixed"
        ranges = ["10.0.1.0/24", "10.0.1.128/25", "fd00::/129", "10.0.2.9-10.0.2.1"]
        exclude = ["192.0.2.1"]
        [pool]
        cooldown_seconds = -1
        [cni]
        chained_plugins = [{ capabilities = {} }]
        [telemetry]
        listen = "nowhere"
        [surprise]
        key = 1
    "#;
    let Some(said) = check(text)? else { return Ok(()) };
    ensure!(!said.status.success(), "{}", said.stderr);
    for (key, value) in [
        ("paths.run_dir", "\"relative\""),
        ("uplink.interface", "\"much-too-long-name\""),
        ("network.native_cidrs[0]", "10.0.0.1/16"),
        ("network.masquerade", "\"yes\""),
        ("source.ranges", "\"10.0.1.128/25\" overlaps \"10.0.1.0/24\""),
        ("source.ranges[2]", "fd00::/129"),
        ("source.ranges[3]", "10.0.2.9-10.0.2.1"),
        ("source.exclude", "192.0.2.1"),
        ("pool.cooldown_seconds", "-1"),
        ("cni.chained_plugins[0]", "portmap"),
        ("telemetry.listen", "\"nowhere\""),
        ("surprise.key", "docs/configuration.md"),
    ] {
        let told = said.stderr.lines().any(|line| line.contains(&format!("{key}: ")) && line.contains(value));
        ensure!(told, "no line with {key} and {value} in\n{}", said.stderr);
    }
    Ok(())
}

#[test]
fn what_is_no_toml_or_says_nothing_is_refused() -> Result<()> {
    for (text, part) in [("[source", "not TOML"), ("", "source.kind: is missing")] {
        let Some(said) = check(text)? else { return Ok(()) };
        ensure!(!said.status.success() && said.stderr.contains(part), "{text:?}: {}", said.stderr);
    }
    Ok(())
}

#[test]
fn a_valid_configuration_is_accepted() -> Result<()> {
    let text = "[source]\nkind = \"fixed\"\nranges = [\"10.0.1.16/28\"]\n[network]\nnative_cidrs = [\"10.0.0.0/16\"]\n";
    let Some(said) = check(text)? else { return Ok(()) };
    ensure!(said.status.success(), "{}", said.stderr);
    Ok(())
}

#[test]
fn max_pods_is_a_number_and_nothing_else() -> Result<()> {
    let Some(binaries) = binaries() else { return Ok(()) };
    let home = tempfile::tempdir()?;
    let file = home.path().join("barewired.toml");
    let ask = |text: &str| {
        fs::write(&file, text)?;
        anyhow::Ok(run(Command::new(binaries.join("barewired")).arg("--max-pods").arg("--config").arg(&file), LIMIT)?)
    };
    let fixed = "[source]\nkind = \"fixed\"\nranges = [\"10.0.1.16/28\", \"fd00:10:0:1::/80\"]\nexclude = [\"10.0.1.16\"]\n\
                 [network]\nnative_cidrs = [\"10.0.0.0/16\", \"fd00:10::/32\"]\n";
    let said = ask(fixed)?;
    // 15 addresses, and two of them are left to cool down.
    ensure!(said.status.success() && said.stdout == "13\n", "{said:?}");
    let said = ask("[source]\nkind = \"azure\"\nmetadata = \"http://127.0.0.1:9\"\n[network]\nnative_cidrs = [\"10.0.0.0/16\"]\n")?;
    ensure!(!said.status.success() && said.stdout.is_empty() && said.stderr.contains("127.0.0.1:9"), "{said:?}");
    Ok(())
}

#[test]
fn drop_ins_are_shown_with_their_files_and_a_wrong_level_is_told() -> Result<()> {
    let Some(binaries) = binaries() else { return Ok(()) };
    let home = tempfile::tempdir()?;
    let (file, drop_in) = (home.path().join("barewired.toml"), home.path().join("barewired.toml.d/90-node.toml"));
    fs::write(&file, "[source]\nkind = \"fixed\"\n[network]\nnative_cidrs = [\"10.0.0.0/16\"]\n")?;
    fs::create_dir(home.path().join("barewired.toml.d"))?;
    fs::write(&drop_in, "[source]\nranges = [\"10.0.1.16/28\"]\n")?;
    let shown = run(Command::new(binaries.join("barewire")).args(["config", "show"]).arg(&file), LIMIT)?;
    ensure!(shown.status.success() && shown.stdout.contains(&format!("# {}\nranges = ", drop_in.display())), "{shown:?}");
    let checked = |variable: &str| {
        run(Command::new(binaries.join("barewired")).arg("--check").arg("--config").arg(&file).env("BAREWIRE_LOG", variable), LIMIT)
    };
    ensure!(checked("debug")?.status.success(), "{:?}", checked("debug")?);
    let told = checked("inof")?;
    ensure!(!told.status.success() && told.stderr.contains("BAREWIRE_LOG: \"inof\" is neither a level"), "{told:?}");

    fs::write(&drop_in, "[source]\nranges = [\"10.0.1.17/28\"]\n")?;
    let told = checked("info")?;
    ensure!(told.stderr.contains("source.ranges[0]: ") && told.stderr.contains("90-node.toml)"), "{told:?}");
    Ok(())
}
