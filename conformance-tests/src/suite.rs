//! A run: every case in every version, each on a stage of its own.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use serde_json::{Value, json};

use super::{
    case::{Broken, Case, Stop},
    cases,
    invocation::{ExecError, Invocation, Plugin},
    known::Known,
    netns::Netns,
    report::{Outcome, Record, Report},
    rundir::{self, RunDir, RunDirError},
    stage::{Stage, Subject},
    version::SpecVersion,
};

/// What to run.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The plugin under test.
    pub plugin: Plugin,
    /// Its network configuration, of one plugin: an object.
    pub conf: Value,
    /// In these versions.
    pub versions: Vec<SpecVersion>,
    /// Only cases with this in their name; empty: all.
    pub only: String,
    /// The namespace to run the plugin in; by default each case gets a fresh one.
    pub host_netns: Option<PathBuf>,
    /// How many addresses the configuration's pool holds.
    pub pool_size: Option<u32>,
    /// The failures that are known of the plugin.
    pub known: Known,
}

/// A run could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// The configuration cannot be given to a plugin.
    #[error("the configuration is not that of one plugin: {0}")]
    Conf(&'static str),
    /// The run has no directory.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The suite itself failed.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// No case has such a name.
    #[error("no case has {0:?} in its name: see `conform --list`")]
    NoCase(String),
}

/// The cases with `only` in their name.
pub fn cases(only: &str) -> impl Iterator<Item = &'static Case> {
    cases::all().filter(move |case| case.name.contains(only))
}

impl Suite {
    /// Runs the suite and tells `told` of each case as soon as it has ended.
    pub fn run(self, mut told: impl FnMut(&Record)) -> Result<Report, SuiteError> {
        let Self { plugin, conf, versions, only, host_netns, pool_size, known } = self;
        check_conf(&conf)?;
        if cases(&only).next().is_none() {
            return Err(SuiteError::NoCase(only));
        }
        let dir = RunDir::create(Path::new(rundir::BASE))?;
        let host = match host_netns {
            Some(path) => Some(Arc::new(Netns::open(path).map_err(Broken::from)?)),
            None => None,
        };
        let supported = supported_versions(&plugin, dir.path())?;
        let speaks =
            |version: &SpecVersion| supported.as_ref().is_none_or(|list| list.iter().any(|supported| supported == version.as_str()));
        let subject =
            Subject { plugin, conf, spoken: SpecVersion::ALL.into_iter().filter(speaks).collect(), pool_size, serial: AtomicU32::new(0) };

        let mut records = Vec::new();
        for version in versions {
            for case in cases(&only) {
                let (outcome, executions) = if version < case.since {
                    (Outcome::Skip { reason: format!("CNI {version} does not ask for it: it came with {}", case.since) }, Vec::new())
                } else if !speaks(&version) {
                    (Outcome::Skip { reason: format!("the plugin does not speak CNI {version}, says its VERSION") }, Vec::new())
                } else {
                    let stage = Stage::new(&subject, version, dir.path(), host.clone())?;
                    let verdict = (case.run)(&stage);
                    let outcome = match verdict {
                        Ok(()) => Outcome::Pass,
                        Err(Stop::Fail(reason)) => Outcome::Fail { reason },
                        Err(Stop::Skip(reason)) => Outcome::Skip { reason },
                        Err(Stop::Broken(broken)) => return Err(broken.into()),
                    };
                    (outcome.in_light_of(known.reason(case.name, version)), stage.trace())
                };
                let record = Record::new(case, version, outcome, executions);
                told(&record);
                records.push(record);
                if subject.plugin.interrupted.load(Ordering::Relaxed) {
                    return Err(Broken::from(ExecError::Interrupted).into());
                }
            }
        }
        Ok(Report { plugin: subject.plugin.path, supported_versions: supported, cases: records })
    }
}

fn check_conf(conf: &Value) -> Result<(), SuiteError> {
    if !conf.is_object() {
        return Err(SuiteError::Conf("it is no JSON object"));
    }
    if conf.get("plugins").is_some() {
        return Err(SuiteError::Conf("it is a list; take one entry of \"plugins\" and give it the list's \"name\""));
    }
    if conf["name"].as_str().is_none_or(str::is_empty) {
        return Err(SuiteError::Conf("it has no \"name\", which is the network's"));
    }
    Ok(())
}

/// What the plugin's VERSION says; `None` if it says nothing that can be read, which cases on VERSION judge.
fn supported_versions(plugin: &Plugin, dir: &Path) -> Result<Option<Vec<String>>, Broken> {
    let netns = Netns::create(dir.join("version"))?;
    let invocation = Invocation {
        variables: [("CNI_COMMAND", "VERSION".into())].into(),
        stdin: json!({ "cniVersion": SpecVersion::V1_0_0.as_str() }).to_string().into_bytes(),
    };
    let reply = plugin.execute(&netns, &invocation)?;
    let result: Value = serde_json::from_slice(&reply.stdout).unwrap_or_default();
    Ok(result["supportedVersions"].as_array().map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect()))
}
