//! One interval in numbers: by service, by endpoint, by listener.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Reading, series::quantile};
use crate::cli::{
    shown::{self, list, number, word},
    table::{Cell, Mood, Style, Table},
};

#[derive(Debug, Serialize)]
pub(super) struct Frame {
    services: Vec<Service>,
    endpoints: Vec<Endpoint>,
    listeners: Vec<Listener>,
}

#[derive(Debug, Serialize)]
struct Service {
    name: String,
    requests_per_s: f64,
    in_flight: f64,
    /// Answers of class 5xx, and those that broke off.
    errors_per_s: f64,
    p50_s: Option<f64>,
    p99_s: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    requests_per_s: f64,
    /// As the API tells it.
    #[serde(flatten)]
    told: Value,
}

#[derive(Debug, Serialize)]
struct Listener {
    name: String,
    connections: f64,
    accepted_per_s: f64,
    refused_per_s: f64,
}

impl Frame {
    pub(super) fn between(before: &Reading, now: &Reading) -> Self {
        let change = Change {
            before,
            now,
            seconds: (now.at - before.at).as_secs_f64().max(f64::MIN_POSITIVE),
        };
        let names = |name, label| now.series.values_of(name, label).into_iter();
        let services = names("colonnade_balancer_active_requests", "service");
        let listeners = names("colonnade_balancer_active_connections", "listener");
        Self {
            services: services.map(|it| change.service(it)).collect(),
            endpoints: list(&now.endpoints, "endpoints")
                .iter()
                .map(|it| change.endpoint(it))
                .collect(),
            listeners: listeners.map(|it| change.listener(it)).collect(),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!(self)
    }

    pub(super) fn text(&self, style: Style) -> String {
        let tables = [self.services(), self.endpoints(), self.listeners()];
        tables.map(|it| it.show(style)).join("\n")
    }

    fn services(&self) -> Table {
        let mut table = Table::new(&["SERVICE", ">REQ/S", ">IN FLIGHT", ">ERR/S", ">P50", ">P99"]);
        for it in &self.services {
            let errors = match it.errors_per_s > 0.0 {
                true => Cell::new(rate(it.errors_per_s), Mood::Bad),
                false => rate(it.errors_per_s).into(),
            };
            table.row(vec![
                it.name.clone().into(),
                rate(it.requests_per_s).into(),
                format!("{:.0}", it.in_flight).into(),
                errors,
                latency(it.p50_s).into(),
                latency(it.p99_s).into(),
            ]);
        }
        table
    }

    fn endpoints(&self) -> Table {
        let mut table = Table::new(&[
            "ENDPOINT",
            "SERVICE",
            "STATE",
            ">REQ/S",
            ">IN FLIGHT",
            ">LATENCY",
            ">FAILURES",
        ]);
        for Endpoint {
            requests_per_s,
            told,
        } in &self.endpoints
        {
            table.row(vec![
                word(told, "node").into(),
                word(told, "service").into(),
                shown::endpoint_state(told),
                rate(*requests_per_s).into(),
                word(told, "in_flight").into(),
                shown::latency(told).into(),
                word(told, "failures").into(),
            ]);
        }
        table
    }

    fn listeners(&self) -> Table {
        let mut table = Table::new(&["LISTENER", ">CONNECTIONS", ">ACCEPTED/S", ">REFUSED/S"]);
        for it in &self.listeners {
            table.row(vec![
                it.name.clone().into(),
                format!("{:.0}", it.connections).into(),
                rate(it.accepted_per_s).into(),
                rate(it.refused_per_s).into(),
            ]);
        }
        table
    }
}

struct Change<'a> {
    before: &'a Reading,
    now: &'a Reading,
    seconds: f64,
}

impl Change<'_> {
    fn service(&self, name: &str) -> Service {
        let of = [("service", name)];
        let with = |key, value| [("service", name), (key, value)];
        let failed = self.rate("colonnade_balancer_requests_total", &with("code", "5xx"));
        let cut = with("ended", "node_cut");
        let cut = self.rate("colonnade_balancer_exchanges_ended_total", &cut);
        let buckets = self.buckets(&of);
        Service {
            name: name.to_owned(),
            requests_per_s: self.rate("colonnade_balancer_exchanges_ended_total", &of),
            in_flight: self
                .now
                .series
                .sum("colonnade_balancer_active_requests", &of),
            errors_per_s: failed + cut,
            p50_s: quantile(&buckets, 0.50),
            p99_s: quantile(&buckets, 0.99),
        }
    }

    fn endpoint(&self, told: &Value) -> Endpoint {
        let is_same = |it: &&Value| it["service"] == told["service"] && it["node"] == told["node"];
        let before = list(&self.before.endpoints, "endpoints")
            .iter()
            .find(is_same);
        // The balancer counts modulo 2³².
        let begun = |it: &Value| number(it, "begun") as u32;
        let more = before.map_or(0, |it| begun(told).wrapping_sub(begun(it)));
        Endpoint {
            requests_per_s: f64::from(more) / self.seconds,
            told: told.clone(),
        }
    }

    fn listener(&self, name: &str) -> Listener {
        let of = [("listener", name)];
        let active = "colonnade_balancer_active_connections";
        Listener {
            name: name.to_owned(),
            connections: self.now.series.sum(active, &of),
            accepted_per_s: self.rate("colonnade_balancer_accepted_connections_total", &of),
            refused_per_s: self.rate("colonnade_balancer_refused_connections_total", &of),
        }
    }

    /// A balancer that was started anew in between counts from 0 again.
    fn rate(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let more = self.now.series.sum(name, labels) - self.before.series.sum(name, labels);
        more.max(0.0) / self.seconds
    }

    fn buckets(&self, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let name = "colonnade_balancer_request_duration_seconds_bucket";
        let before = self.before.series.buckets(name, labels);
        let now = self.now.series.buckets(name, labels);
        // A service that nobody had used before has no buckets then.
        let earlier = |at: usize| before.get(at).map_or(0.0, |it| it.1);
        let changes = (0..).zip(&now);
        changes
            .map(|(at, (bound, count))| (*bound, (count - earlier(at)).max(0.0)))
            .collect()
    }
}

fn rate(per_s: f64) -> String {
    match per_s {
        it if it > 0.0 && it < 10.0 => format!("{it:.1}"),
        it => format!("{it:.0}"),
    }
}

fn latency(seconds: Option<f64>) -> String {
    seconds.map_or("-".to_owned(), shown::milliseconds)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cli::top::Series;

    #[test]
    fn rates_are_what_changed_in_the_time_between() {
        let began = Instant::now();
        let before = reading(began, 100, 4, u64::from(u32::MAX));
        let now = reading(began + Duration::from_secs(2), 120, 8, 9);
        let frame = Frame::between(&before, &now);
        let service = &frame.services[0];
        assert_eq!((service.requests_per_s, service.errors_per_s), (10.0, 2.0));
        assert_eq!(service.p50_s, Some(0.05));
        assert_eq!(frame.endpoints[0].requests_per_s, 5.0, "counts wrap");
        assert_eq!(frame.listeners[0].connections, 3.0);
        let text = frame.text(Style::default());
        assert!(
            text.contains("app         10          2    2.0  50.0 ms"),
            "{text}"
        );
    }

    fn reading(at: Instant, ended: u32, failed: u32, begun: u64) -> Reading {
        let of = r#"{service="app""#;
        let text = format!(
            "colonnade_balancer_active_requests{of}}} 2\n\
             colonnade_balancer_exchanges_ended_total{of},ended=\"completed\"}} {ended}\n\
             colonnade_balancer_requests_total{of},code=\"5xx\"}} {failed}\n\
             colonnade_balancer_request_duration_seconds_bucket{of},le=\"0.1\"}} {ended}\n\
             colonnade_balancer_request_duration_seconds_bucket{of},le=\"+Inf\"}} {ended}\n\
             colonnade_balancer_active_connections{{listener=\"web\"}} 3\n"
        );
        Reading {
            at,
            series: Series::parse(&text),
            endpoints: json!({ "endpoints": [{ "service": "app", "node": "n1", "begun": begun }] }),
        }
    }
}
