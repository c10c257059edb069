//! Limits of rate: whether a packet is within one, from the clock, its length, and the time up to which what went before has paid.
//!
//! A token bucket in the form of the generic cell rate algorithm (ITU-T I.371, annex A): its whole state is one time, so that CPUs can share
//! it by an atomic addition. Over any window of `t` no more passes than `rate * t` and the burst, and one packet for each further CPU that
//! decides at the same moment. Beyond half of the burst packets are marked by ECN (RFC 3168) where they can be, so that a sender slows down
//! before anything is lost.
//!
//! **Shares** of a limit that several pods have together: each has a bucket of the whole rate, filled by a clock that all of them share and
//! that goes the slower the more of the common burst is in use (`pace`). Whoever sends all the time gets as much as that clock lets him,
//! which is the same for all; the clock comes to rest at the pace at which all together send what they may. What one does not use the others
//! have: no pod is counted, and no CPU waits for another.
//!
//! **Departure times.** Where an uplink's queue sends each packet at the time that it carries (sch_fq), the time up to which a pod has paid is
//! when its next packet departs: what a bucket would let pass at once leaves at the rate, and what it would lose waits (`judge_departure`).
//! The state is the same, so that packets that wait and packets that no queue holds share one limit; and where the queue turns out to
//! know no departure times, what is left is a bucket with less room.

use crate::layout::Limit;
use crate::packet::{ETHERNET, TCP};

/// How long a burst may last at the limit's rate, where nobody has said: longer than TCP is silent where all that it had on the way is lost
/// (include/net/tcp.h: `TCP_RTO_MIN`, 200 ms, behind the round trip, which is `TCP_DELACK_MIN`, 40 ms, of a single packet). With less, what it
/// did not send meanwhile is not saved up, and over short ways it comes to a fourth of the rate (docs/adr/0038).
pub const BURST_NANOS: u64 = 300_000_000;
/// The least that a burst has room for: two packets as large as senders make them before they are cut (`GSO_LEGACY_MAX_SIZE`,
/// linux/netdevice.h).
pub const BURST_BYTES_MIN: u64 = 2 * 65_536;

/// The common burst is so many times what one pod's is: room for pods that begin at once.
const COMMON_BURST: u64 = 4;
/// No packet waits longer for its departure. fq itself takes none that is ten seconds ahead (net/sched/sch_fq.c: `horizon`); two are what
/// Cilium's bandwidth manager allows, longer than any sender waits for an answer before it sends again.
pub const HORIZON_NANOS: u64 = 2_000_000_000;
/// The mean of packets' lengths is of about so many.
const MEAN_OF: u64 = 32;

/// From an empty common burst to a full one the clock of shares halves its pace so often. It begins at twice the rate, so that one pod alone
/// has all of it, and ends where each of 2,048 ([`crate::layout::ENDPOINTS_MAX`]) has its share.
const HALVINGS: u64 = 12;
/// The pace of the kernel's clock.
const PACE: u64 = 1 << 16;
/// The clock of shares is set so often at most: to write it takes it from the other CPUs.
pub const TICK: u64 = 1 << 16;
/// Time without packets for which it makes no difference how much longer it was: no bucket is empty for longer.
const IDLE: u64 = 1 << 40;

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

impl Limit {
    /// What several have together, where each has [`Limit::of`] the rate.
    #[must_use]
    #[inline(always)]
    pub const fn common(self) -> Self {
        Self { rate: self.rate, burst: self.burst * COMMON_BURST }
    }
}

/// How fast the clock of shares goes, in 65,536ths, where packets have paid so many nanoseconds ahead of a burst's. Between powers of two
/// it is a straight line.
#[must_use]
#[inline(always)]
const fn pace(ahead: u64, burst: u64) -> u64 {
    let ahead = if ahead < burst { ahead } else { burst };
    let level = match (ahead * (HALVINGS << 8)).checked_div(burst) {
        Some(level) => level,
        None => 0,
    };
    ((PACE * 2 * (512 - (level & 255))) >> 9) >> (level >> 8)
}

/// By how much the clock of shares advances in so many nanoseconds.
#[must_use]
#[inline(always)]
pub const fn advance(elapsed: u64, ahead: u64, common: Limit) -> u64 {
    let elapsed = if elapsed < IDLE { elapsed } else { IDLE };
    (elapsed * pace(ahead, common.burst)) / PACE
}

/// Where headers of a frame lie. Extension headers of IPv6 are taken for payload: whoever sends them with segments is charged a little less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Where the protocol behind the network header is told.
    pub protocol: u32,
    /// Where the transport's header begins.
    transport: u32,
}

impl Headers {
    /// By the first byte of the network header: its version, and the length where that varies.
    #[must_use]
    #[inline(always)]
    pub const fn of(first: u8) -> Self {
        let network = ETHERNET as u32;
        if first >> 4 == 4 {
            Self { protocol: network + 9, transport: network + (first & 15) as u32 * 4 }
        } else {
            Self { protocol: network + 6, transport: network + 40 }
        }
    }

    /// Where TCP tells the length of its header, in the upper half of a byte.
    #[must_use]
    #[inline(always)]
    pub const fn data_offset(&self) -> u32 {
        self.transport + 12
    }

    /// Bytes of all headers, where the transport is TCP or UDP.
    #[must_use]
    #[inline(always)]
    pub const fn with_transport(&self, protocol: u8, data_offset: u8) -> u32 {
        self.transport + if protocol == TCP { (data_offset >> 4) as u32 * 4 } else { 8 }
    }
}

/// Bytes that a packet has on the wire, where its segments each have headers of their own; `segment` is what each carries, 0 for a packet
/// that is one.
#[must_use]
#[inline(always)]
pub const fn wire_bytes(length: u32, segment: u32, headers: u32) -> u32 {
    if segment == 0 || length <= headers {
        return length;
    }
    let segments = (length - headers).div_ceil(segment);
    length + (segments - 1) * headers
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

/// Judges a packet that waits for its departure, which is at `paid` or now, whichever is later; `room` is how many bytes may wait.
///
/// No further ahead than a bucket lets anything be: else packets of the pod that no queue holds would find theirs used up. How long the packet
/// is does not count for that: of many, those that just fit would be short ones, and a queue counts packets.
#[inline(always)]
pub const fn judge_departure(now: u64, length: u32, limit: Limit, paid: u64, room: u64) -> Judged {
    let Limit { rate, burst } = limit;
    if rate == 0 {
        return Judged { judgement: Judgement::Pass, cost: 0 };
    }
    let room = nanos(room, rate);
    let horizon = if burst < HORIZON_NANOS { burst } else { HORIZON_NANOS };
    let horizon = if room < horizon { room } else { horizon };
    let (cost, ahead) = (nanos(length as u64, rate), paid.saturating_sub(now));
    let judgement = if ahead > horizon {
        Judgement::Drop
    } else if ahead > horizon / 2 {
        Judgement::Mark
    } else {
        Judgement::Pass
    };
    Judged { judgement, cost }
}

/// Bytes that a pod's packets may have waiting where a queue holds so many packets of a flow, by their mean. Three fourths of what they could
/// have: the mean is one, and what the queue drops has been paid for. As many packets of one flow as it holds and more would leave little of
/// the limit, where all of them are paid for and most are dropped.
#[must_use]
#[inline(always)]
pub const fn room(packets: u32, mean: u64) -> u64 {
    packets as u64 * (mean / MEAN_OF) * 3 / 4
}

/// The mean with one more packet in it, times 32.
#[must_use]
#[inline(always)]
pub const fn mean(before: u64, length: u32) -> u64 {
    if before == 0 { length as u64 * MEAN_OF } else { before - before / MEAN_OF + length as u64 }
}

#[cfg(test)]
mod departures_tests;

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of numbers (Marsaglia's xorshift): the same ones every time.
    pub(super) struct Numbers(pub(super) u64);

    impl Numbers {
        pub(super) fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }
    }

    /// What passes, as time and bytes, where somebody sends so many packets `gap` nanoseconds apart at most.
    fn passed(limit: Limit, gap: u64, packets: u32, numbers: &mut Numbers) -> Vec<(u64, u64)> {
        let (mut now, mut paid, mut passed) = (1, 0_u64, Vec::new());
        for _ in 0..packets {
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
                let passed = passed(limit, gap, 3_000, &mut numbers);
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
            let passed = passed(limit, nanos(65_000, rate) / 4, 100_000, &mut numbers);
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

    #[test]
    fn each_segment_has_headers_of_its_own() {
        // IPv4 with timestamps of TCP, IPv6 without, UDP, and a header with options.
        let headers = |first, protocol, data_offset| Headers::of(first).with_transport(protocol, data_offset);
        assert_eq!(
            [headers(0x45, TCP, 0x80), headers(0x60, TCP, 0x50), headers(0x45, 17, 0xff), headers(0x46, TCP, 0x50)],
            [66, 74, 42, 58]
        );
        assert_eq!((Headers::of(0x45).protocol, Headers::of(0x45).data_offset()), (23, 46));
        assert_eq!((Headers::of(0x60).protocol, Headers::of(0x60).data_offset()), (20, 66));
        for (payload, segment, segments) in [(1_448, 0, 1), (1_448, 1_448, 1), (1_449, 1_448, 2), (65_160, 1_448, 45), (10, 1_448, 1)] {
            assert_eq!(wire_bytes(66 + payload, segment, 66), payload + segments * 66, "{payload} by {segment}");
        }
        // Nonsense is charged as it is.
        assert_eq!(wire_bytes(60, 1_448, 66), 60);
    }

    #[test]
    fn the_clock_of_shares_slows_down_without_a_step() {
        let common = Limit::of(125_000_000).common();
        let pace = |ahead| pace(ahead, common.burst);
        assert_eq!((pace(0), pace(common.burst), pace(u64::MAX)), (2 * PACE, (2 * PACE) >> 12, (2 * PACE) >> 12));
        assert!(pace(common.burst / 12).abs_diff(PACE) < PACE / 200, "one pod alone has all of the rate");
        let mut before = pace(0);
        for step in 1..=10_000 {
            let now = pace(common.burst / 10_000 * step);
            assert!(now <= before && before - now <= before / 200 + 1, "{step}: {before}, then {now}");
            before = now;
        }
        // Neither a rate that is very slow nor a node that was idle for a year overflows.
        let slow = Limit::of(125).common();
        assert_eq!(advance(u64::MAX, 0, slow), 2 * IDLE);
        assert!(advance(IDLE, slow.burst, slow) < IDLE / 2_000);
    }

    /// Pods that send as the model says, over a common limit: what each got of its share, and all together of the rate, in its second half.
    fn shared(rate: u64, pods: &[Sender], seconds: u64) -> (Vec<f64>, f64) {
        let (limit, common) = (Limit::of(rate), Limit::of(rate).common());
        let (mut paid, mut clock, mut ticked) = (0_u64, 0_u64, 0_u64);
        let mut numbers = Numbers(99);
        let mut states: Vec<_> = pods.iter().map(|_| (1 + numbers.below(1_000_000), 0_u64, 0_u64)).collect();
        let end = seconds * 1_000_000_000;
        loop {
            let (pod, now) = states.iter().map(|state| state.0).enumerate().min_by_key(|(_, at)| *at).unwrap();
            if now > end {
                break;
            }
            let Sender { bytes, rate: offered, idle } = pods[pod];
            if now - ticked >= TICK {
                clock += advance(now - ticked, paid.saturating_sub(now), common);
                ticked = now;
            }
            let (next, share, got) = &mut states[pod];
            let judged = [judge(now, bytes, common, paid), judge(clock, bytes, limit, *share)];
            let passes = judged.iter().all(|judged| judged.judgement != Judgement::Drop);
            if passes {
                paid = paid.max(now) + judged[0].cost;
                *share = (*share).max(clock) + judged[1].cost;
                *got += if now > end / 2 { u64::from(bytes) } else { 0 };
            }
            *next = now + nanos(u64::from(bytes), offered) + if passes { 0 } else { idle };
        }
        let all = rate as f64 * seconds as f64 / 2.0;
        let got: Vec<_> = states.iter().map(|(_, _, got)| *got as f64 / (all / pods.len() as f64)).collect();
        let total = got.iter().sum::<f64>() / pods.len() as f64;
        (got, total)
    }

    /// Sends packets of so many bytes at a rate, and is silent for a while after a loss, as TCP is that waits for its timer.
    #[derive(Clone, Copy)]
    struct Sender {
        bytes: u32,
        rate: u64,
        idle: u64,
    }

    #[test]
    fn whoever_sends_all_the_time_has_the_same_share() {
        for rate in [1_250_000, 12_500_000, 125_000_000] {
            let flood = Sender { bytes: 9_015, rate: 3 * rate, idle: 0 };
            let [waits, large] = [Sender { idle: 200_000_000, rate: 1_250_000_000, ..flood }, Sender { bytes: 65_226, ..flood }];
            for pods in
                [vec![flood], vec![waits], vec![flood, waits, large, waits], vec![flood, waits, waits, waits, large, flood, waits, flood]]
            {
                let (got, total) = shared(rate, &pods, 12);
                assert!((total - 1.0).abs() < 0.06, "rate {rate}: {got:?}, {total} together");
                assert!(got.iter().all(|share| (share - 1.0).abs() < 0.15), "rate {rate}: {got:?}, {total} together");
            }
        }
    }

    #[test]
    fn what_one_does_not_use_the_others_have() {
        let rate = 12_500_000;
        let flood = Sender { bytes: 9_015, rate: 3 * rate, idle: 0 };
        // A tenth of the rate, which is less than a share; the two others have the rest.
        let (got, total) = shared(rate, &[flood, Sender { rate: rate / 10, ..flood }, flood], 12);
        assert!((total - 1.0).abs() < 0.03, "{got:?}, {total} together");
        let [one, little, other] = got[..] else { panic!("{got:?}") };
        assert!((little - 0.3).abs() < 0.01, "it was held back: {got:?}");
        assert!((one / other - 1.0).abs() < 0.05 && (one - 1.35).abs() < 0.08, "{got:?}");
    }
}
