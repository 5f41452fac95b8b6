//! Leases and keys in etcd, for the keeper.
//!
//! Every write to a key is a transaction that first looks at what is there: a key under our lease is ours to replace,
//! any other is only taken in the state in which it was seen.

use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, Error, KeyValue, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp,
    TxnOpResponse, TxnResponse,
};

use super::{EtcdError, link::Link, revision};
use crate::{
    Revision,
    keeper::{Holding, LeaseId, Ledger, Renewal, Seen, Taking},
    key::Key,
    record::Incarnation,
};

pub(super) struct EtcdLedger {
    link: Link,
    renewals: Option<Renewals>,
}

/// The open stream on which one lease is renewed; it belongs to the connection of the link.
struct Renewals {
    lease: LeaseId,
    requests: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl EtcdLedger {
    pub(super) fn new(link: Link) -> Self {
        Self {
            link,
            renewals: None,
        }
    }

    /// Opens the stream; doing so renews once. None when etcd does not know the lease.
    async fn open_renewals(&mut self, lease: LeaseId) -> Result<Option<Renewals>, EtcdError> {
        self.link
            .ask("renew a lease", |client| async move {
                match client.lease_client().keep_alive(lease.0).await {
                    Ok((requests, answers)) => Ok(Some(Renewals {
                        lease,
                        requests,
                        answers,
                    })),
                    Err(Error::LeaseKeepAliveError(_)) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    async fn renew_on(&mut self, renewals: &mut Renewals) -> Result<Renewal, EtcdError> {
        let action = "renew a lease";
        let round_trip = async {
            renewals.requests.keep_alive().await?;
            renewals.answers.message().await
        };
        let res = match tokio::time::timeout(self.link.timeout(), round_trip).await {
            Ok(Ok(Some(answer))) if answer.ttl() > 0 => Ok(Renewal::Alive),
            Ok(Ok(Some(_))) => Ok(Renewal::Gone),
            Ok(Ok(None)) => Err(EtcdError::Ended {
                endpoint: self.link.endpoint(),
                what: "renewal of a lease",
            }),
            Ok(Err(error)) => Err(self.link.refused(action, &error)),
            Err(_) => Err(self.link.hung(action)),
        };
        res.inspect_err(|_| self.link.give_up())
    }

    async fn transact(&mut self, txn: Txn) -> Result<Option<TxnResponse>, EtcdError> {
        self.link
            .ask("store a record", |mut client| async move {
                match client.txn(txn).await {
                    Ok(response) => Ok(Some(response)),
                    Err(error) if is_lease_unknown(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    fn at(&self, response: &TxnResponse) -> Result<Revision, EtcdError> {
        match response.header() {
            Some(header) => Ok(revision(header.revision())),
            None => Err(EtcdError::Incomplete {
                endpoint: self.link.endpoint(),
                what: "a header",
            }),
        }
    }
}

impl Ledger for EtcdLedger {
    type Error = EtcdError;

    async fn grant(&mut self, ttl: Duration) -> Result<LeaseId, EtcdError> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000))
            .unwrap_or(i64::MAX)
            .max(1);
        let granted = self
            .link
            .ask("grant a lease", |mut client| async move {
                client.lease_grant(seconds, None).await
            })
            .await?;
        Ok(LeaseId(granted.id()))
    }

    async fn renew(&mut self, lease: LeaseId) -> Result<Renewal, EtcdError> {
        match self.renewals.take() {
            Some(mut renewals) if renewals.lease == lease => {
                let renewal = self.renew_on(&mut renewals).await?;
                self.renewals = Some(renewals);
                Ok(renewal)
            }
            _ => {
                self.renewals = self.open_renewals(lease).await?;
                Ok(if self.renewals.is_some() {
                    Renewal::Alive
                } else {
                    Renewal::Gone
                })
            }
        }
    }

    async fn hold(
        &mut self,
        lease: LeaseId,
        key: &Key,
        value: Option<&[u8]>,
    ) -> Result<Holding, EtcdError> {
        let is_ours = Compare::lease(key.as_str(), CompareOp::Equal, lease.0);
        let replace: Vec<TxnOp> = value.map(|it| put(key, it, lease)).into_iter().collect();
        let look = TxnOp::get(key.as_str(), None);
        let response = self
            .transact(Txn::new().when([is_ours]).and_then(replace).or_else([look]))
            .await?;
        match response {
            Some(response) if response.succeeded() => Ok(Holding::Mine(self.at(&response)?)),
            Some(response) => Ok(Holding::Other(seen(&response))),
            // The lease vanished between the comparison and the put; the take that follows finds the same.
            None => Ok(Holding::Other(Seen::Nothing)),
        }
    }

    async fn take(
        &mut self,
        lease: LeaseId,
        key: &Key,
        value: &[u8],
        seen: &Seen,
    ) -> Result<Taking, EtcdError> {
        let at = seen
            .at()
            .map_or(0, |it| i64::try_from(it.0).unwrap_or(i64::MAX));
        let is_unchanged = Compare::mod_revision(key.as_str(), CompareOp::Equal, at);
        let response = self
            .transact(
                Txn::new()
                    .when([is_unchanged])
                    .and_then([put(key, value, lease)]),
            )
            .await?;
        match response {
            Some(response) if response.succeeded() => Ok(Taking::Mine(self.at(&response)?)),
            Some(_) => Ok(Taking::Raced),
            None => Ok(Taking::LeaseGone),
        }
    }

    async fn revoke(&mut self, lease: LeaseId) -> Result<(), EtcdError> {
        self.link
            .ask("revoke a lease", |mut client| async move {
                match client.lease_revoke(lease.0).await {
                    Err(error) if !is_lease_unknown(&error) => Err(error),
                    _ => Ok(()),
                }
            })
            .await
    }
}

fn put(key: &Key, value: &[u8], lease: LeaseId) -> TxnOp {
    TxnOp::put(
        key.as_str(),
        value,
        Some(PutOptions::new().with_lease(lease.0)),
    )
}

fn seen(response: &TxnResponse) -> Seen {
    match response.op_responses().first() {
        Some(TxnOpResponse::Get(found)) => found.kvs().first().map_or(Seen::Nothing, seen_value),
        _ => Seen::Nothing,
    }
}

fn seen_value(found: &KeyValue) -> Seen {
    Seen::Value {
        at: revision(found.mod_revision()),
        incarnation: Incarnation::of(found.value()),
    }
}

/// etcd says NotFound for a lease it does not have, and for nothing else that the ledger asks for.
fn is_lease_unknown(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.code() == tonic::Code::NotFound)
}
