//! What a `[[route]]` says beyond where it leads: conditions, rules for fields, rewrites, redirects, fixed answers, compression.

use std::{collections::BTreeMap, fmt, fs::File, io::Read, path::PathBuf, time::Duration};

use balancer_core::rules::{
    Coding, Compression, Conditions, FieldCondition, FieldRules, FixedAnswer, Redirect, Rewrite,
    RuleError, Side, Template, is_location_host,
};
use balancer_core::table::PathPrefix;
use bytes::Bytes;
use http::{HeaderName, Method, StatusCode};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, Visitor},
};
use settings::Error;
use sha1::{Digest, Sha1};

use super::{check::Keys, raw};

mod shown;

const METHODS_MAX: usize = 32;
/// Of one route: conditions on fields, or rules of one kind.
const FIELDS_MAX: usize = 64;
const TYPES_MAX: usize = 100;
const FILE_BYTES_MAX: u64 = 1 << 20;
const BYTES_MIN: u64 = 1024;
const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

/// What is worth compressing: texts, and the few other formats that are texts inside.
const TYPES: [&str; 9] = [
    "text/*",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/problem+json",
    "application/ld+json",
    "application/manifest+json",
    "application/wasm",
    "image/svg+xml",
];

/// What a route does to a request and its answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actions {
    pub conditions: Conditions,
    pub request: FieldRules,
    pub response: FieldRules,
    pub rewrite: Rewrite,
    /// The answer of a route that leads to no service.
    pub reply: Option<Reply>,
    pub compressing: Option<Compressing>,
    /// Goes before the service's own.
    pub request_timeout: Option<Duration>,
    /// The route's own path, without the slash at its end: what a rewrite replaces.
    pub matched: Box<str>,
}

impl Actions {
    /// Whether a request or an answer is looked at on its way.
    pub(crate) fn touch_messages(&self) -> bool {
        let rewrites = self.rewrite.prefix.is_some() || self.rewrite.host.is_some();
        let has_rules = !self.request.is_empty() || !self.response.is_empty();
        rewrites || has_rules || self.reply.is_some() || self.compressing.is_some()
    }
}

/// What the balancer answers by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Redirect(Redirect),
    Fixed(FixedAnswer),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Compressing {
    pub what: Compression,
    pub level: CompressLevel,
}

/// How much time is spent on a smaller answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompressLevel {
    Fast,
    #[default]
    Balanced,
    Small,
}

/// `headers = { name = "value" }`, or `true` for any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawFieldCondition(Option<String>);

/// Rules for the fields of a head, applied in this order: remove, set, add. Values may hold variables.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawFieldRules {
    /// Names of fields that are taken away, up to 64. Default: none.
    remove: Vec<String>,
    /// One line with this name in the place of all there were, up to 64. Default: none.
    set: BTreeMap<String, String>,
    /// A further line, up to 64. Default: none.
    add: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawRewrite {
    /// What stands in the place of the route's `path` when a node is asked. Default: the path stays.
    prefix: Option<String>,
    /// The host that a node is asked for. Default: the client's.
    host: Option<String>,
}

/// Either `location`, or any of `scheme`, `host` and `prefix`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawRedirect {
    /// 301, 302, 303, 307 or 308. Default: 308.
    status: Option<u16>,
    /// The whole of where the client is sent, with variables. Default: none.
    location: Option<String>,
    /// `"http"` or `"https"`. Default: as the client came.
    scheme: Option<String>,
    /// A host, with or without a port. Default: the client's, without its port.
    host: Option<String>,
    /// What stands in the place of the route's `path`. Default: the path stays.
    prefix: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawAnswer {
    /// 200 to 599, without 304. Default: 200.
    status: Option<u16>,
    /// The text of the answer. Default: none.
    body: Option<String>,
    /// The file whose content is the answer, up to 1 MiB, read when the configuration is. Default: none.
    file: Option<PathBuf>,
    /// Default: `"text/plain; charset=utf-8"`.
    content_type: Option<String>,
    /// Further fields, up to 64. Default: none.
    headers: BTreeMap<String, String>,
}

/// Checks all of a route that is about requests and answers, not about where they come from and go to.
pub(super) fn check(
    keys: &Keys<'_>,
    raw: &raw::Route,
    path: &PathPrefix,
) -> Result<Actions, Error> {
    let path = path.to_string();
    let reply = reply(keys, raw)?;
    if reply.is_some() {
        only_for_a_service(keys, raw)?;
    }
    Ok(Actions {
        conditions: conditions(keys, raw)?,
        request: field_rules(keys, "request_headers", Side::Request, &raw.request_headers)?,
        response: field_rules(
            keys,
            "response_headers",
            Side::Response,
            &raw.response_headers,
        )?,
        rewrite: rewrite(keys, raw)?,
        reply,
        compressing: compressing(keys, raw)?,
        request_timeout: raw.request_timeout,
        matched: path.strip_suffix('/').unwrap_or(&path).into(),
    })
}

fn conditions(keys: &Keys<'_>, raw: &raw::Route) -> Result<Conditions, Error> {
    keys.at_most("methods", raw.methods.len(), METHODS_MAX)?;
    keys.at_most("headers", raw.headers.len(), FIELDS_MAX)?;
    let method = |(idx, text): (usize, &String)| {
        let key = format!("methods[{idx}]");
        let is_upper = !text.bytes().any(|it| it.is_ascii_lowercase());
        match Method::from_bytes(text.as_bytes()) {
            Ok(method) if is_upper => Ok(method),
            _ => Err(keys.refuse(&key, format!("`{text}` is not a method, such as `GET`"))),
        }
    };
    let methods: Result<Vec<_>, Error> = raw.methods.iter().enumerate().map(method).collect();
    let fields: Result<Vec<_>, Error> = raw
        .headers
        .iter()
        .map(|(name, value)| field_condition(keys, name, value))
        .collect();
    Ok(Conditions {
        methods: methods?,
        fields: fields?,
    })
}

fn field_condition(
    keys: &Keys<'_>,
    name: &str,
    value: &RawFieldCondition,
) -> Result<FieldCondition, Error> {
    let key = format!("headers.{name}");
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| keys.refuse(&key, format!("`{name}` is not a field's name")))?;
    if parsed == http::header::HOST {
        return Err(keys.refuse(&key, "the host is matched by `hosts`"));
    }
    if let Some(value) = &value.0 {
        Template::parse(value).map_err(|err| keys.refuse(&key, err.to_string()))?;
    }
    Ok(FieldCondition {
        name: parsed.as_str().into(),
        value: value.0.as_deref().map(Box::from),
    })
}

fn field_rules(
    keys: &Keys<'_>,
    key: &str,
    side: Side,
    raw: &RawFieldRules,
) -> Result<FieldRules, Error> {
    let table = keys.table(key);
    for (key, len) in [
        ("remove", raw.remove.len()),
        ("set", raw.set.len()),
        ("add", raw.add.len()),
    ] {
        table.at_most(key, len, FIELDS_MAX)?;
    }
    let mut rules = FieldRules::default();
    let refuse =
        |key: String, name: &str, err: RuleError| table.refuse(&key, format!("`{name}`: {err}"));
    for (idx, name) in raw.remove.iter().enumerate() {
        let removed = rules.remove(side, name);
        removed.map_err(|err| refuse(format!("remove[{idx}]"), name, err))?;
    }
    for (name, value) in &raw.set {
        let set = rules.set(side, name, value);
        set.map_err(|err| refuse(format!("set.{name}"), name, err))?;
    }
    for (name, value) in &raw.add {
        let added = rules.add(side, name, value);
        added.map_err(|err| refuse(format!("add.{name}"), name, err))?;
    }
    Ok(rules)
}

fn rewrite(keys: &Keys<'_>, raw: &raw::Route) -> Result<Rewrite, Error> {
    let table = keys.table("rewrite");
    if raw.strip_prefix && raw.rewrite.prefix.is_some() {
        return Err(keys.refuse(
            "strip_prefix",
            "the same as `rewrite.prefix = \"/\"`, of which there is another",
        ));
    }
    let stripped = raw.strip_prefix.then_some("/");
    let prefix = raw.rewrite.prefix.as_deref().or(stripped);
    Ok(Rewrite {
        prefix: prefix.map(|it| prefix_of(&table, it)).transpose()?,
        host: raw
            .rewrite
            .host
            .as_deref()
            .map(|it| host_of(&table, it))
            .transpose()?,
    })
}

fn prefix_of(table: &Keys<'_>, text: &str) -> Result<Box<str>, Error> {
    let prefix: PathPrefix = text
        .parse()
        .map_err(|err| table.refuse("prefix", format!("`{text}`: {err}")))?;
    let shown = prefix.to_string();
    Ok(shown.strip_suffix('/').unwrap_or(&shown).into())
}

fn host_of(table: &Keys<'_>, text: &str) -> Result<Box<str>, Error> {
    match is_location_host(text) {
        true => Ok(text.to_ascii_lowercase().into()),
        false => Err(table.refuse(
            "host",
            format!("`{text}` is not a host, such as `a.example`"),
        )),
    }
}

fn reply(keys: &Keys<'_>, raw: &raw::Route) -> Result<Option<Reply>, Error> {
    Ok(match (&raw.redirect, &raw.answer) {
        (Some(_), Some(_)) => {
            return Err(keys.refuse("answer", "a route has one of `redirect` and `answer`"));
        }
        (Some(raw), None) => Some(Reply::Redirect(redirect(&keys.table("redirect"), raw)?)),
        (None, Some(raw)) => Some(Reply::Fixed(fixed(&keys.table("answer"), raw)?)),
        (None, None) => None,
    })
}

/// A key that would do nothing is refused, so that nobody relies on it.
fn only_for_a_service(keys: &Keys<'_>, raw: &raw::Route) -> Result<(), Error> {
    let request = &raw.request_headers;
    let has_request_rules =
        !request.remove.is_empty() || !request.set.is_empty() || !request.add.is_empty();
    for (key, is_set) in [
        ("service", raw.service.is_some()),
        ("request_headers", has_request_rules),
        (
            "rewrite",
            raw.rewrite.prefix.is_some() || raw.rewrite.host.is_some(),
        ),
        ("strip_prefix", raw.strip_prefix),
        ("compress", !raw.compress.is_empty()),
        ("request_timeout", raw.request_timeout.is_some()),
    ] {
        if is_set {
            let reason = "no node is asked where there is a `redirect` or an `answer`";
            return Err(keys.refuse(key, reason));
        }
    }
    Ok(())
}

fn redirect(table: &Keys<'_>, raw: &RawRedirect) -> Result<Redirect, Error> {
    let status = raw.status.unwrap_or(308);
    let has_parts = raw.scheme.is_some() || raw.host.is_some() || raw.prefix.is_some();
    let refuse = |key: &str, err: balancer_core::rules::RedirectError| {
        use balancer_core::rules::RedirectError::Status;
        let key = if err == Status { "status" } else { key };
        table.refuse(key, err.to_string())
    };
    match &raw.location {
        Some(_) if has_parts => Err(table.refuse(
            "location",
            "is the whole of it: `scheme`, `host` and `prefix` have no place beside it",
        )),
        Some(text) => Redirect::whole(status, text).map_err(|err| refuse("location", err)),
        None if !has_parts => Err(table.refuse(
            "location",
            "required, or else one of `scheme`, `host` and `prefix`",
        )),
        None => {
            let host = raw
                .host
                .as_deref()
                .map(|it| host_of(table, it))
                .transpose()?;
            let prefix = raw.prefix.as_deref();
            let prefix = prefix.map(|it| prefix_of(table, it)).transpose()?;
            let scheme = scheme(table, raw.scheme.as_deref())?;
            Redirect::parts(status, scheme, host.as_deref(), prefix.as_deref())
                .map_err(|err| refuse("status", err))
        }
    }
}

fn scheme<'a>(table: &Keys<'_>, scheme: Option<&'a str>) -> Result<Option<&'a str>, Error> {
    match scheme {
        None | Some("http" | "https") => Ok(scheme),
        Some(other) => {
            Err(table.refuse("scheme", format!("`{other}` is neither `http` nor `https`")))
        }
    }
}

fn fixed(table: &Keys<'_>, raw: &RawAnswer) -> Result<FixedAnswer, Error> {
    let status = fixed_status(table, raw.status.unwrap_or(200))?;
    let (key, body) = match (&raw.body, &raw.file) {
        (Some(_), Some(_)) => {
            return Err(table.refuse("file", "an answer has one of `body` and `file`"));
        }
        (Some(text), None) => ("body", Bytes::from(text.clone())),
        (None, Some(path)) => ("file", read(table, path)?),
        (None, None) => ("body", Bytes::new()),
    };
    if body.len() as u64 > FILE_BYTES_MAX {
        return Err(table.refuse(key, format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    if !body.is_empty() && [204, 205].contains(&status.as_u16()) {
        return Err(table.refuse(key, format!("an answer with status {status} has no body")));
    }
    let content_type = raw.content_type.as_deref().unwrap_or(CONTENT_TYPE);
    Template::parse(content_type).map_err(|err| table.refuse("content_type", err.to_string()))?;
    Ok(FixedAnswer {
        status,
        content_type: content_type.into(),
        fields: answer_fields(table, &raw.headers)?,
        etag: (status == StatusCode::OK && !body.is_empty()).then(|| etag(&body)),
        body,
    })
}

fn fixed_status(table: &Keys<'_>, status: u16) -> Result<StatusCode, Error> {
    match StatusCode::from_u16(status) {
        Ok(it) if (200..=599).contains(&status) && status != 304 => Ok(it),
        _ => Err(table.refuse(
            "status",
            format!("{status} is not within 200 to 599, or is 304"),
        )),
    }
}

fn answer_fields(
    table: &Keys<'_>,
    headers: &BTreeMap<String, String>,
) -> Result<FieldRules, Error> {
    table.at_most("headers", headers.len(), FIELDS_MAX)?;
    let mut fields = FieldRules::default();
    for (name, value) in headers {
        let set = fields.set(Side::Response, name, value);
        set.map_err(|err| table.refuse(&format!("headers.{name}"), format!("`{name}`: {err}")))?;
    }
    Ok(fields)
}

fn read(table: &Keys<'_>, path: &PathBuf) -> Result<Bytes, Error> {
    let mut content = Vec::new();
    // One byte more than there may be, so that a file that is too large is seen without being read whole.
    let read = File::open(path).and_then(|it| {
        let mut bounded = it.take(FILE_BYTES_MAX + 1);
        bounded.read_to_end(&mut content)
    });
    read.map_err(|err| table.refuse("file", format!("reading {}: {err}", path.display())))?;
    Ok(content.into())
}

fn etag(body: &[u8]) -> Box<str> {
    let digest = Sha1::digest(body);
    let words = digest.iter().take(8).map(|it| format!("{it:02x}"));
    format!("\"{}\"", words.collect::<String>()).into()
}

fn compressing(keys: &Keys<'_>, raw: &raw::Route) -> Result<Option<Compressing>, Error> {
    let mut codings = Vec::new();
    for (idx, name) in raw.compress.iter().enumerate() {
        let key = format!("compress[{idx}]");
        let coding = Coding::of(name).ok_or_else(|| {
            keys.refuse(&key, format!("`{name}` is none of `zstd`, `br`, `gzip`"))
        })?;
        if codings.contains(&coding) {
            return Err(keys.refuse(&key, format!("`{name}` stands here twice")));
        }
        codings.push(coding);
    }
    let types = types(keys, &raw.compress_types)?;
    Ok((!codings.is_empty()).then(|| Compressing {
        what: Compression {
            codings,
            types,
            bytes_min: raw.compress_min_bytes.unwrap_or(BYTES_MIN),
        },
        level: raw.compress_level,
    }))
}

fn types(keys: &Keys<'_>, given: &Option<Vec<String>>) -> Result<Vec<Box<str>>, Error> {
    let Some(given) = given else {
        return Ok(TYPES.iter().map(|it| Box::from(*it)).collect());
    };
    keys.at_most("compress_types", given.len(), TYPES_MAX)?;
    let one = |(idx, text): (usize, &String)| {
        let is_type = text.bytes().all(|it| it.is_ascii_graphic() && it != b';')
            && text.split('/').count() == 2
            && text.find('*').is_none_or(|at| at + 1 == text.len());
        match is_type {
            true => Ok(text.to_ascii_lowercase().into()),
            false => Err(keys.refuse(
                &format!("compress_types[{idx}]"),
                format!("`{text}` is not a media type, such as `text/html` or `text/*`"),
            )),
        }
    };
    given.iter().enumerate().map(one).collect()
}

impl<'de> Deserialize<'de> for RawFieldCondition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ConditionVisitor)
    }
}

struct ConditionVisitor;

impl Visitor<'_> for ConditionVisitor {
    type Value = RawFieldCondition;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, or `true` for any")
    }

    fn visit_bool<E: serde::de::Error>(self, any: bool) -> Result<RawFieldCondition, E> {
        match any {
            true => Ok(RawFieldCondition(None)),
            false => Err(E::custom("the absence of a field is no condition")),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawFieldCondition, E> {
        Ok(RawFieldCondition(Some(text.to_owned())))
    }
}

pub(super) fn bytes_min<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    let number = i64::deserialize(deserializer)?;
    let number = u64::try_from(number).ok().filter(|it| *it <= 16 << 20);
    let bytes = number.ok_or_else(|| D::Error::custom("not within 0 to 16777216"))?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
