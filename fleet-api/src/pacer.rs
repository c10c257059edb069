//! When changes are told: the first at once, those behind it gathered for longer the more there are.

/// The shortest time between two tellings, in milliseconds.
const SHORTEST: u64 = 10;
/// The longest. A hundredth of a second's changes, or four writes to each node in a second.
const LONGEST: u64 = 250;

/// Decides it for one replica. Times are milliseconds of any clock that does not go back.
#[derive(Debug, Clone, Default)]
pub struct Pacer {
    told: Option<u64>,
    window: u64,
}

impl Pacer {
    /// Something has changed at `now`: when to tell. A change within a window is told at its end and doubles the next one.
    #[must_use]
    pub fn due(&self, now: u64) -> u64 {
        self.told.map_or(now, |told| now.max(told + self.window))
    }

    /// It was told at `now`.
    pub fn told(&mut self, now: u64) {
        let calm = self.told.is_none_or(|told| now >= told + 2 * self.window.max(SHORTEST));
        self.window = if calm { SHORTEST } else { (self.window * 2).clamp(SHORTEST, LONGEST) };
        self.told = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_is_told_at_once_and_a_thousand_by_the_quarter_second() {
        let mut pacer = Pacer::default();
        assert_eq!(pacer.due(5), 5);
        let (mut tellings, mut last) = (0, 0);
        // A change every millisecond, for ten seconds.
        for now in 0..10_000 {
            if pacer.due(now) <= now {
                pacer.told(now);
                (tellings, last) = (tellings + 1, now);
            }
        }
        assert!((40..=50).contains(&tellings), "{tellings}");
        assert_eq!(pacer.due(last + 10_000), last + 10_000, "calm again");
    }
}
