//! What the view is told to do besides watching: go by a new configuration, and hand over to another process or take over from one.
//!
//! These go through the view because it alone sends changes to the cores: so all cores see them in the same place among all others.

use std::{io, net::SocketAddr, sync::atomic::Ordering::Relaxed, time::Instant};

use balancer_core::{
    membership::{Rules, ServiceIdx},
    reload::{Difference, Fate},
};
use thiserror::Error;
use tokio::sync::oneshot;

use super::View;
use crate::{
    app::{self, StartError},
    config::Config,
    takeover::Inherited,
    worker::Change,
    world::{Committed, Offered},
};

/// Every order is answered where the answer matters; whoever gave it may have gone since.
pub(crate) enum Order {
    Adopt(Box<Config>, oneshot::Sender<Result<Adopted, AdoptError>>),
    /// Open the doors that were kept shut; answered when every core accepts.
    Open(oneshot::Sender<()>),
    /// Say what a successor needs.
    Offer(oneshot::Sender<io::Result<Vec<Offered>>>),
    /// A successor is ready and takes these addresses.
    HandOver(Vec<SocketAddr>, oneshot::Sender<()>),
    /// There is no successor after all.
    TakeBack,
    /// The predecessor has handed over.
    Succeed,
}

/// What a new configuration came to.
pub(crate) enum Adopted {
    Unchanged,
    /// In force when this fires.
    Applied(Changes, oneshot::Receiver<()>),
}

/// How many listeners and services became something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) listeners: Counts,
    pub(crate) services: Counts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) added: usize,
    pub(crate) changed: usize,
    pub(crate) removed: usize,
}

/// Why a checked configuration did not come into force.
#[derive(Debug, Error)]
pub(crate) enum AdoptError {
    #[error("`{0}` cannot change while the balancer runs: restart it, or let another take over")]
    Fixed(String),
    #[error(transparent)]
    Prepare(#[from] StartError),
    #[error("the balancer is leaving")]
    Leaving,
}

impl View {
    pub(super) fn carry_out(&mut self, now: Instant, order: Order) {
        match order {
            Order::Adopt(next, reply) => drop(reply.send(self.adopt(now, *next))),
            Order::Open(reply) => self.open(reply),
            Order::Offer(reply) => drop(reply.send(self.start.world.offer())),
            Order::HandOver(bound, reply) => {
                self.start.world.hand_over(&bound, true);
                self.is_succeeded = true;
                let _ = reply.send(());
            }
            Order::TakeBack => self.take_back(),
            Order::Succeed => self.is_succeeded = false,
        }
    }

    /// Answers those whose batch every core has applied.
    pub(super) fn tell_waiting(&mut self, applied: u64) {
        let is_due = |(batch, _): &mut (u64, _)| *batch <= applied;
        for (_, reply) in self.waiting.extract_if(.., is_due) {
            let _ = reply.send(());
        }
    }

    pub(super) fn keeps_snapshot(&self) -> bool {
        self.watch.is_some() && !self.is_succeeded
    }

    fn adopt(&mut self, now: Instant, next: Config) -> Result<Adopted, AdoptError> {
        if self.start.draining.load(Relaxed) {
            return Err(AdoptError::Leaving);
        }
        let config = self.start.world.config();
        let fixed = config.fixed_differences(&next);
        if !fixed.is_empty() {
            return Err(AdoptError::Fixed(fixed.join("`, `")));
        }
        app::check_registry(&next, self.start.registry.as_ref())?;
        let prepared = self.start.world.prepare(next, &mut Inherited::default())?;
        if prepared.is_as(&config) {
            return Ok(Adopted::Unchanged);
        }
        let before = self.start.world.services().cloned().collect::<Vec<_>>();
        let committed = self.start.world.commit(prepared);
        for service in before {
            if self.start.world.service(service.idx).is_none() {
                service.metrics.endpoints_known.set(0.0);
                service.metrics.endpoints_offered.set(0.0);
                service.metrics.picking.gone();
            }
        }
        Ok(self.enter(now, &committed))
    }

    /// The scene goes first: what the membership says of a new service finds it there.
    fn enter(&mut self, now: Instant, committed: &Committed) -> Adopted {
        self.changes.push(Change::Scene(committed.change.clone()));
        let openings = committed.openings.iter().cloned();
        self.changes.extend(openings.map(Change::Open));
        let config = self.start.world.config();
        self.start.membership.handle_rules(Rules {
            lost_for_max: config.membership.lost_for_max,
            zone: config.zone.clone(),
        });
        for place in &committed.services.removed {
            let service = ServiceIdx(place.0);
            self.resolver_by_service.remove(&service);
            self.start.membership.handle_service_gone(service);
        }
        for (place, fate) in &committed.services.fates {
            if *fate != Fate::Kept {
                self.follow_service(now, ServiceIdx(place.0));
            }
        }
        let changes = Changes {
            listeners: counts(&committed.doors),
            services: counts(&committed.services),
        };
        Adopted::Applied(changes, self.when_applied())
    }

    fn follow_service(&mut self, now: Instant, service: ServiceIdx) {
        let Some(parts) = self.start.world.service(service).cloned() else {
            return;
        };
        let watched = app::watched(&parts);
        self.start.membership.handle_service(now, service, watched);
        self.begin_service(now, service, &parts.policy);
    }

    fn open(&mut self, reply: oneshot::Sender<()>) {
        let shut = std::mem::take(&mut self.start.shut);
        self.changes.extend(shut.into_iter().map(Change::Open));
        self.waiting.push((self.batch + 1, reply));
        if self.changes.is_empty() {
            self.tell_waiting(self.batch + 1);
        }
    }

    /// The next batch carries what was just decided.
    fn when_applied(&mut self) -> oneshot::Receiver<()> {
        let (reply, applied) = oneshot::channel();
        self.waiting.push((self.batch + 1, reply));
        applied
    }

    /// A successor that died had taken the record: this process takes it again, as a later life of the same balancer.
    fn take_back(&mut self) {
        let bound: Vec<_> = self.start.world.addresses();
        let bound: Vec<_> = bound.into_iter().map(|(_, it)| it).collect();
        self.start.world.hand_over(&bound, false);
        self.is_succeeded = false;
        self.snapshot.outdated = true;
        self.start.incarnation = app::incarnation();
        if self.announcement.take().is_some() {
            self.announce();
        }
    }
}

fn counts(difference: &Difference) -> Counts {
    Counts {
        added: difference.count(Fate::Added),
        changed: difference.count(Fate::Changed),
        removed: difference.removed.len(),
    }
}
