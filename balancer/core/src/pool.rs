//! The endpoints of a service that may get new work, kept so that a change costs one step however many there are.
//!
//! Each core owns its own pool and applies the same changes in the same order; what the cores share is the endpoint's load.
//! A pool does not know why a member came or went: that is `membership`'s to decide.

use std::{collections::HashMap, sync::Arc};

use fastrand::Rng;
use rustc_hash::FxBuildHasher;

use crate::{
    affinity::{Asked, Key},
    endpoint::{Endpoint, Member},
    load::{Crowd, Nanos},
    name::NodeId,
    picker::{Policy, least_requests, maglev, p2c, round_robin::Turns},
    zone::LocalShare,
};

/// What the pools of one service on all cores read and one thread writes.
#[derive(Debug, Default)]
pub struct Shared {
    pub local_share: LocalShare,
    pub local: Arc<Crowd>,
    pub remote: Arc<Crowd>,
}

#[derive(Debug)]
pub struct Pool<E> {
    rules: Rules,
    shared: Arc<Shared>,
    /// Everybody, if the balancer has no zone.
    local: Group<E>,
    remote: Group<E>,
    table: Option<Arc<maglev::Table>>,
}

/// How a pool chooses.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub policy: Policy,
    /// Where the balancer is; endpoints elsewhere get what this zone cannot carry.
    pub zone: Option<String>,
}

/// Members among which the policy chooses.
#[derive(Debug)]
struct Group<E> {
    members: Vec<E>,
    place_by_node: HashMap<NodeId, usize, FxBuildHasher>,
    /// Only kept by members taking turns.
    turns: Option<Turns>,
    /// The sum over the members.
    weights: u64,
}

impl<E: Member + Clone> Default for Pool<E> {
    fn default() -> Self {
        Self::new(Rules::default(), Arc::default())
    }
}

impl<E: Member + Clone> Pool<E> {
    pub fn new(rules: Rules, shared: Arc<Shared>) -> Self {
        let takes_turns = rules.policy == Policy::RoundRobin;
        Self {
            rules,
            shared,
            local: Group::new(takes_turns),
            remote: Group::new(takes_turns),
            table: None,
        }
    }

    pub fn len(&self) -> usize {
        self.local.members.len() + self.remote.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn members(&self) -> impl Iterator<Item = &E> {
        self.local.members.iter().chain(&self.remote.members)
    }

    pub fn get(&self, node: &NodeId) -> Option<&E> {
        self.local.get(node).or_else(|| self.remote.get(node))
    }

    /// Whether the balancer and the endpoint are in the same zone; without zones everybody is near.
    pub fn is_local(&self, endpoint: &Endpoint) -> bool {
        self.rules.zone.is_none() || self.rules.zone == endpoint.zone
    }

    /// Adds `member`, or puts it in the place of the one with the same node id, which is returned.
    pub fn upsert(&mut self, member: E, rng: &mut Rng) -> Option<E> {
        let (home, other) = if self.is_local(member.endpoint()) {
            (&mut self.local, &mut self.remote)
        } else {
            (&mut self.remote, &mut self.local)
        };
        let moved = other.remove(&member.endpoint().node);
        home.upsert(member, rng).or(moved)
    }

    pub fn remove(&mut self, node: &NodeId) -> Option<E> {
        self.local.remove(node).or_else(|| self.remote.remove(node))
    }

    /// Chooses by another policy from now on, among the same members.
    pub fn choose_by(&mut self, policy: Policy, rng: &mut Rng) {
        let takes_turns = policy == Policy::RoundRobin;
        for group in [&mut self.local, &mut self.remote] {
            group.take_turns(takes_turns, rng);
        }
        self.rules.policy = policy;
    }

    /// Who gets which keys, for a pool that chooses by key.
    pub fn set_table(&mut self, table: Arc<maglev::Table>) {
        self.table = Some(table);
    }

    /// Chooses a member to send a request to. `tried` lists the nodes that this request has been to already;
    /// those with as many requests as they may have are left out too.
    ///
    /// A suspected or ejected member is taken only when there is no other: the verdict may be wrong, and refusing the client is
    /// sure to be.
    pub fn pick(
        &mut self,
        now: Nanos,
        rng: &mut Rng,
        asked: &Asked,
        tried: &[NodeId],
    ) -> Option<E> {
        let was_tried = |e: &Endpoint| tried.contains(&e.node) || e.load.is_full();
        let avoid = |e: &Endpoint| e.is_suspected() || e.load.is_ejected() || was_tried(e);
        if let Some(promised) = self.promised(asked, avoid) {
            return Some(promised);
        }
        self.choose(now, rng, asked, avoid)
            .or_else(|| self.choose(now, rng, asked, was_tried))
    }

    fn promised(&self, asked: &Asked, avoid: impl Fn(&Endpoint) -> bool) -> Option<E> {
        let member = self.get(asked.sticky.as_ref()?)?;
        (!avoid(member.endpoint())).then(|| member.clone())
    }

    fn choose(
        &mut self,
        now: Nanos,
        rng: &mut Rng,
        asked: &Asked,
        avoid: impl Fn(&Endpoint) -> bool + Copy,
    ) -> Option<E> {
        if self.remote.members.is_empty() {
            return self.choose_in(Side::Local, now, rng, asked, avoid);
        }
        let roll = asked.key.map_or_else(|| rng.u64(..), Key::roll);
        let sides = if self.shared.local_share.keeps(roll) {
            [Side::Local, Side::Remote]
        } else {
            [Side::Remote, Side::Local]
        };
        sides
            .into_iter()
            .find_map(|side| self.choose_in(side, now, rng, asked, avoid))
    }

    fn choose_in(
        &mut self,
        side: Side,
        now: Nanos,
        rng: &mut Rng,
        asked: &Asked,
        avoid: impl Fn(&Endpoint) -> bool + Copy,
    ) -> Option<E> {
        let (group, crowd) = match side {
            Side::Local => (&mut self.local, &self.shared.local),
            Side::Remote => (&mut self.remote, &self.shared.remote),
        };
        let at = match (&self.rules.policy, &mut group.turns) {
            (Policy::RoundRobin, Some(turns)) => turns.choose(&group.members, avoid),
            (Policy::LeastRequests, _) => least_requests::choose(&group.members, now, rng, avoid),
            (Policy::Maglev { bound }, _) => asked
                .key
                .zip(self.table.as_deref())
                .and_then(|(key, table)| {
                    group.choose_by_key(table, key, avoid, |endpoint, weights| {
                        maglev::is_full(endpoint, crowd, weights, *bound)
                    })
                })
                .or_else(|| p2c::choose(&group.members, now, rng, avoid)),
            _ => p2c::choose(&group.members, now, rng, avoid),
        };
        at.map(|at| group.members[at].clone())
    }
}

#[derive(Clone, Copy)]
enum Side {
    Local,
    Remote,
}

impl<E: Member> Group<E> {
    fn new(takes_turns: bool) -> Self {
        Self {
            members: Vec::new(),
            place_by_node: HashMap::default(),
            turns: takes_turns.then(Turns::default),
            weights: 0,
        }
    }

    fn take_turns(&mut self, takes_turns: bool, rng: &mut Rng) {
        if self.turns.is_some() == takes_turns {
            return;
        }
        self.turns = takes_turns.then(Turns::default);
        if let Some(turns) = &mut self.turns {
            let members = self.members.iter();
            members.for_each(|it| turns.push(it.endpoint(), rng));
        }
    }

    fn get(&self, node: &NodeId) -> Option<&E> {
        self.place_by_node.get(node).map(|&at| &self.members[at])
    }

    fn upsert(&mut self, member: E, rng: &mut Rng) -> Option<E> {
        let node = member.endpoint().node.clone();
        self.weights += u64::from(member.endpoint().weight);
        let replaced = match self.place_by_node.get(&node) {
            Some(&at) => Some(std::mem::replace(&mut self.members[at], member)),
            None => {
                self.place_by_node.insert(node, self.members.len());
                if let Some(turns) = &mut self.turns {
                    turns.push(member.endpoint(), rng);
                }
                self.members.push(member);
                None
            }
        };
        self.weigh_less(replaced.as_ref());
        self.check_ends();
        replaced
    }

    fn remove(&mut self, node: &NodeId) -> Option<E> {
        let at = self.place_by_node.remove(node)?;
        let removed = self.members.swap_remove(at);
        if let Some(turns) = &mut self.turns {
            turns.swap_remove(at);
        }
        if let Some(moved) = self.members.get(at) {
            self.place_by_node.insert(moved.endpoint().node.clone(), at);
        }
        self.weigh_less(Some(&removed));
        self.check_ends();
        Some(removed)
    }

    /// The first on the key's walk that is not full; if all are, the first that may be used at all.
    fn choose_by_key(
        &self,
        table: &maglev::Table,
        key: Key,
        avoid: impl Fn(&Endpoint) -> bool,
        is_full: impl Fn(&Endpoint, u64) -> bool,
    ) -> Option<usize> {
        let mut first = None;
        for node in table.walk(key) {
            let Some(&at) = self.place_by_node.get(node) else {
                continue;
            };
            let endpoint = self.members[at].endpoint();
            if avoid(endpoint) {
                continue;
            }
            if !is_full(endpoint, self.weights) {
                return Some(at);
            }
            first.get_or_insert(at);
        }
        first
    }

    fn weigh_less(&mut self, gone: Option<&E>) {
        self.weights -= gone.map_or(0, |it| u64::from(it.endpoint().weight));
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
        pool.upsert(a.clone(), &mut Rng::new());
        pool.upsert(b.clone(), &mut Rng::new());
        a.suspect();
        assert_eq!(picked(&mut pool, &[]), Some("n2".into()));
        assert_eq!(picked(&mut pool, &["n2".into()]), Some("n1".into()));
        assert_eq!(picked(&mut pool, &["n1".into(), "n2".into()]), None);
        a.trust();
        b.suspect();
        assert_eq!(picked(&mut pool, &[]), Some("n1".into()));
    }

    #[test]
    fn an_ejected_member_is_the_last_resort() {
        let mut pool = pool_of(Policy::P2c, None, 2);
        let ejected = pool.get(&"n0".into()).expect("it is in").clone();
        ejected.load.set_ejected(true);
        for _ in 0..50 {
            assert_eq!(picked(&mut pool, &[]), Some("n1".into()));
        }
        assert_eq!(picked(&mut pool, &["n1".into()]), Some("n0".into()));
    }

    #[test]
    fn a_promise_is_kept_while_the_node_can_be_used() {
        for policy in policies() {
            let mut pool = pool_of(policy, None, 5);
            let asked = Asked {
                sticky: Some("n3".into()),
                ..Asked::default()
            };
            let pick = |pool: &mut Pool<Arc<Endpoint>>| {
                let picked = pool.pick(Nanos(0), &mut Rng::new(), &asked, &[]);
                picked.expect("there are others").node.clone()
            };
            for _ in 0..20 {
                assert_eq!(pick(&mut pool).as_str(), "n3");
            }
            let promised = pool.get(&"n3".into()).expect("it is in").clone();
            promised.suspect();
            assert_ne!(pick(&mut pool).as_str(), "n3", "suspected");
            promised.trust();
            assert_eq!(pick(&mut pool).as_str(), "n3");
            pool.remove(&"n3".into());
            assert_ne!(
                pick(&mut pool).as_str(),
                "n3",
                "a leaving node is withdrawn"
            );
        }
    }

    #[test]
    fn every_policy_prefers_its_zone_and_spills_over() {
        for policy in policies() {
            let mut pool = pool_of(policy.clone(), Some("here"), 10);
            let mut local_of = |share| {
                pool.shared.local_share.set(share);
                let mut rng = Rng::with_seed(7);
                let is_local = |n: &u64| {
                    let asked = Asked {
                        key: Some(Key::of(&n.to_be_bytes())),
                        ..Asked::default()
                    };
                    let picked = pool.pick(Nanos(0), &mut rng, &asked, &[]);
                    picked.expect("all are allowed").zone.as_deref() == Some("here")
                };
                (0..2_000).filter(is_local).count()
            };
            assert_eq!(local_of(1.0), 2_000, "{policy:?}");
            assert_eq!(local_of(0.0), 0, "{policy:?}");
            let half = local_of(0.5);
            assert!((900..1_100).contains(&half), "{policy:?}: {half}");
        }
    }

    #[test]
    fn a_zone_of_which_nobody_can_be_used_is_left() {
        let mut pool = pool_of(Policy::P2c, Some("here"), 4);
        for n in [0, 2] {
            let local = pool.get(&format!("n{n}").as_str().into()).cloned();
            local.expect("it is in").suspect();
        }
        for _ in 0..50 {
            let node = picked(&mut pool, &[]).expect("there are others");
            assert!(["n1", "n3"].contains(&node.as_str()), "{node}");
        }
    }

    #[test]
    fn equal_keys_meet_and_without_a_key_load_decides() {
        let mut pool = pool_of(Policy::Maglev { bound: 1.25 }, None, 10);
        let mut rng = Rng::with_seed(7);
        let mut nodes_of = |key: Option<Key>| {
            let asked = Asked {
                key,
                ..Asked::default()
            };
            let picks = (0..200).map(|_| {
                let picked = pool.pick(Nanos(0), &mut rng, &asked, &[]);
                picked.expect("all are allowed").node.clone()
            });
            picks.collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(nodes_of(Some(Key(5))), 1);
        assert_eq!(nodes_of(None), 10);
    }

    #[test]
    fn a_hot_key_spills_to_others() {
        let shared = Arc::new(Shared::default());
        let mut pool = Pool::new(rules(Policy::Maglev { bound: 1.25 }, None), shared.clone());
        let mut rng = Rng::with_seed(7);
        for n in 0..10 {
            let load = Arc::new(Load::default());
            load.join(shared.local.clone());
            pool.upsert(endpoint_with(n, None, load), &mut rng);
        }
        pool.set_table(Arc::new(maglev::Table::build(
            (0..10).map(|n| (format!("n{n}").into(), WEIGHT)),
        )));
        let asked = Asked {
            key: Some(Key(5)),
            ..Asked::default()
        };
        for _ in 0..1_000 {
            let picked = pool.pick(Nanos(0), &mut rng, &asked, &[]);
            picked.expect("all are allowed").load.begin();
        }
        let most = pool.members().map(|it| it.load.in_flight()).max();
        assert_eq!(most, Some(125), "a quarter above its share of 1,000");
    }

    #[test]
    fn a_pool_keeps_its_members_under_every_policy() {
        let mut pool = pool_of(Policy::P2c, None, 6);
        let mut rng = Rng::with_seed(7);
        for policy in policies().into_iter().chain(policies().into_iter().rev()) {
            pool.choose_by(policy.clone(), &mut rng);
            pool.remove(&"n5".into());
            pool.upsert(endpoint_with(5, None, Arc::default()), &mut rng);
            let asked = |n: u64| Asked {
                key: Some(Key::of(&n.to_be_bytes())),
                ..Asked::default()
            };
            let picks = (0..300).filter_map(|n| pool.pick(Nanos(0), &mut rng, &asked(n), &[]));
            let nodes: std::collections::BTreeSet<_> = picks.map(|it| it.node.clone()).collect();
            assert_eq!(nodes.len(), 6, "{policy:?}");
        }
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
                    let replaced = pool.upsert(member, &mut Rng::new()).map(|e| e.incarnation);
                    prop_assert_eq!(replaced, model.insert(node, incarnation));
                } else {
                    prop_assert_eq!(pool.remove(&node).map(|e| e.incarnation), model.remove(&node));
                }
            }
            let held: BTreeMap<_, _> = pool.members().map(|e| (e.node.clone(), e.incarnation)).collect();
            prop_assert_eq!(held, model);
        }
    }

    fn picked(pool: &mut Pool<Arc<Endpoint>>, tried: &[NodeId]) -> Option<NodeId> {
        pool.pick(Nanos(0), &mut Rng::new(), &Asked::default(), tried)
            .map(|e| e.node.clone())
    }

    fn policies() -> [Policy; 4] {
        [
            Policy::P2c,
            Policy::LeastRequests,
            Policy::RoundRobin,
            Policy::Maglev { bound: 1.25 },
        ]
    }

    /// The even ones are here, the odd ones there.
    fn pool_of(policy: Policy, zone: Option<&str>, n: u16) -> Pool<Arc<Endpoint>> {
        let mut pool = Pool::new(rules(policy, zone), Arc::default());
        for n in 0..n {
            let zone = if n % 2 == 0 { "here" } else { "there" };
            pool.upsert(
                endpoint_with(n, Some(zone), Arc::default()),
                &mut Rng::with_seed(7),
            );
        }
        let nodes = (0..n).map(|n| (format!("n{n}").into(), WEIGHT));
        pool.set_table(Arc::new(maglev::Table::build(nodes)));
        pool
    }

    fn rules(policy: Policy, zone: Option<&str>) -> Rules {
        Rules {
            policy,
            zone: zone.map(str::to_owned),
        }
    }

    fn endpoint_with(n: u16, zone: Option<&str>, load: Arc<Load>) -> Arc<Endpoint> {
        let address = ([127, 0, 0, 1], 1000 + n).into();
        let zone = zone.map(str::to_owned);
        let node = format!("n{n}").into();
        Arc::new(Endpoint::new(node, 1, address, zone, WEIGHT, load))
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
