//! Where a record lives: `{prefix}{folder}/{id}`.

use std::fmt;

use crate::record::Record;

/// What all keys of one cluster begin with; it ends with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix(String);

/// What all keys of one kind of record begin with; it ends with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder(String);

/// The whole key of one record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(String);

impl Prefix {
    /// A missing slash at the end is added, so that `/a` and `/ab` never share keys.
    pub(crate) fn new(text: &str) -> Self {
        Self(with_slash(text))
    }
}

impl Folder {
    pub(crate) fn of<R: Record>(prefix: &Prefix) -> Self {
        Self(with_slash(&format!("{}{}", prefix.0, R::FOLDER)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn key(&self, id: &str) -> Key {
        Key(format!("{}{id}", self.0))
    }

    /// The id in a key of this folder; everything behind the folder belongs to it, slashes too.
    pub(crate) fn id<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.0)
    }

    /// The first key behind the folder: the byte after `/` is `0`.
    pub(crate) fn end(&self) -> String {
        format!("{}0", self.0.trim_end_matches('/'))
    }
}

impl Key {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn with_slash(text: &str) -> String {
    format!("{}/", text.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::NodeRecord;

    #[test]
    fn a_key_gives_its_id_back() {
        for prefix in ["/colonnade/v1", "/colonnade/v1/"] {
            let folder = Folder::of::<NodeRecord>(&Prefix::new(prefix));
            let key = folder.key("rack/7");
            assert_eq!(key.as_str(), "/colonnade/v1/nodes/rack/7");
            assert_eq!(folder.id(key.as_str()), Some("rack/7"));
        }
    }

    #[test]
    fn a_folder_ends_before_its_neighbour() {
        let folder = Folder::of::<NodeRecord>(&Prefix::new("/a"));
        let end = folder.end();
        assert!(folder.key("\u{10ffff}").as_str() < end.as_str());
        assert!(end.as_str() <= "/a/nodes0");
    }
}
