//! A route's rules as the admin API shows them: as an operator would write them.

use std::{collections::BTreeMap, time::Duration};

use balancer_core::rules::{FieldRules, Location};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{Actions, Reply};

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'a str, Value>,
    #[serde(skip_serializing_if = "Value::is_null")]
    request_headers: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    response_headers: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    rewrite: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    redirect: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    answer: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    compress: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compress_types: Option<&'a [Box<str>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compress_min_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compress_level: Option<super::CompressLevel>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "humantime_serde::serialize"
    )]
    request_timeout: Option<Duration>,
}

impl Serialize for Actions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let compressing = self.compressing.as_ref();
        Shown {
            methods: self
                .conditions
                .methods
                .iter()
                .map(|it| it.as_str())
                .collect(),
            headers: headers(self),
            request_headers: field_rules(&self.request),
            response_headers: field_rules(&self.response),
            rewrite: rewrite(self),
            redirect: redirect(self),
            answer: answer(self),
            compress: compressing
                .iter()
                .flat_map(|it| &it.what.codings)
                .map(|it| it.name())
                .collect(),
            compress_types: compressing.map(|it| &it.what.types[..]),
            compress_min_bytes: compressing.map(|it| it.what.bytes_min),
            compress_level: compressing.map(|it| it.level),
            request_timeout: self.request_timeout,
        }
        .serialize(serializer)
    }
}

fn headers(actions: &Actions) -> BTreeMap<&str, Value> {
    let fields = actions.conditions.fields.iter();
    fields
        .map(|it| {
            (
                &*it.name,
                it.value.as_ref().map_or(json!(true), |it| json!(it)),
            )
        })
        .collect()
}

fn field_rules(rules: &FieldRules) -> Value {
    if rules.is_empty() {
        return Value::Null;
    }
    json!({
        "remove": rules.removed().collect::<Vec<_>>(),
        "set": rules.set_to().collect::<BTreeMap<_, _>>(),
        "add": rules.added().collect::<BTreeMap<_, _>>(),
    })
}

fn rewrite(actions: &Actions) -> Value {
    let rewrite = &actions.rewrite;
    if rewrite.prefix.is_none() && rewrite.host.is_none() {
        return Value::Null;
    }
    json!({ "prefix": rewrite.prefix.as_deref().map(shown_prefix), "host": rewrite.host })
}

fn shown_prefix(prefix: &str) -> &str {
    if prefix.is_empty() { "/" } else { prefix }
}

fn redirect(actions: &Actions) -> Value {
    let Some(Reply::Redirect(redirect)) = &actions.reply else {
        return Value::Null;
    };
    let status = redirect.status.as_u16();
    match &redirect.to {
        Location::Whole(location) => json!({ "status": status, "location": location.as_str() }),
        Location::Parts {
            scheme,
            host,
            prefix,
        } => json!({ "status": status, "scheme": scheme, "host": host, "prefix": prefix }),
    }
}

fn answer(actions: &Actions) -> Value {
    let Some(Reply::Fixed(fixed)) = &actions.reply else {
        return Value::Null;
    };
    json!({
        "status": fixed.status.as_u16(),
        "content_type": fixed.content_type,
        "bytes": fixed.body.len(),
        "headers": fixed.fields.set_to().collect::<BTreeMap<_, _>>(),
    })
}
