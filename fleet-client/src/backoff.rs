//! How long to wait before the next attempt: decorrelated jitter, so that those who failed together do not come back together.

use std::time::Duration;

/// Between two attempts: at least, at most.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The shortest wait.
    pub shortest: Duration,
    /// The longest.
    pub longest: Duration,
    last: Duration,
}

impl Backoff {
    /// Before the first failure.
    #[must_use]
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, last: shortest }
    }

    /// After a failure: a random time between the shortest and three times the last one. `random` is in 0..1.
    pub fn next(&mut self, random: f64) -> Duration {
        let range = (self.last * 3).saturating_sub(self.shortest);
        self.last = (self.shortest + range.mul_f64(random.clamp(0.0, 1.0))).min(self.longest);
        self.last
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.last = self.shortest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_their_bounds() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut backoff = Backoff::new(second, minute);
        assert_eq!(backoff.next(0.0), second);
        for _ in 0..100 {
            assert!((second..=minute).contains(&backoff.next(1.0)));
        }
        assert_eq!(backoff.next(1.0), minute);
        backoff.reset();
        assert_eq!(backoff.next(1.0), 3 * second);
    }
}
