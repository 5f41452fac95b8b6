//! Reads a folder for one watch: list, then watch from the next revision on, and the same again after every break.
//!
//! A break always lists anew, though etcd could resume from a revision: after a restore the same number may name
//! another history, and nothing in the protocol would tell. What a listing costs is bounded by pages and by the back-off.

use std::{convert::Infallible, time::Duration};

use etcd_client::{
    EventType, GetOptions, GetResponse, KeyValue, WatchOptions, WatchResponse, WatchStream,
};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{EtcdError, link::Link, revision};
use crate::{
    Revision,
    backoff::Backoff,
    key::Folder,
    record::cut,
    watch::{Change, Entry},
};

/// Keys per request of a listing: far below the message limit with records of a usual size.
const PAGE_KEYS: i64 = 512;
/// Longest message taken from etcd, in bytes: a page of records of the largest size.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most records of one kind; more is a folder that is used for something else.
const RECORDS_MAX: usize = 100_000;

pub(super) struct Reader {
    link: Link,
    folder: Folder,
    progress_interval: Duration,
    changes: mpsc::Sender<Change>,
    /// Everything up to here was told; it only goes back with a listing.
    told: Revision,
    is_lost: bool,
    backoff: Backoff,
    rng: fastrand::Rng,
}

impl Reader {
    pub(super) fn new(
        link: Link,
        folder: Folder,
        progress_interval: Duration,
        changes: mpsc::Sender<Change>,
    ) -> Self {
        Self {
            link,
            folder,
            progress_interval,
            changes,
            told: Revision(0),
            is_lost: false,
            backoff: Backoff::new(),
            rng: fastrand::Rng::new(),
        }
    }

    /// Reads until nobody wants it.
    pub(super) async fn run(mut self) {
        let unread = self.changes.clone();
        tokio::select! {
            () = unread.closed() => {}
            () = self.read() => {}
        }
    }

    async fn read(&mut self) {
        loop {
            let Err(error) = self.follow().await;
            let told = match error {
                EtcdError::Unread => return,
                // In touch, only too slow: the listing that follows says all.
                EtcdError::Compacted { .. } => {
                    info!(folder = self.folder.as_str(), %error, "listing the registry again");
                    Ok(())
                }
                error => self.lose(&error).await,
            };
            if told.is_err() {
                return;
            }
            tokio::time::sleep(self.backoff.next(&mut self.rng)).await;
        }
    }

    async fn follow(&mut self) -> Result<Infallible, EtcdError> {
        self.list().await?;
        let mut stream = self.open().await?;
        self.backoff.reset();
        loop {
            let response = self
                .receive(&mut stream)
                .await
                .inspect_err(|_| self.link.give_up())?;
            self.tell_response(&response)
                .await
                .inspect_err(|_| self.link.give_up())?;
        }
    }

    async fn lose(&mut self, error: &EtcdError) -> Result<(), EtcdError> {
        if self.is_lost {
            return Ok(());
        }
        warn!(folder = self.folder.as_str(), %error, "out of touch with the registry, going on with what is known");
        self.is_lost = true;
        self.tell(Change::Lost {
            reason: error.to_string(),
        })
        .await
    }

    async fn tell(&self, change: Change) -> Result<(), EtcdError> {
        self.changes
            .send(change)
            .await
            .map_err(|_| EtcdError::Unread)
    }
}

// How it lists.
impl Reader {
    /// Page by page, all as of the revision of the first one.
    async fn list(&mut self) -> Result<(), EtcdError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut as_of = None;
        let mut from = self.folder.as_str().as_bytes().to_vec();
        loop {
            let mut page = self.page(from, as_of).await?;
            let at = *as_of.get_or_insert(self.revision_of(&page)?);
            let kvs = page.take_kvs();
            let next = kvs.last().map(|kv| after(kv.key()));
            entries.extend(kvs.into_iter().map(entry));
            self.check_count(entries.len())?;
            match next {
                Some(next) if page.more() => from = next,
                _ => return self.tell_listed(at, entries).await,
            }
        }
    }

    async fn page(
        &mut self,
        from: Vec<u8>,
        as_of: Option<Revision>,
    ) -> Result<GetResponse, EtcdError> {
        let at = as_of.map_or(0, number);
        let options = GetOptions::new()
            .with_range(self.folder.end())
            .with_limit(PAGE_KEYS)
            .with_revision(at);
        let res = self
            .link
            .ask("list the registry", |client| async move {
                let mut kv = client
                    .kv_client()
                    .max_decoding_message_size(MESSAGE_BYTES_MAX);
                kv.get(from, Some(options)).await
            })
            .await;
        match (res, as_of) {
            // Between two pages; the next listing starts at a newer revision.
            (
                Err(EtcdError::Refused {
                    endpoint, reason, ..
                }),
                Some(since),
            ) if reason.contains("compacted") => Err(EtcdError::Compacted { endpoint, since }),
            (res, _) => res,
        }
    }

    fn revision_of(&self, page: &GetResponse) -> Result<Revision, EtcdError> {
        match page.header() {
            Some(header) => Ok(revision(header.revision())),
            None => Err(EtcdError::Incomplete {
                endpoint: self.link.endpoint(),
                what: "a header",
            }),
        }
    }

    fn check_count(&self, n_records: usize) -> Result<(), EtcdError> {
        if n_records <= RECORDS_MAX {
            return Ok(());
        }
        let folder = self.folder.as_str().to_owned();
        Err(EtcdError::TooMany {
            endpoint: self.link.endpoint(),
            folder,
            max: RECORDS_MAX,
        })
    }

    async fn tell_listed(&mut self, at: Revision, entries: Vec<Entry>) -> Result<(), EtcdError> {
        self.told = at;
        self.tell(Change::Listed {
            revision: at,
            entries,
        })
        .await?;
        self.is_lost = false;
        Ok(())
    }
}

// How it watches.
impl Reader {
    async fn open(&mut self) -> Result<WatchStream, EtcdError> {
        let options = WatchOptions::new()
            .with_range(self.folder.end())
            .with_start_revision(number(self.told) + 1)
            .with_progress_notify()
            .with_fragment();
        let from = self.folder.as_str().to_owned();
        self.link
            .ask("open a watch", |client| async move {
                let mut watch = client
                    .watch_client()
                    .max_decoding_message_size(MESSAGE_BYTES_MAX);
                watch.watch(from, Some(options)).await
            })
            .await
    }

    /// The next response; a silent member is asked to say something.
    async fn receive(&self, stream: &mut WatchStream) -> Result<WatchResponse, EtcdError> {
        let spoken = match tokio::time::timeout(self.progress_interval, stream.message()).await {
            Ok(res) => res,
            Err(_) => self.prod(stream).await?,
        };
        match spoken {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(EtcdError::Ended {
                endpoint: self.link.endpoint(),
                what: "watch",
            }),
            Err(error) => Err(self.link.refused("go on with a watch", &error)),
        }
    }

    async fn prod(
        &self,
        stream: &mut WatchStream,
    ) -> Result<Result<Option<WatchResponse>, etcd_client::Error>, EtcdError> {
        let round_trip = async {
            stream.request_progress().await?;
            stream.message().await
        };
        tokio::time::timeout(self.link.timeout(), round_trip)
            .await
            .map_err(|_| self.link.hung("tell the progress of a watch"))
    }

    async fn tell_response(&mut self, response: &WatchResponse) -> Result<(), EtcdError> {
        self.check_response(response)?;
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            self.tell_event(event.event_type(), kv).await?;
        }
        if response.events().is_empty() {
            // The revision of a progress response is not told: etcd before 3.4.25 and 3.5.8 answers with that of the
            // store, ahead of events that it has yet to send (etcd issue 15220).
            self.tell(Change::Current {
                revision: self.told,
            })
            .await?;
        }
        Ok(())
    }

    fn check_response(&self, response: &WatchResponse) -> Result<(), EtcdError> {
        let endpoint = self.link.endpoint();
        if response.compact_revision() > 0 {
            return Err(EtcdError::Compacted {
                endpoint,
                since: self.told,
            });
        }
        if response.canceled() {
            let reason = response.cancel_reason().to_owned();
            return Err(EtcdError::Refused {
                endpoint,
                action: "go on with a watch",
                reason,
            });
        }
        self.check_forward(
            response
                .header()
                .map_or(self.told, |it| revision(it.revision())),
        )
    }

    fn check_forward(&self, to: Revision) -> Result<(), EtcdError> {
        if to < self.told {
            return Err(EtcdError::WentBack {
                endpoint: self.link.endpoint(),
                from: self.told,
                to,
            });
        }
        Ok(())
    }

    async fn tell_event(&mut self, kind: EventType, kv: &KeyValue) -> Result<(), EtcdError> {
        let at = revision(kv.mod_revision());
        self.check_forward(at)?;
        self.told = at;
        let change = match kind {
            EventType::Put => Change::Put {
                revision: at,
                entry: entry(kv.clone()),
            },
            EventType::Delete => Change::Deleted {
                revision: at,
                key: text(kv.key()),
            },
        };
        self.tell(change).await
    }
}

fn entry(kv: KeyValue) -> Entry {
    let (key, value) = kv.into_key_value();
    Entry {
        key: text(&key),
        value: cut(value),
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// The smallest key behind this one.
fn after(key: &[u8]) -> Vec<u8> {
    [key, b"\0"].concat()
}

fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}
