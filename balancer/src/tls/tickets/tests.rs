//! Which tickets are taken when, and by whom.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::prelude::*;
use rustls::pki_types::UnixTime;

use super::*;

const ROTATION: u64 = 60;

#[test]
fn a_ticket_is_taken_in_its_period_and_the_next() {
    for secrets in [vec![], vec!["11"]] {
        let (clock, tickets) = tickets(&secrets, [0; 32]);
        let ticket = tickets.encrypt(b"session").expect("there is randomness");
        assert!(!ticket.windows(7).any(|it| it == b"session"));
        for (second, is_taken) in [(0, true), (59, true), (60, true), (119, true), (120, false)] {
            clock.set(second);
            assert_eq!(
                tickets.decrypt(&ticket).is_some(),
                is_taken,
                "{second} {secrets:?}"
            );
        }
    }
}

#[test]
fn random_keys_are_forgotten_even_if_the_clock_comes_back() {
    let (clock, tickets) = tickets(&[], [0; 32]);
    let ticket = tickets.encrypt(b"session").expect("there is randomness");
    clock.set(240);
    tickets.turn();
    clock.set(0);
    assert_eq!(tickets.decrypt(&ticket), None);
}

#[test]
fn balancers_with_the_same_secret_take_each_others_tickets() {
    let (clock, ours) = tickets(&["11", "22"], [0; 32]);
    let (_, same) = tickets(&["22", "11"], [0; 32]);
    let (_, other) = tickets(&["33"], [0; 32]);
    let ticket = ours.encrypt(b"session").expect("there is randomness");
    assert_eq!(same.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
    assert_eq!(other.decrypt(&ticket), None);
    clock.set(60);
    let ahead = ours.encrypt(b"session").expect("there is randomness");
    assert!(
        same.decrypt(&ahead).is_some(),
        "its clock is behind by a little"
    );
    clock.set(120);
    let far_ahead = ours.encrypt(b"session").expect("there is randomness");
    assert!(same.decrypt(&far_ahead).is_none());
}

#[test]
fn other_terms_open_nothing() {
    let (_, ours) = tickets(&["11"], [0; 32]);
    let (_, stricter) = tickets(&["11"], [1; 32]);
    let ticket = ours.encrypt(b"session").expect("there is randomness");
    assert_eq!(stricter.decrypt(&ticket), None);
    assert!(ours.has_terms(&terms(&["11"], [0; 32])));
    assert!(!ours.has_terms(&terms(&["11"], [1; 32])));
    assert!(!ours.has_terms(&terms(&["11", "22"], [0; 32])));
}

#[test]
fn a_secret_is_64_hexadecimal_digits() {
    assert!(Secret::from_hex(&"aF".repeat(32)).is_some());
    assert!(Secret::from_hex(&"aF".repeat(31)).is_none());
    assert!(Secret::from_hex(&"+f".repeat(32)).is_none());
    assert!(Secret::from_hex(&"ä".repeat(32)).is_none());
}

proptest! {
    #[test]
    fn a_changed_ticket_is_refused(at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let (_, tickets) = tickets(&["11"], [0; 32]);
        let mut ticket = tickets.encrypt(b"session").expect("there is randomness");
        let at = at.index(ticket.len());
        ticket[at] ^= flip;
        prop_assert_eq!(tickets.decrypt(&ticket), None);
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let (_, tickets) = tickets(&["11"], [0; 32]);
        prop_assert_eq!(tickets.decrypt(&bytes), None);
    }
}

fn tickets(secrets: &[&str], admission: [u8; 32]) -> (Arc<Stepped>, Tickets) {
    let clock = Arc::new(Stepped(AtomicU64::new(0)));
    let tickets = Tickets::new(terms(secrets, admission), clock.clone());
    (clock, tickets.expect("there is randomness"))
}

fn terms(secrets: &[&str], admission: [u8; 32]) -> Terms {
    let secret = |text: &&str| Secret::from_hex(&text.repeat(32)).expect("they are digits");
    Terms {
        admission,
        rotation: Duration::from_secs(ROTATION),
        secrets: secrets.iter().map(secret).collect(),
    }
}

#[derive(Debug)]
struct Stepped(AtomicU64);

impl Stepped {
    /// Seconds of a day long after the first.
    fn set(&self, second: u64) {
        self.0.store(second, Relaxed);
    }
}

impl TimeProvider for Stepped {
    fn current_time(&self) -> Option<UnixTime> {
        let second = ROTATION * 1_000 + self.0.load(Relaxed);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(second)))
    }
}
