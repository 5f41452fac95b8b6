//! What another process says when it takes over is a message that stays itself, or an error: no panic and no large allocation.
#![no_main]

use std::{io::Write, os::unix::net::UnixStream};

use libfuzzer_sys::fuzz_target;

use self::wire::{Message, receive, receive_sockets, send};

#[path = "../../../balancer/src/takeover/wire.rs"]
#[allow(dead_code, reason = "the balancer uses the rest")]
mod wire;

/// What a socket pair holds without anybody reading.
const BYTES_MAX: usize = 1 << 14;

fuzz_target!(|bytes: &[u8]| {
    let bytes = &bytes[..bytes.len().min(BYTES_MAX)];
    let framed = [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
    for said in [bytes, &framed[..]] {
        if let Ok(message) = receive(&mut sent(said)) {
            same_when_sent(&message);
        }
    }
    let n_sockets = bytes.first().copied().unwrap_or_default().into();
    let got = receive_sockets(&sent(bytes), n_sockets);
    assert!(n_sockets == 0 || got.is_err(), "no socket was sent");
});

/// The end of a connection on which this was said, and nothing more will be.
fn sent(bytes: &[u8]) -> UnixStream {
    let (mut elder, heir) = UnixStream::pair().expect("a pair can be made");
    elder.write_all(bytes).expect("so much fits");
    heir
}

fn same_when_sent(message: &Message) {
    let (mut elder, mut heir) = UnixStream::pair().expect("a pair can be made");
    send(&mut elder, message).expect("so much fits");
    let again = receive(&mut heir).expect("what is sent can be read");
    assert_eq!(format!("{message:?}"), format!("{again:?}"));
}
