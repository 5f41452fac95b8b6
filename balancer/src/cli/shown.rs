//! The API's answers as tables. What an answer does not have is shown as `-`, so that an older or newer balancer can be asked too.

use std::time::Duration;

use serde_json::Value;

use super::table::{Cell, Mood, Style, Table, clean};

pub(super) fn status(status: &Value, endpoints: &Value, style: Style) -> String {
    let uptime = Duration::from_secs(number(status, "uptime_ms") / 1000);
    let mut table = Table::new(&["BALANCER", ""]);
    table.row(vec![word(status, "id").into(), state(status)]);
    for (name, value) in [
        ("version", word(status, "version")),
        ("up", humantime::format_duration(uptime).to_string()),
        ("cores", word(status, "cores")),
        ("registry", registry(&status["registry"])),
        ("endpoints", endpoints_in_words(endpoints)),
        ("address", word(status, "address")),
        ("socket", word(status, "socket")),
    ] {
        table.row(vec![name.into(), value.into()]);
    }
    table.show(style)
}

fn state(status: &Value) -> Cell {
    match (status["draining"] == true, status["ready"] == true) {
        (true, _) => Cell::new("leaving", Mood::Doubtful),
        (false, true) => Cell::new("ready", Mood::Good),
        (false, false) => Cell::new("not ready", Mood::Bad),
    }
}

fn registry(registry: &Value) -> String {
    if registry.is_null() {
        return "none".to_owned();
    }
    let state = match registry["connected"] == true {
        true => "connected",
        false => "OUT OF REACH, the last view is kept",
    };
    let (revision, applied) = (
        word(registry, "revision"),
        word(registry, "applied_revision"),
    );
    let heard = Duration::from_millis(number(registry, "staleness_ms"));
    format!("{state}; revision {revision}, applied {applied}; heard {heard:.1?} ago")
}

fn endpoints_in_words(endpoints: &Value) -> String {
    let all = list(endpoints, "endpoints");
    let count = |is: &dyn Fn(&&Value) -> bool| all.iter().filter(is).count();
    let offered = count(&|it| it["offered"] == true);
    let overridden = count(&|it| !it["override"].is_null());
    format!(
        "{} known, {offered} offered, {overridden} overridden",
        all.len()
    )
}

pub(super) fn endpoints(answer: &Value, service: Option<&str>, style: Style) -> String {
    let mut table = Table::new(&[
        "SERVICE",
        "NODE",
        "ADDRESS",
        "STATE",
        ">WEIGHT",
        ">IN FLIGHT",
        ">LATENCY",
        "ZONE",
    ]);
    let wanted = |it: &&Value| service.is_none_or(|name| it["service"] == name);
    for it in list(answer, "endpoints").iter().filter(wanted) {
        table.row(vec![
            word(it, "service").into(),
            word(it, "node").into(),
            word(it, "address").into(),
            endpoint_state(it),
            word(it, "weight").into(),
            word(it, "in_flight").into(),
            latency(it).into(),
            word(it, "zone").into(),
        ]);
    }
    table.show(style)
}

/// The most telling reason first: what an operator ordered, what a node said, what was seen.
pub(super) fn endpoint_state(it: &Value) -> Cell {
    let mut words = Vec::new();
    if it["override"]["drained"] == true {
        words.push("drained by order".to_owned());
    }
    if !it["override"]["weight"].is_null() {
        words.push("weight by order".to_owned());
    }
    if it["presence"] != "announced" {
        words.push(word(it, "presence"));
    }
    if it["ejected"] == true {
        words.push("ejected".to_owned());
    }
    words.push(word(it, "health"));
    if it["suspected"] == true {
        words.push("suspected".to_owned());
    }
    let mood = match (it["offered"] == true, it["suspected"] == true) {
        (false, _) => Mood::Bad,
        (true, true) => Mood::Doubtful,
        (true, false) => Mood::Good,
    };
    let first = if it["offered"] == true {
        "in use"
    } else {
        "no new work"
    };
    Cell::new(format!("{first}: {}", words.join(", ")), mood)
}

pub(super) fn latency(it: &Value) -> String {
    match it["latency_us"].as_u64() {
        Some(us) => milliseconds(us as f64 / 1e6),
        None => "-".to_owned(),
    }
}

pub(super) fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

pub(super) fn services(answer: &Value) -> String {
    let mut table = Table::new(&[
        "SERVICE",
        "DISCOVER",
        "PROTOCOL",
        ">KNOWN",
        ">OFFERED",
        ">IN FLIGHT",
    ]);
    for it in list(answer, "services") {
        let keys = [
            "name",
            "discover",
            "protocol",
            "endpoints_known",
            "endpoints_offered",
            "in_flight",
        ];
        table.row(keys.map(|key| word(it, key).into()).to_vec());
    }
    table.show(Style::default())
}

pub(super) fn listeners(answer: &Value) -> String {
    let mut table = Table::new(&[
        "LISTENER",
        "ADDRESS",
        "PROTOCOL",
        "SERVICE",
        ">MAX CONNECTIONS",
    ]);
    for it in list(answer, "listeners") {
        let keys = ["name", "address", "protocol", "service", "max_connections"];
        table.row(keys.map(|key| word(it, key).into()).to_vec());
    }
    table.show(Style::default())
}

pub(super) fn routes(answer: &Value) -> String {
    let mut table = Table::new(&["ROUTE", "LISTENERS", "HOSTS", "PATH", "SERVICE"]);
    for it in list(answer, "routes") {
        table.row(vec![
            word(it, "name").into(),
            joined(it, "listeners", "-").into(),
            joined(it, "hosts", "*").into(),
            word(it, "path").into(),
            word(it, "service").into(),
        ]);
    }
    table.show(Style::default())
}

/// JSON is for people too, where it is laid out.
pub(super) fn config(answer: &Value) -> String {
    serde_json::to_string_pretty(answer).unwrap_or_else(|_| answer.to_string())
}

fn joined(value: &Value, key: &str, none: &str) -> String {
    let words: Vec<_> = list(value, key).iter().filter_map(Value::as_str).collect();
    match words.is_empty() {
        true => none.to_owned(),
        false => words.join(","),
    }
}

pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

pub(super) fn word(value: &Value, key: &str) -> String {
    match &value[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) => clean(text.clone()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_endpoint_says_why_it_gets_no_work() {
        let mut it = json!({
            "service": "web", "node": "n1", "address": "127.0.0.1:1", "presence": "announced", "health": "healthy",
            "offered": false, "suspected": false, "weight": 100, "in_flight": 2, "zone": null, "latency_us": 1234,
            "override": { "drained": true, "weight": null },
        });
        let shown = |it: &Value| endpoints(&json!({ "endpoints": [it] }), None, Style::default());
        assert_eq!(
            shown(&it).lines().nth(1),
            Some(
                "web      n1    127.0.0.1:1  no new work: drained by order, healthy     100          2   1.2 ms  -"
            )
        );
        it["override"] = Value::Null;
        it["offered"] = true.into();
        assert!(shown(&it).contains("in use: healthy"));
        let none = endpoints(
            &json!({ "endpoints": [it] }),
            Some("other"),
            Style::default(),
        );
        assert_eq!(none.lines().count(), 1, "only the heading is left");
    }

    #[test]
    fn what_is_not_told_is_a_dash() {
        let text = status(&json!({ "id": "b" }), &json!({}), Style::default());
        assert!(
            text.contains("not ready") && text.contains("version    -"),
            "{text}"
        );
        assert!(text.contains("0 known, 0 offered, 0 overridden"), "{text}");
    }

    #[test]
    fn a_route_for_any_host_shows_a_star() {
        let route =
            json!({ "name": "r", "listeners": ["web"], "hosts": [], "path": "/", "service": "s" });
        let text = routes(&json!({ "routes": [route] }));
        assert_eq!(
            text.lines().nth(1),
            Some("r      web        *      /     s")
        );
    }
}
