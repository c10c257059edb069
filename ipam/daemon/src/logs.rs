//! Logs on standard error: text, text with the priorities that the journal reads, or JSON, a line for each event.

use std::fmt;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::sync::OnceLock;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Goes before `log.level`: for who starts the daemon by hand.
pub const VARIABLE: &str = "BAREWIRE_LOG";
const WORDS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is logged: a level for all, and others for parts of the daemon: `info,ipam_clouds=debug`.
#[derive(Debug, Clone, PartialEq)]
pub struct Levels(Targets);

impl Default for Levels {
    fn default() -> Self {
        Self(Targets::new().with_default(Level::INFO))
    }
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        for part in text.split(',') {
            // The library takes every word that is no level for the name of a part that is logged whole.
            let (target, level) = part.rsplit_once('=').unwrap_or(("", part));
            let names_a_part = part.contains('=') && !target.is_empty() && target.chars().all(|c| c.is_alphanumeric() || "_:-".contains(c));
            if !WORDS.contains(&level) || part.contains('=') && !names_a_part {
                return Err(format!("{part:?} is neither a level ({}) nor a part's, like ipam_clouds=debug", WORDS.join(", ")));
            }
        }
        text.parse().map(Self).map_err(|why| format!("{text:?}: {why}"))
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// [`LogFormat::Journal`] where standard error is the journal's, else [`LogFormat::Text`].
    #[default]
    Auto,
    /// Time, level, event, fields.
    Text,
    /// Without the time, which the journal has, and with the priority in front (`man 3 sd-daemon`), so that `journalctl -p warning` works.
    Journal,
    /// One object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "journal" => Ok(Self::Journal),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is unknown; use \"auto\", \"text\", \"journal\" or \"json\"")),
        }
    }
}

static LEVELS: OnceLock<Handle<Targets, Registry>> = OnceLock::new();

/// Begins to log. The variable [`VARIABLE`] goes before `levels`.
///
/// # Errors
/// Where that variable is not understood, or the process logs already.
pub fn start(levels: &Levels, format: LogFormat) -> Result<(), String> {
    let levels = of_environment()?.unwrap_or_else(|| levels.clone());
    let (filter, handle) = reload::Layer::new(levels.0);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Journal => lines.event_format(Prioritised(Format::default().without_time())).boxed(),
        LogFormat::Auto if is_the_journal() => lines.event_format(Prioritised(Format::default().without_time())).boxed(),
        LogFormat::Auto | LogFormat::Text => lines.boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init().map_err(|error| error.to_string())?;
    // Set once, as the subscriber is.
    drop(LEVELS.set(handle));
    Ok(())
}

/// Other levels from now on; the variable goes before them still.
pub fn set_levels(levels: &Levels) {
    if let (Some(handle), Ok(None)) = (LEVELS.get(), of_environment()) {
        // It fails where the subscriber is gone: then nothing logs.
        drop(handle.reload(levels.0.clone()));
    }
}

fn of_environment() -> Result<Option<Levels>, String> {
    match std::env::var(VARIABLE) {
        Ok(text) => text.parse().map(Some).map_err(|why: String| format!("{VARIABLE}: {why}")),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(format!("{VARIABLE}: {error}")),
    }
}

/// Whether standard error is what the service manager said is the journal's (`man 5 systemd.exec`, `JOURNAL_STREAM`).
fn is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    nix::sys::stat::fstat(std::io::stderr().as_fd()).is_ok_and(|found| stream == format!("{}:{}", found.st_dev, found.st_ino))
}

/// A line with its priority in front.
struct Prioritised(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Prioritised
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// `man 3 syslog`: error, warning, informational, debug.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_or_a_parts() {
        for good in ["info", "off", "info,ipam_clouds=debug", "warn,barewired::reconcile=trace", "barewired=debug"] {
            assert!(good.parse::<Levels>().is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,", "Info", "ipam_clouds", "=debug", "a=b", "a b=debug", "debug,=info"] {
            let why = bad.parse::<Levels>().unwrap_err();
            assert!(why.contains("off, error, warn, info, debug, trace"), "{bad}: {why}");
        }
        assert_eq!("info".parse::<Levels>().unwrap(), Levels::default());
    }
}
