//! What is counted of the choice among endpoints.

use balancer_core::{membership::Selected, outlier::Cause};
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// What one service counts of it.
#[derive(Clone)]
pub(crate) struct PickMetrics {
    pub(crate) local: Counter,
    pub(crate) remote: Counter,
    ejected: Gauge,
    panicking: Gauge,
    ejections: [Counter; Cause::ALL.len()],
}

impl PickMetrics {
    pub(super) fn new(service: &str) -> Self {
        let name = || service.to_owned();
        let zone = |zone: &'static str| counter!("colonnade_balancer_zone_picks_total", "service" => name(), "zone" => zone);
        let ejections = |cause: Cause| counter!("colonnade_balancer_ejections_total", "service" => name(), "cause" => cause.word());
        Self {
            local: zone("local"),
            remote: zone("remote"),
            ejected: gauge!("colonnade_balancer_endpoints", "service" => name(), "state" => "ejected"),
            panicking: gauge!("colonnade_balancer_panic", "service" => name()),
            ejections: Cause::ALL.map(ejections),
        }
    }

    /// The service is no longer configured.
    pub(crate) fn gone(&self) {
        self.ejected.set(0.0);
        self.panicking.set(0.0);
    }

    pub(crate) fn show(&self, selected: &Selected) {
        self.ejected.set(selected.ejected as f64);
        self.panicking
            .set(if selected.panicking { 1.0 } else { 0.0 });
        for (counter, ejections) in self.ejections.iter().zip(selected.ejections) {
            counter.absolute(ejections);
        }
    }
}

pub(super) fn describe() {
    describe_counter!(
        "colonnade_balancer_zone_picks_total",
        "Endpoints lent, by whether they are in the balancer's zone."
    );
    describe_counter!(
        "colonnade_balancer_ejections_total",
        "Endpoints ejected for bad answers, by cause."
    );
    describe_gauge!(
        "colonnade_balancer_panic",
        "1 while so few endpoints are fit for work that all get it."
    );
}
