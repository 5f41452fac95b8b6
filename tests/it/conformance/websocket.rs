//! RFC 6455 and RFC 8441: a WebSocket's frames are its two ends' own matter, so every byte of them passes as it is.

use std::time::Duration;

use tests::{
    cluster::{Balancer, Setup},
    origin::{Dialogue, Origin, web::content},
    raw::{
        frame::{FRAME_BYTES_MAX, Frame, flag, kind},
        hpack::{self, Block},
        http2::Peer,
    },
};

/// The key of RFC 6455 §1.3, with extensions and protocols that the balancer does not know.
const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nhost: app.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: chat, superchat\r\nsec-websocket-extensions: permessage-deflate; client_max_window_bits, x-unknown\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: superchat\r\nsec-websocket-extensions: permessage-deflate\r\n\r\n";

/// The opcodes of RFC 6455 §5.2.
mod opcode {
    pub(super) const MORE: u8 = 0;
    pub(super) const TEXT: u8 = 1;
    pub(super) const BINARY: u8 = 2;
    pub(super) const CLOSE: u8 = 8;
    pub(super) const PING: u8 = 9;
    pub(super) const PONG: u8 = 10;
}

const FIN: u8 = 0x80;
const COMPRESSED: u8 = 0x40;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// On both sides of each boundary of RFC 6455 §5.2, and beyond all buffers.
const LENGTHS: [usize; 12] = [
    0,
    1,
    2,
    124,
    125,
    126,
    127,
    65_534,
    65_535,
    65_536,
    65_537,
    1 << 20,
];
const A_WHILE: Duration = Duration::from_millis(100);

#[tokio::test]
async fn section_4_1_what_is_negotiated_is_negotiated_end_to_end() {
    let (_balancer, origin, mut client) = between().await;
    client.say(HANDSHAKE).await;
    let mut node = origin.visit().await;
    let asked = node.head().await;
    for (name, value) in [
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "chat, superchat"),
        (
            "sec-websocket-extensions",
            "permessage-deflate; client_max_window_bits, x-unknown",
        ),
    ] {
        assert_eq!(asked.field(name).as_deref(), Some(value), "{name}");
    }
    node.say(AGREED).await;
    let agreed = client.head().await;
    assert_eq!(agreed.status(), 101);
    for (name, value) in [
        ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("sec-websocket-protocol", "superchat"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ] {
        assert_eq!(agreed.field(name).as_deref(), Some(value), "{name}");
    }
}

#[tokio::test]
async fn section_5_2_frames_of_every_length_pass_untouched() {
    let mut ends = Ends::on_http1().await;
    for length in LENGTHS {
        ends.passes(&frame(FIN | opcode::BINARY, &content(length)))
            .await;
    }
}

/// The bits belong to extensions that only the ends know.
#[tokio::test]
async fn section_5_2_reserved_bits_and_opcodes_pass_untouched() {
    let mut ends = Ends::on_http1().await;
    for first in 0..=255 {
        ends.passes(&frame(first, b"reserved?")).await;
    }
}

/// Whether a mask is there and good is for the ends to judge.
#[tokio::test]
async fn section_5_3_masks_pass_untouched() {
    let mut ends = Ends::on_http1().await;
    let unmasked = [&[FIN | opcode::TEXT, 3][..], b"abc"].concat();
    ends.passes(&unmasked).await;
    let zero_mask = [&[FIN | opcode::TEXT, 0x83, 0, 0, 0, 0][..], b"abc"].concat();
    ends.passes(&zero_mask).await;
}

#[tokio::test]
async fn section_5_4_fragments_and_control_frames_between_them_pass_in_order() {
    let mut ends = Ends::on_http1().await;
    ends.passes(&fragments()).await;
}

#[tokio::test]
async fn section_5_5_1_every_close_code_passes() {
    for code in [
        0_u16, 999, 1000, 1001, 1003, 1005, 1006, 1007, 1011, 1012, 1015, 3000, 4999, 65_535,
    ] {
        let mut ends = Ends::on_http1().await;
        let reason = [&code.to_be_bytes()[..], "good bye".as_bytes()].concat();
        ends.passes(&frame(FIN | opcode::CLOSE, &reason)).await;
        // RFC 6455 §7.1.1: the server closes the connection first, and the client then does.
        drop(ends.node);
        assert_eq!(ends.client.rest().await, b"");
    }
}

#[tokio::test]
async fn section_5_5_1_a_close_without_a_code_passes() {
    let mut ends = Ends::on_http1().await;
    ends.passes(&frame(FIN | opcode::CLOSE, b"")).await;
}

#[tokio::test]
async fn section_5_5_2_pings_are_answered_by_the_other_end_alone() {
    let mut ends = Ends::on_http1().await;
    ends.passes(&frame(FIN | opcode::PING, b"who answers?"))
        .await;
    ends.client.stays_silent(A_WHILE).await;
    ends.node.stays_silent(A_WHILE).await;
}

/// Bytes come as they come: a frame's head may be torn apart.
#[tokio::test]
async fn section_5_2_frames_that_come_in_drops_pass_untouched() {
    let mut ends = Ends::on_http1().await;
    let bytes = fragments();
    for byte in &bytes {
        ends.client.say([*byte]).await;
    }
    ends.node.hears(&bytes).await;
    for byte in &bytes {
        ends.node.say([*byte]).await;
    }
    ends.client.hears(&bytes).await;
}

#[tokio::test]
async fn rfc_8441_section_5_frames_pass_untouched_over_http2() {
    let mut ends = EndsOnHttp2::start().await;
    for length in LENGTHS {
        ends.passes(&frame(FIN | opcode::BINARY, &content(length)))
            .await;
    }
    ends.passes(&fragments()).await;
    for first in 0..=255 {
        ends.passes(&frame(first, b"reserved?")).await;
    }
}

#[tokio::test]
async fn rfc_8441_section_5_what_is_negotiated_is_negotiated_end_to_end() {
    let ends = EndsOnHttp2::start().await;
    for (name, value) in [
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat, superchat"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("upgrade", "websocket"),
    ] {
        assert_eq!(ends.asked.field(name).as_deref(), Some(value), "{name}");
    }
    // A key is HTTP/1.1's; who puts one in must make it anew.
    let key = ends.asked.field("sec-websocket-key");
    assert!(key.is_some_and(|it| it.len() == 24), "16 bytes in base64");
}

#[tokio::test]
async fn rfc_8441_section_5_the_end_of_the_stream_is_the_end_of_the_connection() {
    let mut ends = EndsOnHttp2::start().await;
    ends.passes(&frame(FIN | opcode::CLOSE, &[3, 232])).await;
    ends.peer
        .say(&[Frame::data(1, flag::END_STREAM, b"")])
        .await;
    assert_eq!(ends.node.rest().await, b"");
    drop(ends.node);
    let end = ends
        .peer
        .until(|it| it.stream == 1 && (it.kind == kind::RST_STREAM || it.has(flag::END_STREAM)));
    end.await.expect("the stream ends with the node's side");
    ends.peer.is_alive().await;
}

/// Two ends of a tunnel over HTTP/1.1.
struct Ends {
    client: Dialogue,
    node: Dialogue,
    _origin: Origin,
    _balancer: Balancer,
}

impl Ends {
    async fn on_http1() -> Self {
        let (balancer, origin, mut client) = between().await;
        client.say(HANDSHAKE).await;
        let mut node = origin.visit().await;
        node.head().await;
        node.say(AGREED).await;
        assert_eq!(client.head().await.status(), 101);
        Self {
            client,
            node,
            _origin: origin,
            _balancer: balancer,
        }
    }

    /// From the client to the node, and from the node to the client.
    async fn passes(&mut self, bytes: &[u8]) {
        let (client, node) = (&mut self.client, &mut self.node);
        let ((), heard) = tokio::join!(client.say(bytes), node.hear(bytes.len()));
        assert!(heard == bytes, "{} bytes to the node", bytes.len());
        let ((), heard) = tokio::join!(node.say(bytes), client.hear(bytes.len()));
        assert!(heard == bytes, "{} bytes to the client", bytes.len());
    }
}

/// Two ends of a tunnel that begins as a stream of HTTP/2.
struct EndsOnHttp2 {
    peer: Peer,
    /// How many bytes the client has sent.
    sent: usize,
    node: Dialogue,
    asked: tests::origin::Head,
    _origin: Origin,
    _balancer: Balancer,
}

impl EndsOnHttp2 {
    async fn start() -> Self {
        let origin = Origin::start().await;
        let balancer = Setup::http(&[origin.address()]).start().await;
        let mut peer = Peer::connect(balancer.entry()).await;
        let block = Block::websocket("/ws")
            .field("sec-websocket-protocol", "chat, superchat")
            .field("sec-websocket-extensions", "permessage-deflate");
        peer.say(&[Frame::headers(1, flag::NONE, block)]).await;
        let mut node = origin.visit().await;
        let asked = node.head().await;
        node.say(agreement_to(&asked)).await;
        let head = peer.until(|it| it.kind == kind::HEADERS).await;
        let head = head.expect("the agreement is passed on");
        assert_eq!(hpack::status(&head.payload), Some(200));
        Self {
            peer,
            sent: 0,
            node,
            asked,
            _origin: origin,
            _balancer: balancer,
        }
    }

    async fn passes(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(FRAME_BYTES_MAX) {
            self.sent += piece.len();
            while self.peer.allowance(1) < self.sent {
                let update = self.peer.until(|it| it.kind == kind::WINDOW_UPDATE);
                update.await.expect("the window is given back");
            }
            self.peer.say(&[Frame::data(1, flag::NONE, piece)]).await;
            let heard = self.node.hear(piece.len()).await;
            assert!(heard == piece, "{} bytes to the node", bytes.len());
        }
        for piece in bytes.chunks(FRAME_BYTES_MAX) {
            self.node.say(piece).await;
            let mut heard = Vec::new();
            while heard.len() < piece.len() {
                let data = self
                    .peer
                    .until(|it| it.kind == kind::DATA && it.stream == 1);
                let data = data.await.expect("what the node says is passed on");
                heard.extend_from_slice(&data.payload);
                let n = u32::try_from(data.payload.len()).expect("a frame's length fits");
                if n > 0 {
                    let more = [Frame::window_update(0, n), Frame::window_update(1, n)];
                    self.peer.say(&more).await;
                }
            }
            assert!(heard == piece, "{} bytes to the client", bytes.len());
        }
    }
}

/// The accept value is not looked at by a tunnel, and would have to be right for a client.
fn agreement_to(asked: &tests::origin::Head) -> String {
    let key = asked.field("sec-websocket-key").unwrap_or_default();
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    AGREED.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &accept)
}

/// A message in five pieces, one of them compressed or so it says, with a ping, a pong and an empty piece between.
fn fragments() -> Vec<u8> {
    [
        frame(COMPRESSED | opcode::TEXT, b"one "),
        frame(FIN | opcode::PING, b"between"),
        frame(opcode::MORE, b"two "),
        frame(opcode::MORE, b""),
        frame(FIN | opcode::PONG, &[b'x'; 125]),
        frame(opcode::MORE, &content(70_000)),
        frame(FIN | opcode::MORE, b"end"),
    ]
    .concat()
}

/// A frame as a client masks it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | u8::try_from(short).expect("it is short")),
        medium @ 126..=65_535 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(medium).expect("it fits").to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend(u64::try_from(long).expect("it fits").to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(it, mask)| it ^ mask),
    );
    bytes
}

async fn between() -> (Balancer, Origin, Dialogue) {
    let origin = Origin::start().await;
    let balancer = Setup::http(&[origin.address()]).start().await;
    let client = Dialogue::with(balancer.entry()).await;
    (balancer, origin, client)
}
