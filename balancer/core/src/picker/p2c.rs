//! The power of two choices: look at two endpoints at random, take the less loaded one (Mitzenmacher, 2001).
//!
//! The load is peak-EWMA latency, with what failing costs on top, × (requests in flight + 1) ÷ weight. An endpoint that has not
//! answered yet has no latency; it is compared by its requests in flight alone, so that a new node is neither flooded nor starved.

use fastrand::Rng;

use super::passes;
use crate::{
    endpoint::{Endpoint, Member, WEIGHT},
    load::Nanos,
};

/// Latencies below this, in nanoseconds, are alike: between nodes that all answer fast, what differs is noise, and following it
/// would send everything to one of them.
const LATENCY_MIN: f64 = 2e6;

/// The index of the endpoint to use among `endpoints`, leaving out those for which `avoid` says so.
///
/// Constant time while few endpoints are avoided.
pub fn choose<E: Member>(
    endpoints: &[E],
    now: Nanos,
    rng: &mut Rng,
    avoid: impl Fn(&Endpoint) -> bool,
) -> Option<usize> {
    let n = endpoints.len();
    if n == 0 {
        return None;
    }
    let first = next_allowed(endpoints, rng.usize(..n), &avoid)?;
    // Drawn from the others only: the two are never the same unless no other is allowed.
    let offset = if n > 1 { 1 + rng.usize(..n - 1) } else { 0 };
    let second = next_allowed(endpoints, (first + offset) % n, &avoid)?;
    let (a, b) = (endpoints[first].endpoint(), endpoints[second].endpoint());
    let takes_second = match (passes(a, rng), passes(b, rng)) {
        (true, false) => true,
        (false, true) => false,
        // If all are held back, all are held back alike.
        _ => is_lighter(b, a, now),
    };
    Some(if takes_second { second } else { first })
}

fn next_allowed<E: Member>(
    endpoints: &[E],
    start: usize,
    avoid: impl Fn(&Endpoint) -> bool,
) -> Option<usize> {
    let n = endpoints.len();
    (start..start + n)
        .map(|i| i % n)
        .find(|&i| !avoid(endpoints[i].endpoint()))
}

fn is_lighter(a: &Endpoint, b: &Endpoint, now: Nanos) -> bool {
    match (a.load.cost(now), b.load.cost(now)) {
        (Some(of_a), Some(of_b)) => cost(a, of_a) < cost(b, of_b),
        _ => cost(a, 1.0) < cost(b, 1.0),
    }
}

fn cost(endpoint: &Endpoint, latency: f64) -> f64 {
    let share = f64::from(endpoint.weight.max(1)) / f64::from(WEIGHT);
    latency.max(LATENCY_MIN) * f64::from(endpoint.load.in_flight() + 1) / share
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::load::Load;

    #[test]
    fn nobody_is_chosen_from_nobody() {
        assert_eq!(pick(&[], |_| false), None);
        assert_eq!(pick(&cluster(3), |_| true), None);
    }

    #[test]
    fn the_only_one_allowed_is_found() {
        let all = cluster(5);
        for _ in 0..100 {
            assert_eq!(pick(&all, |e| e.node.as_str() != "n3"), Some(3));
        }
    }

    #[test]
    fn of_two_the_idle_one_is_taken() {
        let all = cluster(2);
        all[0].load.begin();
        for _ in 0..100 {
            assert_eq!(pick(&all, |_| false), Some(1));
        }
    }

    #[test]
    fn a_slow_endpoint_gets_less() {
        let all = cluster(10);
        for endpoint in &all {
            endpoint.load.observe(Nanos(0), Duration::from_millis(10));
        }
        all[4].load.observe(Nanos(0), Duration::from_secs(1));
        let hits = shares(&all, 10_000);
        assert_eq!(
            hits[4], 0,
            "with equal others, the slow one loses each comparison"
        );
    }

    #[test]
    fn among_fast_ones_noise_decides_nothing() {
        let all = cluster(2);
        all[0].load.observe(Nanos(0), Duration::from_micros(200));
        all[1].load.observe(Nanos(0), Duration::from_micros(1_500));
        let hits = shares(&all, 10_000);
        assert!(hits.iter().all(|&h| h > 4_000), "{hits:?}");
    }

    /// The sinkhole: a node that fails at once has the lowest latency and nothing in flight.
    #[test]
    fn a_node_that_fails_fast_attracts_nothing() {
        let all = cluster(10);
        for endpoint in &all {
            endpoint.load.observe(Nanos(0), Duration::from_millis(50));
        }
        let mut now = Nanos(0);
        let mut rng = Rng::with_seed(7);
        let mut failed = 0;
        for _ in 0..10_000 {
            now.0 += 1_000_000;
            let at = choose(&all, now, &mut rng, |_| false).expect("all are allowed");
            if at == 4 {
                failed += 1;
                all[at]
                    .load
                    .observe_failure(now, Duration::from_micros(100));
            } else {
                all[at].load.observe(now, Duration::from_millis(50));
            }
        }
        assert!(
            failed < 1_000,
            "{failed} of 10,000 went to the failing node"
        );
    }

    #[test]
    fn what_warms_up_gets_its_part_of_its_share() {
        let all = cluster(10);
        all[4].load.warm_to(0.2);
        let hits = shares(&all, 100_000);
        assert!((1_500..2_500).contains(&hits[4]), "{hits:?}");
        all.iter().for_each(|it| it.load.warm_to(0.2));
        let hits = shares(&all, 100_000);
        assert!(
            (9_000..11_000).contains(&hits[4]),
            "those that are new together are not slowed: {hits:?}"
        );
    }

    #[test]
    fn weight_is_respected_under_load() {
        let mut all = cluster(2);
        all[1] = endpoint(1, 300);
        let mut hits = [0u32; 2];
        let mut rng = Rng::with_seed(7);
        // Requests that never end: the steady state of a loaded pair.
        for _ in 0..4_000 {
            let i = choose(&all, Nanos(0), &mut rng, |_| false).expect("all are allowed");
            all[i].load.begin();
            hits[i] += 1;
        }
        let ratio = f64::from(hits[1]) / f64::from(hits[0]);
        assert!(
            (2.8..3.2).contains(&ratio),
            "three times the weight, {ratio} times the share"
        );
    }

    #[test]
    fn equal_endpoints_share_alike() {
        let hits = shares(&cluster(10), 100_000);
        assert!(
            hits.iter().all(|&h| (9_000..11_000).contains(&h)),
            "{hits:?}"
        );
    }

    fn shares(all: &[Arc<Endpoint>], n: u32) -> Vec<u32> {
        let mut hits = vec![0; all.len()];
        let mut rng = Rng::with_seed(7);
        for _ in 0..n {
            hits[choose(all, Nanos(0), &mut rng, |_| false).expect("all are allowed")] += 1;
        }
        hits
    }

    fn pick(all: &[Arc<Endpoint>], avoid: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        choose(all, Nanos(0), &mut Rng::new(), avoid)
    }

    fn cluster(n: usize) -> Vec<Arc<Endpoint>> {
        (0..n).map(|i| endpoint(i, WEIGHT)).collect()
    }

    fn endpoint(i: usize, weight: u32) -> Arc<Endpoint> {
        let address = ([127, 0, 0, 1], 1000 + i as u16).into();
        let node = format!("n{i}").into();
        Arc::new(Endpoint::new(
            node,
            0,
            address,
            None,
            weight,
            Arc::new(Load::default()),
        ))
    }
}
