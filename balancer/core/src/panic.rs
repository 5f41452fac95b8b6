//! How many of a service's endpoints are fit for work, and when so few are that it is wiser to doubt the verdicts.
//!
//! If most endpoints seem ill at once, the fault is likely with whoever asks, and the few that are left would drown in the work of
//! all. Below the threshold everybody known gets work, so the set of endpoints is never empty while anybody is known.

/// A service's endpoints by number; those that leave or were taken out by an operator are not known here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub known: usize,
    /// Healthy and not ejected.
    pub available: usize,
}

impl Tally {
    pub fn add(&mut self, is_available: bool) {
        self.known += 1;
        self.available += usize::from(is_available);
    }

    pub fn take(&mut self, was_available: bool) {
        debug_assert!(self.known > 0, "only what was added is taken away");
        self.known -= 1;
        self.available -= usize::from(was_available);
    }

    /// Whether fewer than the share `threshold` of the known are available; a threshold of 0 never holds.
    pub fn is_panic(self, threshold: f64) -> bool {
        (self.available as f64) < self.known as f64 * threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_begins_below_the_threshold_and_not_at_it() {
        let panics = |known, available, threshold| Tally { known, available }.is_panic(threshold);
        assert!(!panics(0, 0, 0.5), "nobody is known");
        assert!(!panics(4, 2, 0.5));
        assert!(panics(4, 1, 0.5));
        assert!(panics(1, 0, 0.01));
        assert!(!panics(4, 0, 0.0), "off");
    }
}
