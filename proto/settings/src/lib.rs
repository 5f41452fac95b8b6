//! How a program reads its settings: a TOML file, the environment above it, and errors that name the place.
//!
//! It knows no key of any program: a program hands over a type that serde can fill and places the checks of its own
//! with [`Source::error`].

use std::{collections::BTreeMap, path::Path};

use serde::de::DeserializeOwned;

mod decode;
mod environment;
mod error;
mod tree;

pub use error::{Error, Place};

use tree::{Body, Item};

/// Settings as a checked value, and where each key came from.
#[derive(Debug)]
pub struct Loaded<T> {
    pub value: T,
    pub source: Source,
}

/// Where each key came from: a line of the file or a variable of the environment.
#[derive(Debug)]
pub struct Source {
    place_by_key: BTreeMap<String, Place>,
    root: Place,
}

/// Reads the file, if there is one, and lays the variables of the environment above it.
///
/// A variable is ours when it begins with `COLONNADE_` and holds a double underscore: `COLONNADE_ADMIN__ADDRESS` sets
/// `admin.address`, `COLONNADE_ROUTE__0__SERVICE` sets `route[0].service`, `COLONNADE__ID` sets the top-level `id`.
/// Its value is TOML where it parses as a value of the wanted kind, else a string.
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded<T>, Error> {
    let mut root = match file {
        Some(path) => read(path)?,
        None => Item::nothing(),
    };
    environment::lay_over(&mut root, env)?;
    decoded(&root)
}

/// Reads settings from a text alone; `name` is shown in errors as the file.
pub fn parse<T: DeserializeOwned>(name: &str, text: &str) -> Result<Loaded<T>, Error> {
    decoded(&tree::parse(name, text)?)
}

/// The variables of this process; those that are not Unicode are shown with replacement characters.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        )
    })
}

impl Source {
    /// A program's own objection to a key (`"route[2].service"`), placed where that key, or else the nearest table
    /// around it, was set.
    pub fn error(&self, key: &str, message: impl Into<String>) -> Error {
        Error::Key {
            place: self.place(key).clone(),
            key: key.to_owned(),
            message: message.into(),
        }
    }

    fn place(&self, key: &str) -> &Place {
        std::iter::successors(Some(key), |key| Some(&key[..key.rfind(['.', '['])?]))
            .find_map(|key| self.place_by_key.get(key))
            .unwrap_or(&self.root)
    }

    fn of(root: &Item) -> Self {
        let mut place_by_key = BTreeMap::new();
        record(root, "", &mut place_by_key);
        Self {
            place_by_key,
            root: root.place.clone(),
        }
    }
}

fn read(path: &Path) -> Result<Item, Error> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        file: name.clone(),
        source,
    })?;
    let root = tree::parse(&name, &text)?;
    Ok(root)
}

fn decoded<T: DeserializeOwned>(root: &Item) -> Result<Loaded<T>, Error> {
    let value = decode::decode(root)?;
    Ok(Loaded {
        value,
        source: Source::of(root),
    })
}

fn record(item: &Item, path: &str, place_by_key: &mut BTreeMap<String, Place>) {
    if !path.is_empty() {
        place_by_key.insert(path.to_owned(), item.place.clone());
    }
    match &item.body {
        Body::Table(item_by_key) => {
            for (key, child) in item_by_key {
                record(child, &tree::join(path, key), place_by_key);
            }
        }
        Body::List(items) => {
            for (idx, child) in items.iter().enumerate() {
                record(child, &format!("{path}[{idx}]"), place_by_key);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
