//! Plays each request of the corpus against the balancer and holds what a strict node has read against what it should have.

use std::time::Duration;

use tests::{
    cluster::{Balancer, Setup},
    origin::Dialogue,
    raw::recorder::{Event, Recorder},
};
use tokio::time::{Instant, timeout};

use super::{Case, Expected, Seen, chunks, framing, hops, hosts, lines};

/// How long a refusal or an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it must be quiet after an answer before nothing more is expected.
const QUIET: Duration = Duration::from_millis(30);
/// What warms a connection up.
const GOOD: &str = "GET /good HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_body_has_one_length() {
    play(framing::cases()).await;
}

#[tokio::test]
async fn a_chunk_has_one_end() {
    play(chunks::cases()).await;
}

#[tokio::test]
async fn a_head_has_one_reading() {
    play(lines::cases()).await;
}

#[tokio::test]
async fn a_request_is_for_one_host() {
    play(hosts::cases()).await;
}

#[tokio::test]
async fn a_hop_keeps_its_own_matters() {
    play(hops::cases()).await;
}

#[test]
fn the_corpus_is_large_and_its_names_are_unique() {
    let all = [
        framing::cases(),
        chunks::cases(),
        lines::cases(),
        hosts::cases(),
        hops::cases(),
    ];
    let names: Vec<_> = all.iter().flatten().map(|it| it.name).collect();
    let unique: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
    assert!(names.len() >= 120, "{}", names.len());
}

/// How the bytes of a case come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// First on their connection, and each upstream connection is a fresh one.
    Fresh,
    /// After a good request on the same connection.
    Reused,
    /// One by one.
    Drops,
}

/// Every fault is told at the end, so that one run shows them all.
async fn play(cases: Vec<Case>) {
    let mut faults = Vec::new();
    for manner in [Manner::Fresh, Manner::Reused, Manner::Drops] {
        let mut stage = Stage::set(manner).await;
        for case in &cases {
            if let Err(fault) = stage.play(case).await {
                faults.push(format!("{} ({manner:?}): {fault}", case.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

struct Stage {
    manner: Manner,
    recorder: Recorder,
    balancer: Balancer,
    /// How many requests may still turn out to have been cut short.
    cuts_allowed: usize,
    played: usize,
}

/// What a client has heard.
struct Reaction {
    heard: Vec<u8>,
    is_closed: bool,
}

impl Stage {
    async fn set(manner: Manner) -> Self {
        let recorder = Recorder::start().await;
        let setup = Setup::http(&[recorder.address()]);
        let balancer = match manner {
            Manner::Fresh => setup.serving("max_idle_connections = 0").start().await,
            Manner::Reused | Manner::Drops => setup.start().await,
        };
        Self {
            manner,
            recorder,
            balancer,
            cuts_allowed: 0,
            played: 0,
        }
    }

    async fn play(&mut self, case: &Case) -> Result<(), String> {
        self.played += 1;
        let mut client = Dialogue::with(self.balancer.entry()).await;
        if self.manner == Manner::Reused {
            client.say(GOOD).await;
            client.head().await;
            client.hears("ok").await;
        }
        self.say(&mut client, &case.sent).await;
        let reaction = react(&mut client, answers_due(&case.expected)).await;
        let events = self.events_before_marker().await?;
        reaction?.suits(&case.expected)?;
        self.saw(case, events)
    }

    async fn say(&self, client: &mut Dialogue, sent: &[u8]) {
        let size = if self.manner == Manner::Drops {
            1
        } else {
            sent.len()
        };
        for piece in sent.chunks(size) {
            // The refusal may come before everything is said.
            if client.try_say(piece).await.is_err() {
                break;
            }
        }
    }

    /// The marker comes from another client, and after it everything that the case has caused.
    async fn events_before_marker(&mut self) -> Result<Vec<Event>, String> {
        let marker = format!("/marker-{}", self.played);
        let mut client = Dialogue::with(self.balancer.entry()).await;
        let ask = format!("GET {marker} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.say(ask).await;
        let (heard, _) = client.end().await;
        let heard = String::from_utf8_lossy(&heard).into_owned();
        if !heard.starts_with("HTTP/1.1 200 ") || !heard.ends_with("\r\n\r\nok") {
            return Err(format!("the marker was answered with {heard:?}"));
        }
        let mut events = self.recorder.take();
        let is_marker = |it: &Event| matches!(it, Event::Whole(it) if it.target == marker);
        let at = events.iter().position(is_marker);
        events.remove(at.ok_or("the marker was answered and has not arrived")?);
        events.retain(|it| !matches!(it, Event::Whole(it) if it.target == "/good"));
        Ok(events)
    }

    fn saw(&mut self, case: &Case, events: Vec<Event>) -> Result<(), String> {
        self.cuts_allowed += usize::from(case.expected == Expected::Broken);
        let mut whole = Vec::new();
        for event in events {
            match event {
                Event::Whole(request) => {
                    let leak = case.lacks.iter().find(|it| request.field(it).is_some());
                    if let Some(name) = leak {
                        return Err(format!("the node saw `{name}`"));
                    }
                    whole.push(Seen {
                        method: request.method,
                        target: request.target,
                        host: request.host,
                        body: String::from_utf8_lossy(&request.body).into_owned(),
                    });
                }
                Event::CutShort(_) if self.cuts_allowed > 0 => self.cuts_allowed -= 1,
                Event::CutShort(bytes) => {
                    return Err(format!("cut short: {}", bytes.escape_ascii()));
                }
                Event::Broken(why, bytes) => {
                    return Err(format!("{why} reached the node: {}", bytes.escape_ascii()));
                }
            }
        }
        let good = match &case.expected {
            Expected::Refused | Expected::Broken => whole.is_empty(),
            Expected::Seen(expected) => whole == *expected,
            Expected::AtMost(expected) => expected.starts_with(&whole),
        };
        good.then_some(())
            .ok_or_else(|| format!("the node saw {whole:?}"))
    }
}

impl Reaction {
    /// Who is refused is told so; a connection whose next message cannot be found ends.
    fn suits(&self, expected: &Expected) -> Result<(), String> {
        let heard = String::from_utf8_lossy(&self.heard);
        let status = final_status(&heard);
        let good = match expected {
            Expected::Refused => (400..=505).contains(&status),
            Expected::Broken => self.is_closed && status != 200,
            Expected::Seen(_) => status == 200,
            Expected::AtMost(_) => status >= 200,
        };
        good.then_some(()).ok_or_else(|| {
            let closed = if self.is_closed { "closed" } else { "open" };
            format!("the client heard {heard:?}, and the connection is {closed}")
        })
    }
}

fn answers_due(expected: &Expected) -> usize {
    match expected {
        Expected::Seen(all) => all.len(),
        // A body that goes wrong ends the connection, which is waited for.
        Expected::Broken => usize::MAX,
        Expected::Refused | Expected::AtMost(_) => 1,
    }
}

/// Listens until the connection ends, or until all answers are there and it has been quiet for a while.
async fn react(client: &mut Dialogue, answers_due: usize) -> Result<Reaction, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut heard = Vec::new();
    loop {
        let more = timeout(QUIET, client.hear_some()).await;
        match more {
            Ok(Some(more)) => heard.extend(more),
            Ok(None) => {
                return Ok(Reaction {
                    heard,
                    is_closed: true,
                });
            }
            Err(_) if final_answers(&heard) >= answers_due => {
                return Ok(Reaction {
                    heard,
                    is_closed: false,
                });
            }
            Err(_) if Instant::now() > deadline => {
                let heard = String::from_utf8_lossy(&heard).into_owned();
                return Err(format!("neither answered nor ended: {heard:?}"));
            }
            Err(_) => {}
        }
    }
}

/// The first status that is no forerunner's; 0 when there is none.
fn final_status(heard: &str) -> u16 {
    let lines = heard.lines().filter_map(|it| {
        let rest = it.strip_prefix("HTTP/1.");
        rest.and_then(|it| it.split_once(' ')).map(|(_, it)| it)
    });
    let statuses = lines.filter_map(|it| it.get(..3)?.parse().ok());
    statuses
        .into_iter()
        .find(|it| *it >= 200)
        .unwrap_or_default()
}

fn final_answers(heard: &[u8]) -> usize {
    let heads = heard
        .windows(10)
        .filter(|it| it.starts_with(b"HTTP/1.") && it[8] == b' ');
    heads.filter(|it| it[9] != b'1').count()
}
