//! Measures the balancer's pool by itself: a pick and a change must cost the same however many endpoints there are.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use balancer_core::affinity::Asked;
use balancer_core::endpoint::{Endpoint, WEIGHT};
use balancer_core::load::{Load, Nanos};
use balancer_core::name::NodeId;
use balancer_core::pool::Pool;
use fastrand::Rng;

/// How many picks a round times; enough that reading the clock is nothing.
const PICKS: u32 = 1_000_000;
/// How many changes a round times; half are departures, half arrivals.
const CHANGES: u32 = 10_000;
/// The nodes, and the walks, are the same in every run.
const SEED: u64 = 7;

/// One round at one size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolSample {
    pub(crate) per_pick: Duration,
    pub(crate) per_change: Duration,
}

/// Fills a pool with `endpoints` of different loads, picks from it, and changes it.
pub(crate) fn measure(endpoints: usize) -> PoolSample {
    let mut rng = Rng::with_seed(SEED);
    let members: Vec<_> = (0..endpoints)
        .map(|index| endpoint(index, &mut rng))
        .collect();
    let mut pool = Pool::default();
    for member in &members {
        pool.upsert(member.clone(), &mut rng);
    }
    let per_pick = time(PICKS, || {
        drop(black_box(pool.pick(
            Nanos(2_000_000),
            &mut rng,
            &Asked::default(),
            &[],
        )));
    });
    let mut gone = None;
    let per_change = time(CHANGES, || match gone.take() {
        None => gone = pool.remove(&members[rng.usize(..members.len())].node),
        Some(member) => drop(black_box(pool.upsert(member, &mut rng))),
    });
    PoolSample {
        per_pick,
        per_change,
    }
}

fn time(times: u32, mut act: impl FnMut()) -> Duration {
    let began = Instant::now();
    (0..times).for_each(|_| act());
    began.elapsed() / times
}

fn endpoint(index: usize, rng: &mut Rng) -> Arc<Endpoint> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let load = Load::default();
    load.observe(
        Nanos(1_000_000),
        Duration::from_micros(rng.u64(100..10_000)),
    );
    let node = NodeId::from(format!("node-{index}"));
    Arc::new(Endpoint::new(
        node,
        1,
        address,
        None,
        WEIGHT,
        Arc::new(load),
    ))
}
