//! How browsers are kept on TLS: `https_redirect` sends them there, `hsts` makes them remember.

use std::{fmt, num::NonZero, time::Duration};

use humantime_serde::re::humantime;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor},
};
use settings::Error;

use crate::config::{ListenerProtocol, check::Keys};

const HTTPS_PORT: NonZero<u16> = NonZero::new(443).expect("443 is not 0");
/// What browsers with a built-in list want of those who stand on it: a year of 365 days.
const PRELOAD_AGE_MIN: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const AGE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// What a client that asked without TLS is told: ask again at this port, with TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct HttpsRedirect {
    pub port: NonZero<u16>,
}

/// `Strict-Transport-Security` (RFC 6797), as every response over TLS carries it. It displays as the value of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hsts {
    /// How long a browser remembers; nothing makes it forget.
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub max_age: Duration,
    /// Default: the name alone.
    pub include_subdomains: bool,
    /// Default: not.
    pub preload: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(in crate::config) struct RawHttpsRedirect(Option<NonZero<u16>>);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::config) struct RawHsts {
    /// For how long browsers come with TLS only, up to `"3650days"`; `"0s"` makes them forget. Required.
    #[serde(deserialize_with = "max_age")]
    max_age: Option<Duration>,
    /// Whether that goes for all names below, too. Default: `false`.
    include_subdomains: bool,
    /// Whether browsers may put the name on their built-in lists; needs `include_subdomains` and at least `"365days"`. Default:
    /// `false`.
    preload: bool,
}

impl HttpsRedirect {
    /// Where to ask again: `host` is the authority the client named, with or without its port, and `target` the path and query.
    pub fn location(&self, host: &str, target: &str) -> String {
        let host = without_port(host);
        match self.port {
            HTTPS_PORT => format!("https://{host}{target}"),
            port => format!("https://{host}:{port}{target}"),
        }
    }
}

/// The colons of an IPv6 address stand between brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

impl fmt::Display for Hsts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "max-age={}", self.max_age.as_secs())?;
        if self.include_subdomains {
            f.write_str("; includeSubDomains")?;
        }
        if self.preload {
            f.write_str("; preload")?;
        }
        Ok(())
    }
}

impl RawHttpsRedirect {
    pub(in crate::config) fn check(
        self,
        keys: &Keys<'_>,
        (protocol, has_tls): (ListenerProtocol, bool),
    ) -> Result<Option<HttpsRedirect>, Error> {
        let objection = match (self.0, protocol, has_tls) {
            (None, ..) => return Ok(None),
            (_, ListenerProtocol::Tcp, _) => "is for listeners that speak HTTP",
            (_, _, true) => "is for listeners without `tls`: with it, clients are there already",
            (Some(port), ..) => return Ok(Some(HttpsRedirect { port })),
        };
        Err(keys.refuse("https_redirect", objection))
    }
}

impl RawHsts {
    pub(in crate::config) fn check(
        self,
        keys: &Keys<'_>,
        (protocol, has_tls): (ListenerProtocol, bool),
    ) -> Result<Hsts, Error> {
        if protocol == ListenerProtocol::Tcp || !has_tls {
            let message = "is for listeners that speak HTTP and have `tls` (RFC 6797, section 7.2)";
            return Err(keys.refuse("max_age", message));
        }
        let max_age = keys.required("max_age", self.max_age)?;
        let may_preload = self.include_subdomains && max_age >= PRELOAD_AGE_MIN;
        if self.preload && !may_preload {
            let message = "needs `include_subdomains` and a `max_age` of at least 365days";
            return Err(keys.refuse("preload", message));
        }
        Ok(Hsts {
            max_age,
            include_subdomains: self.include_subdomains,
            preload: self.preload,
        })
    }
}

fn max_age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let age = humantime::parse_duration(&text).map_err(|cause| {
        de::Error::custom(format_args!(
            "`{text}` is not a duration such as \"365days\": {cause}"
        ))
    })?;
    match age <= AGE_MAX {
        true => Ok(Some(age)),
        false => Err(de::Error::custom(format_args!(
            "`{text}` is more than 3650days"
        ))),
    }
}

impl<'de> Deserialize<'de> for RawHttpsRedirect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortOrFlag).map(Self)
    }
}

struct PortOrFlag;

impl Visitor<'_> for PortOrFlag {
    type Value = Option<NonZero<u16>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`true`, `false` or a port")
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(flag.then_some(HTTPS_PORT))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        let port = u16::try_from(number).ok().and_then(NonZero::new);
        port.map(Some)
            .ok_or_else(|| E::custom(format_args!("{number} is not within 1 to 65535")))
    }
}
