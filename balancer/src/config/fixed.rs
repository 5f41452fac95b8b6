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
            admission: _,
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

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "[[listener]]\nname = 'web'\naddress = '127.0.0.1:0'\n";

    #[test]
    fn what_cannot_change_is_named() {
        let config = |keys: &str| {
            let text = format!("id = 'b'\n{keys}\n{LEAST}");
            Config::from_toml("b.toml", &text).expect("a good configuration")
        };
        let check = |old: &str, new: &str, expected: &[&str]| {
            let fixed = config(old).fixed_differences(&config(new));
            assert_eq!(fixed, expected, "{old} {new}");
        };
        check("", "drain_deadline = '1s'\nwatch_config = false", &[]);
        check("workers = 1", "workers = 2", &["workers"]);
        check("", "[membership]\nlost_for_max = '1s'", &[]);
        check(
            "",
            "[membership]\nsnapshot = '/s'",
            &["membership.snapshot"],
        );
        check(
            "[log]\nlevel = 'info'",
            "[log]\nlevel = 'warn'\naccess = 'off'",
            &["log.level", "log.access"],
        );
        check(
            "[takeover]\nsocket = '/a'",
            "[takeover]\nsocket = '/b'\n[admin]\naddress = '127.0.0.1:1'",
            &["takeover", "admin"],
        );
    }
}
