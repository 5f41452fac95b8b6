//! A registry inside one process, which keeps the promises of one that is not.
//!
//! Leases are real: a keeper that stops renewing loses its record. No task watches over them: whoever looks at the
//! registry first ends the leases that are due, and a waiting watch wakes up for the next one. So a record ends on time
//! even when the runtime that announced it is gone.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    Revision,
    announce::Announcement,
    keeper::{Holding, LeaseId, Ledger, Renewal, Seen, Taking},
    key::{Folder, Key, Prefix},
    record::{Incarnation, Record, cut},
    watch::{Change, Entry, Source, Watch},
};

/// How many changes are remembered for watches that lag; one that lags further lists again.
const CHANGES_MAX: usize = 4096;
/// How long a watch may be silent before it is told that it is current.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// A registry inside this process; clones share it.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes watches up when the revision has moved.
    moved: watch::Sender<Revision>,
}

#[derive(Default)]
struct State {
    revision: Revision,
    value_by_key: BTreeMap<Key, Held>,
    end_by_lease: BTreeMap<LeaseId, End>,
    last_lease: i64,
    /// The last changes, oldest first; revisions are consecutive.
    changes: VecDeque<Past>,
}

struct Held {
    value: Arc<[u8]>,
    at: Revision,
    /// None for what a foreign writer put down without a lease.
    lease: Option<LeaseId>,
}

struct End {
    at: Instant,
    ttl: Duration,
}

struct Past {
    revision: Revision,
    key: Key,
    /// None when it was deleted.
    value: Option<Arc<[u8]>>,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Self {
        let state = Mutex::new(State::default());
        Self {
            shared: Arc::new(Shared {
                state,
                moved: watch::Sender::new(Revision(0)),
            }),
        }
    }

    pub(crate) fn announce<R: Record>(&self, record: R, ttl: Duration) -> Announcement<R> {
        let key = folder::<R>().key(record.id());
        Announcement::start(self.clone(), key, record, ttl)
    }

    pub(crate) fn watch<R: Record>(&self) -> Watch<R> {
        let folder = folder::<R>();
        let cursor = Cursor {
            memory: self.clone(),
            folder: folder.clone(),
            told: None,
            moved: self.shared.moved.subscribe(),
            current_at: Instant::now() + PROGRESS_INTERVAL,
        };
        Watch::new(folder, Source::Memory(cursor))
    }

    /// Does something with a state in which no lease is overdue, and wakes up the watches if it moved.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let before = state.revision;
        state.end_leases(Instant::now());
        let res = act(&mut state);
        if state.revision != before {
            self.shared.moved.send_replace(state.revision);
        }
        res
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A state is changed in steps that do not panic, so a poisoned one is whole.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

fn folder<R: Record>() -> Folder {
    // A process has one cluster in memory, or several that do not share a Memory: no prefix tells them apart.
    Folder::of::<R>(&Prefix::new("/"))
}

// === impl State ===

impl State {
    fn put(&mut self, key: &Key, value: Arc<[u8]>, lease: Option<LeaseId>) -> Revision {
        let at = self.record(key.clone(), Some(Arc::clone(&value)));
        self.value_by_key
            .insert(key.clone(), Held { value, at, lease });
        at
    }

    fn delete(&mut self, key: &Key) {
        if self.value_by_key.remove(key).is_some() {
            self.record(key.clone(), None);
        }
    }

    fn record(&mut self, key: Key, value: Option<Arc<[u8]>>) -> Revision {
        self.revision.0 += 1;
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(Past {
            revision: self.revision,
            key,
            value,
        });
        debug_assert_eq!(
            self.changes.back().map(|it| it.revision),
            Some(self.revision)
        );
        self.revision
    }

    fn grant(&mut self, ttl: Duration, now: Instant) -> LeaseId {
        self.last_lease += 1;
        let lease = LeaseId(self.last_lease);
        self.end_by_lease.insert(lease, End { at: now + ttl, ttl });
        lease
    }

    fn renew(&mut self, lease: LeaseId, now: Instant) -> Renewal {
        match self.end_by_lease.get_mut(&lease) {
            Some(end) => {
                end.at = now + end.ttl;
                Renewal::Alive
            }
            None => Renewal::Gone,
        }
    }

    fn revoke(&mut self, lease: LeaseId) {
        self.end_by_lease.remove(&lease);
        let keys: Vec<Key> = self
            .value_by_key
            .iter()
            .filter(|(_, held)| held.lease == Some(lease))
            .map(|(key, _)| key.clone())
            .collect();
        keys.iter().for_each(|key| self.delete(key));
    }

    fn end_leases(&mut self, now: Instant) {
        let due = self
            .end_by_lease
            .iter()
            .filter(|(_, end)| end.at <= now)
            .map(|(lease, _)| *lease);
        for lease in due.collect::<Vec<_>>() {
            self.revoke(lease);
        }
    }

    fn next_end(&self) -> Option<Instant> {
        self.end_by_lease.values().map(|end| end.at).min()
    }

    fn seen(&self, key: &Key) -> Seen {
        match self.value_by_key.get(key) {
            Some(held) => Seen::Value {
                at: held.at,
                incarnation: Incarnation::of(&held.value),
            },
            None => Seen::Nothing,
        }
    }

    fn hold(&mut self, lease: LeaseId, key: &Key, value: Option<&[u8]>) -> Holding {
        match self.value_by_key.get(key) {
            Some(held) if held.lease == Some(lease) => match value {
                Some(value) => Holding::Mine(self.put(key, value.into(), Some(lease))),
                None => Holding::Mine(held.at),
            },
            _ => Holding::Other(self.seen(key)),
        }
    }

    fn take(&mut self, lease: LeaseId, key: &Key, value: &[u8], seen: &Seen) -> Taking {
        let at = self.value_by_key.get(key).map(|held| held.at);
        if at != seen.at() {
            return Taking::Raced;
        }
        if !self.end_by_lease.contains_key(&lease) {
            return Taking::LeaseGone;
        }
        Taking::Mine(self.put(key, value.into(), Some(lease)))
    }

    fn list(&self, folder: &Folder) -> Change {
        let entries = self
            .value_by_key
            .iter()
            .filter(|(key, _)| folder.id(key.as_str()).is_some())
            .map(|(key, held)| entry(key, &held.value));
        Change::Listed {
            revision: self.revision,
            entries: entries.collect(),
        }
    }

    /// The first change in a folder behind a revision: the change, the whole list if it is forgotten, or nothing.
    fn next_change(&self, folder: &Folder, told: Revision) -> Option<Change> {
        let oldest = self.changes.front()?.revision;
        if told.0 + 1 < oldest.0 {
            return Some(self.list(folder));
        }
        let n_told = usize::try_from(told.0 + 1 - oldest.0).unwrap_or(usize::MAX);
        let past = self
            .changes
            .iter()
            .skip(n_told)
            .find(|it| folder.id(it.key.as_str()).is_some())?;
        Some(past.change())
    }
}

impl Past {
    fn change(&self) -> Change {
        match &self.value {
            Some(value) => Change::Put {
                revision: self.revision,
                entry: entry(&self.key, value),
            },
            None => Change::Deleted {
                revision: self.revision,
                key: self.key.as_str().to_owned(),
            },
        }
    }
}

fn entry(key: &Key, value: &[u8]) -> Entry {
    Entry {
        key: key.as_str().to_owned(),
        value: cut(value.to_vec()),
    }
}

// === impl Ledger ===

impl Ledger for Memory {
    type Error = Infallible;

    async fn grant(&mut self, ttl: Duration) -> Result<LeaseId, Infallible> {
        Ok(self.with(|state| state.grant(ttl, Instant::now())))
    }

    async fn renew(&mut self, lease: LeaseId) -> Result<Renewal, Infallible> {
        Ok(self.with(|state| state.renew(lease, Instant::now())))
    }

    async fn hold(
        &mut self,
        lease: LeaseId,
        key: &Key,
        value: Option<&[u8]>,
    ) -> Result<Holding, Infallible> {
        Ok(self.with(|state| state.hold(lease, key, value)))
    }

    async fn take(
        &mut self,
        lease: LeaseId,
        key: &Key,
        value: &[u8],
        seen: &Seen,
    ) -> Result<Taking, Infallible> {
        Ok(self.with(|state| state.take(lease, key, value, seen)))
    }

    async fn revoke(&mut self, lease: LeaseId) -> Result<(), Infallible> {
        self.with(|state| state.revoke(lease));
        Ok(())
    }
}

/// How far one watch has read.
pub(crate) struct Cursor {
    memory: Memory,
    folder: Folder,
    /// The revision up to which everything was told; None before the first listing.
    told: Option<Revision>,
    moved: watch::Receiver<Revision>,
    current_at: Instant,
}

// === impl Cursor ===

impl Cursor {
    pub(crate) async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.read() {
                self.current_at = Instant::now() + PROGRESS_INTERVAL;
                return change;
            }
            let next_end = self.memory.lock().next_end();
            let wake_at = next_end.map_or(self.current_at, |end| end.min(self.current_at));
            tokio::select! {
                Ok(()) = self.moved.changed() => {}
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    fn read(&mut self) -> Option<Change> {
        self.moved.mark_unchanged();
        let (change, revision) = self.memory.with(|state| {
            let change = match self.told {
                None => Some(state.list(&self.folder)),
                Some(told) => state.next_change(&self.folder, told),
            };
            (change, state.revision)
        });
        let change = change.or_else(|| {
            (self.current_at <= Instant::now()).then_some(Change::Current { revision })
        });
        self.told = Some(
            change
                .as_ref()
                .and_then(Change::revision)
                .unwrap_or(revision),
        );
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Registry, contract::Subject};

    crate::contract!(tokio::test(start_paused = true), async {
        Some(Memory::new())
    });

    impl Subject for Memory {
        fn registry(&self) -> Registry {
            Registry::Memory(self.clone())
        }

        async fn put(&self, key: &str, value: &str) {
            self.with(|state| state.put(&absolute(key), value.as_bytes().into(), None));
        }

        async fn delete(&self, key: &str) {
            self.with(|state| state.delete(&absolute(key)));
        }

        async fn lease_of(&self, key: &str) -> Option<i64> {
            self.with(|state| state.value_by_key.get(&absolute(key))?.lease.map(|it| it.0))
        }

        async fn end_lease(&self, lease: i64) {
            self.with(|state| state.revoke(LeaseId(lease)));
        }

        fn slack(&self) -> Duration {
            Duration::from_millis(10)
        }
    }

    fn absolute(key: &str) -> Key {
        Key::from(format!("/{key}").as_str())
    }
}
