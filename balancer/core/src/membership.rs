//! Who may get new work: what the registry says, what DNS says and what probes see, made into one answer per endpoint.
//!
//! One rule keeps a dead etcd harmless: *a node that vanishes without having said that it is leaving is believed gone only
//! when a probe agrees*. So an emptied, restored or unreachable registry removes nobody who still answers, and a node that
//! crashed goes as soon as it is seen to be dead. What nobody probes away is forgotten after [`Rules::lost_for_max`].
//!
//! This file owns no socket and no clock: shells hand in facts with `handle_*`, and obey what [`Membership::next_command`] says.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::{
    endpoint::{Endpoint, WEIGHT},
    health::{Health, Policy, State},
    load::{Load, Nanos},
    name::{NodeId, ServiceName},
    overrides::{Override, OverrideError, Overrides},
    picker::maglev,
};

mod selection;

use selection::{Counted, Selection};
pub use selection::{Picking, Selected};

/// Names a service for as long as it is configured: its place in the list given to [`Membership::new`], or the one given to
/// [`Membership::handle_service`]. It is never used again for another service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceIdx(pub usize);

/// A service whose endpoints this balancer keeps track of.
#[derive(Debug, Clone)]
pub struct Watched {
    pub name: ServiceName,
    pub source: Source,
    pub probing: Policy,
    pub picking: Picking,
}

/// Where a service's endpoints come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Registry,
    /// A fixed list or a DNS name: the newest answer is the whole truth, and an absent address has left politely.
    Addresses,
}

#[derive(Debug, Clone)]
pub struct Rules {
    /// How long a node that vanished from the registry is kept while nothing proves it dead.
    pub lost_for_max: Duration,
    /// Where this balancer is.
    pub zone: Option<String>,
}

/// What a registry knows of a node, in the core's own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    pub id: String,
    pub incarnation: u64,
    pub zone: Option<String>,
    pub weight: u32,
    pub leaving: bool,
    pub addresses: BTreeMap<String, SocketAddr>,
}

/// What a shell has to do.
#[derive(Debug)]
pub enum Command {
    /// Every core may send new work there; replaces an endpoint of the same node.
    Offer {
        service: ServiceIdx,
        endpoint: Arc<Endpoint>,
    },
    /// No core may send new work there.
    Withdraw { service: ServiceIdx, node: NodeId },
    /// An endpoint that was suspected is trusted again; who waits for one may look.
    Trust { service: ServiceIdx },
    /// Who gets which keys, for a service that is picked from by key.
    Table {
        service: ServiceIdx,
        table: Arc<maglev::Table>,
    },
    /// Find out whether the endpoint answers and report with [`Membership::handle_probe`].
    Probe {
        service: ServiceIdx,
        endpoint: Arc<Endpoint>,
    },
}

/// Why an endpoint is in its present state, for people.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    pub service: String,
    pub node: String,
    pub address: SocketAddr,
    pub incarnation: u64,
    pub zone: Option<String>,
    pub weight: u32,
    pub presence: &'static str,
    pub health: &'static str,
    pub offered: bool,
    pub suspected: bool,
    pub ejected: bool,
    pub in_flight: u32,
    /// Requests begun, modulo 2³²: two readings tell a rate.
    pub begun: u32,
    /// What the next pick goes by; none until it has answered.
    pub latency_us: Option<u64>,
    #[serde(rename = "override")]
    pub order: Option<Override>,
}

type Key = (ServiceIdx, NodeId);

#[derive(Debug)]
pub struct Membership {
    rules: Rules,
    service_by_idx: BTreeMap<ServiceIdx, Watched>,
    /// The registry's last word of every node, for services that are configured later.
    facts_by_id: BTreeMap<String, NodeFacts>,
    idx_by_name: HashMap<ServiceName, ServiceIdx>,
    member_by_key: BTreeMap<Key, Member>,
    services_by_node: HashMap<NodeId, Vec<ServiceIdx>>,
    wake_ups: BTreeSet<(Instant, Key)>,
    lost_by_address: HashMap<(ServiceIdx, SocketAddr), NodeId>,
    /// Loads outlive their endpoints while requests are in flight, and a node that returns finds its counts again.
    load_by_key: HashMap<Key, Weak<Load>>,
    overrides: Overrides,
    in_touch: bool,
    /// The registry, or this balancer's memory of it, has said once who is there.
    has_stock: bool,
    selection: Selection,
    rng: Rng,
    commands: VecDeque<Command>,
}

#[derive(Debug)]
struct Member {
    /// As the cores know it: its weight is the operator's, if one was ordered.
    endpoint: Arc<Endpoint>,
    announced_weight: u32,
    order: Override,
    presence: Presence,
    health: Health,
    /// The cores hold an endpoint of this key.
    offered: bool,
    /// What the cores hold is not this endpoint object.
    outdated: bool,
    counted: Option<Counted>,
    wake_up: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Announced,
    /// It asked for no new work; what it has in flight may end.
    Leaving,
    /// It vanished without a word.
    Lost {
        since: Instant,
    },
}

impl Membership {
    pub fn new(rules: Rules, services: Vec<Watched>, rng: Rng) -> Self {
        let idx_by_name = (0..)
            .map(ServiceIdx)
            .zip(&services)
            .map(|(idx, service)| (service.name.clone(), idx))
            .collect();
        Self {
            selection: Selection::new(rules.zone.clone(), &services),
            rules,
            service_by_idx: (0..).map(ServiceIdx).zip(services).collect(),
            facts_by_id: BTreeMap::new(),
            idx_by_name,
            member_by_key: BTreeMap::new(),
            services_by_node: HashMap::new(),
            wake_ups: BTreeSet::new(),
            lost_by_address: HashMap::new(),
            load_by_key: HashMap::new(),
            overrides: Overrides::default(),
            in_touch: false,
            has_stock: false,
            rng,
            commands: VecDeque::new(),
        }
    }

    pub fn handle_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// A service is watched from now on, or is to be probed or picked from in another way. Where its endpoints come from never
    /// changes: a service with another source is another one.
    pub fn handle_service(&mut self, now: Instant, service: ServiceIdx, watched: Watched) {
        self.tell_time(now);
        self.idx_by_name.insert(watched.name.clone(), service);
        let (probing, source) = (watched.probing.clone(), watched.source);
        let picking = watched.picking.clone();
        let known = self.service_by_idx.insert(service, watched);
        self.repick(service, picking);
        if known.is_some() {
            debug_assert_eq!(known.map(|it| it.source), Some(source));
            self.reprobe(now, service, &probing);
        } else if source == Source::Registry {
            self.take_in_known(now, service);
        }
    }

    /// A service is watched no more; what is still heard of it means nothing.
    pub fn handle_service_gone(&mut self, service: ServiceIdx) {
        let members: Vec<Key> = self.keys_of(service).cloned().collect();
        for key in members {
            self.forget(&key);
        }
        // Another service may have got the name since.
        self.idx_by_name.retain(|_, idx| *idx != service);
        self.service_by_idx.remove(&service);
        self.selection.forget(service);
    }

    /// The registry's whole list: whoever is not on it has vanished.
    pub fn handle_list(&mut self, now: Instant, nodes: Vec<NodeFacts>) {
        self.tell_time(now);
        self.in_touch = true;
        self.facts_by_id.clear();
        let listed: BTreeSet<NodeId> = nodes.iter().map(|n| n.id.as_str().into()).collect();
        let vanished: BTreeSet<NodeId> = self
            .member_by_key
            .keys()
            .filter(|(service, node)| self.is_from_registry(*service) && !listed.contains(node))
            .map(|(_, node)| node.clone())
            .collect();
        self.selection.taking_stock = !std::mem::replace(&mut self.has_stock, true);
        for node in nodes {
            self.take_in(now, node);
        }
        self.selection.taking_stock = false;
        for node in vanished {
            self.lose(now, &node);
        }
    }

    pub fn handle_put(&mut self, now: Instant, node: NodeFacts) {
        self.tell_time(now);
        self.in_touch = true;
        self.take_in(now, node);
    }

    pub fn handle_delete(&mut self, now: Instant, node: &NodeId) {
        self.tell_time(now);
        self.in_touch = true;
        self.facts_by_id.remove(node.as_str());
        self.lose(now, node);
    }

    /// The registry cannot be reached: its silence says nothing about anybody.
    pub fn handle_silence(&mut self) {
        self.in_touch = false;
    }

    /// What was known before this process started, from its own memory of it.
    pub fn handle_recall(&mut self, now: Instant, nodes: Vec<NodeFacts>) {
        self.tell_time(now);
        self.has_stock |= !nodes.is_empty();
        self.selection.taking_stock = true;
        for node in nodes {
            let id = NodeId::from(node.id.as_str());
            self.take_in(now, node);
            self.lose(now, &id);
        }
        self.selection.taking_stock = false;
    }

    /// The addresses of a fixed or DNS service. An empty answer is taken for a fault of the name server, not for an exodus.
    pub fn handle_addresses(
        &mut self,
        now: Instant,
        service: ServiceIdx,
        addresses: &[SocketAddr],
    ) {
        self.tell_time(now);
        if addresses.is_empty() || !self.service_by_idx.contains_key(&service) {
            return;
        }
        let listed: BTreeSet<NodeId> = addresses.iter().map(address_id).collect();
        let gone: Vec<Key> = self
            .keys_of(service)
            .filter(|(_, node)| !listed.contains(node))
            .cloned()
            .collect();
        for key in gone {
            self.forget(&key);
        }
        let is_first_answer = self.keys_of(service).next().is_none();
        self.selection.taking_stock = is_first_answer;
        for address in addresses {
            let load = self.load_of(&(service, address_id(address)), None);
            let endpoint = Endpoint::new(address_id(address), 0, *address, None, WEIGHT, load);
            self.upsert(now, service, endpoint, Presence::Announced);
        }
        self.selection.taking_stock = false;
    }

    /// What a probe of this life of the endpoint found.
    pub fn handle_probe(&mut self, now: Instant, service: ServiceIdx, probed: &Endpoint, ok: bool) {
        self.tell_time(now);
        let key = (service, probed.node.clone());
        let in_touch = self.in_touch;
        let Some(member) = self.member_by_key.get_mut(&key) else {
            return;
        };
        if !member.endpoint.is_same_life(probed) {
            return;
        }
        let was_ill = member.health.state() == State::Unhealthy;
        member.health.on_probe(now, ok, &mut self.rng);
        let is_back = was_ill && member.health.state() == State::Healthy;
        if !member.health.is_suspected() && ok && member.endpoint.is_suspected() {
            member.endpoint.trust();
            self.commands.push_back(Command::Trust { service });
        }
        let believed_gone = matches!(member.presence, Presence::Lost { .. }) && !ok && in_touch;
        if is_back {
            // Whatever it was ejected for, it has most likely been restarted since.
            self.release(&key);
        }
        if believed_gone {
            self.forget(&key);
        } else {
            self.settle(&key);
        }
    }

    /// A core could not reach the endpoint, or lost a connection to it in an unfriendly way.
    pub fn handle_suspicion(&mut self, now: Instant, service: ServiceIdx, node: &NodeId) {
        self.tell_time(now);
        let key = (service, node.clone());
        if let Some(member) = self.member_by_key.get_mut(&key) {
            member.health.on_suspect(now);
            self.settle(&key);
        }
    }

    /// An operator orders something about a node of this balancer, or takes the order back with one that orders nothing.
    ///
    /// # Errors
    /// When nobody knows the node, or too many are overridden already.
    pub fn set_override(&mut self, node: &NodeId, order: Override) -> Result<(), OverrideError> {
        let is_known =
            self.services_by_node.contains_key(node) || !self.overrides.of(node).is_none();
        if !is_known {
            return Err(OverrideError::UnknownNode);
        }
        self.overrides.set(node.clone(), order)?;
        for service in self.services_by_node.get(node).cloned().unwrap_or_default() {
            self.reorder(&(service, node.clone()), order);
        }
        Ok(())
    }

    /// What operators ordered before this process started; the nodes may not have announced themselves yet.
    pub fn recall_overrides(&mut self, orders: impl IntoIterator<Item = (NodeId, Override)>) {
        for (node, order) in orders {
            // More than there may be can only come from a file that another version wrote.
            let _ = self.overrides.set(node, order);
        }
    }

    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// When [`Membership::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let probe = self.wake_ups.first().map(|(at, _)| *at);
        [probe, self.selection.next_wake_up()]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.tell_time(now);
        while let Some((at, key)) = self.wake_ups.first().cloned() {
            if at > now {
                break;
            }
            self.wake(now, &key);
        }
        self.wake_selection(now);
    }

    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front().or_else(|| self.next_table())
    }

    fn service_idx(&self, name: &str) -> Option<ServiceIdx> {
        self.idx_by_name.get(name).copied()
    }

    /// The registry's nodes as far as known, to be remembered across a restart.
    pub fn facts(&self) -> Vec<NodeFacts> {
        let mut by_node: BTreeMap<&NodeId, NodeFacts> = BTreeMap::new();
        for ((service, node), member) in &self.member_by_key {
            if !self.is_from_registry(*service) || member.presence == Presence::Leaving {
                continue;
            }
            let endpoint = &member.endpoint;
            let facts = by_node.entry(node).or_insert_with(|| NodeFacts {
                id: node.to_string(),
                incarnation: endpoint.incarnation,
                zone: endpoint.zone.clone(),
                weight: member.announced_weight,
                leaving: false,
                addresses: BTreeMap::new(),
            });
            let name = self.service_by_idx[service].name.to_string();
            facts.addresses.insert(name, endpoint.address);
        }
        by_node.into_values().collect()
    }

    /// How many endpoints of a service are known, and how many of them are offered new work.
    pub fn count(&self, service: ServiceIdx) -> (usize, usize) {
        let mut counts = (0, 0);
        for key in self.keys_of(service) {
            counts.0 += 1;
            counts.1 += usize::from(self.member_by_key[key].offered);
        }
        counts
    }

    pub fn standings(&self, now: Nanos) -> Vec<Standing> {
        self.member_by_key
            .iter()
            .map(|((service, _), member)| member.standing(now, &self.service_by_idx[service].name))
            .collect()
    }

    fn take_in(&mut self, now: Instant, node: NodeFacts) {
        let id = NodeId::from(node.id.as_str());
        let served: Vec<ServiceIdx> = node
            .addresses
            .keys()
            .filter_map(|name| self.service_idx(name))
            .filter(|service| self.is_from_registry(*service))
            .collect();
        for service in self.services_by_node.get(&id).cloned().unwrap_or_default() {
            let serves_no_more = !served.contains(&service);
            let key = (service, id.clone());
            if serves_no_more && self.is_from_registry(service) && !self.is_outdated(&key, &node) {
                self.forget(&key);
            }
        }
        for service in served {
            self.take_in_for(now, service, &node);
        }
        let known = self.facts_by_id.get(&node.id);
        if known.is_none_or(|it| it.incarnation <= node.incarnation) {
            self.facts_by_id.insert(node.id.clone(), node);
        }
    }

    /// What a node's record says about one service.
    fn take_in_for(&mut self, now: Instant, service: ServiceIdx, node: &NodeFacts) {
        let id = NodeId::from(node.id.as_str());
        let key = (service, id.clone());
        let name = &self.service_by_idx[&service].name;
        let Some(&address) = node.addresses.get(name.as_str()) else {
            return;
        };
        if self.is_outdated(&key, node) {
            return;
        }
        let presence = if node.leaving {
            Presence::Leaving
        } else {
            Presence::Announced
        };
        let load = self.load_of(&key, node.zone.as_deref());
        let (zone, weight) = (node.zone.clone(), node.weight);
        let endpoint = Endpoint::new(id, node.incarnation, address, zone, weight, load);
        self.upsert(now, service, endpoint, presence);
    }

    /// The nodes that serve a service which is configured only now: they are not new, nobody has asked for them before.
    fn take_in_known(&mut self, now: Instant, service: ServiceIdx) {
        let nodes: Vec<_> = self.facts_by_id.values().cloned().collect();
        self.selection.taking_stock = true;
        for node in &nodes {
            self.take_in_for(now, service, node);
        }
        self.selection.taking_stock = false;
    }

    fn reprobe(&mut self, now: Instant, service: ServiceIdx, probing: &Policy) {
        let members: Vec<Key> = self.keys_of(service).cloned().collect();
        for key in members {
            if let Some(member) = self.member_by_key.get_mut(&key) {
                member.health.adopt(probing.clone(), now, &mut self.rng);
                self.settle(&key);
            }
        }
    }

    /// A record of an earlier life that arrives late, after the node's newer life announced itself.
    fn is_outdated(&self, key: &Key, node: &NodeFacts) -> bool {
        self.member_by_key
            .get(key)
            .is_some_and(|member| node.incarnation < member.endpoint.incarnation)
    }

    fn upsert(
        &mut self,
        now: Instant,
        service: ServiceIdx,
        mut endpoint: Endpoint,
        presence: Presence,
    ) {
        let key = (service, endpoint.node.clone());
        let announced = endpoint.weight;
        endpoint.weight = self.overrides.of(&endpoint.node).weight_above(announced);
        self.forget_lost_at(service, &endpoint);
        match self.member_by_key.get_mut(&key) {
            Some(member) if member.endpoint.is_same_life(&endpoint) => {
                member.presence = presence;
                member.announced_weight = announced;
                if !member.endpoint.is_described_as(&endpoint) {
                    member.replace(endpoint);
                }
            }
            _ => self.begin(now, &key, endpoint, announced, presence),
        }
        self.settle(&key);
    }

    /// Brings one endpoint of a node in line with what was ordered about the node.
    fn reorder(&mut self, key: &Key, order: Override) {
        let Some(member) = self.member_by_key.get_mut(key) else {
            return;
        };
        member.order = order;
        let weight = order.weight_above(member.announced_weight);
        if weight != member.endpoint.weight {
            let endpoint = member.endpoint.with_weight(weight);
            member.replace(endpoint);
        }
        self.settle(key);
    }

    /// A new life of a node: nothing that was known of the last one's health applies.
    fn begin(
        &mut self,
        now: Instant,
        key: &Key,
        endpoint: Endpoint,
        announced_weight: u32,
        presence: Presence,
    ) {
        let health = Health::new(
            self.service_by_idx[&key.0].probing.clone(),
            now,
            &mut self.rng,
        );
        let wake_up = health.next_wake_up();
        self.begin_anew(now, key, &endpoint.load);
        let old = self.member_by_key.remove(key);
        if let Some(old) = &old {
            self.wake_ups.remove(&(old.wake_up, key.clone()));
        } else {
            self.services_by_node
                .entry(key.1.clone())
                .or_default()
                .push(key.0);
        }
        let member = Member {
            order: self.overrides.of(&key.1),
            endpoint: Arc::new(endpoint),
            announced_weight,
            presence,
            health,
            // Cores replace an endpoint by node id, so an offer of the new life ends the old one without a gap.
            offered: old.is_some_and(|old| old.offered),
            outdated: true,
            counted: None,
            wake_up,
        };
        self.wake_ups.insert((wake_up, key.clone()));
        self.member_by_key.insert(key.clone(), member);
    }

    /// A node that was lost has returned, or somebody else lives at its address and probes would tell of the wrong one.
    fn forget_lost_at(&mut self, service: ServiceIdx, newcomer: &Endpoint) {
        if let Some(node) = self.lost_by_address.remove(&(service, newcomer.address))
            && node != newcomer.node
        {
            self.forget(&(service, node));
        }
    }

    fn lose(&mut self, now: Instant, node: &NodeId) {
        for service in self.services_by_node.get(node).cloned().unwrap_or_default() {
            if self.is_from_registry(service) {
                self.lose_one(now, &(service, node.clone()));
            }
        }
    }

    fn lose_one(&mut self, now: Instant, key: &Key) {
        let in_touch = self.in_touch;
        let Some(member) = self.member_by_key.get_mut(key) else {
            return;
        };
        match member.presence {
            Presence::Leaving => self.forget(key),
            Presence::Lost { .. } => {}
            Presence::Announced if in_touch && member.health.state() == State::Unhealthy => {
                self.forget(key)
            }
            Presence::Announced => {
                member.presence = Presence::Lost { since: now };
                member.health.probe_soon(now);
                let address = member.endpoint.address;
                self.lost_by_address.insert((key.0, address), key.1.clone());
                self.settle(key);
            }
        }
    }

    fn wake(&mut self, now: Instant, key: &Key) {
        let Some(member) = self.member_by_key.get_mut(key) else {
            debug_assert!(false, "a wake-up belongs to a member");
            return;
        };
        if let Presence::Lost { since } = member.presence
            && now.saturating_duration_since(since) >= self.rules.lost_for_max
        {
            self.forget(key);
            return;
        }
        if member.health.begin_probe(now, &mut self.rng) {
            let endpoint = member.endpoint.clone();
            self.commands.push_back(Command::Probe {
                service: key.0,
                endpoint,
            });
        }
        self.settle(key);
    }

    /// Takes in what has changed about a member, and re-arms its wake-up.
    fn settle(&mut self, key: &Key) {
        let Some(member) = self.member_by_key.get_mut(key) else {
            return;
        };
        let wake_up = member.health.next_wake_up();
        if wake_up != member.wake_up {
            self.wake_ups.remove(&(member.wake_up, key.clone()));
            self.wake_ups.insert((wake_up, key.clone()));
            member.wake_up = wake_up;
        }
        if self.recount(key) {
            self.bring_all_in_line(key.0);
        } else {
            self.bring_in_line(key);
        }
        self.check_invariants();
    }

    fn bring_all_in_line(&mut self, service: ServiceIdx) {
        let keys: Vec<_> = self.keys_of(service).cloned().collect();
        keys.iter().for_each(|key| self.bring_in_line(key));
    }

    /// Brings what the cores hold in line with what is known.
    fn bring_in_line(&mut self, key: &Key) {
        let panicking = self.is_panicking(key.0);
        let Some(member) = self.member_by_key.get_mut(key) else {
            return;
        };
        let is_ejected = member.is_ejected();
        member.endpoint.load.set_ejected(is_ejected && !panicking);
        let deserving = member.deserves_work(panicking);
        if deserving && (!member.offered || member.outdated) {
            let endpoint = member.endpoint.clone();
            self.commands.push_back(Command::Offer {
                service: key.0,
                endpoint,
            });
            member.outdated = false;
        } else if !deserving && member.offered {
            self.commands.push_back(Command::Withdraw {
                service: key.0,
                node: key.1.clone(),
            });
        }
        member.offered = deserving;
    }

    fn forget(&mut self, key: &Key) {
        let Some(mut member) = self.member_by_key.remove(key) else {
            return;
        };
        self.wake_ups.remove(&(member.wake_up, key.clone()));
        let place = (key.0, member.endpoint.address);
        if self.lost_by_address.get(&place) == Some(&key.1) {
            self.lost_by_address.remove(&place);
        }
        if member.offered {
            self.commands.push_back(Command::Withdraw {
                service: key.0,
                node: key.1.clone(),
            });
        }
        if let Some(services) = self.services_by_node.get_mut(&key.1) {
            services.retain(|service| *service != key.0);
            if services.is_empty() {
                self.services_by_node.remove(&key.1);
            }
        }
        if self.count_out(key, &mut member) {
            self.bring_all_in_line(key.0);
        }
        self.check_invariants();
    }

    /// The counts of this node, if anything still holds them, else new ones.
    fn load_of(&mut self, key: &Key, zone: Option<&str>) -> Arc<Load> {
        let known = self.load_by_key.get(key).and_then(Weak::upgrade);
        let load = known.unwrap_or_else(|| self.new_load(key));
        if let Some(crowd) = self.crowd_of(key.0, zone) {
            load.join(crowd);
        }
        load
    }

    fn new_load(&mut self, key: &Key) -> Arc<Load> {
        self.drop_dead_loads();
        let load = Arc::new(Load::default());
        self.load_by_key.insert(key.clone(), Arc::downgrade(&load));
        load
    }

    /// Loads whose last request ended after their node was forgotten; swept only when they outnumber the living.
    fn drop_dead_loads(&mut self) {
        if self.load_by_key.len() > 2 * self.member_by_key.len() + 64 {
            self.load_by_key.retain(|_, load| load.strong_count() > 0);
        }
    }

    fn is_from_registry(&self, service: ServiceIdx) -> bool {
        let watched = self.service_by_idx.get(&service);
        watched.is_some_and(|it| it.source == Source::Registry)
    }

    fn keys_of(&self, service: ServiceIdx) -> impl Iterator<Item = &Key> {
        self.member_by_key
            .range((service, NodeId::from(""))..)
            .map(|(key, _)| key)
            .take_while(move |key| key.0 == service)
    }

    fn check_invariants(&self) {
        debug_assert_eq!(
            self.wake_ups.len(),
            self.member_by_key.len(),
            "each member has one wake-up"
        );
        debug_assert!(
            self.lost_by_address.len() <= self.member_by_key.len(),
            "only members can be lost"
        );
    }
}

impl Member {
    /// Whether it wants work, as far as it was asked or ordered.
    fn may_work(&self) -> bool {
        self.presence != Presence::Leaving && !self.order.drained && self.endpoint.weight > 0
    }

    fn deserves_work(&self, panicking: bool) -> bool {
        self.may_work() && (panicking || self.health.state() != State::Unhealthy)
    }

    /// The same life with other words about it: cores keep their connections.
    fn replace(&mut self, endpoint: Endpoint) {
        if self.endpoint.is_suspected() {
            endpoint.suspect();
        }
        self.endpoint = Arc::new(endpoint);
        self.outdated = true;
    }

    fn standing(&self, now: Nanos, service: &ServiceName) -> Standing {
        let endpoint = &self.endpoint;
        let latency = endpoint.load.latency(now);
        Standing {
            service: service.to_string(),
            node: endpoint.node.to_string(),
            address: endpoint.address,
            incarnation: endpoint.incarnation,
            zone: endpoint.zone.clone(),
            weight: endpoint.weight,
            presence: self.presence.word(),
            health: self.health.state().word(),
            offered: self.offered,
            suspected: endpoint.is_suspected(),
            ejected: self.is_ejected(),
            in_flight: endpoint.load.in_flight(),
            begun: endpoint.load.begun(),
            latency_us: latency.map(|it| it.as_micros() as u64),
            order: Some(self.order).filter(|it| !it.is_none()),
        }
    }
}

impl Presence {
    fn word(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Leaving => "leaving",
            Self::Lost { .. } => "lost",
        }
    }
}

/// An endpoint that nobody announced is known by its address.
fn address_id(address: &SocketAddr) -> NodeId {
    address.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_configured_later_finds_the_nodes_that_are_known() {
        let mut subject = Subject::new();
        let mut facts = node("n1");
        facts
            .addresses
            .insert("later".to_owned(), ([127, 0, 0, 1], 9).into());
        subject.put(facts);
        subject.expect(&["offer n1"]);
        subject.watch(LATER, "later", Source::Registry);
        subject.expect(&["offer n1"]);
        subject.membership.handle_service_gone(LATER);
        subject.expect(&["withdraw n1"]);
        assert_eq!(subject.membership.count(LATER), (0, 0));
        assert_eq!(subject.membership.count(WEB), (1, 1));
    }

    #[test]
    fn what_is_still_heard_of_a_service_that_is_gone_means_nothing() {
        let mut subject = Subject::new();
        let address = [([127, 0, 0, 1], 9).into()];
        subject.watch(LATER, "later", Source::Addresses);
        subject
            .membership
            .handle_addresses(subject.now, LATER, &address);
        subject.expect(&["offer 127.0.0.1:9"]);
        subject.membership.handle_service_gone(LATER);
        subject.expect(&["withdraw 127.0.0.1:9"]);
        subject
            .membership
            .handle_addresses(subject.now, LATER, &address);
        let id = address_id(&address[0]);
        subject.membership.handle_suspicion(subject.now, LATER, &id);
        subject.expect(&[]);
    }

    #[test]
    fn a_service_that_is_probed_in_another_way_keeps_its_nodes() {
        let mut subject = Subject::new();
        subject.put(node("n1"));
        subject.expect(&["offer n1"]);
        subject.watch(WEB, "web", Source::Registry);
        subject.expect(&[]);
        subject.probe_all(true);
        assert_eq!(subject.membership.count(WEB), (1, 1));
    }

    #[test]
    fn a_node_that_announces_itself_gets_work_at_once() {
        let mut it = Subject::new();
        it.put(node("n1"));
        it.expect(&["offer n1"]);
        assert_eq!(it.offered(), ["n1"]);
    }

    #[test]
    fn a_leaving_node_gets_no_work_and_is_forgotten_when_its_record_goes() {
        let mut it = Subject::new();
        it.put(node("n1"));
        it.put(NodeFacts {
            leaving: true,
            ..node("n1")
        });
        it.expect(&["offer n1", "withdraw n1"]);
        it.delete("n1");
        it.expect(&[]);
        assert_eq!(it.known(), [""; 0]);
    }

    #[test]
    fn a_drained_node_gets_no_work_whatever_it_announces_until_it_is_undrained() {
        let mut it = Subject::new();
        it.put(node("n1"));
        it.order("n1", DRAINED).expect("it is known");
        it.expect(&["offer n1", "withdraw n1"]);
        it.put(NodeFacts {
            incarnation: 2,
            ..at("n1", 9000)
        });
        it.probe_all(true);
        it.expect(&[]);
        assert_eq!(it.known(), ["n1"], "an order forgets nobody");
        it.order("n1", Override::default()).expect("it is known");
        it.expect(&["offer n1"]);
    }

    #[test]
    fn an_ordered_weight_stands_above_the_announced_one_which_is_remembered() {
        let mut it = Subject::new();
        it.put(node("n1"));
        let order = Override {
            weight: Some(7),
            ..Override::default()
        };
        it.order("n1", order).expect("it is known");
        it.put(NodeFacts {
            weight: 55,
            ..node("n1")
        });
        let standing = it.membership.standings(Nanos(0)).remove(0);
        assert_eq!((standing.weight, standing.order), (7, Some(order)));
        assert_eq!(it.membership.facts()[0].weight, 55);
        it.order("n1", Override::default()).expect("it is known");
        assert_eq!(it.membership.standings(Nanos(0))[0].weight, 55);
    }

    #[test]
    fn an_order_about_nobody_is_refused_and_a_recalled_one_waits_for_its_node() {
        let mut it = Subject::new();
        assert_eq!(it.order("n1", DRAINED), Err(OverrideError::UnknownNode));
        it.membership.recall_overrides([("n1".into(), DRAINED)]);
        it.put(node("n1"));
        it.expect(&[]);
        it.delete("n1");
        it.order("n1", Override::default())
            .expect("an order can be taken back while the node is away");
    }

    #[test]
    fn who_vanishes_without_a_word_is_kept_while_probes_pass() {
        let mut it = Subject::new();
        it.put(node("n1"));
        it.delete("n1");
        it.expect(&["offer n1"]);
        for _ in 0..10 {
            it.probe_all(true);
        }
        assert_eq!(it.offered(), ["n1"]);
    }

    #[test]
    fn who_vanishes_and_does_not_answer_is_gone_after_one_probe() {
        let mut it = Subject::new();
        it.put(node("n1"));
        it.probe_all(true);
        it.delete("n1");
        it.probe_all(false);
        it.expect(&["offer n1", "withdraw n1"]);
        assert_eq!(it.known(), [""; 0]);
    }

    #[test]
    fn an_emptied_registry_removes_nobody_who_answers() {
        let mut it = Subject::new();
        for id in ["n1", "n2", "n3"] {
            it.put(node(id));
        }
        it.membership.handle_list(it.now, Vec::new());
        it.probe_all(true);
        assert_eq!(it.offered(), ["n1", "n2", "n3"]);
        it.answers = Some("n2");
        it.probe_all(true);
        assert_eq!(
            it.offered(),
            ["n2"],
            "those who do not answer are believed gone"
        );
    }

    #[test]
    fn a_list_that_comes_after_an_outage_replaces_what_was_known() {
        let mut it = Subject::new();
        it.put(node("n1"));
        it.put(node("n2"));
        it.membership.handle_silence();
        it.membership
            .handle_list(it.now, vec![node("n2"), node("n3")]);
        it.answers = Some("n2");
        it.probe_all(true);
        assert_eq!(it.known(), ["n2", "n3"]);
    }

    #[test]
    fn recalled_nodes_serve_before_the_registry_has_spoken() {
        let mut it = Subject::new();
        it.membership
            .handle_recall(it.now, vec![node("n1"), node("n2")]);
        assert_eq!(it.offered(), ["n1", "n2"]);
        it.answers = Some("n1");
        it.probe_all(true);
        it.probe_all(true);
        assert_eq!(it.offered(), ["n1"]);
        assert_eq!(
            it.known(),
            ["n1", "n2"],
            "out of touch, nobody is forgotten: n2 may come back"
        );
        it.membership.handle_list(it.now, vec![node("n1")]);
        it.probe_all(true);
        assert_eq!(it.known(), ["n1"]);
    }

    #[test]
    fn what_nobody_probes_away_is_forgotten_in_time() {
        let mut it = Subject::new();
        it.put(node("n1"));
        it.delete("n1");
        let until = it.now + RULES.lost_for_max + Duration::from_secs(2);
        while it.now < until {
            it.probe_all(true);
        }
        assert_eq!(it.known(), [""; 0]);
    }

    #[test]
    fn a_record_of_an_earlier_life_changes_nothing() {
        let mut it = Subject::new();
        it.put(NodeFacts {
            incarnation: 2,
            ..node("n1")
        });
        it.put(NodeFacts {
            leaving: true,
            ..node("n1")
        });
        it.expect(&["offer n1"]);
    }

    #[test]
    fn a_new_life_takes_over_in_one_step_and_finds_its_counts() {
        let mut it = Subject::new();
        it.put(node("n1"));
        let first = it.endpoint("n1");
        first.load.begin();
        it.put(NodeFacts {
            incarnation: 2,
            ..at("n1", 9000)
        });
        it.expect(&["offer n1", "offer n1"]);
        assert_eq!(it.endpoint("n1").load.in_flight(), 1);
        first.load.end();
    }

    #[test]
    fn counts_survive_absence_while_something_is_in_flight() {
        let mut it = Subject::new();
        it.put(node("n1"));
        let held = it.endpoint("n1");
        held.load.begin();
        it.put(NodeFacts {
            leaving: true,
            ..node("n1")
        });
        it.delete("n1");
        it.put(NodeFacts {
            incarnation: 2,
            ..node("n1")
        });
        assert_eq!(it.endpoint("n1").load.in_flight(), 1);
        held.load.end();
    }

    #[test]
    fn another_weight_keeps_the_life_and_is_told_to_the_cores() {
        let mut it = Subject::new();
        it.put(node("n1"));
        let before = it.endpoint("n1");
        it.put(NodeFacts {
            weight: 200,
            ..node("n1")
        });
        it.expect(&["offer n1", "offer n1"]);
        assert!(it.endpoint("n1").is_same_life(&before));
        it.put(NodeFacts {
            weight: 0,
            ..node("n1")
        });
        it.expect(&["withdraw n1"]);
    }

    #[test]
    fn a_newcomer_at_a_lost_nodes_address_ends_the_doubt() {
        let mut it = Subject::new();
        it.put(at("n1", 8000));
        it.delete("n1");
        it.put(at("n2", 8000));
        assert_eq!(it.known(), ["n2"]);
    }

    #[test]
    fn a_suspected_node_is_asked_at_once() {
        let mut it = Subject::new();
        it.put(node("n1"));
        it.probe_all(true);
        it.expect(&["offer n1"]);
        it.endpoint("n1").suspect();
        it.membership.handle_suspicion(it.now, WEB, &"n1".into());
        assert!(it.membership.poll_timeout().is_some_and(|at| at <= it.now));
        it.probe_all(true);
        it.expect(&["trust"]);
        assert!(!it.endpoint("n1").is_suspected());
    }

    #[test]
    fn a_service_a_node_serves_no_more_is_withdrawn() {
        let mut it = Subject::new();
        it.put(node("n1"));
        it.put(NodeFacts {
            addresses: BTreeMap::new(),
            ..node("n1")
        });
        it.expect(&["offer n1", "withdraw n1"]);
    }

    #[test]
    fn addresses_come_and_go_with_the_answer_but_never_all_at_once() {
        let mut it = Subject::new();
        let all: Vec<SocketAddr> = (1..=3).map(|n| ([127, 0, 0, n], 80).into()).collect();
        it.membership.handle_addresses(it.now, DNS, &all);
        it.membership.handle_addresses(it.now, DNS, &all[..2]);
        it.membership.handle_addresses(it.now, DNS, &[]);
        assert_eq!(it.offered(), ["127.0.0.1:80", "127.0.0.2:80"]);
    }

    /// Each change may look at a bounded number of other members, however many there are.
    #[test]
    fn a_change_costs_the_same_in_a_large_cluster() {
        let mut it = Subject::new();
        for n in 0..10_000u32 {
            let address = SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80));
            let addresses = BTreeMap::from([("web".to_owned(), address)]);
            it.put(NodeFacts {
                addresses,
                ..node(&format!("n{n}"))
            });
        }
        let commands = std::iter::from_fn(|| it.membership.next_command()).count();
        assert_eq!(commands, 10_000, "one offer each, and nothing told twice");
    }

    const WEB: ServiceIdx = ServiceIdx(0);
    const DNS: ServiceIdx = ServiceIdx(1);
    const LATER: ServiceIdx = ServiceIdx(7);

    const RULES: Rules = Rules {
        lost_for_max: Duration::from_secs(60),
        zone: None,
    };

    const DRAINED: Override = Override {
        drained: true,
        weight: None,
    };

    struct Subject {
        membership: Membership,
        now: Instant,
        /// The only node that answers probes; none means all.
        answers: Option<&'static str>,
    }

    impl Subject {
        fn new() -> Self {
            let probing = Policy {
                regular: true,
                interval: Duration::from_secs(1),
                healthy_after: 1,
                unhealthy_after: 2,
            };
            let watched = |name: &str, source| Watched {
                name: name.into(),
                source,
                probing: probing.clone(),
                picking: Picking::default(),
            };
            let services = vec![
                watched("web", Source::Registry),
                watched("dns", Source::Addresses),
            ];
            Self {
                membership: Membership::new(RULES, services, Rng::with_seed(1)),
                now: Instant::now(),
                answers: None,
            }
        }

        fn watch(&mut self, service: ServiceIdx, name: &str, source: Source) {
            let probing = Policy {
                regular: true,
                interval: Duration::from_millis(500),
                healthy_after: 1,
                unhealthy_after: 1,
            };
            let watched = Watched {
                name: name.into(),
                source,
                probing,
                picking: Picking::default(),
            };
            self.membership.handle_service(self.now, service, watched);
        }

        fn put(&mut self, facts: NodeFacts) {
            self.membership.handle_put(self.now, facts);
        }

        fn delete(&mut self, id: &str) {
            self.membership.handle_delete(self.now, &id.into());
        }

        fn order(&mut self, id: &str, order: Override) -> Result<(), OverrideError> {
            self.membership.set_override(&id.into(), order)
        }

        /// Steps to the next wake-up after all that are due, and answers the probes it brings.
        fn probe_all(&mut self, ok: bool) {
            self.now += Duration::from_millis(1_200);
            self.membership.handle_timeout(self.now);
            let mut others = VecDeque::new();
            while let Some(command) = self.membership.next_command() {
                match command {
                    Command::Probe { service, endpoint } => {
                        let answers =
                            ok && self.answers.is_none_or(|it| endpoint.node.as_str() == it);
                        self.membership
                            .handle_probe(self.now, service, &endpoint, answers);
                    }
                    other => others.push_back(other),
                }
            }
            self.membership.commands = others;
        }

        fn expect(&mut self, expected: &[&str]) {
            let mut said = Vec::new();
            while let Some(command) = self.membership.next_command() {
                match command {
                    Command::Offer { endpoint, .. } => {
                        said.push(format!("offer {}", endpoint.node))
                    }
                    Command::Withdraw { node, .. } => said.push(format!("withdraw {node}")),
                    Command::Trust { .. } => said.push("trust".to_owned()),
                    Command::Probe { .. } | Command::Table { .. } => {}
                }
            }
            assert_eq!(said, expected);
        }

        fn endpoint(&self, id: &str) -> Arc<Endpoint> {
            self.membership.member_by_key[&(WEB, id.into())]
                .endpoint
                .clone()
        }

        fn known(&self) -> Vec<String> {
            self.membership
                .standings(Nanos(0))
                .into_iter()
                .map(|it| it.node)
                .collect()
        }

        fn offered(&self) -> Vec<String> {
            let standings = self.membership.standings(Nanos(0)).into_iter();
            standings
                .filter(|it| it.offered)
                .map(|it| it.node)
                .collect()
        }
    }

    fn node(id: &str) -> NodeFacts {
        let n: u16 = id[1..]
            .parse()
            .expect("a test's node is called n and a number");
        let addresses = BTreeMap::from([("web".to_owned(), ([127, 0, 0, 1], 1000 + n).into())]);
        NodeFacts {
            id: id.to_owned(),
            incarnation: 1,
            zone: None,
            weight: WEIGHT,
            leaving: false,
            addresses,
        }
    }

    fn at(id: &str, port: u16) -> NodeFacts {
        let addresses = BTreeMap::from([("web".to_owned(), ([127, 0, 0, 1], port).into())]);
        NodeFacts {
            addresses,
            ..node(id)
        }
    }
}
