//! A map of bounded size that forgets what was used longest ago.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

const NOWHERE: u32 = u32::MAX;

/// Entries in a list by use, held in one vector, so that an entry costs no allocation of its own.
#[derive(Debug)]
pub(super) struct Recent<V> {
    place_by_key: HashMap<u128, u32, FxBuildHasher>,
    entries: Vec<Entry<V>>,
    newest: u32,
    oldest: u32,
    len_max: usize,
}

#[derive(Debug)]
struct Entry<V> {
    key: u128,
    value: V,
    newer: u32,
    older: u32,
}

impl<V: Default> Recent<V> {
    pub(super) fn new(len_max: usize) -> Self {
        Self {
            place_by_key: HashMap::default(),
            entries: Vec::new(),
            newest: NOWHERE,
            oldest: NOWHERE,
            len_max: len_max.clamp(1, NOWHERE as usize),
        }
    }

    /// The entry of this key, which is the most recently used one now, and the value that had to go for it.
    pub(super) fn get(&mut self, key: u128) -> (&mut V, Option<V>) {
        let mut forgotten = None;
        let at = match self.place_by_key.get(&key) {
            Some(&at) => {
                self.unlink(at);
                at
            }
            None if self.entries.len() < self.len_max => self.add(key),
            None => {
                let at = self.oldest;
                self.unlink(at);
                forgotten = Some(self.rename(at, key));
                at
            }
        };
        self.link_newest(at);
        (&mut self.entries[at as usize].value, forgotten)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn add(&mut self, key: u128) -> u32 {
        let at = self.entries.len() as u32;
        self.entries.push(Entry {
            key,
            value: V::default(),
            newer: NOWHERE,
            older: NOWHERE,
        });
        self.place_by_key.insert(key, at);
        at
    }

    fn rename(&mut self, at: u32, key: u128) -> V {
        let entry = &mut self.entries[at as usize];
        self.place_by_key.remove(&entry.key);
        self.place_by_key.insert(key, at);
        entry.key = key;
        std::mem::take(&mut entry.value)
    }

    fn unlink(&mut self, at: u32) {
        let Entry { newer, older, .. } = self.entries[at as usize];
        match newer {
            NOWHERE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NOWHERE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.newest, at);
        let entry = &mut self.entries[at as usize];
        (entry.newer, entry.older) = (NOWHERE, before);
        match before {
            NOWHERE => self.oldest = at,
            before => self.entries[before as usize].newer = at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_holds_what_was_used_last(keys in prop::collection::vec(0u128..12, 0..200), len_max in 1usize..8) {
            let mut recent = Recent::<u128>::new(len_max);
            let mut model: Vec<u128> = Vec::new();
            for key in keys {
                let was_known = model.contains(&key);
                let (value, forgotten) = recent.get(key);
                prop_assert_eq!(*value, if was_known { key + 100 } else { 0 });
                *value = key + 100;
                model.retain(|it| *it != key);
                model.push(key);
                let gone = (model.len() > len_max).then(|| model.remove(0) + 100);
                prop_assert_eq!(forgotten, gone);
                prop_assert_eq!(recent.len(), model.len());
            }
        }
    }
}
