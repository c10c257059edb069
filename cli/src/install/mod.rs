//! `barewire install` and `barewire uninstall`: a node's files, its service, and what network managers have to know.
//!
//! Promise: nothing is changed before all that can be known beforehand has been judged, and what is refused is refused in words, all of it
//! at once. A second run changes nothing. Each file is whole or not there. The order is such that a node is never called Ready before pods
//! work: the network configuration list, which is what a runtime goes by, is no part of an installation; barewired writes it when an ADD
//! would succeed (docs/adr/0005, 0027).

mod act;
mod checks;
mod layout;
mod lists;
mod plan;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::exit::Exit;
use act::{Act, ActError};

/// Puts Barewire on this node, or into an image
#[derive(Debug, Args)]
pub(crate) struct Install {
    /// The folder of barewired, barewire-cni, barewire and barewire-ebpf.o [default: this program's own]
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// The node's configuration, put to /etc/barewire/barewired.toml [default: the one that is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Into the file system of an image: nothing is started
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// What becomes of other networks' configuration lists
    #[arg(long, value_enum, default_value = "refuse")]
    other_lists: OtherLists,
    /// So long at most until the node is ready: 60s, 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = crate::parse_duration)]
    wait: Duration,
}

/// What becomes of other networks' lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OtherLists {
    /// Nothing is installed
    Refuse,
    /// They are renamed to NAME.before-barewire, and get their names back by `barewire uninstall`
    SetAside,
    /// They stay, where they sort behind Barewire's
    Keep,
}

/// Takes Barewire off this node, or out of an image
#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    /// Out of the file system of an image: nothing is stopped
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// The configuration and the daemon's state as well
    #[arg(long)]
    purge: bool,
    /// Although pods run: they keep their links and addresses until they end, and lose masquerading at once
    #[arg(long)]
    force: bool,
}

impl Install {
    /// Installs; each act is told when it is done.
    pub(crate) fn execute(&self, tell: impl FnMut(&str)) -> (String, Value, Exit) {
        let acts = checks::install(self).map(|found| plan::install(self, found));
        conclude(acts, self.dry_run, tell)
    }

    fn is_image(&self) -> bool {
        self.root != Path::new("/")
    }
}

impl Uninstall {
    /// Uninstalls; each act is told when it is done.
    pub(crate) fn execute(&self, tell: impl FnMut(&str)) -> (String, Value, Exit) {
        let acts = checks::uninstall(self).map(|()| plan::uninstall(self));
        conclude(acts, self.dry_run, tell)
    }

    fn is_image(&self) -> bool {
        self.root != Path::new("/")
    }
}

/// Does what is planned, or says why nothing is.
fn conclude(acts: Result<Vec<Act>, Vec<String>>, dry_run: bool, mut tell: impl FnMut(&str)) -> (String, Value, Exit) {
    let acts = match acts {
        Ok(acts) => acts,
        Err(refusals) => {
            let lines: String = refusals.iter().map(|refusal| format!("  {refusal}\n")).collect();
            let text = format!("nothing was changed:\n{lines}");
            return (text, json!({ "refused": refusals, "done": [] }), Exit::Degraded);
        }
    };
    let told: Vec<String> = acts.iter().map(Act::to_string).collect();
    if dry_run {
        let lines: String = told.iter().map(|line| format!("would {line}\n")).collect();
        let text = if lines.is_empty() { "nothing to do\n".to_owned() } else { lines };
        return (text, json!({ "planned": told }), Exit::Fine);
    }
    for (at, act) in acts.iter().enumerate() {
        if let Err(error) = act.perform() {
            let exit = if matches!(error, ActError::NotReady(_)) { Exit::NotReady } else { Exit::Degraded };
            let text = format!("{error}\n{} of {} acts were done; the same command goes on from here\n", at, acts.len());
            return (text, json!({ "failed": error.to_string(), "done": told[..at] }), exit);
        }
        tell(&told[at]);
    }
    let text = if acts.is_empty() { "nothing to do\n" } else { "done\n" };
    (text.to_owned(), json!({ "done": told }), Exit::Fine)
}

#[cfg(test)]
mod tests;
