//! A story in words, as the admin API and `balancer explain` tell it.

use std::{
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use serde::Serialize;

use super::{Candidate, Kind, NameId, Policy, Story, Try};

/// One exchange, told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    pub id: Option<String>,
    pub trace: Option<String>,
    pub connection: Option<u64>,
    pub kind: &'static str,
    /// RFC 3339, in UTC.
    pub began: String,
    #[serde(skip)]
    pub began_us: u64,
    pub duration_us: u64,
    pub listener: Option<String>,
    pub route: Option<String>,
    pub service: Option<String>,
    pub status: Option<u16>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub tries: Vec<ToldTry>,
    /// How many there were; `tries` holds the first two and the last.
    pub tries_count: u8,
    pub retries_denied: u8,
    /// None while it is under way.
    pub ended: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToldTry {
    pub number: u8,
    pub node: String,
    pub policy: &'static str,
    pub candidates: u16,
    /// The choice in one line, such as `p2c: n3 (2 in flight, 1.2 ms) over n1 (5 in flight, 3.4 ms), of 3`.
    pub why: String,
    pub began_us: u32,
    pub connect_us: u32,
    pub first_byte_us: Option<u32>,
    pub end: &'static str,
}

impl Told {
    pub(super) fn of<'n>(story: &Story, text: impl Fn(NameId) -> &'n str) -> Self {
        let name = |id: NameId| (id != NameId::default()).then(|| text(id).to_owned());
        let began = UNIX_EPOCH + Duration::from_micros(story.began_us);
        let tries = story.tries.kept();
        Self {
            id: (!story.id.is_none()).then(|| story.id.to_string()),
            trace: (!story.trace.is_none()).then(|| story.trace.to_string()),
            connection: Some(story.connection).filter(|it| *it != 0),
            kind: story.kind.word(),
            began: humantime::format_rfc3339_micros(began).to_string(),
            began_us: story.began_us,
            duration_us: story.took_us,
            listener: name(story.listener),
            route: name(story.route),
            service: name(story.service),
            status: Some(story.status).filter(|it| *it != 0 && story.kind != Kind::Relay),
            received_bytes: story.received,
            sent_bytes: story.sent,
            tries: tries.map(|(n, it)| ToldTry::of(n, it, &text)).collect(),
            tries_count: story.tries.count(),
            retries_denied: story.retries_denied,
            ended: story.ended.map(|it| it.code()),
        }
    }
}

impl ToldTry {
    fn of<'n>(number: u8, it: &Try, text: &impl Fn(NameId) -> &'n str) -> Self {
        Self {
            number,
            node: text(it.picked.node).to_owned(),
            policy: it.policy.word(),
            candidates: it.candidates,
            why: why(it, text),
            began_us: it.began_us,
            connect_us: it.connect_us,
            first_byte_us: Some(it.first_byte_us).filter(|it| *it != 0),
            end: it.end.word(),
        }
    }
}

fn why<'n>(it: &Try, text: &impl Fn(NameId) -> &'n str) -> String {
    let mut why = format!("{}: {}", it.policy.word(), candidate(it.picked, text));
    if it.over.node != NameId::default() && it.policy != Policy::Only {
        // Writing to a text cannot fail.
        let _ = write!(why, " over {}", candidate(it.over, text));
    }
    if it.candidates > 0 {
        let _ = write!(why, ", of {}", it.candidates);
    }
    why
}

fn candidate<'n>(it: Candidate, text: &impl Fn(NameId) -> &'n str) -> String {
    let (node, in_flight) = (text(it.node), it.in_flight);
    match it.latency_us {
        0 => format!("{node} ({in_flight} in flight, not measured)"),
        us => format!(
            "{node} ({in_flight} in flight, {:.1} ms)",
            f64::from(us) / 1000.0
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::{Ending, ExchangeId, TryEnd};

    const NAMES: [&str; 5] = ["-", "web", "all", "n3", "n1"];

    #[test]
    fn a_choice_of_two_is_told_with_both() {
        let told = told(&example());
        assert_eq!(
            told.tries[0].why,
            "p2c: n3 (2 in flight, 1.2 ms) over n1 (5 in flight, not measured), of 3"
        );
        assert_eq!(
            (told.tries[0].end, told.tries[0].first_byte_us),
            ("gone", None)
        );
        assert_eq!(told.began, "1970-01-01T00:00:01.500000Z");
        assert_eq!(told.ended, Some("node_gone"));
        assert_eq!(
            (told.service.as_deref(), told.listener),
            (Some("web"), None)
        );
    }

    #[test]
    fn the_json_has_what_a_program_reads() {
        let json = serde_json::to_value(told(&example())).expect("it is plain data");
        assert_eq!(json["id"], "00000000000000000000000000000007");
        assert_eq!(json["tries"][0]["node"], "n3");
        assert_eq!(json["status"], 502);
    }

    fn told(story: &Story) -> Told {
        Told::of(story, |id| NAMES[usize::from(id.0)])
    }

    fn example() -> Story {
        let mut story = Story {
            id: ExchangeId::from(7),
            began_us: 1_500_000,
            service: NameId(1),
            route: NameId(2),
            status: 502,
            ended: Some(Ending::of(3)),
            ..Story::default()
        };
        story.tries.push(Try {
            picked: Candidate {
                node: NameId(3),
                latency_us: 1_200,
                in_flight: 2,
            },
            over: Candidate {
                node: NameId(4),
                latency_us: 0,
                in_flight: 5,
            },
            candidates: 3,
            policy: Policy::P2c,
            end: TryEnd::Gone,
            ..Try::default()
        });
        story
    }
}
