//! Tells which node answers and what it sees of its client, in JSON (`GET /whoami`) and over gRPC.

use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header};
use proto::v1::{self, whoami_server::Whoami};
use registry::NodeRecord;
use serde_json::{Map, Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::interval,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

use crate::{
    register::{Phase, reached},
    rescue::Refusal,
    serve::Client,
};

/// The bounds that `proto/schema/whoami.proto` promises.
const INTERVAL_MS_DEFAULT: u32 = 1000;
const INTERVAL_MS_MAX: u32 = 3_600_000;
const COUNT_MAX: u32 = 1_000_000;

/// Messages a stream holds while its client does not read.
const MESSAGES_AHEAD: usize = 1;

/// What a node says about itself.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) node_id: String,
    pub(crate) zone: Option<String>,
    pub(crate) incarnation: u64,
    pub(crate) version: String,
}

impl Identity {
    pub(crate) fn of(record: &NodeRecord) -> Self {
        Self {
            node_id: record.id.clone(),
            zone: record.zone.clone(),
            incarnation: record.incarnation,
            version: record.version.clone(),
        }
    }

    /// Answers `GET /whoami`.
    pub(crate) fn answer(&self, request: &Request<Body>) -> Result<Response<Body>, Refusal> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Refusal::MethodNotAllowed);
        }
        let text = format!("{:#}\n", self.seen(request));
        let mut response = Response::new(Body::from(text));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        Ok(response)
    }

    fn seen(&self, request: &Request<Body>) -> Value {
        json!({
            "node_id": self.node_id,
            "zone": self.zone,
            "incarnation": self.incarnation,
            "version": self.version,
            "client_address": client(request.extensions()),
            "protocol": protocol(request.version()),
            "method": request.method().as_str(),
            "path": request.uri().path(),
            "headers": fields(request.headers()),
        })
    }
}

/// The same over gRPC, with streams that end when the node's time is up.
pub(crate) struct Grpc {
    identity: Arc<Identity>,
    phase: watch::Receiver<Phase>,
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Grpc {
    pub(crate) fn new(identity: Arc<Identity>, phase: watch::Receiver<Phase>) -> Self {
        Self { identity, phase }
    }

    fn identity<T>(&self, request: &tonic::Request<T>) -> v1::Identity {
        v1::Identity {
            node_id: self.identity.node_id.clone(),
            zone: self.identity.zone.clone().unwrap_or_default(),
            incarnation: self.identity.incarnation,
            version: self.identity.version.clone(),
            client_address: client(request.extensions()).map_or(String::new(), |it| it.to_string()),
            headers: request.metadata().as_ref().iter().map(v1_header).collect(),
        }
    }
}

#[tonic::async_trait]
impl Whoami for Grpc {
    type WatchStream = Replies<v1::Identity>;
    type EchoStream = Replies<v1::EchoReply>;

    async fn get(
        &self,
        request: tonic::Request<v1::GetRequest>,
    ) -> Result<tonic::Response<v1::Identity>, Status> {
        Ok(tonic::Response::new(self.identity(&request)))
    }

    async fn watch(
        &self,
        request: tonic::Request<v1::WatchRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let identity = self.identity(&request);
        let v1::WatchRequest { interval_ms, count } = request.into_inner();
        if interval_ms > INTERVAL_MS_MAX || count > COUNT_MAX {
            return Err(Status::invalid_argument(
                "interval_ms or count is too large",
            ));
        }
        let every = match interval_ms {
            0 => INTERVAL_MS_DEFAULT,
            millis => millis,
        };
        let every = Duration::from_millis(every.into());
        let replies = replies(self.phase.clone(), move |sender| {
            repeat(identity, every, count.max(1), sender)
        });
        Ok(tonic::Response::new(replies))
    }

    async fn echo(
        &self,
        request: tonic::Request<Streaming<v1::EchoRequest>>,
    ) -> Result<tonic::Response<Self::EchoStream>, Status> {
        let node_id = self.identity.node_id.clone();
        let requests = request.into_inner();
        let replies = replies(self.phase.clone(), move |sender| {
            echo(node_id, requests, sender)
        });
        Ok(tonic::Response::new(replies))
    }
}

type Sender<T> = mpsc::Sender<Result<T, Status>>;

/// Runs what sends replies until it ends, its client goes, or the node's time is up.
fn replies<T, F>(mut phase: watch::Receiver<Phase>, run: impl FnOnce(Sender<T>) -> F) -> Replies<T>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
    let running = run(sender.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = running => {}
            () = sender.closed() => {}
            () = reached(&mut phase, Phase::Cutting) => {
                // A client that has gone needs no word of ours.
                let _ = sender.send(Err(Status::unavailable("the node is leaving"))).await;
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

async fn repeat(identity: v1::Identity, every: Duration, count: u32, sender: Sender<v1::Identity>) {
    let mut ticks = interval(every);
    for _ in 0..count {
        ticks.tick().await;
        if sender.send(Ok(identity.clone())).await.is_err() {
            return;
        }
    }
}

async fn echo(
    node_id: String,
    mut requests: Streaming<v1::EchoRequest>,
    sender: Sender<v1::EchoReply>,
) {
    for sequence in 1.. {
        let reply = match requests.message().await {
            Ok(Some(request)) => Ok(v1::EchoReply {
                node_id: node_id.clone(),
                sequence,
                payload: request.payload,
            }),
            Ok(None) => return,
            Err(status) => Err(status),
        };
        let is_over = reply.is_err();
        if sender.send(reply).await.is_err() || is_over {
            return;
        }
    }
}

fn client(extensions: &http::Extensions) -> Option<IpAddr> {
    extensions.get().map(|Client(address)| *address)
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// A field that stands once is a string, one that is repeated a list of them.
fn fields(headers: &HeaderMap) -> Map<String, Value> {
    let text = |value: &HeaderValue| Value::from(String::from_utf8_lossy(value.as_bytes()));
    let field = |name: &HeaderName| {
        let mut values: Vec<_> = headers.get_all(name).iter().map(text).collect();
        match values.len() {
            1 => values.remove(0),
            _ => Value::from(values),
        }
    };
    headers
        .keys()
        .map(|name| (name.to_string(), field(name)))
        .collect()
}

fn v1_header((name, value): (&HeaderName, &HeaderValue)) -> v1::Header {
    v1::Header {
        name: name.to_string(),
        value: value.as_bytes().to_vec().into(),
    }
}
