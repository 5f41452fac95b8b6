//! What endpoints get while they fail, return, are new, or are far away; the clock is stepped by hand.

use std::collections::BTreeMap;

use fastrand::Rng;
use proptest::prelude::{any, prop, proptest};

use super::*;
use crate::{
    endpoint::WEIGHT,
    health::Policy,
    load::{Nanos, WHOLE},
    membership::{NodeFacts, Rules, Source},
    outlier::{Outcome, SuccessRate},
};

const WEB: ServiceIdx = ServiceIdx(0);
const LOST_FOR_MAX: Duration = Duration::from_secs(60);

#[test]
fn failures_in_a_row_eject_and_time_brings_back() {
    let mut it = Subject::new(outliers());
    it.list(&["n1", "n2", "n3"]);
    it.fail("n1", 5);
    assert_eq!(it.ejected(), ["n1"]);
    assert_eq!(it.withdrawn(), 0, "the cores read it, nobody is told");
    it.pass(29);
    assert_eq!(it.ejected(), ["n1"]);
    it.pass(1);
    assert_eq!(it.ejected(), [""; 0]);
    it.fail("n1", 5);
    it.pass(59);
    assert_eq!(it.ejected(), ["n1"], "the second time is longer");
}

#[test]
fn websockets_that_close_politely_eject_nobody() {
    let mut it = Subject::new(outliers());
    it.list(&["n1", "n2", "n3"]);
    let load = it.load("n1");
    for _ in 0..1_000 {
        // A tunnel counts as one good answer, whoever ends it and however.
        load.begin();
        load.results.count(Outcome::Good);
        load.end();
    }
    it.pass(60);
    assert_eq!(it.ejected(), [""; 0]);
}

#[test]
fn only_so_many_are_ejected_at_once() {
    let mut it = Subject::new(outliers());
    let ids: Vec<_> = (0..20).map(|n| format!("n{n}")).collect();
    it.list(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    for id in &ids[..5] {
        it.fail(id, 5);
    }
    assert_eq!(it.ejected(), ["n0", "n1"], "a tenth");
    it.pass(30);
    assert_eq!(
        it.ejected().len(),
        2,
        "those that still fail are seen when there is room"
    );
}

#[test]
fn the_only_endpoint_is_never_ejected() {
    let mut it = Subject::new(outliers());
    it.list(&["n1"]);
    it.fail("n1", 50);
    assert_eq!(it.ejected(), [""; 0]);
}

#[test]
fn a_low_success_rate_ejects_after_the_interval() {
    let mut it = Subject::new(outliers());
    it.list(&["n1", "n2", "n3", "n4", "n5", "n6"]);
    for n in 1..=6 {
        for request in 0..200 {
            let outcome = match n == 3 && request % 2 == 0 {
                true => Outcome::Failed,
                false => Outcome::Good,
            };
            it.load(&format!("n{n}")).results.count(outcome);
        }
    }
    it.pass(9);
    assert_eq!(it.ejected(), [""; 0]);
    it.pass(1);
    assert_eq!(it.ejected(), ["n3"]);
    assert_eq!(it.membership.selected(WEB).ejections, [0, 1]);
}

#[test]
fn a_new_life_is_not_judged_by_the_old_one_but_the_past_is_remembered() {
    let mut it = Subject::new(outliers());
    it.list(&["n1", "n2"]);
    it.fail("n1", 5);
    it.put(NodeFacts {
        incarnation: 2,
        ..node("n1")
    });
    assert_eq!(it.ejected(), [""; 0]);
    it.fail("n1", 5);
    it.pass(59);
    assert_eq!(it.ejected(), ["n1"]);
}

/// Least-connections counts lost when the set is rebuilt: the newest node is flooded, or starved.
#[test]
fn counts_survive_every_change_of_membership() {
    let mut it = Subject::new(outliers());
    it.list(&["n1", "n2"]);
    it.fail("n1", 5);
    let load = it.load("n1");
    load.begin();
    load.observe(Nanos(1), Duration::from_secs(3));
    for change in 2..40 {
        match change % 3 {
            0 => it.leave("n1"),
            1 => it.list(&["n2"]),
            _ => it.list(&["n1", "n2"]),
        }
        it.put(NodeFacts {
            incarnation: change,
            weight: change as u32,
            ..node("n1")
        });
        assert!(Arc::ptr_eq(&it.load("n1"), &load), "change {change}");
    }
    load.end();
    drop(load);
    it.leave("n1");
    it.pass(LOST_FOR_MAX.as_secs() - 1);
    it.list(&["n1", "n2"]);
    let load = it.load("n1");
    assert_eq!(load.latency(Nanos(1)), Some(Duration::from_secs(3)));
}

#[test]
fn who_returns_after_long_is_a_stranger() {
    let mut it = Subject::new(Picking::default());
    it.list(&["n1", "n2"]);
    it.load("n1").observe(Nanos(1), Duration::from_secs(3));
    it.leave("n1");
    it.pass(LOST_FOR_MAX.as_secs() + 1);
    it.leave("n2");
    // What was not obeyed yet would hold the load.
    it.withdrawn();
    it.list(&["n1"]);
    assert_eq!(it.load("n1").latency(Nanos(1)), None);
}

/// All closes at once on a failed probe: when everybody seems ill, the prober is.
#[test]
fn nobody_is_left_without_work_when_every_probe_fails_at_once() {
    let mut it = Subject::new(Picking {
        panic_threshold: 0.5,
        ..Picking::default()
    });
    it.list(&["n1", "n2", "n3", "n4"]);
    it.probe(&["n1", "n2"], false);
    assert_eq!(it.offered(), ["n3", "n4"], "half is no panic");
    it.probe(&["n3"], false);
    assert_eq!(it.offered(), ["n1", "n2", "n3", "n4"]);
    it.probe(&["n4"], false);
    assert!(it.membership.selected(WEB).panicking);
    it.leave("n2");
    assert_eq!(it.offered(), ["n1", "n3", "n4"], "who leaves is left alone");
    it.probe(&["n1", "n3"], true);
    assert_eq!(it.offered(), ["n1", "n3"]);
}

#[test]
fn in_panic_the_ejected_work_too() {
    let mut it = Subject::new(Picking {
        panic_threshold: 0.9,
        ..outliers()
    });
    it.list(&["n1", "n2", "n3"]);
    it.fail("n1", 5);
    assert!(it.membership.selected(WEB).panicking);
    assert!(!it.load("n1").is_ejected());
}

#[test]
fn a_newcomer_among_others_starts_slowly_and_they_do_not() {
    let mut it = Subject::new(slowly());
    it.list(&["n1", "n2"]);
    assert_eq!(it.held_back("n1"), 0, "nobody knows how old it is");
    it.put(node("n3"));
    assert_eq!(it.held_back("n3"), 900);
    it.pass(5);
    assert_eq!((it.held_back("n3"), it.held_back("n1")), (500, 0));
    it.pass(5);
    assert_eq!(it.held_back("n3"), 0);
}

/// Slow start that does not apply at first start: the first answer of a probe counts as becoming available too.
#[test]
fn who_was_ill_when_first_seen_starts_slowly_when_it_is_well() {
    let mut it = Subject::new(slowly());
    it.list(&["n1", "n2"]);
    it.probe(&["n2"], false);
    it.pass(100);
    it.probe(&["n2"], true);
    assert_eq!((it.held_back("n2"), it.held_back("n1")), (900, 0));
}

#[test]
fn a_restarted_or_released_endpoint_starts_slowly() {
    let mut it = Subject::new(Picking {
        outlier: outliers().outlier,
        ..slowly()
    });
    it.list(&["n1", "n2"]);
    it.put(NodeFacts {
        incarnation: 2,
        ..node("n1")
    });
    assert_eq!(it.held_back("n1"), 900);
    it.fail("n2", 5);
    it.pass(30);
    assert_eq!((it.held_back("n2"), it.held_back("n1")), (900, 0));
}

#[test]
fn those_recalled_from_the_last_run_are_not_new() {
    let mut it = Subject::new(slowly());
    let recalled = vec![node("n1")];
    it.membership.handle_recall(it.now, recalled);
    it.list(&["n1", "n2"]);
    assert_eq!((it.held_back("n1"), it.held_back("n2")), (0, 900));
}

#[test]
fn a_zone_hands_on_what_its_ill_endpoints_carried() {
    let mut it = Subject::new(Picking::default());
    for n in 1..=8 {
        it.put(NodeFacts {
            zone: Some(if n <= 4 { "here" } else { "there" }.to_owned()),
            ..node(&format!("n{n}"))
        });
    }
    assert_eq!(it.kept_of_1000(), 1000);
    it.probe(&["n1", "n2"], false);
    assert_eq!(it.kept_of_1000(), 700);
    it.probe(&["n3", "n4"], false);
    assert_eq!(it.kept_of_1000(), 0);
}

#[test]
fn a_table_is_built_for_keys_and_not_for_each_change() {
    let mut it = Subject::new(Picking {
        is_keyed: true,
        ..Picking::default()
    });
    it.list(&["n1", "n2"]);
    assert_eq!(it.tables(), 1, "one for both");
    it.put(node("n3"));
    it.put(node("n4"));
    assert_eq!(it.tables(), 0, "a moment later");
    let due = it.membership.poll_timeout().expect("a table is outdated");
    it.membership.handle_timeout(due.max(it.now + TABLE_PAUSE));
    assert_eq!(it.tables(), 1);
    it.probe(&["n1"], false);
    it.pass(1);
    assert_eq!(it.tables(), 0, "the ill are walked past");
}

#[test]
fn a_service_that_is_picked_from_by_key_later_gets_its_table_and_its_crowd() {
    let mut it = Subject::new(Picking::default());
    it.list(&["n1", "n2"]);
    it.load("n1").begin();
    let keyed = Picking {
        is_keyed: true,
        ..Picking::default()
    };
    let crowd = keyed.shared.remote.clone();
    it.watch(keyed);
    assert_eq!((it.tables(), crowd.in_flight()), (1, 1));
    it.watch(Picking::default());
    it.put(node("n3"));
    assert_eq!(it.tables(), 0);
    it.load("n1").end();
    assert_eq!(crowd.in_flight(), 0);
}

#[test]
fn other_rules_hold_at_once_for_those_who_are_there() {
    let mut it = Subject::new(slowly());
    it.list(&["n1"]);
    it.put(node("n2"));
    assert!(it.held_back("n2") > 0);
    it.probe(&["n1"], false);
    assert_eq!(it.offered(), ["n2"]);
    it.watch(Picking {
        panic_threshold: 0.9,
        ..Picking::default()
    });
    assert_eq!(it.held_back("n2"), 0, "there is no slow start");
    assert_eq!(it.offered(), ["n1", "n2"], "this is a panic by such rules");
}

#[test]
fn what_is_still_heard_of_a_service_that_is_gone_ejects_nobody() {
    let mut it = Subject::new(Picking {
        is_keyed: true,
        ..outliers()
    });
    it.list(&["n1", "n2", "n3"]);
    it.fail("n1", 5);
    it.membership.handle_service_gone(WEB);
    it.membership.handle_failing(it.now, WEB, &"n2".into());
    it.pass(60);
    assert_eq!((it.tables(), it.membership.poll_timeout()), (0, None));
}

proptest! {
    /// Whatever happens, the counts are those that counting anew would give, and somebody works while anybody is known.
    #[test]
    fn counts_hold_after_any_events(events in prop::collection::vec((0u8..7, 0u8..5, any::<bool>()), 0..150)) {
        let mut it = Subject::new(Picking { panic_threshold: 0.5, outlier: outliers().outlier, ..slowly() });
        for (event, n, flag) in events {
            let id = format!("n{n}");
            match event {
                0 => it.put(node(&id)),
                1 => it.leave(&id),
                2 => it.delete(&id),
                3 => it.probe(&[&id], flag),
                4 if it.knows(&id) => it.fail(&id, 5),
                5 => it.put(NodeFacts { incarnation: 2, weight: u32::from(n), ..node(&id) }),
                _ => it.pass(u64::from(n) * 7),
            }
            it.hold();
        }
    }
}

fn watched(picking: Picking) -> Watched {
    Watched {
        name: "web".into(),
        source: Source::Registry,
        probing: Policy {
            regular: false,
            interval: Duration::from_secs(1),
            healthy_after: 1,
            unhealthy_after: 1,
        },
        picking,
    }
}

struct Subject {
    membership: Membership,
    now: Instant,
}

impl Subject {
    fn new(picking: Picking) -> Self {
        let rules = Rules {
            lost_for_max: LOST_FOR_MAX,
            zone: Some("here".to_owned()),
        };
        Self {
            membership: Membership::new(rules, vec![watched(picking)], Rng::with_seed(1)),
            now: Instant::now(),
        }
    }

    fn watch(&mut self, picking: Picking) {
        let watched = watched(picking);
        self.membership.handle_service(self.now, WEB, watched);
    }

    fn list(&mut self, ids: &[&str]) {
        let nodes = ids.iter().map(|id| node(id)).collect();
        self.membership.handle_list(self.now, nodes);
    }

    fn put(&mut self, facts: NodeFacts) {
        self.membership.handle_put(self.now, facts);
    }

    fn leave(&mut self, id: &str) {
        let leaving = NodeFacts {
            incarnation: u64::MAX,
            leaving: true,
            ..node(id)
        };
        self.put(leaving);
        self.delete(id);
    }

    fn delete(&mut self, id: &str) {
        self.membership.handle_delete(self.now, &id.into());
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.membership.handle_timeout(self.now);
    }

    fn probe(&mut self, ids: &[&str], ok: bool) {
        for id in ids.iter().filter(|id| self.knows(id)).collect::<Vec<_>>() {
            let endpoint = self.membership.member_by_key[&key(id)].endpoint.clone();
            let now = self.now;
            self.membership.handle_probe(now, WEB, &endpoint, ok);
        }
    }

    fn fail(&mut self, id: &str, times: u32) {
        let load = self.load(id);
        for _ in 0..times {
            load.results.count(Outcome::Failed);
        }
        self.membership.handle_failing(self.now, WEB, &id.into());
    }

    fn knows(&self, id: &str) -> bool {
        self.membership.member_by_key.contains_key(&key(id))
    }

    fn load(&self, id: &str) -> Arc<Load> {
        self.membership.member_by_key[&key(id)]
            .endpoint
            .load
            .clone()
    }

    fn held_back(&self, id: &str) -> u32 {
        assert!(self.load(id).held_back() < WHOLE);
        self.load(id).held_back()
    }

    fn ejected(&self) -> Vec<String> {
        let standings = self.membership.standings(Nanos(0)).into_iter();
        standings
            .filter(|it| it.ejected)
            .map(|it| it.node)
            .collect()
    }

    fn offered(&self) -> Vec<String> {
        let standings = self.membership.standings(Nanos(0)).into_iter();
        standings
            .filter(|it| it.offered)
            .map(|it| it.node)
            .collect()
    }

    fn kept_of_1000(&self) -> usize {
        let shared = &self.membership.selection.service_by_idx[&WEB].rules.shared;
        (0..1000).filter(|&it| shared.local_share.keeps(it)).count()
    }

    fn withdrawn(&mut self) -> usize {
        let commands = std::iter::from_fn(|| self.membership.next_command());
        commands
            .filter(|it| matches!(it, Command::Withdraw { .. }))
            .count()
    }

    fn tables(&mut self) -> usize {
        let commands = std::iter::from_fn(|| self.membership.next_command());
        commands
            .filter(|it| matches!(it, Command::Table { .. }))
            .count()
    }

    fn hold(&self) {
        let it = self.membership.selected(WEB);
        let members: BTreeMap<_, _> = self.membership.member_by_key.iter().collect();
        let known = members.values().filter(|it| it.may_work());
        let (mut tally, mut ejected) = (Tally::default(), 0);
        for member in known {
            let is_ejected = member.endpoint.load.results.ejected_until().is_some();
            tally.add(!is_ejected && member.health.state() != State::Unhealthy);
            ejected += usize::from(is_ejected);
        }
        assert_eq!((it.tally, it.ejected), (tally, ejected));
        assert_eq!(it.ejected, self.membership.selection.releases.len());
        assert!(ejected <= 1, "one of five is the most");
        assert_eq!(it.panicking, tally.is_panic(0.5));
        let (_, offered) = self.membership.count(WEB);
        assert!(
            offered > 0 || tally.known == 0,
            "somebody works while anybody is known"
        );
    }
}

fn outliers() -> Picking {
    let policy = outlier::Policy {
        consecutive: 5,
        success_rate: Some(SuccessRate {
            deviations: 1.9,
            endpoints_min: 5,
            requests_min: 100,
        }),
        interval: Duration::from_secs(10),
        base: Duration::from_secs(30),
        max: Duration::from_secs(300),
        share_max: 0.1,
    };
    Picking {
        outlier: Some(policy),
        ..Picking::default()
    }
}

fn slowly() -> Picking {
    let slow_start = SlowStart {
        window: Duration::from_secs(10),
        share_min: 0.1,
        aggression: 1.0,
    };
    Picking {
        slow_start: Some(slow_start),
        ..Picking::default()
    }
}

fn key(id: &str) -> Key {
    (WEB, id.into())
}

fn node(id: &str) -> NodeFacts {
    let n: u16 = id[1..]
        .parse()
        .expect("a test's node is called n and a number");
    NodeFacts {
        id: id.to_owned(),
        incarnation: 1,
        zone: None,
        weight: WEIGHT,
        leaving: false,
        addresses: BTreeMap::from([("web".to_owned(), ([127, 0, 0, 1], 1000 + n).into())]),
    }
}
