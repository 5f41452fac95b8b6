//! How a record is kept in place: one lease, renewed three times in its life, and a key that is looked after.
//!
//! One loop for every driver; what differs is the [`Ledger`]. Each round renews the lease when that is due and makes sure
//! that the key still says what it should, so that a lost lease, a deleted key, and a registry that was emptied are all
//! the same case: put it back. Two keepers of one id do not fight: see [`yields`].

use std::{fmt, future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tracing::{info, warn};

use crate::{Revision, backoff::Backoff, key::Key, record::Incarnation};

/// How often a lease is renewed in its life: two renewals may be lost before the record is.
const RENEWALS_PER_TTL: u32 = 3;
/// How often a key is taken from others within one round before the next round looks again.
const TAKES_MAX: u32 = 3;

/// Names a lease; the ledger gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseId(pub(crate) i64);

/// What the record should say.
#[derive(Clone)]
pub(crate) struct Desired {
    pub(crate) version: u64,
    pub(crate) value: Arc<[u8]>,
}

/// Whether the record is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not, or not any more.
    Absent,
    /// This version of it, since this revision.
    Stored { version: u64, revision: Revision },
    /// A newer incarnation has the id.
    Superseded,
}

/// Between an announcement and its keeper.
pub(crate) struct Orders {
    pub(crate) desired: watch::Receiver<Desired>,
    pub(crate) standing: watch::Sender<Standing>,
    pub(crate) leave: oneshot::Receiver<()>,
}

/// What a driver can do with leases and keys. Every call comes back in bounded time.
pub(crate) trait Ledger: Send + 'static {
    type Error: fmt::Display + Send;

    fn grant(&mut self, ttl: Duration)
    -> impl Future<Output = Result<LeaseId, Self::Error>> + Send;

    fn renew(
        &mut self,
        lease: LeaseId,
    ) -> impl Future<Output = Result<Renewal, Self::Error>> + Send;

    /// Looks whether the key hangs on this lease and, if it does and a value is given, replaces its value.
    fn hold(
        &mut self,
        lease: LeaseId,
        key: &Key,
        value: Option<&[u8]>,
    ) -> impl Future<Output = Result<Holding, Self::Error>> + Send;

    /// Puts the key under this lease, provided nobody has changed it since it was seen.
    fn take(
        &mut self,
        lease: LeaseId,
        key: &Key,
        value: &[u8],
        seen: &Seen,
    ) -> impl Future<Output = Result<Taking, Self::Error>> + Send;

    /// Ends a lease and deletes what hangs on it; a lease that is gone already is no error.
    fn revoke(&mut self, lease: LeaseId) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

pub(crate) enum Renewal {
    Alive,
    Gone,
}

pub(crate) enum Holding {
    /// The key hangs on the lease; the revision of the change when a value was given.
    Mine(Revision),
    /// It does not.
    Other(Seen),
}

/// What is at a key instead of ours.
pub(crate) enum Seen {
    Nothing,
    Value {
        at: Revision,
        incarnation: Incarnation,
    },
}

pub(crate) enum Taking {
    Mine(Revision),
    /// Somebody changed the key first.
    Raced,
    LeaseGone,
}

/// Keeps the record until it is told to leave or a newer incarnation has the id; then ends the lease.
pub(crate) async fn run(ledger: impl Ledger, key: Key, ttl: Duration, orders: Orders) {
    let mut keeper = Keeper {
        ledger,
        key,
        ttl,
        desired: orders.desired,
        standing: orders.standing,
        held: None,
        backoff: Backoff::new(),
        rng: fastrand::Rng::new(),
    };
    tokio::select! {
        _ = orders.leave => {}
        () = keeper.keep() => {}
    }
    keeper.leave().await;
}

struct Keeper<L> {
    ledger: L,
    key: Key,
    ttl: Duration,
    desired: watch::Receiver<Desired>,
    standing: watch::Sender<Standing>,
    held: Option<Held>,
    backoff: Backoff,
    rng: fastrand::Rng,
}

/// The lease this keeper lives on.
#[derive(Clone, Copy)]
struct Held {
    lease: LeaseId,
    renew_at: Instant,
    /// The version that is in the registry under this lease.
    version: Option<u64>,
}

enum Round {
    Kept,
    LeaseGone,
    Superseded,
}

// === impl Keeper ===

impl<L: Ledger> Keeper<L> {
    /// Returns only when a newer incarnation has the id.
    async fn keep(&mut self) {
        let mut is_failing = false;
        loop {
            match self.round().await {
                Ok(Round::Kept) => {
                    is_failing = false;
                    self.backoff.reset();
                    self.rest().await;
                    continue;
                }
                Ok(Round::LeaseGone) => self.forget(),
                Ok(Round::Superseded) => return self.yield_id(),
                Err(error) if !is_failing => {
                    is_failing = true;
                    warn!(key = %self.key, %error, "cannot keep the record in the registry, trying on");
                }
                Err(_) => {}
            }
            tokio::time::sleep(self.backoff.next(&mut self.rng)).await;
        }
    }

    async fn round(&mut self) -> Result<Round, L::Error> {
        let held = match self.held {
            None => self.grant().await?,
            Some(held) if held.renew_at > Instant::now() => held,
            Some(held) => match self.ledger.renew(held.lease).await? {
                Renewal::Alive => self.renewed(held),
                Renewal::Gone => return Ok(Round::LeaseGone),
            },
        };
        self.place(held).await
    }

    async fn grant(&mut self) -> Result<Held, L::Error> {
        let lease = self.ledger.grant(self.ttl).await?;
        Ok(self.renewed(Held {
            lease,
            renew_at: Instant::now(),
            version: None,
        }))
    }

    fn renewed(&mut self, held: Held) -> Held {
        let renew_at = Instant::now() + self.ttl / RENEWALS_PER_TTL;
        *self.held.insert(Held { renew_at, ..held })
    }

    /// Makes sure that the key hangs on our lease and says what it should.
    async fn place(&mut self, held: Held) -> Result<Round, L::Error> {
        let desired = self.desired.borrow_and_update().clone();
        let value = (held.version != Some(desired.version)).then_some(&*desired.value);
        for _ in 0..TAKES_MAX {
            let seen = match self.ledger.hold(held.lease, &self.key, value).await? {
                Holding::Mine(revision) => {
                    return Ok(self.stored(held, &desired, value.map(|_| revision)));
                }
                Holding::Other(seen) => seen,
            };
            if yields(
                Incarnation::of(&desired.value),
                &seen,
                held.version.is_some(),
            ) {
                return Ok(Round::Superseded);
            }
            match self
                .ledger
                .take(held.lease, &self.key, &desired.value, &seen)
                .await?
            {
                Taking::Mine(revision) => return Ok(self.stored(held, &desired, Some(revision))),
                Taking::LeaseGone => return Ok(Round::LeaseGone),
                Taking::Raced => {}
            }
        }
        Ok(Round::Kept)
    }

    /// Remembers and tells what is stored; without a revision nothing was written.
    fn stored(&mut self, held: Held, desired: &Desired, revision: Option<Revision>) -> Round {
        if let Some(revision) = revision {
            self.held = Some(Held {
                version: Some(desired.version),
                ..held
            });
            self.standing.send_replace(Standing::Stored {
                version: desired.version,
                revision,
            });
        }
        Round::Kept
    }

    async fn rest(&mut self) {
        let renew_at = self.held.map_or_else(Instant::now, |it| it.renew_at);
        tokio::select! {
            Ok(()) = self.desired.changed() => {}
            () = tokio::time::sleep_until(renew_at) => {}
        }
    }

    fn forget(&mut self) {
        info!(key = %self.key, "the lease of the record is gone, announcing it again");
        self.held = None;
        self.standing.send_replace(Standing::Absent);
    }

    fn yield_id(&mut self) {
        warn!(key = %self.key, "another incarnation has taken the id, this one stops announcing");
        self.standing.send_replace(Standing::Superseded);
    }

    async fn leave(&mut self) {
        let Some(held) = self.held.take() else { return };
        while let Err(error) = self.ledger.revoke(held.lease).await {
            warn!(key = %self.key, %error, "cannot withdraw the record, trying again");
            tokio::time::sleep(self.backoff.next(&mut self.rng)).await;
        }
    }
}

// === impl Standing ===

impl Standing {
    pub(crate) fn stored_since(self, wanted: u64) -> Option<Revision> {
        match self {
            Self::Stored { version, revision } if version >= wanted => Some(revision),
            _ => None,
        }
    }
}

// === impl Seen ===

impl Seen {
    /// When what was seen was put there.
    pub(crate) fn at(&self) -> Option<Revision> {
        match self {
            Self::Nothing => None,
            Self::Value { at, .. } => Some(*at),
        }
    }
}

/// Whether to leave the key to whoever has it.
///
/// The larger incarnation wins. Equal ones are two announcements of one life: the later one takes the key when it
/// arrives, and the earlier one, which had stored it, finds it taken and yields. Each side yields for good, so a key
/// changes hands a bounded number of times.
fn yields(mine: Incarnation, seen: &Seen, had_stored: bool) -> bool {
    match seen {
        Seen::Nothing => false,
        Seen::Value { incarnation, .. } => {
            *incarnation > mine || (had_stored && *incarnation == mine)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_incarnation_keeps_the_key() {
        let life = |n: u64| Incarnation::of(format!(r#"{{"incarnation":{n}}}"#).as_bytes());
        let seen = |n| Seen::Value {
            at: Revision(1),
            incarnation: life(n),
        };
        assert!(
            !yields(life(2), &Seen::Nothing, true),
            "a deleted key is put back"
        );
        for had_stored in [false, true] {
            assert!(yields(life(2), &seen(3), had_stored));
            assert!(!yields(life(2), &seen(1), had_stored));
        }
        assert!(
            !yields(life(2), &seen(2), false),
            "the later of two equals arrives and takes"
        );
        assert!(
            yields(life(2), &seen(2), true),
            "the earlier of two equals yields"
        );
    }
}
