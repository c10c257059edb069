//! Limits of rate: whether a packet is within one, from the clock, its length, and the time up to which what went before has paid.
//!
//! A token bucket in the form of the generic cell rate algorithm (ITU-T I.371, annex A): its whole state is one time, so that CPUs can share
//! it by an atomic addition. Over any window of `t` no more passes than `rate * t` and the burst, and one packet for each further CPU that
//! decides at the same moment. Beyond half of the burst packets are marked by ECN (RFC 3168) where they can be, so that a sender slows down
//! before anything is lost.

use crate::layout::Limit;

/// How long a burst may last at the limit's rate, where nobody has said.
pub const BURST_NANOS: u64 = 50_000_000;
/// The least that a burst has room for: two packets as large as senders make them before they are cut (`GSO_LEGACY_MAX_SIZE`,
/// linux/netdevice.h).
pub const BURST_BYTES_MIN: u64 = 2 * 65_536;

/// What becomes of a packet.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judgement {
    /// It goes on.
    Pass,
    /// It goes on, marked where its ends understand that.
    Mark,
    /// It is lost.
    Drop,
}

/// A judgement, and how the state moves on where the packet is not lost.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// What becomes of the packet.
    pub judgement: Judgement,
    /// Nanoseconds that it costs: added to the state, after that was raised to the present.
    pub cost: u64,
}

/// Nanoseconds that so many bytes take at a rate of bytes a second, which is not 0.
#[must_use]
#[inline(always)]
const fn nanos(bytes: u64, rate: u64) -> u64 {
    bytes * 1_000_000_000 / rate
}

impl Limit {
    /// No limit.
    pub const NONE: Self = Self { rate: 0, burst: 0 };

    /// A limit with the usual burst.
    #[must_use]
    #[inline(always)]
    pub const fn of(rate: u64) -> Self {
        if rate == 0 {
            return Self::NONE;
        }
        let least = nanos(BURST_BYTES_MIN, rate);
        Self { rate, burst: if least > BURST_NANOS { least } else { BURST_NANOS } }
    }

    /// A limit with room for so many bytes at once, and for [`BURST_BYTES_MIN`] at least: less would never let a large packet pass.
    #[must_use]
    pub const fn with_burst(rate: u64, bytes: u64) -> Self {
        if rate == 0 {
            return Self::NONE;
        }
        let bytes = if bytes > BURST_BYTES_MIN { bytes } else { BURST_BYTES_MIN };
        // One that lasts for more than a century is no less a burst for being cut short to that.
        let nanos = bytes as u128 * 1_000_000_000 / rate as u128;
        let most = (u64::MAX / 4) as u128;
        Self { rate, burst: if nanos > most { most as u64 } else { nanos as u64 } }
    }
}

/// Judges a packet of `length` bytes at `now`; `paid` is the time up to which those before it have paid.
#[inline(always)]
pub const fn judge(now: u64, length: u32, limit: Limit, paid: u64) -> Judged {
    let Limit { rate, burst } = limit;
    if rate == 0 {
        return Judged { judgement: Judgement::Pass, cost: 0 };
    }
    let cost = nanos(length as u64, rate);
    let ahead = paid.saturating_sub(now);
    let judgement = if ahead + cost > burst {
        Judgement::Drop
    } else if ahead > burst / 2 {
        Judgement::Mark
    } else {
        Judgement::Pass
    };
    Judged { judgement, cost }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of numbers (Marsaglia's xorshift): the same ones every time.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }
    }

    /// What passes, as time and bytes, where somebody sends `gap` nanoseconds apart at most.
    fn passed(limit: Limit, gap: u64, numbers: &mut Numbers) -> Vec<(u64, u64)> {
        let (mut now, mut paid, mut passed) = (1, 0_u64, Vec::new());
        for _ in 0..3_000 {
            now += numbers.below(gap);
            let length = 60 + numbers.below(65_000) as u32;
            let judged = judge(now, length, limit, paid);
            if judged.judgement != Judgement::Drop {
                paid = paid.max(now) + judged.cost;
                passed.push((now, u64::from(length)));
            }
        }
        passed
    }

    #[test]
    fn no_window_has_more_than_rate_and_burst() {
        let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
        let usual = [1_250_000, 125_000_000, 625_000_000].map(Limit::of);
        let own = [(1_250_000, 0), (1_250_000, 10_000_000), (125, 1), (12_500_000_000, 1 << 30)]
            .map(|(rate, bytes)| Limit::with_burst(rate, bytes));
        for limit in usual.into_iter().chain(own) {
            let Limit { rate, burst } = limit;
            for busy in [1, 3, 20] {
                let gap = nanos(65_000, rate) / busy + 2;
                let passed = passed(limit, gap, &mut numbers);
                for start in (0..passed.len()).step_by(97) {
                    let mut bytes = 0;
                    for (at, length) in &passed[start..] {
                        bytes += length;
                        // A cost is rounded down by less than a nanosecond a packet.
                        let nanos = at - passed[start].0 + burst + passed.len() as u64;
                        let most = u128::from(rate) * u128::from(nanos) / 1_000_000_000;
                        assert!(u128::from(bytes) <= most + 1, "rate {rate}: {bytes} of {most}");
                    }
                }
            }
        }
    }

    #[test]
    fn who_sends_more_gets_the_rate() {
        let mut numbers = Numbers(7);
        for rate in [1_250_000, 125_000_000, 625_000_000] {
            let limit = Limit::of(rate);
            let passed = passed(limit, nanos(65_000, rate) / 4, &mut numbers);
            let (first, last) = (passed[0].0, passed[passed.len() - 1].0);
            let bytes: u64 = passed.iter().map(|(_, length)| length).sum();
            let without_burst = bytes as f64 - limit.burst as f64 * rate as f64 / 1e9;
            let error = without_burst / ((last - first) as f64 * rate as f64 / 1e9) - 1.0;
            assert!(error.abs() < 0.05, "rate {rate}: {error}");
        }
    }

    #[test]
    fn who_sends_less_loses_nothing() {
        let rate = 1_250_000;
        let (mut now, mut paid) = (1, 0_u64);
        for _ in 0..10_000 {
            now += nanos(1_514, rate) + 1;
            let judged = judge(now, 1_514, Limit::of(rate), paid);
            assert_eq!(judged.judgement, Judgement::Pass);
            paid = paid.max(now) + judged.cost;
        }
    }

    #[test]
    fn a_sender_is_warned_before_it_loses() {
        let (rate, mut paid, mut seen) = (1_250_000, 0_u64, Vec::new());
        while seen.last() != Some(&Judgement::Drop) {
            let judged = judge(1, 1_514, Limit::of(rate), paid);
            paid = paid.max(1) + judged.cost;
            if seen.last() != Some(&judged.judgement) {
                seen.push(judged.judgement);
            }
        }
        assert_eq!(seen, [Judgement::Pass, Judgement::Mark, Judgement::Drop]);
    }

    #[test]
    fn without_a_limit_everything_passes() {
        assert_eq!(judge(u64::MAX, u32::MAX, Limit::NONE, u64::MAX), Judged { judgement: Judgement::Pass, cost: 0 });
    }

    #[test]
    fn a_burst_that_was_asked_for_passes_at_once_and_no_more() {
        for (rate, asked, room) in [(1_250_000, 10_000_000, 10_000_000), (1_250_000, 1, BURST_BYTES_MIN), (125, u64::MAX / 16, 500_000_000)]
        {
            let limit = Limit::with_burst(rate, asked);
            let (mut paid, mut passed) = (1, 0);
            while passed < room {
                let judged = judge(1, 1_000, limit, paid);
                if judged.judgement == Judgement::Drop {
                    break;
                }
                paid += judged.cost;
                passed += 1_000;
            }
            assert!(passed >= room - 1_000 && passed <= room + 1_000, "{rate} {asked}: {passed}");
        }
    }
}
