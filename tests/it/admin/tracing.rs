//! Spans of exchanges as an OpenTelemetry collector gets them, and a collector that is not there.

use std::{sync::Arc, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use tests::{
    cluster::{Setup, until},
    origin::{
        Dialogue, Head, Origin,
        web::{Speaks, Web},
    },
    ports,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use super::get;

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// How long spans may take, on a machine that builds something else meanwhile.
const SPANS_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_exchange_and_each_of_its_tries_are_spans_of_the_clients_trace() {
    let mut collector = Collector::start().await;
    let (poor, good) = (Web::start(Speaks::Http1).await, Origin::start().await);
    poor.fails(http::StatusCode::SERVICE_UNAVAILABLE);
    let setup = Setup::http(&[poor.address(), good.address()])
        .listening("trusted_proxies = ['127.0.0.0/8']")
        .serving("pick = { policy = 'round_robin' }\nretry_on = [503]")
        .administered(&collector.keys("sample_ratio = 0.0"));
    let balancer = setup.start().await;
    // Round-robin begins anywhere: with the second exchange the poor node has been the first one asked.
    let mut node = None;
    let mut client = Dialogue::with(balancer.entry()).await;
    for _ in 0..2 {
        let ask = format!(
            "GET /a?secret=1 HTTP/1.1\r\nhost: a\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n\r\n"
        );
        client.say(ask).await;
        let node = match &mut node {
            Some(node) => node,
            none => none.insert(good.visit().await),
        };
        let told = node.head().await;
        node.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
        assert_eq!(client.head().await.status(), 200);
        client.hears("ok").await;
        let spans = collector.trace().await;
        check_family(&spans, &told);
        if spans.len() == 3 {
            return check_retried(&spans);
        }
    }
    panic!("one of two exchanges is tried twice");
}

/// Who is whose child, and that the node was told of its own parent.
fn check_family(spans: &[Span], told: &Head) {
    let whole = only(spans, SERVER);
    assert_eq!(hex(&whole.trace_id), TRACE);
    assert_eq!(hex(&whole.parent_span_id), PARENT);
    let tries = spans.iter().filter(|it| it.kind == CLIENT);
    for it in tries.clone() {
        assert_eq!(it.parent_span_id, whole.span_id);
        assert_eq!(it.trace_id, whole.trace_id);
        assert!(it.start_time_unix_nano >= whole.start_time_unix_nano);
    }
    let answered = tries.max_by_key(|it| it.start_time_unix_nano);
    let answered = hex(&answered.expect("a node was asked").span_id);
    let told = told.field("traceparent").expect("the node is told");
    assert_eq!(told, format!("00-{TRACE}-{answered}-01"));
}

fn check_retried(spans: &[Span]) {
    let whole = only(spans, SERVER);
    for (key, expected) in [
        ("http.request.method", "GET"),
        ("url.path", "/a"),
        ("colonnade.service", "app"),
        ("colonnade.listener", "web"),
        ("colonnade.ended", "completed"),
        ("network.protocol.version", "1.1"),
    ] {
        assert_eq!(text(whole, key).as_deref(), Some(expected), "{key}");
    }
    assert_eq!(number(whole, "colonnade.tries"), Some(2));
    assert_eq!(number(whole, "http.response.status_code"), Some(200));
    let mut statuses: Vec<_> = spans
        .iter()
        .filter(|it| it.kind == CLIENT)
        .map(|it| {
            let status = number(it, "http.response.status_code");
            (number(it, "http.request.resend_count"), status)
        })
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [(None, Some(503)), (Some(1), Some(200))]);
}

#[tokio::test]
async fn a_strangers_word_does_not_make_spans() {
    let mut collector = Collector::start().await;
    let origin = Origin::start().await;
    let setup = Setup::http(&[origin.address()]);
    let keys = collector.keys("sample_ratio = 0.0");
    let balancer = setup.administered(&keys).start().await;
    let mut client = Dialogue::with(balancer.entry()).await;
    client
        .say(format!(
            "GET / HTTP/1.1\r\nhost: a\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n\r\n"
        ))
        .await;
    let mut node = origin.visit().await;
    let told = node.head().await.field("traceparent");
    let told = told.expect("the node is told of the trace");
    assert!(
        told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00"),
        "{told}"
    );
    node.say("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 204);
    drop(balancer);
    assert!(collector.heard.try_recv().is_err());
}

#[tokio::test]
async fn what_is_refused_without_a_node_is_told_too() {
    let mut collector = Collector::start().await;
    let setup = Setup::empty()
        .listener("web", "")
        .service("app", &[([127, 0, 0, 1], 9).into()])
        .route("service = 'app'\npath = '/app'");
    let keys = collector.keys("sample_ratio = 1.0");
    let balancer = setup.administered(&keys).start().await;
    assert_eq!(get(&balancer, "/nowhere").await, 404);
    let spans = collector.trace().await;
    assert_eq!(spans.len(), 1);
    let whole = only(&spans, SERVER);
    assert_eq!(text(whole, "colonnade.ended").as_deref(), Some("no_route"));
    assert_eq!(whole.parent_span_id, Vec::<u8>::new());
}

#[tokio::test]
async fn a_dead_collector_changes_nothing() {
    let nobody = ports::free().expect("a port is free");
    let origin = Web::start(Speaks::Http1).await;
    let keys = format!(
        "[tracing]\nendpoint = 'http://{}'\nsample_ratio = 1.0\nqueue_max = 4\ninterval = '50ms'",
        nobody.address()
    );
    let setup = Setup::http(&[origin.address()]).administered(&keys);
    let balancer = setup.start().await;
    for _ in 0..20 {
        assert_eq!(get(&balancer, "/sized/5").await, 200);
    }
    until("spans to be dropped", async || {
        let dropped = "colonnade_balancer_trace_spans_total{result=\"queue_full\"}";
        balancer.metric(dropped).await > 0.0
    })
    .await;
}

/// A collector, which hands over what it is sent.
struct Collector {
    address: std::net::SocketAddr,
    heard: mpsc::Receiver<Vec<Span>>,
    server: JoinHandle<()>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (tell, heard) = mpsc::channel(64);
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Tell(Arc::new(tell))))
            .serve_with_incoming(TcpIncoming::from(listener));
        let server = tokio::spawn(async move { server.await.expect("the collector runs") });
        Self {
            address,
            heard,
            server,
        }
    }

    fn keys(&self, more: &str) -> String {
        let address = self.address;
        format!(
            "[tracing]\nendpoint = 'http://{address}'\nprotocol = 'grpc'\ninterval = '50ms'\n{more}"
        )
    }

    /// The spans of one exchange, of which the whole is offered last.
    async fn trace(&mut self) -> Vec<Span> {
        let mut spans = Vec::new();
        while !spans.iter().any(|it: &Span| it.kind == SERVER) {
            let more = tokio::time::timeout(SPANS_WITHIN, self.heard.recv()).await;
            spans.extend(more.expect("spans come soon").expect("the collector runs"));
        }
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Tell(Arc<mpsc::Sender<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Tell {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|it| it.scope_spans);
        let spans = scopes.flat_map(|it| it.spans).collect();
        let told = self.0.send(spans).await;
        told.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn only(spans: &[Span], kind: i32) -> &Span {
    let mut found = spans.iter().filter(|it| it.kind == kind);
    let it = found.next().expect("there is one");
    assert!(found.next().is_none(), "there is only one");
    it
}

fn text(span: &Span, key: &str) -> Option<String> {
    match attribute(span, key)? {
        Value::StringValue(it) => Some(it),
        _ => None,
    }
}

fn number(span: &Span, key: &str) -> Option<i64> {
    match attribute(span, key)? {
        Value::IntValue(it) => Some(it),
        _ => None,
    }
}

fn attribute(span: &Span, key: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|it| it.key == key)?;
    found.value.clone()?.value
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}
