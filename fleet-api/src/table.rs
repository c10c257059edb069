//! A table: encoded values by key, and what they sum up to.

use std::collections::HashSet;
use std::sync::Arc;

use prost::Message;

use crate::checksum;
use crate::message::{self, Entries};

/// A key's new value, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Vec<u8>,
    /// The value; nothing: the key is no more.
    pub value: Option<Vec<u8>>,
}

impl Change {
    /// A new value.
    #[must_use]
    pub fn put(key: impl Into<Vec<u8>>, value: &impl Message) -> Self {
        Self { key: key.into(), value: Some(value.encode_to_vec()) }
    }

    /// An end.
    #[must_use]
    pub fn delete(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: None }
    }
}

type Entry = (Arc<[u8]>, Arc<[u8]>);

/// As many entries of a leaf as there may be: one that grows beyond is split.
const LEAF_MAX: usize = 128;

/// Encoded values by key.
///
/// A sorted row of leaves that copies share until one of them changes: a clone costs a few words for each leaf, a change the copy of one
/// leaf, and a difference what the two do not share.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// None is empty.
    leaves: Vec<Arc<Vec<Entry>>>,
    len: usize,
    checksum: u64,
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.checksum == other.checksum && self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Table {}

impl Table {
    /// Applies one change. False: it was so already.
    pub fn apply(&mut self, change: Change) -> bool {
        let Change { key, value } = change;
        let new = value.as_deref().map(|value| checksum::of_entry(&key, value));
        let (leaf, place) = self.find(&key);
        let old = match (value, place) {
            (Some(value), Ok(place)) if *self.leaves[leaf][place].1 == value[..] => return false,
            (Some(value), Ok(place)) => {
                let slot = &mut Arc::make_mut(&mut self.leaves[leaf])[place].1;
                Some(checksum::of_entry(&key, &std::mem::replace(slot, value.into())))
            }
            (Some(value), Err(place)) => {
                self.insert(leaf, place, (key.into(), value.into()));
                None
            }
            (None, Ok(place)) => {
                let (_, old) = Arc::make_mut(&mut self.leaves[leaf]).remove(place);
                self.len -= 1;
                self.close_up(leaf);
                Some(checksum::of_entry(&key, &old))
            }
            (None, Err(_)) => return false,
        };
        self.checksum = self.checksum.wrapping_sub(old.unwrap_or(0)).wrapping_add(new.unwrap_or(0));
        true
    }

    /// The leaf that has a key or would have it, and where in it.
    fn find(&self, key: &[u8]) -> (usize, Result<usize, usize>) {
        let after = self.leaves.partition_point(|leaf| leaf.first().is_some_and(|(first, _)| **first <= *key));
        let leaf = after.saturating_sub(1);
        let place = self.leaves.get(leaf).map_or(Err(0), |leaf| leaf.binary_search_by(|(other, _)| (**other).cmp(key)));
        (leaf, place)
    }

    fn insert(&mut self, leaf: usize, place: usize, entry: Entry) {
        self.len += 1;
        if self.leaves.is_empty() {
            self.leaves.push(Arc::default());
        }
        let entries = Arc::make_mut(&mut self.leaves[leaf]);
        entries.insert(place, entry);
        if entries.len() > LEAF_MAX {
            // What comes sorted fills its leaves.
            let at = if place == LEAF_MAX { LEAF_MAX } else { LEAF_MAX / 2 };
            let rest = entries.split_off(at);
            self.leaves.insert(leaf + 1, Arc::new(rest));
        }
    }

    /// After a removal: an empty leaf goes, a small one joins its neighbour.
    fn close_up(&mut self, leaf: usize) {
        if self.leaves[leaf].is_empty() {
            self.leaves.remove(leaf);
        } else if let Some(next) = self.leaves.get(leaf + 1).filter(|next| next.len() + self.leaves[leaf].len() <= LEAF_MAX / 2) {
            let next = next.to_vec();
            Arc::make_mut(&mut self.leaves[leaf]).extend(next);
            self.leaves.remove(leaf + 1);
        }
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (leaf, place) = self.find(key);
        place.ok().map(|place| &*self.leaves[leaf][place].1)
    }

    /// All entries whose keys begin with `prefix`, sorted.
    pub fn starting_with<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let (leaf, place) = self.find(prefix);
        let (Ok(place) | Err(place)) = place;
        let from = self.leaves.get(leaf..).unwrap_or_default().iter().flat_map(|leaf| leaf.iter()).skip(place);
        from.map(|(key, value)| (&**key, &**value)).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// All entries, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        entries(&self.leaves)
    }

    /// What the entries sum up to; 0 without any.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What to change in this one to have `wanted`: ends first, then new values, each sorted by key. What both share is not looked at.
    #[must_use]
    pub fn difference(&self, wanted: &Self) -> Vec<Change> {
        let gone = self.beside(wanted).filter(|(key, _)| wanted.get(key).is_none()).map(|(key, _)| Change::delete(key));
        let new = wanted.beside(self).filter(|(key, value)| self.get(key) != Some(value));
        gone.chain(new.map(|(key, value)| Change { key: key.to_vec(), value: Some(value.to_vec()) })).collect()
    }

    /// The entries of leaves that `other` does not have.
    fn beside(&self, other: &Self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let others: HashSet<_> = other.leaves.iter().map(Arc::as_ptr).collect();
        entries(self.leaves.iter().filter(move |leaf| !others.contains(&Arc::as_ptr(leaf))))
    }

    pub(crate) fn to_entries(&self) -> Entries {
        Entries { entries: self.iter().map(|(key, value)| message::Entry { key: key.to_vec(), value: value.to_vec() }).collect() }
    }
}

fn entries<'a>(leaves: impl IntoIterator<Item = &'a Arc<Vec<Entry>>>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    leaves.into_iter().flat_map(|leaf| leaf.iter()).map(|(key, value)| (&**key, &**value))
}

impl FromIterator<(Vec<u8>, Vec<u8>)> for Table {
    fn from_iter<I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>>(entries: I) -> Self {
        let mut table = Self::default();
        for (key, value) in entries {
            table.apply(Change { key, value: Some(value) });
        }
        table
    }
}

impl From<Entries> for Table {
    fn from(entries: Entries) -> Self {
        entries.entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_table_is_a_sorted_map_whose_copies_stay(changes in proptest::collection::vec((0_u16..600, proptest::option::of(0_u8..3)), 0..2_000), held in 0_usize..2_000) {
            let (mut table, mut map, mut copy) = (Table::default(), std::collections::BTreeMap::new(), None);
            for (number, (key, value)) in changes.into_iter().enumerate() {
                if number == held {
                    copy = Some((table.clone(), map.clone()));
                }
                let key = key.to_be_bytes().to_vec();
                let value = value.map(|value| vec![value]);
                let is_new = map.get(&key) != value.as_ref();
                drop(match &value {
                    Some(value) => map.insert(key.clone(), value.clone()),
                    None => map.remove(&key),
                });
                proptest::prop_assert_eq!(table.apply(Change { key, value }), is_new);
            }
            let is = |table: &Table, map: &std::collections::BTreeMap<Vec<u8>, Vec<u8>>| {
                let prefix = [1];
                table.len() == map.len()
                    && table.iter().eq(map.iter().map(|(key, value)| (&key[..], &value[..])))
                    && table.starting_with(&prefix).count() == map.keys().filter(|key| key[0] == 1).count()
                    && table.leaves.iter().all(|leaf| (1..=LEAF_MAX).contains(&leaf.len()))
            };
            proptest::prop_assert!(is(&table, &map));
            if let Some((mut copy, then)) = copy {
                proptest::prop_assert!(is(&copy, &then));
                for change in copy.difference(&table) {
                    proptest::prop_assert!(copy.apply(change), "each is one");
                }
                proptest::prop_assert_eq!(copy, table);
            }
        }
    }

    #[test]
    fn a_copy_and_a_difference_cost_what_has_changed() {
        let put = |number: u32| Change { key: number.to_be_bytes().to_vec(), value: Some(vec![0]) };
        let mut table = Table::default();
        for number in 0..10_000 {
            table.apply(put(number));
        }
        let before = table.clone();
        table.apply(Change { key: 5_000_u32.to_be_bytes().to_vec(), value: Some(vec![1]) });
        let shared = table.leaves.iter().zip(&before.leaves).filter(|(is, was)| Arc::ptr_eq(is, was)).count();
        assert_eq!((shared, table.leaves.len()), (78, 79));
        assert_eq!(table.beside(&before).count(), LEAF_MAX);
    }

    #[test]
    fn the_checksum_is_of_what_there_is_and_not_of_how_it_came() {
        let put = |key: &str, value: &str| Change { key: key.into(), value: Some(value.into()) };
        let mut table = Table::default();
        for change in [put("a", "1"), put("b", "2"), put("a", "3"), Change::delete("b"), put("c", "")] {
            assert!(table.apply(change));
        }
        assert!(!table.apply(put("a", "3")), "the same again");
        assert!(!table.apply(Change::delete("b")), "gone already");
        let other: Table = [("c", ""), ("a", "3")].map(|(key, value)| (key.into(), value.into())).into_iter().collect();
        assert_eq!(table, other);
        let empty = Table::default();
        let mut emptied = table.clone();
        for change in table.difference(&empty) {
            emptied.apply(change);
        }
        assert_eq!(emptied, empty);
    }
}
