//! RFC 9113 §8.2: what a field may be called and hold.

use tests::raw::{
    frame::{Frame, flag},
    hpack::Block,
};

use super::Stage;

over_each_transport!(
    section_8_2_names_are_in_lower_case,
    section_8_2_1_names_hold_what_names_may,
    section_8_2_1_values_hold_no_line_end_and_no_nul,
    section_8_2_1_values_have_no_space_around_them,
    section_8_2_2_fields_of_a_connection_are_refused,
    section_8_2_2_te_is_trailers_or_nothing,
    section_8_2_3_crumbs_become_one_cookie,
);

fn seen() -> Block {
    Block::get("/seen")
}

async fn section_8_2_names_are_in_lower_case(stage: Stage) {
    for name in ["X-Upper", "xX", "Z", "Host", "Content-Length"] {
        stage.refuses_block(name, seen().field(name, "1")).await;
    }
}

async fn section_8_2_1_names_hold_what_names_may(stage: Stage) {
    let outside = (0..=0x20).chain(0x7f..=0xff);
    for byte in outside.chain(*b"\"(),/;<=>?@[\\]{}") {
        let what = format!("a name with {byte:#x}");
        let block = seen().field([b'x', byte, b'y'], "1");
        stage.refuses_block(&what, block).await;
    }
    for name in ["", "x:", "x:y", "x\r\ny: z", "x: y"] {
        stage.refuses_block(name, seen().field(name, "1")).await;
    }
}

async fn section_8_2_1_values_hold_no_line_end_and_no_nul(stage: Stage) {
    for byte in [0, b'\n', b'\r'] {
        for value in [vec![byte], vec![b'a', byte, b'b'], vec![b'a', byte]] {
            let what = format!("a value with {byte:#x}");
            stage.refuses_block(&what, seen().field("x", value)).await;
        }
    }
}

/// The space may also be taken off, as long as the node does not read what was not meant.
async fn section_8_2_1_values_have_no_space_around_them(stage: Stage) {
    for value in [" a", "a ", "\ta", "a\t", " ", "\t"] {
        let block = seen().field("x", value);
        stage
            .refuses_block("a value with space around it", block)
            .await;
    }
}

async fn section_8_2_2_fields_of_a_connection_are_refused(stage: Stage) {
    for (name, value) in [
        ("connection", "close"),
        ("connection", "x-other"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "websocket"),
    ] {
        stage.refuses_block(name, seen().field(name, value)).await;
    }
}

async fn section_8_2_2_te_is_trailers_or_nothing(stage: Stage) {
    for value in ["gzip", "trailers, gzip", "chunked", "trailers;q=1", ""] {
        stage.refuses_block("te", seen().field("te", value)).await;
    }
    let asked = Frame::headers(1, flag::END_STREAM, seen().field("te", "trailers"));
    stage.seen(&[asked]).await;
}

async fn section_8_2_3_crumbs_become_one_cookie(stage: Stage) {
    let block = seen()
        .field("cookie", "a=b")
        .field("x", "y")
        .field("cookie", "c=d")
        .field("cookie", "e=f");
    let asked = Frame::headers(1, flag::END_STREAM, block);
    let request = stage.seen(&[asked]).await;
    let cookies: Vec<_> = request
        .fields
        .iter()
        .filter(|it| it.0 == "cookie")
        .collect();
    assert_eq!(
        cookies,
        [&("cookie".to_owned(), "a=b; c=d; e=f".to_owned())]
    );
}
