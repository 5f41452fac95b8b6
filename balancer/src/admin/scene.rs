//! What the balancer has in front of it: endpoints as the view sees them, and listeners, routes and services as configured.

use std::{collections::BTreeMap, net::SocketAddr};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use balancer_core::membership::Standing;
use serde::Serialize;

use super::{Shared, ask, leaving};
use crate::{
    config::{self, Discover, ListenerProtocol, UpstreamProtocol},
    watch::Question,
};

#[derive(Serialize)]
struct Endpoints {
    endpoints: Vec<Standing>,
}

pub(super) async fn endpoints(State(admin): Shared) -> Response {
    match ask(&admin, Question::Standings).await {
        Some(endpoints) => Json(Endpoints { endpoints }).into_response(),
        None => leaving(),
    }
}

#[derive(Serialize)]
struct Listeners<'a> {
    listeners: Vec<Listener<'a>>,
}

#[derive(Serialize)]
struct Listener<'a> {
    name: &'a str,
    address: SocketAddr,
    protocol: ListenerProtocol,
    service: Option<&'a str>,
    max_connections: usize,
}

pub(super) async fn listeners(State(admin): Shared) -> Response {
    let config = admin.config.load_full();
    let Some(bound) = ask(&admin, Question::Addresses).await else {
        return leaving();
    };
    let address_by_name: BTreeMap<_, _> = bound.into_iter().collect();
    let shown = config.listeners.iter().map(|it| Listener {
        name: it.name.as_str(),
        address: *address_by_name.get(it.name.as_str()).unwrap_or(&it.address),
        protocol: it.protocol,
        service: it.service.map(|idx| config.services[idx].name.as_str()),
        max_connections: it.max_connections,
    });
    Json(Listeners {
        listeners: shown.collect(),
    })
    .into_response()
}

#[derive(Serialize)]
struct Routes<'a> {
    routes: Vec<Route<'a>>,
}

#[derive(Serialize)]
struct Route<'a> {
    name: &'a str,
    listeners: Vec<&'a str>,
    hosts: &'a [String],
    path: &'a str,
    /// None where the balancer answers by itself.
    service: Option<&'a str>,
}

pub(super) async fn routes(State(admin): Shared) -> Response {
    let config = admin.config.load_full();
    let listener = |at: &usize| config.listeners[*at].name.as_str();
    let shown = config.routes.iter().map(|route| Route {
        name: &route.name,
        listeners: route.listeners.iter().map(listener).collect(),
        hosts: &route.hosts,
        path: &route.path,
        service: route.service.map(|at| config.services[at].name.as_str()),
    });
    Json(Routes {
        routes: shown.collect(),
    })
    .into_response()
}

#[derive(Serialize)]
struct Services<'a> {
    services: Vec<Service<'a>>,
}

#[derive(Serialize)]
struct Service<'a> {
    name: &'a str,
    discover: &'static str,
    protocol: UpstreamProtocol,
    endpoints_known: usize,
    endpoints_offered: usize,
    in_flight: u64,
}

/// What the endpoints of one service add up to.
#[derive(Default)]
struct Sum {
    known: usize,
    offered: usize,
    in_flight: u64,
}

pub(super) async fn services(State(admin): Shared) -> Response {
    let Some(standings) = ask(&admin, Question::Standings).await else {
        return leaving();
    };
    let config = admin.config.load_full();
    let mut sum_by_service: BTreeMap<&str, Sum> = BTreeMap::new();
    for standing in &standings {
        let sum = sum_by_service.entry(&standing.service).or_default();
        sum.known += 1;
        sum.offered += usize::from(standing.offered);
        sum.in_flight += u64::from(standing.in_flight);
    }
    let none = Sum::default();
    let shown = config.services.iter().map(|it| {
        let sum = sum_by_service.get(it.name.as_str()).unwrap_or(&none);
        Service::of(it, sum)
    });
    Json(Services {
        services: shown.collect(),
    })
    .into_response()
}

impl<'a> Service<'a> {
    fn of(it: &'a config::Service, sum: &Sum) -> Self {
        Self {
            name: it.name.as_str(),
            discover: match it.discover {
                Discover::Registry => "registry",
                Discover::Static(_) => "static",
                Discover::Dns(_) => "dns",
            },
            protocol: it.protocol,
            endpoints_known: sum.known,
            endpoints_offered: sum.offered,
            in_flight: sum.in_flight,
        }
    }
}
