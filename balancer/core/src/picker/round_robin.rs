//! Endpoints in turn, each as often as its weight says and evenly spread over the round.
//!
//! Each endpoint has the time of its next turn on a clock of its own; the earliest is taken, and its next turn is a stride later, which is
//! shorter the more it weighs. In the time of one round every endpoint comes exactly as often as it weighs. A pick and a change
//! cost the logarithm of the number of endpoints.

use std::collections::BTreeSet;

use fastrand::Rng;

use crate::{
    endpoint::{Endpoint, Member},
    load::WHOLE,
};

/// One round; so long that rounding a stride loses no turn in any life of a process, and so short that the clock never ends.
const ROUND: u128 = 1 << 64;

/// Whose turn is when, for the members of a list by their places in it.
#[derive(Debug, Default)]
pub struct Turns {
    turn_by_place: Vec<u128>,
    order: BTreeSet<(u128, usize)>,
    now: u128,
}

impl Turns {
    /// A member was put at the end of the list: its first turn is somewhere in the coming round, or cores that learn of it
    /// at the same moment would all send it their next request.
    pub fn push(&mut self, endpoint: &Endpoint, rng: &mut Rng) {
        let turn = self.now + stride(endpoint) / 1024 * u128::from(rng.u32(1..=1024));
        self.order.insert((turn, self.turn_by_place.len()));
        self.turn_by_place.push(turn);
        self.check_invariants();
    }

    /// The member at this place was taken out, and the last one put in its place.
    pub fn swap_remove(&mut self, at: usize) {
        let last = self.turn_by_place.len() - 1;
        let (gone, moved) = (self.turn_by_place[at], self.turn_by_place[last]);
        self.order.remove(&(gone, at));
        if at != last {
            self.order.remove(&(moved, last));
            self.order.insert((moved, at));
        }
        self.turn_by_place.swap_remove(at);
        self.check_invariants();
    }

    /// The index of the endpoint whose turn it is among `endpoints`, the list that was told; those for which `avoid` says so
    /// lose their turn.
    pub fn choose<E: Member>(
        &mut self,
        endpoints: &[E],
        avoid: impl Fn(&Endpoint) -> bool,
    ) -> Option<usize> {
        let allowed = |at: usize| !avoid(endpoints[at].endpoint());
        let skipped = self.order.iter().take_while(|(_, at)| !allowed(*at));
        let skipped: Vec<_> = skipped.copied().collect();
        let (turn, at) = *self.order.iter().nth(skipped.len())?;
        self.now = turn;
        for (_, at) in skipped {
            self.set(at, turn + stride(endpoints[at].endpoint()));
        }
        self.set(at, turn + stride(endpoints[at].endpoint()));
        self.check_invariants();
        Some(at)
    }

    fn set(&mut self, at: usize, turn: u128) {
        self.order.remove(&(self.turn_by_place[at], at));
        self.order.insert((turn, at));
        self.turn_by_place[at] = turn;
    }

    fn check_invariants(&self) {
        debug_assert_eq!(self.order.len(), self.turn_by_place.len());
    }
}

fn stride(endpoint: &Endpoint) -> u128 {
    let given = WHOLE.saturating_sub(endpoint.load.held_back()).max(1);
    let weight = u128::from(endpoint.weight.max(1)) * u128::from(given);
    ROUND * u128::from(WHOLE) / weight
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::tests::endpoint;

    #[test]
    fn turns_are_spread_over_the_round() {
        let mut it = Subject::new(&[5, 1, 1]);
        it.take(7);
        let round = it.take(7);
        let longest = round.split(|&at| at != 0).map(<[usize]>::len).max();
        assert!(
            longest <= Some(4),
            "the heavy one is not served out first: {round:?}"
        );
    }

    #[test]
    fn who_is_avoided_loses_turns_and_asks_for_none_back() {
        let mut it = Subject::new(&[1, 1]);
        for _ in 0..100 {
            assert_eq!(
                it.turns.choose(&it.all, |e| e.node.as_str() == "n0"),
                Some(1)
            );
        }
        let next = it.take(10);
        assert_eq!(next.iter().filter(|&&at| at == 0).count(), 5, "{next:?}");
    }

    #[test]
    fn nobody_is_chosen_from_nobody() {
        let mut it = Subject::new(&[1, 1]);
        assert_eq!(it.turns.choose(&it.all, |_| true), None);
        assert_eq!(
            Subject::new(&[])
                .turns
                .choose::<Arc<Endpoint>>(&[], |_| false),
            None
        );
    }

    #[test]
    fn what_warms_up_comes_less_often() {
        let mut it = Subject::new(&[100; 4]);
        it.all[0].load.warm_to(0.1);
        let hits = it.take(3_100).iter().filter(|&&at| at == 0).count();
        assert!((99..=102).contains(&hits), "{hits} of 3,100");
    }

    proptest! {
        #[test]
        fn each_round_serves_everybody_by_weight_exactly(weights in prop::collection::vec(1u32..50, 1..20), rounds in 1usize..5) {
            let mut it = Subject::new(&weights);
            let sum: u32 = weights.iter().sum();
            for _ in 0..rounds {
                let round = it.take(sum as usize);
                for (at, weight) in weights.iter().enumerate() {
                    prop_assert_eq!(round.iter().filter(|&&it| it == at).count(), *weight as usize);
                }
            }
        }

        #[test]
        fn changes_keep_turns_with_their_members(removed in prop::collection::vec(0usize..10, 0..10)) {
            let mut it = Subject::new(&[1; 10]);
            for at in removed {
                it.take(3);
                if at < it.all.len() {
                    it.all.swap_remove(at);
                    it.turns.swap_remove(at);
                }
            }
            let n = it.all.len();
            let mut round = it.take(n);
            round.sort_unstable();
            prop_assert_eq!(round, (0..n).collect::<Vec<_>>());
        }
    }

    struct Subject {
        all: Vec<Arc<Endpoint>>,
        turns: Turns,
    }

    impl Subject {
        fn new(weights: &[u32]) -> Self {
            let (mut turns, mut rng) = (Turns::default(), Rng::with_seed(7));
            let all = weights.iter().enumerate();
            let all: Vec<_> = all.map(|(n, &weight)| endpoint(n, weight)).collect();
            all.iter().for_each(|it| turns.push(it, &mut rng));
            Self { all, turns }
        }

        fn take(&mut self, n: usize) -> Vec<usize> {
            let pick = |_| {
                self.turns
                    .choose(&self.all, |_| false)
                    .expect("all are allowed")
            };
            (0..n).map(pick).collect()
        }
    }
}
