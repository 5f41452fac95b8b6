//! RFC 9113 §5.2 and §6.9: nobody sends more than the other side has room for.

use std::time::Duration;

use tests::raw::{
    frame::{FRAME_BYTES_MAX, Frame, code, flag, kind, setting},
    hpack::Block,
    http2::Peer,
};

use super::{Stage, get, held};

over_each_transport!(
    section_6_9_an_update_of_nothing_on_a_stream_is_refused,
    section_6_9_an_update_of_nothing_on_the_connection_is_refused,
    section_6_9_an_update_has_four_bytes,
    section_6_9_an_update_after_the_end_is_taken,
    section_6_9_1_the_window_of_a_stream_is_kept,
    section_6_9_1_the_window_of_the_connection_is_kept,
    section_6_9_1_a_stream_window_beyond_31_bits_is_refused,
    section_6_9_1_a_connection_window_beyond_31_bits_is_refused,
    section_6_9_1_nothing_needs_no_window,
    section_6_9_1_more_than_the_window_of_a_stream_is_refused,
    section_6_9_1_the_window_is_given_back_with_its_padding,
    section_6_9_2_a_changed_window_holds_for_open_streams,
    section_6_9_2_a_window_may_become_negative,
    section_6_9_2_a_changed_window_beyond_31_bits_is_refused,
    section_6_9_2_a_changed_window_is_not_the_connections,
);

/// Long enough for a byte that should not come to come.
const A_WHILE: Duration = Duration::from_millis(150);
const WINDOW: u16 = setting::INITIAL_WINDOW_SIZE;
/// RFC 9113 §6.9.2.
const USUAL: usize = 65_535;

async fn section_6_9_an_update_of_nothing_on_a_stream_is_refused(stage: Stage) {
    let frames = [held(1), Frame::window_update(1, 0)];
    stage
        .fails_stream(&frames, 1, &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_9_an_update_of_nothing_on_the_connection_is_refused(stage: Stage) {
    stage
        .fails_connection(&[Frame::window_update(0, 0)], &[code::PROTOCOL_ERROR])
        .await;
}

async fn section_6_9_an_update_has_four_bytes(stage: Stage) {
    for len in [3, 5] {
        let update = Frame::new(kind::WINDOW_UPDATE, flag::NONE, 0, vec![0; len]);
        stage
            .fails_connection(&[update], &[code::FRAME_SIZE_ERROR])
            .await;
    }
}

async fn section_6_9_an_update_after_the_end_is_taken(stage: Stage) {
    let mut peer = stage.peer().await;
    assert_eq!(peer.get(1, "/sized/10").await.status, 200);
    peer.say(&[Frame::window_update(1, 100)]).await;
    peer.is_alive().await;
}

async fn section_6_9_1_the_window_of_a_stream_is_kept(stage: Stage) {
    let mut peer = stage.peer_with(&[(WINDOW, 4)]).await;
    peer.say(&[get(1)]).await;
    assert_eq!(sent(&mut peer, 1).await, 4);
    peer.say(&[Frame::window_update(1, 1)]).await;
    assert_eq!(sent(&mut peer, 1).await, 1);
    peer.say(&[Frame::window_update(1, 100)]).await;
    assert_eq!(sent(&mut peer, 1).await, 5);
}

async fn section_6_9_1_the_window_of_the_connection_is_kept(stage: Stage) {
    let mut peer = stage.peer_with(&[(WINDOW, 1 << 20)]).await;
    peer.say(&[large(1)]).await;
    assert_eq!(sent(&mut peer, 1).await, USUAL);
    peer.say(&[Frame::window_update(0, 7)]).await;
    assert_eq!(sent(&mut peer, 1).await, 7);
}

async fn section_6_9_1_a_stream_window_beyond_31_bits_is_refused(stage: Stage) {
    let frames = [held(1), Frame::window_update(1, (1 << 31) - 1)];
    stage
        .fails_stream(&frames, 1, &[code::FLOW_CONTROL_ERROR])
        .await;
}

async fn section_6_9_1_a_connection_window_beyond_31_bits_is_refused(stage: Stage) {
    let update = Frame::window_update(0, (1 << 31) - 1);
    stage
        .fails_connection(&[update], &[code::FLOW_CONTROL_ERROR])
        .await;
}

/// The end of a body may be said in a frame without data, whatever the windows.
async fn section_6_9_1_nothing_needs_no_window(stage: Stage) {
    let mut peer = stage.peer_with(&[(WINDOW, 0)]).await;
    let asked = Frame::headers(1, flag::END_STREAM, Block::get("/sized/0"));
    peer.say(&[asked]).await;
    assert_eq!(peer.answer(1).await.body, b"");
}

/// A node that does not read makes the window close; a client that goes on is at fault.
async fn section_6_9_1_more_than_the_window_of_a_stream_is_refused(stage: Stage) {
    let mut peer = stage.peer().await;
    let told = peer.setting(WINDOW);
    let window = told.map_or(USUAL, |it| it as usize);
    let post = Frame::headers(1, flag::NONE, Block::request("POST", "/held"));
    // Twice the window in one go, before the other side can have given any of it back.
    let data = Frame::data(1, flag::NONE, vec![0; FRAME_BYTES_MAX]);
    let n_frames = (2 * window).div_ceil(FRAME_BYTES_MAX) + 400;
    let mut bytes = post.bytes();
    for _ in 0..n_frames {
        data.encode(&mut bytes);
    }
    peer.say_bytes(&bytes).await;
    loop {
        let frame = peer.next().await.expect("a client that goes on is stopped");
        let code = match frame.kind {
            kind::RST_STREAM => frame.number_at(0),
            kind::GOAWAY => frame.number_at(4),
            _ => continue,
        };
        assert_eq!(code, code::FLOW_CONTROL_ERROR);
        break;
    }
}

/// Else a client that pads would come to a stop.
async fn section_6_9_1_the_window_is_given_back_with_its_padding(stage: Stage) {
    let mut peer = stage.peer().await;
    let asked = Block::request("POST", "/seen");
    peer.say(&[Frame::headers(1, flag::NONE, asked)]).await;
    let data = Frame::data(1, flag::NONE, b"x").padded(255);
    // More than the windows that the other side begins with.
    for n in 1..=6_000 {
        while peer.allowance(1) < n * data.payload.len() {
            let update = peer.until(|it| it.kind == kind::WINDOW_UPDATE).await;
            update.expect("the window is given back");
        }
        peer.say(std::slice::from_ref(&data)).await;
    }
    peer.is_alive().await;
}

async fn section_6_9_2_a_changed_window_holds_for_open_streams(stage: Stage) {
    let mut peer = stage.peer_with(&[(WINDOW, 0)]).await;
    peer.say(&[get(1)]).await;
    assert_eq!(sent(&mut peer, 1).await, 0);
    peer.say(&[Frame::settings(&[(WINDOW, 3)])]).await;
    assert_eq!(sent(&mut peer, 1).await, 3);
}

async fn section_6_9_2_a_window_may_become_negative(stage: Stage) {
    let mut peer = stage.peer_with(&[(WINDOW, 4)]).await;
    peer.say(&[get(1)]).await;
    assert_eq!(sent(&mut peer, 1).await, 4);
    peer.say(&[Frame::settings(&[(WINDOW, 1)])]).await;
    peer.say(&[Frame::window_update(1, 3)]).await;
    assert_eq!(sent(&mut peer, 1).await, 0, "the window is 1 - 4 + 3");
    peer.say(&[Frame::window_update(1, 2)]).await;
    assert_eq!(sent(&mut peer, 1).await, 2);
}

async fn section_6_9_2_a_changed_window_beyond_31_bits_is_refused(stage: Stage) {
    let frames = [
        held(1),
        Frame::window_update(1, (1 << 31) - 1 - 65_535),
        Frame::settings(&[(WINDOW, 65_536)]),
    ];
    stage
        .fails_connection(&frames, &[code::FLOW_CONTROL_ERROR])
        .await;
}

async fn section_6_9_2_a_changed_window_is_not_the_connections(stage: Stage) {
    let mut peer = stage.peer_with(&[(WINDOW, 1 << 20)]).await;
    peer.say(&[Frame::settings(&[(WINDOW, 1 << 24)]), large(1)])
        .await;
    assert_eq!(sent(&mut peer, 1).await, USUAL);
}

fn large(stream: u32) -> Frame {
    Frame::headers(stream, flag::END_STREAM, Block::get("/sized/200000"))
}

/// How many bytes of data come before it is quiet.
async fn sent(peer: &mut Peer, stream: u32) -> usize {
    let mut sum = 0;
    while let Some(frame) = peer.next_within(A_WHILE).await {
        if frame.kind == kind::DATA && frame.stream == stream {
            sum += frame.payload.len();
        }
    }
    sum
}
