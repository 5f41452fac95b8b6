//! RFC 9113 §8.5 and RFC 8441: tunnels are refused, but for WebSockets.

use tests::raw::{
    frame::{Frame, flag, setting},
    hpack::Block,
    http2::Outcome,
};

use super::Stage;

over_each_transport!(
    section_8_5_connect_has_neither_scheme_nor_path,
    section_8_5_connect_has_an_authority,
    section_8_5_connect_to_elsewhere_is_refused,
    rfc_8441_section_3_extended_connect_is_announced,
    rfc_8441_section_4_a_protocol_needs_connect,
    rfc_8441_section_4_a_protocol_needs_scheme_and_path,
    rfc_8441_section_4_unknown_protocols_are_refused,
    rfc_8441_section_5_a_node_that_does_not_agree_is_passed_on,
);

async fn section_8_5_connect_has_neither_scheme_nor_path(stage: Stage) {
    let connect = || {
        Block::new()
            .field(":method", "CONNECT")
            .field(":authority", "a:443")
    };
    let block = connect().field(":scheme", "http");
    stage.refuses_block("a scheme", block).await;
    let block = connect().field(":path", "/seen");
    stage.refuses_block("a path", block).await;
    let block = connect().field(":scheme", "http").field(":path", "/seen");
    stage.refuses_block("both", block).await;
}

async fn section_8_5_connect_has_an_authority(stage: Stage) {
    let block = Block::new().field(":method", "CONNECT");
    stage.refuses_block("no authority", block).await;
}

async fn section_8_5_connect_to_elsewhere_is_refused(stage: Stage) {
    let block = Block::new()
        .field(":method", "CONNECT")
        .field(":authority", "a:443");
    let mut peer = stage.peer().await;
    peer.say(&[Frame::headers(1, flag::NONE, block)]).await;
    let outcome = peer.outcome(1).await;
    let refused = matches!(outcome, Outcome::Answered(400..=501) | Outcome::Reset(_));
    assert!(refused, "{outcome:?}");
    peer.is_alive().await;
}

async fn rfc_8441_section_3_extended_connect_is_announced(stage: Stage) {
    let told = stage.peer().await.setting(setting::ENABLE_CONNECT_PROTOCOL);
    assert_eq!(told, Some(1));
}

async fn rfc_8441_section_4_a_protocol_needs_connect(stage: Stage) {
    let block = Block::get("/seen").field(":protocol", "websocket");
    stage.refuses_block("a protocol of a GET", block).await;
}

async fn rfc_8441_section_4_a_protocol_needs_scheme_and_path(stage: Stage) {
    let connect = || {
        Block::new()
            .field(":method", "CONNECT")
            .field(":protocol", "websocket")
            .field(":authority", "a")
    };
    let block = connect().field(":scheme", "http");
    stage.refuses_block("no path", block).await;
    let block = connect().field(":path", "/seen");
    stage.refuses_block("no scheme", block).await;
}

async fn rfc_8441_section_4_unknown_protocols_are_refused(stage: Stage) {
    for protocol in ["h2c", "connect-udp", "", "websocket, x", "web socket"] {
        let block = Block::request("CONNECT", "/seen").field(":protocol", protocol);
        stage.refuses_block(protocol, block).await;
    }
}

async fn rfc_8441_section_5_a_node_that_does_not_agree_is_passed_on(stage: Stage) {
    let mut peer = stage.peer().await;
    let asked = Frame::headers(1, flag::NONE, Block::websocket("/seen"));
    peer.say(&[asked]).await;
    let outcome = peer.outcome(1).await;
    // The node answers a plain 200, which in HTTP/1.1 agrees to nothing and in HTTP/2 would agree to a tunnel.
    let refused = matches!(outcome, Outcome::Answered(400..=599) | Outcome::Reset(_));
    assert!(refused, "{outcome:?}");
    peer.is_alive().await;
}
