//! Token buckets, exact in whole milliseconds.

use crate::time::Millis;

/// Holds up to a number of tokens and gains some every second, evenly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBucket {
    size: u32,
    per_second: u32,
    /// Thousandths, so that a millisecond's refill is a whole number.
    millitokens: u64,
    at: Millis,
}

const TOKEN: u64 = 1000;

impl TokenBucket {
    /// A full one.
    #[must_use]
    pub fn full(size: u32, per_second: u32, now: Millis) -> Self {
        Self { size, per_second, millitokens: u64::from(size) * TOKEN, at: now }
    }

    /// Takes one token, if there is one. A clock that goes back refills nothing.
    pub fn take(&mut self, now: Millis) -> bool {
        let gained = now.since(self.at).0.saturating_mul(u64::from(self.per_second));
        self.millitokens = self.millitokens.saturating_add(gained).min(u64::from(self.size) * TOKEN);
        self.at = self.at.max(now);
        match self.millitokens.checked_sub(TOKEN) {
            Some(left) => {
                self.millitokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_at_exact_times() {
        let mut bucket = TokenBucket::full(100, 5, Millis(7));
        assert!((0..100).all(|_| bucket.take(Millis(7))));
        assert!(!bucket.take(Millis(7)));
        assert!(!bucket.take(Millis(7 + 199)), "five a second is one every 200 ms, not earlier");
        assert!(bucket.take(Millis(7 + 200)));
        assert!(!bucket.take(Millis(7 + 200)));
        assert!(!bucket.take(Millis(0)), "no refill from a clock that goes back");
        assert_eq!((0..1000).filter(|_| bucket.take(Millis::seconds(3600))).count(), 100, "never more than its size");
    }

    #[test]
    fn refusals_cost_nothing() {
        let mut bucket = TokenBucket::full(1, 1, Millis::ZERO);
        assert!(bucket.take(Millis::ZERO));
        assert!((1..1000).all(|now| !bucket.take(Millis(now))));
        assert!(bucket.take(Millis(1000)));
    }
}
