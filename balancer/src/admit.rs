//! What the balancer takes on: connections by number and source, requests by rate, and less of both as memory fills.
//!
//! Decisions are the core's; here are the counts that all cores share, the clock, and the memory gauge. How a refusal is said is
//! `rescue`'s.

mod memory;

use std::{
    hash::RandomState,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use balancer_core::{
    limit::{
        memory::Pressure,
        rate::{Quota, Rates},
        source::{Prefixes, SourceNet, Sources},
    },
    load::Nanos,
    queue::Class,
};
use http::HeaderName;
use metrics::Counter;
use thiserror::Error;

pub(crate) use memory::watch as watch_memory;

use crate::{
    config,
    observe::admission::{AdmissionMetrics, RefusalMetrics},
};

/// The rule number of new connections, which no rule of an operator has.
const CONNECTIONS: usize = usize::MAX;

/// When to come back after a refusal that no clock ends.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What all cores share of the limits. What is counted stays when a reload brings others.
pub(crate) struct Admission {
    limits: ArcSwap<Limits>,
    connections: AtomicUsize,
    sources: Sources,
    pressure: AtomicU8,
    pub(crate) metrics: AdmissionMetrics,
    epoch: Instant,
}

/// The limits in force.
struct Limits {
    policy: config::Admission,
    prefixes: Prefixes,
    connection_quota: Option<Quota>,
    rates: Arc<Rates>,
    rules: Vec<Rule>,
}

/// One rate, ready to be asked.
struct Rule {
    policy: config::Rate,
    quota: Quota,
    refused: Counter,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum RefusedConnection {
    #[error("there are as many connections as there may be")]
    Everywhere,
    #[error("the source has as many connections as it may")]
    Source,
    #[error("the source makes connections too quickly")]
    SourceRate,
    #[error("there is too little memory left")]
    Memory,
}

/// Why a request is refused, and when to come back.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) retry_after: Duration,
    /// What the rule's header fields say (draft-ietf-httpapi-ratelimit-headers); none where no rate refused it.
    pub(crate) fields: Option<Box<RateFields>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Reason {
    /// 429.
    #[error("more requests than the rate allows")]
    Rate,
    /// 503.
    #[error("the balancer is short of memory")]
    Memory,
}

/// `RateLimit-Policy` and `RateLimit`, as structured fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RateFields {
    pub(crate) policy: String,
    pub(crate) limit: String,
}

/// Who asks for what, as far as limits care.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asks<'a> {
    pub(crate) source: IpAddr,
    pub(crate) listener: &'a str,
    pub(crate) route: &'a str,
    pub(crate) class: Class,
}

/// One of the connections that there may be; dropping it makes room.
pub(crate) struct ConnectionPermit {
    admission: Arc<Admission>,
    source: Option<SourceNet>,
}

impl Admission {
    pub(crate) fn new(
        policy: config::Admission,
        epoch: Instant,
        metrics: AdmissionMetrics,
    ) -> Arc<Self> {
        let rates = Arc::new(rates(&policy));
        Arc::new(Self {
            limits: ArcSwap::from_pointee(Limits::new(policy, rates)),
            connections: AtomicUsize::new(0),
            sources: Sources::default(),
            pressure: AtomicU8::new(Pressure::None as u8),
            metrics,
            epoch,
        })
    }

    /// From here on these limits hold. Rates are counted anew if it is other rules that they are counted for.
    pub(crate) fn adopt(&self, policy: &config::Admission) {
        let before = self.limits.load();
        if before.policy == *policy {
            return;
        }
        let rates = match counts_alike(&before.policy, policy) {
            true => before.rates.clone(),
            false => Arc::new(rates(policy)),
        };
        self.limits
            .store(Arc::new(Limits::new(policy.clone(), rates)));
    }

    /// Counts one more connection, of nobody in particular yet.
    ///
    /// # Errors
    /// When there are too many, or too little memory.
    pub(crate) fn connection(self: &Arc<Self>) -> Result<ConnectionPermit, RefusedConnection> {
        // Counted before the check, so that two cores at the limit cannot both pass.
        let before = self.connections.fetch_add(1, Relaxed);
        let permit = ConnectionPermit {
            admission: self.clone(),
            source: None,
        };
        if before >= self.limits.load().policy.max_connections {
            return Err(RefusedConnection::Everywhere);
        }
        match self.pressure() {
            Pressure::Refuse => Err(RefusedConnection::Memory),
            Pressure::None | Pressure::Shed => Ok(permit),
        }
    }

    /// Whether a request may go on, asked once its route is known; `header` gives the value of a field.
    ///
    /// A request that one rule refuses has still been counted by the rules before it.
    ///
    /// # Errors
    /// When memory is short or a rate is exceeded.
    pub(crate) fn request<'a>(
        &self,
        now: Instant,
        asks: Asks<'_>,
        header: impl Fn(&HeaderName) -> Option<&'a [u8]>,
    ) -> Result<(), Refused> {
        if self.is_shed(asks.class) {
            self.metrics.shed_by_memory.increment(1);
            return Err(Refused {
                reason: Reason::Memory,
                retry_after: RETRY_AFTER,
                fields: None,
            });
        }
        let limits = self.limits.load();
        if limits.rules.is_empty() || limits.policy.exempt.contains(asks.source) {
            return Ok(());
        }
        let source = limits.prefixes.source(asks.source);
        let rules = limits.rules.iter().enumerate();
        for (idx, rule) in rules.filter(|(_, it)| it.is_for(asks)) {
            let key = rule.policy.by_header.as_ref().and_then(&header);
            self.ask(now, &limits.rates, (idx, rule), key, source)?;
        }
        Ok(())
    }

    pub(crate) fn pressure(&self) -> Pressure {
        Pressure::from_number(self.pressure.load(Relaxed))
    }

    fn is_shed(&self, class: Class) -> bool {
        match self.pressure() {
            Pressure::None => false,
            Pressure::Shed => class == Class::Low,
            Pressure::Refuse => true,
        }
    }

    fn ask(
        &self,
        now: Instant,
        rates: &Rates,
        (idx, rule): (usize, &Rule),
        key: Option<&[u8]>,
        source: SourceNet,
    ) -> Result<(), Refused> {
        // A key and a source of the same bytes are two: each half of the numbers has its own.
        let subject = match key {
            Some(key) => rates.subject(2 * idx, key),
            None => rates.subject(2 * idx + 1, source.bytes()),
        };
        let verdict = rates.ask(self.nanos(now), subject, rule.quota);
        if verdict.evicted {
            self.metrics.evicted.increment(1);
        }
        match verdict.retry_after {
            None => Ok(()),
            Some(retry_after) => {
                rule.refused.increment(1);
                Err(rule.refusal(retry_after))
            }
        }
    }

    fn nanos(&self, now: Instant) -> Nanos {
        Nanos(now.saturating_duration_since(self.epoch).as_nanos() as u64)
    }
}

impl Limits {
    fn new(policy: config::Admission, rates: Arc<Rates>) -> Self {
        let second = Duration::from_secs(1);
        Self {
            prefixes: Prefixes {
                v4: policy.source_prefix_v4,
                v6: policy.source_prefix_v6,
            },
            connection_quota: policy
                .new_connections_per_source
                .map(|n| Quota::new(n.get(), second, policy.new_connections_burst)),
            rules: policy.rate.iter().map(Rule::new).collect(),
            rates,
            policy,
        }
    }
}

impl Rule {
    fn new(policy: &config::Rate) -> Self {
        Self {
            quota: Quota::new(policy.rate, policy.per, policy.burst),
            refused: AdmissionMetrics::rule(&policy.name),
            policy: policy.clone(),
        }
    }

    fn is_for(&self, asks: Asks<'_>) -> bool {
        let holds =
            |names: &[String], name: &str| names.is_empty() || names.iter().any(|it| it == name);
        holds(&self.policy.listeners, asks.listener) && holds(&self.policy.routes, asks.route)
    }

    fn refusal(&self, retry_after: Duration) -> Refused {
        let config::Rate {
            name, rate, per, ..
        } = &self.policy;
        let fields = RateFields {
            policy: format!("\"{name}\";q={rate};w={}", seconds_up(*per)),
            limit: format!("\"{name}\";r=0;t={}", seconds_up(retry_after)),
        };
        Refused {
            reason: Reason::Rate,
            retry_after,
            fields: Some(fields.into()),
        }
    }
}

impl ConnectionPermit {
    /// Counts the connection for its source, once that is known.
    ///
    /// # Errors
    /// When the source has too many, or makes them too quickly.
    pub(crate) fn claim(&mut self, address: IpAddr) -> Result<(), RefusedConnection> {
        let admission = &self.admission;
        let limits = admission.limits.load();
        let connections_max = limits.policy.max_connections_per_source;
        let is_limited = connections_max.is_some() || limits.connection_quota.is_some();
        if !is_limited || limits.policy.exempt.contains(address) {
            return Ok(());
        }
        let source = limits.prefixes.source(address);
        if let Some(quota) = limits.connection_quota {
            let subject = limits.rates.subject(CONNECTIONS, source.bytes());
            let now = admission.nanos(Instant::now());
            let verdict = limits.rates.ask(now, subject, quota);
            if verdict.evicted {
                admission.metrics.evicted.increment(1);
            }
            if verdict.retry_after.is_some() {
                return Err(RefusedConnection::SourceRate);
            }
        }
        if let Some(max) = connections_max {
            if !admission.sources.begin(source, max.get()) {
                return Err(RefusedConnection::Source);
            }
            self.source = Some(source);
        }
        Ok(())
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.admission.connections.fetch_sub(1, Relaxed);
        if let Some(source) = self.source {
            self.admission.sources.end(source);
        }
    }
}

impl RefusedConnection {
    pub(crate) fn count(self, metrics: &RefusalMetrics) {
        let counter = match self {
            Self::Everywhere => &metrics.everywhere,
            Self::Source => &metrics.source,
            Self::SourceRate => &metrics.source_rate,
            Self::Memory => &metrics.memory,
        };
        counter.increment(1);
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Admission({:?})", self.pressure())
    }
}

impl std::fmt::Debug for ConnectionPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionPermit")
    }
}

fn rates(policy: &config::Admission) -> Rates {
    Rates::new(
        policy.subjects_max,
        [RandomState::new(), RandomState::new()],
    )
}

/// Whether what was counted for the one tells something to the other: rules are counted by their places.
fn counts_alike(before: &config::Admission, after: &config::Admission) -> bool {
    let is_same =
        |(a, b): (&config::Rate, &config::Rate)| a.name == b.name && a.by_header == b.by_header;
    before.subjects_max == after.subjects_max
        && before.rate.len() == after.rate.len()
        && before.rate.iter().zip(&after.rate).all(is_same)
}

/// Whole seconds as header fields have them, rounded up: who comes back then is let in.
pub(crate) fn seconds_up(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn connections_are_counted_in_all_and_by_source() {
        let admission = admission(config::Admission {
            max_connections: 3,
            max_connections_per_source: NonZero::new(1),
            exempt: ["198.51.100.0/24".parse().expect("a network")]
                .into_iter()
                .collect(),
            ..config::Admission::default()
        });
        let mut first = admission.connection().expect("there is room");
        assert_eq!(first.claim(HERE), Ok(()));
        let mut second = admission.connection().expect("there is room");
        assert_eq!(second.claim(HERE), Err(RefusedConnection::Source));
        let exempt = IpAddr::from([198, 51, 100, 7]);
        assert_eq!(second.claim(exempt), Ok(()));
        let mut third = admission.connection().expect("there is room");
        assert_eq!(third.claim(exempt), Ok(()));
        let fourth = admission.connection();
        assert_eq!(fourth.err(), Some(RefusedConnection::Everywhere));
        drop((first, second));
        let mut again = admission.connection().expect("there is room again");
        assert_eq!(again.claim(HERE), Ok(()));
    }

    #[test]
    fn what_is_counted_stays_under_other_limits() {
        let policy = |max, per_source| config::Admission {
            max_connections: max,
            max_connections_per_source: NonZero::new(per_source),
            rate: vec![rate("web", None)],
            ..config::Admission::default()
        };
        let admission = admission(policy(3, 0));
        let ask = || admission.request(admission.epoch, asks(Class::Normal), |_| None);
        let held = admission.connection().expect("there is room");
        assert_eq!(ask(), Ok(()));
        admission.adopt(&policy(2, 1));
        assert!(ask().is_err(), "the rule is the same and counts on");
        let mut second = admission.connection().expect("there is room for two");
        assert_eq!(second.claim(HERE), Ok(()));
        let third = admission.connection();
        assert_eq!(third.err(), Some(RefusedConnection::Everywhere));
        drop(held);
        let mut third = admission.connection().expect("one has gone");
        assert_eq!(third.claim(HERE), Err(RefusedConnection::Source));
    }

    #[test]
    fn a_rate_is_by_key_and_without_one_by_source() {
        let admission = admission(config::Admission {
            rate: vec![rate("keys", Some("x-api-key"))],
            ..config::Admission::default()
        });
        let ask = |key: Option<&'static [u8]>| {
            let asked = admission.request(admission.epoch, asks(Class::Normal), |_| key);
            asked.is_ok()
        };
        assert!(ask(Some(b"a")) && ask(Some(b"b")) && ask(None));
        assert!(!ask(Some(b"a")) && !ask(Some(b"b")) && !ask(None));
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let admission = admission(config::Admission {
            rate: vec![rate("web", None)],
            ..config::Admission::default()
        });
        let ask = || admission.request(admission.epoch, asks(Class::Normal), |_| None);
        assert_eq!(ask(), Ok(()));
        let refused = ask().expect_err("one is all there is");
        assert_eq!(seconds_up(refused.retry_after), 10);
        let fields = refused.fields.expect("a rate refused it");
        assert_eq!(fields.policy, "\"web\";q=1;w=10");
        assert_eq!(fields.limit, "\"web\";r=0;t=10");
    }

    #[test]
    fn rules_hold_where_they_say() {
        let admission = admission(config::Admission {
            rate: vec![config::Rate {
                listeners: vec!["other".to_owned()],
                ..rate("web", None)
            }],
            ..config::Admission::default()
        });
        for _ in 0..10 {
            let asked = admission.request(admission.epoch, asks(Class::Normal), |_| None);
            assert_eq!(asked, Ok(()));
        }
    }

    #[test]
    fn memory_is_kept_for_the_important() {
        let admission = admission(config::Admission::default());
        let allowed = |class| {
            let asked = admission.request(admission.epoch, asks(class), |_| None);
            asked.is_ok()
        };
        admission.pressure.store(Pressure::Shed as u8, Relaxed);
        assert!(!allowed(Class::Low) && allowed(Class::Normal));
        assert!(admission.connection().is_ok());
        admission.pressure.store(Pressure::Refuse as u8, Relaxed);
        assert!(!allowed(Class::High));
        let refused = admission.connection().err();
        assert_eq!(refused, Some(RefusedConnection::Memory));
    }

    #[test]
    fn part_of_a_second_is_a_second_to_wait() {
        for (ms, expected) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(seconds_up(Duration::from_millis(ms)), expected, "{ms} ms");
        }
    }

    fn admission(policy: config::Admission) -> Arc<Admission> {
        Admission::new(policy, Instant::now(), AdmissionMetrics::new())
    }

    fn rate(name: &str, by_header: Option<&'static str>) -> config::Rate {
        config::Rate {
            name: name.to_owned(),
            by_header: by_header.map(HeaderName::from_static),
            rate: 1,
            per: Duration::from_secs(10),
            burst: 1,
            listeners: Vec::new(),
            routes: Vec::new(),
        }
    }

    fn asks(class: Class) -> Asks<'static> {
        Asks {
            source: HERE,
            listener: "web",
            route: "route-0",
            class,
        }
    }
}
