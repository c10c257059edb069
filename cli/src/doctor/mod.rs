//! `barewire doctor`: looks at a node for what would keep its pods from starting or from being reached, with or without a daemon.
//!
//! Facts are gathered at the edge ([`gather`]) and judged by one pure function ([`checks::judge`]); what can be mended without asking is
//! mended on request ([`fix`]), and looked at again.

mod checks;
mod facts;
mod fix;
mod gather;
mod network_tools;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::exit::Exit;
use checks::{Finding, Severity};

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Before Barewire is installed: what needs its daemon or its configuration is not looked at
    #[arg(long)]
    pre: bool,
    /// Mend what can be mended safely: file modes, sysctls, drop-ins that have other tools leave pods' links alone
    #[arg(long)]
    fix: bool,
    /// Where the node's file system is: /host in a container
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,
    /// The daemon's configuration, as the node sees it
    #[arg(long, value_name = "FILE", default_value = "/etc/barewire/barewired.toml")]
    config: PathBuf,
    /// Send two echo requests there, one as large as the uplink takes: another node, or a peer of the network. May be repeated
    #[arg(long, value_name = "ADDRESS")]
    path_to: Vec<std::net::IpAddr>,
    /// Only findings that are not well
    #[arg(short, long)]
    quiet: bool,
}

impl Doctor {
    /// What was found: words, JSON, and whether pods can do with it.
    pub(crate) fn examine(&self, daemon: Daemon) -> (String, Value, Exit) {
        let look = || checks::judge(&gather::facts(self, daemon));
        let mut findings = look();
        let mut done = Vec::new();
        if self.fix {
            done = findings.iter().flat_map(|finding| &finding.fixes).map(|one| fix::apply(one, &self.root)).collect();
            if !done.is_empty() {
                findings = look();
            }
        }
        let failed = count(&findings, Severity::Failed);
        let exit = if failed > 0 || done.iter().any(|fixed| !fixed.succeeded) { Exit::Degraded } else { Exit::Fine };
        (text(&findings, &done, self.quiet), json(&findings, &done), exit)
    }
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

fn text(findings: &[Finding], done: &[fix::Done], quiet: bool) -> String {
    let mut text = String::new();
    for done in done {
        text += &format!("{} {}\n", if done.succeeded { "fixed" } else { "not fixed" }, done.what);
    }
    let mut area = "";
    for finding in findings.iter().filter(|finding| !quiet || finding.severity > Severity::Unseen) {
        if finding.area != area {
            area = finding.area;
            text += &format!("{area}\n");
        }
        text += &format!("  {} {}: {}\n", finding.severity.sign(), finding.check, finding.seen);
        if let Some(remedy) = &finding.remedy {
            let fixable = if finding.fixes.is_empty() { "" } else { "  [--fix]" };
            text += &format!("      {remedy}{fixable}\n");
        }
    }
    let [well, unseen, warned, failed] =
        [Severity::Well, Severity::Unseen, Severity::Warning, Severity::Failed].map(|severity| count(findings, severity));
    text + &format!("{well} well, {unseen} not seen, {warned} warnings, {failed} failed\n")
}

fn json(findings: &[Finding], done: &[fix::Done]) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "area": finding.area, "check": finding.check, "severity": finding.severity.name(), "seen": finding.seen,
            "remedy": finding.remedy, "fixable": !finding.fixes.is_empty(),
        })
    };
    let fixed = |done: &fix::Done| json!({ "what": done.what, "succeeded": done.succeeded });
    json!({ "findings": findings.iter().map(finding).collect::<Vec<_>>(), "fixes": done.iter().map(fixed).collect::<Vec<_>>() })
}
