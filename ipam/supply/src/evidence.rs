//! What is believed of a block of addresses, from what two readers have said of it and when.
//!
//! Metadata and cloud API are both eventually consistent: each may lag, and each may go back in time. To take one reading for truth is
//! what makes a node release a block in use, or hand out addresses that it does not have any more (amazon-vpc-cni-k8s #1967, #3824,
//! #3876, #3887). So one reading raises doubt and no more. Only when every reader that there is has missed a block several times over
//! a while is it believed to be gone.

use node_api::BootMillis;

/// Who tells what is assigned to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reader {
    /// The metadata service on the node's own link.
    Metadata,
    /// The cloud's API.
    Api,
}

/// What is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    /// The node has it.
    Assigned,
    /// Somebody's last word was that the node has it not.
    Doubtful,
    /// The node has it not.
    Gone,
}

/// How long a reader may lag behind an assignment, in milliseconds: until then, not to list it says nothing.
const LAG: u64 = 120_000;
/// How often a reader must have missed a block, and over how long, to be believed: with a second one to agree, and alone.
const MISSES: u32 = 3;
const MISSING: u64 = 60_000;
const MISSING_ALONE: u64 = 600_000;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Word {
    listed: Option<BootMillis>,
    missing_since: Option<BootMillis>,
    misses: u32,
}

/// The evidence for one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// It is remembered from before a restart, and no reader has listed it since.
    is_memory: bool,
    learned: BootMillis,
    changed: BootMillis,
    words: [Word; 2],
}

impl Evidence {
    /// A block that was learned of now: from a reader, or as the answer to our own request.
    #[must_use]
    pub fn new(now: BootMillis) -> Self {
        Self { is_memory: false, learned: now, changed: now, words: [Word::default(); 2] }
    }

    /// A block that was known before a restart: doubtful until a reader lists it.
    #[must_use]
    pub fn of_memory(now: BootMillis) -> Self {
        Self { is_memory: true, ..Self::new(now) }
    }

    /// When the block was learned of.
    #[must_use]
    pub const fn learned(&self) -> BootMillis {
        self.learned
    }

    /// When a reader last said something else than before.
    #[must_use]
    pub const fn changed(&self) -> BootMillis {
        self.changed
    }

    /// Notes whether a reader lists the block.
    pub fn note(&mut self, reader: Reader, listed: bool, now: BootMillis) {
        let Self { is_memory, learned, changed, words } = self;
        let word = &mut words[reader as usize];
        let was_missing = word.missing_since.is_some();
        if listed {
            *word = Word { listed: Some(now), missing_since: None, misses: 0 };
            *is_memory = false;
        } else if *is_memory || word.listed.is_some() || now.since(*learned) >= LAG {
            word.missing_since.get_or_insert(now);
            word.misses = word.misses.saturating_add(1);
        }
        if word.missing_since.is_some() != was_missing {
            *changed = now;
        }
    }

    /// What follows, if these are the readers that there are.
    #[must_use]
    pub fn belief(&self, readers: &[Reader], now: BootMillis) -> Belief {
        let word = |reader: &Reader| self.words[*reader as usize];
        let long = if readers.len() > 1 { MISSING } else { MISSING_ALONE };
        let is_sure_of_absence = |word: Word| word.misses >= MISSES && word.missing_since.is_some_and(|since| now.since(since) >= long);
        if !readers.is_empty() && readers.iter().map(word).all(is_sure_of_absence) {
            Belief::Gone
        } else if self.is_memory || readers.iter().map(word).any(|word| word.misses > 0) {
            Belief::Doubtful
        } else {
            Belief::Assigned
        }
    }

    /// Whether each of these readers lists it, by a word that is not older than `age` milliseconds.
    #[must_use]
    pub fn all_list_it(&self, readers: &[Reader], age: u64, now: BootMillis) -> bool {
        let lists = |word: Word| word.misses == 0 && word.listed.is_some_and(|at| now.since(at) <= age);
        readers.iter().map(|reader| self.words[*reader as usize]).all(lists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Reader; 2] = [Reader::Metadata, Reader::Api];

    fn at(seconds: u64) -> BootMillis {
        BootMillis(seconds * 1000)
    }

    #[test]
    fn one_reading_raises_doubt_and_no_more() {
        let mut evidence = Evidence::new(at(0));
        evidence.note(Reader::Metadata, true, at(1));
        evidence.note(Reader::Api, true, at(1));
        assert_eq!(evidence.belief(&BOTH, at(1)), Belief::Assigned);
        for second in 2..5000 {
            evidence.note(Reader::Metadata, false, at(second));
            assert_eq!(evidence.belief(&BOTH, at(second)), Belief::Doubtful);
        }
        evidence.note(Reader::Metadata, true, at(5000));
        assert_eq!(evidence.belief(&BOTH, at(5000)), Belief::Assigned);
    }

    #[test]
    fn two_readers_over_a_while_are_believed() {
        let mut evidence = Evidence::new(at(0));
        for reader in BOTH {
            evidence.note(reader, true, at(1));
        }
        for second in [10, 40, 69] {
            BOTH.iter().for_each(|reader| evidence.note(*reader, false, at(second)));
            assert_eq!(evidence.belief(&BOTH, at(second)), Belief::Doubtful);
        }
        assert_eq!(evidence.belief(&BOTH, at(70)), Belief::Gone);
    }

    #[test]
    fn alone_a_reader_needs_longer() {
        let mut evidence = Evidence::new(at(0));
        evidence.note(Reader::Metadata, true, at(1));
        for second in [10, 40, 300, 609] {
            evidence.note(Reader::Metadata, false, at(second));
            assert_eq!(evidence.belief(&[Reader::Metadata], at(second)), Belief::Doubtful);
        }
        assert_eq!(evidence.belief(&[Reader::Metadata], at(610)), Belief::Gone);
    }

    #[test]
    fn what_is_remembered_is_doubtful_until_somebody_lists_it_and_gone_only_when_all_miss_it() {
        let mut evidence = Evidence::of_memory(at(0));
        assert_eq!(evidence.belief(&BOTH, at(0)), Belief::Doubtful);
        let mut gone = evidence.clone();
        evidence.note(Reader::Metadata, true, at(1));
        assert_eq!(evidence.belief(&BOTH, at(1)), Belief::Assigned);
        for second in [1, 31, 61] {
            assert_eq!(gone.belief(&BOTH, at(second)), Belief::Doubtful);
            BOTH.iter().for_each(|reader| gone.note(*reader, false, at(second)));
        }
        assert_eq!(gone.belief(&BOTH, at(61)), Belief::Gone);
    }

    #[test]
    fn a_reader_may_lag_behind_an_assignment() {
        let mut evidence = Evidence::new(at(0));
        for second in [1, 60, 119] {
            evidence.note(Reader::Metadata, false, at(second));
            assert_eq!(evidence.belief(&BOTH, at(second)), Belief::Assigned);
        }
        evidence.note(Reader::Metadata, false, at(120));
        assert_eq!(evidence.belief(&BOTH, at(120)), Belief::Doubtful);
    }
}
