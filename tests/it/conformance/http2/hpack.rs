//! RFC 7541: field blocks that are good in every form, and bad ones that end the connection.

use tests::raw::{
    frame::{Frame, code, flag, kind, setting},
    hpack::Block,
    recorder::Event,
};

use super::{Stage, get};

over_each_transport!(
    section_2_3_3_an_index_beyond_the_tables_is_refused,
    section_4_2_a_table_larger_than_allowed_is_refused,
    section_4_2_a_table_changes_only_at_the_beginning,
    section_4_2_a_table_made_smaller_is_told_first,
    section_4_3_a_smaller_table_forgets,
    section_4_4_an_entry_too_large_empties_the_table,
    section_5_1_an_integer_without_end_is_refused,
    section_5_1_an_integer_cut_short_is_refused,
    section_5_2_a_string_longer_than_its_block_is_refused,
    section_5_2_huffman_padding_is_short_and_of_ones,
    section_5_2_huffman_has_no_end_of_string,
    section_5_2_huffman_is_read,
    section_6_1_an_index_of_nothing_is_refused,
    section_6_2_1_what_is_remembered_is_known_later,
    section_6_2_3_never_indexed_fields_are_passed_on,
    section_6_3_a_table_may_change_twice,
);

fn seen() -> Block {
    Block::get("/seen")
}

async fn ends(stage: &Stage, block: Block) {
    let asked = Frame::headers(1, flag::END_STREAM, block);
    stage
        .fails_connection(&[asked], &[code::COMPRESSION_ERROR])
        .await;
}

/// The two blocks are sent one after the other; the value of `x` that the node sees in the second.
async fn second_sees(stage: &Stage, first: Block, second: Block) -> Option<String> {
    let mut peer = stage.peer().await;
    for (stream, block) in [(1, first), (3, second)] {
        peer.say(&[Frame::headers(stream, flag::END_STREAM, block)])
            .await;
        assert_eq!(peer.answer(stream).await.status, 200);
    }
    let seen = stage.recorder.take();
    seen.into_iter().rev().find_map(|it| match it {
        Event::Whole(request) => request.field("x").map(|it| it.into_owned()),
        _ => None,
    })
}

async fn section_2_3_3_an_index_beyond_the_tables_is_refused(stage: Stage) {
    ends(&stage, seen().indexed(62)).await;
    ends(&stage, seen().remembered("x", "y").indexed(63)).await;
    ends(&stage, seen().integer(0x40, 6, 70).string("x")).await;
}

async fn section_4_2_a_table_larger_than_allowed_is_refused(stage: Stage) {
    let told = stage.peer().await.setting(setting::HEADER_TABLE_SIZE);
    let largest = u64::from(told.unwrap_or(4096));
    ends(&stage, Block::new().table_size(largest + 1).raw(seen())).await;
}

async fn section_4_2_a_table_changes_only_at_the_beginning(stage: Stage) {
    ends(&stage, seen().table_size(0)).await;
    let block = Block::new()
        .field(":method", "GET")
        .table_size(100)
        .field(":path", "/seen");
    ends(&stage, block).await;
}

/// The client has allowed no table, and the balancer has agreed: its next block begins by saying so.
async fn section_4_2_a_table_made_smaller_is_told_first(stage: Stage) {
    let mut peer = stage.peer().await;
    peer.say(&[get(1)]).await;
    let head = peer.until(|it| it.kind == kind::HEADERS).await;
    let head = head.expect("the balancer answers");
    assert_eq!(head.payload.first(), Some(&0x20), "{head:?}");
}

async fn section_4_3_a_smaller_table_forgets(stage: Stage) {
    let mut peer = stage.peer().await;
    let first = Block::get("/sized/1").remembered("x", "y");
    let second = Block::new().table_size(0).raw(Block::get("/")).indexed(62);
    peer.say(&[Frame::headers(1, flag::END_STREAM, first)])
        .await;
    assert_eq!(peer.answer(1).await.status, 200);
    peer.say(&[Frame::headers(3, flag::END_STREAM, second)])
        .await;
    super::fails(&mut peer, &[code::COMPRESSION_ERROR]).await;
}

async fn section_4_4_an_entry_too_large_empties_the_table(stage: Stage) {
    let block = seen()
        .remembered("x", "y")
        .remembered("z", vec![b'z'; 8000])
        .indexed(62);
    ends(&stage, block).await;
}

async fn section_5_1_an_integer_without_end_is_refused(stage: Stage) {
    ends(&stage, seen().raw([0xff; 30]).raw([0x7f])).await;
    ends(&stage, seen().raw([0, 0x7f]).raw([0xff; 20]).raw([0x7f])).await;
}

async fn section_5_1_an_integer_cut_short_is_refused(stage: Stage) {
    ends(&stage, seen().raw([0xff, 0x80])).await;
    ends(&stage, seen().raw([0xff])).await;
}

async fn section_5_2_a_string_longer_than_its_block_is_refused(stage: Stage) {
    ends(
        &stage,
        seen().raw([0]).string("x").integer(0, 7, 100).raw("y"),
    )
    .await;
    ends(&stage, seen().raw([0]).string("x")).await;
}

/// `a` is 00011; what follows it are the padding bits.
async fn section_5_2_huffman_padding_is_short_and_of_ones(stage: Stage) {
    for coded in [&[0b0001_1000][..], &[0b0001_1111, 0xff], &[0xff]] {
        ends(&stage, seen().raw([0]).string("x").huffman(coded)).await;
    }
}

async fn section_5_2_huffman_has_no_end_of_string(stage: Stage) {
    let coded = [0b0001_1111, 0xff, 0xff, 0xff, 0xff];
    ends(&stage, seen().raw([0]).string("x").huffman(coded)).await;
    ends(&stage, seen().raw([0]).string("x").huffman([0xff; 4])).await;
}

/// The example of RFC 7541 C.4.1.
async fn section_5_2_huffman_is_read(stage: Stage) {
    let coded = [
        0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
    ];
    let block = seen().raw([0]).string("x").huffman(coded);
    let asked = Frame::headers(1, flag::END_STREAM, block);
    let request = stage.seen(&[asked]).await;
    assert_eq!(request.field("x").as_deref(), Some("www.example.com"));
}

async fn section_6_1_an_index_of_nothing_is_refused(stage: Stage) {
    ends(&stage, seen().indexed(0)).await;
}

async fn section_6_2_1_what_is_remembered_is_known_later(stage: Stage) {
    let value = second_sees(&stage, seen().remembered("x", "kept"), seen().indexed(62)).await;
    assert_eq!(value.as_deref(), Some("kept"));
}

async fn section_6_2_3_never_indexed_fields_are_passed_on(stage: Stage) {
    let block = seen().raw([0x10]).string("x").string("secret");
    let asked = Frame::headers(1, flag::END_STREAM, block);
    let request = stage.seen(&[asked]).await;
    assert_eq!(request.field("x").as_deref(), Some("secret"));
}

async fn section_6_3_a_table_may_change_twice(stage: Stage) {
    let second = Block::new()
        .table_size(0)
        .table_size(4096)
        .raw(seen())
        .remembered("x", "new");
    let value = second_sees(&stage, seen().remembered("x", "old"), second).await;
    assert_eq!(value.as_deref(), Some("new"));
}
