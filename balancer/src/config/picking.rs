//! How a service's endpoints are chosen among: by which policy, how slowly new ones begin, and how clients come back to theirs.

use std::{path::PathBuf, time::Duration};

use balancer_core::{
    affinity::KeySource,
    picker, slow_start,
    sticky::{Attributes, SameSite},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use settings::Error;

use super::{check::Keys, shown, value};

/// `[service.pick]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pick {
    /// `"p2c"`, of two at random the less loaded; `"least_requests"`; `"round_robin"`, in turn by weight; `"maglev"`, equal keys
    /// to the same endpoint. Default: `"p2c"`.
    pub policy: PickPolicy,
    /// What `"maglev"` tells requests apart by: `"source"`, the client's address; `"path"`; `"header:NAME"`; `"cookie:NAME"`.
    /// A request without it is picked for as by `"p2c"`. Default: `"source"`.
    #[serde(serialize_with = "shown::text", deserialize_with = "key")]
    pub key: KeySource,
    /// How far above its share of the requests in flight `"maglev"` lets an endpoint go, 1 to 10: 1.25 lets it have a quarter
    /// more. Default: 1.25.
    #[serde(deserialize_with = "load_max")]
    pub load_max: f64,
    /// Everybody known gets work while fewer than this share of the endpoints is fit for it, 0 to 1; 0 never lets the ill have
    /// any. Default: 0.5.
    #[serde(deserialize_with = "share")]
    pub panic_threshold: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PickPolicy {
    #[default]
    P2c,
    LeastRequests,
    RoundRobin,
    Maglev,
}

/// `[service.slow_start]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlowStart {
    /// From becoming available until an endpoint gets all of its share. Default: `"30s"`.
    #[serde(
        serialize_with = "humantime_serde::serialize",
        deserialize_with = "value::span"
    )]
    pub window: Duration,
    /// The part of its share that an endpoint begins with, 0.01 to 1. Default: 0.1.
    #[serde(deserialize_with = "min_weight")]
    pub min_weight: f64,
    /// 1 grows evenly; up to 10 gives more early, down to 0.1 more late. Default: 1.
    #[serde(deserialize_with = "aggression")]
    pub aggression: f64,
}

/// The cookie that brings a client back to its endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sticky {
    pub cookie: String,
    pub secret_file: PathBuf,
    #[serde(serialize_with = "humantime_serde::serialize")]
    pub ttl: Duration,
    pub path: String,
    pub secure: bool,
    pub http_only: bool,
    pub same_site: SameSiteWord,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameSiteWord {
    Strict,
    #[default]
    Lax,
    None,
}

/// `[service.sticky]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct RawSticky {
    /// The cookie's name. Default: `"colonnade"`.
    cookie: String,
    /// The file with the secrets that sign it, one in each line, of 16 bytes at least; the first signs, all verify. Required.
    #[serde(deserialize_with = "value::path")]
    secret_file: Option<PathBuf>,
    /// How long a client is brought back after its last request, give or take half, in whole seconds. Default: `"1h"`.
    #[serde(deserialize_with = "value::span")]
    ttl: Duration,
    /// The paths that it is sent for. Default: `"/"`.
    path: String,
    /// Whether browsers send it over TLS only. Default: true.
    secure: bool,
    /// Whether scripts in pages cannot read it. Default: true.
    http_only: bool,
    /// `"strict"`, `"lax"` or `"none"`: whether it is sent along from other sites. Default: `"lax"`.
    same_site: SameSiteWord,
}

impl Pick {
    pub(crate) fn policy(&self) -> picker::Policy {
        match self.policy {
            PickPolicy::P2c => picker::Policy::P2c,
            PickPolicy::LeastRequests => picker::Policy::LeastRequests,
            PickPolicy::RoundRobin => picker::Policy::RoundRobin,
            PickPolicy::Maglev => picker::Policy::Maglev {
                bound: self.load_max,
            },
        }
    }

    /// Where keys come from, for a policy that has a use for them.
    pub(crate) fn key_source(&self) -> Option<&KeySource> {
        (self.policy == PickPolicy::Maglev).then_some(&self.key)
    }
}

impl SlowStart {
    pub(crate) fn rule(&self) -> slow_start::SlowStart {
        slow_start::SlowStart {
            window: self.window,
            share_min: self.min_weight,
            aggression: self.aggression,
        }
    }
}

impl Sticky {
    pub(crate) fn attributes(&self) -> Attributes {
        Attributes {
            name: self.cookie.clone(),
            path: self.path.clone(),
            ttl_seconds: self.ttl.as_secs().max(1),
            secure: self.secure,
            http_only: self.http_only,
            same_site: match self.same_site {
                SameSiteWord::Strict => SameSite::Strict,
                SameSiteWord::Lax => SameSite::Lax,
                SameSiteWord::None => SameSite::None,
            },
        }
    }
}

pub(super) fn check_sticky(keys: &Keys<'_>, raw: RawSticky) -> Result<Sticky, Error> {
    if !is_token(&raw.cookie) {
        let message = format!("`{}` is no cookie's name", raw.cookie);
        return Err(keys.refuse("cookie", message));
    }
    let is_plain = |it: u8| it.is_ascii_graphic() && it != b';';
    if !raw.path.starts_with('/') || !raw.path.bytes().all(is_plain) {
        let message = format!("`{}` is no path that a cookie can have", raw.path);
        return Err(keys.refuse("path", message));
    }
    if raw.same_site == SameSiteWord::None && !raw.secure {
        return Err(keys.refuse("same_site", "browsers want `secure` with `\"none\"`"));
    }
    Ok(Sticky {
        secret_file: keys.required("secret_file", raw.secret_file)?,
        cookie: raw.cookie,
        ttl: raw.ttl,
        path: raw.path,
        secure: raw.secure,
        http_only: raw.http_only,
        same_site: raw.same_site,
    })
}

/// What names of cookies and headers are made of (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    let is_plain = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it);
    (1..=256).contains(&text.len()) && text.bytes().all(is_plain)
}

fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeySource, D::Error> {
    let text = String::deserialize(deserializer)?;
    let key = match text.split_once(':') {
        None if text == "source" => KeySource::Source,
        None if text == "path" => KeySource::Path,
        Some(("header", name)) if is_token(name) => KeySource::Header(name.to_owned()),
        Some(("cookie", name)) if is_token(name) => KeySource::Cookie(name.to_owned()),
        _ => {
            let message = "is none of `source`, `path`, `header:NAME` and `cookie:NAME`";
            return Err(D::Error::custom(format_args!("`{text}` {message}")));
        }
    };
    Ok(key)
}

fn load_max<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within(1.0, 10.0, deserializer)
}

fn min_weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within(0.01, 1.0, deserializer)
}

fn aggression<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within(0.1, 10.0, deserializer)
}

pub(super) fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within(0.0, 1.0, deserializer)
}

pub(super) fn within<'de, D: Deserializer<'de>>(
    min: f64,
    max: f64,
    deserializer: D,
) -> Result<f64, D::Error> {
    let number = f64::deserialize(deserializer)?;
    match (min..=max).contains(&number) {
        true => Ok(number),
        false => Err(D::Error::custom(format_args!(
            "{number} is not within {min} to {max}"
        ))),
    }
}

impl Default for Pick {
    fn default() -> Self {
        Self {
            policy: PickPolicy::default(),
            key: KeySource::default(),
            load_max: 1.25,
            panic_threshold: 0.5,
        }
    }
}

impl Default for SlowStart {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            min_weight: 0.1,
            aggression: 1.0,
        }
    }
}

impl Default for RawSticky {
    fn default() -> Self {
        Self {
            cookie: "colonnade".to_owned(),
            secret_file: None,
            ttl: Duration::from_secs(60 * 60),
            path: "/".to_owned(),
            secure: true,
            http_only: true,
            same_site: SameSiteWord::default(),
        }
    }
}
