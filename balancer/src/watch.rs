//! The balancer's view of the world, kept by one task for all cores: who is there, who answers, and who has confirmed what.
//!
//! Facts come in as one closed list of events; the membership decides; its commands go to every core in the same order. When all cores
//! have applied what a revision of the registry brought, the balancer's own record says so: that is what a leaving node waits for.

use std::{
    collections::VecDeque,
    future::pending,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use balancer_core::{
    endpoint::Endpoint,
    membership::{Command, Membership, NodeFacts, ServiceIdx, Standing},
    name::NodeId,
    recall::{self, Recall},
};
use registry::{
    Announcement, BalancerRecord, Event as RegistryEvent, NodeRecord, NodeState, Registry,
    Revision, Watch,
};
use serde::Serialize;
use tokio::{
    sync::{Notify, Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    config::{Config, DnsConfig},
    observe::{ServiceMetrics, ViewMetrics},
    probe, resolve,
    tls::Connector,
    worker::{Applied, Batch, Change, Suspicion},
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
    /// A core has applied what it was sent.
    Applied,
    /// The balancer's own record is in the registry for the first time.
    Announced,
    Due,
    Tick,
}

/// What the admin API wants to know.
pub(crate) enum Question {
    Standings(oneshot::Sender<Vec<Standing>>),
    Status(oneshot::Sender<ViewStatus>),
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
    pub(crate) config: Arc<Config>,
    pub(crate) registry: Option<Registry>,
    pub(crate) membership: Membership,
    pub(crate) cores: Vec<Core>,
    pub(crate) suspicions: mpsc::Receiver<Suspicion>,
    pub(crate) questions: mpsc::Receiver<Question>,
    /// Shared with every core's `Applied`.
    pub(crate) applied_changed: Arc<Notify>,
    pub(crate) service_metrics: Vec<ServiceMetrics>,
    /// By service; an endpoint that is spoken to in TLS is probed in TLS.
    pub(crate) connectors: Vec<Option<Arc<Connector>>>,
    pub(crate) metrics: ViewMetrics,
    pub(crate) incarnation: u64,
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
        let snapshot = Snapshot::new(start.config.membership.snapshot.clone());
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
        }
    }

    /// What is known before anybody was asked: the last run's nodes and the configuration's addresses.
    fn begin(&mut self) {
        let now = Instant::now();
        self.has_view = self.watch.is_none();
        if self.watch.is_some()
            && let Some(recall) = self.snapshot.read()
        {
            tracing::info!(
                nodes = recall.nodes.len(),
                "recalled the nodes of the last run"
            );
            self.has_view = true;
            self.start.membership.handle_recall(now, recall.nodes);
        }
        for idx in 0..self.start.config.services.len() {
            self.begin_service(now, ServiceIdx(idx));
        }
    }

    fn begin_service(&mut self, now: Instant, service: ServiceIdx) {
        use crate::config::Discover;
        match &self.start.config.services[service.0].discover {
            Discover::Registry => {}
            Discover::Static(addresses) => self
                .start
                .membership
                .handle_addresses(now, service, addresses),
            Discover::Dns(dns) => {
                tokio::spawn(keep_resolving(service, dns.clone(), self.reports.0.clone()));
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
            Event::Suspected(suspicion) => {
                self.start.metrics.suspicions.increment(1);
                tracing::info!(node = %suspicion.node, "a core could not reach a node");
                self.start
                    .membership
                    .handle_suspicion(now, suspicion.service, &suspicion.node);
            }
            Event::Resolved { service, addresses } => self
                .start
                .membership
                .handle_addresses(now, service, &addresses),
            Event::Asked(question) => self.answer(question),
            Event::Applied => {}
            Event::Announced => self.announced = true,
            Event::Due => self.start.membership.handle_timeout(now),
            Event::Tick => self.tick(),
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
        let mut changes = Vec::new();
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
        self.snapshot.outdated = true;
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
        let (Some(registry), Some(config)) = (&self.start.registry, Some(&self.start.config))
        else {
            return;
        };
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
        let policy = self.start.config.services[service.0].probe.clone();
        let tls = self.start.connectors[service.0].clone();
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
        if self.watch.is_some() && self.snapshot.is_due() {
            let facts = self.start.membership.facts();
            self.snapshot.write(facts, &self.start.metrics);
        }
    }

    fn count_endpoints(&self) {
        for (idx, metrics) in self.start.service_metrics.iter().enumerate() {
            let (known, offered) = self.start.membership.count(ServiceIdx(idx));
            metrics.endpoints_known.set(known as f64);
            metrics.endpoints_offered.set(offered as f64);
        }
    }

    fn answer(&self, question: Question) {
        // Whoever asked may have gone; then nobody misses the answer.
        match question {
            Question::Standings(to) => drop(to.send(self.start.membership.standings())),
            Question::Status(to) => drop(to.send(self.status())),
        }
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
        if let Some(announcement) = self.announcement.take() {
            announcement.withdraw(WITHDRAW_WITHIN).await;
        }
        if self.watch.is_some() {
            // Two writers would share the file beside the snapshot.
            self.snapshot.finish().await;
            let facts = self.start.membership.facts();
            self.snapshot.write(facts, &self.start.metrics);
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

/// The file by which a balancer remembers its nodes while the registry is away.
struct Snapshot {
    path: Option<PathBuf>,
    outdated: bool,
    writing: Option<JoinHandle<()>>,
}

impl Snapshot {
    fn new(path: Option<PathBuf>) -> Self {
        Self {
            path,
            outdated: false,
            writing: None,
        }
    }

    fn read(&self) -> Option<Recall> {
        let path = self.path.as_ref()?;
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return None,
            Err(err) => {
                tracing::error!(path = %path.display(), %err, "reading the membership snapshot");
                return None;
            }
        };
        match recall::decode(&text) {
            Ok(recall) => Some(recall),
            Err(err) => {
                tracing::error!(path = %path.display(), %err, "the membership snapshot is not used");
                None
            }
        }
    }

    fn is_due(&self) -> bool {
        self.outdated
            && self.path.is_some()
            && self.writing.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Writes beside the file, syncs and renames, on a thread of its own: a slow disk stops nothing.
    fn write(&mut self, nodes: Vec<NodeFacts>, metrics: &ViewMetrics) {
        let Some(path) = self.path.clone() else {
            return;
        };
        self.outdated = false;
        let failures = metrics.snapshot_failures.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let saved_at = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis() as u64;
            let text = recall::encode(&Recall { saved_at, nodes });
            if let Err(err) = replace_file(&path, &text) {
                failures.increment(1);
                tracing::error!(path = %path.display(), %err, "writing the membership snapshot");
            }
        }));
    }

    async fn finish(&mut self) {
        if let Some(writing) = self.writing.take() {
            // A panic in there was reported by the thread itself.
            let _ = writing.await;
        }
    }
}

fn replace_file(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
