//! Takes connections at the admin address and socket: few at once, none for long, each marked with where it came in.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{entry::Caller, socket::AdminSocket};

/// Connections at once by each door; more wait in the kernel. A flood at the address leaves the socket free.
const CONNECTIONS_MAX: usize = 64;

/// How long a head may take to come, the wait for the next request included.
const HEAD_WITHIN: Duration = Duration::from_secs(15);

/// Asked to end after this long: who reads slowly, or not at all, must not hold a place for ever.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);

/// How long an answer under way may then still take.
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Waited after a failed accept, which only time can mend.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What listens.
pub(crate) struct Doors {
    pub(crate) address: TcpListener,
    pub(crate) socket: Option<AdminSocket>,
}

/// Serves until told to end; answers under way are finished.
pub(crate) async fn serve(doors: Doors, router: Router, ends: CancellationToken) {
    let Doors { address, socket } = doors;
    let visit = Visit { router, ends };
    let ended = visit.ends.clone();
    tokio::select! {
        biased;
        () = ended.cancelled() => {}
        _ = async { tokio::join!(at_address(address, &visit), at_socket(socket, &visit)) } => {}
    }
}

/// What every connection is given.
#[derive(Clone)]
struct Visit {
    router: Router,
    ends: CancellationToken,
}

async fn at_address(listener: TcpListener, visit: &Visit) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => begin(place, stream, Caller::Address, visit.clone()),
            Err(err) => wait_after(&err).await,
        }
    }
}

async fn at_socket(socket: Option<AdminSocket>, visit: &Visit) {
    let Some(socket) = socket else {
        return;
    };
    let listener = match socket.listener.try_clone().and_then(UnixListener::from_std) {
        Ok(listener) => listener,
        Err(err) => return tracing::error!(%err, "the admin socket cannot be used"),
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        let accepted = listener.accept().await;
        let known = accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream)));
        match known {
            Ok((uid, stream)) if socket.lets_in(uid) => {
                begin(place, stream, Caller::Socket { uid }, visit.clone());
            }
            Ok((uid, _)) => tracing::warn!(uid, "a stranger at the admin socket was sent away"),
            Err(err) => wait_after(&err).await,
        }
    }
}

async fn wait_after(err: &std::io::Error) {
    tracing::warn!(%err, "accepting a connection of an operator");
    tokio::time::sleep(ACCEPT_BACKOFF).await;
}

fn begin(
    place: OwnedSemaphorePermit,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
    visit: Visit,
) {
    tokio::spawn(async move {
        let _place = place;
        attend(stream, caller, visit).await;
    });
}

async fn attend(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
    visit: Visit,
) {
    let Visit { router, ends } = visit;
    let answer = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller);
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    // How a connection ends is its client's business: nothing of ours is at stake.
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        () = ends.cancelled() => {}
        () = tokio::time::sleep(CONNECTION_AGE_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LAST_ANSWER_WITHIN, connection).await;
}
