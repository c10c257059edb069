//! When this node's preflight is to run: what the fleet has told, and what it means where it has told nothing (ADR 43).

use std::sync::Arc;
use std::time::Duration;

use fleet_api::Preflight;
use fleet_api::message::Order;

/// What has been told last; [`Preflight::Untold`] where there is no fleet.
pub(crate) type Orders = Arc<dyn Fn() -> Preflight + Send + Sync>;

/// A replica that is not heard, or a node that the API server does not show yet: then it begins by itself.
const UNHEARD: Duration = Duration::from_secs(600);
/// A turn that does not come: the fleet lets thousands begin within half an hour.
const TURN: Duration = Duration::from_secs(2 * 3_600);

/// What to do at first, after having waited for so long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// Begin; by oneself, or as it was told.
    Begin(Order),
    /// Wait on.
    Wait,
}

/// Of a node that has not begun.
pub(super) fn turn(told: Preflight, waits: Duration) -> Turn {
    let by_itself = || Turn::Begin(Order::default());
    match told {
        Preflight::Untold => by_itself(),
        Preflight::Told(order) if order.run != 0 => Turn::Begin(order),
        Preflight::Told(order) if !order.waits || waits >= TURN => by_itself(),
        Preflight::Unheard | Preflight::Expected if waits >= UNHEARD => by_itself(),
        Preflight::Told(_) | Preflight::Unheard | Preflight::Expected => Turn::Wait,
    }
}

/// A run that is to be made by a node that has made another, or none.
pub(super) fn next_run(told: Preflight, last: u64) -> Option<Order> {
    match told {
        Preflight::Told(order) if order.run != 0 && order.run != last => Some(order),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_waits_for_its_turn_where_there_are_turns_and_never_for_ever() {
        let told = |waits, run| Preflight::Told(Order { waits, run, ..Order::default() });
        let begins = |told: Preflight, waits| match turn(told, Duration::from_secs(waits)) {
            Turn::Begin(order) => Some(order.run),
            Turn::Wait => None,
        };
        for (what, waits, expected) in [
            (Preflight::Untold, 0, Some(0)),
            (Preflight::Unheard, 599, None),
            (Preflight::Unheard, 600, Some(0)),
            (Preflight::Expected, 599, None),
            (Preflight::Expected, 600, Some(0)),
            (told(true, 0), 7_199, None),
            (told(true, 0), 7_200, Some(0)),
            (told(false, 0), 0, Some(0)),
            (told(false, 7), 0, Some(7)),
        ] {
            assert_eq!(begins(what.clone(), waits), expected, "{what:?} after {waits} s");
        }
        let next = |told, last| next_run(told, last).map(|order| order.run);
        assert_eq!(
            (next(told(false, 7), 0), next(told(false, 7), 7), next(told(true, 0), 7), next(Preflight::Untold, 7)),
            (Some(7), None, None, None)
        );
    }
}
