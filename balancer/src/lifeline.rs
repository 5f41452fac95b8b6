//! What ends a connection or a stream from outside: a deadline it set itself, an order to leave, or the end of its time.
//!
//! Timers per request would cost more than the rest of the walk's bookkeeping; a sweep over these small records, a few times a
//! second on each core, costs nothing that a client could notice. The sweep only wakes: the task knows what it was waiting for, and
//! closes its own socket.

mod shed;

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Waker},
    time::{Duration, Instant},
};

use slab::Slab;

/// How often a core looks at its connections; a timeout is late by at most this.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// The time a client has to finish a request's head once its connection is about to end: one that is on its way gets through, one that
/// dawdles does not hold up the leaving.
pub(crate) const HEAD_WHILE_DRAINING: Duration = Duration::from_secs(1);

/// How long an idle HTTP/1 connection stays open after it is known that it will be closed. HTTP/1 can say so only in an answer: closing
/// at once would cross with a request that is on its way.
pub(crate) const QUIET_WHILE_DRAINING: Duration = Duration::from_secs(1);

const NEVER: u64 = u64::MAX;

/// What a connection has been told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Live,
    /// Finish what is under way, take nothing new.
    Drain,
    /// Stop at once: the drain deadline has come.
    Cut,
}

/// One core's clock as of its last sweep, in milliseconds: good enough for timeouts of seconds, and free to read.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicU64);

#[derive(Debug)]
pub(crate) struct Lifeline {
    clock: Arc<Clock>,
    deadline_ms: AtomicU64,
    order: AtomicU8,
    is_idle: AtomicBool,
    /// Of the one task that drives the connection; it stays the same for as long as the connection lives.
    waker: OnceLock<Waker>,
}

impl Clock {
    pub(crate) fn now_ms(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// The moment that lies `time` ahead: never too early, though the clock may stand still for a sweep's time.
    pub(crate) fn after(&self, time: Duration) -> u64 {
        let time = time.saturating_add(SWEEP_INTERVAL).as_millis();
        self.now_ms()
            .saturating_add(u64::try_from(time).unwrap_or(NEVER))
    }
}

impl Lifeline {
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Wakes the task at this moment at the latest; the moment replaces the one before.
    pub(crate) fn until(&self, deadline_ms: Option<u64>) {
        self.is_idle.store(false, Relaxed);
        self.deadline_ms
            .store(deadline_ms.unwrap_or(NEVER), Relaxed);
    }

    /// Wakes the task when this much time has passed.
    pub(crate) fn within(&self, time: Duration) {
        self.until(Some(self.clock.after(time)));
    }

    /// As [`Self::within`], for a connection that only waits for its client to ask: it is the first to go when memory is short.
    pub(crate) fn idle_within(&self, time: Duration) {
        self.idle_until(Some(self.clock.after(time)));
    }

    /// The same, until a moment.
    pub(crate) fn idle_until(&self, deadline_ms: Option<u64>) {
        self.until(deadline_ms);
        self.is_idle.store(true, Relaxed);
    }

    /// Whether the moment has come for which the task asked.
    pub(crate) fn is_due(&self) -> bool {
        self.clock.now_ms() >= self.deadline_ms.load(Relaxed)
    }

    pub(crate) fn order(&self) -> Order {
        match self.order.load(Relaxed) {
            0 => Order::Live,
            1 => Order::Drain,
            _ => Order::Cut,
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.order() == Order::Cut
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.order() != Order::Live
    }

    /// Orders only ever become stricter.
    pub(crate) fn give(&self, order: Order) {
        self.order.fetch_max(order as u8, Relaxed);
        self.wake();
    }

    /// Has the connection's task look around.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.waker.get_or_init(|| cx.waker().clone());
    }
}

/// All connections of one core.
#[derive(Debug)]
pub(crate) struct Lifelines {
    epoch: Instant,
    clock: Arc<Clock>,
    held: Mutex<Slab<Arc<Lifeline>>>,
}

impl Lifelines {
    pub(crate) fn new(epoch: Instant) -> Arc<Self> {
        Arc::new(Self {
            epoch,
            clock: Arc::default(),
            held: Mutex::default(),
        })
    }

    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        let lifeline = Arc::new(Lifeline {
            clock: self.clock.clone(),
            deadline_ms: AtomicU64::new(NEVER),
            order: AtomicU8::new(Order::Live as u8),
            is_idle: AtomicBool::new(false),
            waker: OnceLock::new(),
        });
        let place = self.lock().insert(lifeline.clone());
        Held {
            lifeline,
            place,
            among: self.clone(),
        }
    }

    pub(crate) fn sweep(&self, now: Instant) {
        let age = now.saturating_duration_since(self.epoch).as_millis() as u64;
        self.clock.0.store(age, Relaxed);
        for (_, lifeline) in self.lock().iter() {
            if lifeline.is_due() {
                lifeline.wake();
            }
        }
    }

    pub(crate) fn tell_all(&self, order: Order) {
        for (_, lifeline) in self.lock().iter() {
            lifeline.give(order);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slab<Arc<Lifeline>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those of its core; dropping it ends the watch over it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) lifeline: Arc<Lifeline>,
    place: usize,
    among: Arc<Lifelines>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.among.lock().remove(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering::SeqCst},
        task::Wake,
    };

    use super::*;

    #[test]
    fn a_task_is_woken_when_its_time_has_come_and_not_before() {
        let mut core = Core::new();
        let (held, wakes) = core.hold();
        held.lifeline.within(Duration::from_secs(10));
        core.pass(Duration::from_secs(10));
        assert_eq!(
            wakes.count(),
            0,
            "the clock may have stood still for a sweep"
        );
        core.pass(SWEEP_INTERVAL);
        assert!(held.lifeline.is_due());
        assert_eq!(wakes.count(), 1);
        held.lifeline.until(None);
        core.pass(Duration::from_secs(1000));
        assert!(!held.lifeline.is_due());
        assert_eq!(wakes.count(), 1);
    }

    #[test]
    fn orders_become_stricter_only() {
        let mut core = Core::new();
        let (held, wakes) = core.hold();
        core.all.tell_all(Order::Cut);
        core.all.tell_all(Order::Drain);
        assert_eq!(held.lifeline.order(), Order::Cut);
        assert_eq!(wakes.count(), 2);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut core = Core::new();
        let (held, wakes) = core.hold();
        held.lifeline.within(Duration::ZERO);
        drop(held);
        core.pass(Duration::from_secs(1));
        assert_eq!(wakes.count(), 0);
        assert!(core.all.lock().is_empty());
    }

    struct Core {
        all: Arc<Lifelines>,
        now: Instant,
    }

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Wakes {
        fn count(&self) -> u32 {
            self.0.load(SeqCst)
        }
    }

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    impl Core {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                all: Lifelines::new(now),
                now,
            }
        }

        fn hold(&mut self) -> (Held, Arc<Wakes>) {
            let held = self.all.hold();
            let wakes = Arc::new(Wakes::default());
            held.lifeline
                .register(&Context::from_waker(&Waker::from(wakes.clone())));
            (held, wakes)
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            self.all.sweep(self.now);
        }
    }
}
