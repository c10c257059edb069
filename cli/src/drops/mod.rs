//! `barewire drops`: the packets that the programs dropped, or left to the kernel's network stack, by reason; or one by one.

mod counters;
mod follow;

use std::io::Write;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use crate::daemon::{AskError, Daemon};
use crate::exit::Exit;
use crate::{Answer, INTERVAL_MIN, Output};
use follow::Follower;

/// Between questions for what was dropped since. The daemon has the programs tell for seconds after each.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Which, and how.
#[derive(Debug, Args)]
pub(crate) struct Drops {
    /// Those that took the kernel's network stack as well
    #[arg(long)]
    slow: bool,
    /// Again and again, with rates
    #[arg(short, long)]
    watch: bool,
    /// Between readings
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = crate::parse_duration)]
    interval: Duration,
    /// One by one as they are dropped, each with what it was
    #[arg(short, long, conflicts_with_all = ["slow", "watch"])]
    follow: bool,
    /// With --follow: those of one pod, NAMESPACE/NAME or NAME
    #[arg(long, value_name = "POD", requires = "follow")]
    pod: Option<String>,
    /// With --follow: end after so many packets
    #[arg(short, long, default_value_t = 10_000, requires = "follow")]
    count: u64,
    /// With --follow: end after so long
    #[arg(short, long, value_name = "TIME", default_value = "10m", value_parser = crate::parse_duration, requires = "follow")]
    duration: Duration,
}

impl Drops {
    /// Asks; what has not been printed yet.
    pub(crate) fn run(&self, daemon: Daemon, output: Output) -> Result<Answer, AskError> {
        if self.follow { self.follow(daemon, output) } else { self.count(daemon, output) }
    }

    fn count(&self, daemon: Daemon, output: Output) -> Result<Answer, AskError> {
        let mut before = None;
        loop {
            let page = daemon.json("/traffic")?;
            let (text, json, exit) = counters::told(&page, before.as_ref(), self.slow);
            if !self.watch {
                return Ok(Answer { text, json, exit });
            }
            if (Answer { text: text + "\n", json, exit }).print(output).is_err() {
                return Ok(silent(exit));
            }
            before = Some(page);
            std::thread::sleep(self.interval.max(INTERVAL_MIN));
        }
    }

    fn follow(&self, daemon: Daemon, output: Output) -> Result<Answer, AskError> {
        let first = daemon.json("/drops")?;
        if first["programs"] == false {
            let text =
                "no programs are in use on this node, and nothing tells of single packets; see `barewire status` for why\n".to_owned();
            return Ok(Answer { json: serde_json::json!({ "error": text.trim_end() }), text, exit: Exit::Degraded });
        }
        let until = Instant::now() + self.duration;
        let (mut follower, mut out) = (Follower::new(&first, self.pod.as_deref(), self.count), std::io::stdout());
        let mut print = |lines: Vec<follow::Line>| -> std::io::Result<()> {
            for line in lines {
                out.write_all(line.written(output)?.as_bytes())?;
            }
            out.flush()
        };
        let mut printed = if output == Output::Text { print(vec![Follower::head()]) } else { Ok(()) };
        while printed.is_ok() && !follower.is_done() && Instant::now() < until {
            std::thread::sleep(FOLLOW_INTERVAL);
            printed = print(follower.take_in(&daemon.json(&follower.question())?));
        }
        // A reader that has gone needs no words.
        let _ = printed.and_then(|()| print(follower.rest()));
        Ok(silent(Exit::Fine))
    }
}

const fn silent(exit: Exit) -> Answer {
    Answer { text: String::new(), json: Value::Null, exit }
}
