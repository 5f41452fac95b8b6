//! Settings before they have a type: a tree of items that each remember the place that set them.

use std::{collections::BTreeMap, sync::Arc};

use toml::de::{DeTable, DeValue};

use crate::{Error, Place};

#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) place: Place,
    pub(crate) body: Body,
    /// The text of a variable, kept because a value that looks like a number may be wanted as a string.
    pub(crate) raw: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Table(BTreeMap<String, Item>),
    List(Vec<Item>),
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
    /// Larger than an i64, or a float that no f64 holds; refused when a number is wanted.
    TooLarge(String),
}

impl Item {
    /// The root of settings that nobody set.
    pub(crate) fn nothing() -> Self {
        Self::new(Place::Nowhere, Body::Table(BTreeMap::new()))
    }

    pub(crate) fn new(place: Place, body: Body) -> Self {
        Self {
            place,
            body,
            raw: None,
        }
    }

    /// The item a variable sets: TOML where the text is a TOML value, else a string.
    pub(crate) fn of_variable(name: &Arc<str>, raw: String) -> Self {
        let place = Place::Variable(name.clone());
        let body = match DeValue::parse(raw.trim()) {
            Ok(value) => body(value.get_ref(), &|_| place.clone()),
            Err(_) => Body::Text(raw.clone()),
        };
        Self {
            raw: Some(raw),
            ..Self::new(place, body)
        }
    }
}

pub(crate) fn parse(name: &str, text: &str) -> Result<Item, Error> {
    let name: Arc<str> = name.into();
    let line_of = |offset: usize| Place::Line(name.clone(), line(text, offset));
    let root = DeTable::parse(text).map_err(|e| Error::Syntax {
        place: e
            .span()
            .map_or(Place::File(name.clone()), |at| line_of(at.start)),
        message: e.message().trim().replace('\n', ", "),
    })?;
    Ok(Item::new(
        Place::File(name.clone()),
        table(root.get_ref(), &line_of),
    ))
}

/// `path.key` as TOML writes it: a key that is not bare stands in quotes.
pub(crate) fn join(path: &str, key: &str) -> String {
    let is_bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let key = if is_bare {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    match path {
        "" => key,
        path => format!("{path}.{key}"),
    }
}

fn body(value: &DeValue<'_>, place_of: &dyn Fn(usize) -> Place) -> Body {
    match value {
        DeValue::String(text) => Body::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Body::TooLarge(number.to_string()), Body::Integer),
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map_or_else(|_| Body::TooLarge(number.to_string()), Body::Float),
        DeValue::Boolean(flag) => Body::Flag(*flag),
        DeValue::Datetime(at) => Body::Text(at.to_string()),
        DeValue::Array(values) => Body::List(
            values
                .iter()
                .map(|it| Item::new(place_of(it.span().start), body(it.get_ref(), place_of)))
                .collect(),
        ),
        DeValue::Table(values) => table(values, place_of),
    }
}

fn table(values: &DeTable<'_>, place_of: &dyn Fn(usize) -> Place) -> Body {
    let item = |key: usize, value| Item::new(place_of(key), body(value, place_of));
    Body::Table(
        values
            .iter()
            .map(|(key, it)| {
                (
                    key.get_ref().to_string(),
                    item(key.span().start, it.get_ref()),
                )
            })
            .collect(),
    )
}

fn line(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}
