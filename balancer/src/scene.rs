//! What one core serves at a moment: the routes, the services they lead to and the doors that clients come in by.
//!
//! A scene is replaced whole. An exchange takes from it what it needs when it is planned and keeps that, so that whatever comes
//! after concerns only those who come after. What a core is told is a [`SceneChange`], which all cores share; what it makes of it, its
//! pools and connections, is its own.

use std::{
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use balancer_core::{membership::ServiceIdx, table::RouteTable};
use rustc_hash::FxHashMap;
use tokio_util::sync::CancellationToken;

use crate::{
    accept::Listener,
    config::{self, Actions},
    lifeline::Lifelines,
    observe::ServiceMetrics,
    pick::{Picker, Service, ServiceWide},
    worker::Worker,
};

#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) routes: Arc<RouteTable<Target>>,
    service_by_idx: FxHashMap<usize, Arc<Service>>,
}

/// Where a route leads.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) route: Arc<str>,
    /// None of a route that redirects or answers by itself.
    pub(crate) service: Option<usize>,
    pub(crate) actions: Arc<Actions>,
}

/// From one scene to the next, for every core alike.
#[derive(Debug)]
pub(crate) struct SceneChange {
    pub(crate) routes: Arc<RouteTable<Target>>,
    /// All of them; who is not among them is gone.
    pub(crate) services: Vec<Arc<ServiceParts>>,
    /// Doors that stay where they are and get another policy.
    pub(crate) changed: Vec<Arc<Listener>>,
    /// Doors by which nobody comes in any more.
    pub(crate) closed: Vec<usize>,
    pub(crate) drain_deadline: Duration,
}

/// What all cores share of one service.
#[derive(Debug)]
pub(crate) struct ServiceParts {
    pub(crate) idx: ServiceIdx,
    pub(crate) policy: config::Service,
    pub(crate) metrics: ServiceMetrics,
    pub(crate) wide: ServiceWide,
    pub(crate) picker: Picker,
}

/// A door about to be opened, with the sockets of each core; each core takes its own.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) listener: Arc<Listener>,
    by_core: Vec<Mutex<Vec<TcpListener>>>,
}

/// What all policies that a door has had share.
#[derive(Debug, Default)]
pub(crate) struct DoorState {
    pub(crate) connections: AtomicUsize,
    /// Refused clients that are being given a moment to read why.
    pub(crate) refusals_under_way: AtomicUsize,
    /// Its connections go by the last scene that it was in.
    pub(crate) is_closed: AtomicBool,
    /// Another process has the same sockets and takes what the kernel has completed.
    pub(crate) is_handed_over: AtomicBool,
}

/// One core's side of a listener.
#[derive(Debug)]
pub(crate) struct Door {
    /// What the next connection is served by.
    pub(crate) listener: ArcSwap<Listener>,
    pub(crate) lifelines: Arc<Lifelines>,
    pub(crate) stop: CancellationToken,
}

impl Scene {
    pub(crate) fn service(&self, idx: usize) -> Option<&Arc<Service>> {
        self.service_by_idx.get(&idx)
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.service_by_idx.values()
    }

    /// The scene after this one: a service whose policy is the same is the same object.
    pub(crate) fn next(&self, change: &SceneChange, worker: &Worker) -> Self {
        let service = |parts: &Arc<ServiceParts>| {
            let service = match self.service(parts.idx.0) {
                Some(old) if old.goes_by(parts) => old.clone(),
                Some(old) => Arc::new(old.renewed(parts)),
                None => Arc::new(Service::new(parts, worker)),
            };
            (parts.idx.0, service)
        };
        Self {
            routes: change.routes.clone(),
            service_by_idx: change.services.iter().map(service).collect(),
        }
    }
}

impl Default for Scene {
    fn default() -> Self {
        let routes = RouteTable::build([]).expect("no routes contradict each other");
        Self {
            routes: Arc::new(routes),
            service_by_idx: FxHashMap::default(),
        }
    }
}

impl Opening {
    pub(crate) fn new(listener: Arc<Listener>, by_core: Vec<Vec<TcpListener>>) -> Self {
        Self {
            listener,
            by_core: by_core.into_iter().map(Mutex::new).collect(),
        }
    }

    pub(crate) fn take(&self, core: usize) -> Vec<TcpListener> {
        let sockets = self.by_core.get(core);
        sockets.map_or_else(Vec::new, |it| {
            std::mem::take(&mut *it.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }
}

impl Door {
    pub(crate) fn new(listener: Arc<Listener>, worker: &Worker) -> Self {
        Self {
            listener: ArcSwap::new(listener),
            lifelines: Lifelines::new(worker.epoch),
            stop: worker.stop.child_token(),
        }
    }
}
