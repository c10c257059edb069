//! `/traffic`: what programs or stack have counted, as of one moment, as JSON; the same figures as in `/metrics`.

use std::collections::BTreeMap;
use std::convert::Infallible;

use datapath::fast_path::{Counter, Reason, Traffic, TrafficOf};
use datapath::{Ifindex, RulesError, stack};
use node_api::BootMillis;
use serde::Serialize;

use super::Watched;
use crate::accounts::{Holder, Statement};

/// In the order of `datapath::fast_path::Scope`.
pub(crate) const SCOPES: [&str; 5] = ["same-node", "vpc", "service", "node", "internet"];

/// What was counted.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) statement: Statement,
    /// The host's own, at the uplinks.
    pub(super) host: Traffic,
    /// Packets that were dropped or left to the stack.
    pub(super) reasons: Vec<(Reason, u64)>,
}

impl Counted {
    /// Reads maps of the kernel, or executes a program: not for a thread that others wait for.
    pub(super) fn read(watched: &Watched) -> Result<Self, RulesError> {
        let kernel = watched.attachments.kernel();
        let Some(fast_path) = kernel.fast_path() else {
            let mut beside_pods = (Traffic::default(), 0);
            let counted = |_: &[Ifindex]| {
                let accounts = stack::accounts()?;
                beside_pods = (accounts.host, accounts.spoofed);
                Ok::<_, RulesError>(accounts.pods)
            };
            let statement = kernel.accounts().state(counted)?;
            return Ok(Self { statement, host: beside_pods.0, reasons: vec![(Reason::SpoofedAddress, beside_pods.1)] });
        };
        let of = |of| fast_path.traffic(of).unwrap_or_default();
        let counted = |links: &[Ifindex]| Ok::<_, Infallible>(links.iter().map(|link| (*link, of(TrafficOf::Pod(*link)))).collect());
        let Ok(statement) = kernel.accounts().state(counted);
        Ok(Self { statement, host: of(TrafficOf::Host), reasons: fast_path.reasons().unwrap_or_default() })
    }
}

/// The counters, since links and programs are there.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    /// Of the boot's clock: between two readings it tells the time.
    at_millis: u64,
    pods: Vec<PodTraffic>,
    host: Directions,
    not_carried: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct PodTraffic {
    namespace: String,
    name: String,
    container_id: String,
    #[serde(flatten)]
    directions: Directions,
}

/// By scope of the other end; one without packets is left out.
#[derive(Debug, Serialize)]
struct Directions {
    sent: BTreeMap<&'static str, Count>,
    received: BTreeMap<&'static str, Count>,
}

#[derive(Debug, Serialize)]
struct Count {
    packets: u64,
    bytes: u64,
}

impl From<Counted> for Page {
    fn from(Counted { statement, host, reasons }: Counted) -> Self {
        let pods = statement.pods.into_iter().map(|(Holder { namespace, pod, container_id }, traffic)| PodTraffic {
            namespace,
            name: pod,
            container_id,
            directions: directions(&traffic),
        });
        let at_millis = BootMillis::now().0;
        let not_carried = reasons.into_iter().map(|(reason, count)| (reason.name(), count)).collect();
        Self { at_millis, pods: pods.collect(), host: directions(&host), not_carried }
    }
}

fn directions(Traffic { sent, received }: &Traffic) -> Directions {
    let by_scope = |counters: &[Counter; 5]| {
        let counted = SCOPES.into_iter().zip(counters).filter(|(_, counter)| counter.packets > 0);
        counted.map(|(scope, counter)| (scope, Count { packets: counter.packets, bytes: counter.bytes })).collect()
    };
    Directions { sent: by_scope(sent), received: by_scope(received) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_told_by_scope() {
        let mut traffic = Traffic::default();
        traffic.sent[4] = Counter { packets: 2, bytes: 300 };
        let holder = Holder { namespace: "web".to_owned(), pod: "api".to_owned(), container_id: "c1".to_owned() };
        let statement = Statement { pods: vec![(holder, traffic)], ..Statement::default() };
        let page = Page::from(Counted { statement, host: Traffic::default(), reasons: vec![(Reason::Fragment, 1)] });
        let page = serde_json::to_value(page).unwrap();
        let sent = serde_json::json!({ "internet": { "packets": 2, "bytes": 300 } });
        assert_eq!((&page["pods"][0]["sent"], &page["pods"][0]["name"]), (&sent, &serde_json::json!("api")));
        assert_eq!(page["not_carried"]["fragment"], 1);
    }
}
