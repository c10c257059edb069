//! Departure times by themselves, and before a queue like fq's.

use std::collections::VecDeque;

use super::tests::Numbers;
use super::*;

/// Of each flow, in packets (net/sched/sch_fq.c: `flow_plimit`).
const FLOW_PACKETS: u32 = 100;

/// What became of what somebody sent.
#[derive(Debug, Default)]
struct Sent {
    /// Departure and bytes, in the order in which they were sent.
    departures: Vec<(u64, u64)>,
    marked: u64,
    /// By the programs.
    lost: u64,
    /// By the queue, for it holds no more packets of the flow.
    too_many: u64,
    /// The longest that one waited.
    waited: u64,
}

impl Sent {
    fn bytes(&self) -> u64 {
        self.departures.iter().map(|(_, bytes)| bytes).sum()
    }

    /// By the limit, from the first departure to the last.
    fn of_limit(&self, limit: Limit) -> f64 {
        let (first, last) = (self.departures[0].0, self.departures[self.departures.len() - 1].0);
        let but_the_last = self.bytes() - self.departures[self.departures.len() - 1].1;
        but_the_last as f64 / ((last - first) as f64 * limit.rate as f64 / 1e9)
    }
}

/// One flow that sends packets of some length, `gap` nanoseconds apart at most, before a queue.
fn send(limit: Limit, gap: u64, packets: u32, numbers: &mut Numbers, length: impl Fn(&mut Numbers) -> u32) -> Sent {
    let (mut now, mut paid, mut mean_length, mut sent) = (1, 0_u64, 0, Sent::default());
    let mut queue = VecDeque::new();
    for _ in 0..packets {
        now += 1 + numbers.below(gap);
        let length = length(numbers);
        while queue.front().is_some_and(|departure| *departure <= now) {
            queue.pop_front();
        }
        let judged = judge_departure(now, length, limit, paid, room(FLOW_PACKETS, mean_length));
        match judged.judgement {
            Judgement::Drop => {
                sent.lost += 1;
                continue;
            }
            Judgement::Mark => sent.marked += 1,
            Judgement::Pass => {}
        }
        let departure = paid.max(now);
        (paid, mean_length) = (departure + judged.cost, mean(mean_length, length));
        sent.waited = sent.waited.max(departure - now);
        if queue.len() >= FLOW_PACKETS as usize {
            sent.too_many += 1;
            continue;
        }
        queue.push_back(departure);
        sent.departures.push((departure, length.into()));
    }
    sent
}

#[test]
fn who_sends_more_than_the_limit_gets_it_within_one_percent() {
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    for rate in [125_000, 1_250_000, 12_500_000, 125_000_000, 625_000_000] {
        let limit = Limit::of(rate);
        // Datagrams, large ones, and what TCP hands to be cut further on.
        for longest in [200, 1_514, 9_015, 65_226] {
            for busy in [2, 20] {
                let gap = nanos(longest / busy, rate).max(1);
                let sent = send(limit, gap, 60_000, &mut numbers, |numbers| 60 + numbers.below(longest - 59) as u32);
                // The mean begins as the first packet's length, whatever comes behind it.
                assert!(sent.too_many < 100, "rate {rate}, up to {longest}: the queue drops {} that were paid for", sent.too_many);
                let error = sent.of_limit(limit) - 1.0;
                assert!(error.abs() < 0.01, "rate {rate}, up to {longest}, {busy} times: {error:.4}");
                assert!(sent.lost > 0 && sent.marked > 0, "rate {rate}: {} lost, {} marked", sent.lost, sent.marked);
            }
        }
    }
}

#[test]
fn departures_are_in_order_and_no_further_ahead_than_the_horizon() {
    let mut numbers = Numbers(7);
    for (rate, burst) in [(125, u64::MAX), (1_250, 1), (1_250_000, 1), (1_250_000, 1 << 40), (625_000_000, 1 << 40)] {
        let limit = Limit::with_burst(rate, burst);
        let sent = send(limit, nanos(4_000, rate).max(1), 5_000, &mut numbers, |numbers| 60 + numbers.below(9_000) as u32);
        assert!(sent.departures.is_sorted_by_key(|(departure, _)| *departure), "{rate}");
        assert!(sent.waited <= HORIZON_NANOS && sent.waited <= limit.burst, "rate {rate}: {} ns", sent.waited);
    }
}

#[test]
fn who_was_silent_has_no_burst() {
    let limit = Limit::of(1_250_000);
    let (mut paid, hour) = (1_u64, 3_600_000_000_000);
    // For an hour; then as many as it can, all in one moment.
    let mut departures = Vec::new();
    loop {
        let judged = judge_departure(hour, 1_514, limit, paid, room(FLOW_PACKETS, mean(0, 1_514)));
        if judged.judgement == Judgement::Drop {
            break;
        }
        departures.push(paid.max(hour));
        paid = paid.max(hour) + judged.cost;
    }
    assert!(departures.len() > 70 && departures[0] == hour, "{}", departures.len());
    let gaps: Vec<_> = departures.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(gaps.iter().all(|gap| *gap == nanos(1_514, 1_250_000)), "{gaps:?}");
}

#[test]
fn a_packet_of_any_length_departs_at_once_where_nothing_is_ahead() {
    for rate in [125, 1_250_000, 1_000_000_000_000] {
        let judged = judge_departure(1_000, 65_549, Limit::of(rate), 0, room(1, mean(0, 60)));
        assert_eq!(judged.judgement, Judgement::Pass, "{rate}");
    }
    assert_eq!(judge_departure(7, 1_514, Limit::NONE, u64::MAX, 0), Judged { judgement: Judgement::Pass, cost: 0 });
}

#[test]
fn small_packets_among_large_ones_are_not_lost_more() {
    let mut numbers = Numbers(99);
    let limit = Limit::of(12_500_000);
    let (mut now, mut paid, mut mean_length) = (1, 0_u64, 0);
    let mut lost = [(0, 0); 2];
    for _ in 0..50_000 {
        // Twice as much as may be sent.
        now += numbers.below(nanos(32_613, limit.rate));
        let (kind, length) = if numbers.below(2) == 0 { (0, 66) } else { (1, 65_226) };
        let judged = judge_departure(now, length, limit, paid, room(FLOW_PACKETS, mean_length));
        lost[kind].1 += 1;
        if judged.judgement == Judgement::Drop {
            lost[kind].0 += 1;
        } else {
            (paid, mean_length) = (paid.max(now) + judged.cost, mean(mean_length, length));
        }
    }
    let [small, large] = lost.map(|(lost, all)| f64::from(lost) / f64::from(all));
    assert!(large > 0.3 && small <= large, "{small} of the small, {large} of the large");
}

/// Half of the limit is sent where no queue is, and four times the limit where one is.
#[test]
fn packets_that_no_queue_holds_find_their_part_of_the_limit() {
    let mut numbers = Numbers(5);
    let limit = Limit::of(1_250_000);
    let (mut now, mut paid, mut mean_length) = (1, 0_u64, 0);
    let (mut passed, mut offered) = ([0_u64; 2], [0_u64; 2]);
    for _ in 0..200_000 {
        now += numbers.below(nanos(1_514, limit.rate) * 4 / 9);
        let (kind, judged) = match numbers.below(9) {
            0 => (0, judge(now, 1_514, limit, paid)),
            _ => (1, judge_departure(now, 1_514, limit, paid, room(FLOW_PACKETS, mean_length))),
        };
        offered[kind] += 1_514;
        if judged.judgement != Judgement::Drop {
            paid = paid.max(now) + judged.cost;
            passed[kind] += 1_514;
            mean_length = mean(mean_length, 1_514);
        }
    }
    let of_limit = passed.map(|bytes| bytes as f64 / (now as f64 * limit.rate as f64 / 1e9));
    assert!((of_limit[0] + of_limit[1] - 1.0).abs() < 0.01, "{of_limit:?} of the limit");
    assert!(passed[0] * 100 > offered[0] * 98 && (of_limit[1] - 0.5).abs() < 0.03, "{of_limit:?} of the limit");
}
