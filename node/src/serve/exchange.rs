//! One request and its answer: around the service stand the limits, the rescue and the count.

use std::{
    convert::Infallible,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use node_core::client::client;
use tokio::time::timeout;
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_http::catch_panic::CatchPanicLayer;

use super::{Shared, SharedPace};
use crate::{
    net::PeerAddr,
    observe::Exchange,
    register::now,
    rescue::{self, Face, Refusal},
    service::web::Web,
};

/// Requests whose answer is being prepared at once; more wait for their turn. It bounds the blocking reads, not the
/// streams, which are answered when their first frame is.
const ANSWERS_AT_ONCE: usize = 1024;

/// From a request's head to its answer's head, waiting included.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What turns a request into an answer, with everything that can go wrong turned into one too.
pub(super) type Answering = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

type Walk = BoxCloneSyncService<Request<Body>, Response<Body>, Refusal>;

/// The client's address as far as trusted proxies tell it; an extension of each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client(pub(crate) IpAddr);

pub(super) fn answering(web: Arc<Web>) -> Answering {
    let walk = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(Body::new))
        // Waiting for a turn is over when the answer's head is there.
        .concurrency_limit(ANSWERS_AT_ONCE)
        // A mistake in one answer is not the end of the connection's other streams.
        .layer(CatchPanicLayer::custom(
            |panic: Box<dyn std::any::Any + Send>| {
                rescue::answer(&rescue::panicked(&*panic), Face::Text)
            },
        ))
        .service(service_fn(move |request| web.clone().answer(request)));
    let walk = BoxCloneSyncService::new(walk);
    BoxCloneSyncService::new(service_fn(move |request| rescued(walk.clone(), request)))
}

async fn rescued(walk: Walk, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let face = Face::of(request.uri().path(), request.headers());
    let response = match timeout(ANSWER_WITHIN, walk.oneshot(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(refusal)) => rescue::answer(&refusal, face),
        Err(_) => rescue::answer(&Refusal::Overdue, face),
    };
    Ok(response)
}

/// The exchanges of one connection.
#[derive(Clone)]
pub(super) struct Exchanges {
    shared: Arc<Shared>,
    peer: PeerAddr,
    pace: SharedPace,
}

impl Exchanges {
    pub(super) fn new(shared: &Arc<Shared>, peer: PeerAddr, pace: &SharedPace) -> Self {
        Self {
            shared: shared.clone(),
            peer,
            pace: pace.clone(),
        }
    }

    pub(super) async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Observed>, Infallible> {
        let mut under_way = UnderWay::begin(&self);
        let version = request.version();
        let mut request = request.map(Body::new);
        let client = client(self.peer.0.ip(), request.headers(), &self.shared.trusted);
        request.extensions_mut().insert(Client(client));
        let Ok(mut response) = self.shared.answering.clone().oneshot(request).await;
        if version < Version::HTTP_2 && self.shared.way_out.drain <= *self.shared.phase.borrow() {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        under_way.exchange.answered(response.status());
        Ok(response.map(|body| Observed {
            body,
            _under_way: under_way,
        }))
    }
}

/// Stands for an exchange from its request's head to the last byte of its answer.
struct UnderWay {
    exchange: Exchange,
    pace: SharedPace,
}

impl UnderWay {
    fn begin(exchanges: &Exchanges) -> Self {
        exchanges.pace.exchange_began();
        Self {
            exchange: Exchange::began(exchanges.shared.metrics.clone(), now()),
            pace: exchanges.pace.clone(),
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.pace.exchange_ended();
    }
}

/// An answer's body, with whose end the exchange ends.
pub(super) struct Observed {
    body: Body,
    _under_way: UnderWay,
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
