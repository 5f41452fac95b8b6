//! Fills a program's type from the tree, so that whatever serde objects to is placed at the key it objected to.
//!
//! Unknown keys are refused for every struct, whether or not its author thought of `deny_unknown_fields`.

use std::{collections::btree_map, fmt, slice};

use serde::{
    Deserialize,
    de::{self, DeserializeSeed, IntoDeserializer, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};

use crate::{
    Error,
    tree::{self, Body, Item},
};

pub(crate) fn decode<'de, T: Deserialize<'de>>(root: &'de Item) -> Result<T, Error> {
    let decoder = Decoder {
        item: root,
        path: String::new(),
    };
    decoder
        .seed(std::marker::PhantomData)
        .map_err(|fault| match fault {
            Fault::Placed(error) => error,
            unplaced => unreachable!("a seed places every fault: {unplaced}"),
        })
}

struct Decoder<'de> {
    item: &'de Item,
    path: String,
}

/// What serde objects to, until the level that knows the key has placed it.
#[derive(Debug)]
enum Fault {
    Unknown {
        key: String,
        known: &'static [&'static str],
    },
    Missing {
        key: &'static str,
    },
    Other(String),
    Placed(Error),
}

impl<'de> Decoder<'de> {
    /// Decodes one level and places what went wrong in it.
    fn seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        let (item, path) = (self.item, self.path.clone());
        seed.deserialize(self)
            .map_err(|fault| fault.placed(item, &path))
    }

    fn child(&self, key: &str, item: &'de Item) -> Self {
        Decoder {
            item,
            path: tree::join(&self.path, key),
        }
    }

    /// The text where a string is wanted: a variable's own text counts, whatever else it would parse as.
    fn text(&self) -> Option<&'de str> {
        match (&self.item.body, &self.item.raw) {
            (Body::Text(text), _) => Some(text),
            (_, raw) => raw.as_deref(),
        }
    }

    fn refuse_unknown(&self, known: &'static [&'static str]) -> Result<(), Fault> {
        let Body::Table(item_by_key) = &self.item.body else {
            return Ok(());
        };
        match item_by_key
            .keys()
            .find(|key| !known.contains(&key.as_str()))
        {
            Some(key) => Err(Fault::Unknown {
                key: key.clone(),
                known,
            }),
            None => Ok(()),
        }
    }
}

impl<'de> de::Deserializer<'de> for Decoder<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.item.body {
            Body::Table(item_by_key) => visitor.visit_map(Table {
                entries: item_by_key.iter(),
                value: None,
                decoder: self,
            }),
            Body::List(items) => visitor.visit_seq(List {
                items: items.iter().enumerate(),
                decoder: self,
            }),
            Body::Text(text) => visitor.visit_borrowed_str(text),
            Body::Integer(number) => visitor.visit_i64(*number),
            Body::Float(number) => visitor.visit_f64(*number),
            Body::Flag(flag) => visitor.visit_bool(*flag),
            Body::TooLarge(number) => Err(Fault::Other(format!("{number} is too large"))),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.text() {
            Some(text) => visitor.visit_borrowed_str(text),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    /// A key that stands there is set: TOML has no null.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.refuse_unknown(known)?;
        self.deserialize_any(visitor)
    }

    /// A variant is a string, or a table whose only key is the variant and whose value is its content.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match (&self.item.body, self.text()) {
            (Body::Table(item_by_key), _) if item_by_key.len() == 1 => {
                let (name, content) = item_by_key
                    .iter()
                    .next()
                    .expect("a table of one has a first");
                visitor.visit_enum(Variant {
                    name,
                    content: self.child(name, content),
                })
            }
            (_, Some(text)) => {
                visitor.visit_enum(IntoDeserializer::<Fault>::into_deserializer(text))
            }
            _ => Err(Fault::Other(
                "expected a string, or a table with one key".to_owned(),
            )),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Table<'de> {
    entries: btree_map::Iter<'de, String, Item>,
    value: Option<(&'de str, &'de Item)>,
    decoder: Decoder<'de>,
}

impl<'de> de::MapAccess<'de> for Table<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, item)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((key, item));
        let text: StrDeserializer<'de, Fault> = key.as_str().into_deserializer();
        let res = seed.deserialize(text).map_err(|fault| match fault {
            Fault::Other(_) => fault.placed(item, &tree::join(&self.decoder.path, key)),
            fault => fault,
        })?;
        Ok(Some(res))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let (key, item) = self
            .value
            .take()
            .expect("a key must be read before its value");
        self.decoder.child(key, item).seed(seed)
    }
}

struct List<'de> {
    items: std::iter::Enumerate<slice::Iter<'de, Item>>,
    decoder: Decoder<'de>,
}

impl<'de> de::SeqAccess<'de> for List<'de> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some((idx, item)) = self.items.next() else {
            return Ok(None);
        };
        let path = format!("{}[{idx}]", self.decoder.path);
        Decoder { item, path }.seed(seed).map(Some)
    }
}

struct Variant<'de> {
    name: &'de str,
    content: Decoder<'de>,
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = Fault;
    type Variant = Decoder<'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Decoder<'de>), Fault> {
        let name: StrDeserializer<'de, Fault> = self.name.into_deserializer();
        let res = seed.deserialize(name)?;
        Ok((res, self.content))
    }
}

impl<'de> de::VariantAccess<'de> for Decoder<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        let fault = Fault::Other("takes no content: write it as a string".to_owned());
        Err(fault.placed(self.item, &self.path))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        self.seed(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        let (item, path) = (self.item, self.path.clone());
        de::Deserializer::deserialize_any(self, visitor).map_err(|fault| fault.placed(item, &path))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let (item, path) = (self.item, self.path.clone());
        de::Deserializer::deserialize_struct(self, "", known, visitor)
            .map_err(|fault| fault.placed(item, &path))
    }
}

impl Fault {
    fn placed(self, item: &Item, path: &str) -> Self {
        let (key, message) = match self {
            Self::Placed(_) => return self,
            Self::Unknown { key, known } => (Some(key), unknown(known)),
            Self::Missing { key } => (Some(key.to_owned()), "required, but not set".to_owned()),
            Self::Other(message) => (None, message.replace('\n', " ")),
        };
        let set_at = match (&item.body, &key) {
            (Body::Table(item_by_key), Some(key)) => item_by_key.get(key).unwrap_or(item),
            _ => item,
        };
        Self::Placed(Error::Key {
            place: set_at.place.clone(),
            key: key.map_or_else(|| path.to_owned(), |key| tree::join(path, &key)),
            message,
        })
    }
}

fn unknown(known: &[&str]) -> String {
    match known {
        [] => "unknown key, none is expected here".to_owned(),
        [only] => format!("unknown key, expected `{only}`"),
        known => format!("unknown key, expected one of `{}`", known.join("`, `")),
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Other(message.to_string())
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::Unknown {
            key: key.to_owned(),
            known,
        }
    }

    fn missing_field(key: &'static str) -> Self {
        Self::Missing { key }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { key, known } => write!(f, "{key}: {}", unknown(known)),
            Self::Missing { key } => write!(f, "{key}: required, but not set"),
            Self::Other(message) => f.write_str(message),
            Self::Placed(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Fault {}
