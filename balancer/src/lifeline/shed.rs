//! Closes connections that only wait, when memory runs short: the oldest first, a few at a time.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{Lifeline, Lifelines, Order};

/// One in so many of the idle ones goes in each sweep: four times a second that is half of them in about three seconds.
const SHARE: usize = 16;

/// Fewer than this would take for ever to have an effect.
const AT_LEAST: usize = 16;

impl Lifelines {
    /// Tells those that have idled for longest to go, politely. Returns how many.
    pub(crate) fn shed_idle(&self) -> usize {
        let mut idle: Vec<(u64, Arc<Lifeline>)> = self
            .lock()
            .iter()
            .filter(|(_, it)| it.is_idle())
            .map(|(_, it)| (it.since_ms.load(Relaxed), it.clone()))
            .collect();
        let n = (idle.len() / SHARE).max(AT_LEAST).min(idle.len());
        if n < idle.len() {
            idle.select_nth_unstable_by_key(n, |(since, _)| *since);
        }
        idle.iter()
            .take(n)
            .for_each(|(_, it)| it.give(Order::Drain));
        n
    }
}

impl Lifeline {
    fn is_idle(&self) -> bool {
        let is_free = self.exchanges.load(Relaxed) == 0 && !self.is_in_head();
        is_free && !self.is_tunnel.load(Relaxed) && self.order() == Order::Live
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::Patience;
    use super::*;

    #[test]
    fn the_oldest_that_idle_go_first() {
        let start = Instant::now();
        let lines = Lifelines::new(start);
        let patience = Patience {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(600),
        };
        let all: Vec<_> = (0..40).map(|_| lines.hold(patience)).collect();
        for (n, held) in all.iter().enumerate() {
            held.lifeline.touch(start + Duration::from_secs(n as u64));
        }
        all[0].lifeline.begin();
        all[1].lifeline.becomes_tunnel(Duration::from_secs(3600));
        assert_eq!(lines.shed_idle(), AT_LEAST);
        let told = |n: usize| all[n].lifeline.order() == Order::Drain;
        assert!(!told(0) && !told(1), "they are in use");
        assert!((2..18).all(told) && !(18..40).any(told));
        assert_eq!(lines.shed_idle(), AT_LEAST);
        assert_eq!(lines.shed_idle(), 6);
        assert_eq!(lines.shed_idle(), 0);
    }
}
