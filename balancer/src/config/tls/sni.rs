//! `[[listener.sni]]`: the names whose connections go to a service as they are, their TLS untouched.

use std::collections::BTreeSet;

use balancer_core::server_names::ServerNamePattern;
use serde::{Deserialize, Serialize, Serializer};
use settings::Error;

use crate::config::{
    ListenerProtocol,
    check::{Keys, Named},
};

const ROUTES_MAX: usize = 1_000;
const NAMES_MAX: usize = 1_000;

/// Where connections that ask for certain names go.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SniRoute {
    /// At least one.
    #[serde(serialize_with = "texts")]
    pub names: Vec<ServerNamePattern>,
    #[serde(skip)]
    pub service: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::config) struct RawSniRoute {
    /// The names, 1 to 1,000: `"www.example.org"`, or `"*.example.org"` for every name with one label more. Required.
    names: Vec<String>,
    /// The service that gets their connections. Required.
    service: Option<String>,
}

pub(in crate::config) fn all(
    keys: &Keys<'_>,
    raw: Vec<RawSniRoute>,
    services: &Named,
    (protocol, has_tls): (ListenerProtocol, bool),
) -> Result<Vec<SniRoute>, Error> {
    keys.at_most("sni", raw.len(), ROUTES_MAX)?;
    if !raw.is_empty() && protocol == ListenerProtocol::Http && !has_tls {
        return Err(keys.refuse("sni", "needs `tls` where the protocol is `http`"));
    }
    let mut taken = BTreeSet::new();
    raw.into_iter()
        .enumerate()
        .map(|(idx, it)| one(&keys.element("sni", idx), it, services, &mut taken))
        .collect()
}

fn one(
    keys: &Keys<'_>,
    raw: RawSniRoute,
    services: &Named,
    taken: &mut BTreeSet<ServerNamePattern>,
) -> Result<SniRoute, Error> {
    if raw.names.is_empty() {
        return Err(keys.refuse("names", "required, but there is none"));
    }
    keys.at_most("names", raw.names.len(), NAMES_MAX)?;
    let mut names = Vec::with_capacity(raw.names.len());
    for (idx, text) in raw.names.iter().enumerate() {
        let refuse = |message| keys.refuse(&format!("names[{idx}]"), message);
        let name = ServerNamePattern::new(text).map_err(|it| refuse(format!("`{text}` {it}")))?;
        if !taken.insert(name.clone()) {
            return Err(refuse(format!("`{name}` stands at this listener twice")));
        }
        names.push(name);
    }
    let service = keys.required("service", raw.service)?;
    let service = services.find(keys, "service", &service)?;
    Ok(SniRoute { names, service })
}

fn texts<S: Serializer>(names: &[ServerNamePattern], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(ServerNamePattern::to_string))
}
