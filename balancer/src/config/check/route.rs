//! Routes: that each leads from listeners that speak HTTP to a service, and that no two take the same requests.

use balancer_core::table::{HostPattern, PathPrefix, RouteTable, Rule, TableError};
use settings::Error;

use super::{Keys, Named};
use crate::config::{
    Config, ListenerProtocol, ProxyProtocol, Route, raw,
    rules::{self, Actions},
};

const HOSTS_MAX: usize = 10_000;
const PATH_LEN_MAX: usize = 1024;

pub(super) fn all(
    top: &Keys<'_>,
    raw: Vec<raw::Route>,
    listeners: &Named,
    services: &Named,
    config: &Config,
) -> Result<Vec<Route>, Error> {
    let mut names = Named::none("route");
    let mut rules = Vec::with_capacity(raw.len());
    let mut routes = Vec::with_capacity(raw.len());
    for (idx, raw) in raw.into_iter().enumerate() {
        let keys = top.element("route", idx);
        let name = raw.name.clone().unwrap_or_else(|| format!("route-{idx}"));
        names.add(&keys, idx, &name)?;
        let path = path(&keys, raw.path.as_deref().unwrap_or("/"))?;
        let actions = rules::check(&keys, &raw, &path)?;
        let rule = Rule {
            name: name.as_str().into(),
            listeners: listeners_of(&keys, &raw, listeners, config)?,
            hosts: hosts(&keys, &raw.hosts)?,
            path,
            conditions: actions.conditions.clone(),
        };
        let service = match actions.reply {
            Some(_) => None,
            None => Some(service(&keys, &raw, services, config)?),
        };
        routes.push(route(name, &rule, service, actions));
        rules.push((rule, ()));
    }
    RouteTable::build(rules).map_err(|error| ambiguous(top, &names, error))?;
    Ok(routes)
}

fn route(name: String, rule: &Rule, service: Option<usize>, actions: Actions) -> Route {
    Route {
        name,
        listeners: rule.listeners.clone(),
        hosts: rule.hosts.iter().map(HostPattern::to_string).collect(),
        path: rule.path.to_string(),
        service,
        actions: actions.into(),
    }
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

fn hosts(keys: &Keys<'_>, hosts: &[String]) -> Result<Vec<HostPattern>, Error> {
    keys.at_most("hosts", hosts.len(), HOSTS_MAX)?;
    let host = |(idx, text): (usize, &String)| {
        text.parse()
            .map_err(|error| keys.refuse(&format!("hosts[{idx}]"), format!("`{text}`: {error}")))
    };
    hosts.iter().enumerate().map(host).collect()
}

fn path(keys: &Keys<'_>, text: &str) -> Result<PathPrefix, Error> {
    keys.at_most("path", text.len(), PATH_LEN_MAX)?;
    let res = text
        .parse()
        .map_err(|error| keys.refuse("path", format!("`{text}`: {error}")))?;
    Ok(res)
}

fn ambiguous(top: &Keys<'_>, routes: &Named, error: TableError) -> Error {
    let TableError::Ambiguous { second, .. } = &error;
    let idx = routes.idx_by_name[&second.to_string()];
    top.refuse(&format!("route[{idx}]"), error.to_string())
}
