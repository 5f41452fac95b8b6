//! The endpoints of a service that may get new work, kept so that a change costs one step however many there are.
//!
//! Each core owns its own pool and applies the same changes in the same order; what the cores share is the endpoint's load.
//! A pool does not know why a member came or went: that is `membership`'s to decide.

use std::collections::HashMap;

use fastrand::Rng;
use rustc_hash::FxBuildHasher;

use crate::{
    endpoint::{Endpoint, Member},
    load::Nanos,
    name::NodeId,
    picker::p2c,
};

#[derive(Debug)]
pub struct Pool<E> {
    members: Vec<E>,
    place_by_node: HashMap<NodeId, usize, FxBuildHasher>,
}

impl<E> Default for Pool<E> {
    fn default() -> Self {
        Self {
            members: Vec::new(),
            place_by_node: HashMap::default(),
        }
    }
}

impl<E: Member + Clone> Pool<E> {
    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn members(&self) -> &[E] {
        &self.members
    }

    pub fn get(&self, node: &NodeId) -> Option<&E> {
        self.place_by_node.get(node).map(|&at| &self.members[at])
    }

    /// Adds `member`, or puts it in the place of the one with the same node id, which is returned.
    pub fn upsert(&mut self, member: E) -> Option<E> {
        let node = member.endpoint().node.clone();
        let replaced = match self.place_by_node.get(&node) {
            Some(&at) => Some(std::mem::replace(&mut self.members[at], member)),
            None => {
                self.place_by_node.insert(node, self.members.len());
                self.members.push(member);
                None
            }
        };
        self.check_ends();
        replaced
    }

    pub fn remove(&mut self, node: &NodeId) -> Option<E> {
        let at = self.place_by_node.remove(node)?;
        let removed = self.members.swap_remove(at);
        if let Some(moved) = self.members.get(at) {
            self.place_by_node.insert(moved.endpoint().node.clone(), at);
        }
        self.check_ends();
        Some(removed)
    }

    /// Chooses a member to send a request to. `tried` lists the nodes that this request has been to already;
    /// those with as many requests as they may have are left out too.
    ///
    /// A suspected member is taken only when there is no other: a suspicion may be wrong, and refusing the client is sure to be.
    pub fn pick(&self, now: Nanos, rng: &mut Rng, tried: &[NodeId]) -> Option<E> {
        let was_tried = |e: &Endpoint| tried.contains(&e.node) || e.load.is_full();
        let at = p2c::choose(&self.members, now, rng, |e| {
            e.is_suspected() || was_tried(e)
        })
        .or_else(|| p2c::choose(&self.members, now, rng, was_tried))?;
        Some(self.members[at].clone())
    }

    /// Checks the two ends of the list only: a full check would make every change cost the whole pool in debug builds.
    fn check_ends(&self) {
        debug_assert_eq!(self.members.len(), self.place_by_node.len());
        for at in [0, self.members.len().wrapping_sub(1)] {
            if let Some(member) = self.members.get(at) {
                debug_assert_eq!(self.place_by_node.get(&member.endpoint().node), Some(&at));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;
    use crate::{endpoint::WEIGHT, load::Load};

    #[test]
    fn a_suspected_member_is_the_last_resort() {
        let mut pool = Pool::default();
        let (a, b) = (endpoint(1, 1), endpoint(2, 1));
        pool.upsert(a.clone());
        pool.upsert(b.clone());
        a.suspect();
        assert_eq!(picked(&pool, &[]), Some("n2".into()));
        assert_eq!(picked(&pool, &["n2".into()]), Some("n1".into()));
        assert_eq!(picked(&pool, &["n1".into(), "n2".into()]), None);
        a.trust();
        b.suspect();
        assert_eq!(picked(&pool, &[]), Some("n1".into()));
    }

    proptest! {
        #[test]
        fn any_sequence_of_changes_leaves_what_a_map_would(changes in prop::collection::vec((any::<bool>(), 0u16..20, 0u64..5), 0..200)) {
            let mut pool = Pool::default();
            let mut model = BTreeMap::new();
            for (add, n, incarnation) in changes {
                let member = endpoint(n, incarnation);
                let node = member.node.clone();
                if add {
                    let replaced = pool.upsert(member).map(|e| e.incarnation);
                    prop_assert_eq!(replaced, model.insert(node, incarnation));
                } else {
                    prop_assert_eq!(pool.remove(&node).map(|e| e.incarnation), model.remove(&node));
                }
            }
            let held: BTreeMap<_, _> = pool.members().iter().map(|e| (e.node.clone(), e.incarnation)).collect();
            prop_assert_eq!(held, model);
        }
    }

    fn picked(pool: &Pool<Arc<Endpoint>>, tried: &[NodeId]) -> Option<NodeId> {
        pool.pick(Nanos(0), &mut Rng::new(), tried)
            .map(|e| e.node.clone())
    }

    fn endpoint(n: u16, incarnation: u64) -> Arc<Endpoint> {
        let address = ([127, 0, 0, 1], 1000 + n).into();
        let load = Arc::new(Load::default());
        Arc::new(Endpoint::new(
            format!("n{n}").into(),
            incarnation,
            address,
            None,
            WEIGHT,
            load,
        ))
    }
}
