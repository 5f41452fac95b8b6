//! Answers of a node that lies: the client gets what was unmistakably meant, a 502 or a body that ends too early; the next client
//! gets its own answer, whole and alone.

use tests::{cluster::Setup, origin::Dialogue};

use super::liar::{HONEST, LIE, Liar, Lie};

/// How many clients come after the lie; more than there are connections that could be poisoned.
const NEXT_CLIENTS: usize = 3;
/// What must never be seen by anybody.
const EVIL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";

/// What the client may get.
#[derive(Clone, Copy, Debug)]
enum Gets {
    /// A 502, or an answer that ends before its time.
    Failure,
    /// This status and this body, and nothing else.
    Answer(u16, &'static str),
    /// Either.
    AtMost(u16, &'static str),
}

use Gets::{Answer, AtMost, Failure};

/// What a node says before it falls silent, on a connection that stays open.
const OPEN: &[(&str, &str, Gets)] = &[
    (
        "an extra answer",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokEVIL",
        AtMost(200, "ok"),
    ),
    (
        "two extra answers",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokEVILEVIL",
        AtMost(200, "ok"),
    ),
    (
        "an extra answer after chunks",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nEVIL",
        AtMost(200, "ok"),
    ),
    (
        "an extra answer after none",
        "HTTP/1.1 204 No Content\r\n\r\nEVIL",
        AtMost(204, ""),
    ),
    (
        "an extra answer after an unmodified one",
        "HTTP/1.1 304 Not Modified\r\n\r\nEVIL",
        AtMost(304, ""),
    ),
    (
        "a body in a 204",
        "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nevil",
        AtMost(204, ""),
    ),
    (
        "a body in a 304",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nevil",
        AtMost(304, ""),
    ),
    (
        "chunks in a 204",
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        AtMost(204, ""),
    ),
    (
        "more than the length",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokevil",
        AtMost(200, "ok"),
    ),
    (
        "an empty line behind the answer",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\r\n",
        AtMost(200, "ok"),
    ),
    (
        "two lengths",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 6\r\n\r\nokevil",
        Failure,
    ),
    (
        "a list of lengths",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 6\r\n\r\nokevil",
        Failure,
    ),
    (
        "the same length twice",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
        AtMost(200, "ok"),
    ),
    (
        "a length with a plus",
        "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nokevil",
        Failure,
    ),
    (
        "a length with a minus",
        "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nokevil",
        Failure,
    ),
    (
        "a hexadecimal length",
        "HTTP/1.1 200 OK\r\ncontent-length: 0x2\r\n\r\nokevil",
        Failure,
    ),
    (
        "a length of 2^64 + 2",
        "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551618\r\n\r\nokevil",
        Failure,
    ),
    (
        "a length with a space before the colon",
        "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nokevil",
        Failure,
    ),
    (
        "a folded length",
        "HTTP/1.1 200 OK\r\ncontent-length:\r\n 2\r\n\r\nokevil",
        Failure,
    ),
    (
        "a length and an encoding",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nEVIL",
        AtMost(200, "ok"),
    ),
    (
        "chunked twice",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Failure,
    ),
    (
        "a chunk size that is no number",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
        Failure,
    ),
    (
        "a chunk size of 2^64 + 2",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n",
        Failure,
    ),
    (
        "a chunk longer than its size",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokevil\r\n0\r\n\r\n",
        Failure,
    ),
    (
        "a chunk that ends in LF",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\n0\r\n\r\n",
        Failure,
    ),
    (
        "a NUL in a value",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    (
        "a CR in a value",
        "HTTP/1.1 200 OK\r\nx: a\rset-cookie: evil\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    (
        "a folded value",
        "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nok",
        AtMost(200, "ok"),
    ),
    (
        "a space before a colon",
        "HTTP/1.1 200 OK\r\nx : a\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    (
        "a name with a space",
        "HTTP/1.1 200 OK\r\nx y: a\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    (
        "a field without a name",
        "HTTP/1.1 200 OK\r\n: a\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    (
        "a field without a colon",
        "HTTP/1.1 200 OK\r\nevil\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    (
        "a status of two digits",
        "HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    (
        "a status of four digits",
        "HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    (
        "a status of letters",
        "HTTP/1.1 abc OK\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    (
        "a status of 0",
        "HTTP/1.1 000 OK\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    (
        "a status with a sign",
        "HTTP/1.1 +20 OK\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    (
        "a version of 2.0",
        "HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    (
        "a version of 9.9",
        "HTTP/9.9 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Failure,
    ),
    ("no HTTP at all", "SSH-2.0-OpenSSH_9.6\r\n\r\n", Failure),
    (
        "a request",
        "GET /evil HTTP/1.1\r\nhost: a\r\n\r\n",
        Failure,
    ),
    (
        "a change of protocol nobody asked for",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: evil\r\n\r\nEVIL",
        Failure,
    ),
    (
        "an answer before the answer",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Answer(200, "ok"),
    ),
    (
        "three answers before the answer",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Answer(200, "ok"),
    ),
    (
        "a good answer",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Answer(200, "ok"),
    ),
    (
        "an answer with chunks",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n",
        Answer(200, "ok"),
    ),
    (
        "no reason",
        "HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok",
        Answer(200, "ok"),
    ),
];

/// What a node says before it closes.
const CLOSED: &[(&str, &str, Gets)] = &[
    ("nothing", "", Failure),
    ("half a status", "HTTP/1.1 2", Failure),
    ("half a head", "HTTP/1.1 200 OK\r\ncontent-le", Failure),
    (
        "a head without its end",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n",
        Failure,
    ),
    (
        "less than the length",
        "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok",
        Failure,
    ),
    (
        "a length and nothing",
        "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n",
        Failure,
    ),
    (
        "a chunk cut short",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok",
        Failure,
    ),
    (
        "chunks without the last",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        Failure,
    ),
    (
        "a last chunk without its end",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        Failure,
    ),
    (
        "only an answer before the answer",
        "HTTP/1.1 100 Continue\r\n\r\n",
        Failure,
    ),
    (
        "a body until the end",
        "HTTP/1.1 200 OK\r\n\r\nok",
        Answer(200, "ok"),
    ),
    (
        "a body of HTTP/1.0",
        "HTTP/1.0 200 OK\r\n\r\nok",
        Answer(200, "ok"),
    ),
    (
        "a last answer",
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        Answer(200, "ok"),
    ),
    (
        "chunks of HTTP/1.0",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        AtMost(200, "ok"),
    ),
    (
        "gzip before chunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Failure,
    ),
    (
        "an unknown encoding",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Failure,
    ),
    (
        "an encoding with a space before the colon",
        "HTTP/1.1 200 OK\r\ntransfer-encoding : chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Failure,
    ),
];

#[tokio::test]
async fn what_a_node_says_too_much_is_seen_by_nobody() {
    play(OPEN, false).await;
}

#[tokio::test]
async fn what_a_node_breaks_off_is_not_whole() {
    play(CLOSED, true).await;
}

#[test]
fn the_corpus_is_large() {
    assert!(OPEN.len() + CLOSED.len() >= 40);
}

async fn play(lies: &[(&'static str, &'static str, Gets)], closes: bool) {
    let mut faults = Vec::new();
    for (name, said, gets) in lies {
        let said = said.replace("EVIL", EVIL).into_bytes();
        if let Err(fault) = tell(Lie { said, closes }, *gets).await {
            faults.push(format!("{name}: {fault}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

async fn tell(lie: Lie, gets: Gets) -> Result<(), String> {
    let liar = Liar::start(lie).await;
    let setup = Setup::http(&[liar.address()]).serving("response_head_timeout = '1s'");
    let balancer = setup.start().await;
    // A connection that was good once is as good a victim as a fresh one.
    honest_answer(balancer.entry()).await?;
    suits(&ask(balancer.entry(), LIE).await, gets)?;
    for _ in 0..NEXT_CLIENTS {
        honest_answer(balancer.entry()).await?;
    }
    Ok(())
}

/// What a client gets that asks once and goes.
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

async fn ask(address: std::net::SocketAddr, path: &str) -> Got {
    let mut client = Dialogue::with(address).await;
    let ask = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    client.say(ask).await;
    let (heard, _) = client.end().await;
    let heard = past_the_forerunners(heard);
    let end = heard.windows(4).position(|it| it == b"\r\n\r\n");
    let (head, body) = heard.split_at(end.map_or(heard.len(), |it| it + 4));
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    Got {
        status: status.unwrap_or_default(),
        head,
        body: body.to_vec(),
    }
}

fn past_the_forerunners(mut heard: Vec<u8>) -> Vec<u8> {
    while heard.starts_with(b"HTTP/1.1 1") {
        let end = heard.windows(4).position(|it| it == b"\r\n\r\n");
        heard.drain(..end.map_or(heard.len(), |it| it + 4));
    }
    heard
}

async fn honest_answer(address: std::net::SocketAddr) -> Result<(), String> {
    let got = ask(address, "/honest").await;
    if got.whole_body().as_deref() == Some(HONEST.as_bytes()) && got.status == 200 {
        return Ok(());
    }
    Err(format!("an honest answer became {got}"))
}

fn suits(got: &Got, gets: Gets) -> Result<(), String> {
    let failed = got.status == 502 || got.status == 504 || got.whole_body().is_none();
    let is = |status: u16, body: &str| {
        got.status == status && got.whole_body().as_deref() == Some(body.as_bytes())
    };
    let good = match gets {
        Failure => failed,
        Answer(status, body) => is(status, body),
        AtMost(status, body) => failed || is(status, body),
    };
    good.then_some(())
        .ok_or_else(|| format!("the client got {got}"))
}

impl Got {
    /// The body, if it came to the end that the head has promised.
    fn whole_body(&self) -> Option<Vec<u8>> {
        let field = |name: &str| {
            let mut lines = self.head.lines().filter_map(|it| it.split_once(':'));
            lines.find(|(it, _)| *it == name).map(|(_, it)| it.trim())
        };
        if matches!(self.status, 204 | 304) {
            return Some(self.body.clone());
        }
        if field("transfer-encoding") == Some("chunked") {
            return unchunked(&self.body);
        }
        let length = field("content-length").map(str::parse::<usize>);
        let is_whole = match length {
            Some(length) => length.ok() == Some(self.body.len()),
            None => self.status != 0,
        };
        is_whole.then(|| self.body.clone())
    }
}

impl std::fmt::Display for Got {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} and {}", self.head, self.body.escape_ascii())
    }
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|it| it == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return rest.ends_with(b"\r\n").then_some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}
