//! Publishes the list and keeps it: each second the file, the plugins and the directory are looked at, and what is not as it should be is
//! set right or becomes a condition.
//!
//! - It is written first when an ADD through the whole chain would succeed: a list whose ADD fails for every pod makes the node Ready
//!   for pods that cannot start.
//! - Once it has stood in this boot it is not taken away, whatever happens: without a list the node is NotReady and its running pods are
//!   evicted. Where a plugin goes missing later, the list stays as it is until the plugin is back.
//! - A damaged file is judged twice, a second apart, before it is replaced: somebody may be writing it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use datapath::repairs;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Present, appended, chain, file, plugin_type, render, text};
use crate::conditions::{Finding, Kind, NodeConditions};
use crate::config::{BANDWIDTH, BANDWIDTH_WHY, Config, OWN_PLUGIN};
use crate::plugins::{Offer, PluginAnswer, Plugins, is_there, offer, path_of};

/// What the status page tells of the list.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ListReport {
    /// The list's file.
    pub(crate) file: PathBuf,
    /// Whether it is there.
    pub(crate) stands: bool,
    /// The CNI versions that it offers, or would.
    pub(crate) cni_versions: Vec<&'static str>,
    /// The chain.
    pub(crate) plugins: Vec<PluginReport>,
}

/// A plugin of the chain.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PluginReport {
    /// `type`
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Its file.
    pub(crate) path: Option<PathBuf>,
    /// Whether another agent has put it there.
    pub(crate) appended: bool,
    /// The versions that it speaks.
    pub(crate) cni_versions: Vec<String>,
    /// Why it cannot be used.
    pub(crate) problem: Option<String>,
}

/// Where others read the latest [`ListReport`].
pub(crate) type SharedReport = Arc<Mutex<ListReport>>;

/// The publisher.
pub(crate) struct Publisher {
    config: Config,
    plugins: Plugins,
    conditions: Arc<NodeConditions>,
    report: SharedReport,
    /// What others have appended, as it was seen last in a list of this boot.
    appended: Option<Vec<Value>>,
    /// The list has stood in this boot.
    has_stood: bool,
    /// What was wrong with the file at the last look.
    suspect: Option<String>,
}

impl Publisher {
    /// A publisher that has looked at nothing yet. `has_stood`: pods are attached, so it has.
    pub(crate) fn new(config: Config, conditions: Arc<NodeConditions>, has_stood: bool) -> Self {
        let plugins = Plugins::new(config.cni.bin_dirs.clone());
        let report = ListReport { file: config.cni_conf_file.clone(), ..ListReport::default() };
        let report = Arc::new(Mutex::new(report));
        Self { config, plugins, conditions, report, appended: None, has_stood, suspect: None }
    }

    pub(crate) fn report(&self) -> SharedReport {
        Arc::clone(&self.report)
    }

    /// Looks at everything, and does what is to be done. `not_ready` says why an ADD would fail for other reasons than the chain. Tells
    /// whether the list stands.
    pub(crate) fn look(&mut self, not_ready: Option<&str>) -> bool {
        let path = self.config.cni_conf_file.clone();
        let present = match file::read(&path) {
            Ok(present) => present,
            Err(error) => {
                self.not_writable("ReadFailed", format!("{} cannot be read: {error}", path.display()));
                return self.has_stood;
            }
        };
        if let Some(Present::Ours(list)) = &present {
            self.has_stood = true;
            self.appended = Some(appended(list, &self.config));
        }
        let others = self.appended.clone().unwrap_or_else(|| self.appended_earlier());
        let names = chain(&self.config, &others);
        let answers = self.plugins.ask(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let offer = offer(&answers, self.config.cni.versions.as_deref());

        let is_suspect = self.is_first_damage(present.as_ref());
        if !is_suspect {
            // Judged. The same damage later is another.
            self.suspect = None;
        }
        let wanted = if is_suspect { None } else { self.wanted(present.as_ref(), &others, &offer, not_ready) };
        let outcome = wanted.map_or(Ok(()), |list| self.write(&list, present.as_ref()));
        let outcome = outcome.and_then(|()| if matches!(present, Some(Present::Ours(_))) { file::make_readable(&path) } else { Ok(()) });
        match &outcome {
            Ok(()) => self.conditions.report(Kind::NetworkListNotWritable, None),
            Err(error) => self.not_writable("WriteFailed", format!("{} cannot be written: {error}", path.display())),
        }
        let stands = is_suspect && self.has_stood || matches!(file::read(&path), Ok(Some(Present::Ours(_))));
        self.has_stood |= stands;
        self.tell(stands, &others, &answers, &offer, not_ready);
        stands
    }

    /// What others had appended to the list of an earlier boot or version, as far as it is installed: what is not will be appended again
    /// by whoever installs it, and must not keep the node from becoming ready for that.
    fn appended_earlier(&self) -> Vec<Value> {
        let Some(Present::Ours(list)) = file::read_kept(&self.config.cni_conf_file) else { return Vec::new() };
        let mut appended = appended(&list, &self.config);
        appended.retain(|plugin| plugin_type(plugin).is_some_and(|kind| is_there(kind, &self.config.cni.bin_dirs)));
        appended
    }

    /// Whether the file is damaged, and was not at the last look, or was in another way.
    fn is_first_damage(&mut self, present: Option<&Present>) -> bool {
        let damage = match present {
            Some(Present::Damaged(why)) => Some(why.clone()),
            Some(Present::Ours(_)) | None => None,
        };
        let is_first = damage.is_some() && damage != self.suspect;
        self.suspect = damage;
        is_first
    }

    /// The list to write, if one is to be written.
    fn wanted(&self, present: Option<&Present>, others: &[Value], offer: &Offer, not_ready: Option<&str>) -> Option<Map<String, Value>> {
        if let Some(Present::Ours(list)) = present {
            let wanted = render(&self.config, &offer.versions, others, Some(list));
            return (offer.is_usable() && wanted != *list).then_some(wanted);
        }
        let may_be_written = self.has_stood || offer.is_usable() && not_ready.is_none();
        (may_be_written && !offer.versions.is_empty()).then(|| render(&self.config, &offer.versions, others, None))
    }

    /// Writes the list in place of what was seen.
    fn write(&self, list: &Map<String, Value>, seen: Option<&Present>) -> io::Result<()> {
        let path = &self.config.cni_conf_file;
        let now = file::read(path)?;
        if now.as_ref() != seen {
            // Somebody else has written it meanwhile: looked at again in a second.
            return Ok(());
        }
        let why = match seen {
            None if self.has_stood => "it was removed",
            None => "an ADD would succeed",
            Some(Present::Ours(_)) => "configuration, plugins or somebody else have changed it",
            Some(Present::Damaged(why)) => {
                let aside = file::set_aside(path)?;
                tracing::warn!(file = %path.display(), why, aside = %aside.display(), "network configuration list damaged, set aside");
                "it was damaged"
            }
        };
        file::write(path, &text(list))?;
        file::forget_kept(path)?;
        if self.has_stood && !matches!(seen, Some(Present::Ours(_))) {
            repairs::note(repairs::Kind::NetworkList, why);
        }
        tracing::info!(file = %path.display(), why, offers = %list.get("cniVersions").unwrap_or(&list["cniVersion"]), "wrote the network configuration list");
        Ok(())
    }

    fn tell(&self, stands: bool, others: &[Value], answers: &[PluginAnswer], offer: &Offer, not_ready: Option<&str>) {
        for (kind, finding) in offer.findings() {
            self.conditions.report(kind, finding);
        }
        let missing = (!stands).then(|| {
            let why = offer.unusable.as_ref().or(offer.no_common.as_ref()).map(|finding| finding.message.as_str()).or(not_ready);
            let message = format!("{} is not there: {}", self.config.cni_conf_file.display(), why.unwrap_or("it could not be written"));
            Finding::new("NotPublished", message, "it is written as soon as that is over")
        });
        self.conditions.report(Kind::NoNetworkList, missing);
        let has_bandwidth = others.iter().any(|plugin| plugin_type(plugin) == Some(BANDWIDTH));
        let bandwidth = Finding::new(
            "AppendedByAnother",
            format!("{} has {BANDWIDTH:?} behind {OWN_PLUGIN}, which {BANDWIDTH_WHY}", self.config.cni_conf_file.display()),
            "take it out of the list, and see to it that whoever appended it does not again",
        );
        self.conditions.report(Kind::BandwidthChained, has_bandwidth.then_some(bandwidth));
        self.conditions.report(Kind::OtherNetworkList, self.others());
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = self.list_report(stands, answers, offer);
    }

    /// Other configurations in the runtime's directory.
    fn others(&self) -> Option<Finding> {
        let path = &self.config.cni_conf_file;
        let others = match file::neighbours(path) {
            Ok(others) => others,
            Err(error) => {
                tracing::debug!(%error, "directory of the network configuration list not read");
                return None;
            }
        };
        let first = others.first()?;
        let ours = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let all = others.join(", ");
        let (reason, which) = if *first < ours && file::wraps_ours(&path.with_file_name(first)) {
            ("WrapsOurs", format!("the runtime takes {first}, the first by name, which executes {OWN_PLUGIN} as well"))
        } else if *first < ours {
            ("SortsBefore", format!("the runtime takes {first}, the first by name: new pods are not Barewire's"))
        } else {
            ("SortsBehind", format!("the runtime takes {ours}, the first by name, and passes over the others"))
        };
        let directory = path.parent().unwrap_or(path).display().to_string();
        Some(Finding::new(
            reason,
            format!("beside {ours} there are other network configurations in {directory}: {all}; {which}"),
            "remove what is not to be used; the order of names can be chosen by paths.cni_conf_file",
        ))
    }

    fn list_report(&self, stands: bool, answers: &[PluginAnswer], offer: &Offer) -> ListReport {
        let plugins = answers.iter().enumerate().map(|(index, answer)| PluginReport {
            kind: answer.name.clone(),
            path: path_of(&answer.name, &self.config.cni.bin_dirs),
            appended: index > self.config.cni.chained_plugins.len(),
            cni_versions: answer.versions.clone().unwrap_or_default(),
            problem: answer.versions.as_ref().err().map(ToString::to_string),
        });
        ListReport {
            file: self.config.cni_conf_file.clone(),
            stands,
            cni_versions: offer.versions.iter().map(|version| version.as_str()).collect(),
            plugins: plugins.collect(),
        }
    }

    fn not_writable(&self, reason: &'static str, message: String) {
        let remedy = "see to it that barewired may write in that directory (ReadWritePaths of its unit), and that there is space";
        self.conditions.report(Kind::NetworkListNotWritable, Some(Finding::new(reason, message, remedy)));
    }
}

#[cfg(test)]
mod tests;
