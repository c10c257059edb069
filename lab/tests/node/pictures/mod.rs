//! Pictures of the docs, of a real node with traffic: what the operator's command prints, and the dashboards, drawn from what a real
//! Prometheus answers to their queries.
//!
//! Drawn in every run; `BAREWIRE_PICTURES=docs/pictures`, an absolute path, has them kept there, of more time.

mod board;
mod screen;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::host::{Host, Pod, Settings};

use crate::monitoring;
use board::Board;

/// For how long there is traffic: seconds to see that it is drawn, minutes for a picture to look at.
const BRIEFLY: Duration = Duration::from_secs(8);
const FOR_DOCS: Duration = Duration::from_secs(150);

/// Where pictures are kept; `None` where they are not.
fn kept_in() -> Option<PathBuf> {
    env::var_os("BAREWIRE_PICTURES").map(PathBuf::from)
}

fn keep(name: &str, svg: &str) -> Result<()> {
    ensure!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name} is no SVG");
    let Some(folder) = kept_in() else { return Ok(()) };
    fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))
}

#[test]
fn the_command_and_the_dashboards_are_drawn() -> Result<()> {
    let settings = Settings::default().with_fast_path(true);
    crate::on_node(settings, |host, daemon| {
        let named = |name| crate::cli::named(host, name);
        let ((api, _), (worker, of_worker), (batch, _)) = (named("api")?, named("worker")?, named("batch")?);
        batch.run("ip address add 10.9.9.9/32 dev eth0")?;
        let _prometheus = monitoring::start(host)?;
        monitoring::wait_for_scrape(host, 3)?;
        let duration = if kept_in().is_some() { FOR_DOCS } else { BRIEFLY };
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let _end = EndOnDrop(&is_over);
            let traffic = [
                (&api, format!("ping -n -q -i 0.005 -c 400 -s 1200 {}", of_worker[0])),
                (&worker, "ping -n -q -i 0.02 -c 100 -s 600 -W 1 10.0.7.7".to_owned()),
                (&api, "ping -n -q -i 0.02 -c 100 -s 900 -W 1 198.51.100.7".to_owned()),
                (&batch, "ping -n -q -i 0.1 -c 20 -W 1 -I 10.9.9.9 10.0.7.7".to_owned()),
            ];
            for (pod, line) in traffic {
                let is_over = &is_over;
                scope.spawn(move || repeat(pod, &line, is_over));
            }
            let begun = Instant::now();
            draw_screens(host)?;
            thread::sleep(duration.saturating_sub(begun.elapsed()));
            // Some come and go, for the operations.
            crate::cli::named(host, "short-lived")?;
            daemon.wait_until("an answer", || daemon.get("/healthz").map(drop))?;
            draw_boards(host, duration)
        })
    })
}

/// A pod that pings again and again: whether anybody answers is no matter.
fn repeat(pod: &Pod, line: &str, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let _unanswered = pod.run(line);
    }
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn draw_screens(host: &Host) -> Result<()> {
    for (name, line, part) in [
        ("status.svg", "status", "LIMITS     by token buckets"),
        ("traffic.svg", "traffic --once", "web/api"),
        ("drops.svg", "drops --follow --count 5 --duration 30s", "spoofed_address"),
    ] {
        let said = crate::cli::barewire(host, line)?;
        ensure!(said.out.contains(part), "barewire {line}: no {part} in {}{}", said.out, said.err);
        let svg = screen::draw(&format!("barewire {line}"), &said.out);
        ensure!(svg.contains(&format!("$ barewire {line}")), "{svg}");
        keep(name, &svg)?;
    }
    Ok(())
}

fn draw_boards(host: &Host, duration: Duration) -> Result<()> {
    for name in ["node", "cluster", "addresses"] {
        let text = fs::read_to_string(monitoring::deployed(&format!("dashboards/{name}.json")))?;
        let board = Board::read(&serde_json::from_str(&text)?).with_context(|| format!("dashboard {name}"))?;
        let board = board.answered(|query| monitoring::ask_range(host, query, duration))?;
        // Where there is no cloud, panels about one have nothing to tell.
        ensure!(board.told() >= 2, "{name}: only {} panels have something to tell", board.told());
        let svg = board.draw().map_err(|error| anyhow!("dashboard {name}: {error}"))?;
        // As far as nothing in it is written otherwise in XML.
        let mut titles = board.titles().map(|title| title.split('\'').next().unwrap_or_default());
        ensure!(titles.all(|title| svg.contains(title)), "{name}: a panel is missing");
        keep(&format!("dashboard-{name}.svg"), &svg)?;
    }
    Ok(())
}
