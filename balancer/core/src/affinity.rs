//! What a request asks of the picker: the key by which it wants to meet the same endpoint again, or the endpoint it was promised.

use std::{fmt, hash::Hasher, net::IpAddr};

use siphasher::sip::SipHasher13;

use crate::{name::NodeId, queue::Class};

/// What is known of a request when an endpoint is picked for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Equal keys go to the same endpoint where endpoints are picked by key; without one, load alone decides.
    pub key: Option<Key>,
    /// The endpoint that a valid cookie names; it is used while it can be.
    pub sticky: Option<NodeId>,
    /// The cookie is about to end: the client should get a new one, whatever is picked.
    pub renew: bool,
    /// How important it is, where requests have to wait.
    pub class: Class,
}

/// The hash of what a request is told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(pub u64);

/// Where the key of a request comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KeySource {
    /// The client's address, without its port.
    #[default]
    Source,
    Header(String),
    Cookie(String),
    /// The path, without the query.
    Path,
}

impl Key {
    /// SipHash-1-3 under the key zero: the same in every version, on every machine, for every balancer.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(bytes);
        Self(hasher.finish())
    }

    /// A number that depends on the key alone, and not on the part of it that chooses among endpoints.
    pub(crate) fn roll(self) -> u64 {
        self.0.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => f.write_str("source"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Path => f.write_str("path"),
        }
    }
}

impl KeySource {
    /// The key of a request with this path and these fields, if it has one.
    pub fn key<'a>(
        &self,
        client: IpAddr,
        path: &str,
        fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<Key> {
        match self {
            Self::Source => Some(match client.to_canonical() {
                IpAddr::V4(it) => Key::of(&it.octets()),
                IpAddr::V6(it) => Key::of(&it.octets()),
            }),
            Self::Path => Some(Key::of(path.split(['?', '#']).next()?.as_bytes())),
            Self::Header(name) => field(fields, name).map(Key::of),
            Self::Cookie(name) => cookie(fields, name).map(Key::of),
        }
    }
}

/// The value of the first cookie of this name. HTTP/2 clients may send each cookie in a field of its own (RFC 9113 §8.2.3).
pub fn cookie<'a>(
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    name: &str,
) -> Option<&'a [u8]> {
    fields
        .filter(|(it, _)| it.eq_ignore_ascii_case("cookie"))
        .flat_map(|(_, value)| value.split(|&it| it == b';'))
        .find_map(|pair| {
            let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
            value.strip_prefix(b"=")
        })
}

fn field<'a>(
    mut fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    name: &str,
) -> Option<&'a [u8]> {
    let (_, value) = fields.find(|(it, _)| it.eq_ignore_ascii_case(name))?;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [(&str, &[u8]); 4] = [
        ("X-User", b"ann"),
        ("cookie", b"a=1; session=s1"),
        ("Cookie", b"sessions=no; last=2"),
        ("x-user", b"bob"),
    ];

    /// Balancers of different versions must agree: this value may never change.
    #[test]
    fn the_hash_is_the_same_for_ever() {
        assert_eq!(Key::of(b"ann"), Key(0x5dc5_2f7e_daa4_54b8));
    }

    #[test]
    fn a_key_is_found_where_the_operator_says() {
        check(KeySource::Header("x-user".into()), Some(b"ann"));
        check(KeySource::Header("x-none".into()), None);
        check(KeySource::Cookie("session".into()), Some(b"s1"));
        check(KeySource::Cookie("last".into()), Some(b"2"));
        check(KeySource::Cookie("sess".into()), None);
        check(KeySource::Path, Some(b"/a/b"));
        check(KeySource::Source, Some(&[10, 0, 0, 1]));
    }

    fn check(source: KeySource, expected: Option<&[u8]>) {
        let client = "::ffff:10.0.0.1".parse().expect("an address");
        let key = source.key(client, "/a/b?c=d", FIELDS.into_iter());
        assert_eq!(key, expected.map(Key::of), "{source:?}");
    }
}
