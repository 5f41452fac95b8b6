//! What a request asks of the picker, read from its head, and the cookie that answers it.

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use balancer_core::{
    affinity::{Asked, cookie},
    message::Fields,
    sticky::UnixSeconds,
};

use super::{Lease, Service};

impl Service {
    /// What a request with this path and these fields asks for; `fields` is called for each look at them. Costs nothing where the
    /// service neither picks by key nor is sticky.
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

    /// Tells the client of this endpoint with its answer, unless it has come with a good cookie for it.
    pub(crate) fn promise(&self, asked: &Asked, lease: &Lease, answer: &mut Fields) {
        let Some(sticky) = &self.sticky else {
            return;
        };
        let is_told = asked.sticky.as_ref() == Some(lease.node()) && !asked.renew;
        if !is_told {
            // Names and paths were checked where they were read; the value is base64.
            let cookie = sticky.issue(lease.node(), unix_seconds());
            answer.push(b"set-cookie", cookie.as_bytes());
        }
    }
}

/// A head's fields in the words of the core.
pub(crate) fn fields(fields: &Fields) -> impl Iterator<Item = (&str, &[u8])> {
    fields
        .iter()
        // Names are tokens, which are ASCII.
        .map(|(name, value)| (str::from_utf8(name).unwrap_or_default(), value))
}

fn unix_seconds() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixSeconds(since.unwrap_or_default().as_secs())
}
