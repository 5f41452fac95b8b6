//! The same port speaks gRPC: who answers, streams, and health.

use proto::v1::{EchoRequest, GetRequest, WatchRequest, whoami_client::WhoamiClient};
use tokio_stream::StreamExt;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::harness::{soon, start};

#[tokio::test]
async fn get_tells_the_identity() {
    let node = start("trusted_proxies = ['127.0.0.1']").await;
    let mut client = WhoamiClient::new(channel(&node).await);
    let mut request = tonic::Request::new(GetRequest {});
    request
        .metadata_mut()
        .insert("x-forwarded-for", "192.0.2.7".parse().expect("a value"));
    let identity = client.get(request).await.expect("an answer").into_inner();
    assert_eq!(
        (identity.node_id.as_str(), identity.zone.as_str()),
        ("n1", "z1")
    );
    assert_eq!(identity.client_address, "192.0.2.7");
    assert!(
        identity
            .headers
            .iter()
            .any(|it| it.name == "x-forwarded-for" && &it.value[..] == b"192.0.2.7")
    );
}

#[tokio::test]
async fn watch_repeats_the_identity_and_ends() {
    let node = start("").await;
    let mut client = WhoamiClient::new(channel(&node).await);
    let request = WatchRequest {
        interval_ms: 1,
        count: 3,
    };
    let replies = client.watch(request).await.expect("a stream").into_inner();
    let ids: Vec<_> = soon(replies.map(|it| it.expect("a reply").node_id).collect()).await;
    assert_eq!(ids, ["n1"; 3]);
    let endless = WatchRequest {
        interval_ms: u32::MAX,
        count: 1,
    };
    let status = client
        .watch(endless)
        .await
        .expect_err("the interval has a limit");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn echo_numbers_what_comes_back() {
    let node = start("").await;
    let mut client = WhoamiClient::new(channel(&node).await);
    let request = |payload: &'static str| EchoRequest {
        payload: payload.into(),
    };
    let requests = tokio_stream::iter([request("a"), request("b")]);
    let replies = client.echo(requests).await.expect("a stream").into_inner();
    let replies: Vec<_> = soon(replies.map(|it| it.expect("a reply")).collect()).await;
    let seen: Vec<_> = replies
        .iter()
        .map(|it| (it.sequence, &it.payload[..], it.node_id.as_str()))
        .collect();
    assert_eq!(seen, [(1, &b"a"[..], "n1"), (2, b"b", "n1")]);
}

#[tokio::test]
async fn health_knows_its_services() {
    let node = start("").await;
    let mut client = HealthClient::new(channel(&node).await);
    for service in ["", "colonnade.v1.Whoami"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let status = client
            .check(request)
            .await
            .expect("an answer")
            .into_inner()
            .status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    let request = HealthCheckRequest {
        service: "other".to_owned(),
    };
    assert_eq!(
        client.check(request).await.expect_err("unknown").code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn an_unknown_service_is_unimplemented() {
    let node = start("").await;
    let mut grpc = tonic::client::Grpc::new(channel(&node).await);
    grpc.ready().await.expect("a connection");
    let path = http::uri::PathAndQuery::from_static("/other.Service/Call");
    let codec: tonic_prost::ProstCodec<GetRequest, GetRequest> = Default::default();
    let result = grpc
        .unary(tonic::Request::new(GetRequest {}), path, codec)
        .await;
    assert_eq!(
        result.expect_err("nobody serves it").code(),
        Code::Unimplemented
    );
}

pub(crate) async fn channel(node: &node::app::Node) -> Channel {
    let endpoint =
        Channel::from_shared(format!("http://{}", node.web_address())).expect("an address");
    endpoint.connect().await.expect("the node listens")
}
