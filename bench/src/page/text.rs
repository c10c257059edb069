//! The words, tables and charts of the page.

use std::fmt::{self, Write as _};

use anyhow::{Context, Result};

use crate::datapath::cluster::Contender;
use crate::datapath::findings::{OWN, Part, RATIOS, ROWS_BEHIND_BRIDGE, Row, median};
use crate::datapath::measures;
use crate::datapath::rules::Rules;
use crate::page::Runs;
use crate::page::chart::{Bar, Chart, Group};
use crate::page::run::{Judged, Run};

const ACROSS: [Contender; 7] =
    [Contender::Bare, Contender::Host, Contender::FastPath, Contender::Stack, Contender::Cilium, Contender::Bridge, Contender::Overlay];
const ON_ONE: [Contender; 6] =
    [Contender::Floor, Contender::FastPath, Contender::Stack, Contender::Cilium, Contender::Bridge, Contender::Overlay];
const FULL: [Contender; 2] = [Contender::FastPath, Contender::Loaded];

/// What, Barewire's figure, the reference's, the floor's.
type RowOfAdd = (&'static str, &'static str, Option<&'static str>, Option<&'static str>);

const OF_ADD: [RowOfAdd; 9] = [
    ("start and end of the program (VERSION), p50, ms", "exec_p50_ms", None, Some("exec_floor_p50_ms")),
    ("ADD, exec of the plugin included, p50, ms", "add_p50_ms", Some("reference_add_p50_ms"), Some("true_floor_p50_ms")),
    ("ADD, p99, ms", "add_p99_ms", Some("reference_add_p99_ms"), None),
    ("ADD with an address of each family, p50, ms", "add_dual_p50_ms", None, None),
    ("DEL until the answer, p50, ms", "del_p50_ms", Some("reference_del_p50_ms"), None),
    ("DEL until the link is gone, a pod in blocks of 25, ms", "del_settled_ms", Some("reference_del_settled_ms"), None),
    ("memory of the daemon with 1,000 pods, MB", "daemon_rss_mb_at_1000", None, None),
    ("ADD with 1,000 pods on the node, p50, ms", "add_p50_ms_at_1000", None, Some("true_floor_p50_ms_at_1000")),
    ("durable commit, p99, µs", "commit_p99_us", None, None),
];

/// Of ADDs at once.
const OF_BURST: [RowOfAdd; 4] = [
    ("100 ADDs at once, p99, ms", "burst100_p99_ms", Some("reference_burst100_p99_ms"), None),
    ("100 ADDs at once, p50, ms", "burst100_p50_ms", Some("reference_burst100_p50_ms"), None),
    ("the same beside 40 busy processes, p99, ms", "busy_add_p99_ms", Some("reference_busy_add_p99_ms"), None),
    ("the same beside 40 busy processes, p50, ms", "busy_add_p50_ms", Some("reference_busy_add_p50_ms"), None),
];

/// Promises of ADD and DEL, in the order of `barewire-bench add`.
const PROMISES_OF_ADD: [&str; 9] = [
    "exec_vs_floor",
    "plugin_bytes",
    "add_vs_reference",
    "add_vs_true_floor",
    "add_vs_true_floor_at_1000",
    "del_vs_reference",
    "commit_p99_us",
    "add_at_1000_vs_add",
    "daemon_rss_mb_at_1000",
];

/// Promises of ADDs at once, in the order of `barewire-bench burst`.
const PROMISES_OF_BURST: [&str; 4] = ["burst100_vs_reference", "busy_add_vs_reference", "busy_add_p99_ms", "failures"];

/// The page.
pub(super) fn page(runs: &Runs) -> Result<String> {
    let Runs { datapath, add, burst } = runs;
    let mut page = Page::default();
    page.line("# Benchmarks");
    page.line("<!-- Written by `cargo xtask bench report` from the runs in benchmarks/: do not edit. -->");
    page.line(
        "Measured by `cargo xtask bench datapath`, `bench add` and `bench burst`; written by `cargo xtask bench report` from the runs in\n\
         [benchmarks/](benchmarks), which have the figures of every round. Absolute figures are this machine's; the ratios say more.",
    );
    page.line("## Pod traffic");
    machine(&mut page, datapath)?;
    page.line("![Throughput, latency, connections and packets across nodes](benchmarks/across-nodes.svg)");
    page.line("### What is promised");
    promises(&mut page, datapath);
    page.line("### How it is measured");
    page.line(HOW);
    page.line("### Across nodes");
    table(&mut page, datapath, Part::Across, &ACROSS);
    page.line("### Nodes by their rules");
    page.line(
        "The nodes themselves, with kube-proxy's rules for so many ports of services. A ratio against nodes says as much about their rules\n\
         as about Barewire, whose packets pass none: hence the ratios against *bare* nodes above.",
    );
    by_rules(&mut page, datapath);
    page.line("![CPU seconds for a gigabyte](benchmarks/cpu-per-gigabyte.svg)");
    page.line("### On one node");
    table(&mut page, datapath, Part::OnOneNode, &ON_ONE);
    page.line("![The same between two pods of a node](benchmarks/on-one-node.svg)");
    page.line("### A full node");
    page.line(
        "1,000 pods by real ADDs, and 100,000 flows through services, all noted by the kernel programs: every packet of the pods that\n\
         are measured is looked up. The full node and an empty one take turns, pair by pair.",
    );
    table(&mut page, datapath, Part::FullNode, &FULL);
    page.line("### The kernel programs");
    own(&mut page, datapath);
    page.line("### How to read it");
    page.line(REMARKS);
    if let Some(run) = add {
        page.line("## ADD and DEL");
        machine(&mut page, run)?;
        of_add(&mut page, run, &OF_ADD, &PROMISES_OF_ADD);
        page.line("![CPU time of the plugin and of the daemon's workers](benchmarks/add-flame-graph.svg)");
        page.line("Before the plugin started by itself: [add-flame-graph-before.svg](benchmarks/add-flame-graph-before.svg).");
    }
    if let Some(run) = burst {
        page.line("## Many ADDs at once");
        machine(&mut page, run)?;
        of_add(&mut page, run, &OF_BURST, &PROMISES_OF_BURST);
    }
    page.line("## Beside an earlier version");
    page.line(AGAINST);
    Ok(page.0)
}

const HOW: &str = "\
- Each contender has two nodes and a fabric of its own, in network namespaces; all are up at once. Nodes carry connection tracking
  and the rules of 300 ports of services, in the form and order in which kube-proxy writes them in its iptables mode.
- *Bare nodes*: from node to node over the same fabric, without pods, rules or connection tracking: the strongest peer. *Nodes*: the
  same with connection tracking and rules. *Stack*: Barewire with `fast_path = \"off\"`,
  where nftables rules keep the accounts by pod and scope that the programs keep otherwise; some two microseconds are theirs.
  *Bridge*: the reference plugins `bridge` and `host-local`, routed between nodes. *Overlay*: Flannel itself, `flanneld` with its VXLAN
  backend and its rules, and the plugins that its own passes on to. *Cilium*: its agent and its plugin, native routing, eBPF host routing and
  masquerade; it replaces kube-proxy, and knows the same services. *Veth*: two namespaces on one veth, the least that two pods of a node need.
- A round measures each figure of each contender once, in an order that rotates. A figure is the median of the rounds, beside it
  the least and the most; a ratio is taken round by round, then its median.
- Latency (half a round trip of one byte), connections: both ends on one processor, so that latency is what the path costs and not
  how long a sleeping processor takes to wake. One stream and packets: an end on each processor. Eight streams: free.
- CPU seconds are those of the whole machine, by its own account, for a gigabyte (10⁹ bytes) that arrived.
- Nanoseconds of kernel programs are by the kernel's account (`kernel.bpf_stats_enabled`), less what it shows for a program that
  returns at once under the same load in the same run.";

const REMARKS: &str = "\
- Pods can be faster than the nodes they run on. What a node sends and receives itself passes connection tracking and the rules of
  `OUTPUT` and `INPUT`; what the fast path carries passes neither. A new connection of a node goes through the list of services, so
  connections show it most. Bare nodes lead, by what a pod's veth costs.
- A pod's packets to a service, to the internet or to its own node take the stack: for them the column *stack* holds.
- Both nodes, the fabric and both ends share this machine's processors. Throughput is bound by them, not by a wire, so what a path
  costs shows fully. Where a wire is the limit, the contenders meet at the wire and differ in CPU seconds.
- A figure of the overlay includes what it asks of the kernel: two routes and two headers for every packet, and the rules for both.
- One machine, one kernel. The command takes six minutes; run it on yours.";

const AGAINST: &str = "\
`cargo xtask bench against v0.1.0` builds what nodes ran at a revision and measures it and this one in turns, with the same programs that
measure; whoever goes first in a turn goes second in the next. A ratio is now by then, taken turn by turn, then its median. Without `--full`
it has fewer pods, one contender and 1,500 simulated nodes, and takes ten minutes at most once both are built (`--rounds` makes it shorter);
with `--full` it has every figure above. Eight figures of which less is better must be at most 1.05 of what they were:

| | |
| --- | --- |
| `add` | ADD and DEL, p50 |
| `datapath` | TCP ping-pong of pods, across nodes and on one |
| `scale` | time to join, the longest wait of a pod, calls a node and hour, memory of a pool |

The simulation has one turn: the same seed is the same history. On a machine with other work latencies differ by more than that between
two runs of the same version; ask for more turns there.";

fn machine(page: &mut Page, run: &Run) -> Result<()> {
    let mut line = format!("*{}", run.text("what"));
    if !run.text("processor").is_empty() {
        line += &format!(" ({})", run.text("processor"));
    }
    let noise = run.number("noise_percent").context("a run without `noise_percent`")?;
    page.line(&format!("{line}; others used {} % of the CPU time just before.*", Short(noise)));
    Ok(())
}

fn promises(page: &mut Page, run: &Run) {
    let ours = OWN.iter().filter(|own| own.limits.is_some()).map(|own| own.key);
    let keys = RATIOS.iter().map(|ratio| ratio.key).chain([ROWS_BEHIND_BRIDGE]).chain(ours);
    let rows: Vec<_> = keys.filter_map(|key| judged_row(run, key)).collect();
    page.table(&["promise", "key", "measured", "must", "aim"], &rows);
}

fn judged_row(run: &Run, key: &str) -> Option<Vec<String>> {
    Some(match (run.judged(key), run.skipped(key)) {
        (Some(Judged { promise, value, must, is_kept, aim }), _) => {
            let must = format!("{must} {}", if is_kept { "✓" } else { "✗ missed" });
            let aim = aim.map_or_else(String::new, |(aim, is_met)| format!("{aim} {}", if is_met { "✓" } else { "not yet" }));
            vec![promise, format!("`{key}`"), format!("**{value}**"), must, aim]
        }
        (None, Some(reason)) => vec![reason.to_owned(), format!("`{key}`"), "not measured".to_owned(), String::new(), String::new()],
        (None, None) => return None,
    })
}

/// What rules cost the nodes themselves.
fn by_rules(page: &mut Page, run: &Run) {
    let nodes: Vec<_> = [Contender::Bare, Contender::Host].into_iter().chain(Contender::RULED).collect();
    let rows = measures::MEASURES.iter().filter(|measure| nodes.iter().all(|nodes| measure.is_of(*nodes))).map(|measure| {
        let cells = nodes.iter().map(|nodes| cell(run.rounds(measure.row.key, Some(*nodes))));
        std::iter::once(format!("{}, {}", measure.row.meaning, unit(measure.row))).chain(cells).collect()
    });
    let header: Vec<_> = nodes.iter().map(|nodes| name(*nodes, Part::Across)).collect();
    let header: Vec<_> = std::iter::once("").chain(header.iter().map(String::as_str)).collect();
    page.table(&header, &rows.collect::<Vec<_>>());
}

fn table(page: &mut Page, run: &Run, part: Part, contenders: &[Contender]) {
    let rows = measures::rows().filter(|row| row.part == part).filter_map(|row| {
        let cells: Vec<_> = contenders.iter().map(|contender| cell(run.rounds(row.key, Some(*contender)))).collect();
        let is_measured = cells.iter().any(|cell| !cell.is_empty());
        is_measured.then(|| [vec![format!("{}, {}", row.meaning, unit(row))], cells].concat())
    });
    let names: Vec<_> = contenders.iter().map(|contender| name(*contender, part)).collect();
    let header: Vec<_> = std::iter::once("").chain(names.iter().map(String::as_str)).collect();
    page.table(&header, &rows.collect::<Vec<_>>());
}

fn own(page: &mut Page, run: &Run) {
    let rows: Vec<_> = OWN.iter().map(|own| vec![own.meaning.to_owned(), cell(run.rounds(own.key, None))]).collect();
    page.table(&["", "Barewire"], &rows);
}

fn of_add(page: &mut Page, run: &Run, rows: &[RowOfAdd], promises: &[&str]) {
    let figure = |key: Option<&str>| key.and_then(|key| run.number(key)).map_or_else(String::new, |value| Short(value).to_string());
    let rows: Vec<_> = rows
        .iter()
        .map(|(what, ours, reference, floor)| vec![(*what).to_owned(), figure(Some(ours)), figure(*reference), figure(*floor)])
        .collect();
    page.table(&["", "Barewire", "`ptp` with `host-local`", "floor: an empty program and bare netlink"], &rows);
    let rows: Vec<_> = promises.iter().filter_map(|key| judged_row(run, key)).collect();
    page.table(&["promise", "key", "measured", "must", "aim"], &rows);
}

/// The median, and the least and the most of several rounds.
fn cell(rounds: Vec<f64>) -> String {
    let (least, most) = (rounds.iter().copied().fold(f64::INFINITY, f64::min), rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    match (median(rounds), least < most) {
        (None, _) => String::new(),
        (Some(median), false) => Short(median).to_string(),
        (Some(median), true) => format!("{} ({}–{})", Short(median), Short(least), Short(most)),
    }
}

fn name(contender: Contender, part: Part) -> String {
    let name = match contender {
        Contender::Ruled(Rules::Iptables(ports)) => return format!("{ports} ports, iptables"),
        Contender::Ruled(Rules::Nftables(ports)) => return format!("{ports} ports, nftables"),
        Contender::Bare => "bare nodes",
        Contender::Host => "nodes",
        Contender::FastPath if part == Part::FullNode => "empty node",
        Contender::FastPath => "**Barewire**",
        Contender::Loaded => "full node",
        Contender::Stack => "stack",
        Contender::Bridge => "bridge",
        Contender::Overlay => "overlay",
        Contender::Cilium => "Cilium",
        Contender::Floor => "veth",
        Contender::Served => "services by programs",
        Contender::Proxied => "services by kube-proxy",
    };
    name.to_owned()
}

fn unit(row: Row) -> &'static str {
    const UNITS: [(&str, &str); 5] =
        [("_us", "µs"), ("_cpu_s_per_gb", "s/GB"), ("_per_s", "a second"), ("_gbit", "Gbit/s"), ("_pps", "a second")];
    UNITS.iter().find(|(end, _)| row.key.ends_with(end)).map_or("", |(_, unit)| unit)
}

/// The charts, by the names of their files.
pub(super) fn charts(run: &Run) -> [(&'static str, Chart); 3] {
    const OF_ONE: [(&str, &str); 4] = [
        ("stream", "One TCP stream"),
        ("rr", "TCP ping-pong latency"),
        ("crr", "Connect, request, response, close"),
        ("udp", "64-byte UDP packets"),
    ];
    let groups = |part: Part, contenders: &[Contender]| -> Vec<Group> {
        let of_row = |(subject, heading): (&str, &str)| {
            let row = measures::rows().find(|row| row.part == part && row.key.split('_').next() == Some(subject))?;
            Some(Group { heading: heading.to_owned(), bars: bars(run, row, contenders) })
        };
        OF_ONE.into_iter().filter_map(of_row).collect()
    };
    let cpu = measures::rows().filter(|row| row.key.ends_with("_cross_cpu_s_per_gb")).map(|row| {
        let heading = if row.key.starts_with("stream8") { "Eight TCP streams" } else { "One TCP stream" };
        let costs = ACROSS.into_iter().filter_map(|contender| {
            let cost = median(run.rounds(row.key, Some(contender)))?;
            Some(bar(contender, cost, format!("{} s", Short(cost))))
        });
        Group { heading: heading.to_owned(), bars: costs.collect() }
    });
    [
        (
            "across-nodes.svg",
            Chart {
                title: "Pod to pod across nodes".to_owned(),
                scale: "Share of what nodes without pods and rules reach, by rounds. Longer is better, for latency too.".to_owned(),
                groups: groups(Part::Across, &ACROSS),
            },
        ),
        (
            "on-one-node.svg",
            Chart {
                title: "Pod to pod on one node".to_owned(),
                scale: "Share of what a bare veth between two namespaces reaches, by rounds. Longer is better, for latency too.".to_owned(),
                groups: groups(Part::OnOneNode, &ON_ONE),
            },
        ),
        (
            "cpu-per-gigabyte.svg",
            Chart {
                title: "CPU seconds for a gigabyte across nodes".to_owned(),
                scale: "Of the whole machine: both ends, both nodes and the fabric. Shorter is better.".to_owned(),
                groups: cpu.collect(),
            },
        ),
    ]
}

/// Each contender by the first one.
fn bars(run: &Run, row: Row, contenders: &[Contender]) -> Vec<Bar> {
    let of = |contender: Contender| {
        let ratio = run.ratio(row.key, contender, contenders[0])?;
        let share = if row.less_is_better { ratio.recip() } else { ratio };
        let figure = median(run.rounds(row.key, Some(contender)))?;
        let unit = unit(row).replace("a second", "/s");
        Some(bar(contender, share, format!("{} {unit} · {:.0} %", Short(figure), share * 100.0)))
    };
    contenders.iter().copied().filter_map(of).collect()
}

fn bar(contender: Contender, length: f64, value: String) -> Bar {
    let name = match contender {
        Contender::Bare => "bare nodes",
        Contender::Host | Contender::Ruled(_) => "nodes with rules",
        Contender::FastPath => "Barewire",
        Contender::Loaded => "Barewire, full node",
        Contender::Stack => "Barewire, fast path off",
        Contender::Bridge => "bridge, routed",
        Contender::Overlay => "Flannel, VXLAN",
        Contender::Cilium => "Cilium, native routing",
        Contender::Floor => "one bare veth",
        Contender::Served => "Barewire that serves Services",
        Contender::Proxied => "Barewire beside kube-proxy",
    };
    Bar { name: name.to_owned(), length, value, is_ours: contender == Contender::FastPath }
}

/// Three significant digits, and commas between thousands.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value: f64 = format!("{:.2e}", self.0).parse().unwrap_or(self.0);
        if value.abs() < 1_000.0 {
            return write!(out, "{value}");
        }
        let digits = format!("{value:.0}");
        let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |digits| ("-", digits));
        let grouped: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
        write!(out, "{sign}{}", grouped.join(","))
    }
}

/// Paragraphs and tables.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        // Writing to a string cannot fail.
        let _written = writeln!(self.0, "{gap}{text}");
    }

    fn table(&mut self, header: &[&str], rows: &[Vec<String>]) {
        let rule = vec!["---"; header.len()];
        let lines = [header.join(" | "), rule.join(" | ")].into_iter().chain(rows.iter().map(|row| row.join(" | ")));
        let lines: Vec<_> = lines.map(|line| format!("| {line} |")).collect();
        self.line(&lines.join("\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_told_and_thousands_are_grouped() {
        let short = |value| Short(value).to_string();
        assert_eq!([short(8.864), short(0.018_79), short(0.0), short(35.0)], ["8.86", "0.0188", "0", "35"]);
        assert_eq!([short(166_649.0), short(1_000_000.0), short(-1_234.0), short(999.9)], ["167,000", "1,000,000", "-1,230", "1,000"]);
    }

    #[test]
    fn a_cell_has_the_median_and_the_range_of_several_rounds() {
        assert_eq!(cell(vec![3.0, 1.0, 2.0]), "2 (1–3)");
        assert_eq!(cell(vec![2.0]), "2");
        assert_eq!(cell(Vec::new()), "");
    }

    #[test]
    fn latency_counts_the_other_way_round() {
        let run =
            Run::parse(r#"{"what":"","verdicts":{},"rounds":{"rr_cross_us":{"bare":[10],"fast_path":[20],"overlay":[40]}}}"#).unwrap();
        let [(_, across), ..] = charts(&run);
        let bars: Vec<_> = across.groups[1].bars.iter().map(|bar| (bar.value.as_str(), bar.is_ours)).collect();
        assert_eq!(bars, [("10 µs · 100 %", false), ("20 µs · 50 %", true), ("40 µs · 25 %", false)]);
    }

    #[test]
    fn a_promise_shows_whether_it_is_kept_and_one_that_was_not_measured_why() {
        let verdict = r#"{"promise":"p","value":1.2,"must":"≤ 1.15","pass":false,"aim":"≤ 1.05","aim_met":false}"#;
        let run = Run::parse(&format!(r#"{{"what":"","verdicts":{{"a":{verdict}}},"skipped":{{"b":"no kernel"}}}}"#)).unwrap();
        assert_eq!(judged_row(&run, "a").unwrap(), ["p", "`a`", "**1.2**", "≤ 1.15 ✗ missed", "≤ 1.05 not yet"]);
        assert_eq!(judged_row(&run, "b").unwrap()[..3], ["no kernel", "`b`", "not measured"]);
        assert_eq!(judged_row(&run, "c"), None);
    }
}
