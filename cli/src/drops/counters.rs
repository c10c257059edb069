//! Packets by reason, from one page of counters or two. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::exit::Exit;
use crate::inventory::Told;
use crate::reasons::{drops, meaning};
use crate::table::Table;

/// What one page of counters says, with rates where there is an older one. Reasons for which nothing was counted are left out.
pub(crate) fn told(page: &Value, before: Option<&Value>, all: bool) -> Told {
    let counters = counters(page);
    let millis = |page: &Value| page["at_millis"].as_u64().unwrap_or_default();
    let rates: BTreeMap<_, _> = match before {
        None => BTreeMap::new(),
        Some(before) => {
            let (old, seconds) = (self::counters(before), millis(page).saturating_sub(millis(before)).max(1) as f64 / 1000.0);
            let rate = |(name, now): (&String, &u64)| {
                (name.clone(), now.saturating_sub(old.get(name).copied().unwrap_or_default()) as f64 / seconds)
            };
            counters.iter().map(rate).collect()
        }
    };
    let mut rows: Vec<_> = counters.iter().filter(|(name, packets)| **packets > 0 && (all || drops(name))).collect();
    rows.sort_by_key(|(name, packets)| (!drops(name), std::cmp::Reverse(**packets)));
    let mut table = Table::new(&["REASON", "OUTCOME", ">PACKETS", ">pkt/s", "MEANING"]);
    let mut list = Vec::new();
    for (name, packets) in rows {
        let outcome = if drops(name) { "dropped" } else { "slow path" };
        let rate = rates.get(name);
        table.row([
            name.clone(),
            outcome.to_owned(),
            packets.to_string(),
            rate.map(|rate| format!("{rate:.1}")).unwrap_or_default(),
            meaning(name).to_owned(),
        ]);
        list.push(json!({ "reason": name, "outcome": outcome, "packets": packets, "packets_per_second": rate, "meaning": meaning(name) }));
    }
    let text = if list.is_empty() { "no packet was dropped since the programs were loaded\n".to_owned() } else { table.text() };
    (text, Value::Array(list), Exit::Fine)
}

fn counters(page: &Value) -> BTreeMap<String, u64> {
    let counted = page["not_carried"].as_object().into_iter().flatten();
    counted.map(|(name, packets)| (name.clone(), packets.as_u64().unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_come_first_and_slow_packets_where_asked_for() {
        let page = |at: u64, spoofed: u64| json!({ "at_millis": at, "not_carried": { "spoofed_address": spoofed, "not_native": 500, "fragment": 0 } });
        let (text, list, _) = told(&page(1_000, 4), None, false);
        assert!(text.contains("spoofed_address") && !text.contains("not_native"), "{text}");
        assert_eq!(list[0]["packets_per_second"], Value::Null);
        let (text, list, _) = told(&page(3_000, 24), Some(&page(1_000, 4)), true);
        assert_eq!(
            (&list[0]["reason"], &list[0]["packets_per_second"], &list[1]["reason"]),
            (&json!("spoofed_address"), &json!(10.0), &json!("not_native"))
        );
        assert!(!text.contains("fragment"), "{text}");
        assert!(told(&json!({}), None, true).0.starts_with("no packet"));
    }
}
