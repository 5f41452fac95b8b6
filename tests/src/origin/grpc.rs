//! A gRPC origin on tonic with a method of each kind, whose messages are texts.
//!
//! There is no schema: a text is what `google.protobuf.StringValue` encodes.

use std::{convert::Infallible, net::SocketAddr, pin::Pin};

use http::Request as HttpRequest;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::{Stream, StreamExt};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{
        ClientStreamingService, Grpc, ServerStreamingService, StreamingService, UnaryService,
    },
};
use tonic_prost::ProstCodec;

use crate::ports::{self, PortLease};

type Future<T> = Pin<Box<dyn std::future::Future<Output = Result<Response<T>, Status>> + Send>>;
type Texts = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

/// A running origin with the methods `/texts.Texts/{Upper,Count,Join,Echo}`, whose health service knows `texts.Texts` and says that
/// `texts.Idle` does not serve.
#[derive(Debug)]
pub struct GrpcOrigin {
    lease: PortLease,
    server: JoinHandle<()>,
}

impl GrpcOrigin {
    pub async fn start() -> Self {
        let lease = ports::free().expect("a port is free");
        let listener = TcpListener::bind(lease.address()).await;
        let listener = listener.expect("a leased port can be bound");
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(async |request| Ok::<_, Infallible>(call(request).await));
                let http2 = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(http2.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { lease, server }
    }

    pub fn address(&self) -> SocketAddr {
        self.lease.address()
    }
}

impl Drop for GrpcOrigin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn call(request: HttpRequest<Incoming>) -> http::Response<Body> {
    let mut grpc = Grpc::new(ProstCodec::<String, String>::default());
    match request.uri().path() {
        "/texts.Texts/Upper" => grpc.unary(Upper, request).await,
        "/texts.Texts/Count" => grpc.server_streaming(Count, request).await,
        "/texts.Texts/Join" => grpc.client_streaming(Join, request).await,
        "/texts.Texts/Echo" => grpc.streaming(Echo, request).await,
        "/grpc.health.v1.Health/Check" => {
            let mut grpc = Grpc::new(ProstCodec::<Health, Asked>::default());
            grpc.unary(Check, request).await
        }
        _ => Status::unimplemented("no such method").into_http(),
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

struct Check;

impl UnaryService<Asked> for Check {
    type Response = Health;
    type Future = Future<Health>;

    fn call(&mut self, request: Request<Asked>) -> Future<Health> {
        Box::pin(async move {
            match request.into_inner().service.as_str() {
                "texts.Texts" => Ok(Response::new(Health { status: 1 })),
                "texts.Idle" => Ok(Response::new(Health { status: 2 })),
                _ => Err(Status::not_found("no such service")),
            }
        })
    }
}

/// One text in, the same in capitals out; the empty one is an error with metadata.
struct Upper;

impl UnaryService<String> for Upper {
    type Response = String;
    type Future = Future<String>;

    fn call(&mut self, request: Request<String>) -> Future<String> {
        Box::pin(async move {
            let text = request.into_inner();
            if text.is_empty() {
                let mut status = Status::invalid_argument("nothing to shout: ä");
                status
                    .metadata_mut()
                    .insert("x-hint", "say something".parse().expect("it is ASCII"));
                return Err(status);
            }
            Ok(Response::new(text.to_uppercase()))
        })
    }
}

/// A number in, so many texts out, and an error at the end if the number is odd.
struct Count;

impl ServerStreamingService<String> for Count {
    type Response = String;
    type ResponseStream = Texts;
    type Future = Future<Texts>;

    fn call(&mut self, request: Request<String>) -> Future<Texts> {
        Box::pin(async move {
            let n: u32 = request
                .into_inner()
                .parse()
                .map_err(|_| Status::invalid_argument("no number"))?;
            let numbers = tokio_stream::iter((0..n).map(|it| Ok(it.to_string())));
            let odd = (n % 2 == 1).then(|| Err(Status::data_loss("odd")));
            Ok(Response::new(
                Box::pin(numbers.chain(tokio_stream::iter(odd))) as Texts,
            ))
        })
    }
}

/// Many texts in, all of them out as one.
struct Join;

impl ClientStreamingService<String> for Join {
    type Response = String;
    type Future = Future<String>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Future<String> {
        Box::pin(async move {
            let texts: Vec<_> = request.into_inner().collect::<Result<_, _>>().await?;
            Ok(Response::new(texts.concat()))
        })
    }
}

/// Each text comes back at once.
struct Echo;

impl StreamingService<String> for Echo {
    type Response = String;
    type ResponseStream = Texts;
    type Future = Future<Texts>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Future<Texts> {
        Box::pin(async move { Ok(Response::new(Box::pin(request.into_inner()) as Texts)) })
    }
}
