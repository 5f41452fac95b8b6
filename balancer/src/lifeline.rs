//! What keeps a client connection alive, and what ends it from outside: one small shared record per connection.
//!
//! Timers per request would cost more than the rest of the walk's bookkeeping; a sweep over these records, a few times a
//! second on each core, costs nothing that a client could notice. The sweep only decides and wakes; the connection's own task
//! closes its socket.

mod shed;

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::{Duration, Instant},
};

use slab::Slab;

/// How often a core looks at its connections; a timeout is late by at most this.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// The time a client has to finish a request's head once its connection is about to end: one that is on its way gets through, one that
/// dawdles does not hold up the leaving.
pub(crate) const HEAD_WHILE_DRAINING: Duration = Duration::from_secs(1);

/// How long an idle HTTP/1 connection stays open after it is known that it will be closed.
const QUIET_WHILE_DRAINING: Duration = Duration::from_secs(1);

/// How long a connection may do what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From the first byte of a request's head to its last.
    pub(crate) head: Duration,
    /// Without a request, or for a tunnel without a byte.
    pub(crate) idle: Duration,
}

/// What a connection has been told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Live,
    /// Finish what is under way, take nothing new.
    Drain,
    /// Stop at once: it was idle or slow for too long, or the deadline has come.
    Cut,
}

#[derive(Debug)]
pub(crate) struct Lifeline {
    epoch: Instant,
    head: Duration,
    /// An idle HTTP/2 connection is told so before it is closed; HTTP/1 has no way to say it.
    says_goodbye: AtomicBool,
    idle_ms: AtomicU64,
    exchanges: AtomicU32,
    in_head: AtomicBool,
    is_tunnel: AtomicBool,
    since_ms: AtomicU64,
    order: AtomicU8,
    drain_since_ms: AtomicU64,
    /// Of the one task that drives the connection; it stays the same for as long as the connection lives.
    waker: OnceLock<Waker>,
    /// This core's clock, as of the last sweep: good enough for timeouts of seconds, and free to read.
    clock: Arc<AtomicU64>,
}

impl Lifeline {
    /// One request has begun.
    pub(crate) fn begin(&self) {
        self.in_head.store(false, Relaxed);
        self.exchanges.fetch_add(1, Relaxed);
    }

    /// One exchange has ended, at `now`.
    pub(crate) fn end(&self, now: Instant) {
        self.touch(now);
        self.exchanges.fetch_sub(1, Relaxed);
    }

    /// The connection showed life about now.
    pub(crate) fn stir(&self) {
        self.since_ms.store(self.clock.load(Relaxed), Relaxed);
    }

    /// The connection showed life, at `now`.
    pub(crate) fn touch(&self, now: Instant) {
        self.since_ms.store(self.ms(now), Relaxed);
    }

    /// Bytes came that may be the beginning of a request's head.
    pub(crate) fn hear(&self) {
        let may_begin = self.exchanges.load(Relaxed) == 0 && !self.says_goodbye.load(Relaxed);
        if may_begin && !self.in_head.swap(true, Relaxed) {
            self.stir();
        }
    }

    /// The connection speaks a protocol with a way to say that it is about to end.
    pub(crate) fn says_goodbye(&self) {
        self.says_goodbye.store(true, Relaxed);
        self.in_head.store(false, Relaxed);
    }

    /// From here on the connection is a tunnel, with a patience of its own.
    pub(crate) fn becomes_tunnel(&self, idle: Duration) {
        self.is_tunnel.store(true, Relaxed);
        self.in_head.store(false, Relaxed);
        self.idle_ms.store(idle.as_millis() as u64, Relaxed);
        self.touch(Instant::now());
    }

    /// Whether a connection that is to drain should begin to. HTTP/1 can say so only in an answer: closing an idle connection at once
    /// would cross with a request that is on its way, so an idle one is given a moment to ask once more.
    pub(crate) fn may_drain(&self) -> bool {
        let is_idle = self.exchanges.load(Relaxed) == 0 && !self.is_in_head();
        self.says_goodbye.load(Relaxed) || !is_idle || self.has_drained_for(QUIET_WHILE_DRAINING)
    }

    fn has_drained_for(&self, time: Duration) -> bool {
        let since = self.drain_since_ms.load(Relaxed);
        self.clock.load(Relaxed).saturating_sub(since) >= time.as_millis() as u64
    }

    pub(crate) fn is_in_head(&self) -> bool {
        self.in_head.load(Relaxed)
    }

    pub(crate) fn order(&self) -> Order {
        match self.order.load(Relaxed) {
            0 => Order::Live,
            1 => Order::Drain,
            _ => Order::Cut,
        }
    }

    /// Orders only ever become stricter.
    pub(crate) fn give(&self, order: Order) {
        if self.order.fetch_max(order as u8, Relaxed) == Order::Live as u8 {
            self.drain_since_ms.store(self.clock.load(Relaxed), Relaxed);
        }
        self.wake();
    }

    /// Has the connection's task look around.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.get_or_init(|| waker.clone());
    }

    fn sweep(&self, now: Instant) {
        if self.order() == Order::Drain && self.has_drained_for(QUIET_WHILE_DRAINING) {
            self.wake();
        }
        if self.exchanges.load(Relaxed) > 0 || self.order() == Order::Cut {
            return;
        }
        let quiet = Duration::from_millis(self.ms(now).saturating_sub(self.since_ms.load(Relaxed)));
        let head = if self.order() == Order::Drain {
            self.head.min(HEAD_WHILE_DRAINING)
        } else {
            self.head
        };
        if self.is_in_head() && quiet >= head {
            self.give(Order::Cut);
        } else if quiet >= Duration::from_millis(self.idle_ms.load(Relaxed)) {
            let polite = self.says_goodbye.load(Relaxed) && self.order() == Order::Live;
            self.give(if polite { Order::Drain } else { Order::Cut });
        }
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }
}

/// All connections of one core.
#[derive(Debug)]
pub(crate) struct Lifelines {
    epoch: Instant,
    clock: Arc<AtomicU64>,
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

    pub(crate) fn hold(self: &Arc<Self>, patience: Patience) -> Held {
        let lifeline = Arc::new(Lifeline {
            epoch: self.epoch,
            head: patience.head,
            says_goodbye: AtomicBool::new(false),
            idle_ms: AtomicU64::new(patience.idle.as_millis() as u64),
            exchanges: AtomicU32::new(0),
            in_head: AtomicBool::new(false),
            is_tunnel: AtomicBool::new(false),
            since_ms: AtomicU64::new(0),
            order: AtomicU8::new(Order::Live as u8),
            drain_since_ms: AtomicU64::new(0),
            waker: OnceLock::new(),
            clock: self.clock.clone(),
        });
        lifeline.touch(Instant::now());
        let place = self.lock().insert(lifeline.clone());
        Held {
            lifeline,
            place,
            among: self.clone(),
        }
    }

    pub(crate) fn sweep(&self, now: Instant) {
        let age = now.saturating_duration_since(self.epoch).as_millis() as u64;
        self.clock.store(age, Relaxed);
        for (_, lifeline) in self.lock().iter() {
            lifeline.sweep(now);
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
    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
    };

    #[test]
    fn a_slow_head_is_cut_and_a_quiet_connection_later() {
        let (lines, held, start) = one();
        lines.sweep(start + Duration::from_secs(59));
        assert_eq!(held.lifeline.order(), Order::Live);
        held.lifeline.hear();
        lines.sweep(start + Duration::from_secs(68));
        assert_eq!(held.lifeline.order(), Order::Live);
        lines.sweep(start + Duration::from_secs(70));
        assert_eq!(held.lifeline.order(), Order::Cut);
    }

    #[test]
    fn an_exchange_may_take_its_time() {
        let (lines, held, start) = one();
        held.lifeline.begin();
        lines.sweep(start + Duration::from_secs(3600));
        assert_eq!(held.lifeline.order(), Order::Live);
        held.lifeline.end(start + Duration::from_secs(3600));
        lines.sweep(start + Duration::from_secs(3659));
        assert_eq!(held.lifeline.order(), Order::Live);
        lines.sweep(start + Duration::from_secs(3661));
        assert_eq!(held.lifeline.order(), Order::Cut);
    }

    #[test]
    fn a_multiplexed_connection_is_told_before_it_is_cut() {
        let (lines, held, start) = one();
        held.lifeline.says_goodbye();
        lines.sweep(start + Duration::from_secs(61));
        assert_eq!(held.lifeline.order(), Order::Drain);
        lines.sweep(start + Duration::from_secs(62));
        assert_eq!(held.lifeline.order(), Order::Cut);
    }

    #[test]
    fn an_idle_connection_may_ask_once_more_before_it_is_closed() {
        let (lines, held, start) = one();
        lines.sweep(start + Duration::from_secs(5));
        lines.tell_all(Order::Drain);
        assert!(!held.lifeline.may_drain());
        lines.sweep(start + Duration::from_millis(5_900));
        assert!(!held.lifeline.may_drain());
        held.lifeline.begin();
        assert!(
            held.lifeline.may_drain(),
            "its answer can say that it is the last"
        );
        held.lifeline.end(start + Duration::from_millis(5_950));
        lines.sweep(start + Duration::from_millis(6_100));
        assert!(held.lifeline.may_drain());
    }

    #[test]
    fn half_a_head_does_not_hold_up_the_leaving() {
        let (lines, held, start) = one();
        held.lifeline.hear();
        lines.tell_all(Order::Drain);
        lines.sweep(start + Duration::from_millis(500));
        assert_eq!(held.lifeline.order(), Order::Drain);
        lines.sweep(start + Duration::from_millis(1_500));
        assert_eq!(held.lifeline.order(), Order::Cut);
    }

    #[test]
    fn who_has_left_is_not_watched() {
        let (lines, held, _) = one();
        drop(held);
        assert!(lines.lock().is_empty());
    }

    fn one() -> (Arc<Lifelines>, Held, Instant) {
        let start = Instant::now();
        let lines = Lifelines::new(start);
        let held = lines.hold(PATIENCE);
        (lines, held, start)
    }
}
