//! The balancer's view of the world, kept by one task for all cores: who is there, who answers, and who has confirmed what.
//!
//! Facts come in as one closed list of events; the membership decides; its commands go to every core in the same order. When all cores
//! have applied what a revision of the registry brought, the balancer's own record says so: that is what a leaving node waits for.

mod orders;
mod snapshot;

pub(crate) use orders::{AdoptError, Adopted, Order};

use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use balancer_core::{
    endpoint::Endpoint,
    load::Nanos,
    membership::{Command, Membership, NodeFacts, ServiceIdx, Standing},
    name::NodeId,
    overrides::{Override, OverrideError},
    recall::{Kept, Recall},
};
use registry::{
    Announcement, BalancerRecord, Event as RegistryEvent, NodeRecord, NodeState, Registry,
    Revision, Watch,
};
use serde::Serialize;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    config::{Discover, DnsConfig, Service},
    observe::ViewMetrics,
    probe, resolve,
    scene::Opening,
    watch::snapshot::Snapshot,
    worker::{Applied, Batch, Change, Suspicion, Symptom},
    world::World,
};

/// Probes under way at once; the others wait their turn.
const PROBES_AT_ONCE: usize = 256;

/// The snapshot is written at most this often.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);

/// Waited before a name that could not be resolved is asked for again.
const RESOLVE_BACKOFF: Duration = Duration::from_secs(2);

/// How long the last word to the registry may take.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(2);

/// All that can wake the view.
enum Event {
    Registry(RegistryEvent<NodeRecord>),
    Probed {
        service: ServiceIdx,
        endpoint: Arc<Endpoint>,
        ok: bool,
    },
    Suspected(Suspicion),
    Resolved {
        service: ServiceIdx,
        addresses: Vec<std::net::SocketAddr>,
    },
    Asked(Question),
    Ordered(Order),
    /// A core has applied what it was sent.
    Applied,
    /// The balancer's own record is in the registry for the first time.
    Announced,
    Due,
    Tick,
}

/// What the admin API wants to know, or to have done.
pub(crate) enum Question {
    Standings(oneshot::Sender<Vec<Standing>>),
    Status(oneshot::Sender<ViewStatus>),
    /// Where clients really connect to, by the names of the listeners: the system may have chosen the ports.
    Addresses(oneshot::Sender<Vec<(String, std::net::SocketAddr)>>),
    /// Answered with what is in force for the node from then on.
    Order(NodeOrder, oneshot::Sender<Result<Override, OverrideError>>),
}

/// An operator's order about one node.
#[derive(Debug, Clone)]
pub(crate) struct NodeOrder {
    pub(crate) node: NodeId,
    pub(crate) change: OrderChange,
    /// Who gave it, for the log.
    pub(crate) by: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrderChange {
    Drain,
    Undrain,
    /// None is the weight that the node announces.
    Weight(Option<u32>),
}

impl OrderChange {
    fn on(self, order: Override) -> Override {
        match self {
            Self::Drain => Override {
                drained: true,
                ..order
            },
            Self::Undrain => Override {
                drained: false,
                ..order
            },
            Self::Weight(weight) => Override { weight, ..order },
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ViewStatus {
    /// Whether there is a view to route by (from the registry, the snapshot, or the configuration alone), and leaving nodes know of this
    /// balancer, if the registry answers.
    pub(crate) is_ready: bool,
    pub(crate) registry: Option<RegistryStatus>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct RegistryStatus {
    pub(crate) connected: bool,
    pub(crate) revision: u64,
    /// The newest revision whose changes every core has applied.
    pub(crate) applied_revision: u64,
    pub(crate) staleness_ms: u64,
}

/// One core's ends of the channels between it and the view.
pub(crate) struct Core {
    pub(crate) batches: mpsc::Sender<Arc<Batch>>,
    pub(crate) applied: Arc<Applied>,
}

pub(crate) struct ViewStart {
    pub(crate) world: World,
    /// Doors that stay shut until the balancer whose sockets these are can be replaced.
    pub(crate) shut: Vec<Arc<Opening>>,
    pub(crate) registry: Option<Registry>,
    pub(crate) membership: Membership,
    pub(crate) cores: Vec<Core>,
    pub(crate) suspicions: mpsc::Receiver<Suspicion>,
    pub(crate) questions: mpsc::Receiver<Question>,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) draining: Arc<AtomicBool>,
    /// Shared with every core's `Applied`.
    pub(crate) applied_changed: Arc<Notify>,
    pub(crate) metrics: ViewMetrics,
    pub(crate) incarnation: u64,
    /// Since when loads count their nanoseconds.
    pub(crate) epoch: Instant,
    /// The entry's address, for other parts of the cluster to read.
    pub(crate) address: String,
}

struct View {
    start: ViewStart,
    watch: Option<Watch<NodeRecord>>,
    announcement: Option<Announcement<BalancerRecord>>,
    announced: bool,
    reports: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    probes: Arc<Semaphore>,
    batch: u64,
    /// Revisions whose changes are on their way to the cores, with the batch that carries the last of them.
    under_way: VecDeque<(u64, Revision)>,
    revision: Revision,
    applied_revision: Revision,
    connected: bool,
    has_view: bool,
    heard_at: Instant,
    snapshot: Snapshot,
    /// The snapshot's nodes, kept as they are by a balancer that runs without a registry.
    recalled: Vec<NodeFacts>,
    /// Changes that go to the cores before those that the membership decides next.
    changes: Vec<Change>,
    /// Who wants to know when the cores have applied a batch.
    waiting: Vec<(u64, oneshot::Sender<()>)>,
    resolver_by_service: BTreeMap<ServiceIdx, AbortOnDropHandle<()>>,
    /// Another process has taken over: the record in the registry and the snapshot are its own.
    is_succeeded: bool,
}

/// Runs until `leave` fires, then takes the balancer's record out of the registry.
pub(crate) async fn run(start: ViewStart, mut leave: oneshot::Receiver<()>) {
    let mut view = View::new(start);
    view.begin();
    view.obey().await;
    let mut ticks = tokio::time::interval(SNAPSHOT_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            biased;
            _ = &mut leave => break,
            event = view.next_event() => event,
            _ = ticks.tick() => Event::Tick,
        };
        view.handle(event);
        view.obey().await;
    }
    view.end().await;
}

impl View {
    fn new(start: ViewStart) -> Self {
        let snapshot = Snapshot::new(start.world.config().membership.snapshot.clone());
        // Two processes must not write the one file: whoever has shut doors still has a predecessor.
        let is_succeeded = !start.shut.is_empty();
        Self {
            watch: start.registry.as_ref().map(Registry::watch),
            start,
            announcement: None,
            announced: false,
            reports: mpsc::channel(PROBES_AT_ONCE),
            probes: Arc::new(Semaphore::new(PROBES_AT_ONCE)),
            batch: 0,
            under_way: VecDeque::new(),
            revision: Revision::default(),
            applied_revision: Revision::default(),
            connected: false,
            has_view: false,
            heard_at: Instant::now(),
            snapshot,
            recalled: Vec::new(),
            changes: Vec::new(),
            waiting: Vec::new(),
            resolver_by_service: BTreeMap::new(),
            is_succeeded,
        }
    }

    /// What is known before anybody was asked: the last run's nodes and the configuration's addresses.
    fn begin(&mut self) {
        let now = Instant::now();
        self.has_view = self.watch.is_none();
        if let Some(recall) = self.snapshot.read() {
            self.recall(now, recall);
        }
        let services: Vec<_> = self.start.world.services().cloned().collect();
        for service in services {
            self.begin_service(now, service.idx, &service.policy);
        }
    }

    fn recall(&mut self, now: Instant, recall: Recall) {
        tracing::info!(
            nodes = recall.nodes.len(),
            overrides = recall.overrides.len(),
            "recalled the nodes of the last run"
        );
        let orders = recall.overrides.iter().map(|it| (it.node(), it.order));
        self.start.membership.recall_overrides(orders);
        if self.watch.is_some() {
            self.has_view = true;
            self.start.membership.handle_recall(now, recall.nodes);
        } else {
            self.recalled = recall.nodes;
        }
    }

    fn begin_service(&mut self, now: Instant, service: ServiceIdx, policy: &Service) {
        self.resolver_by_service.remove(&service);
        match &policy.discover {
            Discover::Registry => {}
            Discover::Static(addresses) => self
                .start
                .membership
                .handle_addresses(now, service, addresses),
            Discover::Dns(dns) => {
                let resolving = keep_resolving(service, dns.clone(), self.reports.0.clone());
                let task = AbortOnDropHandle::new(tokio::spawn(resolving));
                self.resolver_by_service.insert(service, task);
            }
        }
    }

    /// Every branch can be dropped and asked again without losing anything.
    async fn next_event(&mut self) -> Event {
        let due = self.start.membership.poll_timeout();
        tokio::select! {
            Some(report) = self.reports.1.recv() => report,
            Some(suspicion) = self.start.suspicions.recv() => Event::Suspected(suspicion),
            event = next_of(&mut self.watch) => Event::Registry(event),
            () = until(due) => Event::Due,
            () = self.start.applied_changed.notified() => Event::Applied,
            () = first_stored(&mut self.announcement, self.announced) => Event::Announced,
            Some(question) = self.start.questions.recv() => Event::Asked(question),
            Some(order) = self.start.orders.recv() => Event::Ordered(order),
        }
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Registry(event) => self.handle_registry(now, event),
            Event::Probed {
                service,
                endpoint,
                ok,
            } => self.handle_probed(now, service, &endpoint, ok),
            Event::Suspected(suspicion) => self.handle_suspicion(now, suspicion),
            Event::Resolved { service, addresses } => self
                .start
                .membership
                .handle_addresses(now, service, &addresses),
            Event::Asked(question) => self.answer(question),
            Event::Ordered(order) => self.carry_out(now, order),
            Event::Applied => {}
            Event::Announced => self.announced = true,
            Event::Due => self.start.membership.handle_timeout(now),
            Event::Tick => self.tick(),
        }
    }

    fn handle_suspicion(&mut self, now: Instant, suspicion: Suspicion) {
        let Suspicion {
            service,
            node,
            symptom,
        } = suspicion;
        let membership = &mut self.start.membership;
        match symptom {
            Symptom::Unreachable => {
                self.start.metrics.suspicions.increment(1);
                tracing::info!(%node, "a core could not reach a node");
                membership.handle_suspicion(now, service, &node);
            }
            Symptom::Failing => {
                tracing::info!(%node, "a node's answers are failures");
                membership.handle_failing(now, service, &node);
            }
        }
    }

    fn handle_registry(&mut self, now: Instant, event: RegistryEvent<NodeRecord>) {
        self.start.metrics.registry_events.increment(1);
        match event {
            RegistryEvent::Listed { revision, records } => {
                tracing::info!(
                    nodes = records.len(),
                    revision = revision.0,
                    "listed the registry"
                );
                // A registry that was restored counts anew; what was under way belongs to the old count.
                self.under_way.clear();
                self.has_view = true;
                self.start
                    .membership
                    .handle_list(now, records.iter().map(facts).collect());
                self.heard(now, revision);
            }
            RegistryEvent::Put { revision, record } => {
                tracing::info!(node = record.id, state = ?record.state, revision = revision.0, "a node announced itself");
                self.start.membership.handle_put(now, facts(&record));
                self.heard(now, revision);
            }
            RegistryEvent::Deleted { revision, id } => {
                tracing::info!(node = id, revision = revision.0, "a node's record is gone");
                self.start.membership.handle_delete(now, &NodeId::from(id));
                self.heard(now, revision);
            }
            RegistryEvent::Current { revision } => self.heard(now, revision),
            RegistryEvent::Lost { reason } => {
                tracing::warn!(
                    reason,
                    "the registry is out of reach: keeping the last view"
                );
                self.connected = false;
                self.start.membership.handle_silence();
            }
            RegistryEvent::Malformed { key, reason } => {
                tracing::warn!(key, reason, "a record in the registry cannot be read");
            }
        }
        self.start
            .metrics
            .registry_connected
            .set(if self.connected { 1.0 } else { 0.0 });
    }

    fn heard(&mut self, now: Instant, revision: Revision) {
        self.connected = true;
        self.heard_at = now;
        self.revision = revision;
        // The batch that will carry this event's changes, if it brings any, is the next one.
        self.under_way.push_back((self.batch + 1, revision));
    }

    fn handle_probed(&mut self, now: Instant, service: ServiceIdx, endpoint: &Endpoint, ok: bool) {
        let metrics = &self.start.metrics;
        if ok {
            metrics.probes_ok.increment(1)
        } else {
            metrics.probes_failed.increment(1)
        };
        self.start
            .membership
            .handle_probe(now, service, endpoint, ok);
    }

    /// Carries out what the membership decided, then says which revision is applied.
    async fn obey(&mut self) {
        let mut changes = std::mem::take(&mut self.changes);
        while let Some(command) = self.start.membership.next_command() {
            match command {
                Command::Offer { service, endpoint } => {
                    tracing::info!(node = %endpoint.node, address = %endpoint.address, "offering a node new work");
                    changes.push(Change::Offer { service, endpoint });
                }
                Command::Withdraw { service, node } => {
                    tracing::info!(%node, "offering a node no new work");
                    changes.push(Change::Withdraw { service, node });
                }
                Command::Table { service, table } => {
                    changes.push(Change::Table { service, table });
                }
                Command::Trust { service } => changes.push(Change::Trust { service }),
                Command::Probe { service, endpoint } => self.begin_probe(service, endpoint),
            }
        }
        if changes.is_empty() {
            self.settle_without_changes();
        } else {
            self.send(changes).await;
        }
        self.confirm();
    }

    async fn send(&mut self, changes: Vec<Change>) {
        self.batch += 1;
        self.snapshot.outdated |= self.watch.is_some();
        let batch = Arc::new(Batch {
            number: self.batch,
            changes,
        });
        for core in &self.start.cores {
            // A core that has gone has left with the whole process.
            let _ = core.batches.send(batch.clone()).await;
        }
    }

    /// An event that changed nothing is applied when everything before it is.
    fn settle_without_changes(&mut self) {
        for (batch, _) in self.under_way.iter_mut().rev() {
            if *batch <= self.batch {
                break;
            }
            *batch = self.batch;
        }
    }

    fn confirm(&mut self) {
        let applied = self
            .start
            .cores
            .iter()
            .map(|core| core.applied.number.load(Relaxed))
            .min();
        self.tell_waiting(applied.unwrap_or(self.batch));
        let mut newest = None;
        while let Some((batch, revision)) = self.under_way.front().copied() {
            if applied.is_some_and(|applied| applied < batch) {
                break;
            }
            newest = Some(revision);
            self.under_way.pop_front();
        }
        if let Some(revision) = newest {
            self.applied_revision = revision;
            self.start.metrics.registry_revision.set(revision.0 as f64);
            self.announce();
        }
    }

    /// Says in the registry how far every core of this balancer has come. Not before the first list: until then nobody should wait for it.
    fn announce(&mut self) {
        let Some(registry) = &self.start.registry else {
            return;
        };
        let config = self.start.world.config();
        let record = BalancerRecord {
            id: config.id.clone(),
            incarnation: self.start.incarnation,
            applied_revision: self.applied_revision.0,
            address: self.start.address.clone(),
        };
        let ttl = config
            .registry
            .as_ref()
            .map_or(registry::Config::default().lease_ttl, |it| it.lease_ttl);
        match &mut self.announcement {
            Some(announcement) => announcement.set(record),
            None => self.announcement = Some(registry.announce(record, ttl)),
        }
    }

    fn begin_probe(&self, service: ServiceIdx, endpoint: Arc<Endpoint>) {
        let Some(parts) = self.start.world.service(service) else {
            return;
        };
        let policy = parts.policy.probe.clone();
        let tls = parts.wide.connector.clone();
        let (permits, reports) = (self.probes.clone(), self.reports.0.clone());
        tokio::spawn(async move {
            let Ok(_permit) = permits.acquire().await else {
                return;
            };
            let probed = probe::probe(endpoint.address, &policy, tls.as_deref()).await;
            if let Err(err) = &probed {
                tracing::debug!(node = %endpoint.node, %err, "a probe failed");
            }
            let ok = probed.is_ok();
            // Nobody to tell means that the view has left.
            let _ = reports
                .send(Event::Probed {
                    service,
                    endpoint,
                    ok,
                })
                .await;
        });
    }

    fn tick(&mut self) {
        if self.watch.is_some() {
            let age = self.heard_at.elapsed();
            self.start.metrics.registry_staleness.set(age.as_secs_f64());
        }
        self.count_endpoints();
        let is_wanted = self.keeps_snapshot() || self.has_orders_to_write();
        if is_wanted && self.snapshot.is_due() {
            self.write_snapshot();
        }
    }

    /// Orders are kept without a registry too, but never beside a successor, who has them by now.
    fn has_orders_to_write(&self) -> bool {
        self.watch.is_none() && self.snapshot.outdated && !self.is_succeeded
    }

    fn write_snapshot(&mut self) {
        let membership = &self.start.membership;
        let kept = |(node, order): (&NodeId, Override)| Kept {
            node: node.to_string(),
            order,
        };
        let overrides = membership.overrides().all().map(kept).collect();
        let nodes = match self.watch {
            Some(_) => membership.facts(),
            None => self.recalled.clone(),
        };
        self.snapshot.write(nodes, overrides, &self.start.metrics);
    }

    fn count_endpoints(&self) {
        for service in self.start.world.services() {
            let (known, offered) = self.start.membership.count(service.idx);
            service.metrics.endpoints_known.set(known as f64);
            service.metrics.endpoints_offered.set(offered as f64);
            let selected = self.start.membership.selected(service.idx);
            service.metrics.picking.show(&selected);
        }
    }

    fn answer(&mut self, question: Question) {
        // Whoever asked may have gone; then nobody misses the answer.
        match question {
            Question::Standings(to) => drop(to.send(self.standings())),
            Question::Status(to) => drop(to.send(self.status())),
            Question::Addresses(to) => drop(to.send(self.start.world.addresses())),
            Question::Order(order, to) => drop(to.send(self.order(order))),
        }
    }

    fn standings(&self) -> Vec<Standing> {
        let now = self.start.epoch.elapsed().as_nanos() as u64;
        self.start.membership.standings(Nanos(now))
    }

    fn order(&mut self, order: NodeOrder) -> Result<Override, OverrideError> {
        let NodeOrder { node, change, by } = order;
        let wanted = change.on(self.start.membership.overrides().of(&node));
        self.start.membership.set_override(&node, wanted)?;
        tracing::info!(%node, ?change, by, drained = wanted.drained, weight = wanted.weight, "an operator gave an order");
        self.snapshot.outdated = true;
        Ok(wanted)
    }

    fn status(&self) -> ViewStatus {
        let registry = self.watch.as_ref().map(|_| RegistryStatus {
            connected: self.connected,
            revision: self.revision.0,
            applied_revision: self.applied_revision.0,
            staleness_ms: self.heard_at.elapsed().as_millis() as u64,
        });
        // A leaving node waits for the balancers whose records it sees: where the registry answers, traffic waits for the record.
        let is_seen = self.announced || !self.connected;
        ViewStatus {
            is_ready: self.has_view && is_seen,
            registry,
        }
    }

    async fn end(mut self) {
        if let Some(announcement) = self.announcement.take()
            && !self.is_succeeded
        {
            announcement.withdraw(WITHDRAW_WITHIN).await;
        }
        // Two writers would share the file beside the snapshot.
        self.snapshot.finish().await;
        if self.keeps_snapshot() || self.has_orders_to_write() {
            self.write_snapshot();
            self.snapshot.finish().await;
        }
    }
}

async fn next_of(watch: &mut Option<Watch<NodeRecord>>) -> RegistryEvent<NodeRecord> {
    match watch {
        Some(watch) => watch.next().await,
        None => pending().await,
    }
}

async fn first_stored(announcement: &mut Option<Announcement<BalancerRecord>>, is_known: bool) {
    match announcement {
        Some(announcement) if !is_known => drop(announcement.stored().await),
        _ => pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => pending().await,
    }
}

/// A record in the core's words. An address that is none is left out: the node's other services are not its fault.
fn facts(record: &NodeRecord) -> NodeFacts {
    let address = |(name, text): (&String, &String)| match text.parse() {
        Ok(address) => Some((name.clone(), address)),
        Err(_) => {
            tracing::warn!(
                node = record.id,
                service = name,
                text,
                "an announced address is not ip:port"
            );
            None
        }
    };
    NodeFacts {
        id: record.id.clone(),
        incarnation: record.incarnation,
        zone: record.zone.clone(),
        weight: record.weight,
        leaving: record.state == NodeState::Leaving,
        addresses: record.services.iter().filter_map(address).collect(),
    }
}

async fn keep_resolving(service: ServiceIdx, dns: DnsConfig, reports: mpsc::Sender<Event>) {
    let resolver = match resolve::resolver(&dns) {
        Ok(resolver) => resolver,
        Err(err) => {
            return tracing::error!(name = dns.name, %err, "a service's name cannot be resolved");
        }
    };
    loop {
        let pause = match resolve::resolve(&resolver, &dns).await {
            Ok(resolved) => {
                let addresses = resolved.addresses;
                if reports
                    .send(Event::Resolved { service, addresses })
                    .await
                    .is_err()
                {
                    return;
                }
                resolved.refresh_after
            }
            Err(err) => {
                tracing::warn!(name = dns.name, %err, "resolving a service's name: keeping the last addresses");
                RESOLVE_BACKOFF
            }
        };
        tokio::time::sleep(pause).await;
    }
}
