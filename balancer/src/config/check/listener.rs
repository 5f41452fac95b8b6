//! Listeners: what each needs for its protocol, and that no two want the same address.

use std::{collections::BTreeMap, net::SocketAddr};

use balancer_core::forwarded::Trusted;
use settings::Error;

use super::{Keys, Named};
use crate::config::{Listener, ListenerProtocol, proxy_protocol, raw, tls};

const TRUSTED_PROXIES_MAX: usize = 1_000;

pub(super) fn all(
    top: &Keys<'_>,
    raw: Vec<raw::Listener>,
    services: &Named,
    admin_address: SocketAddr,
) -> Result<Vec<Listener>, Error> {
    let mut listeners = Vec::with_capacity(raw.len());
    for (idx, raw) in raw.into_iter().enumerate() {
        listeners.push(one(&top.element("listener", idx), raw, services)?);
    }
    check_addresses(top, &listeners, admin_address)?;
    Ok(listeners)
}

fn one(keys: &Keys<'_>, raw: raw::Listener, services: &Named) -> Result<Listener, Error> {
    let kind = (raw.protocol, raw.tls.is_some());
    let tls = raw.tls.map(|it| it.check(&keys.table("tls"), raw.protocol));
    let hsts = raw.hsts.map(|it| it.check(&keys.table("hsts"), kind));
    let listener = Listener {
        name: keys.required("name", raw.name)?.into(),
        address: keys.required("address", raw.address)?,
        protocol: raw.protocol,
        service: service(keys, raw.protocol, raw.service.as_deref(), services)?,
        max_connections: raw.max_connections,
        request_head_timeout: raw.request_head_timeout,
        idle_timeout: raw.idle_timeout,
        detect_timeout: raw.detect_timeout,
        max_head_bytes: raw.max_head_bytes,
        max_headers: raw.max_headers,
        min_body_rate: raw.min_body_rate,
        min_body_rate_grace: raw.min_body_rate_grace,
        send_timeout: raw.send_timeout,
        connection_max_age: raw.connection_max_age,
        max_requests_per_connection: raw.max_requests_per_connection,
        server_timing: raw.server_timing,
        trusted_proxies: trusted(keys, &raw.trusted_proxies)?,
        tls: tls.transpose()?,
        sni: tls::sni_routes(keys, raw.sni, services, kind)?,
        hsts: hsts.transpose()?,
        https_redirect: raw.https_redirect.check(keys, kind)?,
        proxy_protocol: proxy_protocol::check(&keys.table("proxy_protocol"), raw.proxy_protocol)?,
    };
    Ok(listener)
}

fn service(
    keys: &Keys<'_>,
    protocol: ListenerProtocol,
    name: Option<&str>,
    services: &Named,
) -> Result<Option<usize>, Error> {
    if protocol == ListenerProtocol::Http {
        keys.absent(
            "service",
            &name,
            "is for the protocols `tcp` and `detect`: HTTP is sent on by routes",
        )?;
        return Ok(None);
    }
    let name = keys.required("service", name)?;
    let idx = services.find(keys, "service", name)?;
    Ok(Some(idx))
}

fn trusted(keys: &Keys<'_>, texts: &[String]) -> Result<Trusted, Error> {
    proxy_protocol::networks(keys, "trusted_proxies", texts, TRUSTED_PROXIES_MAX)
}

/// Listeners share their address among workers, so that the system would let two of them share one too and mix their clients.
fn check_addresses(
    top: &Keys<'_>,
    listeners: &[Listener],
    admin_address: SocketAddr,
) -> Result<(), Error> {
    let mut user_by_address = BTreeMap::from([(admin_address, "admin".to_owned())]);
    for (idx, listener) in listeners
        .iter()
        .enumerate()
        .filter(|(_, it)| it.address.port() != 0)
    {
        let taken = user_by_address.insert(listener.address, format!("listener[{idx}]"));
        if let Some(user) = taken {
            let keys = top.element("listener", idx);
            return Err(keys.refuse("address", format!("{user} has the same")));
        }
    }
    Ok(())
}
