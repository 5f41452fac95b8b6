//! What every attack stands on: a balancer, a client beside the attacker that must not notice, and what must be as before afterwards.

use std::{net::SocketAddr, time::Duration};

use tests::{
    cluster::{Balancer, Setup, until},
    origin::web::Speaks,
    process::Pid,
    raw::{
        apart::Apart,
        prober::Prober,
        resident::{Resident, forget_peak, resident},
    },
};
use tokio::sync::{Mutex, MutexGuard};

/// One attack at a time: two at once would disturb each other's clients, which is not what is measured.
static ALONE: Mutex<()> = Mutex::const_new(());

/// The path under which requests go to the attacked service rather than to the prober's.
pub(super) const VICTIM: &str = "/victim";

/// What an attack may leave in memory that the allocator gives back only later.
const LEFT_BYTES_MAX: u64 = 72 * MIB;
pub(super) const MIB: u64 = 1 << 20;
/// More than a test that does not measure memory makes a balancer use.
pub(super) const ANY_GROWTH: u64 = 256 * MIB;

/// How much longer than its bar a cut may take to be seen, on a machine that does something else meanwhile.
pub(super) const SLACK: Duration = Duration::from_secs(3);

/// A balancer before an attack.
pub(super) struct World {
    pub(super) balancer: Balancer,
    prober: Prober,
    before: Resident,
    pid: Pid,
    /// Dropped after everything that uses it.
    _origin: Apart,
    _alone: MutexGuard<'static, ()>,
}

impl World {
    /// The attacked service is the prober's own.
    pub(super) async fn new(listening: &str) -> Self {
        Self::set(|setup| setup.listening(listening)).await
    }

    /// The attacked service is `victim`, asked as HTTP/1.1 under [`VICTIM`].
    pub(super) async fn with_victim(victim: SocketAddr, listening: &str, serving: &str) -> Self {
        Self::set(|setup| {
            setup
                .listening(listening)
                .service("victim", &[victim])
                .serving(serving)
                .serving("protocol = 'http1'")
                .route(&format!("path = '{VICTIM}'\nservice = 'victim'"))
        })
        .await
    }

    pub(super) async fn set(change: impl FnOnce(Setup) -> Setup) -> Self {
        let alone = ALONE.lock().await;
        let origin = Apart::start(Speaks::Http1);
        let setup = Setup::http(&[origin.address()]).serving("protocol = 'http1'");
        let mut balancer = change(setup).start().await;
        let prober = Prober::start(balancer.entry());
        let pid = balancer.process().pid();
        let before = resident(pid).expect("the balancer lives");
        Self {
            balancer,
            prober,
            before,
            pid,
            _origin: origin,
            _alone: alone,
        }
    }

    /// Lets the attack happen, and holds against their bars what the client beside it, the memory and the counts tell.
    pub(super) async fn under(self, growth_max: u64, attack: impl AsyncFnOnce(&Balancer)) {
        forget_peak(self.pid).expect("the balancer is ours");
        let watching = self.prober.watch();
        attack(&self.balancer).await;
        let prober = watching.undisturbed();
        let after = resident(self.pid).expect("the balancer lives");
        let growth = after.peak.saturating_sub(self.before.now);
        assert!(
            growth < growth_max,
            "memory grew by {} KiB, more than {} KiB",
            growth / 1024,
            growth_max / 1024
        );
        nothing_is_left(&self.balancer).await;
        let left = resident(self.pid).expect("the balancer lives").now;
        assert!(
            left < self.before.now + LEFT_BYTES_MAX,
            "{} KiB are left",
            (left - self.before.now) / 1024
        );
        drop(prober);
    }
}

/// The prober's connection is the only one, and nothing is under way.
async fn nothing_is_left(balancer: &Balancer) {
    until("the attacker's connections to be gone", async || {
        connections(balancer).await <= 1.0
    })
    .await;
    until("the attacker's requests to be gone", async || {
        let all = balancer.admin("/metrics").await;
        all.lines()
            .filter(|it| it.starts_with("colonnade_balancer_active_requests{"))
            .all(|it| it.ends_with(" 0"))
    })
    .await;
    until("no node to have work", async || {
        let all = balancer.admin("/api/v1/endpoints").await;
        let all: serde_json::Value = serde_json::from_str(&all).expect("the admin API speaks JSON");
        let endpoints = all["endpoints"].as_array().cloned().unwrap_or_default();
        let busy = |it: &serde_json::Value| it["in_flight"].as_u64().unwrap_or_default() > 0;
        !endpoints.iter().any(busy)
    })
    .await;
}

/// How many clients are connected, over all listeners.
pub(super) async fn connections(balancer: &Balancer) -> f64 {
    let all = balancer.admin("/metrics").await;
    let values = all
        .lines()
        .filter(|it| it.starts_with("colonnade_balancer_active_connections{"))
        .filter_map(|it| it.rsplit_once(' '));
    values.filter_map(|(_, it)| it.parse::<f64>().ok()).sum()
}
