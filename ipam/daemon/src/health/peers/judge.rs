//! What probes of one peer mean. Pure. That two nodes have to say so is the leader's to ask (ADR 31).

use std::collections::VecDeque;
use std::time::Duration;

use crate::health_check::Verdict;

/// Probes that are remembered.
const WINDOW: usize = 20;
/// Of these, lost: a quarter. By chance it takes a network that loses more than a packet of fifty.
const LOST: usize = 5;
/// A peer that was bad is well again with so few.
const LOST_WELL: usize = 1;
/// What is slow: this, and so many times what it was at its best.
const SLOW: Duration = Duration::from_millis(20);
const SLOWER: u32 = 10;
/// A median of fewer is none.
const MEDIAN_OF: usize = 10;

/// What has become of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// By the peer's daemon, or by its kernel that says that there is none: the way is good both ways.
    Answered(Duration),
    Lost,
}

/// One peer's.
#[derive(Debug, Default)]
pub(super) struct Judge {
    short: Losses,
    /// Of questions that are as long as the way takes, as far as the kernel knows.
    full: Losses,
    /// How long those are, with all headers.
    mtu: usize,
    has_answered: bool,
    best: Option<Duration>,
}

/// What became of the last probes of a kind.
#[derive(Debug, Default)]
struct Losses {
    last: VecDeque<Probe>,
    is_bad: bool,
}

impl Losses {
    fn note(&mut self, probe: Probe) {
        self.last.push_back(probe);
        if self.last.len() > WINDOW {
            self.last.pop_front();
        }
    }

    fn lost(&self) -> usize {
        self.last.iter().filter(|probe| **probe == Probe::Lost).count()
    }

    /// Whether so many are lost that it is bad, or not yet well.
    fn are_many(&self) -> bool {
        self.lost() > if self.is_bad { LOST_WELL } else { LOST - 1 }
    }

    fn is_in_doubt(&self) -> bool {
        self.is_bad || self.last.back() == Some(&Probe::Lost)
    }
}

impl Judge {
    pub(super) fn note(&mut self, probe: Probe) {
        self.has_answered |= matches!(probe, Probe::Answered(_));
        self.short.note(probe);
        if let Some(median) = self.median() {
            self.best = Some(self.best.map_or(median, |best| best.min(median)));
        }
    }

    /// Of a packet of `mtu` bytes that may not be made fragments, sent beside a short one that was answered.
    pub(super) fn note_full(&mut self, mtu: usize, probe: Probe) {
        if self.mtu != mtu {
            (self.mtu, self.full) = (mtu, Losses::default());
        }
        self.full.note(probe);
    }

    /// A peer that has never answered may be one that nobody can look at, as behind a filter: neither good nor bad.
    pub(super) fn verdict(&mut self) -> Verdict {
        if !self.has_answered {
            return Verdict::Unknown("has not answered yet: is its UDP port open to this node?".to_owned());
        }
        let (lost, of) = (self.short.lost(), self.short.last.len());
        let slow = self.median().zip(self.best).filter(|(median, best)| *median > SLOW && *median > *best * SLOWER);
        self.short.is_bad = slow.is_some() || self.short.are_many();
        self.full.is_bad = self.full.are_many();
        match slow {
            _ if !self.short.is_bad && !self.full.is_bad => Verdict::Ok,
            _ if !self.short.is_bad => Verdict::Failed(format!(
                "{} of the last {} packets of {} bytes lost, short ones are not: something on the way takes less and does not say so",
                self.full.lost(),
                self.full.last.len(),
                self.mtu
            )),
            Some((median, best)) if lost <= LOST_WELL => {
                Verdict::Failed(format!("answers within {:.1} ms, and has within {:.1}", millis(median), millis(best)))
            }
            _ => Verdict::Failed(format!("{lost} of the last {of} probes lost")),
        }
    }

    /// Is the next one to be soon?
    pub(super) fn is_in_doubt(&self) -> bool {
        self.has_answered && (self.short.is_in_doubt() || self.full.is_in_doubt())
    }

    fn median(&self) -> Option<Duration> {
        let answered = |probe: &Probe| if let Probe::Answered(after) = probe { Some(*after) } else { None };
        let mut answered: Vec<_> = self.short.last.iter().filter_map(answered).collect();
        answered.sort_unstable();
        (answered.len() >= MEDIAN_OF).then(|| answered[answered.len() / 2])
    }
}

fn millis(of: Duration) -> f64 {
    of.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Probe = Probe::Answered(Duration::from_micros(300));

    fn after(judge: &mut Judge, probe: Probe, times: usize) -> Verdict {
        (0..times).for_each(|_| judge.note(probe));
        judge.verdict()
    }

    #[test]
    fn loss_is_bad_from_a_quarter_on_until_it_is_nearly_gone() {
        let mut judge = Judge::default();
        assert!(matches!(after(&mut judge, Probe::Lost, 100), Verdict::Unknown(_)), "nobody knows why it never answers");
        assert!(!judge.is_in_doubt());
        assert!(matches!(after(&mut judge, QUICK, 1), Verdict::Failed(_)), "it does, and has lost what was before");
        assert_eq!(after(&mut judge, QUICK, WINDOW), Verdict::Ok);
        assert_eq!(after(&mut judge, Probe::Lost, LOST - 1), Verdict::Ok);
        assert!(judge.is_in_doubt(), "the next is soon");
        assert_eq!(after(&mut judge, Probe::Lost, 1), Verdict::Failed("5 of the last 20 probes lost".to_owned()));
        assert_eq!(after(&mut judge, QUICK, WINDOW - 2), Verdict::Failed("2 of the last 20 probes lost".to_owned()));
        assert_eq!(after(&mut judge, QUICK, 1), Verdict::Ok);
        assert!(!judge.is_in_doubt());
    }

    #[test]
    fn a_way_that_swallows_what_is_long_is_bad_and_one_that_says_so_is_not() {
        let mut judge = Judge::default();
        let mut round = |mtu: usize, full: Option<Probe>, times: usize| {
            for _ in 0..times {
                judge.note(QUICK);
                full.iter().for_each(|full| judge.note_full(mtu, *full));
            }
            (judge.verdict(), judge.is_in_doubt())
        };
        assert_eq!(round(9_001, Some(QUICK), WINDOW), (Verdict::Ok, false));
        assert_eq!(round(9_001, Some(Probe::Lost), LOST - 1), (Verdict::Ok, true));
        let seen = "5 of the last 20 packets of 9001 bytes lost, short ones are not: something on the way takes less and does not say so";
        assert_eq!(round(9_001, Some(Probe::Lost), 1), (Verdict::Failed(seen.to_owned()), true));
        // The kernel has heard what the way takes, and asks with less; or it hears so each time, and there is no answer to note.
        assert_eq!(round(1_500, Some(QUICK), 1), (Verdict::Ok, false));
        assert_eq!(round(1_500, None, WINDOW), (Verdict::Ok, false));
        // From the first packet on.
        assert!(matches!(round(1_400, Some(Probe::Lost), LOST), (Verdict::Failed(_), true)));
    }

    #[test]
    fn one_lost_of_a_hundred_is_nothing_and_every_third_is() {
        let mut judge = Judge::default();
        let mut verdicts = |nth: usize| {
            (1..=600)
                .filter(|number| {
                    judge.note(if number % nth == 0 { Probe::Lost } else { QUICK });
                    judge.verdict() != Verdict::Ok
                })
                .count()
        };
        assert_eq!(verdicts(100), 0);
        assert!(verdicts(3) > 500);
    }

    #[test]
    fn slow_is_much_slower_than_it_was_and_not_just_slower() {
        let mut judge = Judge::default();
        assert_eq!(after(&mut judge, QUICK, WINDOW), Verdict::Ok);
        assert_eq!(after(&mut judge, Probe::Answered(Duration::from_millis(19)), WINDOW), Verdict::Ok, "fast enough for anybody");
        let slow = Probe::Answered(Duration::from_millis(60));
        assert_eq!(after(&mut judge, slow, WINDOW), Verdict::Failed("answers within 60.0 ms, and has within 0.3".to_owned()));
        assert_eq!(after(&mut judge, QUICK, WINDOW), Verdict::Ok);
        // One that has always been so far away.
        assert_eq!(after(&mut Judge::default(), slow, WINDOW), Verdict::Ok);
    }
}
