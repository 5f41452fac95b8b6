//! The gate in front of a service's endpoints while all of them are busy: who waits, and who goes when a place is free.
//!
//! All cores share it, because they share the places: one that becomes free on one core may serve whoever waits on another. While
//! nobody waits it costs one load of an atomic. A free place calls exactly one waiter; an endpoint that arrives calls one, who calls
//! the next once it has found a place, until somebody does not.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU8, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
    time::{Duration, Instant},
};

use balancer_core::{
    limit::adaptive::{Adaptive, Rules},
    load::Nanos,
    queue::{Class, Pushed, Queue, Ticket},
};
use fastrand::Rng;
use tokio::sync::Notify;

use crate::{config, observe::admission::GateMetrics};

pub(crate) struct Gate {
    /// Whether there is anything to wait for: a cap on endpoints, or an adaptive limit.
    is_limited: bool,
    adaptive: Option<Adaptive>,
    /// Everybody with a [`Place`], whether in the queue or called.
    waiting: AtomicUsize,
    queue: Mutex<Queue<Arc<Waiter>>>,
    metrics: GateMetrics,
    epoch: Instant,
}

/// One request that waits.
#[derive(Default)]
struct Waiter {
    call: AtomicU8,
    called: Notify,
}

/// What somebody who waits is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// One place is free.
    One,
    /// There may be many: call the next if there was one for you.
    Many,
    /// Somebody more important has taken your place in the queue.
    Displaced,
}

/// A place in the queue; dropping it leaves.
pub(crate) struct Place<'a> {
    gate: &'a Gate,
    ticket: Ticket,
    waiter: Arc<Waiter>,
    /// The call it is trying to make use of; then it is not in the queue.
    trying: Option<Call>,
    is_first: bool,
}

/// The queue has no room, or none any more, for somebody of this class.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

impl Gate {
    pub(crate) fn new(
        policy: &config::Service,
        metrics: GateMetrics,
        epoch: Instant,
        rng: Rng,
    ) -> Arc<Self> {
        let adaptive = policy.adaptive.map(|it| Adaptive::new(rules(&it), rng));
        if let Some(adaptive) = &adaptive {
            metrics.adaptive_limit.set(f64::from(adaptive.limit()));
        }
        Arc::new(Self {
            is_limited: adaptive.is_some() || policy.max_requests_per_endpoint > 0,
            adaptive,
            waiting: AtomicUsize::new(0),
            queue: Mutex::new(Queue::new(policy.queue_max)),
            metrics,
            epoch,
        })
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// Whoever comes while others wait must not overtake them.
    pub(crate) fn has_waiters(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// Counts one request, if the adaptive limit has room for it.
    pub(crate) fn try_begin(&self) -> bool {
        self.adaptive.as_ref().is_none_or(Adaptive::try_begin)
    }

    /// What was begun did not come to anything. Nobody is called: who tried at the same time finds the others' places free soon.
    pub(crate) fn undo(&self) {
        if let Some(adaptive) = &self.adaptive {
            adaptive.end();
        }
    }

    /// A request has ended, and its place is free.
    pub(crate) fn end(&self) {
        self.undo();
        self.call_if_any(Call::One);
    }

    /// An answer has begun after so long.
    pub(crate) fn observe(&self, now: Instant, latency: Duration) {
        if let Some(adaptive) = &self.adaptive {
            let raised = adaptive.observe(self.nanos(now), latency);
            self.metrics.adaptive_limit.set(f64::from(adaptive.limit()));
            if raised {
                self.call_if_any(Call::Many);
            }
        }
    }

    /// Endpoints may have become available.
    pub(crate) fn opened(&self) {
        self.call_if_any(Call::Many);
    }

    /// Joins the queue. Whoever is the first must try once more: a place that became free before it joined called nobody.
    ///
    /// # Errors
    /// When the queue is full of those who are as important or more.
    pub(crate) fn enter(&self, class: Class) -> Result<Place<'_>, NoRoom> {
        // Counted before the queue is looked at: from here on whoever frees a place looks into the queue. The two fences, here and
        // in `call_if_any`, make sure that one of both sees the other.
        self.waiting.fetch_add(1, SeqCst);
        fence(SeqCst);
        let waiter = Arc::new(Waiter::default());
        let mut queue = self.lock();
        let is_first = queue.is_empty();
        let (ticket, displaced) = match queue.push(self.now(), class, waiter.clone()) {
            Pushed::Waits(ticket) => (ticket, None),
            Pushed::Displaced(ticket, other) => (ticket, Some(other)),
            Pushed::Full => {
                drop(queue);
                self.waiting.fetch_sub(1, SeqCst);
                return Err(NoRoom);
            }
        };
        if let Some(other) = displaced {
            self.metrics.displaced.increment(1);
            other.call(Call::Displaced);
        }
        drop(queue);
        Ok(Place {
            gate: self,
            ticket,
            waiter,
            trying: None,
            is_first,
        })
    }

    fn call_if_any(&self, call: Call) {
        fence(SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.call(call);
        }
    }

    fn call(&self, call: Call) {
        let mut queue = self.lock();
        if let Some((_, next)) = queue.pop(self.now()) {
            // Within the lock, so that whoever finds itself gone from the queue finds its call as well.
            next.call(call);
        }
    }

    fn now(&self) -> Nanos {
        self.nanos(Instant::now())
    }

    fn nanos(&self, now: Instant) -> Nanos {
        Nanos(now.saturating_duration_since(self.epoch).as_nanos() as u64)
    }

    fn lock(&self) -> MutexGuard<'_, Queue<Arc<Waiter>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({} wait)", self.waiting.load(Relaxed))
    }
}

impl Place<'_> {
    pub(crate) fn is_first(&self) -> bool {
        self.is_first
    }

    /// Waits until it is worth trying.
    ///
    /// # Errors
    /// When somebody more important took the place.
    pub(crate) async fn called(&mut self) -> Result<(), NoRoom> {
        loop {
            self.waiter.called.notified().await;
            match self.waiter.take() {
                Some(Call::Displaced) => return Err(NoRoom),
                Some(call) => {
                    self.trying = Some(call);
                    return Ok(());
                }
                None => {}
            }
        }
    }

    /// There was no place after all; it waits on where it stood.
    pub(crate) fn back(&mut self) {
        if self.trying.take().is_some() {
            let now = self.gate.now();
            let mut queue = self.gate.lock();
            queue.give_back(now, self.ticket, self.waiter.clone());
        }
    }

    /// It has what it waited for, and leaves.
    pub(crate) fn served(mut self) {
        if self.trying == Some(Call::One) {
            self.trying = None;
        }
    }
}

impl Drop for Place<'_> {
    /// Whoever leaves with a call that it has not used hands it on.
    fn drop(&mut self) {
        let was_waiting = self.gate.lock().remove(self.ticket).is_some();
        self.gate.waiting.fetch_sub(1, SeqCst);
        let unused = self.trying.take().or_else(|| self.waiter.take());
        match unused {
            Some(call @ (Call::One | Call::Many)) if !was_waiting => self.gate.call(call),
            _ => {}
        }
    }
}

impl Waiter {
    fn call(&self, call: Call) {
        self.call.store(call as u8 + 1, SeqCst);
        self.called.notify_one();
    }

    fn take(&self) -> Option<Call> {
        match self.call.swap(0, SeqCst) {
            1 => Some(Call::One),
            2 => Some(Call::Many),
            3 => Some(Call::Displaced),
            _ => None,
        }
    }
}

fn rules(policy: &config::Adaptive) -> Rules {
    Rules {
        limit_min: policy.limit_min,
        limit_max: policy.limit_max,
        window: policy.window,
        remeasure_every: policy.remeasure_every,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn one_free_place_calls_one() {
        let gate = gate(10);
        let (mut first, mut second) = (enter(&gate), enter(&gate));
        assert!(first.is_first() && !second.is_first());
        gate.end();
        assert!(is_called(&mut first).await && !is_called(&mut second).await);
        first.served();
        assert!(!is_called(&mut second).await, "the place is taken");
        gate.end();
        assert!(is_called(&mut second).await);
    }

    #[tokio::test]
    async fn an_arrival_calls_as_many_as_find_a_place() {
        let gate = gate(10);
        let mut all: Vec<_> = (0..3).map(|_| enter(&gate)).collect();
        gate.opened();
        let mut first = all.remove(0);
        assert!(is_called(&mut first).await && !is_called(&mut all[0]).await);
        first.served();
        assert!(is_called(&mut all[0]).await);
        all[0].back();
        assert!(!is_called(&mut all[1]).await, "there was none for the last");
        gate.end();
        assert!(is_called(&mut all[0]).await, "its place was kept");
    }

    #[tokio::test]
    async fn a_call_is_never_lost() {
        let gate = gate(10);
        let (first, mut second) = (enter(&gate), enter(&gate));
        gate.end();
        // Its client went away before it could look.
        drop(first);
        assert!(is_called(&mut second).await);
        let mut third = enter(&gate);
        // Its time ran out while it tried.
        drop(second);
        assert!(is_called(&mut third).await);
        drop(third);
        assert!(!gate.has_waiters());
    }

    #[tokio::test]
    async fn the_more_important_takes_the_last_place() {
        let gate = gate(1);
        let mut low = gate.enter(Class::Low).expect("there is room");
        let high = gate.enter(Class::High).expect("it goes before");
        assert_eq!(low.called().await, Err(NoRoom));
        assert_eq!(gate.enter(Class::Low).err(), Some(NoRoom));
        drop((low, high));
        assert!(!gate.has_waiters());
    }

    #[test]
    fn cores_that_race_for_places_lose_none() {
        const PLACES: usize = 3;
        let gate = gate(1000);
        let free = Arc::new(AtomicUsize::new(PLACES));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (gate, free) = (gate.clone(), free.clone());
                std::thread::spawn(move || race(&gate, &free))
            })
            .collect();
        for thread in threads {
            thread.join().expect("nobody waits for ever");
        }
        assert_eq!(free.load(SeqCst), PLACES);
        assert!(!gate.has_waiters());
    }

    /// Twenty tasks on one core that each take and free a place many times.
    fn race(gate: &Arc<Gate>, free: &Arc<AtomicUsize>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build();
        let runtime = runtime.expect("a runtime can be built");
        let tasks = tokio::task::LocalSet::new();
        for _ in 0..20 {
            let (gate, free) = (gate.clone(), free.clone());
            tasks.spawn_local(async move {
                for _ in 0..50 {
                    take(&gate, &free).await;
                    tokio::task::yield_now().await;
                    free.fetch_add(1, Relaxed);
                    gate.end();
                }
            });
        }
        let all = async { tokio::time::timeout(Duration::from_secs(60), tasks).await };
        runtime.block_on(all).expect("every place is handed on");
    }

    async fn take(gate: &Gate, free: &AtomicUsize) {
        let try_take = || {
            free.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
                .is_ok()
        };
        if !gate.has_waiters() && try_take() {
            return;
        }
        let mut place = enter(gate);
        let mut may_try = place.is_first();
        loop {
            if may_try && try_take() {
                return place.served();
            }
            place.back();
            place.called().await.expect("there is room for all");
            may_try = true;
        }
    }

    async fn is_called(place: &mut Place<'_>) -> bool {
        let called = pin!(place.called());
        let looked = tokio::time::timeout(Duration::ZERO, called).await;
        looked.is_ok()
    }

    fn enter(gate: &Gate) -> Place<'_> {
        gate.enter(Class::Normal).expect("there is room")
    }

    fn gate(queue_max: usize) -> Arc<Gate> {
        Arc::new(Gate {
            is_limited: true,
            adaptive: None,
            waiting: AtomicUsize::new(0),
            queue: Mutex::new(Queue::new(queue_max)),
            metrics: GateMetrics::new("app"),
            epoch: Instant::now(),
        })
    }
}
