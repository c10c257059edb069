//! What `barewired --check` finds out beside the configuration's own faults: the plugins of the chain, what the list would offer, and
//! whether services are native.
//! All of it can change without the configuration, and the daemon goes by what is there then: none of it is a fault.

use crate::config::Config;
use crate::conflist::file;
use crate::conflist::{Present, appended, chain};
use crate::plugins::{Plugins, offer, path_of};
use crate::reconcile::slow_path;

/// The findings, a line each.
#[must_use]
pub fn findings(config: &Config) -> Vec<String> {
    let path = &config.cni_conf_file;
    let others = match file::read(path) {
        Ok(Some(Present::Ours(list))) => appended(&list, config),
        Ok(Some(Present::Damaged(_)) | None) | Err(_) => Vec::new(),
    };
    let names = chain(config, &others);
    let answers = Plugins::new(config.cni.bin_dirs.clone()).ask(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let offer = offer(&answers, config.cni.versions.as_deref());
    let mut lines = Vec::new();
    for (index, answer) in answers.iter().enumerate() {
        let whose = if index > config.cni.chained_plugins.len() { ", appended by another agent" } else { "" };
        let file = path_of(&answer.name, &config.cni.bin_dirs).map(|path| format!(" ({})", path.display())).unwrap_or_default();
        lines.push(match &answer.versions {
            Ok(versions) => format!("plugin {}{file}{whose}: speaks CNI {}", answer.name, versions.join(", ")),
            Err(error) => format!("plugin {}{file}{whose}: CANNOT BE USED: {error}; {}", answer.name, error.remedy()),
        });
    }
    if let Some(finding) = &offer.no_common {
        lines.push(format!("{}; {}", finding.message, finding.remedy));
    }
    let versions = offer.versions.iter().map(|version| version.as_str()).collect::<Vec<_>>().join(", ");
    let list = path.display();
    lines.push(match (offer.is_usable(), &config.cni.versions) {
        (true, None) => format!("{list} offers CNI {versions}: what all of them speak"),
        (true, Some(_)) => format!("{list} offers CNI {versions}: cni.versions"),
        (false, _) => format!("{list} is not written before that is mended; one that is there stays as it is"),
    });
    for other in file::neighbours(path).unwrap_or_default() {
        lines.push(format!("beside it is {other}: a runtime takes the first by name and passes over the others"));
    }
    lines.extend(slow_path::check(config));
    lines
}
