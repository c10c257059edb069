//! How often something may be done, for all who want to: a token bucket.

/// A token bucket. Times are milliseconds of a clock that does not go back.
#[derive(Debug)]
pub struct Bucket {
    per_second: u64,
    /// Thousandths of a token.
    level: u64,
    at: u64,
}

impl Bucket {
    /// A full one, which has a second's tokens.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second.max(1));
        Self { per_second, level: per_second * 1_000, at: 0 }
    }

    /// Takes one at `now`: how many milliseconds to wait before it.
    pub fn take(&mut self, now: u64) -> u64 {
        let earned = now.saturating_sub(self.at).saturating_mul(self.per_second);
        self.level = (self.level.saturating_add(earned)).min(self.per_second * 1_000);
        self.at = self.at.max(now);
        if self.level >= 1_000 {
            self.level -= 1_000;
            return 0;
        }
        let wait = (1_000 - self.level).div_ceil(self.per_second);
        // What comes in during the wait is spent.
        self.at += wait;
        self.level = 0;
        self.at - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_herd_is_spread_and_a_calm_second_forgets_it() {
        let mut bucket = Bucket::new(100);
        let mut now = 0;
        for _ in 0..1_000 {
            now += bucket.take(now);
        }
        assert!((8_900..=9_100).contains(&now), "{now} ms for 1,000 at 100 a second, the first 100 at once");
        assert_eq!(bucket.take(now + 1_000), 0);
    }
}
