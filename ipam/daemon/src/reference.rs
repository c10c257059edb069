//! The tables of docs that say what the code says: configuration keys, conditions, metrics. `cargo xtask docs` writes them.
//!
//! Each is made of what the daemon itself goes by, so that no second list of the same things can differ.

use std::fmt::Write as _;

use datapath::fast_path::Reason;
use datapath::repairs;

use crate::conditions::Kind;
use crate::config::keys::{Absent, KEYS, Key};
use crate::http::metrics::{self, Declared, PREFIX};

use crate::health::PreflightState;
use crate::health_check::{Check, Verdict};
use crate::http::{ADDRESS_STATES, API_MODES, BLOCK_STATES, DIRECTIONS, SCOPES};
use crate::latencies::{AddRefusal, Operation};

/// Each section by the name that its marker has, in Markdown.
#[must_use]
pub fn sections() -> [(&'static str, String); 4] {
    [
        ("configuration keys of barewired", configuration()),
        ("conditions", conditions()),
        ("metrics of barewired", served()),
        ("values of labels", values()),
    ]
}

fn configuration() -> String {
    let mut text = "| key | type | default | meaning |\n|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let Key { name, form, absent, meaning, .. } = key;
        let absent = match absent {
            Absent::Is(value) => format!("`{value}`"),
            Absent::Said(words) => words.to_owned(),
        };
        let only_for = key.only_for().map(|sources| format!("{sources}: ")).unwrap_or_default();
        let _infallible = writeln!(text, "| `{name}` | {form} | {absent} | {only_for}{meaning} |");
    }
    text
}

fn conditions() -> String {
    let mut text = "| type | what holds | new pods | STATUS |\n|---|---|---|---|\n".to_owned();
    for kind in Kind::ALL {
        let (name, meaning) = (kind.as_str(), kind.meaning());
        let _infallible = writeln!(text, "| `{name}` | {} | {} | {} |", meaning.holds, meaning.new_pods, meaning.status);
    }
    text
}

fn served() -> String {
    let mut text = String::new();
    for (when, metrics) in metrics::declared() {
        let _infallible = writeln!(text, "### {when}\n\n| metric | type | unit | labels | HELP |\n|---|---|---|---|---|");
        for metric in metrics {
            let Declared { name, kind, labels, help } = metric;
            let total = if kind == "counter" { "_total" } else { "" };
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = labels.join(", ");
            let _infallible = writeln!(text, "| `{PREFIX}_{name}{total}` | {kind} | {} | {labels} | {help} |", unit(name));
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

/// The last word of a name, where it is a unit.
fn unit(name: &str) -> &str {
    let last = name.rsplit('_').next().unwrap_or_default();
    if ["seconds", "bytes", "packets"].contains(&last) { last } else { "" }
}

fn reasons(drops: bool) -> Vec<&'static str> {
    Reason::ALL.into_iter().filter(|(reason, _)| reason.drops() == drops).map(|(_, name)| name).collect()
}

fn values() -> String {
    let rows: [(&str, &str, Vec<&str>); 13] = [
        ("addresses", "state", ADDRESS_STATES.to_vec()),
        ("adds_refused_total", "reason", AddRefusal::ALL.map(|(_, name)| name).to_vec()),
        ("repairs_total", "kind", repairs::Kind::ALL.map(|(_, name)| name).to_vec()),
        ("operations_total", "operation", Operation::ALL.map(|(_, name)| name).to_vec()),
        ("packets_total", "direction", DIRECTIONS.to_vec()),
        ("packets_total", "scope", SCOPES.to_vec()),
        ("fast_path_dropped_total", "reason", reasons(true)),
        ("fast_path_passed_to_stack_total", "reason", reasons(false)),
        ("cloud_api_mode", "mode", API_MODES.to_vec()),
        ("cloud_blocks", "state", BLOCK_STATES.to_vec()),
        ("health_check", "check", Check::ALL.map(|(_, name)| name).to_vec()),
        ("health_check", "result", Verdict::RESULTS.to_vec()),
        ("health_preflight", "state", PreflightState::ALL.map(|(_, name)| name).to_vec()),
    ];
    let mut text = "| metric | label | values |\n|---|---|---|\n".to_owned();
    for (metric, label, values) in rows {
        let values: Vec<_> = values.into_iter().map(|value| format!("`{value}`")).collect();
        let _infallible = writeln!(text, "| `{PREFIX}_{metric}` | `{label}` | {} |", values.join(", "));
    }
    text
}
