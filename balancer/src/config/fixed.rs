//! What stays as it was at the start for as long as the program runs: changing it needs a restart or a takeover.

use super::{Config, Log, MembershipConfig};

impl Config {
    /// The keys of `next` that differ from this configuration's and that no reload can change.
    ///
    /// Every part of a configuration is named here, so that whoever adds one decides which kind it is.
    pub(crate) fn fixed_differences(&self, next: &Self) -> Vec<&'static str> {
        let Self {
            id,
            zone,
            workers,
            drain_deadline: _,
            watch_config: _,
            takeover,
            admin,
            registry,
            membership,
            log,
            explain,
            tracing,
            listeners: _,
            routes: _,
            services: _,
        } = self;
        let MembershipConfig {
            snapshot,
            lost_for_max: _,
        } = membership;
        let Log { level, access } = log;
        [
            ("id", *id != next.id),
            ("zone", *zone != next.zone),
            ("workers", *workers != next.workers),
            ("takeover", *takeover != next.takeover),
            ("admin", *admin != next.admin),
            ("registry", *registry != next.registry),
            ("membership.snapshot", *snapshot != next.membership.snapshot),
            ("explain", *explain != next.explain),
            ("tracing", *tracing != next.tracing),
            ("log.level", *level != next.log.level),
            ("log.access", *access != next.log.access),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}
