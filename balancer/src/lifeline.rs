//! What keeps a client connection alive, and what ends it from outside: one small shared record per connection.
//!
//! Timers per request would cost more than the rest of the walk's bookkeeping; a sweep over these records, a few times a
//! second on each core, costs nothing that a client could notice. The sweep only decides and wakes; the connection's own task
//! closes its socket.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::{Duration, Instant},
};

use atomic_waker::AtomicWaker;
use slab::Slab;

/// How often a core looks at its connections; a timeout is late by at most this.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// How long a connection may do what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// Without a request, or for a tunnel without a byte.
    pub idle: Duration,
}

/// What a connection has been told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Live,
    /// Finish what is under way, take nothing new.
    Drain,
    /// Stop at once: it was idle or slow for too long, or the deadline has come.
    Cut,
}

#[derive(Debug)]
pub struct Lifeline {
    epoch: Instant,
    patience: Patience,
    /// An idle HTTP/2 connection is told so before it is closed; HTTP/1 has no way to say it.
    says_goodbye: bool,
    exchanges: AtomicU32,
    in_head: AtomicBool,
    since_ms: AtomicU64,
    order: AtomicU8,
    waker: AtomicWaker,
}

impl Lifeline {
    /// One request has begun.
    pub fn begin(&self) {
        self.in_head.store(false, Relaxed);
        self.exchanges.fetch_add(1, Relaxed);
    }

    /// One exchange has ended, at `now`.
    pub fn end(&self, now: Instant) {
        self.touch(now);
        self.exchanges.fetch_sub(1, Relaxed);
    }

    /// The connection showed life, at `now`.
    pub fn touch(&self, now: Instant) {
        self.since_ms.store(self.ms(now), Relaxed);
    }

    /// Bytes came that may be the beginning of a request's head.
    pub fn hear(&self) {
        if self.exchanges.load(Relaxed) == 0 && !self.in_head.swap(true, Relaxed) {
            self.touch(Instant::now());
        }
    }

    pub fn is_in_head(&self) -> bool {
        self.in_head.load(Relaxed)
    }

    pub fn order(&self) -> Order {
        match self.order.load(Relaxed) {
            0 => Order::Live,
            1 => Order::Drain,
            _ => Order::Cut,
        }
    }

    /// Orders only ever become stricter.
    pub fn give(&self, order: Order) {
        self.order.fetch_max(order as u8, Relaxed);
        self.waker.wake();
    }

    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    fn sweep(&self, now: Instant) {
        if self.exchanges.load(Relaxed) > 0 || self.order() == Order::Cut {
            return;
        }
        let quiet = Duration::from_millis(self.ms(now).saturating_sub(self.since_ms.load(Relaxed)));
        if self.is_in_head() && quiet >= self.patience.head {
            self.give(Order::Cut);
        } else if quiet >= self.patience.idle {
            let polite = self.says_goodbye && self.order() == Order::Live;
            self.give(if polite { Order::Drain } else { Order::Cut });
        }
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }
}

/// All connections of one core.
#[derive(Debug)]
pub struct Lifelines {
    epoch: Instant,
    held: Mutex<Slab<Arc<Lifeline>>>,
}

impl Lifelines {
    pub fn new(epoch: Instant) -> Arc<Self> {
        Arc::new(Self {
            epoch,
            held: Mutex::default(),
        })
    }

    pub fn hold(self: &Arc<Self>, patience: Patience, says_goodbye: bool) -> Held {
        let lifeline = Arc::new(Lifeline {
            epoch: self.epoch,
            patience,
            says_goodbye,
            exchanges: AtomicU32::new(0),
            in_head: AtomicBool::new(false),
            since_ms: AtomicU64::new(0),
            order: AtomicU8::new(Order::Live as u8),
            waker: AtomicWaker::new(),
        });
        lifeline.touch(Instant::now());
        let place = self.lock().insert(lifeline.clone());
        Held {
            lifeline,
            place,
            among: self.clone(),
        }
    }

    pub fn sweep(&self, now: Instant) {
        for (_, lifeline) in self.lock().iter() {
            lifeline.sweep(now);
        }
    }

    pub fn tell_all(&self, order: Order) {
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
pub struct Held {
    pub lifeline: Arc<Lifeline>,
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
        let (lines, held, start) = one(false);
        lines.sweep(start + Duration::from_secs(59));
        assert_eq!(held.lifeline.order(), Order::Live);
        held.lifeline.hear();
        lines.sweep(start + Duration::from_secs(9));
        assert_eq!(held.lifeline.order(), Order::Live);
        lines.sweep(start + Duration::from_secs(11));
        assert_eq!(held.lifeline.order(), Order::Cut);
    }

    #[test]
    fn an_exchange_may_take_its_time() {
        let (lines, held, start) = one(false);
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
        let (lines, held, start) = one(true);
        lines.sweep(start + Duration::from_secs(61));
        assert_eq!(held.lifeline.order(), Order::Drain);
        lines.sweep(start + Duration::from_secs(62));
        assert_eq!(held.lifeline.order(), Order::Cut);
    }

    #[test]
    fn who_has_left_is_not_watched() {
        let (lines, held, _) = one(false);
        drop(held);
        assert!(lines.lock().is_empty());
    }

    fn one(says_goodbye: bool) -> (Arc<Lifelines>, Held, Instant) {
        let start = Instant::now();
        let lines = Lifelines::new(start);
        let held = lines.hold(PATIENCE, says_goodbye);
        (lines, held, start)
    }
}
