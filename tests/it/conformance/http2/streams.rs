//! RFC 9113 §5: the life of a stream, and how errors are said.

use tests::raw::{
    frame::{Frame, code, flag, kind, setting},
    hpack::Block,
    http2::Outcome,
};

use super::{Stage, fails, get, held, post};

over_each_transport!(
    section_5_1_idle_data_ends_the_connection,
    section_5_1_idle_reset_ends_the_connection,
    section_5_1_idle_window_update_ends_the_connection,
    section_5_1_idle_continuation_ends_the_connection,
    section_5_1_idle_priority_is_taken,
    section_5_1_half_closed_data_is_refused,
    section_5_1_half_closed_headers_are_refused,
    section_5_1_half_closed_continuation_is_refused,
    section_5_1_half_closed_windows_and_priorities_are_taken,
    section_5_1_closed_streams_are_not_served_again,
    section_5_1_closed_by_us_and_frames_on_their_way_are_taken,
    section_5_1_1_even_stream_id_from_client,
    section_5_1_1_decreasing_stream_id,
    section_5_1_1_stream_ids_may_be_skipped,
    section_5_1_2_more_streams_than_allowed_are_refused,
    section_5_1_2_ended_streams_do_not_count,
    section_5_4_1_a_goaway_tells_the_last_stream_and_the_connection_closes,
    section_5_4_2_a_stream_error_leaves_the_others,
    section_5_4_2_a_reset_is_not_answered_by_a_reset,
    section_5_5_extensions_do_not_interrupt_a_block,
);

async fn section_5_1_idle_data_ends_the_connection(stage: Stage) {
    let codes = [code::PROTOCOL_ERROR, code::STREAM_CLOSED];
    let data = Frame::data(1, flag::END_STREAM, b"x");
    stage.fails_connection(&[data], &codes).await;
}

async fn section_5_1_idle_reset_ends_the_connection(stage: Stage) {
    let reset = Frame::reset(1, code::CANCEL);
    stage
        .fails_connection(&[reset], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_5_1_idle_window_update_ends_the_connection(stage: Stage) {
    let update = Frame::window_update(1, 100);
    stage
        .fails_connection(&[update], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_5_1_idle_continuation_ends_the_connection(stage: Stage) {
    let more = Frame::continuation(1, flag::END_HEADERS, Block::get("/"));
    stage
        .fails_connection(&[more], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_5_1_idle_priority_is_taken(stage: Stage) {
    let mut peer = stage.peer().await;
    peer.say(&[Frame::priority(7, 0)]).await;
    assert_eq!(peer.get(1, "/sized/10").await.status, 200);
}

async fn section_5_1_half_closed_data_is_refused(stage: Stage) {
    let frames = [held(1), Frame::data(1, flag::END_STREAM, b"x")];
    stage.fails_stream(&frames, 1, &[code::STREAM_CLOSED]).await;
}

async fn section_5_1_half_closed_headers_are_refused(stage: Stage) {
    stage
        .fails_stream(&[held(1), held(1)], 1, &[code::STREAM_CLOSED])
        .await;
}

async fn section_5_1_half_closed_continuation_is_refused(stage: Stage) {
    let more = Frame::continuation(1, flag::END_HEADERS, b"");
    let codes = [code::STREAM_CLOSED, code::PROTOCOL_ERROR];
    stage.fails_connection(&[held(1), more], &codes).await;
}

async fn section_5_1_half_closed_windows_and_priorities_are_taken(stage: Stage) {
    let mut peer = stage.peer().await;
    let frames = [
        held(1),
        Frame::window_update(1, 100),
        Frame::priority(1, 0),
        Frame::reset(1, code::CANCEL),
    ];
    peer.say(&frames).await;
    peer.is_alive().await;
}

/// What comes is ignored or ends the connection; what it never does is ask once more.
async fn section_5_1_closed_streams_are_not_served_again(stage: Stage) {
    let mut peer = stage.peer().await;
    assert_eq!(peer.get(1, "/sized/10").await.status, 200);
    peer.say(&[get(1)]).await;
    let outcome = peer.outcome(1).await;
    let codes = [code::STREAM_CLOSED, code::PROTOCOL_ERROR];
    let refused = match outcome {
        Outcome::Reset(code) | Outcome::GoneAway(code, _) => codes.contains(&code),
        other => other == Outcome::Nothing,
    };
    assert!(refused, "{outcome:?}");
}

/// The client could not know yet that its stream was over.
async fn section_5_1_closed_by_us_and_frames_on_their_way_are_taken(stage: Stage) {
    let mut peer = stage.peer().await;
    let block = Block::request("POST", "/echo").field("connection", "close");
    let frames = [
        Frame::headers(1, flag::NONE, block),
        Frame::data(1, flag::NONE, b"x"),
        Frame::window_update(1, 100),
        Frame::data(1, flag::END_STREAM, b"y"),
    ];
    peer.say(&frames).await;
    if !matches!(
        peer.outcome(1).await,
        Outcome::GoneAway(code::PROTOCOL_ERROR, _)
    ) {
        peer.is_alive().await;
    }
}

async fn section_5_1_1_even_stream_id_from_client(stage: Stage) {
    stage
        .fails_connection(&[get(2)], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_5_1_1_decreasing_stream_id(stage: Stage) {
    let codes = [code::PROTOCOL_ERROR, code::STREAM_CLOSED];
    stage.fails_connection(&[held(5), held(3)], &codes).await;
}

async fn section_5_1_1_stream_ids_may_be_skipped(stage: Stage) {
    let mut peer = stage.peer().await;
    for stream in [1, 9, 1001, 0x7fff_ffff] {
        assert_eq!(peer.get(stream, "/sized/10").await.status, 200);
    }
}

async fn section_5_1_2_more_streams_than_allowed_are_refused(stage: Stage) {
    let mut peer = stage.peer().await;
    let allowed = peer.setting(setting::MAX_CONCURRENT_STREAMS);
    let allowed = allowed.expect("a server tells how many streams it allows");
    let asks: Vec<_> = (0..=allowed).map(|n| held(2 * n + 1)).collect();
    peer.say(&asks).await;
    let codes = [code::REFUSED_STREAM, code::PROTOCOL_ERROR];
    match peer.outcome(2 * allowed + 1).await {
        Outcome::Reset(code) if codes.contains(&code) => {}
        other => panic!("{other:?} where one stream too many was asked for"),
    }
}

async fn section_5_1_2_ended_streams_do_not_count(stage: Stage) {
    let mut peer = stage.peer().await;
    let allowed = peer.setting(setting::MAX_CONCURRENT_STREAMS).unwrap_or(100);
    for n in 0..allowed + 10 {
        assert_eq!(peer.get(2 * n + 1, "/sized/1").await.status, 200);
    }
}

async fn section_5_4_1_a_goaway_tells_the_last_stream_and_the_connection_closes(stage: Stage) {
    let mut peer = stage.peer().await;
    assert_eq!(peer.get(5, "/sized/10").await.status, 200);
    peer.say(&[Frame::ping([0; 8]), Frame::new(kind::PING, 0, 0, [0; 7])])
        .await;
    let ending = peer.ending().await;
    assert_eq!(ending, Outcome::GoneAway(code::FRAME_SIZE_ERROR, 5));
    assert!(peer.is_closed().await);
}

async fn section_5_4_2_a_stream_error_leaves_the_others(stage: Stage) {
    let mut peer = stage.peer().await;
    peer.say(&[post(1), post(3), Frame::window_update(3, 0)])
        .await;
    match peer.outcome(3).await {
        Outcome::Reset(code::PROTOCOL_ERROR) => {}
        Outcome::GoneAway(code::PROTOCOL_ERROR, _) => return,
        other => panic!("{other:?}"),
    }
    peer.say(&[Frame::data(1, flag::END_STREAM, b"abc")]).await;
    assert_eq!(peer.answer(1).await.body, b"abc");
}

async fn section_5_4_2_a_reset_is_not_answered_by_a_reset(stage: Stage) {
    let mut peer = stage.peer().await;
    peer.say(&[held(1), Frame::reset(1, code::CANCEL)]).await;
    peer.say(&[Frame::ping(*b"no reset")]).await;
    while let Some(frame) = peer.next().await {
        assert!(frame.kind != kind::RST_STREAM, "{frame:?}");
        if frame.kind == kind::PING {
            return;
        }
    }
    panic!("the connection must go on");
}

async fn section_5_5_extensions_do_not_interrupt_a_block(stage: Stage) {
    let mut peer = stage.peer().await;
    let begun = Frame::headers_begun(1, flag::END_STREAM, Block::get("/"));
    let extension = Frame::new(kind::UNKNOWN, flag::NONE, 1, b"x");
    let more = Frame::continuation(1, flag::END_HEADERS, b"");
    peer.say(&[begun, extension, more]).await;
    fails(&mut peer, &[code::PROTOCOL_ERROR]).await;
}
