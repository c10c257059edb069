//! How often a node may call the cloud: a token bucket for all its changes and API readings, full-jitter backoff after a failure, and a
//! delay at the start that spreads a cluster's nodes over the time that the cloud needs for all of them. While the cloud is away they spread
//! likewise, since they will all want something when it is back.
//!
//! A cloud's own bucket is shared by the whole account. A node that calls when the bucket is empty is refused, and every refused
//! call is one more: so nodes that start together must not call together (amazon-vpc-cni-k8s #405).

use node_api::BootMillis;

/// A source of numbers that is reproducible: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Numbers that depend on a name only.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        // FNV-1a, 64 bits.
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`; 0 where that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The upper half of the product is below the limit, and as even as 64 bits allow.
        u64::try_from((u128::from(self.next()) * u128::from(limit)) >> 64).unwrap_or(0)
    }
}

/// A token bucket in whole thousandths of a token.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    size: u64,
    /// Thousandths a millisecond are tokens a second.
    refill_per_second: u64,
    thousandths: u64,
    at: BootMillis,
}

impl TokenBucket {
    /// A full bucket of `size` tokens.
    #[must_use]
    pub const fn new(size: u64, refill_per_second: u64, now: BootMillis) -> Self {
        Self { size, refill_per_second, thousandths: size * 1000, at: now }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// The milliseconds until there will be one.
    pub fn take(&mut self, now: BootMillis) -> Result<(), u64> {
        self.thousandths = self.filled(now);
        self.at = now;
        match self.thousandths.checked_sub(1000) {
            Some(left) => {
                self.thousandths = left;
                Ok(())
            }
            None => Err((1000 - self.thousandths).div_ceil(self.refill_per_second.max(1))),
        }
    }

    /// The whole tokens that there are.
    #[must_use]
    pub fn left(&self, now: BootMillis) -> u64 {
        self.filled(now) / 1000
    }

    /// When there is a token: now, where there is one.
    #[must_use]
    pub fn next_token(&self, now: BootMillis) -> BootMillis {
        now.plus(1000_u64.saturating_sub(self.filled(now)).div_ceil(self.refill_per_second.max(1)))
    }

    fn filled(&self, now: BootMillis) -> u64 {
        let gained = now.since(self.at).saturating_mul(self.refill_per_second);
        self.thousandths.saturating_add(gained).min(self.size * 1000)
    }
}

/// How long to wait after failures in a row: up to twice as long each time, and anywhere between nothing and that ("full jitter").
/// After a few of them the cloud is away, perhaps for everybody: then up to the cap once, and the cap each time from then on. So nodes
/// that have failed together call evenly over the cap, and do so still when the cloud comes back.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: u64,
    cap: u64,
    failures: u32,
    until: BootMillis,
}

impl Backoff {
    /// Between `base` and `cap` milliseconds at most.
    #[must_use]
    pub const fn new(base: u64, cap: u64) -> Self {
        Self { base, cap, failures: 0, until: BootMillis(0) }
    }

    /// Notes a failure. `at_least` is what the other side asked for (`Retry-After`), in milliseconds.
    pub fn failed(&mut self, now: BootMillis, at_least: Option<u64>, random: &mut Random) {
        /// With a base of a second, the last of them is two minutes, and four are over on average.
        const DOUBLINGS: u32 = 8;
        let wait = match self.failures {
            few if few < DOUBLINGS => random.below((self.base << few).min(self.cap) + 1),
            DOUBLINGS => random.below(self.cap + 1),
            _ => self.cap,
        };
        self.failures = self.failures.saturating_add(1);
        self.until = now.plus(wait.max(at_least.unwrap_or(0)));
    }

    /// Notes a success.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
        self.until = BootMillis(0);
    }

    /// Failures in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// When to try again.
    #[must_use]
    pub const fn until(&self) -> BootMillis {
        self.until
    }
}

/// How long the account's bucket takes to serve each node of a cluster once, in milliseconds.
#[must_use]
pub fn window(cluster_nodes: u64, calls_per_second: u64) -> u64 {
    /// A bucket that is asked at its very rate runs dry by chance now and then.
    const SLACK_PERCENT: u64 = 2;
    cluster_nodes * 1000 * (100 + SLACK_PERCENT) / (100 * calls_per_second.max(1))
}

/// How long a node waits before its first call, in milliseconds: the same at every start of a node, and over a cluster spread evenly
/// over the [`window`].
#[must_use]
pub fn start_delay(node: &str, window: u64) -> u64 {
    Random::of_name(node).below(window + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_size_at_once_and_its_rate_from_then_on() {
        let mut bucket = TokenBucket::new(100, 5, BootMillis(0));
        let taken = (0..1000).filter(|_| bucket.take(BootMillis(0)).is_ok()).count();
        assert_eq!(taken, 100);
        assert_eq!((bucket.left(BootMillis(0)), bucket.left(BootMillis(1000))), (0, 5));
        assert_eq!(bucket.take(BootMillis(0)), Err(200));
        assert_eq!(bucket.take(BootMillis(199)), Err(1));
        assert_eq!(bucket.take(BootMillis(200)), Ok(()));
        let later = (200..=60_200).filter(|millis| bucket.take(BootMillis(*millis)).is_ok()).count();
        assert_eq!(later, 300);
    }

    #[test]
    fn backoff_is_jittered_bounded_and_heeds_the_other_side() {
        let mut random = Random::of_name("node");
        let mut backoff = Backoff::new(1000, 60_000);
        let mut ceiling = 1000;
        for _ in 0..9 {
            backoff.failed(BootMillis(0), None, &mut random);
            assert!(backoff.until().0 <= ceiling.min(60_000));
            ceiling = (ceiling * 2).min(60_000);
        }
        for _ in 0..100 {
            backoff.failed(BootMillis(0), None, &mut random);
            assert_eq!(backoff.until().0, 60_000);
        }
        backoff.failed(BootMillis(0), Some(90_000), &mut random);
        assert!(backoff.until().0 >= 90_000);
        backoff.succeeded();
        assert_eq!((backoff.failures(), backoff.until()), (0, BootMillis(0)));
    }

    #[test]
    fn nodes_that_failed_together_call_evenly_over_the_cap() {
        const CAP: u64 = 1_530_000;
        // Of 7500 nodes that fail from one moment on, those that call in each tenth of a cap, half an hour later.
        let mut tenths = [0; 10];
        for node in 0..7500 {
            let mut random = Random::of_name(&format!("node-{node}"));
            let mut backoff = Backoff::new(1000, CAP);
            while backoff.until().0 < 1_800_000 {
                let now = backoff.until();
                backoff.failed(now, None, &mut random);
            }
            tenths[((backoff.until().0 - 1_800_000) * 10 / CAP) as usize] += 1;
        }
        assert!(tenths.iter().all(|nodes| (600..900).contains(nodes)), "{tenths:?}");
    }

    #[test]
    fn a_cluster_is_spread_over_the_buckets_own_time() {
        let delays: Vec<_> = (0..7500).map(|node| start_delay(&format!("node-{node}"), window(7500, 5))).collect();
        assert!(delays.iter().all(|delay| *delay <= 1_530_000));
        let in_a_tenth = |tenth: u64| delays.iter().filter(|delay| *delay / 153_001 == tenth).count();
        assert!((0..10).all(|tenth| (600..900).contains(&in_a_tenth(tenth))));
        assert_eq!(start_delay("node-7", window(7500, 5)), delays[7]);
        assert_eq!(start_delay("alone", window(0, 5)), 0);
    }
}
