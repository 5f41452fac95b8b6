//! How long to wait before the next try, so that many waiting processes do not come back in step.

use std::time::Duration;

/// The first pause: long enough not to spin, short enough that another member is tried at once.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause: how late a registry that came back is noticed.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Doubling pauses, each cut by up to a half at random.
#[derive(Debug)]
pub(crate) struct Backoff {
    pause: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { pause: PAUSE_MIN }
    }

    pub(crate) fn reset(&mut self) {
        self.pause = PAUSE_MIN;
    }

    pub(crate) fn next(&mut self, rng: &mut fastrand::Rng) -> Duration {
        let pause = self.pause.mul_f64(0.5 + rng.f64() / 2.0);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_again() {
        let (mut backoff, mut rng) = (Backoff::new(), fastrand::Rng::with_seed(1));
        assert!(backoff.next(&mut rng) <= PAUSE_MIN);
        let later: Vec<_> = (0..20).map(|_| backoff.next(&mut rng)).collect();
        assert!(later.iter().all(|it| *it <= PAUSE_MAX));
        assert!(later.last().is_some_and(|it| *it >= PAUSE_MAX / 2));
        backoff.reset();
        assert!(backoff.next(&mut rng) <= PAUSE_MIN);
    }
}
