//! Kubernetes' own end-to-end tests (`e2e.test`) on a cluster of the lab: those of `[sig-network]` that decide about conformance.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::Cluster;
use super::config::file;
use crate::command::run;
use crate::error::{Context, Error, Result};
use crate::world;

/// All of them.
pub const ALL: &str = r"\[sig-network\].*\[Conformance\]";

/// How many tests run side by side: they wait more than they work.
const AT_A_TIME: u32 = 4;

/// Where the tests are told to take their images from: names that the lab's nodes have imported.
const REGISTRY: &str = "localhost/e2e";

/// The images of which the test image has a copy: what runs in them are its programs.
const IMAGES: [&str; 4] = ["agnhost", "busybox", "glibc-dns-testing", "pause"];

/// The keys by which the tests are told other registries.
const REGISTRIES: [&str; 9] = [
    "buildImageRegistry",
    "cloudProviderGcpRegistry",
    "dockerLibraryRegistry",
    "gcEtcdRegistry",
    "gcRegistry",
    "invalidRegistry",
    "privateRegistry",
    "promoterE2eRegistry",
    "sigStorageRegistry",
];

/// What became of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed, with its message.
    Failed(String),
    /// It found that the cluster lacks what it is about.
    Skipped(String),
}

/// A test that was run.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Its full name.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// The names of images that the tests ask for; a cluster for them is brought up with these.
///
/// # Errors
/// When the test program is not there or does not tell.
pub fn images() -> Result<Vec<String>> {
    let registries = tempfile::NamedTempFile::new().context(|| "make a temporary file".to_owned())?;
    std::fs::write(registries.path(), registry_list()).context(|| format!("write {}", registries.path().display()))?;
    let mut list = std::process::Command::new(world::program("kubernetes", "e2e.test")?);
    list.arg("--list-images").env("KUBE_TEST_REPO_LIST", registries.path());
    let said = run(&mut list, Duration::from_secs(60))?.success()?;
    let is_ours = |name: &&str| {
        let rest = name.strip_prefix(REGISTRY).and_then(|rest| rest.strip_prefix('/'));
        rest.and_then(|rest| rest.split(':').next()).is_some_and(|image| IMAGES.contains(&image))
    };
    Ok(said.lines().map(str::trim).filter(is_ours).map(str::to_owned).collect())
}

fn registry_list() -> String {
    REGISTRIES.iter().map(|key| format!("{key}: {REGISTRY}\n")).collect()
}

/// Runs the tests whose name matches `focus`, a regular expression of Go.
///
/// # Errors
/// When they cannot be run to their end within `limit`. A test that fails is in the answer.
pub fn run_tests(cluster: &Cluster, focus: &str, limit: Duration) -> Result<Vec<Verdict>> {
    const REGISTRIES_PATH: &str = "/tmp/registries.yaml";
    const REPORTS: &str = "/tmp/e2e";
    const REPORT: &str = "report.json";
    let control = cluster.lab.node(super::CONTROL)?;
    control.write(REGISTRIES_PATH, registry_list())?;
    let [ginkgo, tests] = [world::program("ginkgo", "ginkgo")?, world::program("kubernetes", "e2e.test")?];
    let mut command = control.command(ginkgo);
    command
        .env("KUBE_TEST_REPO_LIST", REGISTRIES_PATH)
        .env("KUBECONFIG", file("admin.conf"))
        .arg(format!("--procs={AT_A_TIME}"))
        .arg(format!("--focus={focus}"))
        .arg(format!("--timeout={}s", limit.as_secs()))
        .args(["--no-color", "--succinct", &format!("--output-dir={REPORTS}"), &format!("--json-report={REPORT}")])
        .arg(tests)
        .arg("--")
        .args(["--provider=skeleton", "--num-nodes=2", "--disable-log-dump", "--delete-namespace-on-failure=true"])
        .arg(format!("--kubeconfig={}", file("admin.conf")))
        .arg(format!("--kubectl-path={}", world::program("kubernetes", "kubectl")?.display()));
    // The verdicts are in the report; what it prints is for the case that there is none.
    let said = run(&mut command, limit + Duration::from_secs(60))?;
    let path = control.host_path(Path::new(REPORTS).join(REPORT));
    let report = std::fs::read(&path).context(|| format!("read the report of e2e.test, which said: {}", end_of(&said.stdout)))?;
    verdicts(&report).map_err(|error| Error::Io { what: format!("understand {}", path.display()), cause: error.into() })
}

fn end_of(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Ginkgo's report, the part that is needed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    /// Nanoseconds.
    run_time: Option<u64>,
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: Option<String>,
}

fn verdicts(report: &[u8]) -> serde_json::Result<Vec<Verdict>> {
    let suites: Vec<Suite> = serde_json::from_slice(report)?;
    let specs = suites.into_iter().flat_map(|suite| suite.spec_reports.unwrap_or_default());
    let mut verdicts: Vec<_> = specs.filter(|spec| spec.leaf_node_type == "It").filter_map(verdict).collect();
    verdicts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(verdicts)
}

/// `None` for a test that was not asked for: ginkgo reports it as skipped without having run it.
fn verdict(spec: Spec) -> Option<Verdict> {
    let message = spec.failure.and_then(|failure| failure.message).unwrap_or_default();
    let took = Duration::from_nanos(spec.run_time.unwrap_or_default());
    let outcome = match spec.state.as_str() {
        "passed" => Outcome::Passed,
        "skipped" if took.is_zero() => return None,
        "skipped" => Outcome::Skipped(message),
        state => Outcome::Failed(if message.is_empty() { state.to_owned() } else { message }),
    };
    let words = spec.container_hierarchy_texts.unwrap_or_default().into_iter().chain([spec.leaf_node_text]);
    Some(Verdict { name: words.collect::<Vec<_>>().join(" "), outcome, took })
}

/// The verdicts as a table for docs/kubernetes.md, behind a line with their counts.
#[must_use]
pub fn table(verdicts: &[Verdict]) -> String {
    let count = |is: fn(&Outcome) -> bool| verdicts.iter().filter(|verdict| is(&verdict.outcome)).count();
    let [passed, failed, skipped] = [
        count(|outcome| *outcome == Outcome::Passed),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| matches!(outcome, Outcome::Skipped(_))),
    ];
    let mut text = format!("{passed} passed, {failed} failed, {skipped} skipped.\n\n| test | outcome |\n|---|---|\n");
    for verdict in verdicts {
        let outcome = match &verdict.outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Failed(why) => format!("**failed**: {}", first_line(why)),
            Outcome::Skipped(why) => format!("skipped: {}", first_line(why)),
        };
        text.push_str(&format!("| {} | {outcome} |\n", verdict.name.replace('|', "\\|")));
    }
    text
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_verdicts() {
        let report = br#"[{"SpecReports": [
            {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It", "LeafNodeText": "should b", "State": "failed", "RunTime": 2000000000,
             "Failure": {"Message": "no | answer\nsecond line"}},
            {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It", "LeafNodeText": "should a", "State": "passed", "RunTime": 1},
            {"ContainerHierarchyTexts": null, "LeafNodeType": "It", "LeafNodeText": "not asked for", "State": "skipped", "RunTime": 0},
            {"ContainerHierarchyTexts": null, "LeafNodeType": "ReportAfterSuite", "LeafNodeText": "x", "State": "passed"}]}]"#;
        let verdicts = verdicts(report).unwrap();
        let names: Vec<_> = verdicts.iter().map(|verdict| verdict.name.as_str()).collect();
        assert_eq!(names, ["[sig-network] DNS should a", "[sig-network] DNS should b"]);
        let table = table(&verdicts);
        assert!(table.starts_with("1 passed, 1 failed, 0 skipped.\n"), "{table}");
        assert!(table.contains("| [sig-network] DNS should b | **failed**: no \\| answer |\n"), "{table}");
    }
}
