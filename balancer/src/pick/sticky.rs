//! What a request asks of the picker, read from its head, and the cookie that answers it.

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use balancer_core::{
    affinity::{Asked, cookie},
    sticky::UnixSeconds,
};
use http::{HeaderMap, HeaderValue, header};

use super::{Lease, Service};

impl Service {
    /// What a request with this path and these fields asks for; `fields` is called for each look at them. Costs nothing where the service neither picks by key nor is sticky.
    pub(crate) fn asked<'a, F: Iterator<Item = (&'a str, &'a [u8])>>(
        &self,
        client: IpAddr,
        path: &str,
        fields: impl Fn() -> F,
    ) -> Asked {
        let mut asked = Asked::default();
        if let Some(source) = self.policy.pick.key_source() {
            asked.key = source.key(client, path, fields());
        }
        if let Some(sticky) = &self.sticky
            && let Some(promise) = cookie(fields(), sticky.cookie_name())
                .and_then(|value| sticky.read(value, unix_seconds()))
        {
            asked.sticky = Some(promise.node);
            asked.renew = promise.is_old;
        }
        asked
    }

    /// Tells the client of this endpoint, if it has to be told.
    pub(crate) fn promise(&self, asked: &Asked, lease: &Lease, headers: &mut HeaderMap) {
        if let Some(cookie) = self.cookie_for(asked, lease) {
            headers.append(header::SET_COOKIE, cookie);
        }
    }

    /// The `Set-Cookie` that an answer from this endpoint needs, if the client does not come with a good one for it.
    pub(crate) fn cookie_for(&self, asked: &Asked, lease: &Lease) -> Option<HeaderValue> {
        let sticky = self.sticky.as_ref()?;
        let is_told = asked.sticky.as_ref() == Some(lease.node()) && !asked.renew;
        if is_told {
            return None;
        }
        let cookie = sticky.issue(lease.node(), unix_seconds());
        // Names and paths were checked where they were read; the value is base64.
        HeaderValue::try_from(cookie).ok()
    }
}

/// A head's fields in the words of the core.
pub(crate) fn fields(headers: &HeaderMap) -> impl Iterator<Item = (&str, &[u8])> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
}

fn unix_seconds() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixSeconds(since.unwrap_or_default().as_secs())
}
