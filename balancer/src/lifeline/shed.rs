//! Closes connections that only wait, when memory runs short: those nearest to the end of their patience first, a few at a time.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{Lifeline, Lifelines, Order};

/// One in so many of the idle ones goes in each sweep: four times a second that is half of them in about three seconds.
const SHARE: usize = 16;

/// Fewer than this would take for ever to have an effect.
const AT_LEAST: usize = 16;

impl Lifelines {
    /// Tells those to go, politely, whose time would be over first: among clients of one listener, who has idled for longest. Returns how many.
    pub(crate) fn shed_idle(&self) -> usize {
        let mut idle: Vec<(u64, Arc<Lifeline>)> = self
            .lock()
            .iter()
            .filter(|(_, it)| it.is_idle())
            .map(|(_, it)| (it.deadline_ms.load(Relaxed), it.clone()))
            .collect();
        let n = (idle.len() / SHARE).max(AT_LEAST).min(idle.len());
        if n < idle.len() {
            idle.select_nth_unstable_by_key(n, |(deadline, _)| *deadline);
        }
        idle.iter()
            .take(n)
            .for_each(|(_, it)| it.give(Order::Drain));
        n
    }
}

impl Lifeline {
    fn is_idle(&self) -> bool {
        self.is_idle.load(Relaxed) && self.order() == Order::Live
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_oldest_that_idle_go_first() {
        let start = Instant::now();
        let lines = Lifelines::new(start);
        let all: Vec<_> = (0..40).map(|_| lines.hold()).collect();
        for (n, held) in all.iter().enumerate() {
            held.lifeline
                .idle_within(Duration::from_secs(600 + n as u64));
        }
        all[0].lifeline.until(None);
        all[1].lifeline.within(Duration::from_secs(600));
        assert_eq!(lines.shed_idle(), AT_LEAST);
        let told = |n: usize| all[n].lifeline.order() == Order::Drain;
        assert!(!told(0) && !told(1), "they are in use");
        assert!((2..18).all(told) && !(18..40).any(told));
        assert_eq!(lines.shed_idle(), AT_LEAST);
        assert_eq!(lines.shed_idle(), 6);
        assert_eq!(lines.shed_idle(), 0);
    }
}
