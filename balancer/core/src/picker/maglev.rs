//! The same key to the same endpoint, on every balancer, with few keys moving when endpoints come and go (Maglev, NSDI 2016).
//!
//! A table of 65,537 slots is filled by the endpoints in turns, each in an order that only its own id decides, so that whoever builds
//! it from the same members gets the same table. Endpoints that cannot be used for a while stay in it and are walked past: only
//! their keys move, and they come back. An endpoint may have only so much more than its share in flight (consistent hashing with
//! bounded loads); what is above goes to the next one on the walk.

use crate::{
    affinity::Key,
    endpoint::Endpoint,
    load::{Crowd, WHOLE},
    name::NodeId,
};

/// A prime, and more than a hundred times as many as most clusters have nodes, so that shares differ by about a hundredth.
pub const SLOTS: usize = 65_537;

/// Slots a pick looks at before it gives up on the key: with half of the endpoints out of use, the chance to get there is nil.
pub const WALK_MAX: usize = 256;

/// Who gets which keys. One thread builds it, all cores share it.
#[derive(Debug, Default)]
pub struct Table {
    nodes: Vec<NodeId>,
    /// Places in `nodes`; empty if there is no node.
    slots: Vec<u16>,
}

impl Table {
    /// Fills a table with these nodes by their weights; in which order they come makes no difference. More than the slots can
    /// name are left out.
    pub fn build(members: impl IntoIterator<Item = (NodeId, u32)>) -> Self {
        let mut members: Vec<_> = members.into_iter().filter(|it| it.1 > 0).collect();
        members.sort_unstable();
        members.truncate(usize::from(u16::MAX));
        let slots = fill(&members);
        let nodes = members.into_iter().map(|(node, _)| node).collect();
        Self { nodes, slots }
    }

    /// The nodes for this key, the best first, the same one more than once. Each key walks with a step of its own: what cannot go
    /// to one node is spread over all others.
    pub fn walk(&self, key: Key) -> impl Iterator<Item = &NodeId> {
        let start = (key.0 % SLOTS as u64) as usize;
        let step = (key.roll() % (SLOTS as u64 - 1)) as usize + 1;
        (0..WALK_MAX)
            .map_while(move |n| self.slots.get((start + n * step) % SLOTS))
            .map(|&at| &self.nodes[usize::from(at)])
    }
}

/// Whether one more request would take the endpoint above `bound` times its share of all in flight.
///
/// `weights` is the sum over the endpoints that the crowd is made of.
pub fn is_full(endpoint: &Endpoint, crowd: &Crowd, weights: u64, bound: f64) -> bool {
    let given = f64::from(WHOLE.saturating_sub(endpoint.load.held_back())) / f64::from(WHOLE);
    let share = f64::from(endpoint.weight) * given / weights.max(1) as f64;
    let most = (bound * f64::from(crowd.in_flight() + 1) * share).ceil();
    f64::from(endpoint.load.in_flight() + 1) > most.max(1.0)
}

const FREE: u16 = u16::MAX;

/// Rounds go on until every slot is taken. The heaviest takes one slot each round, the others save up for one.
fn fill(members: &[(NodeId, u32)]) -> Vec<u16> {
    let Some(heaviest) = members.iter().map(|it| u64::from(it.1)).max() else {
        return Vec::new();
    };
    let mut orders: Vec<_> = members.iter().map(|(node, _)| Order::of(node)).collect();
    let mut saved: Vec<u64> = vec![0; members.len()];
    let mut slots = vec![FREE; SLOTS];
    let mut free = SLOTS;
    loop {
        for (at, (_, weight)) in members.iter().enumerate() {
            saved[at] += u64::from(*weight);
            if saved[at] < heaviest {
                continue;
            }
            saved[at] -= heaviest;
            let slot = orders[at].next_free(&slots);
            slots[slot] = at as u16;
            free -= 1;
            if free == 0 {
                return slots;
            }
        }
    }
}

/// The order in which one node wants the slots: a walk with a step of its own, which meets every slot because their number is prime.
struct Order {
    at: usize,
    step: usize,
}

impl Order {
    fn of(node: &NodeId) -> Self {
        let hash = Key::of(node.as_str().as_bytes()).0;
        Self {
            at: ((hash >> 32) % SLOTS as u64) as usize,
            step: ((hash & 0xffff_ffff) % (SLOTS as u64 - 1)) as usize + 1,
        }
    }

    fn next_free(&mut self, slots: &[u16]) -> usize {
        loop {
            let at = self.at;
            self.at = (at + self.step) % SLOTS;
            if slots[at] == FREE {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use super::*;
    use crate::load::Load;

    #[test]
    fn shares_follow_the_weights() {
        let mut weights = vec![100; 20];
        weights[7] = 300;
        let table = table(&weights);
        let share = |n: usize| slots_of(&table, &format!("n{n}")) as f64 * 22.0 / SLOTS as f64;
        for (n, weight) in weights.iter().enumerate() {
            let expected = f64::from(*weight) / 100.0;
            assert!(
                (share(n) / expected - 1.0).abs() < 0.02,
                "n{n}: {}",
                share(n)
            );
        }
    }

    #[test]
    fn balancers_agree_however_they_heard_of_the_nodes() {
        let nodes = |n: u32| (NodeId::from(format!("n{n}")), 100 + n);
        let (up, down) = (
            Table::build((0..50).map(nodes)),
            Table::build((0..50).rev().map(nodes)),
        );
        assert_eq!((up.nodes, up.slots), (down.nodes, down.slots));
    }

    #[test]
    fn few_keys_move_when_a_node_comes_or_goes() {
        let (before, after) = (table(&[100; 50]), table(&[100; 51]));
        let moved = moved(&before, &after);
        let least = SLOTS / 51;
        assert!(
            (least - least / 20..2 * least).contains(&moved),
            "{moved} slots moved, {least} had to"
        );
        let to_others = (0..SLOTS as u64)
            .filter(|&key| {
                let (was, is) = (first(&before, key), first(&after, key));
                was != is && is.as_str() != "n50"
            })
            .count();
        assert!(
            to_others < SLOTS / 50,
            "{to_others} moved between nodes that stayed"
        );
    }

    #[test]
    fn a_changed_weight_moves_few_keys() {
        let mut weights = vec![100; 50];
        let before = table(&weights);
        weights[3] = 90;
        let moved = moved(&before, &table(&weights));
        assert!(moved < SLOTS / 50, "{moved} slots moved");
    }

    #[test]
    fn who_is_walked_past_leaves_its_keys_to_all_others() {
        let table = table(&[100; 10]);
        let mut heirs: HashMap<&NodeId, u32> = HashMap::new();
        for key in (0..SLOTS as u64).map(|n| Key::of(&n.to_be_bytes())) {
            let mut walk = table.walk(key);
            if walk.next().is_some_and(|it| it.as_str() == "n3") {
                let heir = walk.find(|it| it.as_str() != "n3");
                *heirs.entry(heir.expect("others follow")).or_default() += 1;
            }
        }
        assert_eq!(heirs.len(), 9);
        assert!(
            heirs.values().all(|&it| (600..900).contains(&it)),
            "{heirs:?}"
        );
    }

    #[test]
    fn nobody_is_in_an_empty_table() {
        assert_eq!(Table::default().walk(Key(5)).next(), None);
        assert_eq!(table(&[0, 0]).walk(Key(5)).next(), None);
    }

    #[test]
    fn no_more_than_its_share_and_a_quarter_goes_to_one() {
        let crowd = Arc::new(Crowd::default());
        let endpoint = |weight| {
            let load = Arc::new(Load::default());
            load.join(crowd.clone());
            Endpoint::new(
                "n".into(),
                0,
                ([127, 0, 0, 1], 1).into(),
                None,
                weight,
                load,
            )
        };
        let (hot, heavy) = (endpoint(100), endpoint(300));
        (0..60).for_each(|_| heavy.load.begin());
        let mut taken = 0;
        while !is_full(&hot, &crowd, 400, 1.25) {
            hot.load.begin();
            taken += 1;
        }
        assert_eq!(taken, 28, "1.25 × 89 / 4, rounded up");
        assert!(!is_full(&heavy, &crowd, 400, 1.25));
        hot.load.warm_to(0.5);
        (0..10).for_each(|_| hot.load.end());
        assert!(
            is_full(&hot, &crowd, 400, 1.25),
            "half of its share is enough while it is new"
        );
    }

    fn moved(before: &Table, after: &Table) -> usize {
        (0..SLOTS as u64)
            .filter(|&key| first(before, key) != first(after, key))
            .count()
    }

    fn first(table: &Table, key: u64) -> &NodeId {
        table.walk(Key(key)).next().expect("the table is not empty")
    }

    fn slots_of(table: &Table, node: &str) -> usize {
        let at = table.nodes.iter().position(|it| it.as_str() == node);
        let at = at.expect("it is in the table") as u16;
        table.slots.iter().filter(|&&it| it == at).count()
    }

    fn table(weights: &[u32]) -> Table {
        let weights = weights.iter().enumerate();
        Table::build(weights.map(|(n, &weight)| (NodeId::from(format!("n{n}")), weight)))
    }
}
