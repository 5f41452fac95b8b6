//! What a new configuration changes: every name keeps, gains or loses its place, and a place is never given to another.
//!
//! Whatever is on its way to a place when its holder goes (a probe's answer, a suspicion, a request) finds the place empty, never
//! somebody else's. What the holders are, and what a change means to them, is not known here.

use std::collections::BTreeMap;

/// A place in a [`Roster`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(pub usize);

/// Who is configured, by name, each with a place of its own.
#[derive(Clone, Debug)]
pub struct Roster<K, V> {
    /// The first place that nobody ever had.
    unused: usize,
    holder_by_name: BTreeMap<K, (Place, V)>,
}

/// What became of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Kept,
    /// It has its place still, and something else about it is new.
    Changed,
    Added,
}

/// What became of everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// In the order in which the new ones were listed.
    pub fates: Vec<(Place, Fate)>,
    pub removed: Vec<Place>,
}

impl<K, V> Default for Roster<K, V> {
    fn default() -> Self {
        Self {
            unused: 0,
            holder_by_name: BTreeMap::new(),
        }
    }
}

impl<K: Ord, V: PartialEq> Roster<K, V> {
    /// Becomes the new list. A name whose new holder is no `heir` of the old one loses its place and is given another.
    pub fn follow(
        &mut self,
        holders: impl IntoIterator<Item = (K, V)>,
        is_heir: impl Fn(&V, &V) -> bool,
    ) -> Difference {
        let mut before = std::mem::take(&mut self.holder_by_name);
        let (mut fates, mut removed) = (Vec::new(), Vec::new());
        for (name, holder) in holders {
            let (place, fate) = match before.remove(&name) {
                Some((place, old)) if old == holder => (place, Fate::Kept),
                Some((place, old)) if is_heir(&old, &holder) => (place, Fate::Changed),
                other => {
                    removed.extend(other.map(|(place, _)| place));
                    (self.next_place(), Fate::Added)
                }
            };
            fates.push((place, fate));
            let taken = self.holder_by_name.insert(name, (place, holder));
            debug_assert!(taken.is_none(), "names in a list are all different");
        }
        removed.extend(before.into_values().map(|(place, _)| place));
        Difference { fates, removed }
    }

    fn next_place(&mut self) -> Place {
        let place = Place(self.unused);
        self.unused += 1;
        place
    }
}

impl Difference {
    /// How many names met this fate.
    pub fn count(&self, fate: Fate) -> usize {
        self.fates.iter().filter(|(_, it)| *it == fate).count()
    }

    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.count(Fate::Kept) == self.fates.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_follows_its_name_and_is_never_given_away() {
        let mut roster = Roster::default();
        let check = |roster: &mut Roster<&str, u32>, now: &[(&'static str, u32)], expected| {
            let difference = roster.follow(now.iter().copied(), same_kind);
            let fates: Vec<_> = difference
                .fates
                .iter()
                .map(|(it, fate)| (it.0, *fate))
                .collect();
            let removed: Vec<_> = difference.removed.iter().map(|it| it.0).collect();
            assert_eq!((fates, removed), expected, "{now:?}");
        };
        use Fate::{Added, Changed, Kept};
        check(
            &mut roster,
            &[("a", 1), ("b", 2)],
            (vec![(0, Added), (1, Added)], vec![]),
        );
        check(
            &mut roster,
            &[("b", 2), ("a", 1)],
            (vec![(1, Kept), (0, Kept)], vec![]),
        );
        check(
            &mut roster,
            &[("b", 4), ("a", 1)],
            (vec![(1, Changed), (0, Kept)], vec![]),
        );
        check(
            &mut roster,
            &[("b", 5), ("a", 1)],
            (vec![(2, Added), (0, Kept)], vec![1]),
        );
        check(&mut roster, &[("a", 1)], (vec![(0, Kept)], vec![2]));
        check(
            &mut roster,
            &[("b", 5), ("a", 1)],
            (vec![(3, Added), (0, Kept)], vec![]),
        );
    }

    proptest! {
        #[test]
        fn an_equal_list_changes_nothing(names in prop::collection::btree_map(0u8..50, 0u32..9, 0..30)) {
            let mut roster = Roster::default();
            roster.follow(names.clone(), same_kind);
            prop_assert!(roster.follow(names, same_kind).is_empty());
        }

        #[test]
        fn no_place_has_two_lives(lists in prop::collection::vec(prop::collection::btree_map(0u8..9, 0u32..9, 0..9), 0..20)) {
            let mut roster = Roster::default();
            let mut gone = std::collections::BTreeSet::new();
            for list in lists {
                let difference = roster.follow(list, same_kind);
                for (place, _) in &difference.fates {
                    prop_assert!(!gone.contains(place));
                }
                gone.extend(difference.removed);
            }
        }
    }

    /// Even numbers and odd ones are of two kinds.
    fn same_kind(old: &u32, new: &u32) -> bool {
        old % 2 == new % 2
    }
}
