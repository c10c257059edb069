//! What to change in a ruleset to have another.

use std::collections::BTreeMap;

use crate::ruleset::{ChainKey, ElementKey, Ruleset};

/// What was and what shall be; nothing stands for nothing being there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn<T> {
    /// What was.
    pub was: Option<T>,
    /// What shall be.
    pub is: Option<T>,
}

impl<T: PartialEq> Turn<T> {
    fn is_none(&self) -> bool {
        self.was == self.is
    }
}

/// What to change. Each key once, however often it was turned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    pub(crate) chains: BTreeMap<ChainKey, Turn<Vec<String>>>,
    pub(crate) affinity: BTreeMap<ChainKey, Turn<()>>,
    pub(crate) elements: BTreeMap<ElementKey, Turn<Option<String>>>,
}

impl Edit {
    /// What turns one ruleset into another.
    #[must_use]
    pub fn between(old: &Ruleset, new: &Ruleset) -> Self {
        let mut edit = Self::default();
        for key in old.chains.keys().chain(new.chains.keys()) {
            edit.chain(key, old.chains.get(key).cloned(), new.chains.get(key).cloned());
        }
        for key in old.affinity.iter().chain(&new.affinity) {
            edit.affinity(key, old.affinity.contains(key), new.affinity.contains(key));
        }
        for key in old.elements.keys().chain(new.elements.keys()) {
            edit.element(key, old.elements.get(key).cloned(), new.elements.get(key).cloned());
        }
        edit.without_nothing()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.affinity.is_empty() && self.elements.is_empty()
    }

    /// The chains whose rules change.
    pub fn chains(&self) -> impl Iterator<Item = &ChainKey> {
        self.chains.keys()
    }

    pub(crate) fn chain(&mut self, key: &ChainKey, was: Option<Vec<String>>, is: Option<Vec<String>>) {
        turn(&mut self.chains, key, was, is);
    }

    pub(crate) fn affinity(&mut self, key: &ChainKey, was: bool, is: bool) {
        turn(&mut self.affinity, key, was.then_some(()), is.then_some(()));
    }

    pub(crate) fn element(&mut self, key: &ElementKey, was: Option<Option<String>>, is: Option<Option<String>>) {
        turn(&mut self.elements, key, was, is);
    }

    pub(crate) fn without_nothing(mut self) -> Self {
        self.chains.retain(|_, turn| !turn.is_none());
        self.affinity.retain(|_, turn| !turn.is_none());
        self.elements.retain(|_, turn| !turn.is_none());
        self
    }
}

/// What was at first stays what was.
fn turn<K: Ord + Clone, T>(turns: &mut BTreeMap<K, Turn<T>>, key: &K, was: Option<T>, is: Option<T>) {
    match turns.get_mut(key) {
        Some(turn) => turn.is = is,
        None => {
            turns.insert(key.clone(), Turn { was, is });
        }
    }
}
