//! Which of several things is meant by the name that a TLS client asks for: the exact name first, then a wildcard one label wide.

use std::fmt;

use rustc_hash::FxHashMap;
use thiserror::Error;

/// RFC 1035 §2.3.4.
const NAME_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;

/// A host name in lower case, without a trailing dot, and no address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(Box<str>);

/// A [`ServerName`], or `*.` and one, which stands for every name with exactly one label more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerNamePattern {
    is_wildcard: bool,
    name: ServerName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("is not a host name such as `www.example.org` or `*.example.org`")]
pub struct ServerNameError;

/// Values by the names they are meant by.
#[derive(Clone, Debug)]
pub struct ServerNames<T> {
    by_name: FxHashMap<Box<str>, T>,
    by_parent: FxHashMap<Box<str>, T>,
}

impl ServerName {
    /// # Errors
    /// When DNS could not hold the name, or it is an IPv4 address.
    pub fn new(text: &str) -> Result<Self, ServerNameError> {
        let fits = text.len() <= NAME_LEN_MAX && text.split('.').all(is_label);
        // A last label of digits alone is how an IPv4 address is told from a name.
        let is_address = text
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|it| it.is_ascii_digit()));
        match fits && !is_address {
            true => Ok(Self(text.to_ascii_lowercase().into())),
            false => Err(ServerNameError),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_LEN_MAX).contains(&label.len())
        && label
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
}

impl ServerNamePattern {
    /// # Errors
    /// When it is no name, with or without `*.` ahead of it.
    pub fn new(text: &str) -> Result<Self, ServerNameError> {
        let below = text.strip_prefix("*.");
        let name = ServerName::new(below.unwrap_or(text))?;
        Ok(Self {
            is_wildcard: below.is_some(),
            name,
        })
    }
}

impl<T> ServerNames<T> {
    /// The value of a pattern, made first if there is none yet.
    pub fn entry(&mut self, pattern: ServerNamePattern, or: impl FnOnce() -> T) -> &mut T {
        let values = match pattern.is_wildcard {
            true => &mut self.by_parent,
            false => &mut self.by_name,
        };
        values.entry(pattern.name.0).or_insert_with(or)
    }

    /// `name` is in lower case, as [`ServerName`] and TLS libraries give it.
    pub fn find(&self, name: &str) -> Option<&T> {
        let exact = self.by_name.get(name);
        exact.or_else(|| self.by_parent.get(name.split_once('.')?.1))
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.by_parent.is_empty()
    }
}

impl<T> Default for ServerNames<T> {
    fn default() -> Self {
        Self {
            by_name: FxHashMap::default(),
            by_parent: FxHashMap::default(),
        }
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ServerNamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_wildcard { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_name_wins_and_a_wildcard_is_one_label_wide() {
        check("www.example.org", Some("www.example.org"));
        check("api.example.org", Some("*.example.org"));
        check("a.api.example.org", None);
        check("example.org", None);
        check("org", None);
        check("deep.api.example.net", Some("*.api.example.net"));
        check("", None);
        check(".example.org", Some("*.example.org"));
    }

    #[test]
    fn patterns_are_names() {
        for text in [
            "",
            "*",
            "*.",
            "*.*.a",
            "w*.example.org",
            "a..b",
            ".a",
            "a.",
            "10.0.0.1",
            "::1",
            "a b",
            "ä.example",
        ] {
            assert_eq!(ServerNamePattern::new(text), Err(ServerNameError), "{text}");
        }
        let pattern = ServerNamePattern::new("*.Example.ORG").expect("it is a pattern");
        assert_eq!(pattern.to_string(), "*.example.org");
        assert!(ServerName::new(&"a".repeat(64)).is_err());
        assert!(ServerName::new(&"a.".repeat(127)).is_err());
        assert!(ServerName::new("_srv.xn--4ca.1a").is_ok());
    }

    fn check(name: &str, expected: Option<&str>) {
        let mut names = ServerNames::default();
        for text in ["*.example.org", "www.example.org", "*.api.example.net"] {
            let pattern = ServerNamePattern::new(text).expect("it is a pattern");
            names.entry(pattern, || text);
        }
        assert_eq!(names.find(name).copied(), expected, "{name}");
    }
}
