//! `deploy/monitoring`: rules and dashboards, judged by promtool and evaluated by a real Prometheus that scrapes a real daemon.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lab::command::wait_until;
use lab::host::{Host, Settings};
use lab::world;
use serde_json::Value;

/// Prometheus starts in less than a second here; its rules are evaluated each second.
const LIMIT: Duration = Duration::from_secs(30);
const PROMETHEUS: &str = "127.0.0.1:9090";

pub(crate) fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring").join(path)
}

/// One of Prometheus's programs.
fn program(name: &str) -> Result<PathBuf> {
    Ok(world::unpacked("prometheus")?.join("bin").join(name))
}

fn promtool(arguments: &[&str], file: &Path) -> Result<()> {
    let output = Command::new(program("promtool")?).args(arguments).arg(file).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "promtool {arguments:?} {}: {text}", file.display());
    Ok(())
}

/// `promtool check metrics` of what was scraped. It knows the older text format alone, in which what is told of a counter is told under the
/// name of its samples.
fn lint(scraped: &str) -> Result<()> {
    let counters: BTreeSet<&str> = scraped.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut input = tempfile::tempfile()?;
    for line in scraped.lines() {
        let named = line.strip_prefix("# HELP ").or(line.strip_prefix("# TYPE "));
        let name = named.and_then(|rest| rest.split(' ').next()).filter(|name| counters.contains(name));
        match name {
            Some(name) => writeln!(input, "{}", line.replacen(name, &format!("{name}_total"), 1))?,
            None => writeln!(input, "{line}")?,
        }
    }
    input.rewind()?;
    let output = Command::new(program("promtool")?).args(["check", "metrics"]).stdin(input).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    // Figures of a start until now: there is no other type of a metric for them.
    let quantiles = "barewire_operation_seconds non-summary metrics should not have \"quantile\" label";
    let faults: BTreeSet<&str> = text.lines().filter(|line| *line != quantiles).collect();
    ensure!(faults.is_empty(), "promtool check metrics: {faults:?}");
    Ok(())
}

fn alerts() -> Result<Vec<Value>> {
    alerts_of("alerts.yaml")
}

fn alerts_of(file: &str) -> Result<Vec<Value>> {
    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(deployed(file))?)?;
    let groups = rules["groups"].as_array().context("groups")?;
    Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
}

/// Each expression of alerts and dashboards, with where it is.
fn expressions() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for alert in alerts()? {
        found.push((alert["alert"].as_str().context("a name")?.to_owned(), alert["expr"].as_str().context("an expression")?.to_owned()));
    }
    for file in fs::read_dir(deployed("dashboards"))? {
        let path = file?.path();
        let board: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        for panel in board["panels"].as_array().context("panels")? {
            let expression = panel["targets"][0]["expr"].as_str().context("an expression")?.replace("$node", "node1");
            found.push((format!("{}: {}", path.display(), panel["title"]), expression));
        }
    }
    Ok(found)
}

/// The metrics of ours that an expression names.
fn names(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("barewire_")).collect()
}

/// What an expression may name: what is scraped here; and what a node without a cloud, or with nothing wrong, does not tell, where it is registered.
fn is_told(name: &str, scraped: &str, registered: &str) -> bool {
    let plain = name.strip_prefix("barewire_").unwrap_or(name);
    let family = plain.strip_suffix("_total").unwrap_or(plain);
    scraped.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        || registered.contains(&format!("\"{family}\""))
}

fn sources() -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ipam/daemon/src/http");
    let texts = fs::read_dir(folder)?.map(|file| Ok(fs::read_to_string(file?.path())?));
    texts.collect::<Result<Vec<_>>>().map(|texts| texts.concat())
}

#[test]
fn rules_are_sound_and_fire_when_they_should() -> Result<()> {
    if crate::binaries().is_none() {
        return Ok(());
    }
    for (rules, tests) in [("alerts.yaml", "alerts_test.yaml"), ("fleet-alerts.yaml", "fleet-alerts_test.yaml")] {
        promtool(&["check", "rules", "--lint-fatal"], &deployed(rules))?;
        promtool(&["test", "rules"], &deployed(tests))?;
    }
    Ok(())
}

#[test]
fn each_alert_has_a_section_of_the_runbook() -> Result<()> {
    for (file, runbook) in [("alerts.yaml", "runbook.md"), ("fleet-alerts.yaml", "runbook-fleet.md")] {
        each_has_a_section(&alerts_of(file)?, runbook)?;
    }
    Ok(())
}

fn each_has_a_section(alerts: &[Value], name: &str) -> Result<()> {
    let runbook = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name))?;
    let named: Vec<String> = alerts.iter().filter_map(|alert| Some(alert["alert"].as_str()?.to_owned())).collect();
    let sections: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    ensure!(sections == named, "{sections:?} are not {named:?}");
    for alert in alerts {
        let url = alert["annotations"]["runbook_url"].as_str().unwrap_or_default();
        let anchor = alert["alert"].as_str().unwrap_or_default().to_lowercase();
        ensure!(url.ends_with(&format!("/docs/{name}#{anchor}")), "{url}");
    }
    Ok(())
}

/// Ends with the test.
pub(crate) struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn start(host: &Host) -> Result<Prometheus> {
    let (config, data) = (host.path("prometheus.yaml"), host.path("prometheus"));
    let text = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{:?}]\nscrape_configs:\n  - job_name: barewire\n    \
         static_configs: [{{ targets: ['127.0.0.1:9807'], labels: {{ node: node1 }} }}]\n",
        deployed("alerts.yaml").canonicalize()?
    );
    fs::write(&config, text)?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program("prometheus")?).arg("--config.file").arg(config);
    command.arg("--storage.tsdb.path").arg(data).args(["--web.listen-address", PROMETHEUS, "--log.level", "error"]);
    let _inside = host.netns().enter()?;
    Ok(Prometheus(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("execute prometheus")?))
}

/// An answer of Prometheus's API.
fn ask(host: &Host, page: &str, query: Option<&str>) -> Result<Value> {
    ask_with(host, page, &query.map(|query| ("query", query)).into_iter().collect::<Vec<_>>())
}

fn ask_with(host: &Host, page: &str, parameters: &[(&str, &str)]) -> Result<Value> {
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).http_status_as_error(false).build().new_agent();
    let _inside = host.netns().enter()?;
    let request = agent.get(format!("http://{PROMETHEUS}/api/v1/{page}"));
    let request = parameters.iter().fold(request, |request, (name, value)| request.query(*name, *value));
    Ok(serde_json::from_str(&request.call()?.body_mut().read_to_string()?)?)
}

/// What an expression was for so long until now, second by second.
pub(crate) fn ask_range(host: &Host, query: &str, lasted: Duration) -> Result<Value> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let (start, end) = ((now - lasted.as_secs()).to_string(), now.to_string());
    ask_with(host, "query_range", &[("query", query), ("start", &start), ("end", &end), ("step", "1")])
}

/// Until a node with so many pods was scraped.
pub(crate) fn wait_for_scrape(host: &Host, pods: usize) -> Result<()> {
    let expression = format!("up{{job=\"barewire\"}} == 1 and on (node) barewire_attachments == {pods}");
    let scraped = || {
        let answer = ask(host, "query", Some(&expression)).map_err(|error| format!("{error:#}"))?;
        if answer["data"]["result"].as_array().is_some_and(|found| !found.is_empty()) { Ok(()) } else { Err(answer.to_string()) }
    };
    Ok(wait_until("a scrape", LIMIT, scraped)?)
}

#[test]
fn every_expression_is_evaluated_and_names_what_there_is() -> Result<()> {
    crate::on_node(Settings::default().with_fast_path(true), |host, daemon| {
        let (_pod, _) = host.attached()?;
        let (scraped, registered) = (daemon.get("/metrics")?, sources()?);
        lint(&scraped)?;
        let _prometheus = start(host)?;
        wait_for_scrape(host, 1)?;
        let metadata = ask(host, "metadata", None)?;
        ensure!(metadata["data"]["barewire_operations"][0]["type"] == "counter", "{metadata}");
        for (place, expression) in expressions()? {
            let answer = ask(host, "query", Some(&expression))?;
            ensure!(answer["status"] == "success", "{place}: {expression}: {answer}");
            for name in names(&expression) {
                ensure!(is_told(name, &scraped, &registered), "{place}: there is no {name}");
            }
        }
        wait_until("all rules evaluated", LIMIT, || {
            let answer = ask(host, "rules", None).map_err(|error| format!("{error:#}"))?;
            let rules = answer["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
            if !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok") { Ok(()) } else { Err(answer.to_string()) }
        })?;
        // Of a node that is well no rule says anything.
        let answer = ask(host, "alerts", None)?;
        ensure!(answer["data"]["alerts"].as_array().is_some_and(Vec::is_empty), "{answer}");
        Ok(())
    })
}

#[test]
fn a_name_that_nobody_tells_is_found() {
    let scraped = "# TYPE barewire_operations counter\nbarewire_operations_total{operation=\"add\"} 1\nbarewire_attachments 0\n";
    let registered = "registry.register(\"cloud_blocks\", …)";
    for told in ["barewire_operations_total", "barewire_attachments", "barewire_cloud_blocks"] {
        assert!(is_told(told, scraped, registered), "{told}");
    }
    for not in ["barewire_operations", "barewire_attach", "barewire_cloud"] {
        assert!(!is_told(not, scraped, registered), "{not}");
    }
    assert_eq!(
        names("sum(rate(barewire_a_total{x=\"y\"}[5m])) / barewire_b").into_iter().collect::<Vec<_>>(),
        ["barewire_a_total", "barewire_b"]
    );
}
