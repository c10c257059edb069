//! Percentiles of durations, and their median over rounds.

use std::time::Duration;

/// Durations of one round.
#[derive(Debug, Default, Clone)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The smallest sample that `percent` of all samples do not exceed (the nearest rank); `None` without samples.
    #[must_use]
    pub fn percentile(&self, percent: u32) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent as usize).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

/// One figure, from rounds that alternated with the peer's: noise that comes and goes hits single rounds of both.
#[derive(Debug, Default, Clone)]
pub struct Rounds(Vec<Samples>);

impl Rounds {
    /// Adds a round.
    pub fn push(&mut self, round: Samples) {
        self.0.push(round);
    }

    /// Adds the rounds of another.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The median over rounds of each round's percentile; `None` without samples.
    #[must_use]
    pub fn percentile(&self, percent: u32) -> Option<Duration> {
        self.0.iter().filter_map(|round| round.percentile(percent)).collect::<Samples>().percentile(50)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(millis: impl IntoIterator<Item = u64>) -> Samples {
        millis.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let hundred = samples((1..=100).rev());
        assert_eq!(hundred.percentile(50), Some(Duration::from_millis(50)));
        assert_eq!(hundred.percentile(99), Some(Duration::from_millis(99)));
        assert_eq!(hundred.percentile(100), Some(Duration::from_millis(100)));
        assert_eq!(samples([7]).percentile(1), Some(Duration::from_millis(7)));
        assert_eq!(samples([]).percentile(50), None);
    }

    #[test]
    fn one_noisy_round_does_not_move_the_figure() {
        let mut rounds = Rounds::default();
        rounds.push(samples([1, 2, 3]));
        rounds.push(samples([1_000, 2_000, 3_000]));
        rounds.push(samples([2, 3, 4]));
        assert_eq!(rounds.percentile(50), Some(Duration::from_millis(3)));
    }
}
