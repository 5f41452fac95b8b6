//! How much of a balancer's work stays in its own zone: all of it while the zone's endpoints can carry their part of the whole.
//!
//! Balancers are taken to share the traffic evenly over the zones. A zone that has less than its part of the capacity, because it
//! has few endpoints or because some of them are ill, hands on as much as it lacks, and takes a little more than its part before
//! it does.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// By how much a zone may be overfilled before work leaves it.
const OVERFILL: f64 = 1.4;

const ALL: u32 = 1000;

/// The share of picks that stay local, as one thread decides and every core reads.
#[derive(Debug)]
pub struct LocalShare(AtomicU32);

impl Default for LocalShare {
    fn default() -> Self {
        Self(AtomicU32::new(ALL))
    }
}

impl LocalShare {
    pub fn set(&self, share: f64) {
        self.0.store((share * f64::from(ALL)) as u32, Relaxed);
    }

    /// Whether a pick stays, for `roll` drawn evenly from all numbers.
    pub fn keeps(&self, roll: u64) -> bool {
        roll % u64::from(ALL) < u64::from(self.0.load(Relaxed))
    }
}

/// The capacity of a service's endpoints by zone, in weights.
#[derive(Debug, Default)]
pub struct Capacity {
    known_by_zone: HashMap<Option<String>, u64>,
    known: u64,
    local_available: u64,
}

impl Capacity {
    pub fn add(&mut self, zone: Option<&str>, weight: u32, available_here: bool) {
        let weight = u64::from(weight);
        *self
            .known_by_zone
            .entry(zone.map(str::to_owned))
            .or_default() += weight;
        self.known += weight;
        self.local_available += weight * u64::from(available_here);
    }

    pub fn take(&mut self, zone: Option<&str>, weight: u32, available_here: bool) {
        let (zone, weight) = (zone.map(str::to_owned), u64::from(weight));
        if let Some(known) = self.known_by_zone.get_mut(&zone) {
            *known -= weight;
            if *known == 0 {
                self.known_by_zone.remove(&zone);
            }
        }
        self.known -= weight;
        self.local_available -= weight * u64::from(available_here);
    }

    /// The share of this zone's work that stays in it.
    pub fn local_share(&self) -> f64 {
        if self.known == 0 {
            return 1.0;
        }
        let expected = self.known as f64 / self.known_by_zone.len() as f64;
        (self.local_available as f64 / expected * OVERFILL).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_that_can_carry_its_part_keeps_it() {
        assert_eq!(share(&[("here", 3, 3), ("there", 3, 3)]), 1.0);
        assert_eq!(
            share(&[("here", 5, 4), ("there", 5, 5)]),
            1.0,
            "it is overfilled a little"
        );
    }

    #[test]
    fn a_zone_hands_on_what_it_lacks() {
        assert_eq!(share(&[("here", 4, 2), ("there", 4, 4)]), 0.7);
        assert_eq!(share(&[("here", 4, 0), ("there", 4, 4)]), 0.0);
        assert!(
            (share(&[("here", 1, 1), ("there", 9, 9)]) - 0.28).abs() < 1e-9,
            "few endpoints cannot carry half of the work"
        );
        assert_eq!(share(&[("there", 3, 3)]), 0.0);
    }

    #[test]
    fn what_is_taken_leaves_no_trace() {
        let mut capacity = Capacity::default();
        capacity.add(Some("here"), 100, true);
        capacity.add(None, 50, false);
        capacity.take(None, 50, false);
        assert_eq!(
            (capacity.local_share(), capacity.known_by_zone.len()),
            (1.0, 1)
        );
    }

    #[test]
    fn picks_follow_the_share() {
        let it = LocalShare::default();
        it.set(0.25);
        assert_eq!((0..4000).filter(|&roll| it.keeps(roll)).count(), 1000);
    }

    /// The local share of zones with so many endpoints, and so many of them available.
    fn share(zones: &[(&str, u32, u32)]) -> f64 {
        let mut capacity = Capacity::default();
        for &(zone, known, available) in zones {
            for n in 0..known {
                capacity.add(Some(zone), 100, zone == "here" && n < available);
            }
        }
        capacity.local_share()
    }
}
