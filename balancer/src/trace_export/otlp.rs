//! Spans in the words of OTLP 1.x: the few messages of `opentelemetry.proto.collector.trace.v1` that we send, and what our spans are in
//! them by the semantic conventions for HTTP.
//!
//! The messages are written out here, since the generated ones would bring the whole SDK; a test sends them to a collector made of the
//! generated ones.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use http::Method;

use super::{Exchange, Identity, Span, Try, Work};

/// A client may send paths as long as its head; nobody reads more than this.
const TEXT_CHARS_MAX: usize = 1024;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub(super) rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub(super) error_message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<OtlpSpan>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OtlpSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// `SPAN_KIND_SERVER` and `SPAN_KIND_CLIENT`.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// `STATUS_CODE_ERROR`; unset is 0.
const ERROR: i32 = 2;

/// The trace is sampled, or there would be no span of it (W3C Trace Context §3.2.2.5.1).
const SAMPLED: u32 = 1;

pub(super) fn resource(
    identity: &Identity,
    service: &str,
    more: &BTreeMap<String, String>,
) -> Resource {
    let mut attributes = vec![
        text("service.name", service),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", &identity.instance),
        text("host.name", &identity.host),
    ];
    attributes.extend(more.iter().map(|(key, value)| text(key, value)));
    Resource { attributes }
}

pub(super) fn request(resource: &Resource, spans: Vec<Span>) -> ExportRequest {
    let scope = Scope {
        name: "colonnade".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let scope_spans = ScopeSpans {
        scope: Some(scope),
        spans: spans.into_iter().map(span).collect(),
    };
    ExportRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![scope_spans],
        }],
    }
}

fn span(span: Span) -> OtlpSpan {
    let (kind, method, attributes, error) = match &span.work {
        Work::Exchange(it) => (SERVER, &it.method, of_exchange(it), error_of_exchange(it)),
        Work::Try(it) => (CLIENT, &it.method, of_try(it), error_of_try(it)),
    };
    let (name, mut all) = named(method);
    all.extend(attributes);
    all.extend(error.as_ref().map(|it| text("error.type", it)));
    OtlpSpan {
        trace_id: span.trace.to_be_bytes().to_vec(),
        span_id: span.span.to_be_bytes().to_vec(),
        parent_span_id: match span.parent {
            0 => Vec::new(),
            parent => parent.to_be_bytes().to_vec(),
        },
        name,
        kind,
        start_time_unix_nano: nanos(span.began),
        end_time_unix_nano: nanos(span.began + span.took),
        attributes: all,
        status: error.map(|message| Status {
            message,
            code: ERROR,
        }),
        flags: SAMPLED,
    }
}

/// A method that nobody knows must not make a name of its own.
fn named(method: &Method) -> (String, Vec<KeyValue>) {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    match KNOWN.contains(method) {
        true => {
            let attributes = vec![text("http.request.method", method.as_str())];
            (method.to_string(), attributes)
        }
        false => {
            let attributes = vec![
                text("http.request.method", "_OTHER"),
                text("http.request.method_original", method.as_str()),
            ];
            ("HTTP".to_owned(), attributes)
        }
    }
}

fn of_exchange(it: &Exchange) -> Vec<KeyValue> {
    let mut attributes = vec![
        text("url.scheme", it.scheme),
        text("url.path", &it.path),
        text("network.protocol.version", it.protocol),
        text("client.address", &it.client.ip().to_string()),
        number("client.port", it.client.port()),
        text("colonnade.listener", it.listener.as_str()),
        text("colonnade.ended", it.ended),
        number("colonnade.tries", it.tries),
        number("http.request.body.size", it.received_bytes as i64),
        number("http.response.body.size", it.sent_bytes as i64),
    ];
    let optional = [
        ("server.address", it.host.as_deref()),
        ("colonnade.route", it.route.as_deref()),
        (
            "colonnade.service",
            it.service.as_ref().map(|it| it.as_str()),
        ),
    ];
    let known = optional.iter().filter_map(|(key, it)| Some((key, (*it)?)));
    attributes.extend(known.map(|(key, it)| text(key, it)));
    attributes.extend(it.status.map(|it| number("http.response.status_code", it)));
    attributes
}

fn of_try(it: &Try) -> Vec<KeyValue> {
    let mut attributes = vec![
        text("server.address", &it.address.ip().to_string()),
        number("server.port", it.address.port()),
        text("colonnade.node", it.node.as_str()),
        text("colonnade.service", it.service.as_str()),
    ];
    if it.number > 1 {
        attributes.push(number("http.request.resend_count", it.number - 1));
    }
    attributes.extend(it.status.map(|it| number("http.response.status_code", it)));
    attributes
}

/// Of a server's span only its own failures are errors; a client that went away, or asked for what is not there, is none.
fn error_of_exchange(it: &Exchange) -> Option<String> {
    match (it.ended, it.status) {
        ("completed" | "tunnel_closed" | "client_gone", Some(500..)) => {
            it.status.map(|it| it.to_string())
        }
        ("completed" | "tunnel_closed" | "client_gone" | "bad_request" | "no_route", _) => None,
        (ended, _) => Some(ended.to_owned()),
    }
}

/// Of a client's span every 4xx is an error too.
fn error_of_try(it: &Try) -> Option<String> {
    let refused = it.status.filter(|it| *it >= 400);
    let failure = it.failure.map(str::to_owned);
    failure.or_else(|| refused.map(|it| it.to_string()))
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = match value.char_indices().nth(TEXT_CHARS_MAX) {
        Some((at, _)) => &value[..at],
        None => value,
    };
    key_value(key, Value::Text(value.to_owned()))
}

fn number(key: &str, value: impl Into<i64>) -> KeyValue {
    key_value(key, Value::Number(value.into()))
}

fn key_value(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as u64
}

#[cfg(test)]
pub(super) fn example() -> Span {
    use std::time::Duration;
    Span {
        trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
        span: 0x00f0_67aa_0ba9_02b7,
        parent: 0,
        began: UNIX_EPOCH + Duration::from_secs(1),
        took: Duration::from_millis(5),
        work: Work::Exchange(Exchange {
            method: Method::GET,
            scheme: "http",
            path: "/a".into(),
            host: Some("example.org".into()),
            protocol: "1.1",
            client: ([127, 0, 0, 1], 5000).into(),
            listener: "web".into(),
            route: Some("all".into()),
            service: Some("app".into()),
            status: Some(200),
            ended: "completed",
            tries: 1,
            received_bytes: 0,
            sent_bytes: 7,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_is_a_servers_span_by_the_conventions() {
        let told = span(example());
        assert_eq!((told.name.as_str(), told.kind), ("GET", SERVER));
        assert_eq!(told.trace_id.len() + told.span_id.len(), 24);
        assert_eq!(told.parent_span_id, Vec::<u8>::new());
        assert_eq!(
            told.end_time_unix_nano - told.start_time_unix_nano,
            5_000_000
        );
        let status = number("http.response.status_code", 200);
        assert!(told.attributes.contains(&status), "{:?}", told.attributes);
        assert_eq!(told.status, None);
    }

    #[test]
    fn a_failed_try_is_an_error_and_a_later_one_says_how_often() {
        let told = span(Span {
            parent: 7,
            work: Work::Try(Try {
                method: Method::GET,
                node: "n1".into(),
                address: ([127, 0, 0, 1], 80).into(),
                service: "app".into(),
                number: 3,
                status: None,
                failure: Some("unreachable"),
            }),
            ..example()
        });
        assert_eq!(
            (told.kind, told.parent_span_id),
            (CLIENT, vec![0, 0, 0, 0, 0, 0, 0, 7])
        );
        assert_eq!(told.status.map(|it| it.code), Some(ERROR));
        for expected in [
            number("http.request.resend_count", 2),
            text("error.type", "unreachable"),
        ] {
            assert!(told.attributes.contains(&expected), "{expected:?}");
        }
    }

    #[test]
    fn who_went_away_or_asked_in_vain_is_no_error_of_the_server() {
        let check = |ended, status| error_of_exchange(&exchange(ended, status));
        assert_eq!(check("completed", 404), None);
        assert_eq!(check("client_gone", 200), None);
        assert_eq!(check("completed", 503), Some("503".to_owned()));
        assert_eq!(check("node_cut", 200), Some("node_cut".to_owned()));
    }

    #[test]
    fn texts_of_clients_are_cut_and_their_methods_make_no_names() {
        let KeyValue { value, .. } = text("url.path", &"ä".repeat(5000));
        let Some(AnyValue {
            value: Some(Value::Text(cut)),
        }) = value
        else {
            panic!("a text stays one");
        };
        assert_eq!(cut.chars().count(), TEXT_CHARS_MAX);
        let odd = Method::from_bytes(b"BREW").expect("it is a token");
        assert_eq!(named(&odd).0, "HTTP");
    }

    fn exchange(ended: &'static str, status: u16) -> Exchange {
        match example().work {
            Work::Exchange(it) => Exchange {
                ended,
                status: Some(status),
                ..it
            },
            Work::Try(_) => panic!("the example is an exchange"),
        }
    }
}
