//! barewire: what an operator asks of a node. It asks the node's daemon over HTTP on loopback; what changes something says so.
#![forbid(unsafe_code)]

mod capture;
mod config;
mod daemon;
mod doctor;
#[cfg(test)]
mod documented;
mod drops;
mod execute;
mod exit;
mod health;
mod install;
mod inventory;
mod reasons;
mod release;
mod status;
mod support_bundle;
mod table;
mod teams;
mod trace;
mod traffic;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};

use daemon::{AskError, DEFAULT_ADDRESS, Daemon};
use doctor::Doctor;
use exit::Exit;
use status::Pages;
use traffic::{By, Rates};

/// Shorter ones would say more of the clock than of the traffic.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Asks the node's Barewire daemon.
///
/// Exit codes: 0 all is well; 1 something is wrong, or what was asked for is not there; 2 an ADD would fail; 3 the daemon does not
/// answer; 64 the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "barewire", version)]
struct Arguments {
    /// Words for a person, or JSON or YAML for a program.
    #[arg(short, long, global = true, value_enum, default_value = "text")]
    output: Output,
    /// Where the daemon listens: its `telemetry.listen`.
    #[arg(long, global = true, value_name = "ADDRESS:PORT", default_value = DEFAULT_ADDRESS)]
    daemon: SocketAddr,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What is wrong, with remedies; then what there is
    Status {
        /// Wait so long at most until an ADD would succeed: 60s, 500ms, 2m
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        wait: Option<Duration>,
        /// One line
        #[arg(long)]
        short: bool,
    },
    /// What the node's checks of itself have found, what is bad first
    Health,
    /// The pods, with addresses and links; or the one that is named
    Pods {
        /// A pod (NAMESPACE/NAME or NAME), an address, a container (or the beginning of its ID), or a host interface
        #[arg(value_name = "POD|ADDRESS|CONTAINER|INTERFACE")]
        wanted: Option<String>,
    },
    /// The ranges, and every address that is not free, with its owner
    #[command(args_conflicts_with_subcommands = true)]
    Addresses {
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<State>,
        #[command(subcommand)]
        release: Option<Addresses>,
    },
    /// Who sends and receives how much: rates between two readings of the counters, again and again
    Traffic {
        /// What a row is about
        #[arg(long, value_enum, default_value = "pod")]
        by: By,
        /// Between readings
        #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
        interval: Duration,
        /// End after the first rates
        #[arg(long)]
        once: bool,
    },
    /// The packets of one pod as pcapng, whichever path they take; needs root
    Capture(capture::Capture),
    /// The packets that the programs dropped, by reason, or one by one
    Drops(drops::Drops),
    /// What would become of a packet of a pod, step by step and why; nothing is sent
    Trace(trace::Trace),
    /// Look at the node for what would keep pods from starting or from being reached; each finding with its remedy
    Doctor(Doctor),
    /// The daemon's configuration file
    #[command(subcommand)]
    Config(Config),
    /// What a shell completes this command's words with
    Completions {
        /// For which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Writes this command's manual pages into a directory
    #[command(hide = true)]
    Man {
        /// An existing directory
        directory: PathBuf,
    },
    /// Put Barewire on this node, or into an image
    Install(install::Install),
    /// Take Barewire off this node, or out of an image
    Uninstall(install::Uninstall),
    /// One file with all that somebody who helps asks for: status, configuration without secrets, log, rules; needs root for most of it
    SupportBundle(support_bundle::SupportBundle),
    /// Which nodes are whose team's
    #[command(subcommand)]
    Teams(Teams),
    /// The versions of this command and of the daemon
    Version,
}

#[derive(Debug, Subcommand)]
enum Addresses {
    /// Let a quarantined address be used again; needs root
    Release(release::Release),
}

#[derive(Debug, Subcommand)]
enum Config {
    /// Has barewired judge a file: every fault once, or what is found of the plugins that it chains
    Check {
        #[arg(default_value = "/etc/barewire/barewired.toml")]
        file: PathBuf,
    },
    /// What a file and its drop-ins (FILE.d/*.toml) say together, and which file each key is from
    Show {
        #[arg(default_value = "/etc/barewire/barewired.toml")]
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Teams {
    /// What a file of teams would move, and why; changes nothing
    Plan {
        /// The file of teams: YAML or JSON
        #[arg(short = 'f', long, value_name = "FILE")]
        file: PathBuf,
        /// What `kubectl get nodes -o json` printed
        #[arg(long, value_name = "FILE")]
        nodes: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    InUse,
    Allowed,
    Cooldown,
    Quarantined,
    OfHost,
}

impl State {
    /// As the daemon says it.
    const fn name(self) -> &'static str {
        match self {
            Self::InUse => "in_use",
            Self::Allowed => "allowed",
            Self::Cooldown => "cooldown",
            Self::Quarantined => "quarantined",
            Self::OfHost => "of_host",
        }
    }
}

/// What a command has to say.
struct Answer {
    text: String,
    json: Value,
    exit: Exit,
}

impl Answer {
    fn of((text, json, exit): (String, Value, Exit)) -> Self {
        Self { text, json, exit }
    }

    fn print(&self, output: Output) -> std::io::Result<()> {
        let text = match output {
            _ if self.text.is_empty() && self.json.is_null() => return Ok(()),
            Output::Text => self.text.clone(),
            Output::Json => format!("{:#}\n", self.json),
            // A document each: a command may have several answers, one after the other.
            Output::Yaml => format!("---\n{}", serde_saphyr::to_string(&self.json).map_err(std::io::Error::other)?),
        };
        std::io::stdout().write_all(text.as_bytes())
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            // Help and version are no errors.
            return if error.use_stderr() { Exit::Usage } else { Exit::Fine }.into();
        }
    };
    let Arguments { output, daemon, command } = arguments;
    let exit = match execute(Daemon { address: daemon }, command, output) {
        Ok(answer) => {
            // A reader that has gone needs no words.
            let _ = answer.print(output);
            answer.exit
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "barewire: {error}");
            Exit::Unreachable
        }
    };
    exit.into()
}

fn execute(daemon: Daemon, command: Command, output: Output) -> Result<Answer, AskError> {
    match command {
        Command::Status { wait, short } => {
            let pages = Pages::wait(daemon, wait)?;
            let text = if short { pages.short() } else { pages.text() };
            Ok(Answer { text, json: pages.json(), exit: pages.exit() })
        }
        Command::Health => {
            let page = daemon.json("/health")?;
            let (text, exit) = health::text(&page);
            Ok(Answer { text, json: page, exit })
        }
        Command::Pods { wanted } => {
            let page = daemon.json("/pods")?;
            // An address that no pod has is told with its state.
            let is_missing = wanted.as_ref().is_some_and(|wanted| inventory::ends(&page, wanted).is_empty());
            let addresses = if is_missing { daemon.json("/addresses")? } else { Value::Null };
            let (text, json, exit) = inventory::pods(&page, wanted.as_deref(), &addresses);
            Ok(Answer { text, json, exit })
        }
        Command::Addresses { release: Some(Addresses::Release(release)), .. } => Ok(Answer::of(release.ask())),
        Command::Addresses { state, release: None } => {
            let (text, json, exit) = inventory::addresses(&daemon.json("/addresses")?, state.map(State::name));
            Ok(Answer { text, json, exit })
        }
        Command::Traffic { by, interval, once } => {
            let mut before = daemon.json("/traffic")?;
            loop {
                std::thread::sleep(interval.max(INTERVAL_MIN));
                let after = daemon.json("/traffic")?;
                let rates = Rates::between(&before, &after, by);
                let answer = Answer { text: rates.text(), json: rates.json(), exit: Exit::Fine };
                if once {
                    return Ok(answer);
                }
                let shown = Answer { text: answer.text.clone() + "\n", ..answer };
                if shown.print(output).is_err() {
                    return Ok(Answer { text: String::new(), ..shown });
                }
                before = after;
            }
        }
        Command::Drops(drops) => drops.run(daemon, output),
        Command::Capture(capture) => {
            let (text, json, exit) = capture.run(daemon)?;
            if let Some(why) = json["error"].as_str() {
                let _ = writeln!(std::io::stderr(), "barewire: {why}");
            }
            let is_silent = capture.is_stream() || exit != Exit::Fine && output == Output::Text;
            Ok(if is_silent { Answer { text: String::new(), json: Value::Null, exit } } else { Answer { text, json, exit } })
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "barewire", &mut script);
            let text = String::from_utf8_lossy(&script).into_owned();
            Ok(Answer { json: json!({ "script": text }), text, exit: Exit::Fine })
        }
        Command::Man { directory } => Ok(match clap_mangen::generate_to(Arguments::command().name("barewire"), &directory) {
            Ok(()) => Answer {
                text: format!("manual pages are in {}\n", directory.display()),
                json: json!({ "directory": directory }),
                exit: Exit::Fine,
            },
            Err(error) => {
                let text = format!("{}: {error}; name a directory that exists and can be written to\n", directory.display());
                Answer { json: json!({ "error": text }), text, exit: Exit::Degraded }
            }
        }),
        Command::Trace(trace) => {
            let (text, json, exit) = trace.ask(daemon)?;
            Ok(Answer { text, json, exit })
        }
        Command::Doctor(doctor) => {
            let (text, json, exit) = doctor.examine(daemon);
            Ok(Answer { text, json, exit })
        }
        Command::Config(Config::Check { file }) => {
            let (text, json, exit) = config::check(&file);
            Ok(Answer { text, json, exit })
        }
        Command::Config(Config::Show { file }) => Ok(Answer::of(config::show(&file))),
        Command::Install(options) => Ok(Answer::of(options.execute(|line| tell(line, output)))),
        Command::Uninstall(options) => Ok(Answer::of(options.execute(|line| tell(line, output)))),
        Command::SupportBundle(wanted) => Ok(Answer::of(wanted.run(daemon))),
        Command::Teams(Teams::Plan { file, nodes }) => {
            let (text, json, exit) = teams::plan(&file, &nodes);
            Ok(Answer { text, json, exit })
        }
        Command::Version => Ok(version(daemon.json("/status"))),
    }
}

/// Says to a person what has just been done.
fn tell(line: &str, output: Output) {
    if output == Output::Text {
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

/// This command's version is told whether the daemon answers or not.
fn version(status: Result<Value, AskError>) -> Answer {
    let own = env!("CARGO_PKG_VERSION");
    let (line, daemon, exit) = match status {
        Ok(status) => (Pages::version_of(&status), status["version"].clone(), Exit::Fine),
        Err(error) => (error.to_string(), Value::Null, Exit::Unreachable),
    };
    Answer { text: format!("barewire {own}\n{line}\n"), json: json!({ "barewire": own, "barewired": daemon }), exit }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: Option<u64> = text[..text.len() - unit.len()].parse().ok();
    let duration = match (number, unit) {
        (Some(number), "ms") => Some(Duration::from_millis(number)),
        (Some(number), "s" | "") => Some(Duration::from_secs(number)),
        (Some(number), "m") => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    };
    // A day is longer than anybody waits, and can be added to any clock.
    let within = duration.filter(|duration| *duration <= Duration::from_secs(24 * 60 * 60));
    within.ok_or_else(|| "write a whole number with ms, s or m, a day at most: 60s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "-1s", "1h", "99999999999999999999s", "18446744073709551615s", "1.5s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
