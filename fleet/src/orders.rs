//! Tells nodes when their preflights are to run, with whom they measure, and who measures with them (ADR 43): what nodes' objects say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleet_api::message::{Order, Peer, Peers};
use fleet_plans::node::Node;
use fleet_plans::preflight::{self, orders};

use crate::acting::Nodes;
use crate::hub::Hub;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Where nothing has changed: a run may have become too old.
const REST: u32 = 60;

/// Tells of changes as they are seen; `key` is the taint of new nodes. Never returns.
pub async fn follow(nodes: Arc<Nodes>, hub: Arc<Hub>, key: String) {
    nodes.synced().await;
    let (mut told, mut seen) = (BTreeMap::new(), None);
    for look in 0_u32.. {
        let before = seen.filter(|_| !look.is_multiple_of(REST));
        if let Some((changes, now)) = nodes.if_changed(before, |nodes| messages(nodes, &key)) {
            seen = Some(changes);
            let news: Vec<_> = news(&told, &now);
            told = now;
            let is_news = !news.is_empty();
            hub.change(|replica| {
                news.into_iter().for_each(|(node, order)| replica.order(&node, order));
                is_news
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn news(before: &BTreeMap<String, Order>, now: &BTreeMap<String, Order>) -> Vec<(String, Option<Order>)> {
    let gone = before.keys().filter(|name| !now.contains_key(*name)).map(|name| (name.clone(), None));
    let new = now.iter().filter(|(name, order)| before.get(*name) != Some(*order));
    gone.chain(new.map(|(name, order)| (name.clone(), Some(order.clone())))).collect()
}

fn messages(nodes: &BTreeMap<String, Node>, key: &str) -> BTreeMap<String, Order> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    let addresses = |name: &String| nodes.get(name).into_iter().flat_map(|node| &node.addresses).copied().map(Peers::bytes);
    let peer = |name: String| Peer { addresses: addresses(&name).collect(), name };
    let message = |(name, order): (String, preflight::Order)| {
        let preflight::Order { waits, run, with, measured_by } = order;
        let measured_by = measured_by.iter().flat_map(addresses).collect();
        (name, Order { waits, run, with: with.into_iter().map(peer).collect(), measured_by })
    };
    orders(nodes, key, now.unwrap_or_default()).into_iter().map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_new_gone_or_told_something_else_is_news() {
        let order = |run| Order { run, ..Order::default() };
        let all = |orders: &[(&str, u64)]| orders.iter().map(|(name, run)| ((*name).to_owned(), order(*run))).collect::<BTreeMap<_, _>>();
        let news = news(&all(&[("a", 0), ("b", 0), ("c", 0)]), &all(&[("b", 0), ("c", 7), ("d", 0)]));
        assert_eq!(news, [("a".to_owned(), None), ("c".to_owned(), Some(order(7))), ("d".to_owned(), Some(order(0)))]);
    }
}
