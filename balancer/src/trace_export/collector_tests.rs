//! Spans as a real collector reads them, made of the generated messages and services of OpenTelemetry; and a collector that is dead.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, body::Bytes, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span as Told,
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Identity, Span, otlp};
use crate::{config::Config, config::TracingConfig, observe::SpanMetrics};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn spans_reach_a_collector_in_grpc_in_batches() {
    let (address, mut heard) = grpc_collector().await;
    let (exporter, _stop) = export_to(&format!("http://{address}"), "batch_max = 2");
    for n in 1..=3 {
        exporter.offer(numbered(n));
    }
    let (first, second) = (next(&mut heard).await, next(&mut heard).await);
    assert_eq!((spans(&first).len(), spans(&second).len()), (2, 1));
    let span = &spans(&first)[0];
    let expected = otlp::example();
    assert_eq!(span.trace_id, expected.trace.to_be_bytes());
    assert_eq!(span.span_id, 1u64.to_be_bytes());
    assert_eq!((span.name.as_str(), span.kind), ("GET", 2));
    assert_eq!(
        span.end_time_unix_nano - span.start_time_unix_nano,
        expected.took.as_nanos() as u64
    );
    let status = attribute(&span.attributes, "http.response.status_code");
    assert_eq!(status, Some(Value::IntValue(200)));
    let resource = first.resource_spans[0].resource.as_ref();
    let resource = &resource.expect("spans have a resource").attributes;
    for (key, text) in [
        ("service.name", "colonnade-balancer"),
        ("service.instance.id", "b1"),
        ("host.name", "h1"),
        ("team", "edge"),
    ] {
        let expected = Some(Value::StringValue(text.to_owned()));
        assert_eq!(attribute(resource, key), expected, "{key}");
    }
}

#[tokio::test]
async fn spans_reach_a_collector_by_post() {
    let (address, mut heard) = http_collector().await;
    let endpoint = format!("http://{address}");
    let (exporter, _stop) = export_to(&endpoint, "protocol = 'http'");
    exporter.offer(numbered(7));
    let request = next(&mut heard).await;
    assert_eq!(spans(&request)[0].span_id, 7u64.to_be_bytes());
}

#[tokio::test]
async fn what_is_left_is_sent_when_told_to_stop() {
    let (address, mut heard) = http_collector().await;
    let endpoint = format!("http://{address}");
    // The first tick comes at once, the next one after the test.
    let keys = "protocol = 'http'\ninterval = '1h'";
    let (exporter, stop) = export_to(&endpoint, keys);
    tokio::task::yield_now().await;
    exporter.offer(numbered(9));
    stop.cancel();
    assert_eq!(
        spans(&next(&mut heard).await)[0].span_id,
        9u64.to_be_bytes()
    );
}

#[tokio::test]
async fn a_dead_collector_costs_a_full_queue_and_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let endpoint = format!("http://{address}");
    let (exporter, _stop) = export_to(&endpoint, "protocol = 'http'\nqueue_max = 10");
    for n in 1..=1000 {
        exporter.offer(numbered(n));
    }
    assert!(exporter.queue.take().len() <= 10, "what waits is bounded");
    exporter.offer(numbered(5));
    let mut heard = http_collector_at(TcpListener::bind(address).await.expect("it is free again"));
    let request = next(&mut heard).await;
    assert!(!spans(&request).is_empty(), "it was sent when it could be");
}

fn export_to(endpoint: &str, keys: &str) -> (super::Exporter, CancellationToken) {
    let identity = Identity {
        instance: "b1".to_owned(),
        host: "h1".to_owned(),
    };
    let config = tracing_config(endpoint, keys);
    let (mut exporters, driver) = super::new(&config, &identity, 1, &SpanMetrics::default());
    let stop = CancellationToken::new();
    tokio::spawn(driver.run(stop.clone()));
    (exporters.remove(0), stop)
}

fn tracing_config(endpoint: &str, keys: &str) -> TracingConfig {
    let interval = if keys.contains("interval") {
        ""
    } else {
        "interval = '50ms'"
    };
    let text = format!(
        "[[listener]]\nname = 'web'\naddress = '127.0.0.1:80'\n[tracing]\nendpoint = '{endpoint}'\nattributes = {{ team = 'edge' }}\n{interval}\n{keys}"
    );
    let config = Config::from_toml("b.toml", &text).expect("it is good");
    config.tracing.expect("there is an endpoint")
}

fn numbered(span: u64) -> Span {
    Span {
        span,
        ..otlp::example()
    }
}

async fn next(heard: &mut mpsc::Receiver<ExportTraceServiceRequest>) -> ExportTraceServiceRequest {
    let request = tokio::time::timeout(PATIENCE, heard.recv()).await;
    request
        .expect("spans come soon")
        .expect("the collector runs")
}

fn spans(request: &ExportTraceServiceRequest) -> &[Told] {
    &request.resource_spans[0].scope_spans[0].spans
}

fn attribute(
    attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue],
    key: &str,
) -> Option<Value> {
    let found = attributes.iter().find(|it| it.key == key)?;
    found.value.clone()?.value
}

struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let told = self.0.send(request.into_inner()).await;
        told.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn grpc_collector() -> (SocketAddr, mpsc::Receiver<ExportTraceServiceRequest>) {
    let (tell, heard) = mpsc::channel(16);
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(Collector(tell)))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    (address, heard)
}

async fn http_collector() -> (SocketAddr, mpsc::Receiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    (address, http_collector_at(listener))
}

fn http_collector_at(listener: TcpListener) -> mpsc::Receiver<ExportTraceServiceRequest> {
    let (tell, heard) = mpsc::channel(16);
    let router = Router::new().route(
        "/v1/traces",
        post(async move |body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).expect("it is a request");
            // Who does not listen any more has seen enough.
            let _ = tell.send(request).await;
            ExportTraceServiceResponse::default().encode_to_vec()
        }),
    );
    tokio::spawn(async move { axum::serve(listener, router).await });
    heard
}
