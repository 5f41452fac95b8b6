//! What clients of the cluster do, and what they must not notice.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use prost::Message;
use proto::v1::{EchoReply, EchoRequest, Identity, WatchRequest, whoami_client::WhoamiClient};
use tests::load::{
    Answer, EntryAddr, Failed, Failure, FailureKind, Lane, Load, Outcome, Plan, Report, Traffic,
    content::{Expect, pattern},
    grpc::{Call, Grpc, Shape},
    http1::{Http1, HttpRequest, Reuse},
    http2::Http2,
};
use tonic::{Code, Status, Streaming, transport::Channel};

/// Longer than any test: these loads end when they are told to.
pub(super) const UNTIL_STOPPED: Duration = Duration::from_secs(600);

/// What a node answers to a POST of something it only shows: an answer, and proof that it was not asked twice.
const POST_ANSWER: &str = "status 405";

/// Requests at once on one HTTP/2 connection.
const STREAMS_EACH: usize = 4;

/// Starts a load with its rate and its clients, to be stopped.
pub(super) fn load(per_second: f64, lanes: usize, traffic: impl Traffic) -> Load {
    let plan = Plan::open(per_second, lanes, UNTIL_STOPPED);
    Load::start(plan, traffic).expect("a thread can be started")
}

/// Ends a load and tells what became of it.
pub(super) async fn finished(load: Load) -> Report {
    load.stop();
    load.finish().await.expect("a load that is stopped ends")
}

/// `GET /whoami` over HTTP/1.1 connections that are kept.
pub(super) fn gets(entry: EntryAddr) -> Http1 {
    Http1::new(entry, &whoami(), Reuse::KeepAlive)
}

/// The same, over a connection each.
pub(super) fn single_gets(entry: EntryAddr) -> Http1 {
    Http1::new(entry, &whoami(), Reuse::Never)
}

/// The same over HTTP/2.
pub(super) fn gets_http2(entry: EntryAddr) -> Http2 {
    Http2::new(entry, whoami(), STREAMS_EACH)
}

/// POSTs with a body, which nobody may send a second time.
pub(super) fn posts(entry: EntryAddr) -> Http1 {
    let request = HttpRequest {
        upload: 2_000,
        ..HttpRequest::get("/whoami")
    };
    Http1::new(entry, &request, Reuse::KeepAlive)
}

/// gRPC streams on which so many messages go out and come back, one after the other.
pub(super) fn echoes(entry: EntryAddr, messages: u64) -> Grpc {
    let message = EchoRequest {
        payload: pattern(100),
    };
    let call = Call {
        authority: "localhost".to_owned(),
        path: "/colonnade.v1.Whoami/Echo".to_owned(),
        message: message.encode_to_vec().into(),
        shape: Shape::Stream { messages },
        read: read_echo,
    };
    Grpc::new(entry, call, STREAMS_EACH)
}

/// gRPC streams of identities, each for so long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watches {
    pub(super) entry: EntryAddr,
    pub(super) request: WatchRequest,
}

/// One client of [`Watches`].
#[derive(Debug)]
pub(super) struct WatchLane {
    watches: Watches,
    client: Option<WhoamiClient<Channel>>,
    node: String,
}

/// What a report holds against the cluster. The answer to a POST is one, whatever it says.
pub(super) fn failed(report: &Report) -> Vec<&Failed> {
    let failed = report.failed_exchanges().iter();
    failed.filter(|it| it.reason != POST_ANSWER).collect()
}

/// Nothing failed, and there was something that could have.
#[track_caller]
pub(super) fn none_failed(what: &str, report: &Report) {
    assert!(report.exchanges() > 0, "{what}: nothing was asked");
    let failed = told(&failed(report), report.began);
    assert!(failed.is_empty(), "{what}: {failed:#?}");
}

/// Failures in words, with when they began and ended.
pub(super) fn told(failed: &[&Failed], since: Instant) -> Vec<String> {
    let at = |moment: Instant| moment.saturating_duration_since(since);
    let told = failed
        .iter()
        .map(|it| format!("{:?} to {:?}: {}", at(it.began), at(it.ended), it.reason));
    told.collect()
}

/// Opens a watch and waits for its first identity.
pub(super) async fn watch(
    entry: EntryAddr,
    request: WatchRequest,
) -> Result<(Identity, Streaming<Identity>), Status> {
    let mut client = connected(entry).await?;
    let mut replies = client.watch(request).await?.into_inner();
    let first = replies.message().await?;
    let first = first.ok_or_else(|| Status::data_loss("the stream ended before it began"))?;
    Ok((first, replies))
}

impl Traffic for Watches {
    type Lane = WatchLane;

    fn lane(&mut self, _: usize) -> WatchLane {
        WatchLane {
            watches: *self,
            client: None,
            node: String::new(),
        }
    }
}

impl Lane for WatchLane {
    async fn exchange(&mut self) -> Result<Answer<'_>, Failure> {
        let watched = self.watched().await;
        let outcome = match watched {
            Ok(count) if count == self.watches.request.count => Outcome::Grpc(0),
            Ok(count) => {
                return Err(Failure {
                    kind: FailureKind::Truncated,
                    detail: format!("{count} identities came"),
                });
            }
            Err(status) if status.code() == Code::Unknown => {
                return Err(Failure {
                    kind: FailureKind::Reset,
                    detail: status.to_string(),
                });
            }
            Err(status) => Outcome::Grpc(status.code() as u16),
        };
        let node = Some(self.node.as_str());
        Ok(Answer {
            outcome,
            node,
            bytes: 0,
        })
    }

    fn abandon(&mut self) {
        self.client = None;
    }
}

impl WatchLane {
    /// How many identities came before the stream ended well.
    async fn watched(&mut self) -> Result<u32, Status> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => connected(self.watches.entry).await?,
        };
        let replies = client.watch(self.watches.request).await;
        self.client = Some(client);
        let mut replies = replies?.into_inner();
        let mut count = 0;
        while let Some(identity) = replies.message().await? {
            self.node = identity.node_id;
            count += 1;
        }
        Ok(count)
    }
}

async fn connected(entry: EntryAddr) -> Result<WhoamiClient<Channel>, Status> {
    let channel = Channel::from_shared(format!("http://{entry}"))
        .expect("an address makes a URI")
        .connect()
        .await;
    let channel = channel.map_err(|cause| Status::unknown(cause.to_string()))?;
    Ok(WhoamiClient::new(channel))
}

fn whoami() -> HttpRequest {
    HttpRequest {
        expect: Expect::NodeId,
        ..HttpRequest::get("/whoami")
    }
}

fn read_echo(message: &[u8]) -> Result<Option<Cow<'_, str>>, String> {
    let reply = EchoReply::decode(message).map_err(|cause| cause.to_string())?;
    if reply.payload != pattern(100) {
        return Err("the echo differs".to_owned());
    }
    Ok(Some(Cow::Owned(reply.node_id)))
}
