//! What is measured while serving: one histogram an operation, in constant memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::readiness::Fault;

/// Operations that are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// ADD, from the request's arrival to the answer.
    Add,
    /// DEL, likewise.
    Del,
    /// CHECK, GC and STATUS.
    Other,
    /// A commit of the store.
    Commit,
}

impl Operation {
    /// Every operation, with its name in metrics.
    pub const ALL: [(Self, &'static str); 4] = [(Self::Add, "add"), (Self::Del, "del"), (Self::Other, "other"), (Self::Commit, "commit")];
}

/// Why an ADD was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddRefusal {
    /// The daemon was about to end.
    Draining,
    /// The node had no uplink.
    NoUplink,
    /// Every address was in use, cooling down or closed.
    AddressesExhausted,
    /// Somebody held the kernel's lock of network configuration.
    KernelHeldUp,
    /// It could not be made durable.
    Store,
    /// The kernel refused a step.
    Wiring,
    /// What was asked for cannot be.
    Request,
    /// Something else that is over by itself.
    Other,
}

impl AddRefusal {
    /// Every reason, with its name in metrics.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Draining, "draining"),
        (Self::NoUplink, "no_uplink"),
        (Self::AddressesExhausted, "addresses_exhausted"),
        (Self::KernelHeldUp, "kernel_held_up"),
        (Self::Store, "store"),
        (Self::Wiring, "wiring"),
        (Self::Request, "request"),
        (Self::Other, "other"),
    ];

    /// Of an ADD that was told to try again.
    pub(crate) const fn of(fault: &Fault) -> Option<Self> {
        match fault {
            Fault::Draining => Some(Self::Draining),
            Fault::UplinkUnknown(_) | Fault::NoUplink(_) => Some(Self::NoUplink),
            Fault::Exhausted(..) => Some(Self::AddressesExhausted),
            Fault::KernelHeldUp(_) => Some(Self::KernelHeldUp),
            Fault::UplinkDown(_) | Fault::NotForwarding(_) | Fault::Store(_) => None,
        }
    }
}

/// Timings and outcomes since the daemon's start.
#[derive(Debug)]
pub struct Metrics {
    series: [Mutex<Series>; 4],
    refused_adds: [AtomicU64; AddRefusal::ALL.len()],
}

#[derive(Debug)]
struct Series {
    /// Microseconds.
    times: Histogram<u64>,
    failed: u64,
}

/// One operation's figures.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Quantiles {
    /// Median, in microseconds.
    pub p50: u64,
    /// In microseconds.
    pub p99: u64,
    /// The slowest, in microseconds.
    pub max: u64,
    /// How many.
    pub n: u64,
    /// How many of them failed.
    pub failed: u64,
}

/// Longer ones are counted as this long, in microseconds.
const LONGEST: u64 = 60_000_000;

impl Default for Metrics {
    fn default() -> Self {
        let series = Operation::ALL.map(|_| {
            let times = Histogram::new_with_bounds(1, LONGEST, 2).unwrap_or_else(|why| unreachable!("constant bounds: {why}"));
            Mutex::new(Series { times, failed: 0 })
        });
        Self { series, refused_adds: Default::default() }
    }
}

impl Metrics {
    /// Records one operation.
    pub fn record(&self, operation: Operation, took: Duration, succeeded: bool) {
        let mut series = self.series[operation as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST);
        series.times.saturating_record(micros);
        series.failed += u64::from(!succeeded);
    }

    pub(crate) fn refused_add(&self, reason: AddRefusal) {
        self.refused_adds[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many ADDs were refused for this reason.
    #[must_use]
    pub fn refused_adds(&self, reason: AddRefusal) -> u64 {
        self.refused_adds[reason as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn commit(&self, took: Duration, succeeded: bool) {
        self.record(Operation::Commit, took, succeeded);
    }

    /// The figures of one operation.
    #[must_use]
    pub fn quantiles(&self, operation: Operation) -> Quantiles {
        let series = self.series[operation as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let times = &series.times;
        Quantiles {
            p50: times.value_at_quantile(0.5),
            p99: times.value_at_quantile(0.99),
            max: times.max(),
            n: times.len(),
            failed: series.failed,
        }
    }

    /// The sum of all times of one operation, in seconds.
    #[must_use]
    pub fn total_seconds(&self, operation: Operation) -> f64 {
        let series = self.series[operation as usize].lock().unwrap_or_else(PoisonError::into_inner);
        series.times.mean() * series.times.len() as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_hundredth() {
        let metrics = Metrics::default();
        for micros in 1..=1000 {
            metrics.record(Operation::Add, Duration::from_micros(micros), micros % 100 != 0);
        }
        let figures = metrics.quantiles(Operation::Add);
        assert!((495..=505).contains(&figures.p50) && (980..=1000).contains(&figures.p99), "{figures:?}");
        assert_eq!((figures.n, figures.failed), (1000, 10));
        assert_eq!(metrics.quantiles(Operation::Del).n, 0);
    }
}
