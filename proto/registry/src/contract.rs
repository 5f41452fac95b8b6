//! What every registry promises, as tests that each driver passes.
//!
//! A driver's tests say how a fresh registry is opened and how things happen behind its back ([`Subject`]), and
//! [`contract!`](crate::contract) makes one test of each promise.

use std::{collections::BTreeMap, fmt::Debug, future::Future, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::{Announcement, Event, NodeRecord, NodeState, Record, Registry, Revision, Watch};

/// Patience for anything that should happen; far more than it takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Shortest lease that etcd grants.
const TTL: Duration = Duration::from_secs(2);
/// A lease that does not run out during a test.
const LONG_TTL: Duration = Duration::from_secs(60);

/// A registry under test, with nothing in it. Keys are given without the prefix, as `nodes/a`.
pub trait Subject: Send + Sync {
    fn registry(&self) -> Registry;

    /// A foreign writer puts a value down, under no lease.
    fn put(&self, key: &str, value: &str) -> impl Future<Output = ()> + Send;

    /// Somebody deletes a key by hand.
    fn delete(&self, key: &str) -> impl Future<Output = ()> + Send;

    /// The lease that a key hangs on.
    fn lease_of(&self, key: &str) -> impl Future<Output = Option<i64>> + Send;

    /// A lease ends behind the back of whoever renews it.
    fn end_lease(&self, lease: i64) -> impl Future<Output = ()> + Send;

    /// How much later than its lease says a record may go.
    fn slack(&self) -> Duration;
}

/// One test per promise: `contract!(tokio::test, open())`, where `open()` is a future of a fresh subject, or of None
/// where this machine cannot run one.
#[macro_export]
macro_rules! contract {
    ($test:meta, $open:expr) => {
        $crate::contract!(
            $test,
            $open,
            a_listing_and_the_changes_after_it_leave_no_gap
            changes_of_a_key_come_in_their_order
            a_stored_record_is_seen_at_its_revision
            a_set_keeps_the_lease
            of_many_sets_the_last_one_counts
            a_lost_lease_is_announced_again
            a_deleted_record_is_put_back
            a_vanished_announcer_is_gone_when_its_lease_is
            a_living_announcer_outlives_its_lease
            a_withdrawn_record_is_gone_at_once
            a_newer_incarnation_wins
            an_older_incarnation_does_not_get_in
            of_two_equal_incarnations_the_later_wins
            a_flood_arrives_whole
            what_is_no_record_does_not_stop_a_watch
            an_idle_watch_hears_that_it_is_current
            a_dropped_wait_loses_nothing
            folders_do_not_mix
        );
    };
    ($test:meta, $open:expr, $($promise:ident)*) => {
        $(
            #[$test]
            async fn $promise() {
                if let Some(subject) = $open.await {
                    $crate::contract::$promise(subject).await;
                }
            }
        )*
    };
}

pub async fn a_listing_and_the_changes_after_it_leave_no_gap(subject: impl Subject) {
    const N_WRITES: usize = 300;
    let registry = subject.registry();
    let writing = async {
        for n in 0..N_WRITES {
            subject
                .put(&format!("nodes/n{n}"), &json(&node(&format!("n{n}"), 1)))
                .await;
        }
    };
    let watching = async {
        for _ in 0..10 {
            let mut view = Nodes::of(&registry);
            view.until("all that was written", |it| it.records.len() == N_WRITES)
                .await;
        }
    };
    tokio::join!(writing, watching);
}

pub async fn changes_of_a_key_come_in_their_order(subject: impl Subject) {
    let mut view = Nodes::of(&subject.registry());
    view.until("the empty list", |it| it.is_listed).await;
    for n in 1..=100 {
        subject.put("nodes/a", &json(&node("a", n))).await;
    }
    let mut told = Vec::new();
    while told.last() != Some(&100) {
        if let Event::Put { record, .. } = view.step().await {
            told.push(record.incarnation);
        }
    }
    assert_eq!(
        told,
        (1..=100).collect::<Vec<u64>>(),
        "a watch that is read tells every change once"
    );
}

pub async fn a_stored_record_is_seen_at_its_revision(subject: impl Subject) {
    let registry = subject.registry();
    let mut view = Nodes::of(&registry);
    let mut announced = registry.announce(node("a", 1), LONG_TTL);
    let revision = stored(&mut announced).await;
    view.until("the record", |it| it.records.contains_key("a"))
        .await;
    assert_eq!(view.revision, revision);

    announced.set(leaving("a", 1));
    let later = stored(&mut announced).await;
    assert!(later > revision);
    view.until("its change", |it| it.revision >= later).await;
    assert_eq!(
        view.records["a"],
        leaving("a", 1),
        "whoever has applied the revision has applied the record"
    );
}

pub async fn a_set_keeps_the_lease(subject: impl Subject) {
    let mut announced = subject.registry().announce(node("a", 1), LONG_TTL);
    stored(&mut announced).await;
    let before = subject.lease_of("nodes/a").await;
    assert!(before.is_some(), "an announced record hangs on a lease");
    announced.set(leaving("a", 1));
    stored(&mut announced).await;
    assert_eq!(subject.lease_of("nodes/a").await, before);
}

pub async fn of_many_sets_the_last_one_counts(subject: impl Subject) {
    let registry = subject.registry();
    let mut announced = registry.announce(node("a", 1), LONG_TTL);
    for weight in 0..1000 {
        announced.set(NodeRecord {
            weight,
            ..node("a", 1)
        });
    }
    let revision = stored(&mut announced).await;
    let mut view = Nodes::of(&registry);
    view.until("the record", |it| it.revision >= revision).await;
    assert_eq!(view.records["a"].weight, 999);
}

pub async fn a_lost_lease_is_announced_again(subject: impl Subject) {
    let registry = subject.registry();
    let mut view = Nodes::of(&registry);
    let mut announced = registry.announce(node("a", 1), TTL);
    stored(&mut announced).await;
    view.until("the record", |it| it.records.contains_key("a"))
        .await;
    let lease = subject
        .lease_of("nodes/a")
        .await
        .expect("an announced record hangs on a lease");
    subject.end_lease(lease).await;
    view.until("its end", |it| it.records.is_empty()).await;
    view.until("its return", |it| {
        it.records.get("a") == Some(&node("a", 1))
    })
    .await;
    assert_ne!(subject.lease_of("nodes/a").await, Some(lease));
    assert!(stored(&mut announced).await <= view.revision);
}

pub async fn a_deleted_record_is_put_back(subject: impl Subject) {
    let registry = subject.registry();
    let mut view = Nodes::of(&registry);
    let mut announced = registry.announce(node("a", 1), TTL);
    stored(&mut announced).await;
    view.until("the record", |it| it.records.contains_key("a"))
        .await;
    subject.delete("nodes/a").await;
    view.until("its deletion", |it| it.records.is_empty()).await;
    view.until("its return", |it| it.records.contains_key("a"))
        .await;
}

pub async fn a_vanished_announcer_is_gone_when_its_lease_is(subject: impl Subject) {
    let registry = subject.registry();
    let mut view = Nodes::of(&registry);
    let mut announced = registry.announce(node("a", 1), TTL);
    stored(&mut announced).await;
    view.until("the record", |it| it.records.contains_key("a"))
        .await;
    drop(announced);
    assert!(
        Nodes::of(&registry).list().await.contains_key("a"),
        "vanishing deletes nothing"
    );
    let gone = view.until("its end", |it| it.records.is_empty());
    assert!(
        timeout(TTL + subject.slack(), gone).await.is_ok(),
        "a lease must not outlive its time"
    );
}

pub async fn a_living_announcer_outlives_its_lease(subject: impl Subject) {
    let registry = subject.registry();
    let mut view = Nodes::of(&registry);
    let mut announced = registry.announce(node("a", 1), TTL);
    stored(&mut announced).await;
    view.until("the record", |it| it.records.contains_key("a"))
        .await;
    let end = view.until("an end that must not come", |it| it.records.is_empty());
    assert!(
        timeout(TTL * 2 + subject.slack(), end).await.is_err(),
        "a renewed lease does not end"
    );
}

pub async fn a_withdrawn_record_is_gone_at_once(subject: impl Subject) {
    let registry = subject.registry();
    let mut view = Nodes::of(&registry);
    let mut announced = registry.announce(node("a", 1), LONG_TTL);
    stored(&mut announced).await;
    view.until("the record", |it| it.records.contains_key("a"))
        .await;
    assert!(announced.withdraw(DEADLINE).await);
    view.until("its end", |it| it.records.is_empty()).await;
    assert_eq!(subject.lease_of("nodes/a").await, None);
}

pub async fn a_newer_incarnation_wins(subject: impl Subject) {
    let registry = subject.registry();
    let mut view = Nodes::of(&registry);
    let mut older = registry.announce(node("a", 1), TTL);
    stored(&mut older).await;
    let mut newer = registry.announce(node("a", 2), LONG_TTL);
    stored(&mut newer).await;
    within("the older one hears of it", older.superseded()).await;
    view.until("the newer one", |it| {
        it.records.get("a").is_some_and(|it| it.incarnation == 2)
    })
    .await;
    assert!(
        older.withdraw(DEADLINE).await,
        "there is nothing to withdraw"
    );
    assert!(
        Nodes::of(&registry).list().await.contains_key("a"),
        "the newer one's record is not the older's"
    );
    assert!(newer.withdraw(DEADLINE).await);
    view.until("the end", |it| it.records.is_empty()).await;
}

pub async fn an_older_incarnation_does_not_get_in(subject: impl Subject) {
    let registry = subject.registry();
    let mut newer = registry.announce(node("a", 2), TTL);
    let revision = stored(&mut newer).await;
    let mut older = registry.announce(node("a", 1), TTL);
    within("the older one hears of the newer", older.superseded()).await;
    assert_eq!(
        stored(&mut newer).await,
        revision,
        "the newer one was not disturbed"
    );
    assert_eq!(Nodes::of(&registry).list().await["a"].incarnation, 2);
}

pub async fn of_two_equal_incarnations_the_later_wins(subject: impl Subject) {
    let registry = subject.registry();
    let mut first = registry.announce(node("a", 1), TTL);
    stored(&mut first).await;
    let mut second = registry.announce(leaving("a", 1), TTL);
    let revision = stored(&mut second).await;
    within("the first one hears of it", first.superseded()).await;
    assert_eq!(stored(&mut second).await, revision, "they do not fight");
    assert_eq!(Nodes::of(&registry).list().await["a"], leaving("a", 1));
}

/// Nobody reads while it rains: whether the changes are queued or listed again, the view ends up whole.
pub async fn a_flood_arrives_whole(subject: impl Subject) {
    const N_CHANGES: u64 = 10_000;
    const N_KEYS: u64 = 1000;
    let registry = subject.registry();
    let mut view = Nodes::of(&registry);
    view.until("the empty list", |it| it.is_listed).await;
    for n in 0..N_CHANGES {
        let id = format!("n{}", n % N_KEYS);
        subject
            .put(&format!("nodes/{id}"), &json(&node(&id, n / N_KEYS)))
            .await;
    }
    let n_lives = N_CHANGES / N_KEYS;
    let is_whole = |it: &Nodes| {
        it.records.len() as u64 == N_KEYS
            && it.records.values().all(|it| it.incarnation == n_lives - 1)
    };
    view.until("the last state of every key", is_whole).await;
}

pub async fn what_is_no_record_does_not_stop_a_watch(subject: impl Subject) {
    let registry = subject.registry();
    subject.put("nodes/scribble", "this is no JSON").await;
    let mut view = Nodes::of(&registry);
    view.until("a flaw in the listing", |it| it.n_malformed == 1)
        .await;
    subject.put("nodes/other", &json(&node("a", 1))).await;
    view.until("a record under a foreign key", |it| it.n_malformed == 2)
        .await;
    subject
        .put(
            "nodes/long",
            &" ".repeat(crate::record::RECORD_BYTES_MAX + 1),
        )
        .await;
    view.until("a value that is too long", |it| it.n_malformed == 3)
        .await;
    subject.put("nodes/a", &json(&node("a", 1))).await;
    view.until("a record", |it| it.records.contains_key("a"))
        .await;
    subject.delete("nodes/scribble").await;
    subject.delete("nodes/a").await;
    view.until("its end", |it| it.records.is_empty()).await;
}

pub async fn an_idle_watch_hears_that_it_is_current(subject: impl Subject) {
    let registry = subject.registry();
    let mut announced = registry.announce(node("a", 1), LONG_TTL);
    stored(&mut announced).await;
    let mut view = Nodes::of(&registry);
    view.until("the record", |it| it.records.contains_key("a"))
        .await;
    for _ in 0..2 {
        let before = view.n_current;
        view.until("word that nothing is new", |it| it.n_current > before)
            .await;
    }
}

pub async fn a_dropped_wait_loses_nothing(subject: impl Subject) {
    let registry = subject.registry();
    let mut view = Nodes::of(&registry);
    let mut n_written = 0;
    while view.records.len() < 50 {
        if n_written < 50 {
            subject
                .put(
                    &format!("nodes/n{n_written}"),
                    &json(&node(&format!("n{n_written}"), 1)),
                )
                .await;
            n_written += 1;
        }
        // Either it is ready, or the wait is dropped half way.
        let _ = timeout(Duration::from_millis(1), view.step()).await;
    }
}

pub async fn folders_do_not_mix(subject: impl Subject) {
    let registry = subject.registry();
    subject.put("nodes2/a", &json(&node("a", 1))).await;
    let mut view = Nodes::of(&registry);
    let mut other = View::<Other>::of(&registry);
    let mut announced = registry.announce(Other { id: "a".into() }, LONG_TTL);
    stored(&mut announced).await;
    other
        .until("the other record", |it| it.records.contains_key("a"))
        .await;
    subject.put("nodes/b", &json(&node("b", 1))).await;
    view.until("a node", |it| it.records.contains_key("b"))
        .await;
    assert_eq!((view.records.len(), view.n_malformed), (1, 0));
}

/// A view of the nodes.
pub type Nodes = View<NodeRecord>;

/// What a watcher knows after the events so far; it checks that revisions do not go back.
pub struct View<R> {
    watch: Watch<R>,
    pub records: BTreeMap<String, R>,
    pub revision: Revision,
    pub is_listed: bool,
    pub n_listed: u64,
    pub n_current: u64,
    pub n_malformed: u64,
    /// The reason, while it is out of touch.
    pub lost: Option<String>,
    pub n_lost: u64,
}

impl<R: Record + Debug> View<R> {
    pub fn of(registry: &Registry) -> Self {
        Self {
            watch: registry.watch(),
            records: BTreeMap::new(),
            revision: Revision(0),
            is_listed: false,
            n_listed: 0,
            n_current: 0,
            n_malformed: 0,
            lost: None,
            n_lost: 0,
        }
    }

    /// Takes events in until the view is as expected.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let reached = timeout(DEADLINE, async {
            while !is_so(self) {
                self.step().await;
            }
        });
        let reached = reached.await.is_ok();
        let n_records = self.records.len();
        assert!(
            reached,
            "waited in vain for {what}: {n_records} records at {:?}, lost: {:?}",
            self.revision, self.lost
        );
    }

    /// Takes one event in and gives it back.
    pub async fn step(&mut self) -> Event<R> {
        let event = self.watch.next().await;
        self.apply(event.clone());
        event
    }

    /// The records there are, as a watch that begins tells them.
    pub async fn list(mut self) -> BTreeMap<String, R> {
        self.until("a listing", |it| it.is_listed).await;
        self.records
    }

    fn apply(&mut self, event: Event<R>) {
        match event {
            Event::Listed { revision, records } => self.replace(revision, records),
            Event::Put { revision, record } => {
                self.advance(revision);
                self.records.insert(record.id().to_owned(), record);
            }
            Event::Deleted { revision, id } => {
                self.advance(revision);
                self.records.remove(&id);
            }
            Event::Current { revision } => {
                self.advance(revision);
                self.n_current += 1;
            }
            Event::Malformed { .. } => self.n_malformed += 1,
            Event::Lost { reason } => self.lose(reason),
        }
    }

    fn replace(&mut self, revision: Revision, records: Vec<R>) {
        self.records = records
            .into_iter()
            .map(|it| (it.id().to_owned(), it))
            .collect();
        self.revision = revision;
        self.is_listed = true;
        self.n_listed += 1;
        self.lost = None;
    }

    fn advance(&mut self, revision: Revision) {
        assert!(self.is_listed, "a watch begins with a listing");
        assert!(self.lost.is_none(), "an outage ends with a listing");
        assert!(
            revision >= self.revision,
            "only a listing goes back: {revision:?} after {:?}",
            self.revision
        );
        self.revision = revision;
    }

    fn lose(&mut self, reason: String) {
        assert!(
            self.lost.is_none(),
            "an outage is told once, and then again: {reason}"
        );
        self.lost = Some(reason);
        self.n_lost += 1;
    }
}

/// Waits until the latest record is stored, with patience.
pub async fn stored<R: Record>(announced: &mut Announcement<R>) -> Revision {
    within("a record is stored", announced.stored()).await
}

/// Waits for something, with patience.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, future).await {
        Ok(res) => res,
        Err(_) => panic!("waited in vain until {what}"),
    }
}

/// A node that takes work.
pub fn node(id: &str, incarnation: u64) -> NodeRecord {
    NodeRecord {
        id: id.to_owned(),
        incarnation,
        zone: None,
        version: "1".to_owned(),
        weight: 1,
        state: NodeState::Ready,
        leave_by: None,
        services: BTreeMap::from([("web".to_owned(), "127.0.0.1:1".to_owned())]),
        started_at: 0,
    }
}

fn leaving(id: &str, incarnation: u64) -> NodeRecord {
    NodeRecord {
        state: NodeState::Leaving,
        leave_by: Some(1),
        ..node(id, incarnation)
    }
}

fn json(record: &NodeRecord) -> String {
    serde_json::to_string(record).expect("a record is plain data with text for keys")
}

/// A record whose folder begins like that of the nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Other {
    id: String,
}

impl Record for Other {
    const FOLDER: &'static str = "nodes3";

    fn id(&self) -> &str {
        &self.id
    }
}
