//! A registry in etcd, for a cluster: leases, watches, and what to do about members that fail, hang or forget.
//!
//! Every announcement and every watch has a connection of its own, to one member at a time (`link`). etcd-client can
//! spread requests over members by itself, but it keeps using one that hangs; here every answer has a deadline, and a
//! member that misses it is left for the next. A watch lists again after every break, so an etcd that was emptied or
//! restored from an older state is seen as what it is. Asked of the server: version 3.4 or later.

mod ledger;
mod link;
mod reader;

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use crate::{
    Config, OpenError, Revision,
    announce::Announcement,
    config::FileError,
    key::{Folder, Prefix},
    record::Record,
    watch::{Source, Watch},
};
use ledger::EtcdLedger;
use link::Link;
use reader::Reader;

/// How many changes wait for a watch that is slow; then etcd is not read on until it catches up. With records of the
/// largest size they take 16 MiB.
const CHANGES_MAX: usize = 256;

/// A registry in etcd; clones share its configuration.
#[derive(Clone)]
pub struct Etcd {
    settings: Arc<Settings>,
}

struct Settings {
    config: Config,
    prefix: Prefix,
}

impl Etcd {
    pub(crate) fn open(config: &Config) -> Result<Self, OpenError> {
        config.check()?;
        let settings = Settings {
            config: config.clone(),
            prefix: Prefix::new(&config.prefix),
        };
        Ok(Self {
            settings: Arc::new(settings),
        })
    }

    pub(crate) fn announce<R: Record>(&self, record: R, ttl: Duration) -> Announcement<R> {
        let key = self.folder::<R>().key(record.id());
        let ledger = EtcdLedger::new(Link::new(Arc::clone(&self.settings)));
        Announcement::start(ledger, key, record, ttl)
    }

    pub(crate) fn watch<R: Record>(&self) -> Watch<R> {
        let folder = self.folder::<R>();
        let (changes, queue) = mpsc::channel(CHANGES_MAX);
        let link = Link::new(Arc::clone(&self.settings));
        let reader = Reader::new(
            link,
            folder.clone(),
            self.settings.config.progress_interval,
            changes,
        );
        tokio::spawn(reader.run());
        Watch::new(folder, Source::Queue(queue))
    }

    fn folder<R: Record>(&self) -> Folder {
        Folder::of::<R>(&self.settings.prefix)
    }
}

/// Why etcd did not do what it was asked. All of them are tried again.
#[derive(Debug, thiserror::Error)]
enum EtcdError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot use endpoint {endpoint}: {reason}")]
    Endpoint { endpoint: String, reason: String },
    #[error("cannot reach {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: String },
    #[error("{endpoint} does not let us in as {user:?}: {reason}")]
    LogIn {
        endpoint: String,
        user: String,
        reason: String,
    },
    #[error("{endpoint} did not {action} within {} ms", within.as_millis())]
    Hung {
        endpoint: String,
        action: &'static str,
        within: Duration,
    },
    #[error("{endpoint} did not {action}: {reason}")]
    Refused {
        endpoint: String,
        action: &'static str,
        reason: String,
    },
    #[error("{endpoint} answered without {what}")]
    Incomplete {
        endpoint: String,
        what: &'static str,
    },
    #[error("{endpoint} ended the {what}")]
    Ended {
        endpoint: String,
        what: &'static str,
    },
    #[error("{endpoint} has forgotten the changes since revision {}", since.0)]
    Compacted { endpoint: String, since: Revision },
    #[error("{endpoint} went back from revision {} to {}", from.0, to.0)]
    WentBack {
        endpoint: String,
        from: Revision,
        to: Revision,
    },
    #[error("{endpoint} holds more than {max} records under {folder}")]
    TooMany {
        endpoint: String,
        folder: String,
        max: usize,
    },
    /// Nobody reads the watch any more; it is the one that ends the reader.
    #[error("nobody reads the watch")]
    Unread,
}

/// etcd counts revisions as signed numbers that are never negative.
fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or_default())
}
