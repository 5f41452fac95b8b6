//! Decides when exchanges start: at once after the last answer, or at a fixed rate whatever the answers do.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// The pacer wakes at most this often; at higher rates several arrivals fall due together, at most this late.
const TICK_MIN: Duration = Duration::from_micros(100);
/// The pacer wakes at least this often, to notice that the load was stopped.
const TICK_MAX: Duration = Duration::from_millis(100);
/// Given up by default when no answer came for this long.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// More exchanges than any test makes in its time; a plan without a limit of its own ends here.
const EXCHANGES_MAX: u64 = 1 << 40;

/// How many exchanges, when, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub arrival: Arrival,
    /// How many exchanges can be under way at a time.
    pub lanes: usize,
    /// No exchange starts later than this.
    pub lasts: Duration,
    /// No more exchanges than this start.
    pub exchanges_max: u64,
    /// An exchange without an answer is given up after this long. Default 5 s.
    pub timeout: Duration,
}

/// What starts the next exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrival {
    /// The answer to the last one.
    Closed,
    /// The clock, so many times a second.
    Open { per_second: f64 },
}

/// Hands out the start of each exchange to the lanes of one load, all on one thread.
#[derive(Debug)]
pub(super) struct Arrivals {
    plan: Plan,
    schedule: Schedule,
    stopped: Arc<AtomicBool>,
    taken: Cell<u64>,
    due: Cell<u64>,
    more_due: Notify,
}

/// The intended start of every exchange of an open load.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    began: Instant,
    per_second: f64,
    total: u64,
}

// === impl Plan ===

impl Plan {
    /// `lanes` exchanges at a time, each as soon as the last is answered.
    pub fn closed(lanes: usize, lasts: Duration) -> Self {
        Self {
            arrival: Arrival::Closed,
            lanes,
            lasts,
            exchanges_max: EXCHANGES_MAX,
            timeout: TIMEOUT_DEFAULT,
        }
    }

    /// `per_second` exchanges a second, of which `lanes` can be under way at a time.
    pub fn open(per_second: f64, lanes: usize, lasts: Duration) -> Self {
        Self {
            arrival: Arrival::Open { per_second },
            ..Self::closed(lanes, lasts)
        }
    }
}

// === impl Arrivals ===

impl Arrivals {
    pub(super) fn new(plan: Plan, began: Instant, stopped: Arc<AtomicBool>) -> Self {
        let schedule = Schedule::new(plan, began);
        Self {
            plan,
            schedule,
            stopped,
            taken: Cell::new(0),
            due: Cell::new(0),
            more_due: Notify::new(),
        }
    }

    /// Waits until an exchange is to start, and tells when it was meant to; `None` when no more are.
    pub(super) async fn next(&self) -> Option<Instant> {
        match self.plan.arrival {
            Arrival::Closed => self.next_closed(),
            Arrival::Open { .. } => self.next_open().await,
        }
    }

    /// Lets arrivals fall due until the last one has; an open load needs this beside its lanes.
    pub(super) async fn pace(&self) -> io::Result<()> {
        if self.plan.arrival == Arrival::Closed {
            return Ok(());
        }
        let ticks = Ticks::every(self.schedule.tick())?;
        while !self.is_over() {
            ticks.next().await?;
            self.advance(self.schedule.due(Instant::now()));
        }
        self.more_due.notify_waiters();
        Ok(())
    }

    fn next_closed(&self) -> Option<Instant> {
        let now = Instant::now();
        let over = self.is_stopped() || self.taken.get() >= self.plan.exchanges_max;
        if over || now >= self.schedule.began + self.plan.lasts {
            return None;
        }
        self.taken.set(self.taken.get() + 1);
        Some(now)
    }

    async fn next_open(&self) -> Option<Instant> {
        loop {
            if self.is_stopped() {
                return None;
            }
            if self.taken.get() < self.due.get() {
                let index = self.taken.replace(self.taken.get() + 1);
                return Some(self.schedule.at(index));
            }
            if self.is_over() {
                return None;
            }
            self.more_due.notified().await;
        }
    }

    /// One lane is woken for each arrival; a lane that is busy looks at the count when it comes back.
    fn advance(&self, due: u64) {
        let fresh = due - self.due.replace(due);
        let wakes = fresh.min(self.plan.lanes as u64);
        (0..wakes).for_each(|_| self.more_due.notify_one());
    }

    fn is_over(&self) -> bool {
        self.is_stopped() || self.due.get() == self.schedule.total
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

// === impl Schedule ===

impl Schedule {
    fn new(plan: Plan, began: Instant) -> Self {
        let per_second = match plan.arrival {
            Arrival::Closed => 0.0,
            Arrival::Open { per_second } => per_second,
        };
        let total = (per_second * plan.lasts.as_secs_f64()) as u64;
        Self {
            began,
            per_second,
            total: total.min(plan.exchanges_max),
        }
    }

    /// How many exchanges were meant to start until `now`.
    fn due(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.began).as_secs_f64();
        ((elapsed * self.per_second) as u64)
            .saturating_add(1)
            .min(self.total)
    }

    /// When the exchange with this index, counted from 0, is meant to start.
    fn at(&self, index: u64) -> Instant {
        self.began + Duration::from_secs_f64(index as f64 / self.per_second)
    }

    fn tick(&self) -> Duration {
        Duration::from_secs_f64((1.0 / self.per_second).min(1.0)).clamp(TICK_MIN, TICK_MAX)
    }
}

/// A kernel timer: the runtime's own has steps of a millisecond, which would be most of a loopback latency.
struct Ticks {
    timer: AsyncFd<OwnedFd>,
}

impl Ticks {
    fn every(interval: Duration) -> io::Result<Self> {
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let step = Timespec {
            tv_sec: 0,
            tv_nsec: interval.subsec_nanos().into(),
        };
        let steps = Itimerspec {
            it_interval: step,
            it_value: step,
        };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &steps)?;
        Ok(Self {
            timer: watch(timer)?,
        })
    }

    async fn next(&self) -> io::Result<()> {
        let read = |timer: &OwnedFd| {
            let mut count = [0; 8];
            Ok(rustix::io::read(timer, &mut count)?)
        };
        self.timer
            .async_io(Interest::READABLE, read)
            .await
            .map(|_| ())
    }
}

#[expect(
    unsafe_code,
    reason = "the runtime's safe way to watch a descriptor is deprecated"
)]
fn watch(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the value that watches it, so it stays open and the same until it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
    Ok(watched?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_load_starts_its_exchanges_at_their_times() {
        let began = Instant::now();
        let schedule = Schedule::new(Plan::open(1_000.0, 1, Duration::from_secs(2)), began);
        assert_eq!(schedule.total, 2_000);
        assert_eq!(schedule.at(0), began);
        assert_eq!(schedule.at(1_500), began + Duration::from_millis(1_500));
        assert_eq!(schedule.due(began), 1);
        assert_eq!(schedule.due(began + Duration::from_micros(10_500)), 11);
        assert_eq!(
            schedule.due(began + Duration::from_secs(60)),
            2_000,
            "it ends with its plan"
        );
    }

    #[test]
    fn the_pacer_neither_spins_nor_sleeps_through_a_stop() {
        let tick = |per_second| {
            Schedule::new(Plan::open(per_second, 1, Duration::ZERO), Instant::now()).tick()
        };
        assert_eq!(tick(1e6), TICK_MIN);
        assert_eq!(tick(0.001), TICK_MAX);
        assert_eq!(tick(1_000.0), Duration::from_millis(1));
    }

    #[test]
    fn a_closed_load_ends_by_count_by_time_and_by_a_stop() {
        let stopped = Arc::new(AtomicBool::new(false));
        let counted = Plan {
            exchanges_max: 2,
            ..Plan::closed(1, Duration::from_secs(60))
        };
        let arrivals = Arrivals::new(counted, Instant::now(), stopped.clone());
        assert_eq!((0..5).filter_map(|_| arrivals.next_closed()).count(), 2);
        let timed = Arrivals::new(
            Plan::closed(1, Duration::ZERO),
            Instant::now(),
            stopped.clone(),
        );
        assert!(timed.next_closed().is_none());
        let endless = Arrivals::new(
            Plan::closed(1, Duration::from_secs(60)),
            Instant::now(),
            stopped.clone(),
        );
        assert!(endless.next_closed().is_some());
        stopped.store(true, Ordering::Relaxed);
        assert!(endless.next_closed().is_none());
    }

    #[tokio::test]
    async fn arrivals_that_found_no_lane_keep_their_intended_start() {
        let plan = Plan::open(1_000.0, 1, Duration::from_millis(20));
        let began = Instant::now();
        let arrivals = Arrivals::new(plan, began, Arc::default());
        arrivals.pace().await.expect("the kernel has timers");
        let mut starts = Vec::new();
        while let Some(start) = arrivals.next().await {
            starts.push(start);
        }
        assert_eq!(starts.len(), 20);
        assert_eq!(
            (starts[0], starts[19]),
            (began, began + Duration::from_millis(19))
        );
    }
}
