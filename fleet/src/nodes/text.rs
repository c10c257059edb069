//! The same for people. Pure.

use std::fmt::Write as _;

use fleet_plans::health::{Budgets, Explanation, Millis, Standing};
use k8s_openapi::jiff::Timestamp;

/// A moment, as RFC 3339 has it.
#[must_use]
pub fn time(at: Millis) -> String {
    let at = i64::try_from(at).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    at.map_or_else(|| "?".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// How long ago, in its largest unit.
fn age(since: Millis, now: Millis) -> String {
    age_of(now.saturating_sub(since))
}

/// So long, in its largest unit.
pub(crate) fn age_of(span: Millis) -> String {
    let seconds = span / 1_000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A head and rows, each column as wide as it has to be.
pub(crate) fn columns<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    rows.iter().fold(String::new(), |mut text, row| {
        let line: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
        text
    })
}

/// One line a node, and how many there are in all.
#[must_use]
pub fn table(standings: &[Standing], of: usize, now: Millis) -> String {
    let row = |it: &Standing| {
        let since = it.since.map_or_else(|| "-".to_owned(), |since| age(since, now));
        let mut checks = it.checks().join(",");
        if let Some(quarantine) = &it.quarantine {
            checks = if quarantine.reason.is_empty() {
                format!("by {}", quarantine.by)
            } else {
                format!("by {}: {}", quarantine.by, quarantine.reason)
            };
        }
        [
            it.node.clone(),
            it.stage.to_owned(),
            since,
            it.relapses.len().to_string(),
            if checks.is_empty() { "-".to_owned() } else { checks },
        ]
    };
    let mut text = if standings.is_empty() {
        String::new()
    } else {
        columns(["NODE", "STAGE", "SINCE", "RELAPSES", "WHY"], standings.iter().map(row))
    };
    let well = of - standings.iter().filter(|it| it.stage != "well").count();
    let _ = writeln!(text, "{well} of {of} nodes are well");
    text
}

/// One node, with its evidence and what comes next.
#[must_use]
pub fn explanation(told: &Explanation, now: Millis) -> String {
    let Explanation { standing, budgets, leader: _, next } = told;
    let Standing { node, stage, since, evidence, relapses, quarantine } = standing;
    let mut text = format!("{node}: {stage}");
    if let Some(since) = since {
        let _ = write!(text, " since {} ({})", time(*since), age(*since, now));
    }
    text.push('\n');
    if let Some(quarantine) = quarantine {
        let _ =
            writeln!(text, "  by {}: {}", quarantine.by, if quarantine.reason.is_empty() { "no reason given" } else { &quarantine.reason });
    }
    for seen in evidence {
        let _ = writeln!(text, "  seen: {seen}");
    }
    if !relapses.is_empty() {
        let times: Vec<_> = relapses.iter().map(|at| time(*at)).collect();
        let _ = writeln!(text, "  sick {} times lately: {}", times.len(), times.join(", "));
    }
    let Budgets { pool, pool_tainted, pool_most, tainted, most, breaker } = budgets;
    let _ = writeln!(
        text,
        "  budgets: pool {pool:?} {pool_tainted} of {pool_most} newly tainted, {tainted} of {most} in all; the breaker trips above {breaker}"
    );
    text.push_str("next\n");
    for sentence in next {
        let _ = writeln!(text, "  {sentence}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fleet_plans::health::{Quarantine, Record, Settings, Stage, explain, stamp};
    use fleet_plans::node::Node;

    use super::*;

    #[test]
    fn a_person_reads_who_is_sick_since_when_and_why() {
        let now = 1_700_000_000_000;
        let node = |name: &str| Node { name: name.to_owned(), ..Node::default() };
        let record = Record { stage: Stage::Draining, since: now - 600_000, evidence: vec!["uplink: no carrier".to_owned()] };
        let sick = stamp(&record, &[now - 900_000]).applied_to(&node("n1"));
        let mine = Quarantine::new("ann", "a fan", now - 30_000).unwrap().put(&node("n2")).applied_to(&node("n2"));
        let nodes: BTreeMap<_, _> = [sick, mine, node("n3")].into_iter().map(|node| (node.name.clone(), node)).collect();
        let lines = super::super::standings(&nodes, now, false);
        assert_eq!(
            table(&lines, nodes.len(), now),
            "NODE  STAGE        SINCE  RELAPSES  WHY\n\
             n1    draining     10m    1         uplink\n\
             n2    quarantined  30s    0         by ann: a fan\n\
             1 of 3 nodes are well\n"
        );
        assert_eq!(table(&[], 3, now), "3 of 3 nodes are well\n");
        let told = explain(&nodes["n1"], &nodes, None, now, &Settings::default(), time);
        let text = explanation(&told, now);
        for part in [
            "n1: draining since 2023-11-14T22:03:20Z (10m)\n  seen: uplink: no carrier\n  sick 1 times lately: 2023-11-14T21:58:20Z\n",
            "next\n  Its pods are evicted",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
