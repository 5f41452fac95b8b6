//! Who waits for an endpoint, and who is next: three classes, a bounded number, and newest first while the queue does not empty.
//!
//! Within a class the first to come is the first to go, as long as the queue empties now and then. Once it has stood for
//! [`STANDING_AFTER`] there is more work than can be done, and whoever has waited longest is the likeliest to have given up: then
//! the newest goes first, and the others run into their wait limit (adaptive LIFO, from B. Maurer, "Fail at Scale", ACM Queue
//! 13(8), 2015). So most who are served at all are served quickly.

use std::{collections::BTreeMap, time::Duration};

use crate::load::Nanos;

/// How long a queue must not have been empty to be taken for one that stands.
pub const STANDING_AFTER: Duration = Duration::from_millis(100);

const CLASSES: usize = 3;

/// How important a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Low,
    #[default]
    Normal,
    High,
}

/// A place in the queue; it stays the same when its holder goes back there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    class: Class,
    number: u64,
}

/// Those who wait. `T` is how one of them is told.
#[derive(Debug)]
pub struct Queue<T> {
    len_max: usize,
    next: u64,
    waiting_by_class: [BTreeMap<u64, T>; CLASSES],
    /// Since when it has not been empty.
    since: Option<Nanos>,
}

/// What came of somebody's wish to wait.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed<T> {
    Waits(Ticket),
    /// It was full, and the newest of the lowest class has lost its place to this one.
    Displaced(Ticket, T),
    /// It is full of those who are as important or more.
    Full,
}

impl<T> Queue<T> {
    pub fn new(len_max: usize) -> Self {
        Self {
            len_max,
            next: 0,
            waiting_by_class: Default::default(),
            since: None,
        }
    }

    pub fn len(&self) -> usize {
        self.waiting_by_class.iter().map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting_by_class.iter().all(BTreeMap::is_empty)
    }

    /// Somebody wants to wait.
    pub fn push(&mut self, now: Nanos, class: Class, who: T) -> Pushed<T> {
        if self.len() < self.len_max {
            return Pushed::Waits(self.add(now, class, who));
        }
        match self.displace_below(class) {
            Some(displaced) => Pushed::Displaced(self.add(now, class, who), displaced),
            None => Pushed::Full,
        }
    }

    /// Takes out whoever is next.
    pub fn pop(&mut self, now: Nanos) -> Option<(Ticket, T)> {
        let is_standing = self.is_standing(now);
        let of_class = |class: Class, waiting: &mut BTreeMap<u64, T>| {
            let next = match is_standing {
                true => waiting.pop_last(),
                false => waiting.pop_first(),
            };
            next.map(|(number, who)| (Ticket { class, number }, who))
        };
        let res = [Class::High, Class::Normal, Class::Low]
            .into_iter()
            .find_map(|class| of_class(class, &mut self.waiting_by_class[class as usize]));
        self.settle();
        res
    }

    /// Whoever was next could not go after all, and has its place back.
    pub fn give_back(&mut self, now: Nanos, ticket: Ticket, who: T) {
        self.since.get_or_insert(now);
        let before = self.waiting_by_class[ticket.class as usize].insert(ticket.number, who);
        debug_assert!(before.is_none(), "a ticket is held by one");
    }

    /// Somebody does not want to wait any longer; none if it was taken out already.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let res = self.waiting_by_class[ticket.class as usize].remove(&ticket.number);
        self.settle();
        res
    }

    fn is_standing(&self, now: Nanos) -> bool {
        self.since
            .is_some_and(|since| now.0.saturating_sub(since.0) >= STANDING_AFTER.as_nanos() as u64)
    }

    fn add(&mut self, now: Nanos, class: Class, who: T) -> Ticket {
        let number = self.next;
        self.next += 1;
        self.since.get_or_insert(now);
        self.waiting_by_class[class as usize].insert(number, who);
        Ticket { class, number }
    }

    fn displace_below(&mut self, class: Class) -> Option<T> {
        let lower = &mut self.waiting_by_class[..class as usize];
        let (_, displaced) = lower.iter_mut().find_map(BTreeMap::pop_last)?;
        Some(displaced)
    }

    fn settle(&mut self) {
        if self.is_empty() {
            self.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Class::{High, Low, Normal},
        *,
    };
    use proptest::prelude::*;

    #[test]
    fn classes_go_before_each_other_and_within_one_the_first_goes_first() {
        let mut queue = Queue::new(10);
        for (class, who) in [(Low, 1), (Normal, 2), (High, 3), (Normal, 4), (High, 5)] {
            assert!(matches!(queue.push(at(0), class, who), Pushed::Waits(_)));
        }
        assert_eq!(drained(&mut queue, at(99)), [3, 5, 2, 4, 1]);
    }

    #[test]
    fn while_it_stands_the_newest_goes_first() {
        let mut queue = Queue::new(10);
        for who in 0..4 {
            queue.push(at(who * 10), Normal, who);
        }
        assert_eq!(queue.pop(at(99)).map(|it| it.1), Some(0));
        assert_eq!(drained(&mut queue, at(100)), [3, 2, 1]);
        queue.push(at(200), Normal, 4);
        queue.push(at(201), Normal, 5);
        assert_eq!(drained(&mut queue, at(250)), [4, 5], "it was empty");
    }

    #[test]
    fn a_full_queue_lets_the_more_important_in() {
        let mut queue = Queue::new(2);
        queue.push(at(0), Low, 1);
        queue.push(at(0), Low, 2);
        assert_eq!(queue.push(at(0), Low, 3), Pushed::Full);
        let pushed = queue.push(at(0), High, 4);
        assert!(matches!(pushed, Pushed::Displaced(_, 2)), "{pushed:?}");
        let pushed = queue.push(at(0), Normal, 5);
        assert!(matches!(pushed, Pushed::Displaced(_, 1)), "{pushed:?}");
        assert_eq!(queue.push(at(0), Normal, 6), Pushed::Full);
        assert_eq!(drained(&mut queue, at(0)), [4, 5]);
    }

    #[test]
    fn who_could_not_go_has_its_place_back() {
        let mut queue = Queue::new(10);
        for who in 0..3 {
            queue.push(at(0), Normal, who);
        }
        let (ticket, who) = queue.pop(at(0)).expect("three wait");
        queue.give_back(at(0), ticket, who);
        assert_eq!(drained(&mut queue, at(0)), [0, 1, 2]);
    }

    #[test]
    fn none_may_wait_where_there_is_no_room() {
        assert_eq!(Queue::new(0).push(at(0), High, ()), Pushed::Full);
    }

    proptest! {
        /// Whoever came in comes out exactly once, whichever way, and there are never too many.
        #[test]
        fn nobody_is_lost(steps in prop::collection::vec((0u8..5, 0usize..3, 0u64..60), 0..300), len_max in 0usize..6) {
            let (mut queue, mut now) = (Queue::new(len_max), 0);
            let mut inside: Vec<(Option<Ticket>, usize)> = Vec::new();
            let out = |inside: &mut Vec<(Option<Ticket>, usize)>, who: usize| {
                let place = inside.iter().position(|it| it.1 == who);
                inside.remove(place.expect("whoever comes out was inside"));
            };
            for (who, (what, class, step)) in steps.into_iter().enumerate() {
                now += step;
                match what {
                    0..=2 => match queue.push(at(now), [Low, Normal, High][class], who) {
                        Pushed::Waits(ticket) => inside.push((Some(ticket), who)),
                        Pushed::Displaced(ticket, displaced) => {
                            out(&mut inside, displaced);
                            inside.push((Some(ticket), who));
                        }
                        Pushed::Full => prop_assert!(inside.len() >= len_max),
                    },
                    3 => if let Some((_, who)) = queue.pop(at(now)) {
                        out(&mut inside, who);
                    },
                    _ => if let Some((Some(ticket), who)) = inside.first().copied() {
                        prop_assert_eq!(queue.remove(ticket), Some(who));
                        out(&mut inside, who);
                    },
                }
                prop_assert_eq!(queue.len(), inside.len());
                prop_assert!(queue.len() <= len_max);
            }
        }
    }

    fn drained(queue: &mut Queue<u64>, now: Nanos) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop(now).map(|it| it.1)).collect()
    }

    fn at(ms: u64) -> Nanos {
        Nanos(ms * 1_000_000)
    }
}
