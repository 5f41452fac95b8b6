//! How much of its weight an endpoint gets while it is new, so that cold caches are not flooded.
//!
//! Only relative shares matter: endpoints that became available together are held back alike, which holds nobody back.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct SlowStart {
    /// From becoming available until the whole weight is given.
    pub window: Duration,
    /// The share of its weight that it begins with, from 0 to 1.
    pub share_min: f64,
    /// 1 grows evenly; more gives more early, less gives more late.
    pub aggression: f64,
}

impl SlowStart {
    /// The share of its weight for an endpoint that became available `age` ago.
    pub fn share(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let grown = age.as_secs_f64() / self.window.as_secs_f64();
        grown.powf(1.0 / self.aggression).clamp(self.share_min, 1.0)
    }

    /// How often the share is worth looking at.
    pub fn step(&self) -> Duration {
        (self.window / 64).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_grows_from_the_least_share_to_the_whole() {
        let it = slow_start(1.0);
        let shares = [0, 5, 50, 99, 100, 1000].map(|s| it.share(Duration::from_secs(s)));
        assert_eq!(shares, [0.1, 0.1, 0.5, 0.99, 1.0, 1.0]);
    }

    #[test]
    fn aggression_gives_more_early() {
        let at_quarter = |aggression| slow_start(aggression).share(Duration::from_secs(25));
        assert_eq!([0.5, 1.0, 2.0].map(at_quarter), [0.1, 0.25, 0.5]);
    }

    proptest! {
        #[test]
        fn it_never_shrinks(aggression in 0.1f64..10.0, ages in prop::collection::vec(0u64..200, 2)) {
            let it = slow_start(aggression);
            let share = |s: u64| it.share(Duration::from_secs(s));
            prop_assert!(share(ages[0].min(ages[1])) <= share(ages[0].max(ages[1])));
        }
    }

    fn slow_start(aggression: f64) -> SlowStart {
        SlowStart {
            window: Duration::from_secs(100),
            share_min: 0.1,
            aggression,
        }
    }
}
