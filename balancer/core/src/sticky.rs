//! The cookie that brings a client back to its node: what it says is hidden from the client and cannot be made up by it.
//!
//! A value is the base64url of: version (1 byte), expiry (8 bytes, Unix seconds), tag (16), the node's id, padded and hidden. The tag is an
//! HMAC-SHA256 over everything else; the id is hidden by a stream that the tag seeds, as in RFC 5297's SIV, so that no nonce
//! can be used twice. Whatever does not verify, or is over, is no promise: the client is sent anywhere.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

use crate::name::{NodeId, ServiceName};

/// As many bytes as a key of half the hash's strength has.
const SECRET_LEN_MIN: usize = 16;

/// Old secrets beside the new one; more would only make forged cookies dear to refuse.
const SECRETS_MAX: usize = 8;

const VERSION: u8 = 1;
const HEAD_LEN: usize = 1 + 8;
const TAG_LEN: usize = 16;

/// Ids are padded to a multiple of this, so that their length tells little.
const PADDED_TO: usize = 16;

/// No cookie of ours is longer, with the longest id there may be.
const VALUE_LEN_MAX: usize = 512;

/// Time as people tell it, for it is compared across restarts and machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixSeconds(pub u64);

/// The cookie as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    pub name: String,
    pub path: String,
    /// How long a client is brought back after it was last told.
    pub ttl_seconds: u64,
    pub secure: bool,
    pub http_only: bool,
    pub same_site: SameSite,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SameSite {
    Strict,
    #[default]
    Lax,
    None,
}

/// What a valid cookie promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    pub node: NodeId,
    /// More than half of its time is over, or an old secret signed it: it should be issued anew.
    pub is_old: bool,
}

#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum SecretError {
    #[error("there is no secret, expected one in each line")]
    None,
    #[error("there are more than {SECRETS_MAX} secrets")]
    TooMany,
    #[error("a secret is shorter than {SECRET_LEN_MIN} bytes")]
    TooShort,
}

/// Reads and writes the cookies of one service.
#[derive(Clone)]
pub struct Sticky {
    attributes: Attributes,
    service: ServiceName,
    /// The first signs, all verify.
    keys: Vec<Keys>,
}

#[derive(Clone)]
struct Keys {
    tag: Hmac<Sha256>,
    stream: Hmac<Sha256>,
}

impl Sticky {
    /// `secrets` holds one secret a line; to replace one, put the new above the old and take the old away a `ttl` later.
    ///
    /// # Errors
    /// When a secret is too short to be one, or there are none or too many.
    pub fn new(
        attributes: Attributes,
        service: ServiceName,
        secrets: &str,
    ) -> Result<Self, SecretError> {
        let lines = secrets.lines().map(str::trim).filter(|it| !it.is_empty());
        let keys = lines.map(Keys::derive).collect::<Result<Vec<_>, _>>()?;
        match keys.len() {
            0 => Err(SecretError::None),
            n if n > SECRETS_MAX => Err(SecretError::TooMany),
            _ => Ok(Self {
                attributes,
                service,
                keys,
            }),
        }
    }

    pub fn cookie_name(&self) -> &str {
        &self.attributes.name
    }

    /// What the cookie of this value promises, if one of the secrets signed it and it is not over.
    pub fn read(&self, value: &[u8], now: UnixSeconds) -> Option<Promise> {
        if value.len() > VALUE_LEN_MAX {
            return None;
        }
        let bytes = BASE64.decode(value).ok()?;
        let (head, rest) = bytes.split_first_chunk::<HEAD_LEN>()?;
        let (tag, hidden) = rest.split_first_chunk::<TAG_LEN>()?;
        let (&version, expiry) = head.split_first()?;
        if version != VERSION {
            return None;
        }
        let (at, id) = self.verify(head, tag, hidden)?;
        let expires = u64::from_be_bytes(expiry.try_into().ok()?);
        let left = expires.checked_sub(now.0).filter(|&left| left > 0)?;
        Some(Promise {
            node: std::str::from_utf8(&id).ok()?.trim_end_matches('\0').into(),
            is_old: at > 0 || left < self.attributes.ttl_seconds / 2,
        })
    }

    /// The value of `Set-Cookie` that brings the client back to `node`.
    pub fn issue(&self, node: &NodeId, now: UnixSeconds) -> String {
        let it = &self.attributes;
        let value = self.value(node, UnixSeconds(now.0.saturating_add(it.ttl_seconds)));
        let mut cookie = format!(
            "{}={value}; Path={}; Max-Age={}",
            it.name, it.path, it.ttl_seconds
        );
        if it.secure {
            cookie.push_str("; Secure");
        }
        if it.http_only {
            cookie.push_str("; HttpOnly");
        }
        cookie.push_str("; SameSite=");
        cookie.push_str(it.same_site.word());
        cookie
    }

    fn value(&self, node: &NodeId, expires: UnixSeconds) -> String {
        let mut head = [VERSION; HEAD_LEN];
        head[1..].copy_from_slice(&expires.0.to_be_bytes());
        let mut id = node.as_str().as_bytes().to_vec();
        id.resize(id.len().next_multiple_of(PADDED_TO), 0);
        let keys = &self.keys[0];
        let tag = keys.tag(&self.service, &head, &id).finalize().into_bytes();
        let tag: [u8; TAG_LEN] = std::array::from_fn(|at| tag[at]);
        keys.hide(&tag, &mut id);
        BASE64.encode([&head[..], &tag, &id].concat())
    }

    /// The id, and the place of the secret that signed it.
    fn verify(
        &self,
        head: &[u8; HEAD_LEN],
        tag: &[u8; TAG_LEN],
        hidden: &[u8],
    ) -> Option<(usize, Vec<u8>)> {
        self.keys.iter().enumerate().find_map(|(at, keys)| {
            let mut id = hidden.to_vec();
            keys.hide(tag, &mut id);
            let expected = keys.tag(&self.service, head, &id);
            // Compared in constant time, or a forger could feel its way.
            expected.verify_truncated_left(tag).ok()?;
            Some((at, id))
        })
    }
}

/// Whether both issue and believe the same.
impl PartialEq for Sticky {
    fn eq(&self, other: &Self) -> bool {
        let are_same =
            |(a, b): (&Keys, &Keys)| a.tag.clone().finalize() == b.tag.clone().finalize();
        self.attributes == other.attributes
            && self.service == other.service
            && self.keys.len() == other.keys.len()
            && self.keys.iter().zip(&other.keys).all(are_same)
    }
}

impl std::fmt::Debug for Sticky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sticky")
            .field("attributes", &self.attributes)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Two keys from one secret, because one key must not do two things.
    fn derive(secret: &str) -> Result<Self, SecretError> {
        if secret.len() < SECRET_LEN_MIN {
            return Err(SecretError::TooShort);
        }
        let secret = keyed(secret.as_bytes());
        let derived = |purpose: &[u8]| {
            let key = secret.clone().chain_update(purpose).finalize();
            keyed(&key.into_bytes())
        };
        Ok(Self {
            tag: derived(b"colonnade sticky tag"),
            stream: derived(b"colonnade sticky stream"),
        })
    }

    fn tag(&self, service: &ServiceName, head: &[u8; HEAD_LEN], id: &[u8]) -> Hmac<Sha256> {
        let service = service.as_str().as_bytes();
        self.tag
            .clone()
            .chain_update((service.len() as u64).to_be_bytes())
            .chain_update(service)
            .chain_update(head)
            .chain_update(id)
    }

    /// Hides what is plain and shows what is hidden.
    fn hide(&self, tag: &[u8; TAG_LEN], bytes: &mut [u8]) {
        for (n, block) in (0u32..).zip(bytes.chunks_mut(32)) {
            let stream = self.stream.clone().chain_update(tag);
            let stream = stream.chain_update(n.to_be_bytes()).finalize().into_bytes();
            block.iter_mut().zip(stream).for_each(|(it, by)| *it ^= by);
        }
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

impl SameSite {
    fn word(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: &str = "the secret of last year";
    const NEW: &str = "the secret of this year";
    const NOW: UnixSeconds = UnixSeconds(1_000_000);

    #[test]
    fn what_is_issued_is_read_until_it_is_over() {
        let it = sticky(NEW);
        let value = value_of(&it.issue(&"n1".into(), NOW));
        let read = |after| it.read(value.as_bytes(), UnixSeconds(NOW.0 + after));
        let promise = |is_old| {
            Some(Promise {
                node: "n1".into(),
                is_old,
            })
        };
        assert_eq!(read(0), promise(false));
        assert_eq!(read(60), promise(true));
        assert_eq!((read(99), read(100)), (promise(true), None));
    }

    #[test]
    fn the_cookie_says_what_browsers_must_know() {
        let cookie = sticky(NEW).issue(&"n1".into(), NOW);
        let (_, attributes) = cookie.split_once("; ").expect("it has attributes");
        assert_eq!(
            attributes,
            "Path=/; Max-Age=100; Secure; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn it_does_not_tell_the_address() {
        let cookie = sticky(NEW).issue(&"10.0.0.1:8000".into(), NOW);
        let bytes = BASE64.decode(value_of(&cookie)).expect("a value is base64");
        assert!(!bytes.windows(4).any(|it| it == b"10.0"), "{bytes:?}");
        let longer = sticky(NEW).issue(&"10.0.10.1:18000".into(), NOW);
        assert_eq!(cookie.len(), longer.len(), "nor its length");
    }

    #[test]
    fn secrets_are_rotated_without_losing_anybody() {
        let old = value_of(&sticky(OLD).issue(&"n1".into(), NOW));
        let both = sticky(&format!("{NEW}\n\n{OLD}\n"));
        let promise = both
            .read(old.as_bytes(), NOW)
            .expect("an old secret verifies");
        assert!(promise.is_old, "it is signed anew");
        let new = value_of(&both.issue(&"n1".into(), NOW));
        assert!(sticky(NEW).read(new.as_bytes(), NOW).is_some());
        assert_eq!(sticky(OLD).read(new.as_bytes(), NOW), None);
    }

    #[test]
    fn another_services_cookie_is_no_promise() {
        let other = Sticky::new(attributes(), "other".into(), NEW).expect("it is long enough");
        let value = value_of(&other.issue(&"n1".into(), NOW));
        assert_eq!(sticky(NEW).read(value.as_bytes(), NOW), None);
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let error = |text: &str| Sticky::new(attributes(), "app".into(), text).err();
        assert_eq!(error("\n"), Some(SecretError::None));
        assert_eq!(error("short"), Some(SecretError::TooShort));
        assert_eq!(
            error(&format!("{NEW}\n").repeat(9)),
            Some(SecretError::TooMany)
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", sticky(NEW)).contains("this year"));
    }

    proptest! {
        #[test]
        fn no_changed_byte_is_believed(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let value = value_of(&sticky(NEW).issue(&"n1".into(), NOW));
            let mut bytes = BASE64.decode(value).expect("a value is base64");
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_eq!(sticky(NEW).read(BASE64.encode(bytes).as_bytes(), NOW), None);
        }

        #[test]
        fn nonsense_is_no_promise(value in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(sticky(NEW).read(&value, NOW), None);
            prop_assert_eq!(sticky(NEW).read(BASE64.encode(&value).as_bytes(), NOW), None);
        }

        #[test]
        fn any_id_comes_back(id in "[a-zA-Z0-9._:-]{1,253}") {
            let value = value_of(&sticky(NEW).issue(&id.as_str().into(), NOW));
            let promise = sticky(NEW).read(value.as_bytes(), NOW).map(|it| it.node);
            prop_assert_eq!(promise, Some(id.as_str().into()));
        }
    }

    fn value_of(cookie: &str) -> String {
        let (pair, _) = cookie.split_once(';').expect("it has attributes");
        let (name, value) = pair.split_once('=').expect("it has a value");
        assert_eq!(name, "colonnade");
        value.to_owned()
    }

    fn sticky(secrets: &str) -> Sticky {
        Sticky::new(attributes(), "app".into(), secrets).expect("they are long enough")
    }

    fn attributes() -> Attributes {
        Attributes {
            name: "colonnade".to_owned(),
            path: "/".to_owned(),
            ttl_seconds: 100,
            secure: true,
            http_only: true,
            same_site: SameSite::Lax,
        }
    }
}
