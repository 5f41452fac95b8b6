//! Who is there: announce a record under a lease, and watch the records of others.
//!
//! Two drivers keep the same promises: [`etcd`] for a cluster, [`memory`] for everything inside one process. The
//! promises are written down as tests in `contract`, which both pass.
//!
//! | file | tells |
//! |---|---|
//! | `config` | how an operator names the registry |
//! | `key` | where a record lives |
//! | `record` | what a record says |
//! | `announce` | the handle of one announced record |
//! | `keeper` | how a record is kept in place: lease, renewal, and who yields to whom |
//! | `watch` | the events of a watch and how values become records |
//! | `backoff` | how long to wait before the next try |
//!
//! It does not decide what a missing record means: a registry that cannot be reached says [`Event::Lost`], and what
//! was known stays known to whoever watches.

mod announce;
mod backoff;
pub mod config;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod etcd;
mod keeper;
mod key;
pub mod memory;
mod record;
mod watch;

use std::time::Duration;

pub use announce::Announcement;
pub use config::{Config, Kind, OpenError};
pub use record::{BalancerRecord, NodeRecord, NodeState, RECORD_BYTES_MAX, Record};
pub use watch::{Event, Watch};

/// A moment on the registry's own clock: it grows with every change and says nothing about time.
///
/// It goes back only when a registry is restored from an older state, and a watch then says [`Event::Listed`].
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// One registry, whatever drives it; clones share it.
#[derive(Clone)]
pub enum Registry {
    /// Inside this process.
    Memory(memory::Memory),
    /// An etcd cluster.
    Etcd(etcd::Etcd),
}

impl Registry {
    /// Checks the configuration and opens nothing: an etcd that is down is asked again, for ever, by whoever announces
    /// or watches.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        let registry = match config.kind {
            Kind::Memory => Self::Memory(memory::Memory::new()),
            Kind::Etcd => Self::Etcd(etcd::Etcd::open(config)?),
        };
        Ok(registry)
    }

    /// Puts a record into the registry and keeps it there for as long as the handle lives.
    ///
    /// Returns at once; the work is done by a task on the current tokio runtime. `ttl` is how long the record outlives
    /// a process that vanished; etcd counts it in whole seconds and raises it to its own minimum (2 s by default).
    pub fn announce<R: Record>(&self, record: R, ttl: Duration) -> Announcement<R> {
        match self {
            Self::Memory(memory) => memory.announce(record, ttl),
            Self::Etcd(etcd) => etcd.announce(record, ttl),
        }
    }

    /// Lists the records of one kind, then follows every change to them, without a gap between the two.
    pub fn watch<R: Record>(&self) -> Watch<R> {
        match self {
            Self::Memory(memory) => memory.watch(),
            Self::Etcd(etcd) => etcd.watch(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs wait in tasks of a runtime with several threads.
    #[tokio::test]
    async fn waits_can_be_spawned() {
        let registry = Registry::open(&Config {
            kind: Kind::Memory,
            ..Config::default()
        })
        .expect("memory needs nothing");
        let mut watch = registry.watch::<NodeRecord>();
        let listed = tokio::spawn(async move { watch.next().await });
        assert_eq!(
            listed.await.ok(),
            Some(Event::Listed {
                revision: Revision(0),
                records: Vec::new()
            })
        );
        let mut announced = registry.announce(contract::node("a", 1), Duration::from_secs(5));
        let stored = tokio::spawn(async move {
            (
                announced.stored().await,
                announced.withdraw(Duration::MAX).await,
            )
        });
        assert_eq!(stored.await.ok(), Some((Revision(1), true)));
    }
}
