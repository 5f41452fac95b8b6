//! What may stand beside what: keys that need, exclude or name one another become one checked configuration.

use std::{collections::BTreeMap, num::NonZero};

use settings::{Error, Loaded, Source};

use super::{Admission, Config, admission, raw, value};

mod listener;
mod route;
mod service;

const LISTENERS_MAX: usize = 256;
const ROUTES_MAX: usize = 10_000;
const SERVICES_MAX: usize = 10_000;
/// An error is one line, however many names would have been right.
const NAMES_SHOWN_MAX: usize = 20;

pub(super) fn check(loaded: Loaded<raw::Config>) -> Result<Config, Error> {
    let Loaded { value: raw, source } = loaded;
    let top = Keys::top(&source);
    check_counts(&top, &raw)?;
    let services = Named::all(&top, "service", raw.service.iter().map(|it| &it.name))?;
    let listeners = Named::all(&top, "listener", raw.listener.iter().map(|it| &it.name))?;
    let admin_address = raw.admin.address;
    raw.admin.check(&top.table("admin"))?;
    let config = Config {
        id: id(&top, raw.id)?,
        zone: zone(&top, raw.zone)?,
        workers: workers(raw.workers),
        drain_deadline: raw.drain_deadline,
        watch_config: raw.watch_config,
        takeover: raw.takeover.check(&top.table("takeover"))?,
        admin: raw.admin,
        registry: raw.registry,
        membership: raw.membership,
        log: raw.log,
        explain: raw.explain,
        tracing: raw.tracing.check(&top.table("tracing"))?,
        admission: Admission::default(),
        services: service::all(&top, raw.service)?,
        listeners: listener::all(&top, raw.listener, &services, admin_address)?,
        routes: Vec::new(),
    };
    let routes = route::all(&top, raw.route, &listeners, &services, &config)?;
    let names: Vec<_> = routes.iter().map(|it| it.name.clone()).collect();
    let admission = admission::check(&top.table("admission"), raw.admission, &listeners, &names)?;
    Ok(Config {
        admission,
        routes,
        ..config
    })
}

fn check_counts(top: &Keys<'_>, raw: &raw::Config) -> Result<(), Error> {
    if raw.listener.is_empty() {
        return Err(top.refuse(
            "listener",
            "required, but not set: there is no `[[listener]]`",
        ));
    }
    top.at_most("listener", raw.listener.len(), LISTENERS_MAX)?;
    top.at_most("route", raw.route.len(), ROUTES_MAX)?;
    top.at_most("service", raw.service.len(), SERVICES_MAX)?;
    Ok(())
}

fn id(top: &Keys<'_>, id: Option<String>) -> Result<String, Error> {
    let id = id.unwrap_or_else(host_name);
    value::check_id(&id).map_err(|message| top.refuse("id", message))?;
    Ok(id)
}

fn zone(top: &Keys<'_>, zone: Option<String>) -> Result<Option<String>, Error> {
    if let Some(zone) = &zone {
        value::check_id(zone).map_err(|message| top.refuse("zone", message))?;
    }
    Ok(zone)
}

pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn workers(workers: usize) -> usize {
    match workers {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        workers => workers,
    }
}

/// One table of the settings, by the path at which its keys are found.
pub(super) struct Keys<'a> {
    source: &'a Source,
    path: String,
}

impl<'a> Keys<'a> {
    fn top(source: &'a Source) -> Self {
        Self {
            source,
            path: String::new(),
        }
    }

    /// The table at a key of this one.
    pub(super) fn table(&self, key: &str) -> Self {
        Self {
            source: self.source,
            path: self.path_of(key),
        }
    }

    /// A table in the list at a key of this one.
    pub(super) fn element(&self, key: &str, idx: usize) -> Self {
        self.table(&format!("{key}[{idx}]"))
    }

    fn path_of(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    pub(super) fn refuse(&self, key: &str, message: impl Into<String>) -> Error {
        self.source.error(&self.path_of(key), message)
    }

    pub(super) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| self.refuse(key, "required, but not set"))
    }

    pub(super) fn absent<T>(
        &self,
        key: &str,
        value: &Option<T>,
        reason: &str,
    ) -> Result<(), Error> {
        match value {
            Some(_) => Err(self.refuse(key, reason)),
            None => Ok(()),
        }
    }

    pub(super) fn at_most(&self, key: &str, len: usize, len_max: usize) -> Result<(), Error> {
        match len > len_max {
            true => Err(self.refuse(
                key,
                format!("{len} are more than the {len_max} there may be"),
            )),
            false => Ok(()),
        }
    }
}

/// The tables of one list by their names, each of which only one has.
pub(super) struct Named {
    kind: &'static str,
    idx_by_name: BTreeMap<String, usize>,
}

impl Named {
    fn all<'n>(
        top: &Keys<'_>,
        kind: &'static str,
        names: impl Iterator<Item = &'n Option<String>>,
    ) -> Result<Self, Error> {
        let mut named = Self::none(kind);
        for (idx, name) in names.enumerate() {
            let keys = top.element(kind, idx);
            named.add(&keys, idx, keys.required("name", name.as_deref())?)?;
        }
        Ok(named)
    }

    fn none(kind: &'static str) -> Self {
        Self {
            kind,
            idx_by_name: BTreeMap::new(),
        }
    }

    fn add(&mut self, keys: &Keys<'_>, idx: usize, name: &str) -> Result<(), Error> {
        value::check_name(name).map_err(|message| keys.refuse("name", message))?;
        match self.idx_by_name.insert(name.to_owned(), idx) {
            Some(taken) => {
                let message = format!("{}[{taken}] is called `{name}` already", self.kind);
                Err(keys.refuse("name", message))
            }
            None => Ok(()),
        }
    }

    pub(super) fn find(&self, keys: &Keys<'_>, key: &str, name: &str) -> Result<usize, Error> {
        let idx = self.idx_by_name.get(name).copied();
        idx.ok_or_else(|| keys.refuse(key, self.unknown(name)))
    }

    fn unknown(&self, name: &str) -> String {
        let kind = self.kind;
        let known: Vec<_> = self
            .idx_by_name
            .keys()
            .take(NAMES_SHOWN_MAX)
            .map(String::as_str)
            .collect();
        let more = if self.idx_by_name.len() > known.len() {
            ", …"
        } else {
            ""
        };
        match known.is_empty() {
            true => format!("no {kind} is called `{name}`, there is none at all"),
            false => format!(
                "no {kind} is called `{name}`, expected one of `{}`{more}",
                known.join("`, `")
            ),
        }
    }
}
