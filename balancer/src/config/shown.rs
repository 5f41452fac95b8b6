//! The configuration as the admin API shows it: what is an index inside is a name again.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Serialize, Serializer};

use super::{
    Admin, Admission, Config, ExplainConfig, Listener, Log, MembershipConfig, Route, Service,
    SniRoute, Takeover, TracingConfig,
};

/// Writes a value as it displays itself.
pub(super) fn text<S: Serializer>(
    value: &impl fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Writes what is shared as what it is.
pub(super) fn shared<T: Serialize, S: Serializer>(
    value: &Arc<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.as_ref().serialize(serializer)
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Shown::of(self).serialize(serializer)
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    zone: Option<&'a str>,
    workers: usize,
    #[serde(serialize_with = "humantime_serde::serialize")]
    drain_deadline: Duration,
    watch_config: bool,
    takeover: &'a Option<Takeover>,
    admin: &'a Admin,
    registry: &'a Option<registry::Config>,
    membership: &'a MembershipConfig,
    log: &'a Log,
    explain: &'a ExplainConfig,
    tracing: &'a Option<TracingConfig>,
    admission: &'a Admission,
    listener: Vec<ShownListener<'a>>,
    route: Vec<ShownRoute<'a>>,
    service: &'a [Service],
}

#[derive(Serialize)]
struct ShownListener<'a> {
    #[serde(flatten)]
    listener: &'a Listener,
    service: Option<&'a str>,
    sni: Vec<ShownSni<'a>>,
}

#[derive(Serialize)]
struct ShownSni<'a> {
    #[serde(flatten)]
    route: &'a SniRoute,
    service: &'a str,
}

#[derive(Serialize)]
struct ShownRoute<'a> {
    #[serde(flatten)]
    route: &'a Route,
    listeners: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn of(config: &'a Config) -> Self {
        Self {
            id: &config.id,
            zone: config.zone.as_deref(),
            workers: config.workers,
            drain_deadline: config.drain_deadline,
            watch_config: config.watch_config,
            takeover: &config.takeover,
            admin: &config.admin,
            registry: &config.registry,
            membership: &config.membership,
            log: &config.log,
            explain: &config.explain,
            tracing: &config.tracing,
            admission: &config.admission,
            listener: config
                .listeners
                .iter()
                .map(|it| ShownListener::of(it, config))
                .collect(),
            route: config
                .routes
                .iter()
                .map(|it| ShownRoute::of(it, config))
                .collect(),
            service: &config.services,
        }
    }
}

impl<'a> ShownListener<'a> {
    fn of(listener: &'a Listener, config: &'a Config) -> Self {
        Self {
            listener,
            service: listener
                .service
                .map(|idx| config.services[idx].name.as_str()),
            sni: listener
                .sni
                .iter()
                .map(|route| ShownSni::of(route, config))
                .collect(),
        }
    }
}

impl<'a> ShownSni<'a> {
    fn of(route: &'a SniRoute, config: &'a Config) -> Self {
        Self {
            route,
            service: config.services[route.service].name.as_str(),
        }
    }
}

impl<'a> ShownRoute<'a> {
    fn of(route: &'a Route, config: &'a Config) -> Self {
        let name = |idx: &usize| config.listeners[*idx].name.as_str();
        Self {
            route,
            listeners: route.listeners.iter().map(name).collect(),
            service: route.service.map(|idx| config.services[idx].name.as_str()),
        }
    }
}
