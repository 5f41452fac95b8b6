//! RFC 9113 §8.1, §8.3 and §8.4: what makes a request, and what makes it malformed.

use tests::raw::{
    frame::{Frame, code, flag},
    hpack::Block,
    http2::Outcome,
};

use super::Stage;

over_each_transport!(
    section_8_1_a_second_block_without_the_end_is_refused,
    section_8_1_trailers_end_the_request,
    section_8_1_1_a_body_has_the_length_that_was_said,
    section_8_1_1_the_length_is_a_number_said_once,
    section_8_1_1_the_right_length_is_taken,
    section_8_3_unknown_pseudo_fields_are_refused,
    section_8_3_pseudo_fields_of_answers_are_refused,
    section_8_3_pseudo_fields_come_first,
    section_8_3_pseudo_fields_in_trailers_reach_nobody,
    section_8_3_pseudo_fields_stand_once,
    section_8_3_1_method_scheme_and_path_are_there,
    section_8_3_1_a_path_is_not_empty,
    section_8_3_1_a_path_is_a_path,
    section_8_3_1_a_method_is_a_token,
    section_8_3_1_the_authority_has_no_user,
    section_8_3_1_the_authority_is_one_host,
    section_8_3_1_host_and_authority_agree,
    section_8_3_1_the_authority_becomes_the_host,
    section_8_3_1_an_asterisk_is_for_options,
    section_8_4_a_client_cannot_push_and_gets_no_push,
);

fn seen() -> Block {
    Block::get("/seen")
}

fn bare(fields: &[(&str, &str)]) -> Block {
    let add = |block: Block, (name, value): &(&str, &str)| block.field(name, value);
    fields.iter().fold(Block::new(), add)
}

fn post(fields: &[(&str, &str)]) -> Frame {
    let add = |block: Block, (name, value): &(&str, &str)| block.field(name, value);
    let block = fields.iter().fold(Block::request("POST", "/seen"), add);
    Frame::headers(1, flag::NONE, block)
}

async fn section_8_1_a_second_block_without_the_end_is_refused(stage: Stage) {
    let more = Frame::headers(1, flag::NONE, Block::new().field("x", "y"));
    stage.refuses("an open trailer", &[post(&[]), more]).await;
}

async fn section_8_1_trailers_end_the_request(stage: Stage) {
    let frames = [
        post(&[]),
        Frame::data(1, flag::NONE, b"abc"),
        Frame::headers(1, flag::END_STREAM, Block::new().field("x-after", "y")),
    ];
    assert_eq!(stage.seen(&frames).await.body, b"abc");
}

async fn section_8_1_1_a_body_has_the_length_that_was_said(stage: Stage) {
    let end = flag::END_STREAM;
    for (length, data) in [
        ("3", vec![Frame::data(1, end, b"abcd")]),
        ("3", vec![Frame::data(1, end, b"ab")]),
        ("3", vec![Frame::data(1, end, b"")]),
        (
            "3",
            vec![
                Frame::data(1, flag::NONE, b"ab"),
                Frame::data(1, end, b"cd"),
            ],
        ),
        ("0", vec![Frame::data(1, end, b"a")]),
        (
            "3",
            vec![
                Frame::data(1, flag::NONE, b"ab"),
                Frame::headers(1, end, Block::new()),
            ],
        ),
    ] {
        let frames = [vec![post(&[("content-length", length)])], data].concat();
        stage.refuses("a wrong length", &frames).await;
    }
    let block = Block::request("POST", "/seen").field("content-length", "3");
    stage.refuses_block("a length without a body", block).await;
}

async fn section_8_1_1_the_length_is_a_number_said_once(stage: Stage) {
    for lengths in [
        &["+3"][..],
        &["-3"],
        &["0x3"],
        &["3 3"],
        &["3, 4"],
        &["3", "4"],
        &["18446744073709551619"],
        &["x"],
        &[""],
    ] {
        let fields: Vec<_> = lengths.iter().map(|it| ("content-length", *it)).collect();
        let frames = [post(&fields), Frame::data(1, flag::END_STREAM, b"abc")];
        stage.refuses(&format!("{lengths:?}"), &frames).await;
    }
}

async fn section_8_1_1_the_right_length_is_taken(stage: Stage) {
    let frames = [
        post(&[("content-length", "6")]),
        Frame::data(1, flag::NONE, b"abc").padded(9),
        Frame::data(1, flag::END_STREAM, b"def"),
    ];
    assert_eq!(stage.seen(&frames).await.body, b"abcdef");
}

async fn section_8_3_unknown_pseudo_fields_are_refused(stage: Stage) {
    for name in [":x", ":", ":host", ":method ", "::path"] {
        let block = Block::new().field(name, "1").raw(seen());
        stage.refuses_block(name, block).await;
    }
}

async fn section_8_3_pseudo_fields_of_answers_are_refused(stage: Stage) {
    let block = Block::new().field(":status", "200").raw(seen());
    stage.refuses_block("a status", block).await;
}

async fn section_8_3_pseudo_fields_come_first(stage: Stage) {
    let block = bare(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a"),
        ("x", "y"),
        (":path", "/seen"),
    ]);
    stage.refuses_block("a path behind a field", block).await;
}

/// Such a request is malformed; the library below drops the field without a word, so that all that can be held is that nobody reads it.
async fn section_8_3_pseudo_fields_in_trailers_reach_nobody(stage: Stage) {
    for (name, value) in [
        (":method", "GET"),
        (":path", "/seen"),
        (":status", "200"),
        (":x", "1"),
    ] {
        let trailers = Frame::headers(1, flag::END_STREAM, Block::new().field(name, value));
        let mut peer = stage.peer().await;
        peer.say(&[post(&[]), trailers]).await;
        let outcome = peer.outcome(1).await;
        assert!(!matches!(outcome, Outcome::Nothing), "{name}");
        let seen = format!("{:?}", stage.recorder.take());
        assert!(
            !seen.contains(&format!("\"{name}")),
            "{name} reached a node: {seen}"
        );
    }
}

async fn section_8_3_pseudo_fields_stand_once(stage: Stage) {
    for (name, value) in [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/seen"),
        (":authority", "app.example"),
    ] {
        let block = Block::new().field(name, value).raw(seen());
        stage.refuses_block(name, block).await;
    }
}

async fn section_8_3_1_method_scheme_and_path_are_there(stage: Stage) {
    let all = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/seen"),
        (":authority", "a"),
    ];
    for missing in [":method", ":scheme", ":path"] {
        let fields: Vec<_> = all.into_iter().filter(|it| it.0 != missing).collect();
        stage.refuses_block(missing, bare(&fields)).await;
    }
    let fields: Vec<_> = all.into_iter().filter(|it| it.0 != ":authority").collect();
    stage
        .refuses_block("neither authority nor host", bare(&fields))
        .await;
}

async fn section_8_3_1_a_path_is_not_empty(stage: Stage) {
    stage.refuses_block("an empty path", Block::get("")).await;
}

async fn section_8_3_1_a_path_is_a_path(stage: Stage) {
    for path in [
        "seen",
        "/seen HTTP/1.1\r\nhost: evil\r\n\r\nGET /evil",
        "/seen x",
        "/seen\r\n",
        "/seen\0",
        "/seen\t",
        "http://evil/seen",
        "?x",
        "*",
    ] {
        stage.refuses_block(path, Block::get(path)).await;
    }
}

async fn section_8_3_1_a_method_is_a_token(stage: Stage) {
    for method in [
        "",
        "GET ",
        "GE T",
        "GET / HTTP/1.1\r\nx: y\r\n\r\nGET",
        "G\0T",
        "GET:",
        "\u{e9}",
    ] {
        stage
            .refuses_block(method, Block::request(method, "/seen"))
            .await;
    }
}

async fn section_8_3_1_the_authority_has_no_user(stage: Stage) {
    let block = at_authority("user@app.example");
    stage.refuses_block("a user", block).await;
}

async fn section_8_3_1_the_authority_is_one_host(stage: Stage) {
    for authority in [
        "",
        "a b",
        "a/b",
        "a\r\nhost: b",
        "a\0",
        "a?b",
        "a#b",
        "a:x",
        "[::1",
    ] {
        stage
            .refuses_block(authority, at_authority(authority))
            .await;
    }
}

async fn section_8_3_1_host_and_authority_agree(stage: Stage) {
    stage
        .refuses_block("two hosts", seen().field("host", "evil"))
        .await;
    let block = seen().field("host", "app.example").field("host", "evil");
    stage.refuses_block("three hosts", block).await;
}

async fn section_8_3_1_the_authority_becomes_the_host(stage: Stage) {
    let asked = Frame::headers(1, flag::END_STREAM, at_authority("app.example:8080"));
    assert_eq!(stage.seen(&[asked]).await.host, "app.example:8080");
}

/// It has no path by which a route could be found, so that it may be refused; it may not become another request.
async fn section_8_3_1_an_asterisk_is_for_options(stage: Stage) {
    let mut peer = stage.peer().await;
    let asked = Frame::headers(1, flag::END_STREAM, Block::request("OPTIONS", "*"));
    peer.say(&[asked]).await;
    peer.answer(1).await;
}

async fn section_8_4_a_client_cannot_push_and_gets_no_push(stage: Stage) {
    let promised = [&3_u32.to_be_bytes()[..], seen().as_ref()].concat();
    let promise = Frame::new(5, flag::END_HEADERS, 1, promised);
    stage
        .fails_connection(&[post(&[]), promise], &[code::PROTOCOL_ERROR])
        .await;
}

fn at_authority(authority: &str) -> Block {
    bare(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/seen"),
        (":authority", authority),
    ])
}
