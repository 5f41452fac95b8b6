//! Seals sessions into tickets, so that a client that comes back, to whichever core or balancer, is spared most of a handshake.
//!
//! Time is cut into periods, and each has its own key. Tickets of the period before are still taken. Without shared secrets a key
//! is random and forgotten for good when its time is over. With them it follows from the secret, the period and the terms of the
//! listener (HKDF, RFC 5869), so that balancers with the same file make the same keys without speaking to each other; then the
//! period to come is taken too, for clocks differ.
//!
//! A resumed client is not verified again: its ticket carries its certificate. So the terms contain everything that decides
//! whether a client's certificate is good, and a ticket that was made under other terms opens nothing.
//!
//! A ticket: the name of its key (16 bytes), nonce (12), the session sealed with ChaCha20-Poly1305, tag (16).

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
    error::Unspecified,
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
    rand::{SecureRandom, SystemRandom},
};
use rustls::{server::ProducesTickets, time_provider::TimeProvider};

const SECRET_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
const NAME_BYTES: usize = 16;
const HEADER_BYTES: usize = NAME_BYTES + NONCE_LEN;
/// Keeps these keys apart from all others that may ever be made from the same secret.
const SALT: &[u8] = b"colonnade session tickets 1";

/// What ticket keys are made from.
pub(super) struct Secret(Prk);

/// What has to be the same for a ticket to be taken.
pub(super) struct Terms {
    /// A digest of whatever decides which clients are let in.
    pub(super) admission: [u8; 32],
    /// How long tickets are made with one key.
    pub(super) rotation: Duration,
    /// Empty: random keys. The first makes tickets, all open them.
    pub(super) secrets: Vec<Secret>,
}

/// The tickets of one listener, made and opened by all cores.
pub(super) struct Tickets {
    terms: Terms,
    clock: Arc<dyn TimeProvider>,
    keys: ArcSwap<Keys>,
    /// Held by the one core that makes the keys of a new period.
    turning: Mutex<()>,
}

struct Keys {
    period: u64,
    /// The first makes tickets, all open them: at most three for each secret.
    all: Vec<Arc<Key>>,
}

struct Key {
    name: [u8; NAME_BYTES],
    aead: LessSafeKey,
}

impl Secret {
    /// 64 hexadecimal digits.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; SECRET_BYTES];
        if text.len() != 2 * SECRET_BYTES || !text.bytes().all(|it| it.is_ascii_hexdigit()) {
            return None;
        }
        for (idx, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * idx..2 * idx + 2)?, 16).ok()?;
        }
        Some(Self::of(&bytes))
    }

    fn random() -> Result<Self, Unspecified> {
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut bytes)?;
        Ok(Self::of(&bytes))
    }

    fn of(bytes: &[u8; SECRET_BYTES]) -> Self {
        Self(Salt::new(HKDF_SHA256, SALT).extract(bytes))
    }

    fn derive<const LEN: usize>(&self, info: &[&[u8]]) -> Result<[u8; LEN], Unspecified> {
        let mut bytes = [0; LEN];
        self.0.expand(info, Length(LEN))?.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn key(&self, admission: &[u8; 32], period: u64) -> Result<Arc<Key>, Unspecified> {
        let period = period.to_be_bytes();
        let info = |what: &'static [u8]| [what, admission, &period];
        let key: [u8; KEY_BYTES] = self.derive(&info(b"key"))?;
        Ok(Arc::new(Key {
            name: self.derive(&info(b"name"))?,
            aead: LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key)?),
        }))
    }
}

impl Terms {
    /// Equal for equal terms; it tells nothing of the secrets.
    fn fingerprint(&self) -> Result<[u8; 32], Unspecified> {
        let mut told = self.admission.to_vec();
        told.extend(self.rotation.as_secs().to_be_bytes());
        for secret in &self.secrets {
            told.extend(secret.derive::<32>(&[b"fingerprint"])?);
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, &told).as_ref());
        Ok(fingerprint)
    }
}

impl Tickets {
    /// # Errors
    /// When the system has no randomness.
    pub(super) fn new(terms: Terms, clock: Arc<dyn TimeProvider>) -> Result<Self, Unspecified> {
        let period = period(&*clock, terms.rotation);
        let keys = terms.keys(period, None)?;
        Ok(Self {
            terms,
            clock,
            keys: ArcSwap::from_pointee(keys),
            turning: Mutex::new(()),
        })
    }

    pub(super) fn has_terms(&self, terms: &Terms) -> bool {
        match (self.terms.fingerprint(), terms.fingerprint()) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            _ => false,
        }
    }

    /// The keys of this period. Called now and then by a balancer that nobody calls, it also forgets what is over.
    pub(super) fn turn(&self) {
        let period = period(&*self.clock, self.terms.rotation);
        if self.keys.load().period == period {
            return;
        }
        let _turning = self.turning.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.keys.load_full();
        if before.period == period {
            return;
        }
        match self.terms.keys(period, Some(&before)) {
            Ok(keys) => self.keys.store(Arc::new(keys)),
            // A key that is kept too long is better than no tickets.
            Err(Unspecified) => tracing::error!("no new key for session tickets could be made"),
        }
    }
}

impl Terms {
    fn keys(&self, period: u64, before: Option<&Keys>) -> Result<Keys, Unspecified> {
        let all = match self.secrets.is_empty() {
            true => self.random_keys(period, before)?,
            false => self.shared_keys(period)?,
        };
        Ok(Keys { period, all })
    }

    fn random_keys(
        &self,
        period: u64,
        before: Option<&Keys>,
    ) -> Result<Vec<Arc<Key>>, Unspecified> {
        let fresh = Secret::random()?.key(&self.admission, period)?;
        let last = before.filter(|it| it.period + 1 == period);
        let last = last.and_then(|it| it.all.first()).cloned();
        Ok([fresh].into_iter().chain(last).collect())
    }

    fn shared_keys(&self, period: u64) -> Result<Vec<Arc<Key>>, Unspecified> {
        let periods = [period, period.saturating_sub(1), period + 1];
        let key = |secret: &Secret, period| secret.key(&self.admission, period);
        let of_secret = |secret| periods.into_iter().map(move |period| key(secret, period));
        self.secrets.iter().flat_map(of_secret).collect()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// The last ticket of a period is taken for one more.
    fn lifetime(&self) -> u32 {
        self.terms.rotation.as_secs().try_into().unwrap_or(u32::MAX)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.turn();
        self.keys.load().all.first()?.seal(session).ok()
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.turn();
        let name = ticket.get(..NAME_BYTES)?;
        let keys = self.keys.load();
        // Names are no secret: they stand in every ticket.
        let key = keys.all.iter().find(|it| it.name == name)?;
        key.open(ticket)
    }
}

impl Key {
    fn seal(&self, session: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let tag_len = CHACHA20_POLY1305.tag_len();
        let mut ticket = Vec::with_capacity(HEADER_BYTES + session.len() + tag_len);
        // Random nonces of 96 bits last for far more tickets than a cluster makes in a period; a counter would tell how many.
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce)?;
        ticket.extend(self.name);
        ticket.extend(nonce);
        ticket.extend(session);
        let tag = self.aead.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(self.name),
            &mut ticket[HEADER_BYTES..],
        )?;
        ticket.extend(tag.as_ref());
        Ok(ticket)
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (header, sealed) = ticket.split_at_checked(HEADER_BYTES)?;
        let nonce = Nonce::try_assume_unique_for_key(&header[NAME_BYTES..]).ok()?;
        let mut session = sealed.to_vec();
        let opened = self
            .aead
            .open_in_place(nonce, Aad::from(self.name), &mut session);
        let len = opened.ok()?.len();
        session.truncate(len);
        Some(session)
    }
}

fn period(clock: &dyn TimeProvider, rotation: Duration) -> u64 {
    // A system without a clock keeps its first key.
    let now = clock.current_time().map_or(0, |it| it.as_secs());
    now / rotation.as_secs().max(1)
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Keys and secrets stay out of every log.
impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets")
            .field("period", &self.keys.load().period)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
