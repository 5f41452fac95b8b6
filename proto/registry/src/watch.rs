//! The events of a watch, and how the values a driver reads become records.

use std::{collections::VecDeque, marker::PhantomData};

use tokio::sync::mpsc;

use crate::{
    Revision,
    key::Folder,
    memory,
    record::{Record, decode},
};

/// What a watch tells. Events of one key come in the order of its changes, and revisions never go back except through
/// [`Event::Listed`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event<R> {
    /// Everything there is, as of a revision; it replaces all that was known before.
    Listed { revision: Revision, records: Vec<R> },
    /// A record appeared or changed.
    Put { revision: Revision, record: R },
    /// A record is gone: withdrawn, deleted by hand, or its lease ran out. The last record tells which was expected.
    Deleted { revision: Revision, id: String },
    /// The registry is in touch and this watch has told everything up to here. It moves the staleness clock.
    Current { revision: Revision },
    /// The registry is out of touch and the view is as old as the last event. It is told once per outage; the next
    /// [`Event::Listed`] ends it.
    Lost { reason: String },
    /// A key whose value is no record of this kind. The watch goes on; what was known of the id stays as it was.
    Malformed { key: String, reason: String },
}

/// The records of one kind, as they change.
pub struct Watch<R> {
    folder: Folder,
    source: Source,
    /// Decoded and not told yet: at most the flaws of one listing.
    pending: VecDeque<Event<R>>,
    records: PhantomData<R>,
}

/// What a driver reads, before anybody asks whether it is a record.
#[derive(Debug)]
pub(crate) enum Change {
    Listed {
        revision: Revision,
        entries: Vec<Entry>,
    },
    Put {
        revision: Revision,
        entry: Entry,
    },
    Deleted {
        revision: Revision,
        key: String,
    },
    Current {
        revision: Revision,
    },
    Lost {
        reason: String,
    },
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
}

/// Where changes come from: the memory is read in place, an etcd by a task with a bounded queue.
pub(crate) enum Source {
    Memory(memory::Cursor),
    Queue(mpsc::Receiver<Change>),
}

impl<R: Record> Watch<R> {
    pub(crate) fn new(folder: Folder, source: Source) -> Self {
        Self {
            folder,
            source,
            pending: VecDeque::new(),
            records: PhantomData,
        }
    }

    /// The next event. It never ends, and a call that is dropped loses nothing.
    ///
    /// A watch that is not read costs a bounded amount of memory: the registry is read on when the watch is, and is
    /// listed again when it has forgotten what was missed.
    pub async fn next(&mut self) -> Event<R> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return event;
            }
            let change = self.source.next().await;
            self.decode(change);
        }
    }

    fn decode(&mut self, change: Change) {
        let event = match change {
            Change::Listed { revision, entries } => return self.decode_listed(revision, entries),
            Change::Put { revision, entry } => match self.record(&entry) {
                Ok(record) => Event::Put { revision, record },
                Err(malformed) => malformed,
            },
            Change::Deleted { revision, key } => match self.folder.id(&key) {
                Some(id) => Event::Deleted {
                    revision,
                    id: id.to_owned(),
                },
                None => return,
            },
            Change::Current { revision } => Event::Current { revision },
            Change::Lost { reason } => Event::Lost { reason },
        };
        self.pending.push_back(event);
    }

    fn decode_listed(&mut self, revision: Revision, entries: Vec<Entry>) {
        let mut records = Vec::with_capacity(entries.len());
        let mut flaws = VecDeque::new();
        for entry in entries {
            match self.record(&entry) {
                Ok(record) => records.push(record),
                Err(malformed) => flaws.push_back(malformed),
            }
        }
        self.pending.push_back(Event::Listed { revision, records });
        self.pending.append(&mut flaws);
    }

    fn record(&self, entry: &Entry) -> Result<R, Event<R>> {
        let id = self.folder.id(&entry.key).unwrap_or_default();
        decode(id, &entry.value).map_err(|flaw| Event::Malformed {
            key: entry.key.clone(),
            reason: flaw.to_string(),
        })
    }
}

impl Change {
    pub(crate) fn revision(&self) -> Option<Revision> {
        match self {
            Self::Listed { revision, .. }
            | Self::Put { revision, .. }
            | Self::Deleted { revision, .. }
            | Self::Current { revision } => Some(*revision),
            Self::Lost { .. } => None,
        }
    }
}

impl Source {
    async fn next(&mut self) -> Change {
        match self {
            Self::Memory(cursor) => cursor.next().await,
            Self::Queue(changes) => match changes.recv().await {
                Some(change) => change,
                // The reading task ends only together with its runtime, and then nobody waits here.
                None => std::future::pending().await,
            },
        }
    }
}
