//! Routes: that each leads from listeners that speak HTTP to a service, and that no two want the same requests.

use std::collections::BTreeMap;

use settings::Error;

use super::{Keys, Named, host};
use crate::config::{Config, ListenerProtocol, ProxyProtocol, Route, raw, value};

const HOSTS_MAX: usize = 10_000;

pub(super) fn all(
    top: &Keys<'_>,
    raw: Vec<raw::Route>,
    listeners: &Named,
    services: &Named,
    config: &Config,
) -> Result<Vec<Route>, Error> {
    let mut names = Named::none("route");
    let mut routes = Vec::with_capacity(raw.len());
    for (idx, raw) in raw.into_iter().enumerate() {
        let keys = top.element("route", idx);
        let name = raw.name.clone().unwrap_or_else(|| format!("route-{idx}"));
        names.add(&keys, idx, &name)?;
        routes.push(Route {
            name,
            listeners: listeners_of(&keys, &raw, listeners, config)?,
            service: service(&keys, &raw, services, config)?,
            hosts: hosts(&keys, &raw.hosts)?,
            path: path(&keys, raw.path)?,
        });
    }
    check_overlap(top, &routes)?;
    Ok(routes)
}

fn listeners_of(
    keys: &Keys<'_>,
    raw: &raw::Route,
    listeners: &Named,
    config: &Config,
) -> Result<Vec<usize>, Error> {
    let Some(names) = &raw.listeners else {
        return every_http(keys, config);
    };
    if names.is_empty() {
        return Err(keys.refuse(
            "listeners",
            "is empty: leave it out for every listener that speaks HTTP",
        ));
    }
    let mut indexes = Vec::with_capacity(names.len());
    for (idx, name) in names.iter().enumerate() {
        let key = format!("listeners[{idx}]");
        let listener = listeners.find(keys, &key, name)?;
        if !speaks_http(config.listeners[listener].protocol) {
            return Err(keys.refuse(
                &key,
                format!("the protocol of `{name}` is `tcp`, it has no requests to route"),
            ));
        }
        if indexes.contains(&listener) {
            return Err(keys.refuse(&key, format!("`{name}` stands here twice")));
        }
        indexes.push(listener);
    }
    Ok(indexes)
}

fn every_http(keys: &Keys<'_>, config: &Config) -> Result<Vec<usize>, Error> {
    let all = config.listeners.iter().enumerate();
    let indexes: Vec<_> = all
        .filter(|(_, it)| speaks_http(it.protocol))
        .map(|(idx, _)| idx)
        .collect();
    match indexes.is_empty() {
        true => Err(keys.refuse(
            "listeners",
            "there is no listener whose protocol is `http` or `detect`",
        )),
        false => Ok(indexes),
    }
}

fn speaks_http(protocol: ListenerProtocol) -> bool {
    protocol != ListenerProtocol::Tcp
}

fn service(
    keys: &Keys<'_>,
    raw: &raw::Route,
    services: &Named,
    config: &Config,
) -> Result<usize, Error> {
    let name = keys.required("service", raw.service.as_deref())?;
    let idx = services.find(keys, "service", name)?;
    // Connections for requests are shared by clients, so that no header in front of them could name one.
    if config.services[idx].proxy_protocol != ProxyProtocol::Off {
        let message =
            format!("`{name}` has a `proxy_protocol`, which only relayed connections can carry");
        return Err(keys.refuse("service", message));
    }
    Ok(idx)
}

fn hosts(keys: &Keys<'_>, hosts: &[String]) -> Result<Vec<String>, Error> {
    keys.at_most("hosts", hosts.len(), HOSTS_MAX)?;
    let host = |(idx, text): (usize, &String)| {
        host::pattern(text).map_err(|message| keys.refuse(&format!("hosts[{idx}]"), message))
    };
    hosts.iter().enumerate().map(host).collect()
}

fn path(keys: &Keys<'_>, path: Option<String>) -> Result<String, Error> {
    let path = path.unwrap_or_else(|| "/".to_owned());
    let res = value::path_prefix(&path).map_err(|message| keys.refuse("path", message))?;
    Ok(res)
}

/// Two routes for the same requests would leave it to chance, or to their order, which of them is meant.
fn check_overlap(top: &Keys<'_>, routes: &[Route]) -> Result<(), Error> {
    let mut idx_by_request = BTreeMap::new();
    for (idx, route) in routes.iter().enumerate() {
        for request in requests(route) {
            if let Some(other) = idx_by_request.insert(request, idx) {
                let message = format!(
                    "wants the same requests as route[{other}] (`{}`)",
                    routes[other].name
                );
                return Err(top.refuse(&format!("route[{idx}]"), message));
            }
        }
    }
    Ok(())
}

/// Each listener, host and path that a route answers for; any host is none.
fn requests(route: &Route) -> impl Iterator<Item = (usize, Option<&str>, &str)> {
    let any = route.hosts.is_empty().then_some(None);
    let hosts = move || {
        any.into_iter()
            .chain(route.hosts.iter().map(|it| Some(it.as_str())))
    };
    let listeners = route.listeners.iter();
    listeners.flat_map(move |listener| hosts().map(|host| (*listener, host, route.path.as_str())))
}
