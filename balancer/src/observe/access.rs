//! The access log: one JSON line per exchange, written by a thread of its own so that a slow disk or pipe stops no core.
//!
//! Each core collects lines in a buffer and hands full buffers over. When the writer is too far behind, whole buffers are dropped and
//! their lines counted: clients come before logs.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use balancer_core::{forwarded::RequestId, name::ListenerName};
use http::{StatusCode, Version};
use metrics::Counter;
use tokio::sync::oneshot;

use super::{Ended, Line};
use crate::config;

/// A buffer is handed over when it holds this many bytes, or at the next sweep.
const BUFFER_BYTES: usize = 64 << 10;

/// Buffers that wait for the writer; together with [`BUFFER_BYTES`] this bounds the memory that a stuck log can take to 8 MiB.
const BUFFERS_WAITING: usize = 128;

/// Where the lines of all cores go.
#[derive(Debug, Clone)]
pub(crate) struct AccessSink(Option<SyncSender<Vec<u8>>>);

impl AccessSink {
    /// The sink, and what resolves when everything that was handed over has been written, once all copies of the sink are gone.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub(crate) fn open(target: &config::AccessLog) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let (writing, written) = oneshot::channel();
        let out: Box<dyn Write + Send> = match target {
            config::AccessLog::Off => return Ok((Self(None), written)),
            config::AccessLog::Stdout => Box::new(io::stdout()),
            config::AccessLog::File(path) => Box::new(append(path)?),
        };
        let (sender, receiver) = sync_channel(BUFFERS_WAITING);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                write_all(&receiver, out);
                drop(writing);
            })?;
        Ok((Self(Some(sender)), written))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_all(buffers: &Receiver<Vec<u8>>, mut out: impl Write) {
    for buffer in buffers {
        if let Err(err) = out.write_all(&buffer).and_then(|()| out.flush()) {
            tracing::error!(%err, "writing the access log");
        }
    }
}

/// One core's lines on their way to the sink.
#[derive(Debug)]
pub(crate) struct AccessLog {
    sink: AccessSink,
    lines: Mutex<Lines>,
    dropped: Counter,
}

/// Lines that are not handed over yet.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    /// The second that `second_text` writes out; most lines share it with the line before.
    second: u64,
    second_text: String,
}

/// All that one line says.
pub(super) struct Written<'a> {
    pub(crate) at: SystemTime,
    pub(crate) listener: &'a ListenerName,
    pub(crate) client: &'a str,
    pub(crate) line: &'a Line,
    pub(crate) status: StatusCode,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) took: Duration,
    pub(crate) ended: Ended,
}

impl AccessLog {
    pub(crate) fn new(sink: AccessSink, dropped: Counter) -> Self {
        Self {
            sink,
            lines: Mutex::default(),
            dropped,
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.sink.is_on()
    }

    pub(super) fn write(&self, line: &Written<'_>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        line.write(&mut lines);
        if lines.bytes.len() >= BUFFER_BYTES {
            self.hand_over(&mut lines.bytes);
        }
    }

    pub(crate) fn flush(&self) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if !lines.bytes.is_empty() {
            self.hand_over(&mut lines.bytes);
        }
    }

    fn hand_over(&self, buffer: &mut Vec<u8>) {
        let Some(sender) = &self.sink.0 else {
            return;
        };
        let full = std::mem::replace(buffer, Vec::with_capacity(BUFFER_BYTES + 1024));
        if let Err(err) = sender.try_send(full) {
            let lost = match err {
                std::sync::mpsc::TrySendError::Full(lost)
                | std::sync::mpsc::TrySendError::Disconnected(lost) => lost,
            };
            let lines = lost.iter().filter(|&&byte| byte == b'\n').count();
            self.dropped.increment(lines as u64);
        }
    }
}

impl Lines {
    /// RFC 3339 with microseconds.
    fn push_time(&mut self, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != since.as_secs() || self.second_text.is_empty() {
            self.second = since.as_secs();
            self.second_text = humantime::format_rfc3339_seconds(at).to_string();
            // The zone comes after the fraction.
            self.second_text.pop();
        }
        self.bytes.extend_from_slice(self.second_text.as_bytes());
        // One million more than the fraction has a first digit to drop and six to keep.
        let micros = 1_000_000 + since.subsec_micros();
        let mut digits = itoa::Buffer::new();
        self.bytes.push(b'.');
        self.bytes
            .extend_from_slice(&digits.format(micros).as_bytes()[1..]);
        self.bytes.push(b'Z');
    }
}

/// A field whose name is a literal, so that all between two values is one copy.
macro_rules! field {
    ($out:expr, $key:literal, text $value:expr) => {
        text($out, concat!(",\"", $key, "\":"), $value)
    };
    ($out:expr, $key:literal, plain $value:expr) => {
        plain($out, concat!(",\"", $key, "\":\""), $value)
    };
    ($out:expr, $key:literal, number $value:expr) => {
        number($out, concat!(",\"", $key, "\":"), $value)
    };
}

impl Written<'_> {
    fn write(&self, lines: &mut Lines) {
        let line = self.line;
        lines.bytes.extend_from_slice(b"{\"time\":\"");
        lines.push_time(self.at);
        let out = &mut lines.bytes;
        out.push(b'"');
        field!(out, "listener", text self.listener.as_str());
        field!(out, "client", plain self.client);
        // A method is a token (RFC 9110 §9.1), which holds nothing that JSON would escape.
        field!(out, "method", plain line.method.as_str());
        if let Some(host) = &line.host {
            field!(out, "host", text host);
        }
        field!(out, "path", text & line.path);
        field!(out, "protocol", plain protocol(line.version));
        field!(out, "status", number u64::from(self.status.as_u16()));
        if let Some(id) = &line.request_id {
            // Digits, or what was checked to be visible ASCII and may hold a quote.
            match id {
                RequestId::Fresh(_) => {
                    out.extend_from_slice(b",\"request_id\":\"");
                    id.write(out);
                    out.push(b'"');
                }
                RequestId::Kept(kept) => field!(out, "request_id", text kept),
            }
        }
        if let Some(route) = &line.route {
            field!(out, "route", text route);
        }
        if let Some(service) = &line.service {
            field!(out, "service", text service.as_str());
        }
        if let Some(node) = &line.node {
            field!(out, "node", text node.as_str());
        }
        field!(out, "tries", number u64::from(line.tries));
        field!(out, "received_bytes", number self.received);
        field!(out, "sent_bytes", number self.sent);
        if let Some(first) = line.first_byte {
            field!(out, "first_byte_us", number first.as_micros() as u64);
        }
        field!(out, "duration_us", number self.took.as_micros() as u64);
        field!(out, "ended", plain self.ended.code());
        out.extend_from_slice(b"}\n");
    }
}

fn text(out: &mut Vec<u8>, before: &str, value: &str) {
    out.extend_from_slice(before.as_bytes());
    // Without an early end the compiler looks at many bytes at a time.
    let is_plain = |ok, byte| ok & (byte >= 0x20) & (byte != b'"') & (byte != b'\\');
    if value.bytes().fold(true, is_plain) {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    } else {
        // Escapes whatever a client put there; writing to memory cannot fail.
        let _ = serde_json::to_writer(out, value);
    }
}

/// A value that holds nothing to escape; `before` ends with the opening quote.
fn plain(out: &mut Vec<u8>, before: &str, value: &str) {
    out.extend_from_slice(before.as_bytes());
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, before: &str, value: u64) {
    out.extend_from_slice(before.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "h2",
        Version::HTTP_10 => "http/1.0",
        _ => "http/1.1",
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn a_hostile_path_stays_one_json_string() {
        let mut line = example();
        line.path = "/%22%0a\"".into();
        line.host = Some("a\"\u{e9}\tb".into());
        let value = written(&line);
        assert_eq!(value["path"], "/%22%0a\"");
        assert_eq!(value["host"], "a\"\u{e9}\tb");
    }

    #[test]
    fn a_line_says_what_happened() {
        let value = written(&example());
        assert_eq!(value["status"], 502);
        assert_eq!(value["ended"], "node_gone");
        assert_eq!(value["node"], "n1");
        assert_eq!(value["duration_us"], 1500);
        assert_eq!(value["time"], "1970-01-01T00:00:00.000000Z");
    }

    fn written(line: &Line) -> serde_json::Value {
        let mut lines = Lines::default();
        let written = Written {
            at: SystemTime::UNIX_EPOCH,
            listener: &"entry".into(),
            client: "127.0.0.1:5000",
            line,
            status: StatusCode::BAD_GATEWAY,
            received: 0,
            sent: 10,
            took: Duration::from_micros(1500),
            ended: Ended::NodeGone,
        };
        written.write(&mut lines);
        let out = lines.bytes;
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
        serde_json::from_slice(&out).expect("an access line is JSON")
    }

    fn example() -> Line {
        Line {
            method: Method::GET,
            path: "/a".into(),
            host: None,
            version: Version::HTTP_11,
            request_id: None,
            route: Some("route-1".into()),
            service: Some("web".into()),
            node: Some("n1".into()),
            tries: 1,
            first_byte: None,
        }
    }
}
