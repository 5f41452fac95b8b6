//! RFC 9113 §3 to §4: how a connection begins, and what a frame is.

use tests::raw::{
    frame::{FRAME_BYTES_MAX, Frame, PREFACE, code, flag, head, kind, setting},
    hpack::Block,
    http2::Outcome,
};

use super::{Stage, fails, get, post};

over_each_transport!(
    section_3_4_the_server_begins_with_its_settings,
    section_3_4_the_client_must_begin_with_its_settings,
    section_3_4_a_wrong_preface_is_refused,
    section_3_4_requests_may_come_right_after_the_preface,
    section_4_1_unknown_frames_are_ignored,
    section_4_1_undefined_flags_are_ignored,
    section_4_1_the_reserved_bit_is_ignored,
    section_4_2_frames_of_the_largest_size_are_taken,
    section_4_2_a_larger_data_frame_is_refused,
    section_4_2_a_larger_headers_frame_is_refused,
    section_4_2_a_larger_settings_frame_is_refused,
    section_4_2_a_larger_unknown_frame_is_refused,
    section_4_3_a_block_that_cannot_be_read_ends_the_connection,
    section_4_3_a_block_is_not_interrupted_by_another_frame,
    section_4_3_a_block_is_not_interrupted_by_another_stream,
    section_4_3_a_refused_request_keeps_the_compression_state,
);

async fn section_3_4_the_server_begins_with_its_settings(stage: Stage) {
    let mut peer = stage.unsaid().await;
    peer.say_bytes(PREFACE).await;
    peer.say(&[Frame::settings(&[])]).await;
    let first = peer.next().await.expect("a server speaks");
    assert_eq!(
        (first.kind, first.flags, first.stream),
        (kind::SETTINGS, 0, 0)
    );
}

async fn section_3_4_the_client_must_begin_with_its_settings(stage: Stage) {
    for first in [Frame::ping([0; 8]), get(1), Frame::settings_ack()] {
        let mut peer = stage.unsaid().await;
        peer.say_bytes(PREFACE).await;
        peer.say(&[first]).await;
        fails(&mut peer, &[code::PROTOCOL_ERROR]).await;
    }
}

/// The GOAWAY may be left out, because the peer may not be using HTTP/2.
async fn section_3_4_a_wrong_preface_is_refused(stage: Stage) {
    let mut peer = stage.unsaid().await;
    peer.say_bytes(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
    peer.say(&[Frame::settings(&[]), get(1)]).await;
    assert!(peer.is_closed().await, "it must not be served");
}

async fn section_3_4_requests_may_come_right_after_the_preface(stage: Stage) {
    let mut peer = stage.unsaid().await;
    let mut bytes = PREFACE.to_vec();
    Frame::settings(&[(setting::HEADER_TABLE_SIZE, 0)]).encode(&mut bytes);
    get(1).encode(&mut bytes);
    peer.say_bytes(&bytes).await;
    assert_eq!(peer.answer(1).await.status, 200);
}

async fn section_4_1_unknown_frames_are_ignored(stage: Stage) {
    let mut peer = stage.peer().await;
    for stream in [0, 1, 100] {
        peer.say(&[Frame::new(kind::UNKNOWN, 0xff, stream, b"what?")])
            .await;
    }
    assert_eq!(peer.get(1, "/sized/10").await.status, 200);
}

async fn section_4_1_undefined_flags_are_ignored(stage: Stage) {
    let mut peer = stage.peer().await;
    let mut ping = Frame::ping(*b"flagged!");
    ping.flags = 0xfe;
    let mut asked = get(1);
    asked.flags |= 0xd2;
    peer.say(&[ping, asked]).await;
    assert_eq!(peer.answer(1).await.status, 200);
}

async fn section_4_1_the_reserved_bit_is_ignored(stage: Stage) {
    let mut peer = stage.peer().await;
    let mut ping = Frame::ping(*b"reserved");
    ping.stream = 1 << 31;
    let mut asked = get(1);
    asked.stream |= 1 << 31;
    peer.say(&[ping, asked]).await;
    assert_eq!(peer.answer(1).await.status, 200);
}

async fn section_4_2_frames_of_the_largest_size_are_taken(stage: Stage) {
    let mut peer = stage.peer().await;
    let body = vec![b'x'; FRAME_BYTES_MAX];
    peer.say(&[post(1), Frame::data(1, flag::END_STREAM, &body)])
        .await;
    let answer = peer.answer(1).await;
    assert!(answer.status == 200 && answer.body == body);
    let block = Block::get("/sized/10").field("x", vec![b'y'; 10_000]);
    let padding = FRAME_BYTES_MAX - block.as_ref().len();
    let block = block.field("z", vec![b'z'; padding - 6]);
    let rest = FRAME_BYTES_MAX - block.as_ref().len();
    assert!(rest < 10, "it fills the frame, but for {rest}");
    peer.say(&[Frame::headers(3, flag::END_STREAM, block)])
        .await;
    assert_eq!(peer.answer(3).await.status, 200);
}

async fn section_4_2_a_larger_data_frame_is_refused(stage: Stage) {
    let limit = 1 + stage.largest_frame().await;
    let large = Frame::data(1, flag::END_STREAM, vec![0; limit]);
    stage
        .fails_stream(&[post(1), large], 1, &[code::FRAME_SIZE_ERROR])
        .await;
}

async fn section_4_2_a_larger_headers_frame_is_refused(stage: Stage) {
    let limit = 1 + stage.largest_frame().await;
    let block = Block::get("/").raw(vec![0; limit]);
    let large = Frame::headers(1, flag::END_STREAM, block);
    stage
        .fails_connection(&[large], &[code::FRAME_SIZE_ERROR])
        .await;
}

async fn section_4_2_a_larger_settings_frame_is_refused(stage: Stage) {
    let limit = 1 + stage.largest_frame().await;
    let large = Frame::new(
        kind::SETTINGS,
        flag::NONE,
        0,
        vec![0; limit.next_multiple_of(6)],
    );
    stage
        .fails_connection(&[large], &[code::FRAME_SIZE_ERROR])
        .await;
}

/// It cannot be skipped without reading what was never allowed.
async fn section_4_2_a_larger_unknown_frame_is_refused(stage: Stage) {
    let mut peer = stage.peer().await;
    peer.say_bytes(&head((1 << 24) - 1, kind::UNKNOWN, 0, 0))
        .await;
    peer.say_bytes(&[0; 100]).await;
    fails(&mut peer, &[code::FRAME_SIZE_ERROR]).await;
}

async fn section_4_3_a_block_that_cannot_be_read_ends_the_connection(stage: Stage) {
    let block = Block::get("/").integer(0x80, 7, 9999);
    let asked = Frame::headers(1, flag::END_STREAM, block);
    stage
        .fails_connection(&[asked], &[code::COMPRESSION_ERROR])
        .await;
}

async fn section_4_3_a_block_is_not_interrupted_by_another_frame(stage: Stage) {
    let begun = Frame::headers_begun(1, flag::END_STREAM, Block::get("/"));
    for other in [
        Frame::ping([0; 8]),
        Frame::settings(&[]),
        Frame::data(1, flag::NONE, b"x"),
        Frame::window_update(0, 1),
        Frame::priority(1, 0),
        Frame::reset(1, code::CANCEL),
        Frame::new(kind::UNKNOWN, flag::NONE, 1, b""),
    ] {
        stage
            .fails_connection(&[begun.clone(), other], &[code::PROTOCOL_ERROR])
            .await;
    }
}

async fn section_4_3_a_block_is_not_interrupted_by_another_stream(stage: Stage) {
    let begun = Frame::headers_begun(1, flag::END_STREAM, Block::get("/"));
    for other in [get(3), Frame::continuation(3, flag::END_HEADERS, b"")] {
        stage
            .fails_connection(&[begun.clone(), other], &[code::PROTOCOL_ERROR])
            .await;
    }
}

/// A field block is read even if the request is refused, or the next one could not be.
async fn section_4_3_a_refused_request_keeps_the_compression_state(stage: Stage) {
    let mut peer = stage.peer().await;
    let block = Block::get("/sized/10")
        .field("connection", "close")
        .remembered("x-kept", "y");
    peer.say(&[Frame::headers(1, flag::END_STREAM, block)])
        .await;
    let outcome = peer.outcome(1).await;
    if matches!(outcome, Outcome::GoneAway(..)) {
        return;
    }
    let block = Block::get("/seen").indexed(62);
    peer.say(&[Frame::headers(3, flag::END_STREAM, block)])
        .await;
    assert_eq!(peer.answer(3).await.status, 200);
    let seen = format!("{:?}", stage.recorder.take());
    assert!(seen.contains("x-kept"), "{seen}");
}

impl Stage {
    /// What the balancer allows a frame to be (RFC 9113 §6.5.2).
    async fn largest_frame(&self) -> usize {
        let told = self.peer().await.setting(setting::MAX_FRAME_SIZE);
        told.map_or(FRAME_BYTES_MAX, |it| it as usize)
    }
}
