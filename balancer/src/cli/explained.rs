//! What became of exchanges, as a person reads it: what it was, each try with why it went there, and why it ended.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    shown::{list, number, word},
    table::{Cell, Mood, Style, Table},
};

pub(super) fn stories(answer: &Value) -> String {
    let stories: Vec<_> = list(answer, "exchanges").iter().map(story).collect();
    stories.join("\n")
}

pub(super) fn table(answer: &Value, style: Style) -> String {
    let mut rows = Table::new(&[
        "ID", "BEGAN", "KIND", "SERVICE", "NODE", ">TRIES", ">STATUS", ">TOOK", "ENDED",
    ]);
    for it in list(answer, "exchanges") {
        let node = list(it, "tries")
            .last()
            .map_or("-".into(), |it| word(it, "node"));
        rows.row(vec![
            word(it, "id").into(),
            word(it, "began").into(),
            word(it, "kind").into(),
            word(it, "service").into(),
            node.into(),
            word(it, "tries_count").into(),
            word(it, "status").into(),
            span(number(it, "duration_us")).into(),
            ended(it),
        ]);
    }
    rows.show(style)
}

fn story(it: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{name:<11}{value}");
    };
    line(
        "exchange",
        format!("{}, {}", word(it, "id"), word(it, "kind")),
    );
    line("trace", word(it, "trace"));
    line("connection", word(it, "connection"));
    line(
        "began",
        format!("{} at listener {}", word(it, "began"), word(it, "listener")),
    );
    line(
        "route",
        format!("{}, service {}", word(it, "route"), word(it, "service")),
    );
    for each in list(it, "tries") {
        line(&format!("try {}", word(each, "number")), one_try(each));
    }
    let (kept, count) = (list(it, "tries").len() as u64, number(it, "tries_count"));
    if count > kept {
        line(
            "",
            format!("{} tries between them are not remembered", count - kept),
        );
    }
    if number(it, "retries_denied") > 0 {
        line(
            "denied",
            format!(
                "{} retries that the budget did not allow",
                word(it, "retries_denied")
            ),
        );
    }
    line(
        "bytes",
        format!(
            "{} from the client, {} to it",
            word(it, "received_bytes"),
            word(it, "sent_bytes")
        ),
    );
    let took = span(number(it, "duration_us"));
    line(
        "ended",
        format!(
            "{} after {took}, status {}",
            word(it, "ended").replace('-', "not yet"),
            word(it, "status")
        ),
    );
    text
}

fn one_try(it: &Value) -> String {
    let connect = match number(it, "connect_us") {
        0 => String::new(),
        us => format!("connected in {}, ", span(us)),
    };
    let first = match it["first_byte_us"].as_u64() {
        Some(us) => format!("first byte after {}", span(us)),
        None => "no first byte".to_owned(),
    };
    let began = span(number(it, "began_us"));
    format!(
        "{} after {began}; {}; {connect}{first}; {}",
        word(it, "node"),
        word(it, "why"),
        word(it, "end")
    )
}

fn ended(it: &Value) -> Cell {
    let mood = match it["ended"].as_str() {
        Some("completed" | "tunnel_closed") => Mood::Good,
        Some("client_gone") | None => Mood::Doubtful,
        Some(_) => Mood::Bad,
    };
    Cell::new(word(it, "ended").replace('-', "not yet"), mood)
}

fn span(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_story_reads_from_what_it_was_to_why_it_ended() {
        let told = stories(&json!({ "exchanges": [example()] }));
        let expected = "exchange   07, http/1.1
trace      -
connection 41
began      2026-01-01T00:00:00Z at listener web
route      all, service app
try 1      n3 after 12 us; p2c: n3 (2 in flight, 1.2 ms) over n1 (5 in flight, 3.4 ms), of 3; connected in 1.5 ms, no first byte; gone
           1 tries between them are not remembered
denied     1 retries that the budget did not allow
bytes      0 from the client, 17 to it
ended      node_gone after 1.2 s, status 502
";
        assert_eq!(told, expected);
    }

    #[test]
    fn a_list_has_a_line_for_each() {
        let text = table(&json!({ "exchanges": [example()] }), Style::default());
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.lines()
                .nth(1)
                .is_some_and(|it| it.ends_with("1.2 s  node_gone")),
            "{text}"
        );
    }

    fn example() -> Value {
        let tried = json!({
            "number": 1, "node": "n3", "why": "p2c: n3 (2 in flight, 1.2 ms) over n1 (5 in flight, 3.4 ms), of 3",
            "began_us": 12, "connect_us": 1500, "first_byte_us": null, "end": "gone",
        });
        json!({
            "id": "07", "trace": null, "connection": 41, "kind": "http/1.1", "began": "2026-01-01T00:00:00Z",
            "duration_us": 1_200_000, "listener": "web", "route": "all", "service": "app", "status": 502,
            "received_bytes": 0, "sent_bytes": 17, "tries": [tried], "tries_count": 2, "retries_denied": 1,
            "ended": "node_gone",
        })
    }
}
