//! Whom a listener believes about the client's address by the PROXY protocol: the keys, and what they say once checked.

use balancer_core::forwarded::{Cidr, Trusted};
use serde::{Deserialize, Serialize};
use settings::Error;

use super::check::Keys;

const TRUSTED_MAX: usize = 1_000;

/// What a listener does with PROXY headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProxyIn {
    pub mode: ProxyMode,
    /// The networks whose headers are believed; at least one unless the mode is `Off`.
    pub trusted: Trusted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// A header is bytes like any other. The default.
    #[default]
    Off,
    /// Trusted peers may begin with a header; whoever else does is refused.
    Accept,
    /// Every connection comes from a trusted peer and begins with a header.
    Require,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Raw {
    /// `"off"`: a header is bytes like any other. `"accept"`: trusted peers may begin with a header, and whoever else does is
    /// refused. `"require"`: every connection must come from a trusted peer and begin with one. Default: `"off"`.
    mode: ProxyMode,
    /// The networks of the proxies whose headers are believed, such as `"10.0.0.0/8"`; up to 1,000. Required unless the mode is
    /// `"off"`.
    trusted: Option<Vec<String>>,
}

pub(super) fn check(keys: &Keys<'_>, raw: Raw) -> Result<ProxyIn, Error> {
    if raw.mode == ProxyMode::Off {
        keys.absent(
            "trusted",
            &raw.trusted,
            "has no use while `mode` is \"off\"",
        )?;
        return Ok(ProxyIn::default());
    }
    let trusted = keys.required("trusted", raw.trusted)?;
    if trusted.is_empty() {
        return Err(keys.refuse("trusted", "is empty: nobody's header would be believed"));
    }
    let res = ProxyIn {
        mode: raw.mode,
        trusted: networks(keys, "trusted", &trusted, TRUSTED_MAX)?,
    };
    Ok(res)
}

pub(super) fn networks(
    keys: &Keys<'_>,
    key: &str,
    texts: &[String],
    len_max: usize,
) -> Result<Trusted, Error> {
    keys.at_most(key, texts.len(), len_max)?;
    let network = |(idx, text): (usize, &String)| {
        text.parse::<Cidr>()
            .map_err(|error| keys.refuse(&format!("{key}[{idx}]"), error.to_string()))
    };
    texts.iter().enumerate().map(network).collect()
}
