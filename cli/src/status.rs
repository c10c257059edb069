//! `barewire status`: what is wrong first, each with its remedy, then what there is.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::daemon::{AskError, Daemon};
use crate::exit::Exit;
use crate::table::{Table, count};

/// Between looks, where a ready node is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the daemon tells of its node. A page of an older daemon lacks some of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    node: String,
    version: String,
    ready: bool,
    reason: Option<String>,
    conditions: Vec<Condition>,
    attachments: u64,
    addresses: BTreeMap<String, Addresses>,
    network_list: NetworkList,
    slow_path: Vec<String>,
    limits: Option<Limits>,
    fleet: Option<Fleet>,
    services: Option<Services>,
}

/// How limits of bandwidth are kept, where programs keep any.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Limits {
    by: String,
    why: String,
}

/// The Services that the node serves, where it does.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Services {
    applied: bool,
    services: u64,
    endpoints: u64,
    translated_ports: u64,
    problems: Vec<String>,
}

/// How the node stands with the fleet, where it has one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fleet {
    replica: Option<String>,
    age_seconds: Option<f64>,
    last_error: Option<String>,
    file_error: Option<String>,
    tables: BTreeMap<String, FleetTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FleetTable {
    entries: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    reason: String,
    message: String,
    remedy: String,
    since: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Addresses {
    size: u64,
    free: u64,
    held: u64,
    cooling: u64,
    quarantined: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NetworkList {
    file: String,
    stands: bool,
    cni_versions: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FastPath {
    uplinks: Vec<Uplink>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Uplink {
    uplink: String,
    kind: String,
    open: bool,
    why: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Supply {
    api_mode: String,
    budget: Budget,
    warnings: Vec<String>,
    waiting: u64,
    interfaces: Vec<Value>,
    blocks: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Budget {
    tokens: u64,
    wait_seconds: u64,
}

/// All pages that the command is made of.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    status: Value,
    fast_path: Value,
    supply: Value,
}

impl Pages {
    fn read(daemon: Daemon) -> Result<Self, AskError> {
        Ok(Self { status: daemon.json("/status")?, fast_path: daemon.json("/debug/fast_path")?, supply: daemon.json("/debug/supply")? })
    }

    /// Reads them; where `wait` says so, again until the node is ready or that time is over.
    pub(crate) fn wait(daemon: Daemon, wait: Option<Duration>) -> Result<Self, AskError> {
        let until = Instant::now() + wait.unwrap_or_default();
        loop {
            let pages = Self::read(daemon);
            let is_ready = pages.as_ref().is_ok_and(|pages| pages.exit() < Exit::NotReady);
            let left = until.saturating_duration_since(Instant::now());
            if is_ready || left.is_zero() {
                return pages;
            }
            std::thread::sleep(LOOK_EVERY.min(left));
        }
    }

    /// What the exit code says.
    pub(crate) fn exit(&self) -> Exit {
        let status = part::<Status>(&self.status);
        match (status.ready, status.conditions.is_empty()) {
            (false, _) => Exit::NotReady,
            (true, false) => Exit::Degraded,
            (true, true) => Exit::Fine,
        }
    }

    /// The daemon's own words, in one object.
    pub(crate) fn json(&self) -> Value {
        json!({ "status": self.status, "fast_path": self.fast_path, "supply": self.supply })
    }

    /// The daemon's version.
    pub(crate) fn version_of(status: &Value) -> String {
        let Status { node, version, .. } = part(status);
        format!("barewired {version} on {node}")
    }

    /// One line, for a greeting at login or a problem detector.
    pub(crate) fn short(&self) -> String {
        let Status { ready, reason, conditions, attachments, addresses, .. } = part(&self.status);
        let mut line = if ready { "ready".to_owned() } else { format!("NOT READY ({})", reason.unwrap_or_default()) };
        let _ = write!(line, "; {attachments} pods");
        for (family, Addresses { held, size, .. }) in &addresses {
            let _ = write!(line, "; {family} {held} of {} in use", count(*size));
        }
        if !conditions.is_empty() {
            let kinds: Vec<_> = conditions.iter().map(|condition| condition.kind.as_str()).collect();
            let _ = write!(line, "; problems: {}", kinds.join(", "));
        }
        line + "\n"
    }

    /// One screen.
    pub(crate) fn text(&self) -> String {
        let status: Status = part(&self.status);
        let fast_path: FastPath = part(&self.fast_path);
        let mut text = problems(&status.conditions);
        let mut line = |name: &str, what: String| {
            let _ = writeln!(text, "{name:<10} {what}");
        };
        line("NODE", format!("{}   barewired {}", status.node, status.version));
        line("READY", if status.ready { "yes".to_owned() } else { format!("NO: {}", status.reason.as_deref().unwrap_or_default()) });
        let NetworkList { file, stands, cni_versions } = &status.network_list;
        line("CNI LIST", if *stands { format!("{file}, CNI {}", cni_versions.join(", ")) } else { format!("{file} is not there yet") });
        line("PODS", format!("{} attached", status.attachments));
        for Uplink { uplink, kind, open, why } in &fast_path.uplinks {
            let state =
                if *open { "carried by the programs".to_owned() } else { format!("NOT carried: {}", why.as_deref().unwrap_or_default()) };
            line("DATAPATH", format!("{uplink} ({kind}) {state}"));
        }
        if fast_path.uplinks.is_empty() {
            line("DATAPATH", "no programs: the kernel's network stack carries everything (slow path)".to_owned());
        }
        for why in &status.slow_path {
            line("", why.clone());
        }
        if let Some(Limits { by, why }) = &status.limits {
            line("LIMITS", format!("by {}: {why}", by.replace('_', " ")));
        }
        if let Some(fleet) = &status.fleet {
            heard(fleet, &mut line);
        }
        if let Some(services) = &status.services {
            served(services, &mut line);
        }
        cloud(&self.supply, line);
        let mut table = Table::new(&["ADDRESSES", ">IN USE", ">FREE", ">COOLDOWN", ">QUARANTINED", ">TOTAL"]);
        for (family, Addresses { size, free, held, cooling, quarantined }) in &status.addresses {
            table.row([family.clone()].into_iter().chain([*held, *free, *cooling, *quarantined, *size].map(count)));
        }
        text + "\n" + &table.text()
    }
}

fn problems(conditions: &[Condition]) -> String {
    let mut text = String::new();
    if !conditions.is_empty() {
        let _ = writeln!(text, "PROBLEMS   {}", conditions.len());
    }
    for Condition { kind, reason, message, remedy, since } in conditions {
        let _ = writeln!(text, "  ‼ {kind} ({reason}), since {since}\n    {message}\n    {remedy}");
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn heard(fleet: &Fleet, mut line: impl FnMut(&str, String)) {
    let Fleet { replica, age_seconds, last_error, file_error, tables } = fleet;
    let replica = match (replica, last_error) {
        (Some(replica), _) => format!("heard by {replica}"),
        (None, why) => format!("NOT HEARD: {}", why.as_deref().unwrap_or("no replica has answered yet")),
    };
    let known: Vec<_> = tables.iter().map(|(name, table)| format!("{} {name}", count(table.entries))).collect();
    let age = age_seconds.map_or_else(|| "nothing is known".to_owned(), |age| format!("{}, {age:.0} s old", known.join(", ")));
    line("FLEET", format!("{replica}; {age}"));
    if let Some(error) = file_error {
        line("", format!("not kept: {error}"));
    }
}

fn served(services: &Services, mut line: impl FnMut(&str, String)) {
    let Services { applied, services, endpoints, translated_ports, problems } = services;
    let state = if *applied { "in force" } else { "NOT in force" };
    line("SERVICES", format!("{} with {} endpoints, {state}", count(*services), count(*endpoints)));
    if *translated_ports > 0 {
        line("", format!("{} ports of cluster addresses by the kernel programs", count(*translated_ports)));
    }
    for problem in problems {
        line("", problem.clone());
    }
}

fn cloud(supply: &Value, mut line: impl FnMut(&str, String)) {
    if supply.is_null() {
        return;
    }
    let Supply { api_mode, budget, warnings, waiting, interfaces, blocks } = part(supply);
    let circuit = match api_mode.as_str() {
        "normal" => "calls are made",
        "releases_paused" => "CALLS FAIL: nothing is released",
        "circuit_open" => "CALLS FAIL: only probes are made",
        other => other,
    };
    let next = if budget.wait_seconds == 0 { "now".to_owned() } else { format!("in {} s", budget.wait_seconds) };
    let calls = format!("{circuit}, {} left, the next {next}", budget.tokens);
    line("CLOUD", format!("{calls}; {} interfaces, {} prefixes; {waiting} pods wait for an address", interfaces.len(), blocks.len()));
    for warning in warnings {
        line("", warning);
    }
}

/// A page of another version may have anything where this one expects something: then that is left out.
fn part<T: Default + for<'a> Deserialize<'a>>(page: &Value) -> T {
    T::deserialize(page).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(ready: bool, conditions: &Value) -> Pages {
        let status = json!({
            "node": "n1", "version": "0.1.0", "ready": ready, "reason": if ready { Value::Null } else { json!("no uplink") },
            "conditions": conditions, "attachments": 3,
            "addresses": { "ipv4": { "size": 14, "free": 9, "held": 3, "cooling": 2, "quarantined": 0 } },
            "network_list": { "file": "/etc/cni/net.d/00-barewire.conflist", "stands": true, "cni_versions": ["1.0.0"] },
        });
        Pages { status, fast_path: json!({ "uplinks": [] }), supply: Value::Null }
    }

    #[test]
    fn problems_come_first_and_with_their_remedy() {
        let condition = json!([{ "type": "OtherNetworkList", "reason": "SortsFirst", "message": "05-x is first", "remedy": "remove it", "since": "now" }]);
        let pages = pages(true, &condition);
        assert!(
            pages
                .text()
                .starts_with("PROBLEMS   1\n  ‼ OtherNetworkList (SortsFirst), since now\n    05-x is first\n    remove it\n\nNODE")
        );
        assert_eq!(pages.exit(), Exit::Degraded);
        assert_eq!(pages.short(), "ready; 3 pods; ipv4 3 of 14 in use; problems: OtherNetworkList\n");
    }

    #[test]
    fn a_node_that_is_not_ready_says_why() {
        let pages = pages(false, &json!([]));
        assert_eq!(pages.exit(), Exit::NotReady);
        assert!(pages.text().contains("READY      NO: no uplink\n"), "{}", pages.text());
        assert!(pages.short().starts_with("NOT READY (no uplink); "), "{}", pages.short());
    }

    #[test]
    fn a_fleet_has_a_line_where_there_is_one() {
        let mut pages = pages(true, &json!([]));
        assert!(!pages.text().contains("FLEET"));
        pages.status["fleet"] = json!({ "replica": "10.0.0.1:7443", "age_seconds": 3.4, "tables": { "endpoints": { "entries": 7 }, "services": { "entries": 2 } } });
        assert!(pages.text().contains("FLEET      heard by 10.0.0.1:7443; 7 endpoints, 2 services, 3 s old\n"), "{}", pages.text());
        pages.status["fleet"] = json!({ "last_error": "closed by the replica", "file_error": "no space" });
        assert!(
            pages.text().contains("FLEET      NOT HEARD: closed by the replica; nothing is known\n           not kept: no space\n"),
            "{}",
            pages.text()
        );
    }

    #[test]
    fn services_have_a_line_where_they_are_served() {
        let mut pages = pages(true, &json!([]));
        assert!(!pages.text().contains("SERVICES"));
        pages.status["services"] =
            json!({ "applied": true, "services": 2, "endpoints": 7, "translated_ports": 3, "problems": ["service a/b: 0 is no port"] });
        let expected = "SERVICES   2 with 7 endpoints, in force\n           3 ports of cluster addresses by the kernel programs\n           service a/b: 0 is no port\n";
        assert!(pages.text().contains(expected), "{}", pages.text());
        pages.status["services"] = json!({});
        assert!(pages.text().contains("NOT in force"), "{}", pages.text());
    }

    #[test]
    fn how_limits_are_kept_is_told_with_why() {
        let mut pages = pages(true, &json!([]));
        assert!(!pages.text().contains("LIMITS"));
        pages.status["limits"] = json!({ "by": "token_buckets", "why": "eth1 has noqueue, which knows no departure times" });
        let expected = "LIMITS     by token buckets: eth1 has noqueue, which knows no departure times\n";
        assert!(pages.text().contains(expected), "{}", pages.text());
        pages.status["limits"] = json!({ "by": "departure_times", "why": "fq on eth1" });
        assert!(pages.text().contains("LIMITS     by departure times: fq on eth1\n"), "{}", pages.text());
    }

    #[test]
    fn a_page_of_another_version_is_no_ready_node() {
        let pages = Pages { status: json!([1, 2]), fast_path: Value::Null, supply: json!(7) };
        assert_eq!(pages.exit(), Exit::NotReady);
        assert!(pages.text().contains("READY      NO"));
    }
}
