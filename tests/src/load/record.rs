//! Keeps what every exchange became: latencies, outcomes, nodes, failures and a timeline, all bounded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::lane::{Answer, Failure, FailureKind, Outcome};

/// The width of one step of the timeline.
pub const BUCKET: Duration = Duration::from_millis(100);

/// The timeline covers an hour; what comes later is counted in its last bucket.
const BUCKETS_MAX: usize = 36_000;
/// How many failures are kept with their reason; beyond it they are counted only.
const FAILURES_KEPT_MAX: usize = 10_000;
/// How many nodes are told apart; answers of further ones are counted without a node.
const NODES_MAX: usize = 1_024;
/// Latencies are kept from a microsecond to this, which is longer than any timeout a plan has.
const LATENCY_MAX: Duration = Duration::from_secs(600);
/// Three digits: a latency is known to a thousandth of itself.
const LATENCY_DIGITS: u8 = 3;

/// What a load has recorded over a span of time.
#[derive(Clone, Debug)]
pub struct Report {
    /// When the span began.
    pub began: Instant,
    /// How long it lasted.
    pub lasted: Duration,
    /// Latencies of successful exchanges, in nanoseconds.
    latency: Histogram<u64>,
    outcomes: BTreeMap<Outcome, u64>,
    failures: BTreeMap<FailureKind, u64>,
    failed: Vec<Failed>,
    nodes: Vec<String>,
    timeline: Vec<Bucket>,
    bytes: u64,
}

/// One step of the timeline, by when exchanges ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    pub succeeded: u64,
    pub failed: u64,
    /// Successful answers, by the node's index in [`Report::nodes`].
    pub by_node: Vec<u64>,
}

/// One exchange that failed: no answer, or an answer that refuses.
#[derive(Clone, Debug)]
pub struct Failed {
    /// When it was meant to start.
    pub began: Instant,
    /// When it was known to have failed.
    pub ended: Instant,
    pub reason: String,
}

// === impl Report ===

impl Report {
    pub(super) fn new(began: Instant) -> Self {
        let max = u64::try_from(LATENCY_MAX.as_nanos()).expect("ten minutes fit");
        let latency = Histogram::new_with_bounds(1_000, max, LATENCY_DIGITS)
            .expect("the bounds are in order");
        Self {
            began,
            lasted: Duration::ZERO,
            latency,
            outcomes: BTreeMap::new(),
            failures: BTreeMap::new(),
            failed: Vec::new(),
            nodes: Vec::new(),
            timeline: Vec::new(),
            bytes: 0,
        }
    }

    /// An exchange has an answer.
    pub(super) fn answered(&mut self, began: Instant, ended: Instant, answer: Answer<'_>) {
        *self.outcomes.entry(answer.outcome).or_default() += 1;
        if !answer.outcome.is_success() {
            return self.count_failed(began, ended, || answer.outcome.to_string());
        }
        self.latency
            .saturating_record(nanoseconds(ended.saturating_duration_since(began)));
        self.bytes += answer.bytes;
        let node = answer.node.and_then(|name| self.node_index(name));
        let bucket = self.bucket(ended);
        bucket.succeeded += 1;
        if let Some(index) = node {
            bucket.count_node(index);
        }
    }

    /// An exchange has none.
    pub(super) fn failed(&mut self, began: Instant, ended: Instant, failure: &Failure) {
        *self.failures.entry(failure.kind).or_default() += 1;
        self.count_failed(began, ended, || failure.to_string());
    }

    /// Ends the span, and begins the next.
    pub(super) fn take(&mut self, now: Instant) -> Self {
        let mut taken = std::mem::replace(self, Self::new(now));
        taken.lasted = now.saturating_duration_since(taken.began);
        taken
    }

    /// Exchanges that ended in this span, well or not.
    pub fn exchanges(&self) -> u64 {
        self.succeeded() + self.failures()
    }

    pub fn succeeded(&self) -> u64 {
        self.latency.len()
    }

    /// Exchanges that got no answer, or one that refuses.
    pub fn failures(&self) -> u64 {
        let refusals = self
            .outcomes
            .iter()
            .filter(|(outcome, _)| !outcome.is_success());
        self.failures.values().sum::<u64>() + refusals.map(|(_, count)| count).sum::<u64>()
    }

    /// Successful exchanges per second.
    pub fn rate(&self) -> f64 {
        self.succeeded() as f64 / self.lasted.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Bytes of successful answers.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The latency that this share of the successful exchanges did not exceed; `quantile(0.5)` is the median.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(share))
    }

    /// Answers by status.
    pub fn outcomes(&self) -> &BTreeMap<Outcome, u64> {
        &self.outcomes
    }

    /// Exchanges without an answer, by kind.
    pub fn failures_by_kind(&self) -> &BTreeMap<FailureKind, u64> {
        &self.failures
    }

    /// The failures that were kept, oldest first: at most 10,000.
    pub fn failed_exchanges(&self) -> &[Failed] {
        &self.failed
    }

    /// The failures, of those kept, of exchanges that were meant to start after `moment`.
    pub fn failed_after(&self, moment: Instant) -> impl Iterator<Item = &Failed> {
        self.failed.iter().filter(move |it| it.began > moment)
    }

    /// The nodes that answered, in the order in which they were first seen.
    pub fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// How many successful answers a node gave between two moments, to the width of a bucket.
    pub fn answers_of(&self, node: &str, from: Instant, to: Instant) -> u64 {
        let Some(index) = self.nodes.iter().position(|it| it == node) else {
            return 0;
        };
        let (from, to) = (self.bucket_index(from), self.bucket_index(to));
        let buckets = self.timeline.iter().take(to).skip(from);
        buckets.filter_map(|it| it.by_node.get(index)).sum()
    }

    /// What happened in each [`BUCKET`] since the beginning.
    pub fn timeline(&self) -> &[Bucket] {
        &self.timeline
    }

    fn count_failed(&mut self, began: Instant, ended: Instant, reason: impl FnOnce() -> String) {
        self.bucket(ended).failed += 1;
        if self.failed.len() < FAILURES_KEPT_MAX {
            self.failed.push(Failed {
                began,
                ended,
                reason: reason(),
            });
        }
    }

    fn node_index(&mut self, name: &str) -> Option<usize> {
        if let Some(index) = self.nodes.iter().position(|it| it == name) {
            return Some(index);
        }
        if self.nodes.len() == NODES_MAX {
            return None;
        }
        self.nodes.push(name.to_owned());
        Some(self.nodes.len() - 1)
    }

    fn bucket(&mut self, moment: Instant) -> &mut Bucket {
        let index = self.bucket_index(moment);
        if self.timeline.len() <= index {
            self.timeline.resize(index + 1, Bucket::default());
        }
        &mut self.timeline[index]
    }

    fn bucket_index(&self, moment: Instant) -> usize {
        let steps = moment.saturating_duration_since(self.began).as_nanos() / BUCKET.as_nanos();
        usize::try_from(steps)
            .unwrap_or(usize::MAX)
            .min(BUCKETS_MAX - 1)
    }
}

impl Bucket {
    fn count_node(&mut self, index: usize) {
        if self.by_node.len() <= index {
            self.by_node.resize(index + 1, 0);
        }
        self.by_node[index] += 1;
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_successful_exchanges() {
        let began = Instant::now();
        let mut report = Report::new(began);
        (1..=100)
            .for_each(|ms| report.answered(began, began + Duration::from_millis(ms), status(200)));
        report.answered(began, began + Duration::from_secs(9), status(503));
        let median = report.quantile(0.5).as_secs_f64();
        assert!((0.0499..0.0502).contains(&median), "{median}");
        assert_eq!(
            (report.succeeded(), report.failures(), report.exchanges()),
            (100, 1, 101)
        );
    }

    #[test]
    fn a_failure_keeps_its_time_and_reason() {
        let began = Instant::now();
        let kill = began + Duration::from_secs(1);
        let mut report = Report::new(began);
        report.failed(
            began,
            kill + Duration::from_millis(5),
            &Failure::new(FailureKind::Reset, "gone"),
        );
        assert_eq!(
            report.failed_after(kill).count(),
            0,
            "it was on its way when the node was killed"
        );
        report.answered(
            kill + Duration::from_millis(1),
            kill + Duration::from_millis(2),
            status(502),
        );
        let reasons: Vec<_> = report
            .failed_after(kill)
            .map(|it| it.reason.as_str())
            .collect();
        assert_eq!(reasons, ["status 502"]);
        assert_eq!(report.timeline()[10].failed, 2);
    }

    #[test]
    fn answers_are_counted_by_node_and_time() {
        let began = Instant::now();
        let mut report = Report::new(began);
        let at = |ms| began + Duration::from_millis(ms);
        report.answered(began, at(10), by("a"));
        report.answered(began, at(350), by("b"));
        report.answered(began, at(420), by("b"));
        assert_eq!(report.nodes(), ["a", "b"]);
        assert_eq!(report.answers_of("b", at(0), at(400)), 1);
        assert_eq!(report.answers_of("b", at(0), at(500)), 2);
        assert_eq!(report.answers_of("c", at(0), at(500)), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_counts_go_on() {
        let began = Instant::now();
        let mut report = Report::new(began);
        let far = began + Duration::from_secs(1_000_000);
        for _ in 0..=FAILURES_KEPT_MAX {
            report.failed(began, far, &Failure::new(FailureKind::Timeout, ""));
        }
        (0..=NODES_MAX).for_each(|it| report.answered(began, far, by(&it.to_string())));
        assert_eq!(report.failed_exchanges().len(), FAILURES_KEPT_MAX);
        assert_eq!(report.failures(), FAILURES_KEPT_MAX as u64 + 1);
        assert_eq!(
            (report.timeline().len(), report.nodes().len()),
            (BUCKETS_MAX, NODES_MAX)
        );
    }

    #[test]
    fn a_taken_span_leaves_an_empty_one() {
        let began = Instant::now();
        let mut report = Report::new(began);
        report.answered(began, began, status(204));
        let taken = report.take(began + Duration::from_secs(2));
        assert_eq!(
            (taken.succeeded(), taken.lasted),
            (1, Duration::from_secs(2))
        );
        assert!((taken.rate() - 0.5).abs() < 1e-9);
        assert_eq!(
            (report.exchanges(), report.began),
            (0, began + Duration::from_secs(2))
        );
    }

    fn status(status: u16) -> Answer<'static> {
        Answer {
            outcome: Outcome::Status(status),
            node: None,
            bytes: 0,
        }
    }

    fn by(node: &str) -> Answer<'_> {
        Answer {
            outcome: Outcome::Status(200),
            node: Some(node),
            bytes: 0,
        }
    }
}
