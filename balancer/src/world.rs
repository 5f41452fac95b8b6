//! What is configured and what has been made of it: the one authority by which a new configuration becomes a change for the cores.
//!
//! A new configuration is prepared whole, with every socket that it needs, while nothing changes; only then is it committed, which
//! cannot fail. It starts nothing and tells nobody: the view sends the change to the cores.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Instant,
};

use arc_swap::ArcSwap;
use balancer_core::{
    membership::ServiceIdx,
    name::{ListenerName, ServiceName},
    reload::{Difference, Fate, Place, Roster},
    retry::Budget,
    table::{RouteTable, Rule},
};
use fastrand::Rng;

use crate::{
    accept::Listener,
    admit::Admission,
    app::{self, StartError},
    config::{self, Config, Discover},
    gate::Gate,
    net,
    observe::{
        Metrics,
        admission::{AdmissionMetrics, GateMetrics, RefusalMetrics},
    },
    pick::{Picker, ServiceWide},
    scene::{DoorState, Opening, SceneChange, ServiceParts, Target},
    takeover::Inherited,
    tls::Tls,
};

/// The configuration that the cores go by, for everybody who wants to know.
pub(crate) type InForce = Arc<ArcSwap<Config>>;

pub(crate) struct World {
    in_force: InForce,
    metrics: Arc<Metrics>,
    /// The certificates in force, whose files somebody watches.
    tls: Arc<ArcSwap<Tls>>,
    admission: Arc<Admission>,
    epoch: Instant,
    made: Made,
    kept: Arc<KeptSockets>,
}

/// What has been made of a configuration.
#[derive(Clone, Default)]
struct Made {
    services: Roster<ServiceName, config::Service>,
    doors: Roster<DoorKey, config::Listener>,
    parts_by_place: BTreeMap<Place, Arc<ServiceParts>>,
    door_by_place: BTreeMap<Place, MadeDoor>,
}

#[derive(Clone)]
struct MadeDoor {
    listener: Arc<Listener>,
    bound: SocketAddr,
}

/// What makes two listeners of two configurations the same door: clients find it by its address, whatever it is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum DoorKey {
    At(SocketAddr),
    /// The system chose the port, so that only the name tells.
    Anywhere(SocketAddr, ListenerName),
}

/// A configuration with everything it needs, not in force yet.
pub(crate) struct Prepared {
    config: Arc<Config>,
    tls: Tls,
    made: Made,
    change: SceneChange,
    openings: Vec<Opening>,
    kept: BTreeMap<Place, Vec<TcpListener>>,
    services: Difference,
    doors: Difference,
}

/// What the cores and the membership are to be told.
pub(crate) struct Committed {
    pub(crate) change: Arc<SceneChange>,
    pub(crate) openings: Vec<Arc<Opening>>,
    pub(crate) services: Difference,
    pub(crate) doors: Difference,
}

/// A listener as a successor is told of it.
pub(crate) struct Offered {
    pub(crate) name: String,
    pub(crate) configured: SocketAddr,
    pub(crate) bound: SocketAddr,
    pub(crate) sockets: Vec<TcpListener>,
}

/// Second handles of the listening sockets, kept to be handed to a successor; none are kept where no takeover is configured.
#[derive(Default)]
pub(crate) struct KeptSockets(Mutex<BTreeMap<Place, Vec<TcpListener>>>);

impl World {
    /// A world in which nothing is configured but what no reload can change.
    ///
    /// # Errors
    /// Never in practice: there are no files of TLS to read yet.
    pub(crate) fn new(
        config: Config,
        metrics: Arc<Metrics>,
        epoch: Instant,
    ) -> Result<Self, StartError> {
        let policy = config.admission.clone();
        let admission = metrics.scoped(|| Admission::new(policy, epoch, AdmissionMetrics::new()));
        let nothing = Config {
            listeners: Vec::new(),
            routes: Vec::new(),
            services: Vec::new(),
            ..config
        };
        let tls = Tls::load(&nothing, &metrics, None)?;
        Ok(Self {
            in_force: Arc::new(ArcSwap::from_pointee(nothing)),
            tls: Arc::new(ArcSwap::from_pointee(tls)),
            admission,
            epoch,
            metrics,
            made: Made::default(),
            kept: Arc::default(),
        })
    }

    pub(crate) fn tls(&self) -> Arc<ArcSwap<Tls>> {
        self.tls.clone()
    }

    pub(crate) fn admission(&self) -> Arc<Admission> {
        self.admission.clone()
    }

    pub(crate) fn in_force(&self) -> InForce {
        self.in_force.clone()
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        self.in_force.load_full()
    }

    pub(crate) fn kept_sockets(&self) -> Arc<KeptSockets> {
        self.kept.clone()
    }

    /// The parts of a service, while it is configured.
    pub(crate) fn service(&self, idx: ServiceIdx) -> Option<&Arc<ServiceParts>> {
        self.made.parts_by_place.get(&Place(idx.0))
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<ServiceParts>> {
        self.made.parts_by_place.values()
    }

    /// Names and addresses, in the order in which doors were opened.
    pub(crate) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let doors = self.made.door_by_place.values();
        doors
            .map(|it| (it.listener.name.to_string(), it.bound))
            .collect()
    }

    /// Binds and makes everything that `next` needs. Sockets that are among the inherited ones are taken from there.
    ///
    /// # Errors
    /// When anything cannot be had; then nothing has changed.
    pub(crate) fn prepare(
        &self,
        next: Config,
        inherited: &mut Inherited,
    ) -> Result<Prepared, StartError> {
        let mut made = self.made.clone();
        let tls = Tls::load(&next, &self.metrics, Some(&self.tls.load()))?;
        let maker = Maker {
            metrics: &self.metrics,
            tls: &tls,
            admission: &self.admission,
            epoch: self.epoch,
        };
        let services = made.follow_services(&next, &maker)?;
        let placed = Placed::new(next, &services);
        let doors = made.follow_doors(&placed);
        let openings = made.make_doors(&placed, &doors, &maker, inherited)?;
        let change = SceneChange {
            routes: Arc::new(placed.table(&doors)?),
            services: made.parts_by_place.values().cloned().collect(),
            changed: made.changed_listeners(&doors),
            closed: doors.removed.iter().map(|it| it.0).collect(),
            drain_deadline: placed.config.drain_deadline,
        };
        let kept = match placed.config.takeover {
            Some(_) => second_handles(&openings)?,
            None => BTreeMap::new(),
        };
        Ok(Prepared {
            config: Arc::new(placed.config),
            tls,
            made,
            change,
            openings: openings.into_iter().map(Bound::deal).collect(),
            kept,
            services,
            doors,
        })
    }

    /// Puts a prepared configuration in force.
    pub(crate) fn commit(&mut self, prepared: Prepared) -> Committed {
        let mut kept = self.kept.lock();
        for place in &prepared.doors.removed {
            kept.remove(place);
            if let Some(door) = self.made.door_by_place.get(place) {
                door.listener.door.is_closed.store(true, Relaxed);
            }
        }
        kept.extend(prepared.kept);
        drop(kept);
        self.made = prepared.made;
        self.tls.store(Arc::new(prepared.tls));
        // Rules that are new are counted, too.
        let adopt = || self.admission.adopt(&prepared.config.admission);
        self.metrics.scoped(adopt);
        self.in_force.store(prepared.config);
        Committed {
            change: Arc::new(prepared.change),
            openings: prepared.openings.into_iter().map(Arc::new).collect(),
            services: prepared.services,
            doors: prepared.doors,
        }
    }

    /// Every listener with handles of its sockets, for a successor.
    ///
    /// # Errors
    /// When there are too many open files.
    pub(crate) fn offer(&self) -> std::io::Result<Vec<Offered>> {
        let kept = self.kept.lock();
        let offered = self.made.door_by_place.iter().map(|(place, door)| {
            let sockets = kept.get(place).map_or(&[][..], Vec::as_slice);
            Ok(Offered {
                name: door.listener.name.to_string(),
                configured: door.listener.policy.address,
                bound: door.bound,
                sockets: sockets
                    .iter()
                    .map(TcpListener::try_clone)
                    .collect::<Result<_, _>>()?,
            })
        });
        offered.collect()
    }

    /// The successor takes what the kernel has completed for these.
    pub(crate) fn hand_over(&self, bound: &[SocketAddr], is_handed_over: bool) {
        let doors = self.made.door_by_place.values();
        for door in doors.filter(|it| bound.contains(&it.bound)) {
            let state = &door.listener.door.is_handed_over;
            state.store(is_handed_over, Relaxed);
        }
    }
}

impl Prepared {
    /// Whether it is nothing else than what `config` has come to already.
    pub(crate) fn is_as(&self, config: &Config) -> bool {
        *self.config == *config && self.services.is_empty()
    }
}

impl Made {
    fn follow_services(
        &mut self,
        next: &Config,
        maker: &Maker<'_>,
    ) -> Result<Difference, StartError> {
        let named = next.services.iter().map(|it| (it.name.clone(), it.clone()));
        let mut difference = self.services.follow(named, has_same_source);
        for (idx, ((place, fate), policy)) in
            difference.fates.iter_mut().zip(&next.services).enumerate()
        {
            let old = self.parts_by_place.get(place);
            let picker = Picker {
                zone: next.zone.clone(),
                shared: old.map_or_else(Arc::default, |it| it.picker.shared.clone()),
                sticky: app::sticky(policy)?,
            };
            if old.is_some_and(|it| it.picker.sticky != picker.sticky) {
                // The secrets stand in a file of their own.
                *fate = Fate::Changed;
            }
            if *fate != Fate::Kept {
                let parts = ServiceParts {
                    idx: ServiceIdx(place.0),
                    policy: policy.clone(),
                    metrics: maker.metrics.service(policy.name.as_str()),
                    wide: ServiceWide {
                        budget: self.budget(*place, policy),
                        gate: self.gate(*place, policy, maker),
                        connector: maker.tls.connector(idx),
                    },
                    picker,
                };
                self.parts_by_place.insert(*place, Arc::new(parts));
            }
        }
        for place in &difference.removed {
            self.parts_by_place.remove(place);
        }
        Ok(difference)
    }

    /// What was saved up stays with the service for as long as the rule is the same.
    fn budget(&self, place: Place, policy: &config::Service) -> Arc<Budget> {
        match self.parts_by_place.get(&place) {
            Some(old) if old.policy.retry_ratio == policy.retry_ratio => old.wide.budget.clone(),
            _ => Arc::new(Budget::new(policy.retry_ratio)),
        }
    }

    /// Whoever waits in front of a service waits on while its limits are the same. Under others there is a new gate, and who went
    /// through the old one leaves by it.
    fn gate(&self, place: Place, policy: &config::Service, maker: &Maker<'_>) -> Arc<Gate> {
        let limits =
            |it: &config::Service| (it.max_requests_per_endpoint, it.adaptive, it.queue_max);
        match self.parts_by_place.get(&place) {
            Some(old) if limits(&old.policy) == limits(policy) => old.wide.gate.clone(),
            _ => {
                let name = policy.name.as_str();
                let metrics = maker.metrics.scoped(|| GateMetrics::new(name));
                Gate::new(policy, metrics, maker.epoch, Rng::new())
            }
        }
    }

    fn follow_doors(&mut self, placed: &Placed) -> Difference {
        let keyed = placed.listeners.iter().map(|it| (door_key(it), it.clone()));
        let difference = self.doors.follow(keyed, |_, _| true);
        for place in &difference.removed {
            self.door_by_place.remove(place);
        }
        difference
    }

    fn make_doors(
        &mut self,
        placed: &Placed,
        doors: &Difference,
        maker: &Maker<'_>,
        inherited: &mut Inherited,
    ) -> Result<Vec<Bound>, StartError> {
        let mut opened = Vec::new();
        let fates = doors.fates.iter().zip(&placed.listeners);
        for (idx, ((place, fate), policy)) in fates.enumerate() {
            let (state, bound) = match (fate, self.door_by_place.get(place)) {
                (Fate::Kept, _) => continue,
                (_, Some(old)) => (old.listener.door.clone(), old.bound),
                (_, None) => {
                    let (bound, sockets) = sockets(policy, placed.config.workers, inherited)?;
                    opened.push((*place, sockets));
                    (Arc::new(DoorState::default()), bound)
                }
            };
            let listener = maker.listener(*place, idx, policy, state);
            self.door_by_place
                .insert(*place, MadeDoor { listener, bound });
        }
        let bound = opened.into_iter().map(|(place, sockets)| Bound {
            place,
            listener: self.door_by_place[&place].listener.clone(),
            sockets,
            n_cores: placed.config.workers,
        });
        Ok(bound.collect())
    }

    fn changed_listeners(&self, doors: &Difference) -> Vec<Arc<Listener>> {
        let changed = doors
            .fates
            .iter()
            .filter(|(_, fate)| *fate == Fate::Changed);
        changed
            .map(|(place, _)| self.door_by_place[place].listener.clone())
            .collect()
    }
}

/// What services and doors are made with.
struct Maker<'a> {
    metrics: &'a Metrics,
    tls: &'a Tls,
    admission: &'a Arc<Admission>,
    epoch: Instant,
}

impl Maker<'_> {
    /// `idx` is the listener's place in the configuration, where its certificates are found.
    fn listener(
        &self,
        place: Place,
        idx: usize,
        policy: &config::Listener,
        state: Arc<DoorState>,
    ) -> Arc<Listener> {
        let name = policy.name.as_str();
        Listener::new(
            place.0,
            policy.clone(),
            self.metrics.listener(name),
            self.metrics.scoped(|| RefusalMetrics::new(name)),
            self.admission.clone(),
            self.tls.terminator(idx),
            state,
        )
    }
}

/// A new door's sockets, before they are dealt to the cores.
struct Bound {
    place: Place,
    listener: Arc<Listener>,
    sockets: Vec<TcpListener>,
    n_cores: usize,
}

impl Bound {
    fn deal(self) -> Opening {
        Opening::new(self.listener, net::deal(self.sockets, self.n_cores))
    }
}

fn sockets(
    policy: &config::Listener,
    n_cores: usize,
    inherited: &mut Inherited,
) -> Result<(SocketAddr, Vec<TcpListener>), StartError> {
    let failed = |cause| StartError::Listen {
        name: policy.name.to_string(),
        address: policy.address,
        cause,
    };
    let sockets = match inherited.take(policy) {
        Some(sockets) => sockets,
        None => net::listen(policy.address, n_cores).map_err(failed)?,
    };
    let bound = sockets[0].local_addr().map_err(failed)?;
    Ok((bound, sockets))
}

fn second_handles(bound: &[Bound]) -> Result<BTreeMap<Place, Vec<TcpListener>>, StartError> {
    let handles = bound.iter().map(|it| {
        let sockets: Result<_, _> = it.sockets.iter().map(TcpListener::try_clone).collect();
        Ok((it.place, sockets.map_err(StartError::SecondHandle)?))
    });
    handles.collect()
}

/// A configuration whose indexes have become places.
struct Placed {
    config: Config,
    service_places: Vec<usize>,
    listeners: Vec<config::Listener>,
}

impl Placed {
    fn new(config: Config, services: &Difference) -> Self {
        let service_places: Vec<_> = services.fates.iter().map(|(place, _)| place.0).collect();
        let placed = |listener: &config::Listener| config::Listener {
            service: listener.service.map(|idx| service_places[idx]),
            sni: listener
                .sni
                .iter()
                .map(|it| config::SniRoute {
                    service: service_places[it.service],
                    ..it.clone()
                })
                .collect(),
            ..listener.clone()
        };
        Self {
            listeners: config.listeners.iter().map(placed).collect(),
            service_places,
            config,
        }
    }

    fn table(&self, doors: &Difference) -> Result<RouteTable<Target>, StartError> {
        let mut routes = Vec::new();
        for route in &self.config.routes {
            let target = Target {
                route: route.name.as_str().into(),
                service: route.service.map(|idx| self.service_places[idx]),
                actions: route.actions.clone(),
            };
            let listeners = route.listeners.iter().map(|idx| doors.fates[*idx].0.0);
            routes.push((rule(route, listeners.collect())?, target));
        }
        Ok(RouteTable::build(routes)?)
    }
}

fn rule(route: &config::Route, listeners: Vec<usize>) -> Result<Rule, StartError> {
    let name = || route.name.clone();
    let hosts: Result<Vec<_>, _> = route.hosts.iter().map(|it| it.parse()).collect();
    Ok(Rule {
        name: route.name.as_str().into(),
        listeners,
        hosts: hosts.map_err(|cause| StartError::Host {
            route: name(),
            cause,
        })?,
        path: route.path.parse().map_err(|cause| StartError::Path {
            route: name(),
            cause,
        })?,
        conditions: route.actions.conditions.clone(),
    })
}

fn door_key(listener: &config::Listener) -> DoorKey {
    match listener.address.port() {
        0 => DoorKey::Anywhere(listener.address, listener.name.clone()),
        _ => DoorKey::At(listener.address),
    }
}

/// Endpoints of one kind have nothing to do with those of another, even under one name.
fn has_same_source(old: &config::Service, new: &config::Service) -> bool {
    matches!(old.discover, Discover::Registry) == matches!(new.discover, Discover::Registry)
}

impl KeptSockets {
    /// Only who keeps no handle closes a socket by closing its own.
    pub(crate) fn let_go(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Vec<TcpListener>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
