//! When a node says how it is: at once after a change, and every so often without one; never faster than a replica is asked to listen.

use fleet_api::message::Report;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

/// One connection's part of it: a replica that is new is told at once.
#[derive(Debug)]
pub(crate) struct Reporting {
    reports: Option<watch::Receiver<Report>>,
    said: Option<Instant>,
}

impl Reporting {
    pub(crate) fn new(mut reports: Option<watch::Receiver<Report>>) -> Self {
        if let Some(reports) = &mut reports {
            reports.mark_changed();
        }
        Self { reports, said: None }
    }

    /// The next report to say, when it is time. Nothing is lost where the wait is given up. Never ends where there is none.
    pub(crate) async fn next(&mut self) -> Report {
        let Some(reports) = &mut self.reports else { return std::future::pending().await };
        if let Some(said) = self.said {
            sleep_until(said + Report::AGAIN).await;
            // What is unchanged is said all the same; whoever made the reports may be gone, and the last one stands.
            if let Ok(Err(_)) = timeout_at(said + Report::HEARTBEAT, reports.changed()).await {
                sleep_until(said + Report::HEARTBEAT).await;
            }
        }
        self.said = Some(Instant::now());
        reports.borrow_and_update().clone().bounded()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fleet_api::message::Finding;

    use super::*;

    fn numbered(run: u64) -> Report {
        Report { findings: vec![Finding { run, ..Finding::default() }], ..Report::default() }
    }

    /// Which report is said next, and when.
    async fn said(reporting: &mut Reporting, begun: Instant) -> (u64, u128) {
        let report = reporting.next().await;
        (report.findings[0].run, begun.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_said_at_once_the_next_half_a_second_later_and_silence_is_broken() {
        let (told, reports) = watch::channel(numbered(1));
        let (mut reporting, begun) = (Reporting::new(Some(reports)), Instant::now());
        assert_eq!(said(&mut reporting, begun).await, (1, 0));
        for run in 2..10 {
            told.send_replace(numbered(run));
        }
        assert_eq!(said(&mut reporting, begun).await, (9, 500), "the last value wins");
        // Given up in the middle of a wait, as when the replica says something.
        told.send_replace(numbered(10));
        assert!(tokio::time::timeout(Duration::from_millis(100), reporting.next()).await.is_err());
        assert_eq!(said(&mut reporting, begun).await, (10, 1_000));
        assert_eq!(said(&mut reporting, begun).await, (10, 31_000));
        drop(told);
        assert_eq!(said(&mut reporting, begun).await, (10, 61_000), "and does not turn into a storm when nobody reports");
        assert!(tokio::time::timeout(Duration::from_secs(3_600), Reporting::new(None).next()).await.is_err());
    }
}
