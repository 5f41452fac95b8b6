//! Who of a service's known endpoints is fit to be picked, and for how much: ejections, panic, warming up, the zone's share of the
//! work, and the table of keys.
//!
//! Most of it needs no message to the cores: they share each endpoint's load and each service's [`Shared`], and read there what is
//! decided here.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Command, Key, Member, Membership, ServiceIdx, Watched};
use crate::{
    endpoint::Endpoint,
    health::State,
    load::{Crowd, Load},
    name::NodeId,
    outlier::{self, Cause},
    panic::Tally,
    picker::maglev::Table,
    pool::Shared,
    slow_start::SlowStart,
    zone::Capacity,
};

/// A table of keys takes milliseconds to build: while nodes come and go, this long passes between two.
const TABLE_PAUSE: Duration = Duration::from_millis(100);

/// Loads kept for nodes that may return; past it the oldest is dropped, and its node returns as a stranger.
const RESTING_MAX: usize = 10_000;

/// How endpoints of one service are judged and chosen.
#[derive(Debug, Clone, Default)]
pub struct Picking {
    pub outlier: Option<outlier::Policy>,
    pub slow_start: Option<SlowStart>,
    /// Everybody known gets work while fewer than this share of them is available; 0 never happens.
    pub panic_threshold: f64,
    /// Cores choose by key, and need a table.
    pub is_keyed: bool,
    /// What the pools of the service read, the same for as long as it is configured.
    pub shared: Arc<Shared>,
}

/// What there is to say about a service's endpoints as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selected {
    pub tally: Tally,
    pub ejected: usize,
    pub panicking: bool,
    /// Ejections so far, by [`Cause`].
    pub ejections: [u64; Cause::ALL.len()],
}

#[derive(Debug)]
pub(super) struct Selection {
    zone: Option<String>,
    /// The newest time that a shell has told.
    clock: Option<Instant>,
    /// What is being heard was there before this balancer asked: nobody knows how long, so nobody is new.
    pub(super) taking_stock: bool,
    service_by_idx: BTreeMap<ServiceIdx, Service>,
    releases: BTreeSet<(Instant, Key)>,
    comparisons: BTreeSet<(Instant, ServiceIdx)>,
    /// Services whose first comparison waits for the time to be told.
    unscheduled: Vec<ServiceIdx>,
    warming_since: BTreeMap<Key, Instant>,
    warm_at: Option<Instant>,
    outdated_tables: BTreeSet<ServiceIdx>,
    resting: VecDeque<(Instant, Key, Arc<Load>)>,
}

#[derive(Debug, Default)]
struct Service {
    rules: Picking,
    capacity: Capacity,
    tally: Tally,
    ejected: usize,
    ejections: [u64; Cause::ALL.len()],
    panicking: bool,
    table_built_at: Option<Instant>,
}

/// As what a member stands in the service's counts.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    endpoint: Arc<Endpoint>,
    is_available: bool,
    is_ejected: bool,
}

impl Membership {
    pub fn selected(&self, service: ServiceIdx) -> Selected {
        let it = &self.selection.service_by_idx[&service];
        Selected {
            tally: it.tally,
            ejected: it.ejected,
            panicking: it.panicking,
            ejections: it.ejections,
        }
    }

    /// A core counted as many failures in a row as eject an endpoint.
    pub fn handle_failing(&mut self, now: Instant, service: ServiceIdx, node: &NodeId) {
        self.tell_time(now);
        let key = (service, node.clone());
        if self.fails_too_often(&key) {
            self.eject(now, &key, Cause::Consecutive);
        }
    }

    /// A service is chosen from by these rules from now on. What is known of its endpoints stays.
    pub(super) fn repick(&mut self, service: ServiceIdx, rules: Picking) {
        let (is_keyed, is_eager) = (rules.is_keyed, rules.slow_start.is_none());
        let before = self.selection.watch(service, rules);
        let members: Vec<Key> = self.keys_of(service).cloned().collect();
        if is_keyed && !before.is_keyed && !members.is_empty() {
            self.selection.outdated_tables.insert(service);
        }
        for key in &members {
            let endpoint = &self.member_by_key[key].endpoint;
            if let Some(crowd) = self.crowd_of(service, endpoint.zone.as_deref()) {
                endpoint.load.join(crowd);
            }
            if is_eager {
                endpoint.load.warm_to(1.0);
            }
        }
        if self.selection.decide(service) {
            self.bring_all_in_line(service);
        }
    }

    pub(super) fn tell_time(&mut self, now: Instant) {
        self.selection.clock = self.selection.clock.max(Some(now));
        self.selection.schedule(now);
    }

    pub(super) fn wake_selection(&mut self, now: Instant) {
        while let Some((at, key)) = self.selection.releases.first().cloned()
            && at <= now
        {
            self.release(&key);
            self.settle(&key);
        }
        while let Some(&(at, service)) = self.selection.comparisons.first()
            && at <= now
        {
            self.selection.comparisons.pop_first();
            self.compare(now, service);
        }
        self.selection.warm(now, &self.member_by_key);
    }

    /// Whether everybody known gets work.
    pub(super) fn is_panicking(&self, service: ServiceIdx) -> bool {
        self.selection.service_by_idx[&service].panicking
    }

    /// Brings the service's counts in line with what is known of a member. Returns whether it changes what others get.
    pub(super) fn recount(&mut self, key: &Key) -> bool {
        let Some(member) = self.member_by_key.get_mut(key) else {
            return false;
        };
        let counted = member.count();
        let before = std::mem::replace(&mut member.counted, counted.clone());
        if before == counted {
            return self.selection.decide(key.0);
        }
        let was_available = before.as_ref().is_some_and(|it| it.is_available);
        if counted.as_ref().is_some_and(|it| it.is_available) && !was_available {
            self.selection.begin_warming(key, &member.endpoint.load);
        }
        self.selection.exchange(key.0, before, counted);
        self.selection.decide(key.0)
    }

    /// A life begins, maybe in the place of an old one: it is new, and what the old one did wrong is only remembered.
    pub(super) fn begin_anew(&mut self, now: Instant, key: &Key, load: &Load) {
        self.release(key);
        load.results.release(now);
        let old = self.member_by_key.get_mut(key);
        if let Some(counted) = old.and_then(|it| it.counted.take()) {
            self.selection.exchange(key.0, Some(counted), None);
        }
    }

    /// Ends an ejection, if there is one.
    pub(super) fn release(&mut self, key: &Key) {
        let Some(member) = self.member_by_key.get(key) else {
            return;
        };
        let results = &member.endpoint.load.results;
        if let Some(until) = results.ejected_until()
            && let Some(now) = self.selection.clock
        {
            self.selection.releases.remove(&(until, key.clone()));
            results.release(now);
        }
    }

    /// A member is gone; its load rests for a while. Returns whether it changes what others get.
    pub(super) fn count_out(&mut self, key: &Key, member: &mut Member) -> bool {
        let load = member.endpoint.load.clone();
        if let Some(until) = load.results.ejected_until() {
            self.selection.releases.remove(&(until, key.clone()));
        }
        self.selection.warming_since.remove(key);
        self.selection.rest(key, load, self.rules.lost_for_max);
        self.selection.exchange(key.0, member.counted.take(), None);
        self.selection.decide(key.0)
    }

    /// Into what the requests of an endpoint in this zone count too, if the service is picked from by key.
    pub(super) fn crowd_of(&self, service: ServiceIdx, zone: Option<&str>) -> Option<Arc<Crowd>> {
        let rules = &self.selection.service_by_idx[&service].rules;
        let crowd = match self.selection.is_here(zone) {
            true => &rules.shared.local,
            false => &rules.shared.remote,
        };
        rules.is_keyed.then(|| crowd.clone())
    }

    /// A table of keys that is outdated, built anew, unless the last one was built a moment ago.
    pub(super) fn next_table(&mut self) -> Option<Command> {
        let now = self.selection.clock?;
        let is_due = |service: &ServiceIdx| self.selection.table_due(*service) <= Some(now);
        let due = self.selection.outdated_tables.iter().copied();
        let service = { due }.find(is_due)?;
        self.selection.outdated_tables.remove(&service);
        self.selection.service_mut(service).table_built_at = Some(now);
        let members = self.keys_of(service).map(|key| &self.member_by_key[key]);
        let known = members.filter_map(|it| Some(&it.counted.as_ref()?.endpoint));
        let table = Table::build(known.map(|it| (it.node.clone(), it.weight)));
        Some(Command::Table {
            service,
            table: Arc::new(table),
        })
    }

    fn fails_too_often(&self, key: &Key) -> bool {
        let watched = self.selection.service_by_idx.get(&key.0);
        let policy = watched.and_then(|it| it.rules.outlier.as_ref());
        let member = self.member_by_key.get(key);
        policy.zip(member).is_some_and(|(policy, member)| {
            let results = &member.endpoint.load.results;
            policy.consecutive > 0 && results.failures_in_a_row() >= policy.consecutive
        })
    }

    fn compare(&mut self, now: Instant, service: ServiceIdx) {
        let watched = self.selection.service_by_idx.get(&service);
        let Some(policy) = watched.and_then(|it| it.rules.outlier.clone()) else {
            return;
        };
        let next = (now + policy.interval, service);
        self.selection.comparisons.insert(next);
        let windows: Vec<_> = self
            .keys_of(service)
            .map(|key| (key, &self.member_by_key[key]))
            .filter(|(_, it)| it.counted.as_ref().is_some_and(|it| !it.is_ejected))
            .map(|(key, it)| (key.clone(), it.endpoint.load.results.take_window()))
            .collect();
        for (key, _) in &windows {
            // A core could not tell, or too many others were ejected at the time.
            if self.fails_too_often(key) {
                self.eject(now, key, Cause::Consecutive);
            }
        }
        for key in policy.outliers(&windows) {
            self.eject(now, &key, Cause::SuccessRate);
        }
    }

    fn eject(&mut self, now: Instant, key: &Key, cause: Cause) {
        let service = self.selection.service_mut(key.0);
        let Some((policy, member)) = service
            .rules
            .outlier
            .as_ref()
            .zip(self.member_by_key.get(key))
        else {
            return;
        };
        let is_free = member.counted.as_ref().is_some_and(|it| !it.is_ejected);
        if !is_free || service.ejected >= policy.ejected_max(service.tally.known) {
            return;
        }
        let until = member.endpoint.load.results.eject(now, policy);
        service.ejections[cause as usize] += 1;
        self.selection.releases.insert((until, key.clone()));
        self.settle(key);
    }
}

impl Selection {
    pub(super) fn new(zone: Option<String>, services: &[Watched]) -> Self {
        let mut selection = Self {
            zone,
            clock: None,
            taking_stock: false,
            service_by_idx: BTreeMap::new(),
            releases: BTreeSet::new(),
            comparisons: BTreeSet::new(),
            unscheduled: Vec::new(),
            warming_since: BTreeMap::new(),
            warm_at: None,
            outdated_tables: BTreeSet::new(),
            resting: VecDeque::new(),
        };
        for (idx, service) in (0..).map(ServiceIdx).zip(services) {
            selection.watch(idx, service.picking.clone());
        }
        selection
    }

    /// Returns the rules until now.
    fn watch(&mut self, service: ServiceIdx, rules: Picking) -> Picking {
        if !rules.is_keyed {
            self.outdated_tables.remove(&service);
        }
        self.comparisons.retain(|(_, it)| *it != service);
        self.unscheduled.push(service);
        let watched = self.service_by_idx.entry(service).or_default();
        std::mem::replace(&mut watched.rules, rules)
    }

    /// Its members are gone already.
    pub(super) fn forget(&mut self, service: ServiceIdx) {
        self.service_by_idx.remove(&service);
        self.comparisons.retain(|(_, it)| *it != service);
        self.unscheduled.retain(|it| *it != service);
        self.outdated_tables.remove(&service);
        self.resting.retain(|(_, key, _)| key.0 != service);
    }

    fn service_mut(&mut self, service: ServiceIdx) -> &mut Service {
        let service = self.service_by_idx.get_mut(&service);
        service.expect("a service is watched while it has members")
    }

    fn schedule(&mut self, now: Instant) {
        for service in std::mem::take(&mut self.unscheduled) {
            let watched = self.service_by_idx.get(&service);
            if let Some(policy) = watched.and_then(|it| it.rules.outlier.as_ref()) {
                self.comparisons.insert((now + policy.interval, service));
            }
        }
    }

    pub(super) fn next_wake_up(&self) -> Option<Instant> {
        let release = self.releases.first().map(|(at, _)| *at);
        let comparison = self.comparisons.first().map(|(at, _)| *at);
        let tables = self.outdated_tables.iter();
        let table = tables.filter_map(|it| self.table_due(*it)).min();
        let due = [release, comparison, self.warm_at, table];
        due.into_iter().flatten().min()
    }

    fn table_due(&self, service: ServiceIdx) -> Option<Instant> {
        match self.service_by_idx[&service].table_built_at {
            Some(built_at) => Some(built_at + TABLE_PAUSE),
            None => self.clock,
        }
    }

    fn exchange(&mut self, service: ServiceIdx, before: Option<Counted>, after: Option<Counted>) {
        let weight = |it: &Option<Counted>| it.as_ref().map(|it| it.endpoint.weight);
        let is_keyed = self.service_by_idx[&service].rules.is_keyed;
        if is_keyed && weight(&before) != weight(&after) {
            self.outdated_tables.insert(service);
        }
        if let Some(it) = before {
            let here = self.is_here(it.zone());
            self.service_mut(service).take(&it, here);
        }
        if let Some(it) = after {
            let here = self.is_here(it.zone());
            self.service_mut(service).add(&it, here);
        }
    }

    /// Returns whether panic began or ended.
    fn decide(&mut self, service: ServiceIdx) -> bool {
        let has_zone = self.zone.is_some();
        let service = self.service_mut(service);
        if has_zone {
            let share = service.capacity.local_share();
            service.rules.shared.local_share.set(share);
        }
        let panicking = service.tally.is_panic(service.rules.panic_threshold);
        std::mem::replace(&mut service.panicking, panicking) != panicking
    }

    fn begin_warming(&mut self, key: &Key, load: &Load) {
        let rule = self.service_by_idx[&key.0].rules.slow_start.as_ref();
        match rule.zip(self.clock) {
            Some((rule, now)) if !self.taking_stock => {
                load.warm_to(rule.share(Duration::ZERO));
                self.warming_since.insert(key.clone(), now);
                let next = now + rule.step();
                self.warm_at = Some(self.warm_at.map_or(next, |at| at.min(next)));
            }
            _ => {
                load.warm_to(1.0);
                self.warming_since.remove(key);
            }
        }
    }

    fn warm(&mut self, now: Instant, member_by_key: &BTreeMap<Key, Member>) {
        if self.warm_at.is_none_or(|at| at > now) {
            return;
        }
        self.warm_at = None;
        let (services, warm_at) = (&self.service_by_idx, &mut self.warm_at);
        self.warming_since.retain(|key, since| {
            let rule = services[&key.0].rules.slow_start.as_ref();
            let (Some(rule), Some(member)) = (rule, member_by_key.get(key)) else {
                return false;
            };
            let share = rule.share(now.saturating_duration_since(*since));
            member.endpoint.load.warm_to(share);
            let next = now + rule.step();
            if share < 1.0 {
                *warm_at = Some(warm_at.map_or(next, |at| at.min(next)));
            }
            share < 1.0
        });
    }

    fn rest(&mut self, key: &Key, load: Arc<Load>, span: Duration) {
        let Some(now) = self.clock else {
            return;
        };
        self.resting.push_back((now, key.clone(), load));
        while let Some((since, ..)) = self.resting.front()
            && (now.saturating_duration_since(*since) > span || self.resting.len() > RESTING_MAX)
        {
            self.resting.pop_front();
        }
    }

    fn is_here(&self, zone: Option<&str>) -> bool {
        self.zone.is_none() || self.zone.as_deref() == zone
    }
}

impl Service {
    fn add(&mut self, it: &Counted, here: bool) {
        self.tally.add(it.is_available);
        self.ejected += usize::from(it.is_ejected);
        self.capacity
            .add(it.zone(), it.endpoint.weight, it.is_available && here);
    }

    fn take(&mut self, it: &Counted, here: bool) {
        self.tally.take(it.is_available);
        self.ejected -= usize::from(it.is_ejected);
        self.capacity
            .take(it.zone(), it.endpoint.weight, it.is_available && here);
    }
}

impl Member {
    pub(super) fn is_ejected(&self) -> bool {
        self.counted.as_ref().is_some_and(|it| it.is_ejected)
    }

    fn count(&self) -> Option<Counted> {
        let is_ejected = self.endpoint.load.results.ejected_until().is_some();
        self.may_work().then(|| Counted {
            endpoint: self.endpoint.clone(),
            is_available: !is_ejected && self.health.state() != State::Unhealthy,
            is_ejected,
        })
    }
}

impl Counted {
    fn zone(&self) -> Option<&str> {
        self.endpoint.zone.as_deref()
    }
}

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.endpoint, &other.endpoint)
            && self.is_available == other.is_available
            && self.is_ejected == other.is_ejected
    }
}

#[cfg(test)]
mod tests;
