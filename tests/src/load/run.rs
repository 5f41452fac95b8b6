//! Runs a load on a thread of its own and gives its report.

use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::LocalOptions;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::arrivals::{Arrivals, Plan};
use super::lane::{Failure, FailureKind, Lane, Traffic};
use super::record::Report;

/// A closed lane waits this long after a failure; refused connections come back in microseconds and would spin.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// A load that is under way; dropped, it stops.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    ended: oneshot::Receiver<io::Result<()>>,
}

#[derive(Debug)]
struct Shared {
    report: Mutex<Report>,
    stopped: Arc<AtomicBool>,
}

// === impl Load ===

impl Load {
    /// Starts to load.
    pub fn start(plan: Plan, traffic: impl Traffic) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            report: Mutex::new(Report::new(Instant::now())),
            stopped: Arc::default(),
        });
        let (tell, ended) = oneshot::channel();
        let of_thread = shared.clone();
        // A load that nobody waits for any more has no one to tell.
        let work = move || drop(tell.send(run(plan, traffic, &of_thread)));
        thread::Builder::new().name("load".into()).spawn(work)?;
        Ok(Self { shared, ended })
    }

    /// What was recorded since the start, or since the last `take`; recording goes on.
    pub fn report(&self) -> Report {
        let mut report = self.shared.report().clone();
        report.take(Instant::now())
    }

    /// What was recorded since the start, or since the last `take`; recording begins anew.
    pub fn take(&self) -> Report {
        self.shared.report().take(Instant::now())
    }

    /// Starts no more exchanges; those under way end.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }

    /// Waits until the last exchange has ended.
    pub async fn finish(mut self) -> io::Result<Report> {
        (&mut self.ended)
            .await
            .map_err(|_| io::Error::other("the load's thread has panicked"))??;
        Ok(self.take())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

// === impl Shared ===

impl Shared {
    /// The load's thread holds the lock for one record at a time, and hardly ever finds it taken.
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().expect("recording does not panic")
    }
}

fn run(plan: Plan, traffic: impl Traffic, shared: &Arc<Shared>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(run_lanes(plan, traffic, shared))
}

async fn run_lanes(plan: Plan, mut traffic: impl Traffic, shared: &Arc<Shared>) -> io::Result<()> {
    let began = shared.report().began;
    let arrivals = Rc::new(Arrivals::new(plan, began, shared.stopped.clone()));
    let mut lanes = JoinSet::new();
    for index in 0..plan.lanes {
        lanes.spawn_local(run_lane(
            traffic.lane(index),
            plan,
            arrivals.clone(),
            shared.clone(),
        ));
    }
    arrivals.pace().await?;
    while let Some(ended) = lanes.join_next().await {
        ended.map_err(io::Error::other)?;
    }
    Ok(())
}

async fn run_lane(mut lane: impl Lane, plan: Plan, arrivals: Rc<Arrivals>, shared: Arc<Shared>) {
    while let Some(began) = arrivals.next().await {
        let patience = plan.timeout.saturating_sub(began.elapsed());
        let outcome = tokio::time::timeout(patience, lane.exchange()).await;
        let ended = Instant::now();
        let failure = match outcome {
            Ok(Ok(answer)) => {
                shared.report().answered(began, ended, answer);
                continue;
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::new(
                FailureKind::Timeout,
                format_args!("no answer in {:?}", plan.timeout),
            ),
        };
        lane.abandon();
        shared.report().failed(began, ended, &failure);
        if plan.arrival == super::Arrival::Closed {
            tokio::time::sleep(FAILURE_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, Outcome};
    use super::*;

    #[tokio::test]
    async fn a_closed_load_makes_its_exchanges() {
        let plan = Plan {
            exchanges_max: 1_000,
            ..Plan::closed(4, Duration::from_secs(60))
        };
        let report = finished(plan, Quick).await;
        assert_eq!((report.succeeded(), report.failures()), (1_000, 0));
    }

    #[tokio::test]
    async fn an_open_load_makes_as_many_exchanges_as_its_rate_says() {
        let report = finished(Plan::open(2_000.0, 4, Duration::from_millis(100)), Quick).await;
        assert_eq!((report.succeeded(), report.failures()), (200, 0));
    }

    /// One answer in 50 ms blocks the only lane; the exchanges due meanwhile are late although each is answered at once.
    #[tokio::test]
    async fn a_stall_makes_every_exchange_behind_it_late() {
        let plan = Plan::open(1_000.0, 1, Duration::from_millis(100));
        let report = finished(
            plan,
            Stall {
                once: Some(Duration::from_millis(50)),
            },
        )
        .await;
        assert_eq!(report.succeeded(), 100);
        assert!(
            report.quantile(0.2) > Duration::from_millis(10),
            "{:?}",
            report.quantile(0.2)
        );
    }

    #[tokio::test]
    async fn what_is_never_answered_is_a_timeout_and_the_load_still_ends() {
        let timeout = Duration::from_millis(20);
        let plan = Plan {
            timeout,
            ..Plan::open(1_000.0, 2, Duration::from_millis(50))
        };
        let report = finished(
            plan,
            Stall {
                once: Some(Duration::from_secs(3_600)),
            },
        )
        .await;
        assert_eq!(report.exchanges(), 50, "no arrival is forgotten");
        assert!(report.failures() >= 1, "{report:?}");
        assert_eq!(
            report.failures_by_kind().get(&FailureKind::Timeout),
            Some(&report.failures())
        );
    }

    #[tokio::test]
    async fn a_stopped_load_ends_and_a_taken_span_is_not_counted_again() {
        let load =
            Load::start(Plan::closed(1, Duration::from_secs(600)), Quick).expect("a thread starts");
        while load.report().succeeded() == 0 {
            tokio::task::yield_now().await;
        }
        let first = load.take();
        load.stop();
        let rest = load.finish().await.expect("it ends");
        assert!(first.succeeded() > 0 && rest.began > first.began);
    }

    async fn finished(plan: Plan, traffic: impl Traffic) -> Report {
        Load::start(plan, traffic)
            .expect("a thread starts")
            .finish()
            .await
            .expect("it ends")
    }

    /// Answers at once.
    struct Quick;

    /// Answers at once, except that the first exchange of the first lane takes a while.
    struct Stall {
        once: Option<Duration>,
    }

    impl Traffic for Quick {
        type Lane = Stall;

        fn lane(&mut self, _: usize) -> Stall {
            Stall { once: None }
        }
    }

    impl Traffic for Stall {
        type Lane = Self;

        fn lane(&mut self, _: usize) -> Self {
            Self {
                once: self.once.take(),
            }
        }
    }

    impl Lane for Stall {
        async fn exchange(&mut self) -> Result<Answer<'_>, Failure> {
            tokio::time::sleep(self.once.take().unwrap_or_default()).await;
            Ok(Answer {
                outcome: Outcome::Echo,
                node: None,
                bytes: 0,
            })
        }

        fn abandon(&mut self) {}
    }
}
