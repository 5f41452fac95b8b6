//! The handle of one announced record: what it should say, and whether it is there.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use tokio::sync::{oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Revision,
    keeper::{self, Desired, Ledger, Orders, Standing},
    key::Key,
    record::{Record, encode},
};

/// A record kept in the registry by a task of its own.
///
/// Dropping it is what a vanished process looks like: nothing is deleted and the lease runs out. Two announcements of
/// the same id do not fight: the larger incarnation wins, of two equal ones the later, and the other stops for good
/// (see [`superseded`](Self::superseded)).
pub struct Announcement<R> {
    id: String,
    desired: watch::Sender<Desired>,
    standing: watch::Receiver<Standing>,
    leave: oneshot::Sender<()>,
    keeper: AbortOnDropHandle<()>,
    records: PhantomData<fn(R)>,
}

impl<R: Record> Announcement<R> {
    pub(crate) fn start(ledger: impl Ledger, key: Key, record: R, ttl: Duration) -> Self {
        let (desired, wanted) = watch::channel(Desired {
            version: 1,
            value: encode(&record).into(),
        });
        let (told, standing) = watch::channel(Standing::Absent);
        let (leave, left) = oneshot::channel();
        let orders = Orders {
            desired: wanted,
            standing: told,
            leave: left,
        };
        let keeper = AbortOnDropHandle::new(tokio::spawn(keeper::run(ledger, key, ttl, orders)));
        Self {
            id: record.id().to_owned(),
            desired,
            standing,
            leave,
            keeper,
            records: PhantomData,
        }
    }

    /// Waits until the latest record is in the registry and gives the revision it was stored at.
    ///
    /// It waits for ever once a newer incarnation has taken the id. Cancel-safe.
    pub async fn stored(&mut self) -> Revision {
        let wanted = self.desired.borrow().version;
        let standing = self
            .standing
            .wait_for(|it| it.stored_since(wanted).is_some())
            .await;
        match standing.ok().and_then(|it| it.stored_since(wanted)) {
            Some(revision) => revision,
            None => std::future::pending().await,
        }
    }

    /// Waits until a newer incarnation has taken the id; this announcement does nothing from then on. Cancel-safe.
    pub async fn superseded(&mut self) {
        if self
            .standing
            .wait_for(|it| *it == Standing::Superseded)
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// Replaces the record under the same lease. A slow registry sees only the latest of several.
    ///
    /// The id must be the one that was announced: it is the key.
    pub fn set(&mut self, record: R) {
        debug_assert_eq!(record.id(), self.id, "an announcement keeps its id");
        let value: Arc<[u8]> = encode(&record).into();
        self.desired.send_modify(|it| {
            *it = Desired {
                version: it.version + 1,
                value,
            }
        });
    }

    /// Deletes the record and revokes its lease.
    ///
    /// False when the registry did not confirm it within that time: the lease will end the record.
    pub async fn withdraw(self, within: Duration) -> bool {
        // The keeper may have ended by itself because a newer incarnation has the id: there is nothing left to take away.
        let _ = self.leave.send(());
        matches!(tokio::time::timeout(within, self.keeper).await, Ok(Ok(())))
    }
}
