//! Keeps the node's record in the registry, and leads the node out when it is asked to leave.
//!
//! It decides nothing: it tells `node_core::leaving` what happens and does what that commands.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use node_core::leaving::{BalancerId, Command, Leaving, Revision, Unconfirmed};
use registry::{Announcement, BalancerRecord, Event, NodeRecord, NodeState, Watch};
use tokio::sync::watch;

use crate::observe::Metrics;

/// How long the registry has to confirm that the record is gone. The node has ended its work by then; a record that
/// stays ends with its lease.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(2);

/// How far a node is in its life. Later is larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serving, not announced yet.
    Starting,
    Ready,
    /// Announced as leaving and serving as before.
    Leaving,
    /// Every answer asks the client to go.
    Draining,
    /// No more is accepted, and what carries nothing is closed.
    Closing,
    /// What is under way is ended.
    Cutting,
    Gone,
}

/// How a node left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Every live balancer had stopped sending new work before the node stopped taking it.
    pub is_confirmed: bool,
    /// The deadline ended something that was under way.
    pub is_cut: bool,
}

/// What the driver of one node's life is made of.
pub(crate) struct Register {
    pub(crate) announcement: Announcement<NodeRecord>,
    pub(crate) balancers: Watch<BalancerRecord>,
    pub(crate) record: NodeRecord,
    pub(crate) leave_deadline: Duration,
    /// Becomes true when the node is to leave.
    pub(crate) order: watch::Receiver<bool>,
    pub(crate) connections: watch::Receiver<usize>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Register {
    /// Runs until the node has left.
    pub(crate) async fn run(self) -> Left {
        let mut driver = Driver {
            register: self,
            leaving: Leaving::default(),
            awaits_store: true,
            left: Left {
                is_confirmed: false,
                is_cut: false,
            },
        };
        while driver.obey() {
            let news = driver.next().await;
            driver.heed(news);
        }
        driver.withdraw().await
    }
}

/// All that can happen to a node's life.
enum News {
    OfBalancers(Event<BalancerRecord>),
    /// Where the latest record stands in the registry.
    Stored(Revision),
    ToLeave,
    OfConnections(usize),
    /// What was to be done at a certain time is due.
    Time,
}

struct Driver {
    register: Register,
    leaving: Leaving,
    /// The registry has not yet said where the latest record stands.
    awaits_store: bool,
    left: Left,
}

impl Driver {
    /// Does what is commanded. False when nothing is left to do but to withdraw the record.
    fn obey(&mut self) -> bool {
        while let Some(command) = self.leaving.next_command() {
            tracing::debug!(?command, "leaving");
            match command {
                Command::Announce { leave_by } => self.announce(leave_by),
                Command::Drain { unconfirmed } => self.drain(unconfirmed),
                Command::Close => self.enter(Phase::Closing),
                Command::Cut => self.cut(),
                Command::Exit => return false,
            }
        }
        true
    }

    async fn next(&mut self) -> News {
        let it = &mut self.register;
        tokio::select! {
            event = it.balancers.next() => News::OfBalancers(event),
            revision = it.announcement.stored(), if self.awaits_store => News::Stored(Revision(revision.0)),
            Ok(_) = it.order.wait_for(|is_given| *is_given), if self.leaving.is_ready() => News::ToLeave,
            Ok(()) = it.connections.changed() => News::OfConnections(*it.connections.borrow_and_update()),
            () = until(self.leaving.poll_timeout()) => News::Time,
        }
    }

    fn heed(&mut self, news: News) {
        let now = now();
        match news {
            News::OfBalancers(event) => self.heed_balancers(event, now),
            News::Stored(revision) => self.stored(revision, now),
            News::ToLeave => self.leaving.leave(now, self.register.leave_deadline),
            News::OfConnections(count) => self.leaving.connections_counted(now, count),
            News::Time => self.leaving.handle_timeout(now),
        }
    }

    /// The view of a registry that is lost stays as it is: balancers that had confirmed have confirmed.
    fn heed_balancers(&mut self, event: Event<BalancerRecord>, now: Instant) {
        self.register
            .metrics
            .registry_connected
            .set(if matches!(event, Event::Lost { .. }) {
                0.0
            } else {
                1.0
            });
        match event {
            Event::Listed { records, .. } => {
                // A list comes after the registry was away, and it may have come back without our record.
                self.awaits_store = true;
                self.leaving
                    .balancers_listed(now, records.into_iter().map(applied));
            }
            Event::Put { record, .. } => {
                let (id, revision) = applied(record);
                self.leaving.balancer_applied(now, id, revision);
            }
            Event::Deleted { id, .. } => self.leaving.balancer_gone(now, &BalancerId(id)),
            Event::Lost { reason } => tracing::warn!(%reason, "the registry is lost"),
            malformed @ Event::Malformed { .. } => {
                tracing::warn!(?malformed, "a balancer's record cannot be read");
            }
            Event::Current { .. } => {}
        }
    }

    fn stored(&mut self, revision: Revision, now: Instant) {
        self.awaits_store = false;
        if *self.register.phase.borrow() == Phase::Starting {
            self.enter(Phase::Ready);
        }
        self.leaving.record_stored(now, revision);
    }

    fn announce(&mut self, leave_by: Instant) {
        let it = &mut self.register;
        let leave_by = SystemTime::now() + leave_by.saturating_duration_since(now());
        it.record.state = NodeState::Leaving;
        it.record.leave_by = Some(unix_ms(leave_by));
        it.announcement.set(it.record.clone());
        it.metrics.leaving.set(1.0);
        self.awaits_store = true;
        self.enter(Phase::Leaving);
    }

    fn drain(&mut self, unconfirmed: Unconfirmed) {
        self.left.is_confirmed = unconfirmed == Unconfirmed::Nobody;
        if !self.left.is_confirmed {
            tracing::warn!(?unconfirmed, "leaving without the word of every balancer");
        }
        self.enter(Phase::Draining);
    }

    fn cut(&mut self) {
        self.left.is_cut = true;
        tracing::warn!(
            connections = *self.register.connections.borrow(),
            "the deadline ends what is under way"
        );
        self.enter(Phase::Cutting);
    }

    fn enter(&self, phase: Phase) {
        self.register.phase.send_replace(phase);
    }

    async fn withdraw(self) -> Left {
        self.enter(Phase::Gone);
        if !self.register.announcement.withdraw(WITHDRAW_WITHIN).await {
            tracing::warn!(
                "the registry did not confirm that the record is gone, its lease will end it"
            );
        }
        self.left
    }
}

/// Resolves once the node is that far.
pub(crate) async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    // The sender goes only after it has said that the node is gone, or with the whole node.
    let _ = phase.wait_for(|phase| wanted <= *phase).await;
}

/// The time on tokio's clock, which a simulation may set.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Unix time in milliseconds, as records hold it.
pub(crate) fn unix_ms(at: SystemTime) -> u64 {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn applied(record: BalancerRecord) -> (BalancerId, Revision) {
    (BalancerId(record.id), Revision(record.applied_revision))
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
