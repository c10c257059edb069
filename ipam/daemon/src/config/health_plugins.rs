//! `[health.plugins.NAME]`: programs that say how the node is.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;

/// With the daemon's own checks and those of peers they fit into a report.
const PLUGINS_MAX: usize = 20;
/// `plugin/NAME` is a check's name in a report.
const NAME_MAX: usize = 40;

/// When a program is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginKind {
    /// Again and again.
    Passive,
    /// Once in a boot, before the first pod: it may take the machine for itself.
    Preflight,
}

/// One program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginConfig {
    /// The name of its table.
    pub name: String,
    /// The first of `command`.
    pub program: PathBuf,
    /// The rest of `command`.
    pub arguments: Vec<String>,
    /// `kind`
    pub kind: PluginKind,
    /// `interval_seconds`: between the end of a run and the next, of a passive one.
    pub interval: Duration,
    /// `timeout_seconds`: it is killed after that.
    pub timeout: Duration,
    /// `failures`: as many runs in a row have to fail.
    pub failures: u32,
    /// `memory_mib`, in bytes: of each of its processes.
    pub memory: u64,
    /// `cpu_seconds`: of each of its processes.
    pub cpu_seconds: u64,
}

/// In the order of their names.
pub(super) fn read(reader: &mut Reader) -> Vec<PluginConfig> {
    let mut names = reader.tables("health.plugins");
    names.sort();
    if names.len() > PLUGINS_MAX {
        reader.fault("health.plugins", &format!("there are {}; at most {PLUGINS_MAX} are reported", names.len()));
    }
    names.into_iter().filter_map(|name| plugin(reader, name)).collect()
}

fn plugin(reader: &mut Reader, name: String) -> Option<PluginConfig> {
    let section = format!("health.plugins.{name}");
    let key = |key: &str| format!("{section}.{key}");
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !(1..=NAME_MAX).contains(&name.len()) || !name.bytes().all(is_letter) {
        reader.fault(&section, &format!("{name:?} is no name: it has 1 to {NAME_MAX} letters, digits, `-` and `_`"));
        reader.forget(&[&section]);
        return None;
    }
    let mut command = reader.strings(&key("command")).unwrap_or_default().into_iter();
    let program = command.next().map(PathBuf::from).filter(|program| program.is_absolute());
    if program.is_none() {
        reader.fault(&key("command"), "is missing or does not begin with an absolute path; write [\"/path/to/program\", \"argument\"]");
    }
    let kind = match reader.string(&key("kind")).as_deref() {
        None | Some("passive") => PluginKind::Passive,
        Some("preflight") => PluginKind::Preflight,
        Some(other) => {
            reader.fault(&key("kind"), &format!("{other:?} is unknown; use \"passive\" or \"preflight\""));
            PluginKind::Passive
        }
    };
    let interval = reader.integer(&key("interval_seconds"), 1..=86_400);
    if interval.is_some() && kind == PluginKind::Preflight {
        reader.fault(&key("interval_seconds"), "is of passive plug-ins; those of the preflight run once: leave it out");
    }
    let timeout = reader.integer(&key("timeout_seconds"), 1..=7_200).unwrap_or(10);
    let failures = reader.integer(&key("failures"), 1..=10).unwrap_or(2);
    let memory_mib = reader.integer(&key("memory_mib"), 1..=1 << 20).unwrap_or(256);
    let cpu_seconds = reader.integer(&key("cpu_seconds"), 1..=1 << 20).unwrap_or(timeout);
    Some(PluginConfig {
        name,
        program: program?,
        arguments: command.collect(),
        kind,
        interval: Duration::from_secs(interval.unwrap_or(60)),
        timeout: Duration::from_secs(timeout),
        failures: u32::try_from(failures).unwrap_or(u32::MAX),
        memory: memory_mib << 20,
        cpu_seconds,
    })
}
