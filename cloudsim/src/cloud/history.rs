//! A thing and what it was, for readers who are behind.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::time::Millis;

/// The present state of a thing, and its past as far back as somebody may look.
#[derive(Debug, Clone)]
pub(crate) struct History<T> {
    present: Option<Arc<T>>,
    /// States that were, oldest first, each with the time at which it ended.
    past: VecDeque<(Millis, Option<Arc<T>>)>,
}

impl<T: Clone> History<T> {
    /// A thing that was not there before `now`.
    pub(crate) fn begun(now: Millis, horizon: Millis, thing: T) -> Self {
        let mut history = Self { present: None, past: VecDeque::new() };
        history.replace(now, horizon, Some(Arc::new(thing)));
        history
    }

    pub(crate) fn present(&self) -> Option<&Arc<T>> {
        self.present.as_ref()
    }

    /// The state at `time`.
    pub(crate) fn at(&self, time: Millis) -> Option<&Arc<T>> {
        match self.past.iter().find(|(ended, _)| *ended > time) {
            Some((_, then)) => then.as_ref(),
            None => self.present.as_ref(),
        }
    }

    /// The present state, to be changed at `now`. Nothing where the thing is gone.
    pub(crate) fn edit(&mut self, now: Millis, horizon: Millis) -> Option<&mut T> {
        self.remember(now, horizon);
        self.present.as_mut().map(Arc::make_mut)
    }

    pub(crate) fn end(&mut self, now: Millis, horizon: Millis) {
        self.replace(now, horizon, None);
    }

    fn replace(&mut self, now: Millis, horizon: Millis, thing: Option<Arc<T>>) {
        self.remember(now, horizon);
        self.present = thing;
    }

    /// Without anybody to look back the past costs nothing, not even a copy.
    fn remember(&mut self, now: Millis, horizon: Millis) {
        self.past.retain(|(ended, _)| *ended + horizon > now);
        if horizon > Millis::ZERO {
            self.past.push_back((now, self.present.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_within_the_horizon_has_its_state() {
        let horizon = Millis(100);
        let mut history = History::begun(Millis(10), horizon, 'a');
        *history.edit(Millis(20), horizon).unwrap() = 'b';
        *history.edit(Millis(50), horizon).unwrap() = 'c';
        history.end(Millis(80), horizon);
        let seen = |time| history.at(Millis(time)).map(|state| **state);
        assert_eq!(
            [9, 10, 19, 20, 49, 50, 79, 80].map(seen),
            [None, Some('a'), Some('a'), Some('b'), Some('b'), Some('c'), Some('c'), None]
        );
        assert_eq!(history.edit(Millis(90), horizon), None);
        assert_eq!(history.present(), None);
    }

    #[test]
    fn what_is_older_than_the_horizon_is_forgotten() {
        let mut history = History::begun(Millis(0), Millis(10), 0);
        for now in 1..100 {
            *history.edit(Millis(now), Millis(10)).unwrap() = now;
        }
        assert!(history.past.len() <= 11);
        let mut without = History::begun(Millis(0), Millis::ZERO, 0);
        *without.edit(Millis(5), Millis::ZERO).unwrap() = 1;
        assert!(without.past.is_empty());
    }
}
