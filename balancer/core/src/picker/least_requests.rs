//! The endpoint with the fewest requests in flight for its weight; of equals, any.
//!
//! Up to [`LOOKED_AT`] endpoints are all looked at, so the choice is exact. Of more, as many are drawn: other cores and ends of
//! requests change the counts all the time, so any order kept of them would be wrong or shared, and with sixteen draws the chance to
//! miss the emptier half is one in 65,536.

use fastrand::Rng;

use super::passes;
use crate::{
    endpoint::{Endpoint, Member},
    load::Nanos,
};

const LOOKED_AT: usize = 16;

/// What an endpoint that fails every request seems to have in flight, per request that it has: it must not win by failing fast.
const FAILING: f64 = 100.0;

/// The index of the endpoint to use among `endpoints`, leaving out those for which `avoid` says so.
pub fn choose<E: Member>(
    endpoints: &[E],
    now: Nanos,
    rng: &mut Rng,
    avoid: impl Fn(&Endpoint) -> bool,
) -> Option<usize> {
    let n = endpoints.len();
    let mut best = Best::default();
    for nth in 0..n.min(LOOKED_AT) {
        let at = if n <= LOOKED_AT { nth } else { rng.usize(..n) };
        let endpoint = endpoints[at].endpoint();
        if !avoid(endpoint) {
            best.offer(at, (passes(endpoint, rng), burden(endpoint, now)), rng);
        }
    }
    best.at.or_else(|| any_allowed(endpoints, rng, avoid))
}

/// When none of those drawn may be used, whoever may.
fn any_allowed<E: Member>(
    endpoints: &[E],
    rng: &mut Rng,
    avoid: impl Fn(&Endpoint) -> bool,
) -> Option<usize> {
    let n = endpoints.len();
    let start = if n == 0 { 0 } else { rng.usize(..n) };
    (start..start + n)
        .map(|at| at % n)
        .find(|&at| !avoid(endpoints[at].endpoint()))
}

fn burden(endpoint: &Endpoint, now: Nanos) -> f64 {
    let in_flight = f64::from(endpoint.load.in_flight() + 1);
    let failing = 1.0 + FAILING * endpoint.load.failing(now);
    in_flight * failing / f64::from(endpoint.weight.max(1))
}

#[derive(Default)]
struct Best {
    at: Option<usize>,
    /// Whether it would rather pass, and how burdened it is.
    rank: (bool, f64),
    equals: u32,
}

impl Best {
    fn offer(&mut self, at: usize, rank: (bool, f64), rng: &mut Rng) {
        if self.at.is_none() || rank < self.rank {
            (self.at, self.rank, self.equals) = (Some(at), rank, 1);
        } else if rank == self.rank {
            self.equals += 1;
            // The n-th of equals replaces the others with one chance in n, so that each has the same.
            if rng.u32(..self.equals) == 0 {
                self.at = Some(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::endpoint::tests::endpoint;

    #[test]
    fn nobody_is_chosen_from_nobody() {
        assert_eq!(pick(&[], |_| false), None);
        assert_eq!(pick(&cluster(3), |_| true), None);
        assert_eq!(
            pick(&cluster(300), |e| e.node.as_str() != "n299"),
            Some(299)
        );
    }

    #[test]
    fn requests_that_stay_are_spread_by_weight() {
        let mut all = cluster(8);
        all[3] = endpoint(3, 300);
        fill(&all, 1_000);
        let counts: Vec<_> = all.iter().map(|it| it.load.in_flight()).collect();
        assert!((299..=301).contains(&counts[3]), "{counts:?}");
        assert!(
            counts
                .iter()
                .enumerate()
                .all(|(n, it)| n == 3 || (99..=101).contains(it)),
            "{counts:?}"
        );
    }

    #[test]
    fn of_many_nearly_the_emptiest_is_found() {
        let all = cluster(1_000);
        fill(&all, 10_000);
        let most = all.iter().map(|it| it.load.in_flight()).max();
        assert!(most <= Some(12), "ten each would be even: {most:?}");
    }

    #[test]
    fn of_equals_any_is_taken() {
        let all = cluster(10);
        let mut hits = [0u32; 10];
        let mut rng = Rng::with_seed(7);
        for _ in 0..100_000 {
            hits[choose(&all, Nanos(0), &mut rng, |_| false).expect("all are allowed")] += 1;
        }
        assert!(
            hits.iter().all(|it| (9_500..10_500).contains(it)),
            "{hits:?}"
        );
    }

    /// The sinkhole: whoever fails at once has nothing in flight.
    #[test]
    fn a_node_that_fails_fast_attracts_nothing() {
        let all = cluster(2);
        fill(&all[..1], 5);
        for n in 1..200 {
            all[1]
                .load
                .observe_failure(Nanos(n * 1_000_000), Duration::ZERO);
        }
        let at = choose(&all, Nanos(200_000_000), &mut Rng::new(), |_| false);
        assert_eq!(at, Some(1), "so far one in fifty failed, and five are more");
        for n in 200..2_000 {
            all[1]
                .load
                .observe_failure(Nanos(n * 1_000_000), Duration::ZERO);
        }
        let at = choose(&all, Nanos(2_000_000_000), &mut Rng::new(), |_| false);
        assert_eq!(at, Some(0));
    }

    fn fill(all: &[Arc<Endpoint>], requests: usize) {
        let mut rng = Rng::with_seed(7);
        for _ in 0..requests {
            let at = choose(all, Nanos(0), &mut rng, |_| false).expect("all are allowed");
            all[at].load.begin();
        }
    }

    fn pick(all: &[Arc<Endpoint>], avoid: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        choose(all, Nanos(0), &mut Rng::with_seed(7), avoid)
    }

    fn cluster(n: usize) -> Vec<Arc<Endpoint>> {
        (0..n).map(|i| endpoint(i, 100)).collect()
    }

    #[test]
    fn what_warms_up_gets_part_of_its_share() {
        let all = cluster(4);
        all[0].load.warm_to(0.1);
        let mut rng = Rng::with_seed(7);
        let hits = (0..10_000)
            .filter(|_| choose(&all, Nanos(0), &mut rng, |_| false) == Some(0))
            .count();
        assert!((150..400).contains(&hits), "{hits} of 2,500");
    }
}
