//! RFC 9113 §6 and §7: what each frame must be.

use tests::raw::{
    frame::{Frame, code, flag, kind, setting},
    hpack::Block,
    http2::Outcome,
};

use super::{Stage, get, held, post};

over_each_transport!(
    section_6_1_data_belongs_to_a_stream,
    section_6_1_padding_is_shorter_than_data,
    section_6_1_padding_is_taken_off,
    section_6_2_headers_belong_to_a_stream,
    section_6_2_padding_is_shorter_than_headers,
    section_6_2_padding_and_priority_are_taken_off,
    section_6_3_priority_belongs_to_a_stream,
    section_6_3_priority_has_five_bytes,
    section_6_4_reset_belongs_to_a_stream,
    section_6_4_reset_has_four_bytes,
    section_6_5_settings_are_acknowledged_each_time,
    section_6_5_an_acknowledgement_is_empty,
    section_6_5_settings_belong_to_the_connection,
    section_6_5_settings_have_six_bytes_each,
    section_6_5_2_push_is_on_or_off,
    section_6_5_2_a_server_does_not_enable_push,
    section_6_5_2_a_window_has_31_bits,
    section_6_5_2_frames_are_not_too_small_or_too_large,
    section_6_5_2_unknown_settings_are_ignored,
    section_6_5_3_the_last_of_equal_settings_counts,
    section_6_6_a_client_does_not_push,
    section_6_7_a_ping_comes_back_as_it_was,
    section_6_7_an_acknowledged_ping_does_not_come_back,
    section_6_7_a_ping_belongs_to_the_connection,
    section_6_7_a_ping_has_eight_bytes,
    section_6_8_goaway_belongs_to_the_connection,
    section_6_8_streams_go_on_after_a_goaway,
    section_6_10_a_block_may_come_in_pieces,
    section_6_10_a_piece_needs_a_beginning,
    section_6_10_no_piece_comes_after_the_end,
    section_6_10_a_piece_belongs_to_a_stream,
    section_7_unknown_codes_mean_nothing_special,
);

async fn section_6_1_data_belongs_to_a_stream(stage: Stage) {
    let data = Frame::data(0, flag::NONE, b"x");
    stage
        .fails_connection(&[data], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_1_padding_is_shorter_than_data(stage: Stage) {
    for payload in [&[3, b'x', 0][..], &[255, b'x'], &[1]] {
        let data = Frame::data(1, flag::PADDED, payload);
        stage
            .fails_connection(&[post(1), data], &[code::PROTOCOL_ERROR])
            .await;
    }
}

async fn section_6_1_padding_is_taken_off(stage: Stage) {
    let mut peer = stage.peer().await;
    let frames = [
        post(1),
        Frame::data(1, flag::NONE, b"abc").padded(255),
        Frame::data(1, flag::NONE, b"").padded(10),
        Frame::data(1, flag::END_STREAM, b"def").padded(0),
    ];
    peer.say(&frames).await;
    assert_eq!(peer.answer(1).await.body, b"abcdef");
}

async fn section_6_2_headers_belong_to_a_stream(stage: Stage) {
    stage
        .fails_connection(&[get(0)], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_2_padding_is_shorter_than_headers(stage: Stage) {
    let block = [&[255][..], Block::get("/").as_ref()].concat();
    let asked = Frame::headers(1, flag::END_STREAM | flag::PADDED, block);
    stage
        .fails_connection(&[asked], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_2_padding_and_priority_are_taken_off(stage: Stage) {
    let mut peer = stage.peer().await;
    peer.say(&[get(1).padded(50)]).await;
    assert_eq!(peer.answer(1).await.status, 200);
    let block = [&[0, 0, 0, 1, 200][..], Block::get("/sized/10").as_ref()].concat();
    let asked = Frame::headers(3, flag::END_STREAM | flag::PRIORITY, block);
    peer.say(&[asked.padded(50)]).await;
    assert_eq!(peer.answer(3).await.status, 200);
}

async fn section_6_3_priority_belongs_to_a_stream(stage: Stage) {
    stage
        .fails_connection(&[Frame::priority(0, 1)], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_3_priority_has_five_bytes(stage: Stage) {
    let short = Frame::new(kind::PRIORITY, flag::NONE, 1, [0; 4]);
    stage
        .fails_stream(&[held(1), short], 1, &[code::FRAME_SIZE_ERROR])
        .await;
}

async fn section_6_4_reset_belongs_to_a_stream(stage: Stage) {
    let reset = Frame::reset(0, code::CANCEL);
    stage
        .fails_connection(&[reset], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_4_reset_has_four_bytes(stage: Stage) {
    for len in [3, 5] {
        let reset = Frame::new(kind::RST_STREAM, flag::NONE, 1, vec![0; len]);
        stage
            .fails_connection(&[held(1), reset], &[code::FRAME_SIZE_ERROR])
            .await;
    }
}

async fn section_6_5_settings_are_acknowledged_each_time(stage: Stage) {
    let mut peer = stage.peer().await;
    let settings = Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 1000)]);
    peer.say(&[settings.clone(), settings]).await;
    for _ in 0..2 {
        let ack = peer.until(|it| it.kind == kind::SETTINGS && it.has(flag::ACK));
        let ack = ack.await.expect("each is acknowledged");
        assert!(ack.payload.is_empty());
    }
}

async fn section_6_5_an_acknowledgement_is_empty(stage: Stage) {
    let full = Frame::new(kind::SETTINGS, flag::ACK, 0, [0; 6]);
    stage
        .fails_connection(&[full], &[code::FRAME_SIZE_ERROR])
        .await;
}

async fn section_6_5_settings_belong_to_the_connection(stage: Stage) {
    let settings = Frame::new(kind::SETTINGS, flag::NONE, 1, []);
    stage
        .fails_connection(&[settings], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_5_settings_have_six_bytes_each(stage: Stage) {
    for len in [1, 5, 7] {
        let settings = Frame::new(kind::SETTINGS, flag::NONE, 0, vec![0; len]);
        stage
            .fails_connection(&[settings], &[code::FRAME_SIZE_ERROR])
            .await;
    }
}

async fn section_6_5_2_push_is_on_or_off(stage: Stage) {
    let settings = Frame::settings(&[(setting::ENABLE_PUSH, 2)]);
    stage
        .fails_connection(&[settings], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_5_2_a_server_does_not_enable_push(stage: Stage) {
    let push = stage.peer().await.setting(setting::ENABLE_PUSH);
    assert_ne!(push, Some(1));
}

async fn section_6_5_2_a_window_has_31_bits(stage: Stage) {
    let settings = Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]);
    stage
        .fails_connection(&[settings], &[code::FLOW_CONTROL_ERROR])
        .await;
}

async fn section_6_5_2_frames_are_not_too_small_or_too_large(stage: Stage) {
    for size in [0, 16_383, 1 << 24] {
        let settings = Frame::settings(&[(setting::MAX_FRAME_SIZE, size)]);
        stage
            .fails_connection(&[settings], &[code::PROTOCOL_ERROR])
            .await;
    }
}

async fn section_6_5_2_unknown_settings_are_ignored(stage: Stage) {
    let mut peer = stage
        .peer_with(&[(0, 1), (0x0a0a, 7), (0xffff, u32::MAX)])
        .await;
    assert_eq!(peer.get(1, "/sized/10").await.status, 200);
}

/// A window of nothing, and in the same frame one of three bytes.
async fn section_6_5_3_the_last_of_equal_settings_counts(stage: Stage) {
    let window = setting::INITIAL_WINDOW_SIZE;
    let mut peer = stage.peer_with(&[(window, 0), (window, 3)]).await;
    peer.say(&[get(1)]).await;
    let data = peer.until(|it| it.kind == kind::DATA).await;
    assert_eq!(data.expect("three bytes may be sent").payload.len(), 3);
}

async fn section_6_6_a_client_does_not_push(stage: Stage) {
    let promised = [&2_u32.to_be_bytes()[..], Block::get("/").as_ref()].concat();
    let promise = Frame::new(kind::PUSH_PROMISE, flag::END_HEADERS, 1, promised);
    stage
        .fails_connection(&[post(1), promise], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_7_a_ping_comes_back_as_it_was(stage: Stage) {
    let mut peer = stage.peer().await;
    peer.say(&[Frame::ping(*b"12345678")]).await;
    let pong = peer.until(|it| it.kind == kind::PING).await;
    let pong = pong.expect("a ping is answered");
    assert_eq!(
        (pong.flags, &pong.payload[..]),
        (flag::ACK, &b"12345678"[..])
    );
}

async fn section_6_7_an_acknowledged_ping_does_not_come_back(stage: Stage) {
    let mut peer = stage.peer().await;
    let pong = Frame::new(kind::PING, flag::ACK, 0, *b"answered");
    peer.say(&[pong, Frame::ping(*b"question")]).await;
    let next = peer.until(|it| it.kind == kind::PING).await;
    let next = next.expect("the question is answered");
    assert_eq!(&next.payload[..], b"question");
}

async fn section_6_7_a_ping_belongs_to_the_connection(stage: Stage) {
    let ping = Frame::new(kind::PING, flag::NONE, 1, [0; 8]);
    stage
        .fails_connection(&[ping], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_7_a_ping_has_eight_bytes(stage: Stage) {
    for len in [0, 7, 9] {
        let ping = Frame::new(kind::PING, flag::NONE, 0, vec![0; len]);
        stage
            .fails_connection(&[ping], &[code::FRAME_SIZE_ERROR])
            .await;
    }
}

async fn section_6_8_goaway_belongs_to_the_connection(stage: Stage) {
    let goaway = Frame::new(kind::GOAWAY, flag::NONE, 1, [0; 8]);
    stage
        .fails_connection(&[goaway], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_8_streams_go_on_after_a_goaway(stage: Stage) {
    let mut peer = stage.peer().await;
    let goaway = Frame::go_away(0, code::NO_ERROR);
    peer.say(&[post(1), goaway, Frame::data(1, flag::END_STREAM, b"abc")])
        .await;
    assert_eq!(peer.answer(1).await.body, b"abc");
}

async fn section_6_10_a_block_may_come_in_pieces(stage: Stage) {
    let mut peer = stage.peer().await;
    let block = Block::get("/sized/10").into_bytes();
    let (first, rest) = block.split_at(5);
    let (second, third) = rest.split_at(1);
    let frames = [
        Frame::headers_begun(1, flag::END_STREAM, first),
        Frame::continuation(1, flag::NONE, second),
        Frame::continuation(1, flag::NONE, b""),
        Frame::continuation(1, flag::END_HEADERS, third),
    ];
    peer.say(&frames).await;
    assert_eq!(peer.answer(1).await.status, 200);
}

async fn section_6_10_a_piece_needs_a_beginning(stage: Stage) {
    let frames = [
        post(1),
        Frame::data(1, flag::NONE, b"x"),
        Frame::continuation(1, flag::END_HEADERS, b""),
    ];
    stage
        .fails_connection(&frames, &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_10_no_piece_comes_after_the_end(stage: Stage) {
    let frames = [
        Frame::headers_begun(1, flag::NONE, Block::request("POST", "/echo")),
        Frame::continuation(1, flag::END_HEADERS, b""),
        Frame::continuation(1, flag::END_HEADERS, b""),
    ];
    stage
        .fails_connection(&frames, &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_10_a_piece_belongs_to_a_stream(stage: Stage) {
    let frames = [
        Frame::headers_begun(1, flag::END_STREAM, Block::get("/")),
        Frame::continuation(0, flag::END_HEADERS, b""),
    ];
    stage
        .fails_connection(&frames, &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_7_unknown_codes_mean_nothing_special(stage: Stage) {
    let mut peer = stage.peer().await;
    peer.say(&[held(1), Frame::reset(1, 0xdead_beef)]).await;
    peer.is_alive().await;
    peer.say(&[post(3), Frame::go_away(0, 0xdead_beef)]).await;
    peer.say(&[Frame::data(3, flag::END_STREAM, b"abc")]).await;
    let outcome = peer.outcome(3).await;
    assert!(
        matches!(outcome, Outcome::Answered(200) | Outcome::Closed),
        "{outcome:?}"
    );
}
