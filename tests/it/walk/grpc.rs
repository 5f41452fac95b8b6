//! Calls of gRPC through the balancer, of each kind, with their trailers and errors, and what a client library sees when no node is there.

use tests::{
    cluster::{Balancer, Setup},
    origin::grpc::GrpcOrigin,
    ports,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, IntoStreamingRequest, Request, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

type Codec = ProstCodec<String, String>;

#[tokio::test]
async fn a_call_is_answered() {
    let (mut client, _origin, _balancer) = between().await;
    let request = Request::new("hello".to_owned());
    let answer = client
        .unary(request, method("Upper"), Codec::default())
        .await;
    assert_eq!(answer.expect("it is fine").into_inner(), "HELLO");
}

#[tokio::test]
async fn an_error_keeps_its_code_message_and_metadata() {
    let (mut client, _origin, _balancer) = between().await;
    let request = Request::new(String::new());
    let answer = client
        .unary(request, method("Upper"), Codec::default())
        .await;
    let status = answer.expect_err("an empty text is refused");
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "nothing to shout: ä")
    );
    assert_eq!(
        status.metadata().get("x-hint").expect("it was sent"),
        "say something"
    );
    client.ready().await.expect("the balancer listens");
    let request = Request::new(String::new());
    let answer = client
        .unary(request, method("Nothing"), Codec::default())
        .await;
    assert_eq!(
        answer.expect_err("there is no such method").code(),
        Code::Unimplemented
    );
}

#[tokio::test]
async fn a_server_streams_and_says_at_the_end_how_it_went() {
    let (mut client, _origin, _balancer) = between().await;
    for (n, end) in [("4", None), ("3", Some(Code::DataLoss))] {
        client.ready().await.expect("the balancer listens");
        let request = Request::new(n.to_owned());
        let answer = client
            .server_streaming(request, method("Count"), Codec::default())
            .await;
        let mut texts = answer.expect("it begins well").into_inner();
        let mut heard = 0;
        let ended = loop {
            match texts.next().await {
                Some(Ok(text)) => assert_eq!(text, heard.to_string()),
                Some(Err(status)) => break Some(status.code()),
                None => break None,
            }
            heard += 1;
        };
        assert_eq!((heard.to_string().as_str(), ended), (n, end));
    }
}

#[tokio::test]
async fn a_client_streams() {
    let (mut client, _origin, _balancer) = between().await;
    let texts = tokio_stream::iter(["a", "b", "c"].map(str::to_owned));
    let answer = client.client_streaming(Request::new(texts), method("Join"), Codec::default());
    assert_eq!(answer.await.expect("it is fine").into_inner(), "abc");
}

#[tokio::test]
async fn both_sides_stream_at_the_same_time() {
    let (mut client, _origin, _balancer) = between().await;
    let (say, texts) = mpsc::channel(1);
    let request = ReceiverStream::new(texts).into_streaming_request();
    // The node answers before the first message, so that the head must not wait for one.
    let answer = client
        .streaming(request, method("Echo"), Codec::default())
        .await;
    let mut echoes = answer.expect("it begins well").into_inner();
    for n in 0..20 {
        say.send(n.to_string()).await.expect("the call goes on");
        let echo = echoes.next().await.expect("it goes on");
        assert_eq!(echo.expect("it goes well"), n.to_string());
    }
    drop(say);
    assert!(
        echoes.next().await.is_none(),
        "the node ends when the client has ended"
    );
}

#[tokio::test]
async fn without_a_node_the_call_is_unavailable() {
    let nobody = ports::free().expect("a port is free");
    let setup = Setup::http(&[nobody.address()]).serving("queue_wait = '50ms'");
    let balancer = setup.start().await;
    let mut client = client(&balancer).await;
    let request = Request::new("hello".to_owned());
    let answer = client
        .unary(request, method("Upper"), Codec::default())
        .await;
    let status = answer.expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        !status.message().contains("127.0.0.1"),
        "{}",
        status.message()
    );
    let line = balancer.line("/texts.Texts/Upper").await;
    assert_eq!(line["status"], 503, "{line}");
}

#[tokio::test]
async fn without_a_route_the_call_is_unimplemented() {
    let origin = GrpcOrigin::start().await;
    let setup = Setup::empty()
        .listener("web", "")
        .service("app", &[origin.address()])
        .route("service = 'app'\npath = '/other'");
    let balancer = setup.start().await;
    let mut client = client(&balancer).await;
    let request = Request::new("hello".to_owned());
    let answer = client
        .unary(request, method("Upper"), Codec::default())
        .await;
    assert_eq!(
        answer.expect_err("there is no route").code(),
        Code::Unimplemented
    );
}

fn method(name: &str) -> http::uri::PathAndQuery {
    let path = format!("/texts.Texts/{name}");
    path.parse().expect("a valid path")
}

async fn between() -> (Grpc<Channel>, GrpcOrigin, Balancer) {
    let origin = GrpcOrigin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let client = client(&balancer).await;
    (client, origin, balancer)
}

async fn client(balancer: &Balancer) -> Grpc<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", balancer.entry()));
    let channel = endpoint.expect("a valid address").connect().await;
    let mut client = Grpc::new(channel.expect("the balancer listens"));
    client.ready().await.expect("the balancer listens");
    client
}
